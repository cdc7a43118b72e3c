"""From problem to prompt: the template, the chat messages, the token ids, and the cut in the middle.

The default template is QwenLong-L1's (arXiv 2505.17667). Documents may contain braces, tags or the
template's own placeholders: nothing in them is ever interpreted. A tokenizer is passed in; nothing
here imports transformers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from data.problem import DataError, SourceProblem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

L1_TEMPLATE = (
    "Please read the following text and answer the question below.\n\n"
    "<text>\n{context}\n</text>\n\n"
    "{question}\n\n"
    'Format your response as follows: "Therefore, the answer is (insert answer here)".'
)
CUT_MARK = "\n[...]\n"
"""Stands where a document was cut, so that the two halves do not read as one sentence."""
_PLACEHOLDER = re.compile(r"\{(context|question)\}")
_MAX_CUT_ROUNDS = 16


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The user turn's wording, with `{context}` and `{question}` once each; other braces are plain text.

    Raises:
        DataError: a placeholder is missing or comes twice.
    """

    text: str = L1_TEMPLATE

    def __post_init__(self) -> None:
        if sorted(_PLACEHOLDER.findall(self.text)) != ["context", "question"]:
            seen = ", ".join(f"{{{name}}}" for name in _PLACEHOLDER.findall(self.text)) or "none"
            raise DataError(f"prompt template: seen placeholders {seen}; write {{context}} and {{question}} once each")

    def render(self, problem: SourceProblem) -> str:
        """The user turn, both placeholders filled in a single pass."""
        values = {"context": problem.context, "question": problem.question}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


L1_PROMPT = PromptTemplate()


@dataclass(frozen=True, kw_only=True, slots=True)
class CutProblem:
    """A problem whose document was shortened until its prompt fits."""

    problem: SourceProblem
    num_prompt_tokens: int
    """Of the shortened prompt."""
    num_cut_tokens: int
    """How much shorter the prompt became."""


def render_messages(problem: SourceProblem, template: PromptTemplate = L1_PROMPT) -> list[dict[str, str]]:
    """The conversation to answer: one user turn."""
    return [{"role": "user", "content": template.render(problem)}]


def render_prompt_ids(
    tokenizer: PreTrainedTokenizerBase, problem: SourceProblem, template: PromptTemplate = L1_PROMPT
) -> list[int]:
    """[P] token ids of the whole prompt, chat template and generation prompt included.

    Raises:
        DataError: the tokenizer has no chat template.
    """
    _check_chat_template(tokenizer)
    ids = tokenizer.apply_chat_template(
        render_messages(problem, template), tokenize=True, add_generation_prompt=True, return_dict=False
    )
    return cast("list[int]", ids)


def count_prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[SourceProblem], template: PromptTemplate = L1_PROMPT
) -> list[int]:
    """`len(render_prompt_ids(...))` of many problems, tokenized as one batch.

    Raises:
        DataError: the tokenizer has no chat template.
    """
    if not problems:
        return []
    _check_chat_template(tokenizer)
    texts = [
        tokenizer.apply_chat_template(render_messages(p, template), tokenize=False, add_generation_prompt=True)
        for p in problems
    ]
    # The chat template writes its special tokens itself; adding them again would count them twice.
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def cut_middle(
    tokenizer: PreTrainedTokenizerBase,
    problem: SourceProblem,
    max_prompt_tokens: int,
    template: PromptTemplate = L1_PROMPT,
) -> CutProblem:
    """Takes tokens out of the document's middle until the prompt has at most `max_prompt_tokens`.

    The question and the template stay whole. Both ends keep the same number of tokens (+-1), and
    `CUT_MARK` stands between them. A prompt that fits is returned as it is.

    Raises:
        DataError: no room for any of the document, or a tokenizer that cannot tell token offsets.
    """
    total = len(render_prompt_ids(tokenizer, problem, template))
    if total <= max_prompt_tokens:
        return CutProblem(problem=problem, num_prompt_tokens=total, num_cut_tokens=0)
    if not tokenizer.is_fast:
        raise DataError(f"{type(tokenizer).__name__}: tells no token offsets, so it cannot cut; use a fast tokenizer")
    context = problem.context
    spans = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    keep = max_prompt_tokens - (total - len(spans))
    for _ in range(_MAX_CUT_ROUNDS):
        if keep < 2:
            break
        head, tail = spans[(keep + 1) // 2 - 1][1], spans[len(spans) - keep // 2][0]
        cut = replace(problem, context=context[:head] + CUT_MARK + context[tail:])
        num_tokens = len(render_prompt_ids(tokenizer, cut, template))
        if num_tokens <= max_prompt_tokens:
            return CutProblem(problem=cut, num_prompt_tokens=num_tokens, num_cut_tokens=total - num_tokens)
        keep -= num_tokens - max_prompt_tokens  # the mark, and tokens that split differently at the cut
    raise DataError(
        f"problem {problem.problem_id!r}: {total - len(spans)} tokens of question and template leave no room for the "
        f"document in max_prompt_tokens={max_prompt_tokens}; raise it or drop the problem"
    )


def _check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.chat_template:
        raise DataError(
            f"tokenizer {tokenizer.name_or_path or type(tokenizer).__name__}: has no chat template; "
            "add chat_template.jinja to its folder or use an instruction-tuned model's tokenizer"
        )

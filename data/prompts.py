"""From problem to prompt: the template, the chat messages, the token ids, and the cut in the middle.

The default template is QwenLong-L1's (arXiv 2505.17667). Documents may contain braces, tags or the
template's own placeholders: nothing in them is ever interpreted. A tokenizer is passed in; nothing
here imports transformers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

from data.problem import DataError, Problem, SourceProblem

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
_MAX_CUT_ROUNDS = 8


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
    return _batch_ids(tokenizer, [problem], template)[0]


def opens_thinking(
    tokenizer: PreTrainedTokenizerBase, problem: SourceProblem, template: PromptTemplate = L1_PROMPT
) -> bool:
    """Whether the prompt ends in an opened `<think>`, so that a response without `</think>` has no answer.

    Raises:
        DataError: the tokenizer has no chat template.
    """
    prompt = tokenizer.decode(render_prompt_ids(tokenizer, problem, template))
    return str(prompt).rstrip().endswith("<think>")


def count_prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[SourceProblem], template: PromptTemplate = L1_PROMPT
) -> list[int]:
    """`len(render_prompt_ids(...))` of many problems; other threads run meanwhile.

    Raises:
        DataError: the tokenizer has no chat template.
    """
    backend = _plain_backend(tokenizer)
    if backend is None:
        return [len(ids) for ids in _batch_ids(tokenizer, problems, template)] if problems else []
    check_chat_template(tokenizer)
    # A document at a time: only `encode_batch_fast` lets go of the interpreter lock, and it makes neither offsets nor
    # lists of ids. A whole batch would be split over the tokenizer's own threads, beside ours.
    texts = (_rendered(tokenizer, problem, template) for problem in problems)
    return [len(backend.encode_batch_fast([text], add_special_tokens=False)[0]) for text in texts]


def _batch_ids(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[SourceProblem], template: PromptTemplate
) -> list[list[int]]:
    check_chat_template(tokenizer)
    texts = [_rendered(tokenizer, problem, template) for problem in problems]
    # The chat template writes its special tokens itself; adding them again would count them twice.
    # Not verbose: a prompt above the tokenizer's nominal length is no surprise here.
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return cast("list[list[int]]", ids)


def _rendered(tokenizer: PreTrainedTokenizerBase, problem: SourceProblem, template: PromptTemplate) -> str:
    messages = render_messages(problem, template)
    return cast("str", tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What a fast tokenizer's call comes to, ready to be asked itself; None where the call does more than that."""
    if not tokenizer.is_fast:
        return None
    from transformers import PreTrainedTokenizerFast

    called, plain = type(tokenizer), PreTrainedTokenizerFast
    if called.__call__ is not plain.__call__ or called._encode_plus is not plain._encode_plus:
        return None
    tokenizer("", add_special_tokens=False)  # switches the backend's truncation and padding off
    return tokenizer.backend_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Which middle of a document is left out."""

    head: int
    """Characters kept from the document's start."""
    tail: int
    """Position of the first character kept from its end."""
    num_prompt_tokens: int
    """Of the prompt with the cut document."""

    def applied(self, problem: SourceProblem) -> Problem:
        """The problem without its document's middle; `CUT_MARK` stands there."""
        context = problem.context[: self.head] + CUT_MARK + problem.context[self.tail :]
        return measured(replace(problem, context=context), self.num_prompt_tokens)


def cut_middle(
    tokenizer: PreTrainedTokenizerBase, problem: SourceProblem, template: PromptTemplate, max_prompt_tokens: int
) -> Problem:
    """The problem with tokens taken out of its document's middle until the prompt has at most `max_prompt_tokens`.

    A problem whose prompt fits is returned as it is. How much was cut is the prompt's length before less the
    result's `num_prompt_tokens`.

    Raises:
        DataError: as `find_cut` does.
    """
    total = count_prompt_tokens(tokenizer, [problem], template)[0]
    if total <= max_prompt_tokens:
        return measured(problem, total)
    return find_cut(tokenizer, measured(problem, total), template, max_prompt_tokens).applied(problem)


def find_cut(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, template: PromptTemplate, max_prompt_tokens: int
) -> Cut:
    """Where to cut a document whose prompt is too long, so that it has at most `max_prompt_tokens`.

    The question and the template stay whole. Both ends keep the same number of tokens (+-1). The document is
    tokenized once, and what is left of it once or twice, at most `_MAX_CUT_ROUNDS` times.

    Args:
        problem: measured with this tokenizer and template, and longer than `max_prompt_tokens`.

    Raises:
        DataError: no room for any of the document, or a tokenizer that cannot tell token offsets.
    """
    if not tokenizer.is_fast:
        raise DataError(f"{type(tokenizer).__name__}: tells no token offsets, so it cannot cut; use a fast tokenizer")
    tokenizer("", add_special_tokens=False)  # switches the backend's truncation and padding off
    encode = tokenizer.backend_tokenizer.encode_batch
    document, mark = encode([problem.context, CUT_MARK], add_special_tokens=False)
    num_others = problem.num_prompt_tokens - len(document)
    keep = min(max_prompt_tokens - num_others - len(mark), len(document) - 1)
    for tries in range(_MAX_CUT_ROUNDS):
        if keep < 2:
            break
        head = document.token_to_chars((keep + 1) // 2 - 1)[1]
        tail = document.token_to_chars(len(document) - keep // 2)[0]
        cut = Cut(head=head, tail=tail, num_prompt_tokens=max_prompt_tokens).applied(problem)
        num_tokens = count_prompt_tokens(tokenizer, [cut], template)[0]
        if num_tokens <= max_prompt_tokens:
            return Cut(head=head, tail=tail, num_prompt_tokens=num_tokens)
        # Tokens split differently at the cut, by a few; more generous each time, so that it ends.
        keep -= (num_tokens - max_prompt_tokens) << tries
    raise DataError(
        f"problem {problem.problem_id!r}: {num_others} tokens of question and template leave no room for the "
        f"document in max_prompt_tokens={max_prompt_tokens}; raise it or drop the problem"
    )


def measured(problem: SourceProblem, num_prompt_tokens: int) -> Problem:
    """The problem with its prompt's length (tokens, chat template included)."""
    values = {field.name: getattr(problem, field.name) for field in fields(SourceProblem)}
    return Problem(**values, num_prompt_tokens=num_prompt_tokens)


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises:
    DataError: the tokenizer has no chat template, so it cannot render a prompt.
    """
    if not tokenizer.chat_template:
        raise DataError(
            f"tokenizer {tokenizer.name_or_path or type(tokenizer).__name__}: has no chat template; "
            "add chat_template.jinja to its folder or use an instruction-tuned model's tokenizer"
        )

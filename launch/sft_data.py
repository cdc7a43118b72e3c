"""Teacher traces for the warm-up: JSONL rows to (prompt ids, completion ids).

A row is one of

    {context, question, chain_of_thought, final_answer}    a problem with its reasoning (data.synthesis writes these)
    {messages: [...]}                                       a conversation; its last turn, the assistant's, is learned
    {prompt, completion}                                    each a string (one turn) or a list of messages

The prompt is what RL will send: the chat template with its generation prompt, tokenized as one text
(`data.prompts.render_prompt_ids`). The completion is tokenized by itself, as it will be sampled, and ends in the
end-of-turn token. Where the generation prompt already opens `<think>`, the completion does not open it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson

from data.fields import Place, shown, text_value
from data.problem import DataError, SourceProblem
from data.prompts import L1_PROMPT, PromptTemplate, check_chat_template, render_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, END_THINK = "<think>", "</think>"
_FORMS = "give chain_of_thought and final_answer (with context and question), or messages, or prompt and completion"
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One conversation as text: what is asked and the response that is learned."""

    place: Place
    """Where it was read."""
    messages: Sequence[dict[str, str]]
    """The conversation up to the response."""
    response: str
    """The assistant's whole turn, `<think>` included, without the end-of-turn token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceIds:
    """One trace in tokens."""

    prompt: list[int]
    """[P] chat template and generation prompt included."""
    completion: list[int]
    """[R] the response, the end-of-turn token last; every one of them is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traces:
    """What training gets, and what it does not."""

    kept: tuple[TraceIds, ...]
    """In the file's order."""
    num_rows: int
    """Rows read."""
    num_long_prompts: int
    """Rows left out because the prompt exceeds its limit."""
    num_long_totals: int
    """Rows left out because prompt and completion together exceed theirs."""


def template_from(text: str) -> PromptTemplate:
    """A prompt template given as wording (it holds `{context}`), as a text file's path, or empty (QwenLong-L1's).

    Raises:
        DataError: no such file, or the placeholders are not there once each.
    """
    if not text:
        return L1_PROMPT
    if "{context}" in text:
        return PromptTemplate(text)
    try:
        return PromptTemplate(Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.template {text!r}: no text file and no wording with {{context}} ({error})") from None
    except DataError as error:
        raise DataError(f"data.template {text}: {error}") from None


def read_traces(path: str | Path, template: PromptTemplate = L1_PROMPT) -> Iterator[Trace]:
    """The traces of a JSONL file, one row at a time; `template` is the wording for rows with a problem.

    Raises:
        DataError: no such file, no rows, or a row of another form; the message names the line.
    """
    path = Path(path)
    place = None
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    place = Place(path, number)
                    yield _trace(_row(line, place), place, template)
    except OSError as error:
        raise DataError(f"data.train: {path} cannot be read ({error.strerror}); name a JSONL file") from None
    if place is None:
        raise DataError(f"data.train: {path} holds no rows; it must hold one JSON object a line")


def tokenize_traces(
    traces: Sequence[Trace],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_tokens: int,
    max_total_tokens: int,
) -> Traces:
    """Token ids of the traces that fit both limits; nothing is ever cut.

    Raises:
        DataError: the tokenizer has no chat template, a conversation it refuses, a response that never closes the
            `<think>` that the generation prompt opens, or no trace left.
    """
    check_chat_template(tokenizer)
    prompts = [_prompt_text(tokenizer, trace) for trace in traces]
    responses = [_continued(trace, prompt) for trace, prompt in zip(traces, prompts, strict=True)]
    kept: list[TraceIds] = []
    num_long_prompts = num_long_totals = 0
    for prompt, response in zip(_ids(tokenizer, prompts), _ids(tokenizer, responses), strict=True):
        if response[-1:] != [tokenizer.eos_token_id]:
            response = [*response, cast("int", tokenizer.eos_token_id)]
        if len(prompt) > max_prompt_tokens:
            num_long_prompts += 1
        elif len(prompt) + len(response) > max_total_tokens:
            num_long_totals += 1
        else:
            kept.append(TraceIds(prompt=prompt, completion=response))
    if not kept:
        raise DataError(
            f"data.train {traces[0].place.path if traces else ''}: none of {len(traces)} rows is left: "
            f"{num_long_prompts} prompts > {max_prompt_tokens} tokens (data.max_prompt_tokens), {num_long_totals} rows > "
            f"{max_total_tokens} (data.max_total_tokens); raise the limits or give shorter rows"
        )
    return Traces(
        kept=tuple(kept), num_rows=len(traces), num_long_prompts=num_long_prompts, num_long_totals=num_long_totals
    )


def _row(line: bytes, place: Place) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise place.error("line", f"invalid JSON ({error})", "each line must be one whole JSON object") from None
    if not isinstance(row, dict):
        raise place.error("line", f"seen {type(row).__name__} {shown(row)}", "each line must be one JSON object")
    return row


def _trace(row: dict[str, Any], place: Place, template: PromptTemplate) -> Trace:
    if "chain_of_thought" in row:
        context, question, thought, answer = (
            _text(row, key, place) for key in ("context", "question", "chain_of_thought", "final_answer")
        )
        problem = SourceProblem(
            problem_id="", task="", context=context, question=question, answers=(answer,), answer_type="text"
        )  # the wording takes the context and the question, nothing else
        return Trace(
            place=place,
            messages=render_messages(problem, template),
            response=f"{THINK}{thought}{END_THINK}{answer}",
        )
    if "messages" in row:
        turns = _messages(row["messages"], place, "messages", role="")
        rest, last = turns[:-1], turns[-1]
    elif "prompt" in row and "completion" in row:
        rest = _messages(row["prompt"], place, "prompt", role="user")
        completion = _messages(row["completion"], place, "completion", role="assistant")
        if len(completion) != 1:
            raise place.error("completion", f"seen {len(completion)} messages", "give one, the assistant's")
        last = completion[0]
    else:
        raise place.error("line", f"seen keys {', '.join(map(str, row))[:200] or 'none'}", _FORMS)
    if last["role"] != "assistant" or not rest:
        seen = f"seen roles {', '.join(turn['role'] for turn in [*rest, last])}"
        raise place.error("messages", seen, "the last turn must be the assistant's, with a turn before it")
    return Trace(place=place, messages=rest, response=last["content"])


def _text(row: dict[str, Any], key: str, place: Place) -> str:
    if key not in row:
        raise place.error(key, f"missing, the row has {', '.join(map(str, row))[:200]}", _FORMS)
    return text_value(row[key], place, key)


def _messages(value: object, place: Place, column: str, *, role: str) -> list[dict[str, str]]:
    """Messages as they stand, or one turn of `role` (empty: not allowed) made from a string."""
    if isinstance(value, str) and role:
        return [{"role": role, "content": text_value(value, place, column)}]
    if not isinstance(value, list) or not value:
        seen = f"seen {type(value).__name__} {shown(value)}"
        raise place.error(column, seen, "give a list of {role, content} objects" + (" or a string" if role else ""))
    turns = []
    for i, item in enumerate(value):
        if not isinstance(item, dict) or item.get("role") not in _ROLES:
            raise place.error(
                f"{column}[{i}]", f"seen {shown(item)}", f"give a role ({', '.join(_ROLES)}) and a content"
            )
        turns.append(
            {"role": str(item["role"]), "content": text_value(item.get("content"), place, f"{column}[{i}].content")}
        )
    return turns


def _prompt_text(tokenizer: PreTrainedTokenizerBase, trace: Trace) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(list(trace.messages), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise trace.place.error("messages", f"the chat template refuses them ({error})", "see the template") from None
    return cast("str", text)


def _continued(trace: Trace, prompt: str) -> str:
    """The response as a continuation of the prompt: without the `<think>` that the prompt has opened."""
    opened = prompt.rstrip()
    if not opened.endswith(THINK):
        return trace.response
    if END_THINK not in trace.response:
        raise trace.place.error(
            "response",
            f"never closes {THINK}, which the chat template's generation prompt opens: {shown(trace.response)}",
            f"add the reasoning and {END_THINK}, or use a template that does not open it",
        )
    gap = prompt[len(opened) :]
    return trace.response.lstrip().removeprefix(THINK).removeprefix(gap)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # The chat template writes its special tokens itself; not verbose: a long prompt is no surprise here.
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return cast("list[list[int]]", ids)

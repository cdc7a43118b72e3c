"""From a JSON Lines row to the tokens that SFT trains on: the prompt without loss, the response with loss.

The prompt is rendered exactly as in a rollout, generation prompt included, and the response follows it as sampled
tokens would. Chat templates are not asked to render the response: some drop the reasoning of past turns.
Of a conversation the last turn is trained, which must be the assistant's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.problem import DataError, SourceProblem
from data.prompts import PromptTemplate, check_chat_template, render_messages
from launch.sft_config import SftDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
THINK = "<think>"
_PLACEHOLDER = re.compile(r"\{(chain_of_thought|final_answer)\}")
_FORMS = "write messages, prompt and completion, or context, question, chain_of_thought and final_answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class SftRows:
    """The rows to train on, and how many were not."""

    prompts: tuple[tuple[int, ...], ...]
    """[P] token ids each."""
    responses: tuple[tuple[int, ...], ...]
    """[R] token ids each, the end-of-sequence token included; one per prompt."""
    num_long_prompts: int
    """Dropped: prompt above max_prompt_tokens."""
    num_long_responses: int
    """Dropped: response above max_response_tokens, in a window that its prompt fits."""


def read_sft_rows(tokenizer: PreTrainedTokenizerBase, config: SftDataSection) -> SftRows:
    """Reads, renders and tokenizes the file at config.train.

    Raises:
        DataError: no such file, a row that is none of the three forms, no chat template, or nothing left to train on.
    """
    check_chat_template(tokenizer)
    if tokenizer.eos_token is None:
        raise DataError(f"tokenizer {tokenizer.name_or_path}: has no eos_token; a response could not end")
    conversations = list(_read(Path(config.train), config))
    texts = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for messages, _ in conversations
    ]
    endings = [_continue(p, r) + tokenizer.eos_token for p, (_, r) in zip(texts, conversations, strict=True)]
    # The chat template writes its special tokens itself. Not verbose: long rows are dropped and counted below.
    encode = {"add_special_tokens": False, "verbose": False}
    prompts = tokenizer(texts, **encode)["input_ids"] if texts else []
    responses = tokenizer(endings, **encode)["input_ids"] if texts else []
    pairs = list(zip(prompts, responses, strict=True))
    fitting = [(p, r) for p, r in pairs if len(p) <= config.max_prompt_tokens]
    kept = [(tuple(p), tuple(r)) for p, r in fitting if len(r) <= config.max_response_tokens]
    if not kept:
        raise DataError(
            f"{config.train}: none of {len(pairs)} rows fits max_prompt_tokens={config.max_prompt_tokens} and "
            f"max_response_tokens={config.max_response_tokens}; raise them or give shorter rows"
        )
    return SftRows(
        prompts=tuple(p for p, _ in kept),
        responses=tuple(r for _, r in kept),
        num_long_prompts=len(pairs) - len(fitting),
        num_long_responses=len(fitting) - len(kept),
    )


def _continue(prompt: str, response: str) -> str:
    """The response without the `<think>` that the prompt already opened."""
    if not prompt.rstrip().endswith(THINK) or not response.lstrip().startswith(THINK):
        return response
    rest = response.lstrip().removeprefix(THINK)
    return rest.removeprefix("\n") if prompt.endswith("\n") else rest


def _read(path: Path, config: SftDataSection) -> Iterator[tuple[Messages, str]]:
    if not path.is_file():
        raise DataError(f"data.train: there is no file {str(path)!r}; name a JSON Lines file")
    template = PromptTemplate(config.template)
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _conversation(_object(line, f"{path}:{number}"), f"{path}:{number}", template, config.response)


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{place}: not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: seen {type(row).__name__}, needed an object; {_FORMS}")
    return row


def _conversation(row: Mapping[str, Any], place: str, template: PromptTemplate, response: str) -> tuple[Messages, str]:
    """The turns to answer and the answer."""
    if "messages" in row:
        *turns, last = _messages(row["messages"], place, "messages")
        if last["role"] != "assistant" or not turns:
            raise DataError(f"{place}: messages must hold a question and end with the assistant's turn")
        return turns, last["content"]
    if "prompt" in row and "completion" in row:
        return _messages(row["prompt"], place, "prompt"), _messages(row["completion"], place, "completion")[-1][
            "content"
        ]
    if {"context", "question", "chain_of_thought", "final_answer"} <= row.keys():
        context, question = (_text(row[name], place, name) for name in ("context", "question"))
        problem = SourceProblem(
            context=context, question=question, problem_id=place, task="", answers=("-",), answer_type="text"
        )
        parts = {name: _text(row[name], place, name) for name in ("chain_of_thought", "final_answer")}
        response = _PLACEHOLDER.sub(lambda match: parts[match[1]], response)
        return render_messages(problem, template), response
    raise DataError(f"{place}: seen columns {', '.join(row) or 'none'}; {_FORMS}")


def _messages(value: Any, place: str, column: str) -> Messages:
    """Turns; a plain string is one user turn (or, as a completion, the response)."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: {column}: seen {str(value)[:60]!r}; write text or a list of turns")
    for turn in value:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(k), str) for k in ("role", "content")):
            raise DataError(f"{place}: {column}: seen {str(turn)[:60]!r}; a turn has a role and a content, both text")
    return value


def _text(value: Any, place: str, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: {column}: seen {str(value)[:60]!r}, needed text")
    return value

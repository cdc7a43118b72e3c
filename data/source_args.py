"""What `data.prepare` and `data.check` ask of the command line alike: format, columns, windows, tokenizer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.problem import DataError
from data.prompts import L1_PROMPT, PromptTemplate, check_chat_template
from data.read_modelscope import downloaded, is_modelscope
from data.readers import SOURCE_FORMATS
from data.windows import windows_from

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --format, --columns and --windows."""
    parser.add_argument(
        "--format", choices=SOURCE_FORMATS, default="auto", help="what columns mean; default: %(default)s"
    )
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help="the source's NAME for a FIELD of its format, e.g. answers=gold; repeatable, or comma-separated",
    )
    parser.add_argument(
        "--windows", default="20000,60000", metavar="N,...", help="upper bounds in tokens; default: %(default)s"
    )


def columns_from(pairs: Sequence[str]) -> dict[str, str]:
    """The column map of `FIELD=NAME` arguments.

    Raises:
        DataError: an argument of another form, or a field given twice.
    """
    columns: dict[str, str] = {}
    for pair in ",".join(pairs).split(",") if pairs else []:
        field, equals, name = pair.partition("=")
        if not (field and equals and name):
            raise DataError(f"--columns: seen {pair!r}; write FIELD=NAME, e.g. answers=gold")
        if field in columns:
            raise DataError(f"--columns: {field} is given twice, as {columns[field]!r} and {name!r}; keep one")
        columns[field] = name
    return columns


def parsed_windows(text: str) -> tuple[int, ...]:
    """Upper bounds from `20000,60000`.

    Raises:
        DataError: not rising positive integers.
    """
    try:
        uppers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise DataError(f"--windows: seen {text!r}; write rising token counts, e.g. 20000,60000") from error
    windows_from(uppers)
    return uppers


def template_from(path: str | None) -> PromptTemplate:
    """The prompt template in a file; QwenLong-L1's where none is named.

    Raises:
        DataError: the file cannot be read, or lacks a placeholder.
    """
    if path is None:
        return L1_PROMPT
    try:
        return PromptTemplate(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--template {path}: cannot be read as text ({error}); name a UTF-8 file") from error
    except DataError as error:
        raise DataError(f"--template {path}: {error}") from error


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer at a folder or hub id.

    Raises:
        DataError: there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    if is_modelscope(path):
        path = str(downloaded(path, "model"))
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"--tokenizer {path}: no tokenizer there ({reason}); name a model's folder or hub id"
        ) from error
    check_chat_template(tokenizer)
    return tokenizer

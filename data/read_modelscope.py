"""Models and datasets of ModelScope, by `modelscope:owner/name`: downloaded once into its client's cache, then a folder."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Literal

from data.problem import DataError

PREFIX = "modelscope:"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class ModelScopeMissing(DataError):
    """ModelScope's client is not installed."""

    exit_code = 3


def is_modelscope(text: str) -> bool:
    """Whether the text names something on ModelScope, well formed or not."""
    return text.startswith(PREFIX)


def downloaded(text: str, kind: Literal["model", "dataset"], *, revision: str | None = None) -> Path:
    """The folder of what `modelscope:owner/name` names, downloaded where the client's cache lacks it.

    revision: branch, tag or commit; None: the client's own default.

    Raises:
        ModelScopeMissing: the package modelscope is not installed.
        DataError: the text is not of this form, or the client could not bring it.
    """
    name = text.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise DataError(f"{text!r}: no ModelScope id; write {PREFIX}owner/name")
    try:
        client, errors = import_module("modelscope.hub.snapshot_download"), import_module("modelscope_hub.errors")
    except ModuleNotFoundError as error:
        raise ModelScopeMissing(
            f"{text}: needs ModelScope's client, which is not installed; pip install 'modelscope>=1.38', "
            "or name a folder or a Hugging Face id"
        ) from error
    download = client.snapshot_download if kind == "model" else client.dataset_snapshot_download
    try:
        folder = download(name, revision=revision)
    except (errors.HubError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"{text}: the {kind} cannot be downloaded from ModelScope ({reason}); "
            "check the id, the revision and the network, or download it and name its folder"
        ) from error
    return Path(folder)

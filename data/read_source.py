"""Opens what a user names: a file, a folder of shards, a folder that `datasets` saved, or a dataset on a hub.

What a file is, is told by its content: parquet by its first bytes (or its name, so that a damaged one is
called so), anything else is JSON Lines. A folder that `save_to_disk` wrote lists its own files; of any
other folder the files named *.jsonl, *.ndjson, *.parquet, *.jsonl.gz and *.ndjson.gz are read in the order
of their names, no deeper. `@split` chooses one split of a folder or dataset that has several. `owner/name` is a
dataset on the Hugging Face Hub, streamed; `modelscope:owner/name` one on ModelScope, downloaded and read as a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from data.fields import Place, SeenIds, did_you_mean, shown_names
from data.problem import DataError
from data.read_arrow import ArrowRows, ParquetRows
from data.read_hub import HubRows, parsed_hub_id
from data.read_jsonl import JsonlRows
from data.read_modelscope import downloaded, is_modelscope

_SHARD_NAMES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".parquet")
_SPLIT_IN_NAME = re.compile(r"(?:^|[-_.])(train|validation|valid|val|dev|test)(?=[-_.])")


class Rows(Protocol):
    """A source's rows, before anything is known of their columns' meaning."""

    @property
    def total_bytes(self) -> int | None:
        """Size of the whole source, None where nobody knows."""

    @property
    def done_bytes(self) -> int:
        """How much of it was read."""

    def column_names(self) -> tuple[str, ...] | None:
        """Those of the first row; None where there is no row."""

    def rows(self, names: Collection[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Every row with its place; `names` are the columns whose values will be asked for."""


class FolderRows:
    """The rows of several files, one after the other."""

    def __init__(self, files: Sequence[Rows]) -> None:
        self.total_bytes = sum(file.total_bytes or 0 for file in files)
        """Of all files."""
        self._files = files

    @property
    def done_bytes(self) -> int:
        """Of them, read so far."""
        return sum(file.done_bytes for file in self._files)

    def column_names(self) -> tuple[str, ...] | None:
        """Those of the first file with a row."""
        return next((names for file in self._files if (names := file.column_names()) is not None), None)

    def rows(self, names: Collection[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """The rows of every file, each with its place in its own file."""
        return chain.from_iterable(file.rows(names) for file in self._files)


def opened(source: str | Path) -> Rows:
    """The rows of what `source` names; a local file or folder of that name goes before a dataset on the Hub.

    Raises:
        DataError: there is no such thing, a folder holds no data, or a split is to be named or does not exist.
        ModelScopeMissing: an id of ModelScope, whose client is not installed.
    """
    if is_modelscope(str(source)):
        name, _, chosen = str(source).partition("@")
        return _folder(downloaded(name, "dataset"), chosen or None)
    path = Path(source)
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path, None)
    head, _, split = str(source).rpartition("@")
    if head and Path(head).is_dir():
        return _folder(Path(head), split)
    if path.exists():
        raise DataError(f"{path}: is neither a file nor a folder; write its rows to a file and name that")
    hub_id = parsed_hub_id(str(source))
    if hub_id is not None and not path.parent.is_dir() and not str(source).endswith(_SHARD_NAMES):
        return HubRows(hub_id)
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    fix = "give the path of a data file or folder, or a Hub id as owner/name"
    raise DataError(f"{path}: no such file; {did_you_mean(path.name, siblings)}{fix}")


def _file(path: Path) -> Rows:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return ParquetRows(path) if magic == b"PAR1" or path.suffix == ".parquet" else JsonlRows(path)


def _folder(path: Path, split: str | None) -> Rows:
    if (path / "dataset_dict.json").is_file():
        splits = _listed(path / "dataset_dict.json", "splits")
        path = path / _chosen(path, splits, split)
        split = None
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        if split is not None:
            raise DataError(f"{path}@{split}: a saved dataset without splits; leave out @{split}")
        return FolderRows([ArrowRows(_inside(path, name)) for name in _listed(path / "state.json", "_data_files")])
    return FolderRows([_file(shard) for shard in _shards(path, split)])


def _shards(path: Path, split: str | None) -> list[Path]:
    shards = sorted(
        file
        for file in path.iterdir()
        if file.name.endswith(_SHARD_NAMES) and file.name[0] not in "._" and file.is_file()
    )
    if not shards:
        kinds = ", ".join(f"*{name}" for name in _SHARD_NAMES)
        raise DataError(f"{path}: a folder without data; put files {kinds} there or name another")
    by_split: dict[str, list[Path]] = {}
    for shard in shards:
        match = _SPLIT_IN_NAME.search(shard.name)
        by_split.setdefault(match[1] if match else "", []).append(shard)
    if split is not None or len(by_split) > 1:
        shards = by_split[_chosen(path, [name for name in by_split if name], split)]
    if len(shards) > SeenIds.MAX_FILES:
        raise DataError(f"{path}: {len(shards)} files > {SeenIds.MAX_FILES}; join them or read them as several sources")
    return shards


def _chosen(path: Path, splits: Sequence[str], split: str | None) -> str:
    if split is not None and split in splits:
        return split
    seen = f"seen {'splits ' + shown_names(splits) if splits else 'no splits'}"
    if split is None and splits:
        raise DataError(f"{path}: {seen}; name one, as in {path}@{splits[0]}, or name files")
    raise DataError(f"{path}@{split}: {seen}; {did_you_mean(split or '', splits)}name one of them, or the files")


def _listed(file: Path, key: str) -> list[str]:
    """The names in one of the small JSON files that `datasets` writes beside its data."""
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))[key]
        names = [item["filename"] if isinstance(item, dict) else item for item in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise DataError(f"{file}: {key}: cannot be read ({reason}); save the dataset again") from error
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: {key}: seen {shown_names(names)}; it must list names, save the dataset again")
    return names


def _inside(folder: Path, name: str) -> Path:
    file = folder / Path(name).name
    if not file.is_file():
        raise DataError(f"{file}: missing, though {folder / 'state.json'} lists it; save the dataset again")
    return file

"""Datasets of the Hugging Face Hub as rows, streamed: nothing is stored, no code of a repository ever runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from data.fields import Place
from data.problem import DataError

_HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<config>[\w.+-]+))?(?:@(?P<split>[\w.]+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubId:
    """Names rows on the Hub, as in `owner/name:config@split`."""

    name: str
    """`owner/name`."""
    config: str | None
    split: str | None

    def __str__(self) -> str:
        config = f":{self.config}" if self.config else ""
        split = f"@{self.split}" if self.split else ""
        return f"{self.name}{config}{split}"


def parsed_hub_id(text: str) -> HubId | None:
    """The parts of `owner/name`, with `:config` and `@split` or without; None for a text of another form."""
    match = _HUB_ID.fullmatch(text)
    return None if match is None else HubId(name=match["name"], config=match["config"], split=match["split"])


class HubRows:
    """The rows of a split of a dataset on the Hub."""

    total_bytes = None
    """Not known of a stream."""

    def __init__(self, hub_id: HubId) -> None:
        """
        Raises:
            DataError: `datasets` is not installed, there is no such dataset, config or split, the Hub is out
                of reach, or no split is named where there are several.
        """
        try:
            from datasets import load_dataset
        except ImportError as error:
            fix = "install longreach with its train extra, or download the dataset and name its folder"
            raise DataError(f"{hub_id}: reading from the Hub needs the package datasets; {fix}") from error
        self.done_bytes = 0
        """Characters of text read so far."""
        self._id = hub_id
        with _reachable(hub_id):
            loaded = load_dataset(hub_id.name, hub_id.config, split=hub_id.split, streaming=True)
            if isinstance(loaded, dict):
                loaded = _only_split(loaded, hub_id)
            self._stream: Iterator[dict[str, Any]] = iter(loaded)
            self._first = next(self._stream, None)

    def column_names(self) -> tuple[str, ...] | None:
        """Those of the first row, None where there is none."""
        return None if self._first is None else tuple(self._first)

    def rows(self, names: Collection[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Every row with its place, whole whatever the `names` that will be asked for. Goes through the stream once.

        Raises:
            DataError: the connection broke for good.
        """
        row, number = self._first, 1
        while row is not None:
            self.done_bytes += sum(len(value) for value in row.values() if isinstance(value, str))
            yield Place(str(self._id), number), row
            with _reachable(self._id):
                row = next(self._stream, None)
            number += 1


def _only_split(splits: dict[str, Any], hub_id: HubId) -> Any:
    if len(splits) != 1:
        names = ", ".join(splits) or "none"
        raise DataError(f"{hub_id}: seen splits {names}; name one, as in {hub_id}@{next(iter(splits), 'train')}")
    return next(iter(splits.values()))


@contextmanager
def _reachable(hub_id: HubId) -> Iterator[None]:
    import pyarrow as pa
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    # Which HTTP client the Hub's library uses depends on its version; its own error derives from that client's.
    failures = (OSError, ValueError, RuntimeError, LookupError, DatasetsError, pa.ArrowException)
    try:
        yield
    except DataError:
        raise
    except (*failures, *HfHubHTTPError.__bases__) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        fix = "check the id, :config, @split and the network, or download the dataset and name its folder"
        raise DataError(f"{hub_id}: cannot be loaded from the Hub ({reason}); {fix}") from error

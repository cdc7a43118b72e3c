"""What a resumed run's settings differ in from those behind its checkpoint: told line by line, the earlier file kept.

Left out: refusing a change. What cannot go on, other data or another shape of model, is refused where it is loaded.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rl.run_folder import without_none, write_file

EARLIER_CONFIG = re.compile(r"config\.step-(\d{6,})\.toml")
LOCAL_SETTINGS = ("run.dir", "run.name", "tracking.")
"""Where a run lies and how it is shown: their changes are not told."""


def tell_changed_settings(run_dir: Path, config: Mapping[str, Any], step: int) -> None:
    """Print a line for every setting of `config` (a `model_dump()`) that is another than behind the steps up to this one.

    Where there is one, the earlier settings stay in config.step-<step>.toml. To be called before config.toml is written.
    """
    path = config_behind(run_dir, step)
    try:
        before = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"resume: {path} cannot be read ({error}), so settings that changed are not told", flush=True)
        return
    before.pop("meta", None)
    changes = [change for change in changed_settings(before, config) if not change[0].startswith(LOCAL_SETTINGS)]
    for key, was, now in changes:
        print(f"resume: {key} was {_shown(was)}, is {_shown(now)}", flush=True)
    if changes:
        _keep(run_dir, path, step)


def config_behind(run_dir: Path, step: int) -> Path:
    """The file with the settings that the run's steps up to this one were made with."""
    later = [(number, path) for number, path in _earlier_configs(run_dir) if number >= step]
    return min(later)[1] if later else run_dir / "config.toml"


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, value before, value now) where two configurations differ, by key; None: unset.

    A relative path is the same as the absolute one to the same place.
    """
    was, is_now = dict(_leaves(without_none(before))), dict(_leaves(without_none(now)))
    pairs = [(key, was.get(key), is_now.get(key)) for key in sorted({**was, **is_now})]
    return [(key, old, new) for key, old, new in pairs if old != new and not _is_same_path(old, new)]


def _keep(run_dir: Path, path: Path, step: int) -> None:
    """Put the file aside as the settings up to this step; those kept of later steps, which are made again, go."""
    write_file(run_dir / f"config.step-{step:06d}.toml", path.read_bytes())
    for number, later in _earlier_configs(run_dir):
        if number > step:
            later.unlink()


def _earlier_configs(run_dir: Path) -> list[tuple[int, Path]]:
    named = [(EARLIER_CONFIG.fullmatch(path.name), path) for path in run_dir.iterdir()]
    return [(int(match[1]), path) for match, path in named if match is not None]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{i}")
    else:
        yield name, value


def _is_same_path(old: Any, new: Any) -> bool:
    if not (isinstance(old, str) and isinstance(new, str) and old and new):
        return False
    return Path(old).absolute() == Path(new).absolute()


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)

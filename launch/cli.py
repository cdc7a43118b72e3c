"""How every command reads its configuration and how it ends.

One TOML file, then overrides: `--section.key value`, `--section.key=value` or `section.key=value`, list
elements by index (`--stages.0.steps 5`). A value is read as a TOML literal, or as text where the key
holds text. The last override of a key wins. Nothing here imports torch, vllm or ray.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from data.problem import DataError
from launch.keys import (
    allowed_at,
    default_of,
    is_section,
    known_keys,
    nearest,
    shown,
    takes_none,
    without_none,
)

M = TypeVar("M", bound=BaseModel)

EXIT_DONE = 0
EXIT_CONFIG = 2
"""Configuration or data."""
EXIT_ENVIRONMENT = 3
"""Something that the machine lacks: a package, a device, disk space, a permission."""
EXIT_JUDGE = 4
"""Judge or verifier unavailable past its bound."""
EXIT_PREEMPTED = 75
"""Told to stop; a checkpoint was written and the same command resumes it."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

OUR_PACKAGES = ("data", "rewards", "curricula", "rl", "launch")
ENVIRONMENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names place, key, value seen and values allowed."""

    exit_code = EXIT_CONFIG


class EnvironmentFault(RuntimeError):
    """The machine lacks what the run needs; the message names it and the way to get it."""

    exit_code = EXIT_ENVIRONMENT


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A switch of the command itself, which is no part of the configuration."""

    name: str
    """Without the dashes, for instance `dry-run`."""
    doc: str
    choices: tuple[str, ...] = ()
    """Allowed words, the first one is the default; empty: the flag takes no value."""
    numbers: range = range(0)
    """Whole numbers that are allowed beside the words."""

    @property
    def allowed(self) -> str:
        """What the flag takes, for people."""
        numbers = [f"{self.numbers[0]} to {self.numbers[-1]}"] if self.numbers else []
        return " | ".join([*self.choices, *numbers])

    def takes(self, text: str) -> bool:
        """Whether the text is one of the words or numbers."""
        return text in self.choices or text in map(str, self.numbers)


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandLine(Generic[M]):
    """What the user asked for, validated."""

    config: M
    values: Mapping[str, str]
    """Flags by name; a flag without choices is `on` or absent."""
    path: Path | None
    """The TOML file; None when every value came from the command line."""

    def is_on(self, flag: str) -> bool:
        """Whether a flag without choices was given."""
        return self.values.get(flag) == "on"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Arguments:
    path: Path | None
    overrides: tuple[tuple[str, str], ...]
    values: Mapping[str, str]


def load_config(model: type[M], argv: Sequence[str], *, prog: str, flags: Sequence[Flag] = ()) -> CommandLine[M]:
    """Read a TOML file and the overrides after it into a validated model.

    `prog` is what the user types, for instance `python -m launch.rl`. `--help` prints usage and every key
    with type, default and meaning, and exits 0. A file's table [meta] is passed over: a run's own config.toml is a file too.

    Raises:
        ConfigError: no such file, invalid TOML, an unknown key or flag, a value of the wrong type or out of bounds.
    """
    if "--help" in argv or "-h" in argv:
        print(help_text(model, prog=prog, flags=flags))
        raise SystemExit(EXIT_DONE)
    arguments = _read_arguments(model, argv, flags)
    table: Any = {} if arguments.path is None else _read_toml(arguments.path)
    if "meta" not in model.model_fields and isinstance(table.get("meta"), dict):
        del table["meta"]  # of a run's own config.toml, see rl.run_folder.write_config
    for name, text in arguments.overrides:
        table = _with_override(model, table, name.split("."), text, name)
    try:
        config = model.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(_one_line(error, model, arguments, prog)) from None
    return CommandLine(config=config, values=arguments.values, path=arguments.path)


def help_text(model: type[BaseModel], *, prog: str, flags: Sequence[Flag] = ()) -> str:
    """Usage, the flags, then every key as `name  type = default` with its meaning below."""
    named = [f"--{flag.name} {flag.allowed}".rstrip() for flag in flags]
    lines = [" ".join([f"usage: {prog} [CONFIG.toml] [--key value ...]", *(f"[{one}]" for one in named)])]
    if model.__doc__:
        lines += ["", model.__doc__.strip()]
    if flags:
        lines += ["", "Flags:"]
        for flag, told in zip(flags, named, strict=True):
            default = f" (default {flag.choices[0]})" if flag.choices else ""
            lines += [f"  {told}{default}", textwrap.indent(flag.doc, " " * 6)]
    lines += ["", "Keys (N is an index; the last --key value wins over the file and over earlier ones):"]
    for key in known_keys(model):
        default = "  (needed)" if key.default is None else f" = {key.default}"
        lines.append(f"  {key.name}  {key.allowed}{default}")
        lines += textwrap.wrap(key.doc, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _read_arguments(model: type[BaseModel], argv: Sequence[str], flags: Sequence[Flag]) -> _Arguments:
    by_name = {flag.name: flag for flag in flags}
    values = {flag.name: flag.choices[0] for flag in flags if flag.choices}
    path: Path | None = None
    overrides: list[tuple[str, str]] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, has_value, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") and not (has_value and re.fullmatch(r"[A-Za-z_][\w-]*(\.[\w-]+)*", name)):
            if word.startswith("-"):
                raise ConfigError(
                    f"command line: {word!r} is no key and no flag; keys start with two dashes, see --help"
                )
            if path is not None:
                raise ConfigError(
                    f"command line: two files, {str(path)!r} and {word!r}; give one, and overrides as --key value"
                )
            path = Path(word)
            continue
        flag = by_name.get(name)
        if flag is not None and not flag.choices:
            if has_value:
                raise ConfigError(f"command line: --{name} takes no value, seen {text!r}")
            values[name] = "on"
            continue
        if flag is None and allowed_at(model, name.split(".")) is None:
            raise ConfigError(f"command line: --{_unknown(name, model, flags)}")
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(
                    f"command line: --{name} needs a value; a value that starts with -- is given as --{name}=VALUE"
                )
            text = rest.pop(0)
        if flag is None:
            overrides.append((name, text))
        elif flag.takes(text):
            values[name] = text
        else:
            raise ConfigError(f"command line: --{name}: seen {text!r}, allowed {flag.allowed}")
    return _Arguments(path=path, overrides=tuple(overrides), values=values)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a TOML file, see launch/configs") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; a configuration is a UTF-8 TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _with_override(kind: Any, current: Any, path: Sequence[str], text: str, name: str) -> Any:
    """`current` (what the file or the default says) with the value at `path` replaced; `path` exists in the model."""
    if not path:
        return _value(text, kind)
    kind = without_none(kind)
    head, rest = path[0], path[1:]
    if is_section(kind) or get_origin(kind) is dict:
        table = {} if current is None else current
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: the file holds {shown(current)} where a table is needed")
        if not is_section(kind):
            return {**table, ".".join(path): _value(text, get_args(kind)[1])}
        field = kind.model_fields[head]
        inner = table.get(head, None if is_section(without_none(field.annotation)) else default_of(field))
        return {**table, head: _with_override(field.annotation, inner, rest, text, name)}
    items = list(current or ())
    index, args = int(head), get_args(kind)
    if index > len(items):
        raise ConfigError(
            f"command line: --{name}: seen index {index}, allowed 0 to {len(items)} ({len(items)} appends)"
        )
    element = args[0] if get_origin(kind) is list or args[-1] is Ellipsis else args[index]
    changed = _with_override(element, items[index] if index < len(items) else None, rest, text, name)
    return [*items[:index], changed, *items[index + 1 :]]


def _value(text: str, kind: Any) -> Any:
    """Text of the command line as the key's type wants it: a TOML literal, else the text itself."""
    if takes_none(kind) and text == "none":
        return None
    wanted = without_none(kind)
    if wanted in (str, Path) or (get_origin(wanted) is Literal and text in get_args(wanted)):
        return text
    if get_origin(wanted) is list and not text.lstrip().startswith("["):  # 20000,60000 is [20000, 60000]
        return [_value(part.strip(), get_args(wanted)[0]) for part in text.split(",")] if text else []
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _unknown(name: str, model: type[BaseModel], flags: Sequence[Flag] = ()) -> str:
    meant = nearest(name, model, [flag.name for flag in flags])
    hint = f"did you mean {meant}?" if meant else "--help lists every key"
    return f"{name}: unknown key; {hint}"


def _one_line(error: ValidationError, model: type[BaseModel], arguments: _Arguments, prog: str) -> str:
    """The first validation error: where it was said, the key, what was seen, what is allowed."""
    errors = error.errors(include_url=False)
    first = errors[0]
    path = tuple(str(part) for part in first["loc"])
    name = ".".join(path)
    said = [given for given, _ in arguments.overrides if given == name or name.startswith(f"{given}.")]
    place = "command line" if said else str(arguments.path or prog)
    while path and allowed_at(model, path) is None and first["type"] != "extra_forbidden":
        path = path[:-1]
    needed = allowed_at(model, path)
    match first["type"]:
        case "extra_forbidden":
            text = _unknown(name, model)
        case "missing":
            text = f"{name}: missing, needed: {needed}"
        case "value_error":
            text = ": ".join(filter(None, [name, first["msg"].removeprefix("Value error, ")]))
        case _:
            text = f"{name}: seen {shown(first['input'])}, allowed: {needed}"
    if arguments.path is None and not arguments.overrides:
        text += f" (nothing was given; usage: {prog} CONFIG.toml, --help lists every key)"
    return f"{place}: {text}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


def main(run: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run a command on the process's arguments and exit with its code; what the user can mend is one line on stderr."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # what libraries draw would tear our own lines
    # Threads that spin while they wait take the cores from the sampler beside us: a learner's step of 2 s became one of 28 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.exit(exit_code(run, sys.argv[1:]))


def exit_code(run: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    """What `run(argv)` returns (None: 0), or the code of the error it ended with, told in one line on stderr.

    An exception class that carries an int `exit_code` ends the command with that code; this is how the packages
    below launch say 4 or 75. DataError is 2; a missing third-party package, a full disk and a missing permission
    are 3. Every other exception is a defect and keeps its traceback.
    """
    try:
        return run(argv) or EXIT_DONE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        cause = getattr(error, "cause", None)  # Ray wraps what a worker raised
        told = cause if isinstance(cause, Exception) else error
        code = _code_of(told)
        if code is None:
            raise
        print(" ".join(f"error: {told}".split()), file=sys.stderr)
        return code


def _code_of(error: Exception) -> int | None:
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    match error:
        case DataError():
            return EXIT_CONFIG
        case ModuleNotFoundError() if error.name and error.name.partition(".")[0] not in OUR_PACKAGES:
            return EXIT_ENVIRONMENT
        case OSError() if error.errno in ENVIRONMENT_ERRNOS:
            return EXIT_ENVIRONMENT
    return None

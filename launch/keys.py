"""The keys of a configuration: which exist, what each allows, and which one a mistyped name meant.

A key is a dotted path through a pydantic model: `learner.lr`, `stages.0.steps`, `learner.betas.1`.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

INDEX = "N"
"""Stands for a list index where keys are listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One value that a configuration holds."""

    name: str
    """Dotted, with N for a list index."""
    allowed: str
    """Type and bounds, for people."""
    default: str | None
    """As TOML would write it; None: the value must be given."""
    doc: str


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every leaf of the model in the order it is written, sections of lists once with N as index."""
    for name, field in model.model_fields.items():
        kind = without_none(field.annotation)
        element = _element(kind)
        if is_section(kind):
            yield from known_keys(kind, f"{prefix}{name}.")
        elif is_section(element):
            yield from known_keys(element, f"{prefix}{name}.{INDEX}.")
        else:
            default = None if field.is_required() else shown(default_of(field))
            yield Key(name=prefix + name, allowed=allowed(field), default=default, doc=field.description or "")


def nearest(name: str, model: type[BaseModel], others: Sequence[str] = ()) -> str | None:
    """The known key (or one of `others`) that `name` most likely meant; None when nothing is close.

    A right last part under a wrong section is taken before a similar spelling (`lr` means `learner.lr`), and so is one
    spelled out: `learning_rate` means `lr`.
    """
    indexed = ".".join(INDEX if part.isdecimal() else part for part in name.split("."))
    known = [*others, *_tables(model), *(key.name for key in known_keys(model))]
    leaf = indexed.rpartition(".")[2]
    meant = {leaf, "".join(word[:1] for word in leaf.split("_"))}
    same_leaf = [key for key in known if key.rpartition(".")[2] in meant]
    close = difflib.get_close_matches(indexed, same_leaf or known, n=1, cutoff=0.0 if same_leaf else 0.6)
    if not close:
        by_leaf = {key.rpartition(".")[2]: key for key in reversed(known)}
        leaves = difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.75)
        close = [by_leaf[leaf] for leaf in leaves]
    return close[0] if close else None


def _tables(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = without_none(field.annotation)
        if is_section(kind):
            yield prefix + name
            yield from _tables(kind, f"{prefix}{name}.")
        elif is_section(_element(kind)):
            yield prefix + name


def allowed_at(model: type[BaseModel], path: Sequence[str]) -> str | None:
    """What the value at `path` may be; None when the model has no such key."""
    kind: Any = model
    text: str | None = "a table"
    for part in path:
        kind = without_none(kind)
        if is_section(kind):
            field = kind.model_fields.get(part)
            if field is None:
                return None
            kind, text = field.annotation, allowed(field)
        elif typing.get_origin(kind) is dict:  # the rest of the path is the entry's name, dots included
            return _type_text(typing.get_args(kind)[1])
        else:
            kind = _element(kind, part)
            if kind is None:
                return None
            text = _type_text(kind)
    return text


def allowed(field: FieldInfo) -> str:
    """A field's type and bounds in words: `float > 0`, `auto | vllm | transformers`, `list of int`."""
    return _type_text(field.annotation, field.metadata)


def default_of(field: FieldInfo) -> Any:
    """A field's default in plain Python values (lists, dicts, numbers, strings); None where there is none."""
    if field.is_required():
        return None
    return to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))


def shown(value: object, limit: int = 80) -> str:
    """A value as TOML would write it, cut to `limit` characters."""
    if value is None:
        text = "none"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(shown(v, limit) for v in value) + "]"
    else:
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def is_section(kind: Any) -> bool:
    """Whether an annotation is a pydantic model."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def without_none(kind: Any) -> Any:
    """An annotation without `Annotated` around it and without None beside it."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (Union, types.UnionType):
        rest = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        return without_none(rest[0]) if len(rest) == 1 else kind
    return kind


def takes_none(kind: Any) -> bool:
    """Whether an annotation allows None."""
    return typing.get_origin(kind) in (Union, types.UnionType) and type(None) in typing.get_args(kind)


def _element(kind: Any, part: str = "0") -> Any:
    """The annotation of a container's element; None when `kind` is no container or `part` cannot index it."""
    args = typing.get_args(kind)
    match typing.get_origin(kind):
        case origin if origin is list:
            return args[0] if part.isdecimal() else None
        case origin if origin is tuple and part.isdecimal():
            if args[-1] is Ellipsis:
                return args[0]
            return args[int(part)] if int(part) < len(args) else None
    return None


def _type_text(kind: Any, metadata: Sequence[Any] = ()) -> str:
    optional = takes_none(kind)
    while typing.get_origin(kind) is Annotated:
        metadata = [*metadata, *typing.get_args(kind)[1:]]
        kind = typing.get_args(kind)[0]
    kind = without_none(kind)
    args = typing.get_args(kind)
    match typing.get_origin(kind):
        case origin if origin is Literal:
            text = " | ".join(str(arg) for arg in args)
        case origin if origin is list or (origin is tuple and args[-1] is Ellipsis):
            text = f"list of {_type_text(args[0])}"
        case origin if origin is tuple:
            text = "[" + ", ".join(_type_text(arg) for arg in args) + "]"
        case origin if origin is dict:
            text = f"table of {_type_text(args[1])}"
        case origin if origin in (Union, types.UnionType):
            text = " or ".join(_type_text(arg) for arg in args if arg is not type(None))
        case _:
            text = _plain_name(kind)
    return " ".join([text, *_bounds(metadata)]) + (" or none" if optional else "")


def _plain_name(kind: Any) -> str:
    if is_section(kind):
        return "a table"
    return "true | false" if kind is bool else str(getattr(kind, "__name__", kind))


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    for item in metadata:
        match item:
            case at.Gt():
                yield f"> {item.gt}"
            case at.Ge():
                yield f">= {item.ge}"
            case at.Lt():
                yield f"< {item.lt}"
            case at.Le():
                yield f"<= {item.le}"
            case at.MinLen():
                yield f"(at least {item.min_length} long)"
            case at.MaxLen():
                yield f"(at most {item.max_length} long)"

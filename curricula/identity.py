"""Which problems a window holds, in bounded space, and in what two windows differ.

A window is cut into at most 4096 chunks in the data's order; of each chunk the checkpoint keeps a digest of the ids and
one of the prompt tokens and tasks, at most 44 KB of JSON a window. Up to 4096 problems a chunk is one problem, and every
difference is found; beyond, the first chunk that differs is.

Left out: the texts. They are not read to draw, and a prepared set has its own checksum.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from curricula.index import Positions, ProblemIndex
from curricula.packed import Packed, pack, unpack

_MAX_CHUNKS = 4096
_NAMED = 3
"""So many problems of a kind are named in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowIdentity:
    """Which problems a stage's window holds."""

    num_problems: int
    fingerprint: str
    """Hex digest of ids, prompt tokens and tasks, in order."""
    id_digests: Packed
    """[chunks] 32 bits of each chunk's ids."""
    measure_digests: Packed
    """[chunks] 32 bits of each chunk's prompt tokens and tasks."""


def identify(index: ProblemIndex, positions: Positions) -> WindowIdentity:
    """The identity of the problems at these positions; about half a microsecond a problem."""
    task_digests = np.array([int.from_bytes(_digest(task.encode())[:8], "little") for task in index.tasks], dtype="<u8")
    whole, ids, measures = blake2b(digest_size=16), [], []
    size = _chunk_size(len(positions))
    for start in range(0, len(positions), size):
        chunk = positions[start : start + size]
        id_digest = _ids_digest([index.id_of(p) for p in chunk.tolist()])
        measured = index.num_tokens[chunk].astype("<i4").tobytes() + task_digests[index.task_codes[chunk]].tobytes()
        measure_digest = _digest(measured)
        whole.update(id_digest + measure_digest)
        ids.append(_short(id_digest))
        measures.append(_short(measure_digest))
    return WindowIdentity(
        num_problems=len(positions),
        fingerprint=whole.hexdigest(),
        id_digests=pack(np.array(ids, dtype=np.uint32)),
        measure_digests=pack(np.array(measures, dtype=np.uint32)),
    )


def describe_difference(
    then: WindowIdentity, now: WindowIdentity, index: ProblemIndex, positions: Positions, lost: frozenset[str]
) -> str:
    """In words, what the window held then and does not hold now, and the other way round.

    positions: the window now. lost: ids that are told of already (visited problems that are gone or have changed).
    """
    parts = []
    if then.num_problems != now.num_problems:
        parts.append(f"{then.num_problems} problems in the checkpoint and {now.num_problems} in the data")
    sizes = {_chunk_size(then.num_problems), _chunk_size(now.num_problems)}
    if sizes == {1}:
        parts += _each_difference(then, now, [index.id_of(p) for p in positions.tolist()], lost)
    elif len(sizes) == 1:
        parts += _first_chunk(then, now, [index.id_of(p) for p in positions.tolist()])
    return "; ".join(parts) or "other ids, prompt tokens, tasks or order"


def _each_difference(
    then: WindowIdentity, now: WindowIdentity, names: Sequence[str], lost: frozenset[str]
) -> list[str]:
    old, new = unpack(then.id_digests).tolist(), unpack(now.id_digests).tolist()
    old_measures = dict(zip(old, unpack(then.measure_digests).tolist(), strict=True))
    new_measures = dict(zip(new, unpack(now.measure_digests).tolist(), strict=True))
    name_of = dict(zip(new, names, strict=True))
    parts = []
    if added := [name_of[d] for d in new if d not in old_measures]:
        parts.append(f"added: {named(added)}")
    changed = [d for d in new if d in old_measures and old_measures[d] != new_measures[d]]
    if changed := [name_of[d] for d in changed if name_of[d] not in lost]:
        parts.append(f"other prompt tokens or task: {named(changed)}")
    lost_digests = {_short(_ids_digest([name])) for name in lost}
    gone = [i for i, d in enumerate(old) if d not in new_measures and d not in lost_digests]
    if gone:
        # Of a problem that was never visited only the place is known.
        place = "first of the window"
        if gone[0]:
            before = name_of.get(old[gone[0] - 1])
            place = f"problem {gone[0] + 1} of the window" + (f", after {before!r}" if before else "")
        parts.append(f"gone without ever being visited: {len(gone)}, the first stood as {place}")
    kept_then, kept_now = [d for d in old if d in new_measures], [d for d in new if d in old_measures]
    if kept_then != kept_now:
        first = next(b for a, b in zip(kept_then, kept_now, strict=True) if a != b)
        parts.append(f"another order from problem {new.index(first) + 1} on, where {name_of[first]!r} now stands")
    return parts


def _first_chunk(then: WindowIdentity, now: WindowIdentity, names: Sequence[str]) -> list[str]:
    old = np.stack([unpack(then.id_digests), unpack(then.measure_digests)])
    new = np.stack([unpack(now.id_digests), unpack(now.measure_digests)])
    num_chunks = min(old.shape[1], new.shape[1])
    differs = (old[:, :num_chunks] != new[:, :num_chunks]).any(axis=0)
    chunk = int(np.argmax(differs)) if differs.any() else num_chunks - 1
    size = _chunk_size(now.num_problems)
    first, last = chunk * size, min((chunk + 1) * size, len(names)) - 1
    where = f"problems {first + 1} to {last + 1} of the window, in the data {names[first]!r} to {names[last]!r}"
    return [f"the first difference is among {where}"]


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more


def _chunk_size(num_problems: int) -> int:
    # A power of two, so that a window that grew or shrank a little is cut alike.
    return 1 << max(0, -(-num_problems // _MAX_CHUNKS) - 1).bit_length()


def _ids_digest(ids: Sequence[str]) -> bytes:
    # As JSON, because an id may hold any separator.
    return _digest(json.dumps(ids).encode())


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _short(digest: bytes) -> int:
    return int.from_bytes(digest[:4], "little")

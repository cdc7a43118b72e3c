"""Long columns as JSON: base64 of little-endian numbers, exact and a few times smaller and faster than lists of them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import numpy.typing as npt

Packed = dict[str, str]
"""`dtype` and `base64`."""

_UNSIGNED = ("<u1", "<u2", "<u4", "<u8")


def pack(values: npt.NDArray[Any]) -> Packed:
    """A column [n] of floats (as float64) or of integers >= 0 (in as few bytes as the largest needs)."""
    if values.dtype.kind == "f":
        dtype = "<f8"
    else:
        top = int(values.max()) if len(values) else 0
        dtype = next(d for d in _UNSIGNED if top <= np.iinfo(d).max)
    return {"dtype": dtype, "base64": b64encode(values.astype(dtype).tobytes()).decode()}


def unpack(packed: Packed) -> npt.NDArray[Any]:
    """The column, [n]. Raises: ValueError, for another type of number than `pack` writes."""
    dtype = packed["dtype"]
    if dtype not in (*_UNSIGNED, "<f8"):
        raise ValueError(f"packed column: dtype {dtype!r} is none of {', '.join(_UNSIGNED)}, <f8")
    return np.frombuffer(b64decode(packed["base64"]), dtype=dtype)


def pack_strings(text: bytes | bytearray, ends: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Strings end to end in UTF-8; ends: [n] where each stops."""
    return {"utf8": b64encode(text).decode(), "num_bytes": pack(np.diff(ends, prepend=0))}


def unpack_strings(packed: dict[str, Any]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """(text, ends) as `pack_strings` got them."""
    return b64decode(packed["utf8"]), np.cumsum(unpack(packed["num_bytes"]), dtype=np.int64)

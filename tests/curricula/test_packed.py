from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricula.packed import pack, pack_strings, unpack, unpack_strings
from data.columns import PackedStrings


@given(st.lists(st.integers(0, 2**63 - 1)), st.lists(st.floats(allow_nan=False)))
def test_columns_survive_json_exactly(integers: list[int], floats: list[float]) -> None:
    for column in (np.array(integers, dtype=np.int64), np.array(floats, dtype=np.float64)):
        assert unpack(json.loads(json.dumps(pack(column)))).tolist() == column.tolist()


@pytest.mark.parametrize(("top", "num_bytes"), [(255, 1), (256, 2), (65535, 2), (65536, 4), (2**32, 8)])
def test_integers_take_as_few_bytes_as_the_largest_needs(top: int, num_bytes: int) -> None:
    assert unpack(pack(np.array([0, top]))).dtype.itemsize == num_bytes


@given(st.lists(st.text()))
def test_strings_survive_json_exactly(strings: list[str]) -> None:
    text = [s.encode("utf-8", "replace") for s in strings]
    packed = pack_strings(b"".join(text), np.cumsum([len(t) for t in text], dtype=np.int64))
    assert list(PackedStrings(*unpack_strings(json.loads(json.dumps(packed))))) == [t.decode() for t in text]


def test_other_types_of_number_are_refused() -> None:
    with pytest.raises(ValueError, match="dtype '\\|O8'"):
        unpack({"dtype": "|O8", "base64": ""})

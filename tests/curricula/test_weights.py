from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curricula.weights import SumTree, WeightedDraws


@given(
    changes=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1e6)), max_size=60),
    share=st.floats(0, 1, exclude_max=True),
)
def test_sums_depend_on_the_weights_alone_and_search_never_finds_an_empty_leaf(
    changes: list[tuple[int, float]], share: float
) -> None:
    tree, weights = SumTree(np.zeros(41)), [0.0] * 41
    for leaf, weight in changes:
        tree[leaf] = weight
        weights[leaf] = weight
    rebuilt = SumTree(np.array(weights))
    assert rebuilt.total == tree.total
    if tree.total > 0.0:
        assert tree.search(share) == rebuilt.search(share)
        assert weights[tree.search(share)] > 0.0


def test_search_finds_the_leaf_in_which_the_share_falls() -> None:
    tree = SumTree(np.array([1.0, 0.0, 2.0, 1.0]))
    # Of a total of 4: leaf 0 holds [0, 1/4), leaf 2 [1/4, 3/4), leaf 3 [3/4, 1).
    assert [tree.search(s) for s in (0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999)] == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 8, 9])
def test_total_is_the_sum_for_any_number_of_weights(n: int) -> None:
    tree = SumTree(np.arange(1.0, n + 1))
    assert tree.total == n * (n + 1) / 2
    assert [tree[leaf] for leaf in range(n)] == [leaf + 1.0 for leaf in range(n)]


def test_drawn_leaf_is_out_until_the_step_ends_and_then_has_its_newest_weight() -> None:
    draws = WeightedDraws(np.array([1.0, 3.0]))
    assert draws.draw(0.9) == 1
    assert draws.total == 1.0
    draws.set(1, 5.0)
    assert draws.total == 1.0
    draws.begin_step()
    assert draws.total == 6.0
    draws.take(0)
    draws.put_back(0)
    assert (draws.total, draws.taken()) == (6.0, [])

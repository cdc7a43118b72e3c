import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.problem import DataError
from data.windows import Window, assign_window, window_histogram, windows_from

uppers_lists = st.lists(st.integers(1, 200), min_size=1, max_size=6, unique=True).map(sorted)


def test_a_bound_belongs_to_the_shorter_window():
    assert assign_window(20_000, [20_000, 60_000]) == Window(low=0, high=20_000)
    assert assign_window(20_001, [20_000, 60_000]) == Window(low=20_000, high=60_000)
    assert assign_window(60_001, [20_000, 60_000]) is None


@given(uppers_lists, st.integers(1, 250))
def test_windows_partition_all_lengths_up_to_the_last_bound(uppers, num_tokens):
    holding = [window for window in windows_from(uppers) if num_tokens in window]
    assigned = assign_window(num_tokens, uppers)
    assert holding == ([] if num_tokens > uppers[-1] else [assigned])


@given(uppers_lists, st.lists(st.integers(1, 250)))
def test_the_histogram_counts_every_length_once(uppers, lengths):
    histogram = window_histogram(lengths, uppers)
    assert sum(histogram.counts) + histogram.num_beyond == len(lengths)
    for window, count in zip(histogram.windows, histogram.counts, strict=True):
        assert count == sum(n in window for n in lengths)


@pytest.mark.parametrize("uppers", [[], [0], [-1, 5], [5, 5], [6, 5]])
def test_bounds_that_do_not_rise_are_refused(uppers):
    with pytest.raises(DataError, match="each above the one before"):
        windows_from(uppers)


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(DataError, match="at least 1"):
        assign_window(0, [5])

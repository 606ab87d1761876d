"""The search for the largest micro-batch: it fits, and no much larger one does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.micro_batch_search import CLOSE_ENOUGH, largest_that_fits


@given(
    base=st.integers(0, 10**9), slope=st.integers(1, 10**6), curve=st.integers(0, 50), cap=st.integers(1, 10**10),
    smallest=st.integers(1, 500), more=st.integers(0, 20_000), told=st.booleans(),
)  # fmt: skip
def test_what_is_found_fits_and_nothing_larger_was_seen_to(base, slope, curve, cap, smallest, more, told):
    def peak(tokens):
        size = base + slope * tokens + curve * tokens * tokens
        return size if told or size <= cap else None

    best, tries = largest_that_fits(peak, cap, smallest=smallest, whole=smallest + more)
    assert len([each for each in tries if each.tokens < smallest or each.tokens > smallest + more]) == 0
    assert len({each.tokens for each in tries}) == len(tries)
    assert all(each.fits == (peak(each.tokens) is not None and peak(each.tokens) <= cap) for each in tries)
    if best is None:
        assert peak(smallest) is None or peak(smallest) > cap
    else:
        assert best.fits
        assert best.tokens == max(each.tokens for each in tries if each.fits)


@pytest.mark.parametrize("told", [True, False])
def test_a_proportional_need_is_filled_almost_to_the_cap(told):
    def peak(tokens):
        size = 1_000_000 + 500 * tokens
        return size if told or size <= 4_000_000 else None

    best, tries = largest_that_fits(peak, 4_000_000, smallest=100, whole=50_000)
    assert best.bytes >= (1 - CLOSE_ENOUGH) * 4_000_000 or not told
    assert best.bytes >= 0.9 * 4_000_000
    assert len(tries) < 12


def test_a_whole_step_that_fits_is_found_at_once():
    best, tries = largest_that_fits(lambda tokens: tokens, 1000, smallest=10, whole=900)
    assert best.tokens == 900
    assert len(tries) == 1

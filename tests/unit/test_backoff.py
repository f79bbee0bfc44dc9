from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdserver.backoff import Backoff

SECONDS = st.floats(min_value=0.001, max_value=100)


@given(first_s=SECONDS, factor=st.floats(min_value=1, max_value=1000), attempts=st.integers(1, 40))
def test_pauses_grow_up_to_the_most(first_s: float, factor: float, attempts: int) -> None:
    backoff = Backoff(first_s, first_s * factor)
    bound_s = first_s
    for _ in range(attempts):
        assert first_s / 2 <= backoff.next_s() <= bound_s
        bound_s = min(2 * bound_s, first_s * factor)
    backoff.reset()
    assert backoff.next_s() <= first_s


def test_pauses_differ() -> None:
    assert len({Backoff(1, 60).next_s() for _ in range(20)}) > 1


def test_what_the_other_side_asks_for_is_a_floor() -> None:
    backoff = Backoff(1, 60)
    assert backoff.next_s(asked_s=90.0) == 90.0
    assert backoff.next_s(asked_s=0.1) >= 0.5


@pytest.mark.parametrize("bounds", [(2, 1), (-1, 1)])
def test_bounds_that_make_no_sense(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 <= first_s <= most_s"):
        Backoff(*bounds)

"""How far two clocks are apart."""

import pytest

from mdserver.clocks import least_ahead_s


@pytest.mark.parametrize(
    ("before_s", "theirs_s", "after_s", "ahead_s"),
    [
        (100.0, 100.1, 100.2, 0.0),
        (100.0, 101.8, 103.6, 0.0),  # a slow answer
        (100.0, 40.0, 100.2, 60.0),
        (100.0, 160.2, 100.2, -60.0),
        (100.0, 100.0, 100.0, 0.0),
    ],
)
def test_a_difference_is_what_a_slow_answer_cannot_explain(
    before_s: float, theirs_s: float, after_s: float, ahead_s: float
) -> None:
    assert least_ahead_s(before_s, theirs_s, after_s) == pytest.approx(ahead_s)

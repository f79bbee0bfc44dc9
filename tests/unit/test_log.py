from __future__ import annotations

from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from mdserver import log as log_module
from mdserver.errors import Rejected, Unavailable, leaves
from mdserver.log import RarelyLogged, _BoundedBrokers


def test_an_event_is_logged_once_a_minute_and_the_rest_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(log_module, "monotonic", lambda: now)
    rarely = RarelyLogged(structlog.get_logger())
    with capture_logs() as lines:
        for n in range(3):
            rarely.warning("lost", n=n)
        rarely.error("other")
        now += 60.0
        rarely.warning("lost", n=9)
        now += 60.0
        rarely.warning("lost", n=10)
    assert lines == [
        {"event": "lost", "log_level": "warning", "n": 0},
        {"event": "other", "log_level": "error"},
        {"event": "lost", "log_level": "warning", "n": 9, "not_logged": 2},
        {"event": "lost", "log_level": "warning", "n": 10},
    ]


def test_the_leaves_of_nested_groups() -> None:
    one, two, three = Unavailable("1"), Rejected("2"), OSError("3")
    assert list(leaves(ExceptionGroup("a", [ExceptionGroup("b", [one, two]), three]))) == [one, two, three]
    assert list(leaves(one)) == [one]


def test_a_broker_that_repeats_a_line_endlessly_does_not_fill_the_log() -> None:
    now = [0.0]
    bounded = _BoundedBrokers(most=3, within_s=60, clock=lambda: now[0])

    def logged(event: str, **about: str) -> dict[str, Any] | None:
        try:
            return dict(bounded(None, "warning", {"event": event, **about}))
        except structlog.DropEvent:
            return None

    lines = [logged("request refused", broker="binance") for _ in range(10)]
    assert [line is not None for line in lines] == [True] * 3 + [False] * 7
    assert logged("another event", broker="binance") is not None
    assert logged("request refused", broker="kraken") is not None
    assert all(logged("not of a broker") for _ in range(10))
    now[0] = 61
    again = logged("request refused", broker="binance")
    assert again is not None
    assert again["not_logged"] == 7
    invented = [logged(f"event {number}", broker="binance") for number in range(5_000)]
    assert sum(line is not None for line in invented) < 1_010

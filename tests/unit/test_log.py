from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from mdserver import log as log_module
from mdserver.errors import Rejected, Unavailable, leaves
from mdserver.log import RarelyLogged


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

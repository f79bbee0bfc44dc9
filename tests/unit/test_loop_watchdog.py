"""Whoever holds the event loop is named."""

from __future__ import annotations

import sys
import time
from types import ModuleType

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from mdserver.daemon.loop_watchdog import WatchdogPart
from mdserver.metrics import Metrics
from mdserver.plugin import BrokerPlugin

CODE = """
import time
def factory(config): ...
def hold(seconds): time.sleep(seconds)
def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
"""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("some_venue.broker")
    exec(CODE, vars(module))  # noqa: S102 - the code of this test
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("way", ["hold", "compute"])
async def test_a_plugin_that_holds_the_loop_is_named(plugin: ModuleType, way: str) -> None:
    metrics = Metrics()
    descriptor = BrokerPlugin("venue", "", object, plugin.factory)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            part = WatchdogPart({"venue": descriptor}, metrics, structlog.get_logger())
            await nursery.start(part.run)
            for _ in range(2):
                await trio.sleep(0.1)
                vars(plugin)[way](0.6)
            nursery.cancel_scope.cancel()
    told = [line for line in logs if "blocks the event loop" in line["event"]]
    assert [line["plugin"] for line in told] == ["venue"]  # once a minute
    assert told[0]["at"].endswith(f" {way}")
    assert metrics.registry.get_sample_value("mdserver_loop_held_total", {"by": "venue"}) == 2


async def test_the_server_itself_is_named_and_a_loop_that_waits_is_not() -> None:
    metrics = Metrics()
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(WatchdogPart({}, metrics, structlog.get_logger()).run)
            await trio.sleep(0.6)
            assert metrics.registry.get_sample_value("mdserver_loop_held_total", {"by": "server"}) is None
            time.sleep(0.6)  # noqa: ASYNC251 - that is what is looked for
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in logs] == [
        "the server blocks the event loop: all brokers and clients wait"
    ]

"""A plugin of another shape than ours passes the conformance suite, which finds what only such a one can do wrong."""

from __future__ import annotations

import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.model import Feed
from mdserver.net import HttpClient, HttpUnavailable
from mdserver.plugin import BrokerHost
from mdserver.testing import conformance_tests
from mdserver.testing.conformance import run_check

from .polling_plugin import PollingBroker, PollingCase, PollingConfig, case

test_conformance = conformance_tests(case)


class Hammer(PollingBroker):
    """Asks again at once when it was told to wait."""

    async def poll(self, host: BrokerHost, http: HttpClient, feeds: frozenset[Feed]) -> None:
        while True:
            try:
                return await super().poll(host, http, feeds)
            except HttpUnavailable:
                await trio.lowlevel.checkpoint()

    async def beat(self, host: BrokerHost, http: HttpClient) -> None:
        await trio.sleep_forever()


class Forgotten(PollingBroker):
    """Is forgotten by its venue after a while."""

    async def beat(self, host: BrokerHost, http: HttpClient) -> None:
        await trio.sleep(0.3)
        raise Unavailable("the venue has forgotten the session")


class HammerCase(PollingCase):
    def make_broker(self, config: PollingConfig) -> PollingBroker:
        return Hammer(config)


class ForgottenCase(PollingCase):
    holds_s = 0.6

    def make_broker(self, config: PollingConfig) -> PollingBroker:
        return Forgotten(config)


@pytest.mark.serial
def test_a_plugin_that_hammers_its_venue_is_found() -> None:
    """Serial: on a busy machine it cannot ask so often."""
    row = run_check(HammerCase(), "pace")
    assert row.outcome == "failed"
    assert "while the venue answers 429 with Retry-After: 1, expected 20 at most" in row.text


def test_a_session_that_does_not_hold_is_found() -> None:
    row = run_check(ForgottenCase(), "lifecycle")
    assert row.outcome == "failed"
    assert (
        "ended by itself within 0.6 s, expected it to hold: the venue has forgotten the session" in row.text
    )

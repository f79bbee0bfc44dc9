"""The conformance suite finds each fault that it is there for, and none on a sound broker."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

import attrs
import pytest
import trio

from mdserver.errors import BadMessage, PluginError, Rejected, Unavailable
from mdserver.model import Feed, Tick
from mdserver.net import open_websocket
from mdserver.plugin import BrokerPlugin
from mdserver.testing import (
    FakeClient,
    FakeWebSocketVenue,
    HttpAnswer,
    HttpRequest,
    WebSocketCase,
    open_fake_venue,
)
from mdserver.testing.conformance import check_names, find_case, run_check

pytestmark = pytest.mark.slow

KEPT: list[Any] = []
"""What a leaking plugin keeps."""


class Venue(FakeWebSocketVenue):
    """Has two symbols, answers each request, gives times in microseconds."""

    key = "a-key-to-hide"

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    async def on_attempt(self, request: HttpRequest) -> HttpAnswer | None:
        return self.refusal

    async def on_message(self, client: FakeClient, text: str) -> None:
        ((verb, symbol),) = json.loads(text).items()
        if verb == "drop":
            client.topics.discard(symbol)
        elif symbol not in ("EURUSD", "GBPUSD"):
            client.send({"no": symbol})
        else:
            client.topics.add(symbol)
            client.send({"yes": symbol})

    def give(self, symbol: str) -> float:
        self.count += 1
        price = 1 + self.count / 100_000
        self.push(symbol, {"tick": symbol, "bid": price, "time": time.time_ns() // 1000})
        return price


@attrs.frozen
class Config:
    """Settings of the broker on trial."""

    url: str
    api_key: str = attrs.field(repr=False)
    silence_s: float | None = 0.5


class Broker:
    """Sound, but for its one fault."""

    def __init__(self, config: Config, fault: str) -> None:
        self.config = config
        self.fault = fault
        self.asked: set[str] = set()
        self.waiting = trio.CancelScope()
        self.refused: set[str] = set()

    async def run(self, host: Any, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self.fault == "never starts":
            await trio.sleep_forever()
        if self.fault == "keeps a task":
            trio.lowlevel.spawn_system_task(trio.sleep_forever)
        if self.fault == "keeps a socket":
            KEPT.append(socket.socket())
        try:
            while True:
                try:
                    await self.session(host, task_status)
                except* Unavailable:
                    if self.fault != "connects anew in silence":
                        raise
                    self.asked.clear()
                    await trio.sleep(0.05)
        except* Rejected as group:
            if self.fault == "tries a wrong key again":
                raise Unavailable("no") from None
            if self.fault == "shows the key":
                raise Rejected(f"the key {self.config.api_key} is wrong") from None
            raise group.exceptions[0] from None
        finally:
            if self.fault == "does not stop":
                with trio.CancelScope(shield=True):
                    await trio.sleep(3.5)

    async def session(self, host: Any, task_status: trio.TaskStatus[None]) -> None:
        silence_s = None if self.fault == "hears no silence" else self.config.silence_s
        async with open_websocket(self.config.url, silence_s=silence_s) as websocket:
            if (not self.asked and self.fault != "connects anew in silence") or not KEPT:
                task_status.started()
                KEPT.append(None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.follow, host, websocket)
                await self.pump(host, websocket)

    async def follow(self, host: Any, websocket: Any) -> None:
        while True:
            wanted = {feed.symbol for feed in host.demand.current()}
            feeds = host.demand.current()
            gone, new, self.asked = self.asked - wanted, wanted - self.asked, set(wanted)
            for symbol in wanted - new if self.fault == "asks anew for all" else ():
                await websocket.send(json.dumps({"drop": symbol}))
                await trio.sleep(0.03)
                await websocket.send(json.dumps({"take": symbol}))
            for symbol in gone:
                if self.fault != "never unsubscribes":
                    await websocket.send(json.dumps({"drop": symbol}))
            for symbol in new:
                if self.fault != "asks once" or symbol not in self.refused:
                    await websocket.send(json.dumps({"take": symbol}))
            if self.asked == wanted:
                with trio.CancelScope() as self.waiting:
                    await host.demand.wait_changed(feeds)

    async def pump(self, host: Any, websocket: Any) -> None:
        while True:
            batch = []
            for frame in await websocket.receive():
                try:
                    self.take(host, self.decode(frame), batch)
                except BadMessage as error:
                    host.discard(error)
            if self.fault == "keeps the newest":
                batch = batch[-1:]
            if batch:
                host.publish(batch, received_us=websocket.received_us)
            else:
                host.alive()

    def decode(self, frame: bytes) -> dict[str, Any]:
        if self.fault == "decodes nothing" and b"tick" in frame:
            raise BadMessage("found a price as text, expected a number")
        if self.fault == "crashes on garbage":
            return dict(json.loads(frame))
        if self.fault == "blocks the loop" and len(frame) > 500_000:
            time.sleep(0.2)
        try:
            message = json.loads(frame)
        except (ValueError, RecursionError) as error:
            raise BadMessage(str(error)) from None
        if not isinstance(message, dict):
            raise BadMessage("no object")
        return message

    def take(self, host: Any, message: dict[str, Any], batch: list[Tick]) -> None:
        if "tick" in message:
            bid, time_us = message["bid"], message["time"]
            if self.fault == "rounds":
                bid = round(bid, 3)
            if self.fault == "gives seconds":
                time_us //= 1_000_000
            batch.append(Tick(message["tick"], time_us, bid, bid + 1))
        elif "yes" in message:
            host.confirm([Feed(message["yes"], "tick")])
        elif "no" in message:
            if self.fault == "tells no refusal":
                return
            symbol = message["no"]
            self.refused.add(symbol)
            host.refuse([Feed(symbol, "tick")], f"there is no {symbol}")
            if self.fault != "forgets no refusal":
                self.asked.discard(symbol)
            self.waiting.cancel()
        else:
            raise BadMessage("neither tick nor answer")


class Case(WebSocketCase[Venue]):
    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        # A fault has them waited out; who is sound has more of them, for a busy machine.
        self.patience_s, self.notices_within_s = (2.0, 1.5) if fault else (10.0, 5.0)

    plugin = BrokerPlugin("trial", "On trial", Config, lambda config: Broker(config, ""), silence_s=None)

    def make_broker(self, config: Config) -> Any:
        return Broker(config, self.fault)

    def open_venue(self) -> Any:
        return open_fake_venue(Venue())

    def settings(self, venue: Venue) -> dict[str, object]:
        # Where silence is not what is looked for, a busy machine's must not be taken for it.
        silence_s = 0.5 if self.fault in ("", "hears no silence", "connects anew in silence") else 5.0
        return {"url": venue.url, "api_key": venue.key, "silence_s": silence_s}

    async def send(self, venue: Venue, feed: Feed) -> float:
        return venue.give(feed.symbol)


@pytest.fixture(autouse=True)
def _nothing_kept() -> Any:
    KEPT.clear()
    yield
    for one in KEPT:
        if one is not None:
            one.close()


@pytest.mark.parametrize("check", check_names(Case()))
def test_a_sound_broker_passes(check: str) -> None:
    row = run_check(Case(), check)
    assert row.outcome == "ok", row.text


@pytest.mark.parametrize(
    ("fault", "check", "says"),
    [
        ("never starts", "lifecycle", "state live, found starting"),
        ("decodes nothing", "lifecycle", "discarded 1 meanwhile, the last one: “found a price as text"),
        ("does not stop", "lifecycle", r"took \d+\.\d s to end"),
        ("does not stop", "cancellation", r"took \d+\.\d s to end"),
        ("keeps a task", "lifecycle", "tasks are still running: trio.sleep_forever"),
        ("keeps a socket", "cancellation", "1 sockets are still open"),
        ("never unsubscribes", "demand", "the venue no longer serves EURUSD"),
        ("asks anew for all", "demand", "GBPUSD tick lost records without a gap"),
        ("tells no refusal", "refusal", "NOSUCH refused"),
        ("asks once", "refusal", "NOSUCH refused, wanted again"),
        ("forgets no refusal", "refusal", "NOSUCH refused, wanted again at once"),
        ("connects anew in silence", "gaps", "no gap of EURUSD tick, GBPUSD tick after a lost connection"),
        ("hears no silence", "silence", "a dead connection noticed"),
        ("crashes on garbage", "garbage", "neither Unavailable nor Rejected"),
        ("keeps the newest", "back-pressure", "expected all"),
        ("rounds", "times and numbers", "a tick of EURUSD at 1.0000"),
        ("gives seconds", "times and numbers", "time"),
        ("tries a wrong key again", "rejection", "the broker keeps trying"),
        ("shows the key", "secrets", "a secret is shown: "),
        ("blocks the loop", "loop never blocked", r"blocked the loop for \d{3,} ms"),
    ],
)
def test_each_fault_is_found(fault: str, check: str, says: str) -> None:
    row = run_check(Case(fault), check)
    assert row.outcome == "failed", row.text
    assert re.search(says, row.text), row.text


def test_a_check_that_does_not_apply_says_why() -> None:
    class Without(Case):
        not_applicable = {"refusal": "it has every symbol"}  # noqa: RUF012 - a case's own

    row = run_check(Without(), "refusal")
    assert (row.outcome, row.text) == ("not applicable", "it has every symbol")


def test_a_plugin_without_a_case_and_one_that_is_not_there() -> None:
    with pytest.raises(PluginError, match=r'no plugin "nosuch" is installed; there are .*binance'):
        find_case("nosuch")
    assert find_case("mock").plugin.name == "mock"

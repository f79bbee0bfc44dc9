"""A plugin for a venue of another shape, written from the documents: HTTP that is polled, and a heartbeat of its own.

``GET /prices?symbols=EUR-USD,GBP-USD`` gives the newest prices, each with a running number: one whose number is known
came before. ``GET /status`` is what the venue wants to hear from us each second, and proves that it is there. A symbol
that it does not have is in ``unknown`` of the answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated

import attrs
import msgspec
import trio
from msgspec import Meta, Struct

from mdserver.errors import BadMessage
from mdserver.model import Feed, Tick
from mdserver.net import HttpClient, open_http
from mdserver.plugin import BrokerHost, BrokerPlugin
from mdserver.testing import FakeExchange, FakeHttpVenue, HttpCase, open_fake_http

Price = Annotated[float, Meta(gt=0, lt=1e12)]


@attrs.frozen
class PollingConfig:
    url: str
    token: str = attrs.field(repr=False)
    every_s: float = attrs.field(default=1.0, validator=attrs.validators.ge(0.01))
    timeout_s: float = 5.0


class Quote(Struct):
    number: int
    symbol: str
    time_ms: Annotated[int, Meta(gt=0, lt=10**13)]
    bid: Price
    ask: Price


class Answer(Struct):
    prices: list[Quote]
    unknown: list[str]


decoder = msgspec.json.Decoder(Answer)


def decode(body: bytes) -> Answer:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"{error}: {body[:100]!r}") from None


class PollingBroker:
    def __init__(self, config: PollingConfig) -> None:
        self.config = config
        self.last = -1
        self.asked: frozenset[Feed] = frozenset()

    async def run(
        self, host: BrokerHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        headers = {"Authorization": f"Bearer {self.config.token}"}
        async with open_http(headers=headers, timeout_s=self.config.timeout_s) as http:
            await http.fetch(f"{self.config.url}/status")
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.beat, host, http)
                while True:
                    if not (feeds := host.demand.current()):
                        await host.demand.wait_changed(feeds)
                        continue
                    await self.poll(host, http, feeds)
                    with trio.move_on_after(self.config.every_s):
                        await host.demand.wait_changed(host.demand.current())

    async def beat(self, host: BrokerHost, http: HttpClient) -> None:
        while True:
            await http.fetch(f"{self.config.url}/status")
            host.alive()
            await trio.sleep(self.config.every_s)

    async def poll(self, host: BrokerHost, http: HttpClient, feeds: frozenset[Feed]) -> None:
        names = {f"{feed.symbol[:3]}-{feed.symbol[3:]}": feed for feed in feeds}
        body = await http.fetch(f"{self.config.url}/prices", params={"symbols": ",".join(sorted(names))})
        received_us = time.time_ns() // 1000
        try:
            answer = decode(body)
        except BadMessage as error:
            host.discard(error)
            return
        unknown = {names[name] for name in answer.unknown if name in names}
        if unknown:
            host.refuse(unknown, "the venue has no such symbol")
        host.confirm(feeds - unknown)
        batch = [
            Tick(names[quote.symbol].symbol, quote.time_ms * 1000, quote.bid, quote.ask)
            for quote in answer.prices
            if quote.number > self.last and quote.symbol in names
        ]
        self.last = max([self.last, *(quote.number for quote in answer.prices)])
        if batch:
            host.publish(batch, received_us=received_us)


plugin = BrokerPlugin("polling", "Prices that are asked for", PollingConfig, PollingBroker)


class PollingVenue:
    """The state behind the fake's routes."""

    token = "a-token-to-hide"

    def __init__(self) -> None:
        self.quotes: list[Quote] = []
        self.asked_at: dict[str, float] = {}

    async def prices(self, exchange: FakeExchange) -> None:
        names = exchange.request.query["symbols"].split(",")
        known = [name for name in names if name in ("EUR-USD", "GBP-USD")]
        self.asked_at |= dict.fromkeys(known, trio.current_time())
        newest = [quote for quote in self.quotes[-1000:] if quote.symbol in known]
        await exchange.respond(content=Answer(newest, [name for name in names if name not in known]))


class PollingCase(HttpCase[FakeHttpVenue]):
    plugin = plugin
    records_path = "/prices"

    def __init__(self) -> None:
        self.state = PollingVenue()

    def open_venue(self) -> AbstractAsyncContextManager[FakeHttpVenue]:
        self.state = PollingVenue()
        return open_polling_venue(self.state)

    def settings(self, venue: FakeHttpVenue) -> Mapping[str, object]:
        return {"url": venue.url, "token": self.state.token, "every_s": 0.02, "timeout_s": 3.0}

    def served(self, venue: FakeHttpVenue) -> Collection[str]:
        now = trio.current_time()
        return {name.replace("-", "") for name, at in self.state.asked_at.items() if now - at < 0.3}

    async def send(self, venue: FakeHttpVenue, feed: Feed) -> float:
        number = len(self.state.quotes)
        bid = float(f"{1 + number / 100_000:.5f}")
        name = f"{feed.symbol[:3]}-{feed.symbol[3:]}"
        self.state.quotes.append(Quote(number, name, time.time_ns() // 1_000_000, bid, 2.0))
        return bid


@asynccontextmanager
async def open_polling_venue(state: PollingVenue) -> AsyncIterator[FakeHttpVenue]:
    async with open_fake_http({"/status": {"ok": True}, "/prices": state.prices}) as venue:
        yield venue


case = PollingCase()

"""A fake OANDA v20 over real sockets: the price stream and the REST API, with faults on demand.

It serves made-up instruments: a snapshot of each, prices that move four times a second, a heartbeat every five seconds,
candles. It behaves as the real venue is known to: it resets a third connection within a second, requires the key, has
one account, and refuses a whole list of instruments if one of them is unknown::

    async with open_fake_oanda() as venue:
        ...  # connect a client to venue.url and venue.rest_url with venue.account_id and venue.api_key
        [stream] = await venue.wait_streams(1)
        await venue.push("EUR_USD", FakeQuote(bids=[("1.1", 1000)], asks=[]))
        stream.mute()                                         # half open: neither prices nor heartbeats
        await stream.reset(b'{"type":"PRI')                   # in the middle of a line
        venue.fail(HttpFault("status", 429, headers={"Retry-After": "3"}), times=1, path="/stream")

A test that sends each price itself uses ``OandaRules(price_every_s=None)``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from .fake_exchange import FakeExchange, HttpFault
from .http_exchange import GONE, HttpAnswer, HttpRequest
from .http_venue import ConnectLimit, FakeHttpVenue, open_fake_http
from .oanda_market import FakeInstrument, FakeQuote, answer_candles, default_instruments, time_text
from .oanda_stream import FakeOandaStream, OandaRules, price_fields

__all__ = [
    "FakeInstrument",
    "FakeOanda",
    "FakeOandaStream",
    "FakeQuote",
    "HttpFault",
    "OandaRules",
    "open_fake_oanda",
]


class FakeOanda:
    """The venue. ``instruments`` by name may be changed at any time, ``requests`` are all requests so far.

    ``unstreamable``: names that the account lists but for which a stream is refused. ``clock_ns`` is the venue's clock,
    in nanoseconds since the epoch; ``limit`` is the limit of connections.
    """

    def __init__(
        self, rules: OandaRules, limit: ConnectLimit, rest: FakeHttpVenue, streaming: FakeHttpVenue
    ) -> None:
        self.rules = rules
        self.limit = limit
        self.account_id = "101-004-1234567-001"
        self.api_key = "fake-token-0123456789abcdef"
        self.instruments: dict[str, FakeInstrument] = default_instruments()
        self.unstreamable: set[str] = set()
        self.clock_ns: Callable[[], int] = time.time_ns
        self.streams: list[FakeOandaStream] = []
        self.url = streaming.url
        self.rest_url = rest.url
        self._venues = (rest, streaming)
        account = "/v3/accounts/{account}"
        for venue in self._venues:
            venue.gate = self._gate
        streaming.route(f"{account}/pricing/stream", self._serve_stream)
        rest.route("/v3/accounts", self._list_accounts)
        rest.route(f"{account}/instruments", self._list_instruments)
        rest.route(f"{account}/pricing", self._give_prices)
        rest.route("/v3/instruments/{name}/candles", self._give_candles)

    @property
    def requests(self) -> list[HttpRequest]:
        """Every request so far: first the REST requests, then the streams."""
        return [request for venue in self._venues for request in venue.requests]

    def fail(self, fault: HttpFault, *, times: int | None = None, path: str = "") -> None:
        """Apply a fault to the next ``times`` requests (None: all) whose path contains ``path`` (``/stream``)."""
        for venue in self._venues:
            venue.fail(fault, times=times, path=path)

    def heal(self) -> None:
        """Forget all faults."""
        for venue in self._venues:
            venue.heal()

    async def push(self, name: str, quote: FakeQuote | None = None) -> int:
        """Send a price (None: the next of its random walk) to all streams with ``name``; return their number."""
        instrument = self.instruments[name]
        instrument.quote = quote if quote is not None else instrument.move()
        # All streams get the same time, and so does the snapshot of the next stream.
        sent = self._stamped(name)
        receivers = [stream for stream in self.streams if name in stream.names]
        for stream in receivers:
            try:
                await stream.send_price(name, sent)
            except GONE:
                continue  # it is ending
        return len(receivers)

    def _stamped(self, name: str) -> FakeQuote:
        """Return an instrument's last price, whose time is fixed the first time that it is sent."""
        instrument = self.instruments[name]
        if instrument.quote.time_ns is None:
            instrument.quote = attrs.evolve(instrument.quote, time_ns=self.clock_ns())
        return instrument.quote

    async def wait_streams(self, count: int, *names: str) -> list[FakeOandaStream]:
        """Wait until exactly ``count`` streams are open, each with all ``names``, and return them."""
        await self.wait_until(
            lambda: len(self.streams) == count and all(set(names) <= set(s.names) for s in self.streams)
        )
        return list(self.streams)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; it is checked whenever a stream begins or ends, or a request arrives."""
        await self._venues[1].wait_until(condition)

    async def run(self) -> None:
        """Move prices and send heartbeats until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            while True:
                await trio.sleep(self.rules.price_every_s or 0.05)
                for name in list(self.instruments) if self.rules.price_every_s is not None else []:
                    await self.push(name)

    async def _beat(self) -> None:
        while True:
            await trio.sleep(self.rules.heartbeat_s or 0.05)
            for stream in list(self.streams) if self.rules.heartbeat_s is not None else []:
                try:
                    await stream.send_heartbeat()
                except GONE:
                    continue

    def _gate(self, exchange: FakeExchange) -> HttpAnswer | None:
        exchange.headers["RequestID"] = str(len(self.requests))
        if exchange.request.headers.get("authorization") != f"Bearer {self.api_key}":
            return _error(401, "Insufficient authorization to perform request.")
        return None

    def _wrong_account(self, exchange: FakeExchange) -> HttpAnswer | None:
        account = exchange.params["account"]
        if account == self.account_id:
            return None
        if len(account.split("-")) != 4:
            return _error(400, "Invalid value specified for 'accountID'")
        return _error(403, "The provided request was forbidden.")

    def _asked(self, exchange: FakeExchange) -> list[str] | HttpAnswer:
        names = exchange.request.query.get("instruments", "").split(",")
        if all(name in self.instruments and name not in self.unstreamable for name in names):
            return names
        return _error(400, "Invalid value specified for 'instruments'")

    async def _serve_stream(self, exchange: FakeExchange) -> None:
        names = self._asked(exchange)
        answer = self._wrong_account(exchange)
        if answer is None and isinstance(names, HttpAnswer):
            answer = names
        if answer is None and len(self.streams) >= self.rules.max_streams:
            answer = _error(429, "Maximum number of streams exceeded")
        if answer is not None or isinstance(names, HttpAnswer):
            await exchange.answer(answer or HttpAnswer(500))
            return
        stream = FakeOandaStream(exchange, names, self.rules)
        snapshot: list[bytes] = []
        if exchange.request.query.get("snapshot", "true").lower() == "true":
            quotes = [(name, self._stamped(name)) for name in names]
            snapshot = [stream.price_line(name, quote) for name, quote in quotes]
            stream.sent += [(name, quote.time_ns or 0) for name, quote in quotes]
        self.streams.append(stream)
        try:
            await exchange.start_stream(*snapshot)
            await exchange.wait_gone()
        finally:
            self.streams.remove(stream)

    async def _list_accounts(self, exchange: FakeExchange) -> None:
        await exchange.respond(content={"accounts": [{"id": self.account_id, "tags": []}]})

    async def _list_instruments(self, exchange: FakeExchange) -> None:
        if answer := self._wrong_account(exchange):
            await exchange.answer(answer)
            return
        asked = exchange.request.query.get("instruments")
        names = asked.split(",") if asked else list(self.instruments)
        if not set(names) <= set(self.instruments):
            await exchange.answer(_error(400, "Invalid value specified for 'instruments'"))
            return
        rows = [self.instruments[name].row() for name in names]
        await exchange.respond(content={"instruments": rows, "lastTransactionID": "1"})

    async def _give_prices(self, exchange: FakeExchange) -> None:
        names = self._asked(exchange)
        answer = self._wrong_account(exchange) or (names if isinstance(names, HttpAnswer) else None)
        if answer is not None or isinstance(names, HttpAnswer):
            await exchange.answer(answer or HttpAnswer(500))
            return
        now_ns = self.clock_ns()
        form = self.rules.datetime_format or exchange.request.headers.get("accept-datetime-format", "RFC3339")
        rows = []
        for name in names:
            quote = self._stamped(name)
            rows.append(price_fields(name, quote, time_text(quote.time_ns or 0, form), self.rules))
        await exchange.respond(content={"time": time_text(now_ns, form), "prices": rows})

    async def _give_candles(self, exchange: FakeExchange) -> None:
        form = exchange.request.headers.get("accept-datetime-format", "RFC3339")
        instrument = self.instruments.get(exchange.params["name"])
        try:
            if instrument is None:
                raise ValueError("Invalid value specified for 'instrument'")
            await exchange.respond(
                content=answer_candles(instrument, exchange.request.query, self.clock_ns(), form)
            )
        except ValueError as error:
            await exchange.answer(_error(400, str(error)))


@asynccontextmanager
async def open_fake_oanda(rules: OandaRules | None = None) -> AsyncIterator[FakeOanda]:
    """Run a fake venue on two free local ports, for REST and streams, for the length of the block."""
    rules = rules or OandaRules()
    limit = ConnectLimit(rules.max_connects, rules.connects_window_s)
    async with open_fake_http(limit=limit) as rest, open_fake_http(limit=limit) as streaming:
        venue = FakeOanda(rules, limit, rest, streaming)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(venue.run)
            yield venue
            nursery.cancel_scope.cancel()


def _error(status: int, message: str) -> HttpAnswer:
    return HttpAnswer(status, {"errorMessage": message})

"""A fake Binance over real sockets: spot streams, control messages, limits, closes, and REST, with made-up markets.

It behaves as the real one is known to, in unpleasant ways too. A misspelt stream or an unknown symbol is accepted and
never gets data. The sixth message within a second closes the connection. A malformed stream name gets an error and then
a close. A snapshot of a book is older than the stream when it arrives. Raw (``/ws``) and combined (``/stream``)
endpoints and REST share one port::

    async with open_fake_binance() as venue:
        ...  # connect a client to venue.url and venue.rest_url
        await venue.wait_subscribed("btcusdt@depth@100ms")
        venue.lose_depth_update("BTCUSDT")   # from here on changes are missing

By default there are no faults, and each market with a subscriber has ten events a second. Set ``rules.pace_s =
math.inf``, or set ``instruments``, for markets without events of their own: the test then causes each one by
:meth:`FakeBinance.step`, :meth:`FakeBinance.trade` or :meth:`FakeBinance.push`. A script causes faults at given times:
``open_fake_binance(script=[(5.0, FakeBinance.reset_in_frame), (9.0, FakeBinance.garbage)])``.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from inspect import isawaitable
from urllib.parse import unquote

import h11
import msgspec
import trio
import wsproto

from . import _binance_rest, _binance_texts
from ._binance_connection import BinanceRules, FakeConnection, Refusal, rest_in_microseconds
from ._binance_control import StreamState, is_well_formed
from ._binance_market import INSTRUMENTS, FakeMarket, MarketTrade
from .fake_client import FakeClient
from .http_exchange import GONE, HttpAnswer, HttpRequest, read_request, send_answer
from .recorded import Frame
from .websocket_venue import Script

__all__ = ["BinanceRules", "FakeBinance", "FakeConnection", "FakeMarket", "MarketTrade", "open_fake_binance"]

_PARTIAL = (5, 10, 20)
_SPEEDS = ("", "@100ms")
_OTHER_DIGITS = 2
_OTHER_PRICE = 10_000
_MINUTE_S = 60.0


class _Combined(msgspec.Struct):
    data: msgspec.Raw


class FakeBinance:
    """The venue. ``rules`` may be changed at any time; ``connections`` are the open ones, oldest first.

    ``markets`` are the made-up markets by symbol. ``exchange_info``, if set, replaces the answer of exchangeInfo.
    ``attempts`` counts connection attempts, ``past`` holds the ended connections, ``requests`` the REST requests.
    """

    def __init__(self, rules: BinanceRules | None = None, *, seed: int = 1) -> None:
        self.rules = rules or BinanceRules()
        self.url = ""
        self.rest_url = ""
        self.connections: list[FakeConnection] = []
        self.past: list[FakeConnection] = []
        self.requests: list[HttpRequest] = []
        self.attempts = 0
        self.exchange_info: bytes | None = None
        self.used_weight = 0
        self._rng = random.Random(seed)  # noqa: S311 - made-up prices
        self.markets = {
            symbol: FakeMarket(symbol, digits, price, self.now_ms(), self._rng)
            for symbol, (_, _, digits, price) in INSTRUMENTS.items()
        }
        self._moving = set(self.markets)
        self._instruments = {
            symbol: ("TRADING", base, quote) for symbol, (base, quote, _, _) in INSTRUMENTS.items()
        }
        self._lost: set[str] = set()
        self._attempt_times: deque[float] = deque()
        self._weights: deque[tuple[float, int]] = deque()
        self._warned = 0
        self._changed = trio.Event()

    @property
    def instruments(self) -> dict[str, tuple[str, str, str]]:
        """Rows of exchangeInfo as ``symbol: (status, base, quote)``. Setting them stops all events of the markets."""
        return self._instruments

    @instruments.setter
    def instruments(self, rows: dict[str, tuple[str, str, str]]) -> None:
        self._instruments = rows
        self.markets = {symbol: market for symbol, market in self.markets.items() if symbol in rows}
        self._moving = set()

    @property
    def streams(self) -> frozenset[str]:
        """Every stream that someone is subscribed to."""
        return frozenset(name for connection in self.connections for name in connection.streams)

    def now_ms(self) -> int:
        """Return the time by the venue's clock."""
        return time.time_ns() // 1_000_000 + int(self.rules.skew_s * 1000)

    # -- events that a test causes -------------------------------------------------------------------

    def market(self, symbol: str) -> FakeMarket:
        """Return the market of an instrument; it is made up at the first call."""
        if symbol not in self.markets:
            digits, price = INSTRUMENTS.get(symbol, ("", "", _OTHER_DIGITS, _OTHER_PRICE))[2:]
            self.markets[symbol] = FakeMarket(symbol, digits, price, self.now_ms(), self._rng)
        return self.markets[symbol]

    async def step(self, symbol: str) -> None:
        """Produce the next event of a market and send it to its subscribers."""
        market = self.market(symbol)
        before = market.best()
        executions = market.step(self.now_ms())
        await self.tell_book(symbol, quoted=market.best() != before)
        await self._tell_trades(market, executions)

    async def trade(self, symbol: str, count: int = 1, *, skip_ids: int = 0) -> list[MarketTrade]:
        """Fill one order in ``count`` executions; ``skip_ids`` earlier trades and aggregates are never sent."""
        market = self.market(symbol)
        market.next_trade += skip_ids
        market.next_aggregate += skip_ids
        price = market.best()[0][0]
        executions = market.execute([(price, 100_000)] * count, self.now_ms(), buyer_is_maker=True)
        await self._tell_trades(market, executions)
        return executions

    def lose_depth_update(self, symbol: str) -> None:
        """Drop the next update of a book, for all clients."""
        self._lost.add(symbol)

    async def tell_book(self, symbol: str, *, quoted: bool = True) -> None:
        """Send the changes of a book since the last call; ``quoted``: the best prices changed too."""
        market, name = self.market(symbol), symbol.lower()
        if market.told == market.update:
            return
        changes = market.take_changes()
        if symbol in self._lost:
            self._lost.discard(symbol)
        else:
            update = _binance_texts.depth_update(market, changes, self.now_ms())
            for speed in _SPEEDS:
                await self.push(f"{name}@depth{speed}", update)
        streams = self.streams
        for count in _PARTIAL:
            for speed in _SPEEDS:
                stream = f"{name}@depth{count}{speed}"
                if stream in streams:
                    await self.push(stream, _binance_texts.partial_depth(market, count))
        if quoted:
            await self.push(f"{name}@bookTicker", _binance_texts.book_ticker(market))

    async def _tell_trades(self, market: FakeMarket, executions: list[MarketTrade]) -> None:
        if not executions:
            return
        name, now_ms, streams = market.symbol.lower(), self.now_ms(), self.streams
        for one in executions:
            await self.push(f"{name}@trade", _binance_texts.trade(market, one, now_ms))
        for group in _binance_texts.aggregates(executions):
            await self.push(f"{name}@aggTrade", _binance_texts.agg_trade(market, group, now_ms))
        for interval, length_ms in _binance_texts.INTERVALS.items():
            stream = f"{name}@kline_{interval}"
            if stream in streams:
                open_ms, trades = _binance_texts.candles(market, length_ms).popitem()
                payload = _binance_texts.kline(market, interval, open_ms, trades, now_ms, closed=False)
                await self.push(stream, payload)
        for kind, make in (("ticker", _binance_texts.ticker), ("miniTicker", _binance_texts.mini_ticker)):
            if f"{name}@{kind}" in streams:
                await self.push(f"{name}@{kind}", make(market, now_ms))

    # -- faults of all connections ---------------------------------------------------------------------

    def garbage(self) -> None:
        """Send each client a message that is not JSON."""
        for connection in self.connections:
            connection.client.send('{"this is": not JSON')

    def disconnect(self, code: int = 1001, reason: str = "going away") -> None:
        """Close each connection with a close frame."""
        for connection in self.connections:
            connection.client.close(code, reason)

    def hang_up(self) -> None:
        """End each connection without a close frame."""
        for connection in self.connections:
            connection.client.hang_up()

    def reset(self) -> None:
        """Cut each connection by a TCP reset."""
        for connection in self.connections:
            connection.reset()

    def reset_in_frame(self) -> None:
        """Send each client half a message and cut its connection by a TCP reset."""
        for connection in self.connections:
            connection.client.reset_in_frame()

    def go_dark(self) -> None:
        """Leave each connection half open: it stays connected but sends nothing any more, not even pongs."""
        for connection in self.connections:
            connection.client.go_dark()

    def slow(self, bytes_per_s: float | None = 1000.0) -> None:
        """Limit each client to ``bytes_per_s`` from now on; nothing is dropped. None: as fast as the client reads."""
        for connection in self.connections:
            connection.client.bytes_per_s = bytes_per_s

    async def push(self, stream: str, payload: object) -> int:
        """Send a payload (``bytes`` unchanged, anything else as JSON) to all subscribers; return their number."""
        data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        receivers = [c for c in self.connections if stream in c.streams]
        for connection in receivers:
            await connection.send_data(stream, data)
        return len(receivers)

    async def replay(self, frames: Iterable[Frame], *, speed: float | None = None) -> int:
        """Send recorded frames to the subscribers of each; return the number of deliveries.

        ``speed`` 1.0 keeps the recorded pauses, 10.0 is ten times as fast, None does not pause at all.
        """
        decode = msgspec.json.Decoder(_Combined).decode
        sent = 0
        before_s: float | None = None
        for frame in frames:
            if speed is not None and before_s is not None and frame.time_s > before_s:
                await trio.sleep((frame.time_s - before_s) / speed)
            before_s = frame.time_s
            sent += await self.push(frame.stream, bytes(decode(frame.text).data))
        return sent

    async def announce_shutdown(self, connections: Iterable[FakeConnection] | None = None) -> None:
        """Announce to ``connections`` (None: all) that they will be closed; the test closes them."""
        payload = b'{"e":"serverShutdown","E":1770123456789}'
        for connection in list(self.connections if connections is None else connections):
            await connection.send_data("!serverShutdown", payload)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; it is checked after each message, attempt, and start or end of a client."""
        while not condition():
            await self._changed.wait()

    async def wait_subscribed(self, *streams: str) -> None:
        """Wait until someone is subscribed to each of the streams."""
        await self.wait_until(lambda: self.streams.issuperset(streams))

    # -- serving ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Produce the markets' events until cancelled."""
        next_at = trio.current_time() + self.rules.pace_s
        while True:
            await trio.sleep(min(0.02, self.rules.pace_s))
            now = trio.current_time()
            next_at = min(next_at, now + self.rules.pace_s)  # the pace may have changed meanwhile
            if now >= next_at:
                next_at = now + self.rules.pace_s
                followed = {name.partition("@")[0] for name in self.streams}
                for symbol in [one for one in self._moving if one.lower() in followed]:
                    await self.step(symbol)

    async def serve_stream(self, stream: trio.SocketStream) -> None:
        """Serve one TCP connection from its first byte to its end."""
        async with stream:
            http = h11.Connection(our_role=h11.SERVER)
            try:
                while (request := await read_request(stream, http)) is not None:
                    answer = await self._answer(request)
                    if answer is None:
                        await self._upgrade(stream, request)
                        return
                    if not await send_answer(stream, http, answer):
                        return
            except (*GONE, h11.RemoteProtocolError, wsproto.utilities.RemoteProtocolError):
                return  # a client that disconnects or breaks the protocol must not fail the test

    async def _answer(self, request: HttpRequest) -> HttpAnswer | None:
        """Return the answer to a request, None to make it a WebSocket."""
        if request.path.startswith("/api/"):
            self.requests.append(request)
            self._tell()
            return await self._rest(request)
        refusal = self._refusal(request.path)
        if refusal is not None:
            return _refused(refusal)
        return None if request.is_upgrade else HttpAnswer(400, "expected a WebSocket")

    async def _upgrade(self, stream: trio.SocketStream, request: HttpRequest) -> None:
        combined = request.path.startswith("/stream")
        path = unquote(request.path.removeprefix("/ws"))
        names = (request.query.get("streams", "") if combined else path).split("/")
        state = StreamState(dict.fromkeys(name for name in names if is_well_formed(name)), combined)
        protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        fields = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()
        ]
        protocol.initiate_upgrade_connection(fields, request.target)
        list(protocol.events())
        client = FakeClient(stream, protocol, request.target, self._tell)
        micro = request.query.get("timeUnit", "").upper() == "MICROSECOND"
        connection = FakeConnection(client, self.rules, state, microseconds=micro)
        # Listed before the client can know that it is connected: its queue sends the handshake first.
        self.connections.append(connection)
        self._tell()
        try:
            await connection.serve()
        finally:
            self.connections.remove(connection)
            self.past.append(connection)
            self._tell()

    def _refusal(self, path: str) -> Refusal | None:
        now = trio.current_time()
        self.attempts += 1
        self._tell()
        self._attempt_times.append(now)
        while self._attempt_times[0] <= now - self.rules.connects_window_s:
            self._attempt_times.popleft()
        if self.rules.refuse is not None:
            return self.rules.refuse
        if len(self._attempt_times) > self.rules.max_connects:
            return 429, {"Retry-After": "300"}, '{"code":-1003,"msg":"Too many requests"}'
        if not (path == "/stream" or path == "/ws" or path.startswith("/ws/")):
            return 404, {}, "not found"
        return None

    async def _rest(self, request: HttpRequest) -> HttpAnswer:
        await trio.sleep(self.rules.rest_delay_s)
        if self.rules.rest_refuse is not None:
            return _refused(self.rules.rest_refuse)
        refusal = self._weigh(_binance_rest.weight(request.path, request.query))
        headers = {"X-MBX-USED-WEIGHT-1M": str(self.used_weight)}
        if refusal is not None:
            return HttpAnswer(refusal[0], refusal[2], refusal[1] | headers)
        if request.path in self.rules.without:
            return HttpAnswer(404, "not found", headers)
        if request.path == "/api/v3/exchangeInfo" and self.exchange_info is not None:
            return HttpAnswer(200, self.exchange_info, {"Content-Type": "application/json"} | headers)
        if (symbol := request.query.get("symbol", "")) in self._instruments:
            self.market(symbol)
        rows = {
            symbol: _binance_rest.Row(*row, INSTRUMENTS.get(symbol, ("", "", _OTHER_DIGITS, 0))[2])
            for symbol, row in self._instruments.items()
        }
        limits = {"REQUEST_WEIGHT": self.rules.weight_per_minute, "RAW_REQUESTS": 61_000}
        answer = _binance_rest.answer(request.path, request.query, rows, self.markets, limits, self.now_ms())
        if request.path == "/api/v3/depth":
            await trio.sleep(self.rules.depth_delay_s)
        if request.headers.get("x-mbx-time-unit", "").upper() == "MICROSECOND":
            answer = rest_in_microseconds(answer)
        return HttpAnswer(answer.status, answer.content, answer.headers | headers)

    def _weigh(self, weight: int) -> Refusal | None:
        """Count a request's weight; return the refusal if it exceeds the limit, else None."""
        now = trio.current_time()
        while self._weights and self._weights[0][0] <= now - _MINUTE_S:
            self._weights.popleft()
        if not self._weights:
            self._warned = 0
        self._weights.append((now, weight))
        self.used_weight = sum(weight for _, weight in self._weights)
        if self.used_weight <= self.rules.weight_per_minute:
            return None
        self._warned += 1
        left_s = int(self._weights[0][0] + _MINUTE_S - now) + 1
        error = '{"code":-1003,"msg":"Too much request weight used; current limit is %d request weight per 1 MINUTE."}'
        if self._warned > self.rules.warnings:
            return (
                418,
                {"Retry-After": "120"},
                '{"code":-1003,"msg":"Way too much request weight used; IP banned."}',
            )
        return 429, {"Retry-After": str(left_s)}, error % self.rules.weight_per_minute

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def open_fake_binance(
    rules: BinanceRules | None = None, *, script: Script = (), seed: int = 1
) -> AsyncIterator[FakeBinance]:
    """Run a fake venue on a free loopback port for the length of the block; ``script`` acts on it at its times."""
    venue = FakeBinance(rules, seed=seed)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(_listen, venue)
        host, port = listeners[0].socket.getsockname()[:2]
        venue.url, venue.rest_url = f"ws://{host}:{port}", f"http://{host}:{port}"
        nursery.start_soon(venue.run)
        nursery.start_soon(_play, venue, tuple(script))
        yield venue
        nursery.cancel_scope.cancel()


async def _listen(venue: FakeBinance, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
    await trio.serve_tcp(venue.serve_stream, 0, host="127.0.0.1", task_status=task_status)


async def _play(venue: FakeBinance, script: Script) -> None:
    start = trio.current_time()
    for at_s, act in sorted(script, key=lambda step: step[0]):
        await trio.sleep_until(start + at_s)
        done = act(venue)
        if isawaitable(done):
            await done


def _refused(refusal: Refusal) -> HttpAnswer:
    status, headers, body = refusal
    return HttpAnswer(status, body, headers)

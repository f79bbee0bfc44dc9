"""A fake Binance over real sockets: spot streams, control messages, limits, closes, and exchangeInfo.

It does what is known of the real one, also where that is unpleasant: a misspelt stream or an unknown symbol
is accepted and stays silent, the sixth message within a second costs the connection, a malformed stream name
gets an error and then a close. Raw (``/ws``) and combined (``/stream``) endpoints and REST share one port::

    async with open_fake_binance() as venue:
        ...  # connect a client to venue.url
        await venue.wait_subscribed("btcusdt@bookTicker")
        await venue.push("btcusdt@bookTicker", {"u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1"})
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import h11
import msgspec
import trio
import wsproto

from ._binance_connection import BinanceRules, FakeConnection
from ._binance_control import StreamState, is_well_formed
from .recorded import Frame

__all__ = ["BinanceRules", "FakeBinance", "FakeConnection", "open_fake_binance"]


class _Combined(msgspec.Struct):
    data: msgspec.Raw


class FakeBinance:
    """The venue. ``rules`` may be changed at any time; ``connections`` are the open ones, oldest first.

    ``instruments``: rows of exchangeInfo as ``symbol: (status, base, quote)``; ``exchange_info`` replaces the
    whole answer. ``attempts`` counts connection attempts, ``past`` holds connections that ended.
    """

    def __init__(self, rules: BinanceRules | None = None) -> None:
        self.rules = rules or BinanceRules()
        self.url = ""
        self.rest_url = ""
        self.connections: list[FakeConnection] = []
        self.past: list[FakeConnection] = []
        self.attempts = 0
        self.instruments: dict[str, tuple[str, str, str]] = {}
        self.exchange_info: bytes | None = None
        self._attempt_times: deque[float] = deque()
        self._changed = trio.Event()

    @property
    def streams(self) -> frozenset[str]:
        """Every stream that someone is subscribed to."""
        return frozenset(name for connection in self.connections for name in connection.streams)

    async def push(self, stream: str, payload: object) -> int:
        """Send a payload (``bytes``: as it is, else encoded as JSON) to all subscribers; return how many."""
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
        """Tell the connections (all, unless given) that they will be closed; closing is up to the test."""
        payload = b'{"e":"serverShutdown","E":1770123456789}'
        for connection in list(self.connections if connections is None else connections):
            await connection.send_data("!serverShutdown", payload)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; tried after each message, and each connection's attempt, start and end."""
        while not condition():
            await self._changed.wait()

    async def wait_subscribed(self, *streams: str) -> None:
        """Wait until someone is subscribed to each of the streams."""
        await self.wait_until(lambda: self.streams.issuperset(streams))

    async def serve_stream(self, stream: trio.SocketStream) -> None:
        """Serve one TCP connection from its first byte to its end."""
        async with stream:
            try:
                request, http = await _read_request(stream)
                await self._route(stream, request, http)
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                return  # a client that leaves or talks nonsense is none of the test's concern

    async def _route(self, stream: trio.SocketStream, request: h11.Request, http: h11.Connection) -> None:
        parts = urlsplit(request.target.decode())
        if parts.path.startswith("/api/"):
            await self._rest(stream, http, parts.path)
            return
        refusal = self._refusal(parts.path)
        if refusal is not None:
            await _respond(stream, http, *refusal)
            return
        query = parse_qs(parts.query)
        combined = parts.path.startswith("/stream")
        names = (query.get("streams", [""])[0] if combined else parts.path.removeprefix("/ws")).split("/")
        state = StreamState(dict.fromkeys(name for name in names if is_well_formed(name)), combined)
        protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        protocol.initiate_upgrade_connection(list(request.headers), request.target.decode())
        list(protocol.events())
        micro = query.get("timeUnit", [""])[0].upper() == "MICROSECOND"
        await self._serve(FakeConnection(stream, protocol, self.rules, state, self._tell, microseconds=micro))

    async def _serve(self, connection: FakeConnection) -> None:
        # Listed before the client can know that it is connected; accept() lets nothing overtake it.
        self.connections.append(connection)
        try:
            await connection.accept()
            self._tell()
            await connection.serve()
        finally:
            self.connections.remove(connection)
            self.past.append(connection)
            self._tell()

    def _refusal(self, path: str) -> tuple[int, dict[str, str], str] | None:
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

    async def _rest(self, stream: trio.SocketStream, http: h11.Connection, path: str) -> None:
        await trio.sleep(self.rules.rest_delay_s)
        if self.rules.rest_refuse is not None:
            await _respond(stream, http, *self.rules.rest_refuse)
        elif path == "/api/v3/exchangeInfo":
            await _respond(stream, http, 200, {"Content-Type": "application/json"}, self._exchange_info())
        else:
            await _respond(stream, http, 404, {}, '{"code":-1,"msg":"not faked"}')

    def _exchange_info(self) -> bytes:
        if self.exchange_info is not None:
            return self.exchange_info
        rows = [
            {"symbol": symbol, "status": status, "baseAsset": base, "quoteAsset": quote}
            for symbol, (status, base, quote) in self.instruments.items()
        ]
        return msgspec.json.encode({"timezone": "UTC", "rateLimits": [], "symbols": rows})

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def open_fake_binance(rules: BinanceRules | None = None) -> AsyncIterator[FakeBinance]:
    """Run a fake venue on a free local port for the length of the block."""
    venue = FakeBinance(rules)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(_listen, venue)
        host, port = listeners[0].socket.getsockname()[:2]
        venue.url, venue.rest_url = f"ws://{host}:{port}", f"http://{host}:{port}"
        yield venue
        nursery.cancel_scope.cancel()


async def _listen(venue: FakeBinance, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
    await trio.serve_tcp(venue.serve_stream, 0, host="127.0.0.1", task_status=task_status)


async def _read_request(stream: trio.SocketStream) -> tuple[h11.Request, h11.Connection]:
    http = h11.Connection(our_role=h11.SERVER)
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event, http
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        else:
            raise trio.ClosedResourceError("the client left")


async def _respond(
    stream: trio.SocketStream, http: h11.Connection, status: int, headers: dict[str, str], body: str | bytes
) -> None:
    data = body.encode() if isinstance(body, str) else body
    fields = [*headers.items(), ("Content-Length", str(len(data))), ("Connection", "close")]
    parts = (h11.Response(status_code=status, headers=fields), h11.Data(data=data), h11.EndOfMessage())
    await stream.send_all(b"".join(http.send(part) or b"" for part in parts))

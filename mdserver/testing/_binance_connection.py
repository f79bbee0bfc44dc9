"""One client of the fake Binance, after the WebSocket handshake."""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Callable

import attrs
import msgspec
import trio
import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

from ._binance_control import StreamState

__all__ = ["BinanceRules", "FakeConnection"]

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define
class BinanceRules:
    """How the venue behaves; a test may change it at any time. Defaults are the real venue's.

    ``refuse``: HTTP status, extra headers and body with which every new connection is turned down.
    ``malformed``: well-formed stream names that are to be treated as malformed: nested error, then close.
    ``answer_requests``: False leaves every control message without a reply.
    ``answer_pings``: False leaves the client's pings unanswered.
    """

    ping_interval_s: float = 20.0
    pong_timeout_s: float = 60.0
    lifetime_s: float = 24 * 3600.0
    lifetime_close: tuple[int, str] = (1000, "")
    max_streams: int = 1024
    max_messages_per_s: int = 5
    max_connects: int = 300
    connects_window_s: float = 300.0
    refuse: tuple[int, dict[str, str], str] | None = None
    malformed: frozenset[str] = frozenset()
    answer_requests: bool = True
    answer_pings: bool = True
    rest_delay_s: float = 0.0
    rest_refuse: tuple[int, dict[str, str], str] | None = None


class FakeConnection:
    """A connected client. ``received`` holds its text messages, ``closed_by`` why the venue ended it."""

    def __init__(
        self,
        stream: trio.SocketStream,
        protocol: wsproto.WSConnection,
        rules: BinanceRules,
        state: StreamState,
        changed: Callable[[], None],
        *,
        microseconds: bool,
    ) -> None:
        self.received: list[str] = []
        self.pongs: list[bytes] = []
        self.closed_by: tuple[int, str] | None = None
        self.client_close: tuple[int, str] | None = None
        self._stream = stream
        self._protocol = protocol
        self._rules = rules
        self._state = state
        self._changed = changed
        self._microseconds = microseconds
        self._lock = trio.Lock()
        self._arrivals: deque[float] = deque()
        self._ping: tuple[bytes, float] | None = None
        self._scope = trio.CancelScope()

    @property
    def streams(self) -> frozenset[str]:
        """The streams that it is subscribed to."""
        return frozenset(self._state.streams)

    async def accept(self) -> None:
        """Complete the WebSocket handshake."""
        async with self._lock:
            await self._stream.send_all(self._protocol.send(AcceptConnection()))

    async def serve(self) -> None:
        """Run until either side ends the connection."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ping_forever)
                    nursery.start_soon(self._end_of_life)
                    await self._read()
                    nursery.cancel_scope.cancel()
        except* _GONE:
            pass  # the client went away: what a venue sees every second

    async def send_data(self, stream: str, data: bytes) -> None:
        """Send a payload of a stream in this connection's mode, subscribed or not."""
        if self._microseconds:
            data = _in_microseconds(data)
        name = stream.encode()
        await self.send_text(b'{"stream":"%s","data":%s}' % (name, data) if self._state.combined else data)

    async def send_text(self, text: bytes | str) -> None:
        """Send any text message."""
        event = TextMessage(data=text if isinstance(text, str) else text.decode())
        await self._send_event(event)

    async def send_raw(self, data: bytes) -> None:
        """Put bytes on the wire as they are: half a frame, garbage, frames made by the test."""
        try:
            async with self._lock:
                await self._stream.send_all(data)
        except _GONE:
            self._scope.cancel()

    async def send_ping(self, payload: bytes | None = None) -> bytes:
        """Send a ping as the venue does, the ms epoch in 13 bytes; return its payload."""
        payload = str(time.time_ns() // 1_000_000).encode() if payload is None else payload
        self._ping = (payload, trio.current_time())
        await self._send_event(Ping(payload=payload))
        return payload

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame and hang up without waiting for the client's."""
        self.closed_by = (code, reason)
        await self._send_event(CloseConnection(code=code, reason=reason))
        self._scope.cancel()

    def reset(self) -> None:
        """Cut the TCP connection with a reset."""
        # Linger of 0 s makes the kernel send RST on close.
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()
        self._scope.cancel()

    async def _send_event(self, event: wsproto.events.Event) -> None:
        try:
            async with self._lock:
                await self._stream.send_all(self._protocol.send(event))
        except (*_GONE, wsproto.utilities.LocalProtocolError):
            self._scope.cancel()  # gone, or closing already: the reader sees the rest

    async def _read(self) -> None:
        while True:
            data = await self._stream.receive_some()
            if not data:
                return
            self._protocol.receive_data(bytes(data))
            for event in self._protocol.events():
                if isinstance(event, CloseConnection):
                    self.client_close = (event.code, event.reason or "")
                    await self._send_event(event.response())
                    return
                if isinstance(event, Message | Ping | Pong):
                    await self._take(event)
                self._changed()

    async def _take(self, event: Message | Ping | Pong) -> None:  # type: ignore[type-arg]
        now = trio.current_time()
        self._arrivals.append(now)
        while self._arrivals[0] <= now - 1.0:
            self._arrivals.popleft()
        if len(self._arrivals) > self._rules.max_messages_per_s:
            await self.close(1008, "Too many requests")
        elif isinstance(event, Ping):
            if self._rules.answer_pings:
                await self._send_event(event.response())
        elif isinstance(event, Pong):
            self.pongs.append(bytes(event.payload))
            if self._ping is not None and self._ping[0] == event.payload:
                self._ping = None
        elif isinstance(event, BytesMessage):
            await self.close(1003, "binary")
        elif isinstance(event, TextMessage):
            await self._control(event.data)

    async def _control(self, text: str) -> None:
        self.received.append(text)
        if not self._rules.answer_requests:
            return
        self._state.max_streams, self._state.malformed = self._rules.max_streams, self._rules.malformed
        answer = self._state.answer(text)
        await self.send_text(answer.text)
        if answer.close is not None:
            await self.close(*answer.close)

    async def _ping_forever(self) -> None:
        while True:
            await trio.sleep(self._rules.ping_interval_s)
            if self._ping is None:
                await self.send_ping()
            elif trio.current_time() - self._ping[1] >= self._rules.pong_timeout_s:
                await self.close(1008, "Pong timeout")

    async def _end_of_life(self) -> None:
        await trio.sleep(self._rules.lifetime_s)
        await self.close(*self._rules.lifetime_close)


def _in_microseconds(data: bytes) -> bytes:
    """Return a payload with its millisecond times turned into microseconds."""
    payload = msgspec.json.decode(data)
    if isinstance(payload, dict):
        for part, names in ((payload, ("E", "T")), (payload.get("k"), ("t", "T"))):
            for name in names:
                if isinstance(part, dict) and isinstance(part.get(name), int):
                    part[name] *= 1000
    return msgspec.json.encode(payload)

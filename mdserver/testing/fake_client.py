"""One client of a fake WebSocket venue: what it has sent, and every action of the venue on its connection."""

from __future__ import annotations

import enum
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
import trio
import wsproto
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, TextMessage

from .http_exchange import GONE

__all__ = ["FakeClient"]

_LINGER_S = 1.0
_SLOW_PAUSE_S = 0.05


class _End(enum.Enum):
    """How the venue ends the connection once the queue is sent."""

    HANG_UP = enum.auto()
    RESET = enum.auto()


class FakeClient:
    """A connected client.

    Messages to the client wait in an unbounded queue, which a task of this client writes. A client that does not read
    therefore delays no other client and loses nothing. Only :meth:`reset` and :meth:`go_dark` bypass the queue.

    ``received``: the client's messages so far. ``topics``: its subscriptions, which the venue maintains. ``pongs``:
    payloads of its pongs. ``client_close``: code and reason of its close frame; ``closed_by``: those of the venue's.
    ``active_at``: time of its last message, or of its connection, by trio's clock. ``answers_pings``: whether the venue
    answers its pings. ``on_frame`` is called with each message, ping and pong of the client, before it is processed.
    ``bytes_per_s``: the rate at which bytes are sent to it; None: as fast as it reads.
    """

    def __init__(
        self, stream: trio.SocketStream, protocol: wsproto.WSConnection, target: str, tell: Callable[[], None]
    ) -> None:
        self.target = target
        self.received: list[str] = []
        self.topics: set[str] = set()
        self.pongs: list[bytes] = []
        self.client_close: tuple[int, str] | None = None
        self.closed_by: tuple[int, str] | None = None
        self.answers_pings = True
        self.on_frame: Callable[[], None] = lambda: None
        self.bytes_per_s: float | None = None
        self.active_at = trio.current_time()
        self._stream = stream
        self._protocol = protocol
        self._tell = tell
        self._queue: deque[bytes | _End] = deque()
        self._queued = trio.Event()
        self._dark = False
        self._over = trio.CancelScope()
        self._traffic = trio.CancelScope()
        self._queue_event(AcceptConnection())

    # -- actions of the venue, queued in order --------------------------------------------------------

    def send(self, message: object) -> None:
        """Queue a text message: text and bytes as they are, anything else as JSON."""
        text = message if isinstance(message, str | bytes) else msgspec.json.encode(message)
        self._queue_event(TextMessage(data=text if isinstance(text, str) else text.decode()))

    def send_raw(self, data: bytes) -> None:
        """Queue bytes for the wire as they are: half a frame, garbage, frames made by the test."""
        self._queue_item(data)

    def ping(self, payload: bytes = b"") -> None:
        """Queue a ping; its pong will be in ``pongs``."""
        self._queue_event(Ping(payload=payload))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Queue a close frame and the end of the connection."""
        if self.closed_by is None and self.client_close is None:
            self._queue_event(CloseConnection(code=code, reason=reason))
            self.closed_by = (code, reason)
            self._queue_item(_End.HANG_UP)

    def hang_up(self) -> None:
        """Queue the end of the connection, without a close frame."""
        self._queue_item(_End.HANG_UP)

    def reset_in_frame(self, text: str = '{"cut":"here, in the middle of a message"}') -> None:
        """Queue the first half of a text frame, then a reset."""
        data = text.encode()
        head = bytes((0x81, len(data))) if len(data) < 126 else b"\x81\x7e" + len(data).to_bytes(2, "big")
        self._queue_item(head + data[: len(data) // 2])
        self._queue_item(_End.RESET)

    # -- actions that bypass the queue ------------------------------------------------------------

    def reset(self) -> None:
        """Cut the connection at once by a TCP reset; what is still queued is lost."""
        self._abort_on_close()
        self._over.cancel()

    def go_dark(self) -> None:
        """Neither read nor write nor close from now on: a half-open connection, as if the machine had vanished."""
        self._dark = True
        self._traffic.cancel()

    # -- serving -------------------------------------------------------------------------------------

    async def serve(
        self,
        on_connect: Callable[[FakeClient], Awaitable[None]],
        on_message: Callable[[FakeClient, str], Awaitable[None]],
    ) -> None:
        """Run until either side ends the connection."""
        try:
            with self._over:
                with self._traffic:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._write)
                        await on_connect(self)
                        await self._read(on_message)
                        nursery.cancel_scope.cancel()
                if self._dark:
                    await trio.sleep_forever()
        except* GONE:
            pass  # the client went away

    async def _read(self, on_message: Callable[[FakeClient, str], Awaitable[None]]) -> None:
        parts: list[str] = []
        while data := bytes(await self._stream.receive_some()):
            try:
                self._protocol.receive_data(data)
                events = list(self._protocol.events())
            except (wsproto.utilities.RemoteProtocolError, wsproto.utilities.LocalProtocolError):
                return  # a client that breaks the protocol, or sends after its close, must not fail the test
            for event in events:
                if isinstance(event, TextMessage | BytesMessage):
                    parts.append(_text(event))
                    if event.message_finished:
                        self.on_frame()
                        text, parts = "".join(parts), []
                        self.active_at = trio.current_time()
                        self.received.append(text)
                        await on_message(self, text)
                elif isinstance(event, Ping):
                    self.on_frame()
                    if self.answers_pings:
                        self._queue_event(event.response())
                elif isinstance(event, Pong):
                    self.on_frame()
                    self.pongs.append(bytes(event.payload))
                elif isinstance(event, CloseConnection) and self.client_close is None:
                    self.client_close = (event.code, event.reason or "")
                    if self.closed_by is None:
                        self._queue_event(event.response())
                        self._queue_item(_End.HANG_UP)
            self._tell()

    async def _write(self) -> None:
        while True:
            while not self._queue:
                await self._queued.wait()
            item = self._queue.popleft()
            if isinstance(item, bytes):
                await self._write_bytes(item)
            elif item is _End.RESET:
                self.reset()
            else:
                # Closing with unread bytes would send a reset, which may discard what was just sent.
                await self._stream.send_eof()
                await trio.sleep(_LINGER_S)
                self._over.cancel()

    async def _write_bytes(self, data: bytes) -> None:
        while data and self.bytes_per_s is not None:
            size = max(1, int(self.bytes_per_s * _SLOW_PAUSE_S))
            await self._stream.send_all(data[:size])
            data = data[size:]
            await trio.sleep(_SLOW_PAUSE_S)
        if data:
            await self._stream.send_all(data)

    def _queue_event(self, event: wsproto.events.Event) -> None:
        over = {ConnectionState.CLOSED}
        if not isinstance(event, CloseConnection):  # the answer to the client's close is still due
            over.add(ConnectionState.REMOTE_CLOSING)
        if self.closed_by is None and self._protocol.state not in over:
            self._queue_item(self._protocol.send(event))

    def _queue_item(self, item: bytes | _End) -> None:
        self._queue.append(item)
        self._queued.set()
        self._queued = trio.Event()

    def _abort_on_close(self) -> None:
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _text(event: TextMessage | BytesMessage) -> str:
    return event.data.decode(errors="replace") if isinstance(event, BytesMessage) else str(event.data)

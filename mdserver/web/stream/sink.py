"""The write side of a WebSocket client.

:class:`DirectSink` writes framed bytes directly to the socket. One non-blocking ``os.write`` per client and pass costs
3 µs; an awaited send through the server's layers costs 40 to 80. It takes over the write side by replacing the
instance attribute ``H11Protocol.send``, so that pongs, closes and the server's own answers go through the same queue as
records, in order. Reading remains with Hypercorn and Quart. A contract test covers that chain.

:class:`TlsSink` does the same with TLS. :class:`AsgiSink` serves every other set-up (HTTP/2, a test client, middleware
that wraps ``send``).

Bytes that a client does not take at once are parked in a bounded backlog, which a task drains; the task exists only
while the client is behind.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from quart import Websocket

from ...metrics import Metrics
from ...protocol.server_frames import messages, ping_frame
from ...stream.audience import Owed
from ..server.tcp_server import GuardedTCPServer
from ..server.tls import TlsStream
from ..server.websocket_connection import stream_of
from .backlog import Backlog

__all__ = ["AsgiSink", "BaseSink", "DirectSink", "TlsSink", "open_sink"]

HIGH_WATER_BYTES = 64 * 1024
"""Above this size the server's own answers to a client wait, so that a client cannot accumulate them."""
STALL_S = 30.0
"""A client that is behind and reads nothing for this long is disconnected."""
CLOSE_GRACE_S = 2.0
"""The time for a closing client to read what waits for it."""

_CLOSE = 0x88


class BaseSink:
    """Backlog, its bound, and draining; the subclass sends the bytes.

    ``behind``: bytes are parked. ``muted``: further frames are dropped because the connection is ending.
    ``descriptor``: where the router may write frames directly instead of calling :meth:`write`; -1: nowhere.
    """

    __slots__ = (
        "_backlog",
        "_bound_bytes",
        "_drained",
        "_in_flight",
        "_metrics",
        "_on_overflow",
        "_spawn",
        "_torn",
        "behind",
        "descriptor",
        "last_progress_s",
        "muted",
    )

    def __init__(
        self,
        spawn: Callable[[Callable[[], Awaitable[None]]], object],
        bound_bytes: int,
        metrics: Metrics,
        on_overflow: Callable[[], None],
    ) -> None:
        self.behind = False
        self.muted = False
        self.descriptor = -1
        self.last_progress_s = trio.current_time()
        self._spawn = spawn
        self._bound_bytes = bound_bytes
        self._metrics = metrics
        self._on_overflow = on_overflow
        self._backlog = Backlog()
        self._in_flight = b""
        self._drained: trio.Event | None = None
        self._torn = False

    def write(self, frames: bytes) -> None:
        """Send whole frames; bytes that the socket does not take are parked. Never blocks, never raises."""
        if frames and not self.muted:
            self._enqueue(frames)

    def offer(self, owed: Owed) -> None:
        """Keep a record for a client that is behind."""
        # a record that replaces an older one needs no room
        if not self.muted and self._backlog.offer(owed):
            self._check_bound()

    def write_last(self, frames: bytes) -> None:
        """Send the last frames, even to a muted sink; later frames are dropped."""
        self.mute()
        self._enqueue(frames)

    def mute(self) -> None:
        """Drop all further frames."""
        self.muted = True
        self.descriptor = -1

    def park(self, rest: bytes) -> None:
        """Send the rest of frames once the client reads it; until then the client is behind."""
        self.behind = True
        self.descriptor = -1
        self._in_flight = rest
        self._spawn(self._drain)

    def ping(self, payload: bytes) -> bool:
        """Send a ping, unless the client is behind: queued pings prove nothing, and some clients limit pings."""
        if self.behind or self.muted:
            return False
        self.write(ping_frame(payload))
        return True

    def last_heard_s(self) -> float | None:
        """Return when the peer last sent or read bytes, by trio's clock; None if unknown."""
        return None

    def cut_off(self) -> None:
        """Send nothing more and end the connection now."""
        self._tear()
        self._backlog.clear()

    async def drained(self) -> None:
        """Wait until nothing is parked."""
        while self.behind:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    # -- for subclasses ----------------------------------------------------------------------------

    def _send_now(self, frames: bytes) -> bytes:
        """Send without blocking; return the rest."""
        raise NotImplementedError

    def _encoded(self, frames: bytes) -> bytes:
        """Return parked frames in the form in which they are sent."""
        return frames

    def _caught_up(self) -> None:
        """Called when nothing is parked any more."""

    async def _send_rest(self, data: bytes) -> None:
        """Send all of ``data``."""
        raise NotImplementedError

    def _enqueue(self, frames: bytes) -> None:
        if self._torn:
            return
        if self.behind:
            self._backlog.append(frames)
            self._check_bound()
            return
        rest = self._send_now(frames)
        if rest:
            self.park(rest)

    def _tear(self) -> None:
        """Send nothing more, not even a close: the peer has disconnected, or would misread it."""
        self._torn = True
        self.mute()

    def _check_bound(self) -> None:
        if self._backlog.size + len(self._in_flight) > self._bound_bytes and not self.muted:
            self.mute()
            self._backlog.clear()
            self._on_overflow()

    async def _drain(self) -> None:
        try:
            while self._in_flight:
                await self._send_rest(self._in_flight)
                self._in_flight = self._encoded(self._backlog.take())
                self._metrics.conflated.inc(self._backlog.take_conflated())
        except (OSError, ValueError, trio.ClosedResourceError, trio.BrokenResourceError):
            self.cut_off()  # the peer has disconnected; the reading side ends the session
        finally:
            # cancelled within a frame: the peer would read all later bytes as part of it
            if self._in_flight:
                self._tear()
            self._in_flight = b""
            self.behind = False
            self._caught_up()
            if self._drained is not None:
                self._drained.set()
                self._drained = None


class DirectSink(BaseSink):
    """Writes to the TCP socket of a plain HTTP/1.1 connection."""

    __slots__ = ("_fd", "_server_send", "_tcp")

    def __init__(self, protocol: H11Protocol, tcp: GuardedTCPServer, *args: Any) -> None:
        super().__init__(*args)
        self._tcp = tcp
        self._fd = self.descriptor = tcp.fd
        tcp.on_close = self._forget_descriptor
        self._server_send = protocol.send
        protocol.send = self._protocol_send

    def _forget_descriptor(self) -> None:
        """Called before the socket is closed, so that no write goes to the next file with its number."""
        self._fd = self.descriptor = -1

    def _caught_up(self) -> None:
        if not self.muted:
            self.descriptor = self._fd

    def last_heard_s(self) -> float | None:
        """Return when the peer last sent bytes, or read some while it was behind."""
        return max(self._tcp.last_received_s, self.last_progress_s)

    def cut_off(self) -> None:
        """Reset the connection."""
        super().cut_off()
        self._tcp.abort()

    def _send_now(self, frames: bytes) -> bytes:
        try:
            sent = os.write(self._fd, frames)
        except BlockingIOError:
            return frames
        except OSError:
            self._tear()  # the reading side ends the session
            return b""
        return b"" if sent == len(frames) else frames[sent:]

    async def _send_rest(self, data: bytes) -> None:
        view, sent = memoryview(data), 0
        while sent < len(data):
            with trio.move_on_after(STALL_S) as scope:
                await trio.lowlevel.wait_writable(self._fd)
            if scope.cancelled_caught:
                self.cut_off()
                return
            try:
                sent += os.write(self._fd, view[sent:])
            except BlockingIOError:
                continue
            self.last_progress_s = trio.current_time()

    async def _protocol_send(self, event: Any) -> None:
        """Put the server's own output into the queue: pongs, closes, answers."""
        if isinstance(event, RawData):
            data = bytes(event.data)
            if data[0] == _CLOSE:
                self.write_last(data)
            else:
                self._enqueue(data)
            if self._backlog.size > HIGH_WATER_BYTES:
                await self.drained()
            else:
                await trio.lowlevel.checkpoint()
            return
        if isinstance(event, Closed):
            self.mute()
            with trio.move_on_after(CLOSE_GRACE_S, shield=True):
                await self.drained()
        await self._server_send(event)


class TlsSink(DirectSink):
    """Writes to the TCP socket of an HTTP/1.1 connection with TLS: encrypted for this client, one write a pass."""

    __slots__ = ("_tls",)

    def __init__(self, tls: TlsStream, *args: Any) -> None:
        super().__init__(*args)
        self._tls = tls
        self.descriptor = -1  # nobody may write past the encryption

    def _caught_up(self) -> None:
        pass

    def _encoded(self, frames: bytes) -> bytes:
        return self._tls.encrypt(frames) if frames else frames

    def _send_now(self, frames: bytes) -> bytes:
        try:
            encrypted = self._tls.encrypt(frames)
        except ssl.SSLError:
            self._tear()  # the reading side ends the session
            return b""
        return super()._send_now(encrypted)


class AsgiSink(BaseSink):
    """Sends each record as a message through the application's own ``websocket.send``."""

    __slots__ = ("_websocket",)

    def __init__(self, websocket: Websocket, *args: Any) -> None:
        super().__init__(*args)
        self._websocket = websocket

    def _send_now(self, frames: bytes) -> bytes:
        return frames

    async def _send_rest(self, data: bytes) -> None:
        for payload in messages(data):
            with trio.move_on_after(STALL_S) as scope:
                await self._websocket.send(payload)
            if scope.cancelled_caught:  # it reads nothing, for example by a window of 0
                self._on_overflow()
                raise trio.BrokenResourceError("the client does not read")


def open_sink(
    websocket: Websocket,
    nursery: trio.Nursery,
    *,
    bound_bytes: int,
    metrics: Metrics,
    on_overflow: Callable[[], None],
) -> BaseSink:
    """Take over the write side of an accepted WebSocket, directly if the connection allows it.

    Args:
        websocket: An accepted WebSocket on which no send is running.
        nursery: Runs the drain task; the end of the nursery ends the sink.
        bound_bytes: The most parked bytes; beyond it ``on_overflow`` is called once and the sink is muted.
        metrics: Counts conflated ticks.
        on_overflow: Called from within a write.
    """
    protocol = getattr(getattr(stream_of(websocket), "send", None), "__self__", None)
    tcp = getattr(getattr(protocol, "send", None), "__self__", None)
    common = (nursery.start_soon, bound_bytes, metrics, on_overflow)
    if isinstance(protocol, H11Protocol) and isinstance(tcp, GuardedTCPServer):
        stream: object = tcp.stream
        if isinstance(stream, trio.SocketStream):
            return DirectSink(protocol, tcp, *common)
        if isinstance(stream, TlsStream) and stream.take_over():
            return TlsSink(stream, protocol, tcp, *common)
    return AsgiSink(websocket, *common)

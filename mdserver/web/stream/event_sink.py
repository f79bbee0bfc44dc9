"""The write side of a client of server-sent events: turns the frames of a WebSocket client into events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import trio

from ...metrics import Metrics
from ...protocol.event_ids import Positions
from ...protocol.server_frames import payloads
from .sink import STALL_S, BaseSink

__all__ = ["COMMENT_S", "EventSink"]

COMMENT_S = 15.0
"""After this long without an event a comment is sent, so that client and proxies keep the connection."""

READY_BYTES = 64 * 1024
"""The bytes that may wait to be sent before the client counts as behind, at most one write more."""


class _Head(msgspec.Struct):
    """The fields of a record that determine its position; other messages have no number."""

    type: str
    broker: str = ""
    symbol: str = ""
    seq: int = 0


_head = msgspec.json.Decoder(_Head).decode


class EventSink(BaseSink):
    """Keeps frames of router and session until the response sends them. ``positions``: the numbers for the ids."""

    __slots__ = ("_changed", "_ended", "_ready", "_ready_bytes", "positions")

    def __init__(
        self,
        spawn: Callable[[Callable[[], Awaitable[None]]], object],
        bound_bytes: int,
        metrics: Metrics,
        on_overflow: Callable[[], None],
    ) -> None:
        super().__init__(spawn, bound_bytes, metrics, on_overflow)
        self.positions: Positions | None = None
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._changed = trio.Event()
        self._ended: int | None = None

    def end(self, retry_ms: int) -> None:
        """End the response after the waiting events; the client may reconnect after ``retry_ms``."""
        self._ended = retry_ms
        self._note_change()

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the body of the response."""
        while self._ready or self._ended is None:
            if not self._ready:
                with trio.move_on_after(COMMENT_S):
                    await self._changed.wait()
                if not self._ready and self._ended is None:
                    yield b":\n\n"
                continue
            data, self._ready, self._ready_bytes = b"".join(self._ready), [], 0
            self._note_change()
            yield b"".join(map(self._event, payloads(data)))
        yield b"retry: %d\n\n" % self._ended

    def _event(self, payload: bytes) -> bytes:
        if self.positions is None:
            return b"data: %b\n\n" % payload
        head = _head(payload)
        if head.seq:
            self.positions.advance(head.broker, (head.symbol, head.type), head.seq)
        return b"id: %b\ndata: %b\n\n" % (self.positions.event_id().encode(), payload)

    def _send_now(self, frames: bytes) -> bytes:
        if self._ready_bytes >= READY_BYTES:
            return frames
        self._ready.append(frames)
        self._ready_bytes += len(frames)
        self._note_change()
        return b""

    async def _send_rest(self, data: bytes) -> None:
        with trio.move_on_after(STALL_S) as scope:
            while self._ready_bytes >= READY_BYTES:
                await self._changed.wait()
        if scope.cancelled_caught:
            self._on_overflow()
            raise trio.BrokenResourceError("the client does not read")
        self._send_now(data)

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

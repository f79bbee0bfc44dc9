"""An HTTP request between Hypercorn and Quart-Trio, with a limit on the simultaneous answers of a connection.

HTTP/1 has one answer at a time, and :mod:`.tcp_server` ends the connection of a peer that does not read it. With HTTP/2
a peer can request many answers at once and then read none, by a window of 0: each would be made and kept for ever.
"""

from __future__ import annotations

from typing import Any

import structlog
import trio
from hypercorn.protocol.h2 import H2Protocol
from quart import Request
from quart_trio.asgi import TrioASGIHTTPConnection

from . import tcp_server
from .tcp_server import SLICE_BYTES, GuardedTCPServer

__all__ = ["HttpConnection", "nursery_of_request"]

ANSWERS_AT_ONCE = 2
"""Simultaneous answers of one HTTP/2 connection; other requests wait unread."""

STREAMS = frozenset(("/api/stream",))
"""Paths of answers without an end; they do not count, because each has bounds of its own."""

_NURSERY = "mdserver.nursery"

_log = structlog.get_logger("mdserver.web")


class HttpConnection(TrioASGIHTTPConnection):
    """Quart's side of a request. Requests of one HTTP/2 connection take turns; answers must be read in time."""

    async def __call__(self, receive: Any, send: Any) -> None:
        protocol = getattr(getattr(getattr(send, "__self__", None), "send", None), "__self__", None)
        tcp = getattr(getattr(protocol, "send", None), "__self__", None)
        if not isinstance(protocol, H2Protocol) or not isinstance(tcp, GuardedTCPServer):
            await super().__call__(receive, send)
            return
        if tcp.answers is None:
            tcp.answers = trio.CapacityLimiter(ANSWERS_AT_ONCE)

        async def send_in_time(message: Any) -> None:
            body = message.get("body", b"") if message["type"] == "http.response.body" else b""
            for start in range(SLICE_BYTES, len(body), SLICE_BYTES):
                part = {**message, "body": body[start - SLICE_BYTES : start], "more_body": True}
                await _within_bound(tcp, send, part)
            if len(body) > SLICE_BYTES:
                message = {**message, "body": body[(len(body) - 1) // SLICE_BYTES * SLICE_BYTES :]}
            await _within_bound(tcp, send, message)

        if self.scope["path"] in STREAMS:
            await super().__call__(receive, send_in_time)
            return
        async with tcp.answers:
            await super().__call__(receive, send_in_time)

    async def handle_request(self, nursery: trio.Nursery, request: Request, send: Any) -> None:  # type: ignore[override]
        """Make the answer and send it, in a nursery that the handler can use."""
        extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
        extensions[_NURSERY] = nursery
        self.scope["extensions"] = extensions
        await super().handle_request(nursery, request, send)


def nursery_of_request(request: Request) -> trio.Nursery:
    """Return the nursery of a request; it is cancelled when the answer is sent or the peer has disconnected."""
    nursery = (request.scope.get("extensions") or {})[_NURSERY]
    assert isinstance(nursery, trio.Nursery)  # noqa: S101
    return nursery


async def _within_bound(tcp: GuardedTCPServer, send: Any, message: Any) -> None:
    with trio.move_on_after(tcp_server.SEND_TIMEOUT_S) as scope:
        await send(message)
    if scope.cancelled_caught:
        tcp.cut_unread()
        raise trio.BrokenResourceError("the peer does not read the answer")

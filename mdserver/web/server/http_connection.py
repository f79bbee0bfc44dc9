"""An HTTP request between Hypercorn and Quart-Trio: bounded in what its connection has in flight.

HTTP/1 has one answer at a time, and :mod:`.tcp_server` cuts a peer that does not take it. With HTTP/2 a peer may ask
for many at once and then take nothing, by a window of 0: each would be made and kept for good.
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
"""Answers of one HTTP/2 connection that are made and sent at the same time; other requests wait unread."""

STREAMS = frozenset(("/api/stream",))
"""Answers without an end: they hold up no others, since each is bounded by itself."""

_NURSERY = "mdserver.nursery"

_log = structlog.get_logger("mdserver.web")


class HttpConnection(TrioASGIHTTPConnection):
    """Quart's side of a request; requests of one HTTP/2 connection take turns, and each has to be taken in time."""

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
        """Make the answer and send it; its handler finds the nursery in which that is done."""
        extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
        extensions[_NURSERY] = nursery
        self.scope["extensions"] = extensions
        await super().handle_request(nursery, request, send)


def nursery_of_request(request: Request) -> trio.Nursery:
    """Return the nursery in which a request is answered; it is cancelled when the answer is sent, or the peer gone."""
    nursery = (request.scope.get("extensions") or {})[_NURSERY]
    assert isinstance(nursery, trio.Nursery)  # noqa: S101
    return nursery


async def _within_bound(tcp: GuardedTCPServer, send: Any, message: Any) -> None:
    with trio.move_on_after(tcp_server.SEND_TIMEOUT_S) as scope:
        await send(message)
    if scope.cancelled_caught:
        tcp.cut_unread()
        raise trio.BrokenResourceError("the peer does not take the answer")

"""A WebSocket connection between Hypercorn and Quart-Trio, with access for the sink and with their faults corrected.

One client can harm the server with four faults; a test covers each:

* Hypercorn stores a message before it measures it, in characters, and goes on storing after it has refused it.
* If the handler of a connection ends while requests are queued, no task takes them and the reader waits for ever: it
  never notices that the peer has disconnected, and the socket stays open.
* If a client breaks the protocol, Hypercorn ends the connection without a close frame, a log line or a count.
* permessage-deflate costs 1.4 to 1.8 times the CPU and 100 kB per client, and prevents clients from sharing bytes.
  Hypercorn has no switch for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import trio
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from quart import Websocket
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIWebsocketConnection
from werkzeug.exceptions import BadHost
from werkzeug.routing import MapAdapter
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Event, Message

from .connections import Refusal
from .http_connection import HttpConnection
from .tcp_server import GuardedTCPServer

__all__ = [
    "StreamingQuartTrio",
    "forget_handshake",
    "nursery_of",
    "on_message_too_long",
    "on_violation",
    "refusal_of",
    "stream_of",
]

_EXTENSION = "mdserver.ws_stream"
_NO_HOST = "invalid"
_NURSERY = "mdserver.nursery"


class _BoundedBuffer(WebsocketBuffer):
    """The incoming message. If it gets too long, it and everything after it is dropped."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length)
        self.on_too_long: Callable[[], None] | None = None
        self._bytes = 0
        self._refused = False

    def extend(self, event: Message[Any]) -> None:
        """Store a part. Raises FrameTooLargeError, after which Hypercorn sends the close frame (once)."""
        if not self._refused:
            self._bytes += len(event.data.encode() if isinstance(event.data, str) else event.data)
            if self._bytes <= self.max_length:
                super().extend(event)
                return
            self.clear()
            self._refused = True
            if self.on_too_long is not None:
                self.on_too_long()
        raise FrameTooLargeError

    def clear(self) -> None:
        """Forget the stored parts."""
        super().clear()
        self._bytes = 0


class _StreamConnection(TrioASGIWebsocketConnection):
    """Gives the handler the server's stream object, limits its messages, and leaves no reader behind."""

    async def __call__(self, receive: Any, send: Any) -> None:
        stream = getattr(send, "__self__", None)
        if not isinstance(stream, WSStream):
            await super().__call__(receive, send)
            return
        stream.handshake.extensions = None
        stream.buffer = _BoundedBuffer(stream.buffer.max_length)
        self._show(_EXTENSION, stream)
        try:
            await super().__call__(receive, send)
        finally:
            stream.app_put = _discard
            _free_the_reader(receive)

    async def handle_websocket(self, nursery: trio.Nursery, websocket: Websocket, send: Any) -> None:  # type: ignore[override]
        """Run the handler in a nursery that it can use, so that it needs none of its own."""
        self._show(_NURSERY, nursery)
        await super().handle_websocket(nursery, websocket, send)

    def _show(self, name: str, value: object) -> None:
        extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
        extensions[name] = value
        self.scope["extensions"] = extensions


async def _discard(message: object) -> None:
    """Replace a queue that no task reads any more."""
    await trio.lowlevel.checkpoint()


def _free_the_reader(receive: Any) -> None:
    """Empty the queue of a handler that has ended; the reader may be waiting for room in it."""
    queue = getattr(receive, "__self__", None)
    if isinstance(queue, trio.MemoryReceiveChannel):
        try:
            while True:
                queue.receive_nowait()
        except trio.WouldBlock:
            return


class StreamingQuartTrio(QuartTrio):
    """Quart-Trio with limits on its answers, and with WebSocket handlers that can take over the write side."""

    asgi_http_class = HttpConnection

    asgi_websocket_class = _StreamConnection

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Find the routes of a request also where its ``Host`` cannot be one, which werkzeug ends with a bare 500.

        What is before every request then refuses it.
        """
        try:
            return super().create_url_adapter(request)
        except BadHost:
            assert request is not None  # noqa: S101 - the host is a request's
            how = (request.root_path, None, request.scheme, request.method, request.path)
            return self.url_map.bind(_NO_HOST, *how)


def stream_of(websocket: Websocket) -> WSStream | None:
    """Return Hypercorn's stream of a WebSocket; None under another server or a test client."""
    stream = (websocket.scope.get("extensions") or {}).get(_EXTENSION)
    return stream if isinstance(stream, WSStream) else None


def nursery_of(websocket: Websocket) -> trio.Nursery:
    """Return the nursery in which the handler of a WebSocket runs; it is cancelled when the handler ends."""
    nursery = (websocket.scope.get("extensions") or {})[_NURSERY]
    assert isinstance(nursery, trio.Nursery)  # noqa: S101
    return nursery


class _Accepted:
    """The part of a finished handshake that Hypercorn still reads."""

    accepted = True


_ACCEPTED = _Accepted()


def forget_handshake(websocket: Websocket) -> None:
    """Free what an accepted WebSocket no longer needs, the request's headers and h11's state: 1.4 kB per client."""
    stream = stream_of(websocket)
    if stream is None:
        return
    stream.handshake = _ACCEPTED  # type: ignore[assignment]
    protocol = getattr(stream.send, "__self__", None)
    if isinstance(protocol, H11Protocol) and isinstance(protocol.connection, H11WSConnection):
        protocol.connection.h11_connection = None  # type: ignore[assignment]


def on_message_too_long(websocket: Websocket, call: Callable[[], None]) -> None:
    """Call ``call`` once if a message of the client is too long; Hypercorn then closes with 1009."""
    stream = stream_of(websocket)
    if stream is not None and isinstance(stream.buffer, _BoundedBuffer):
        stream.buffer.on_too_long = call


def on_violation(websocket: Websocket, call: Callable[[int, str], None]) -> None:
    """Call ``call`` with close code and reason if the client breaks the protocol; it must close the connection.

    wsproto reports a violation like a close by the peer, but leaves the connection open for our close frame. Later data
    of the client are ignored.
    """
    connection = getattr(stream_of(websocket), "connection", None)
    if connection is None:  # another server, or the client went before it was accepted
        return
    received = connection.events

    def checked() -> Iterator[Event]:
        for event in received():
            if isinstance(event, CloseConnection) and connection.state is ConnectionState.OPEN:
                connection.receive_data = _ignore
                call(event.code, event.reason or "protocol error")
                return
            yield event

    connection.events = checked


def _ignore(data: bytes | None) -> None:
    pass


def refusal_of(websocket: Websocket) -> Refusal | None:
    """Return the limit that the connection of this WebSocket exceeds, or None."""
    protocol = getattr(getattr(stream_of(websocket), "send", None), "__self__", None)
    tcp = getattr(getattr(protocol, "send", None), "__self__", None)
    return tcp.refusal if isinstance(tcp, GuardedTCPServer) else None

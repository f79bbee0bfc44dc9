"""The WebSocket endpoint: accepts a client, passes its frames to its session, closes it at the session's request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from time import time_ns
from typing import Protocol, cast

import h11
import structlog
import trio
from quart import Response, Websocket, websocket
from werkzeug.local import LocalProxy

from ... import __version__
from ...log import RarelyLogged
from ...protocol import answers
from ...protocol.encoding import Wire
from ...protocol.server_frames import CloseCode
from ...stream.audience import Array
from ..access.access import Access
from ..access.handshake import bearer_key, offered_key, subprotocol_to_answer
from ..server.websocket_connection import (
    forget_handshake,
    nursery_of,
    on_message_too_long,
    on_violation,
    refusal_of,
)
from .clients import Clients
from .gate import AUTH_WITHIN_S, Gate
from .session import Session
from .sink import CLOSE_GRACE_S, open_sink

__all__ = ["stream_endpoint"]

_log = structlog.get_logger("mdserver.web")
_log_rarely = RarelyLogged(_log)


class Form(Protocol):
    """How a client gets its messages."""

    @property
    def wire(self) -> Wire:
        """The bytes of a message."""
        ...

    @property
    def array(self) -> Array:
        """What puts several records into one frame."""
        ...


def stream_endpoint(
    clients: Clients,
    make_session: Callable[..., Session],
    access: Access,
    *,
    form_of: Callable[[Websocket], Form | Response],
    epoch: str,
    buffer_bytes: int,
) -> Callable[[], Awaitable[Response | None]]:
    """Return the handler of a WebSocket route.

    Args:
        clients: The registry that each client joins.
        make_session: Makes the session of a new client from its write side and what starts a task of its own.
        access: Knows the keys, and what each may do.
        form_of: Returns the form of messages that a handshake asks for, or the answer that refuses it.
        epoch: What names the numbering of records; each client is told it.
        buffer_bytes: Bound on what may wait for one client.
    """

    async def stream() -> Response | None:
        form = form_of(websocket)
        if isinstance(form, Response):
            return form
        key = bearer_key(websocket.headers.get("Authorization")) or offered_key(
            websocket.requested_subprotocols
        )
        address = str((websocket.scope.get("client") or ["<local>"])[0])
        try:
            await websocket.accept(subprotocol=subprotocol_to_answer(websocket.requested_subprotocols))
        except h11.LocalProtocolError:
            return None  # the client sent bytes before the upgrade was done: the server ends the connection
        session: Session | None = None

        def overflow() -> None:
            if session is not None:
                session.overflow()

        own = cast("LocalProxy[Websocket]", websocket)._get_current_object()  # noqa: SLF001 - werkzeug's way to it
        forget_handshake(own)
        refused = refusal_of(own) is not None  # the sink will replace the path to it
        sink = open_sink(
            own,
            nursery_of(own),
            bound_bytes=buffer_bytes,
            metrics=clients.metrics,
            on_overflow=overflow,
        )
        session = make_session(
            sink, nursery_of(own).start_soon, gate=Gate(access, address), wire=form.wire, array=form.array
        )
        on_violation(own, partial(_break_off, session, clients))
        on_message_too_long(own, partial(session.close, CloseCode.TOO_BIG, "message too long"))
        try:
            await _serve(session, clients, epoch, key, refused=refused)
        finally:
            sink.mute()
            clients.forget(session)
        return None

    return stream


def _break_off(session: Session, clients: Clients, code: int, reason: str) -> None:
    """Close a client that broke the WebSocket protocol."""
    clients.metrics.violations.labels(str(code)).inc()
    _log_rarely.warning("client closed: it broke the WebSocket protocol", code=code, reason=reason)
    session.close(code, reason)


async def _serve(session: Session, clients: Clients, epoch: str, key: str | None, *, refused: bool) -> None:
    session.sink.write(answers.hello(session.wire, __version__, epoch, time_ns() // 1000))
    if refused or not clients.admit(session):
        session.complain(406, "too many connections")
        session.close(CloseCode.TRY_LATER, "too many connections")
    session.wait_for_key()
    with session.reading:
        if key is not None and session.gate.has_keys:
            await session.present_key(key)
        await _read(session)
    if session.reading.cancelled_caught and session.close_code is None:
        session.complain(404, f"not authenticated within {AUTH_WITHIN_S:.0f} s")
        session.close(CloseCode.POLICY, "not authenticated in time")
    # Wait for the client's close frame: closing a socket with unread input resets it, and the client would lose ours.
    # If the client has disconnected, the handler is cancelled before it reaches this.
    with trio.move_on_after(CLOSE_GRACE_S):
        await websocket.close(session.close_code or CloseCode.INTERNAL, session.close_reason)
        await session.sink.drained()
        while True:
            await websocket.receive()


async def _read(session: Session) -> None:
    while True:
        raw = await websocket.receive()
        try:
            await session.handle(b"" if raw is None else raw)  # Quart's form of an empty binary message
        except Exception:  # noqa: BLE001 - a bug of the server: the client gets an error, others are unaffected
            shown = "(hidden: it may hold a key)" if "auth" in str(raw) else repr(raw)[:200]
            _log.exception("client request failed", request=shown)
            session.complain(500, "internal error", session.request_id)
            session.close(CloseCode.INTERNAL, "internal error")
            return

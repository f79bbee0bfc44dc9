"""Hypercorn's trio TCP server, made safe for a daemon, and the loop that serves it.

Hypercorn 0.18 has faults with which one client can harm all others; a test covers each:

* An exception while a connection is parsed leaves that connection's task and ends the whole server. One byte after an
  upgrade that is not a WebSocket frame is enough (Hypercorn issue 225).
* ``send_all`` runs inside a shield without a deadline. A peer that stops reading can be neither timed out nor
  cancelled, not even at shutdown.
* With Quart-Trio it never closes an HTTP connection, neither after ``Connection: close`` nor when idle: the end of a
  request cancels, at its first checkpoint, the task that should close it.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NoReturn

import h11
import structlog
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app
from quart_trio import QuartTrio

from ...config import ServerConfig
from ...errors import ConfigError, leaves
from ...log import RarelyLogged
from ...metrics import Metrics
from ...os_errors import explain, user_name
from .connections import Connections, Refusal, malformed_body, refusal_response
from .handshake_check import handshake_refusal
from .tls import Certificate, TlsStream

__all__ = ["MAX_FRAME_BYTES", "GuardedTCPServer", "serve_app"]

MAX_FRAME_BYTES = 64 * 1024
"""The longest message of a client; a longer one closes the connection with 1009."""
SEND_TIMEOUT_S = 10.0
"""The connection of a peer that reads less than :data:`SLICE_BYTES` of a response in this time is reset."""
SLICE_BYTES = 64 * 1024
BACKLOG = 4096

REFUSED_S = 5.0
"""The time for the answer to a connection beyond the limits."""
ACCEPT_PAUSE_S = 0.1
"""The pause when the process has no descriptor left for a new connection."""
MAX_HTTP2_STREAMS = 16
HANDSHAKE_S = 10.0

_log = structlog.get_logger("mdserver.web")
_log_rarely = RarelyLogged(_log)
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_NO_SUCH_PROTOCOL = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))


class _Refused(Exception):
    """The request on a connection was refused and answered; nothing more is read."""


class GuardedTCPServer(TCPServer):
    """One connection, whose errors affect no other."""

    metrics: Metrics | None = None
    connections: Connections | None = None
    cleartext_http2 = True

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.last_received_s = trio.current_time()
        self.fd = self.stream.socket.fileno()
        """The socket's descriptor, for direct writes."""
        self.on_close: Callable[[], None] | None = None
        """Called before the socket is closed."""
        self.answers: trio.CapacityLimiter | None = None
        """Turns of the requests of an HTTP/2 connection."""
        self.refusal: Refusal | None = None
        """The limit that this connection exceeds, or None; the first request is answered with it."""

    async def run(self) -> None:
        """Serve the connection; an error ends only this one. A connection beyond the limits is answered and ended."""
        if self.connections is None:
            await self._serve()
            return
        address = self._peer().rpartition(":")[0]
        self.refusal = self.connections.enter(address)
        try:
            if self.refusal is None:
                await self._serve()
            elif self.refusal == "flood":
                self.abort()
            else:
                _log_rarely.warning(
                    "connection refused: too many connections", bound=self.refusal, address=address
                )
                with trio.move_on_after(REFUSED_S):
                    await self._serve()
        finally:
            self.connections.leave(address, self.refusal)

    async def _serve(self) -> None:
        try:
            await super().run()
        except* Exception as group:  # noqa: BLE001 - the guard: whatever one connection did ends that connection only
            self._count_drop()
            _log_rarely.warning(
                "connection dropped", error=repr(next(leaves(group)))[:200], peer=self._peer()
            )
            self.abort()

    @property
    def protocol(self) -> ProtocolWrapper:
        """The connection's protocol, set by Hypercorn; :meth:`_check` checks its requests."""
        return self._protocol

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        self._protocol = wrapper
        if isinstance(wrapper.protocol, H11Protocol):
            wrapper.protocol._send_error_response = partial(_answer_malformed, wrapper.protocol)  # type: ignore[method-assign]  # noqa: SLF001
            check = wrapper.protocol._check_protocol  # noqa: SLF001
            wrapper.protocol._check_protocol = partial(self._check, check)  # type: ignore[method-assign]  # noqa: SLF001

    async def _check(self, check: Callable[[h11.Request], Awaitable[None]], request: h11.Request) -> None:
        """Refuse requests on a connection beyond the limits, broken handshakes, and HTTP/2 without TLS.

        An upgrade to HTTP/2 is ignored then. Beyond the limits a WebSocket is passed on to its endpoint, which refuses
        it with an error message of the protocol. ``check``: Hypercorn's own, which begins HTTP/2 without TLS.
        """
        headers = dict(request.headers)
        if headers.get(b"upgrade", b"").strip().lower() == b"websocket":
            if (response := handshake_refusal(headers)) is not None:
                await self._answer_and_close(response)
        elif self.refusal is not None:
            await self._answer_and_close(refusal_response(self.refusal))
        if self.cleartext_http2 and self.refusal is None:
            await check(request)
        elif request.method == b"PRI":
            await self._answer_and_close(
                b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )

    async def _answer_and_close(self, response: bytes) -> NoReturn:
        await self.protocol_send(RawData(response))
        raise _Refused

    async def protocol_send(self, event: Event) -> None:
        """Send within the time limit; after it the connection is reset."""
        if not isinstance(event, RawData):
            with trio.move_on_after(SEND_TIMEOUT_S, shield=True):
                await super().protocol_send(event)
            return
        async with self.send_lock:
            if await self._send_all(memoryview(event.data)):
                return
        await self.protocol.handle(Closed())

    async def _send_all(self, data: memoryview) -> bool:
        """Send slice by slice, each within the time limit; False if the peer has disconnected or does not read."""
        for start in range(0, len(data), SLICE_BYTES):
            if start:
                await self._stop_if_cancelled()
            with trio.move_on_after(SEND_TIMEOUT_S, shield=True) as scope:
                try:
                    await self.stream.send_all(data[start : start + SLICE_BYTES])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return False  # the peer has disconnected; the caller informs the protocol
            if scope.cancelled_caught:
                self.cut_unread()
                return False
        return True

    def cut_unread(self) -> None:
        """Reset the connection of a peer that does not read its answer."""
        self._count_drop()
        _log_rarely.warning(
            "connection reset: the peer does not read", peer=self._peer(), seconds=SEND_TIMEOUT_S
        )
        self.abort()

    async def _stop_if_cancelled(self) -> None:
        """End a response early if the server stops; the peer must not take the part for the whole."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            self.abort()
            raise

    def abort(self) -> None:
        """Reset the connection at once, without waiting for unsent bytes."""
        sock = self.stream.socket
        self._closing()
        if sock.fileno() < 0:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def _closing(self) -> None:
        if self.on_close is not None:
            self.on_close()

    async def _close(self) -> None:
        self._closing()
        await super()._close()

    async def _initiate_server_close(self) -> None:
        self._closing()
        await super()._initiate_server_close()

    async def _read_data(self) -> None:
        while True:
            try:
                data = await self.stream.receive_some(MAX_RECV)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            self.last_received_s = trio.current_time()
            try:
                await self.protocol.handle(RawData(bytes(data)))
            except _Refused:
                break
            if not data:
                break
        await self.protocol.handle(Closed())

    def _count_drop(self) -> None:
        if self.metrics is not None:
            self.metrics.dropped_connections.inc()

    def _peer(self) -> str:
        try:
            host, port, *_ = self.stream.socket.getpeername()
        except OSError:
            return "gone"
        return f"{host}:{port}"


async def _answer_malformed(protocol: H11Protocol, status: int) -> None:
    """Answer what h11 refuses; Hypercorn's own answer has no body."""
    error = sys.exception()  # Hypercorn calls this where it catches h11's error
    body = malformed_body(status, str(error or ""))
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    send = protocol._send_h11_event  # noqa: SLF001
    await send(h11.Response(status_code=status, headers=headers))
    await send(h11.Data(data=body))
    await send(h11.EndOfMessage())


async def open_listeners(hosts: Sequence[str], port: int) -> list[trio.SocketListener]:
    """Bind each address, all to one port; ``*`` is every address of this machine, IPv4 and IPv6.

    A port of 0 takes a free one. A :class:`ConfigError` says why it cannot be done.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for host in hosts:
            for address in await _addresses(host, port):
                try:
                    found = await trio.open_tcp_listeners(port, host=address, backlog=BACKLOG)
                except OSError as error:
                    # For a name or "*", an IP version that this machine lacks is left out, unless none is left.
                    if listeners and address != host and error.errno in _NO_SUCH_PROTOCOL:
                        continue
                    message = (
                        f"server: {host}:{port} {_why_not(error)}; choose another server.port or server.host"
                    )
                    raise ConfigError([message]) from error
                listeners += found
                port = port or int(found[0].socket.getsockname()[1])
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def _why_not(error: OSError) -> str:
    """Return what an error of ``bind`` means for the operator."""
    if error.errno == errno.EADDRINUSE:
        return "is already in use"
    if error.errno == errno.EACCES:
        return f"cannot be bound: ports below 1024 are for root and CAP_NET_BIND_SERVICE, and we run as {user_name()}"
    if error.errno == errno.EADDRNOTAVAIL:
        return "cannot be bound: this machine has no such address"
    return f"cannot be bound: {explain(error)}"


async def _addresses(host: str, port: int) -> list[str]:
    """Return the addresses to bind for a host, IPv4 first because every machine has it."""
    if host == "*":
        return ["0.0.0.0", "::"]  # noqa: S104 - what the operator asked for
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            [f"server: {host}:{port} cannot be bound: {explain(error)}; choose another server.host"]
        ) from error
    return sorted({str(address[4][0]) for address in found}, key=lambda one: ":" in one)


async def _accept_forever(
    listener: trio.SocketListener,
    handler: Callable[[trio.SocketStream | TlsStream], Awaitable[None]],
    serving: trio.Nursery,
    certificate: Certificate | None,
) -> None:
    """Accept connections until cancelled. Without free descriptors new connections wait in the kernel's queue."""
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                _log_rarely.error(
                    "new connections wait, because the process has no free file descriptor: raise the limit of open "
                    "files (ulimit -n) or lower server.max_connections",
                    error=str(error),
                )
                await trio.sleep(ACCEPT_PAUSE_S)
            else:
                serving.start_soon(_handle, handler, stream, certificate)


async def _handle(
    handler: Callable[[trio.SocketStream | TlsStream], Awaitable[None]],
    stream: trio.SocketStream,
    certificate: Certificate | None,
) -> None:
    try:
        await handler(stream if certificate is None else TlsStream(stream, certificate.context))
    finally:
        await trio.aclose_forcefully(stream)


async def serve_app(
    app: QuartTrio,
    listeners: list[trio.SocketListener],
    metrics: Metrics,
    *,
    stop: trio.Event,
    grace_s: float,
    settings: ServerConfig | None = None,
    certificate: Certificate | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then give open requests ``grace_s`` seconds.

    Args:
        app: The application.
        listeners: Bound sockets; closed at the end.
        metrics: Counts dropped connections.
        stop: Ends accepting.
        settings: Limits on connections, and whether HTTP/2 without TLS is allowed.
        certificate: The certificate for TLS, read for each new connection; None: no TLS.
        grace_s: The time for running requests to end; the rest is then cancelled.
        task_status: Started once connections are accepted.
    """
    config = HypercornConfig()
    config.websocket_max_message_size = MAX_FRAME_BYTES
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.h2_max_concurrent_streams = MAX_HTTP2_STREAMS
    settings = settings or ServerConfig()
    config.ssl_handshake_timeout = HANDSHAKE_S
    config.keep_alive_timeout = settings.keep_alive_s
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    state: LifespanState = {}
    lifespan = Lifespan(wrapped, config, state)
    context = WorkerContext(None)
    connections = Connections(settings.max_connections, settings.max_connections_per_address, metrics)
    shared = {
        "metrics": metrics,
        "connections": connections,
        "cleartext_http2": settings.cleartext_http2,
    }
    server_class = type("MeteredTCPServer", (GuardedTCPServer,), shared)
    handler = partial(server_class, wrapped, config, context, ConnectionState(state))
    async with trio.open_nursery() as lifespan_nursery:
        await lifespan_nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as serving:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(_accept_forever, listener, handler, serving, certificate)
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            await context.terminated.set()
            serving.cancel_scope.deadline = trio.current_time() + grace_s
        await lifespan.wait_for_shutdown()
        lifespan_nursery.cancel_scope.cancel()

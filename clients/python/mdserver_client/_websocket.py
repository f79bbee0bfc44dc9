"""One WebSocket connection to the server, on anyio.

The protocol is that of the package websockets: handshake, control frames, closing, whatever is not plain. A whole text
frame, which nearly all are, is cut out of the bytes here: that takes a twentieth of the time.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream, SocketAttribute
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from .errors import ConnectionFailed, MdserverError, NotAuthenticated, ProtocolViolation, Refused, reason_of

__all__ = ["WebSocket", "close_all", "open_websocket"]

OPEN_S = 20.0
CLOSE_S = 1.0
READ_BYTES = 256 * 1024
MOST_BYTES = 64 * 1024 * 1024
"""Of one message: an answer that names 30,000 subscriptions has some 5 MB."""
MOST_HEAD_BYTES = 64 * 1024

_WHOLE_TEXT = 0x81
_REFUSALS: dict[int, type[MdserverError]] = {401: NotAuthenticated, 403: Refused}


class WebSocket:
    """An open connection; make it with :func:`open_websocket`."""

    def __init__(self, stream: ByteStream, protocol: ClientProtocol, rest: bytes) -> None:
        self._stream = stream
        self._protocol = protocol
        self._buffer = rest
        self._texts: list[bytes] = []
        self._parts: list[bytes] = []
        self.close_reason: str | None = None
        """Why there is nothing more; None while it is open."""

    async def receive(self) -> list[bytes]:
        """Return the text messages that have come, at least one. Cancellation loses nothing.

        Raises :class:`ConnectionFailed` when the connection has ended, :class:`ProtocolViolation` for what is no frame.
        """
        while not self._texts:
            self._take_frames()
            await self._flush()
            if not self._texts:
                await self._read()
        texts, self._texts = self._texts, []
        return texts

    async def _read(self) -> None:
        if self.close_reason is not None:
            raise ConnectionFailed(self.close_reason)
        try:
            self._buffer += await self._stream.receive(READ_BYTES)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            self.close_reason = "the connection was lost"
            raise ConnectionFailed(self.close_reason) from error

    def _take_frames(self) -> None:
        """Take the whole frames out of the buffer."""
        data, at, end = self._buffer, 0, len(self._buffer)
        append = self._texts.append
        while end - at >= 2:
            size, head = data[at + 1], at + 2
            if size == 126:
                head = at + 4
                size = int.from_bytes(data[at + 2 : head], "big")
            elif size == 127:
                head = at + 10
                size = int.from_bytes(data[at + 2 : head], "big")
            if head + size > end or head > end:
                if size > MOST_BYTES:
                    raise ProtocolViolation(f"a frame of {size} bytes")
                break
            if data[at] == _WHOLE_TEXT and not self._parts:
                append(data[head : head + size])
            else:
                self._other_frame(data[at : head + size])
            at = head + size
        self._buffer = data[at:]

    def _other_frame(self, frame: bytes) -> None:
        """Hand a frame that is no whole text to the protocol: a ping, a close, a part, a violation."""
        self._protocol.receive_data(frame)
        if self._protocol.parser_exc is not None:
            raise ProtocolViolation(f"no frame of a WebSocket: {self._protocol.parser_exc}")
        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._parts.append(bytes(event.data))
                if sum(map(len, self._parts)) > MOST_BYTES:
                    raise ProtocolViolation(f"a message of more than {MOST_BYTES} bytes")
                if event.fin:
                    self._texts.append(b"".join(self._parts))
                    self._parts.clear()
            elif event.opcode is Opcode.CLOSE:
                close = self._protocol.close_rcvd  # its close_code is known only once the socket has ended
                self.close_reason = "the server closed the connection"
                if close is not None:
                    self.close_reason += f" with {close.code}" + (f": {close.reason}" if close.reason else "")

    async def send(self, text: bytes) -> None:
        """Send a text message. Raises :class:`ConnectionFailed`."""
        self._protocol.send_text(text)
        await self._flush()

    async def _flush(self) -> None:
        chunks = [chunk for chunk in self._protocol.data_to_send() if chunk]
        if chunks:
            try:
                await self._stream.send(b"".join(chunks))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                self.close_reason = self.close_reason or "the connection was lost"
                raise ConnectionFailed(self.close_reason) from error

    async def aclose(self) -> None:
        """Say goodbye where that is quick, and close the socket; also when cancelled."""
        with anyio.move_on_after(CLOSE_S, shield=True), suppress(Exception):
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)
                await self._flush()
        with anyio.CancelScope(shield=True), suppress(Exception):
            await anyio.aclose_forcefully(self._stream)

    def abandon(self) -> None:
        """End the connection without waiting, both ways; the socket itself is closed by :meth:`aclose`."""
        raw = self._stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - no Django
        if raw is not None:
            with suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)


async def close_all(websockets: list[WebSocket]) -> None:
    """Close connections and take them out of the list; also when cancelled."""
    while websockets:
        await websockets.pop().aclose()


async def open_websocket(url: str, key: str | None, tls: ssl.SSLContext | None) -> WebSocket:
    """Connect and shake hands.

    Raises :class:`ConnectionFailed`, and :class:`NotAuthenticated` or :class:`Refused` where the server says so.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    with anyio.move_on_after(OPEN_S):
        try:
            stream: ByteStream
            if secure:
                stream = await anyio.connect_tcp(
                    host, port, tls=True, ssl_context=tls, tls_standard_compatible=False
                )
            else:
                stream = await anyio.connect_tcp(host, port)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise ConnectionFailed(f"cannot reach {host}:{port}: {reason_of(error)}") from error
        try:
            return await _shake_hands(stream, url, key)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)
            raise
    raise ConnectionFailed(f"{host}:{port} does not answer within {OPEN_S:.0f} s")


async def _shake_hands(stream: ByteStream, url: str, key: str | None) -> WebSocket:
    protocol = ClientProtocol(parse_uri(url), max_size=None)
    request = protocol.connect()
    if key is not None:
        request.headers["Authorization"] = f"Bearer {key}"
    protocol.send_request(request)
    try:
        await stream.send(b"".join(protocol.data_to_send()))
        head, blank, rest = b"", b"", b""
        while not blank:
            head += await stream.receive()
            if len(head) > MOST_HEAD_BYTES:
                raise ConnectionFailed(f"{url}: no HTTP answer within {MOST_HEAD_BYTES} bytes")
            before, blank, rest = head.partition(b"\r\n\r\n")
        protocol.receive_data(before + blank)
        if protocol.state is State.OPEN:
            return WebSocket(stream, protocol, rest)
        protocol.receive_data(rest)
        while protocol.handshake_exc is None:
            data = await stream.receive()
            protocol.receive_data(data)
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as error:
        protocol.receive_eof()
        if protocol.handshake_exc is None:
            raise ConnectionFailed(f"{url}: the connection was lost in the handshake") from error
    raise _refusal(url, protocol.handshake_exc)


def _refusal(url: str, error: BaseException | None) -> MdserverError:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        kind = error.response.headers.get("Content-Type", "no content type")
        body = bytes(error.response.body or b"")[:300].decode(errors="replace")
        if "problem+json" in kind:
            problem = _REFUSALS.get(status, ConnectionFailed)
            return problem(f"the server refuses the WebSocket: {status} {body}", status)
        return ConnectionFailed(f"{url} answered {status} with {kind}: no mdserver, or a proxy before it")
    reason = error if isinstance(error, InvalidHandshake) else f"{type(error).__name__}: {error}"
    return ConnectionFailed(f"{url} is no WebSocket of mdserver: {reason}")

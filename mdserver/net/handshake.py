"""The HTTP upgrade that opens a WebSocket, without I/O (h11 implements HTTP)."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence

import attrs
import h11

__all__ = ["Accepted", "Handshake", "HandshakeError", "Refused"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_BODY_BYTES = 4096


class HandshakeError(Exception):
    """The other side's answer is not a WebSocket handshake."""


@attrs.frozen
class Accepted:
    """The server has switched to WebSocket; ``trailing`` are the bytes of frames that followed its answer."""

    trailing: bytes


@attrs.frozen
class Refused:
    """The server has answered with another HTTP status; ``body`` is at most 4 KiB of its text."""

    status: int
    headers: dict[str, str]
    body: str


class Handshake:
    """The client's side of an opening handshake.

    Send :attr:`request`, then pass the received bytes to :meth:`feed` until it returns an outcome.
    """

    def __init__(self, host: str, target: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        key = base64.b64encode(os.urandom(16))
        self._accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        self._connection = h11.Connection(our_role=h11.CLIENT)
        self._refusal: h11.Response | None = None
        self._body = b""
        fields = [
            ("Host", host),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", key.decode()),
            ("Sec-WebSocket-Version", "13"),
            *headers,
        ]
        try:
            request = h11.Request(method="GET", target=target, headers=fields)
        except h11.LocalProtocolError as error:
            raise ValueError(f"not a valid request for {host}{target}: {error}") from error
        self.request: bytes = self._connection.send(request) or b""
        self.request += self._connection.send(h11.EndOfMessage()) or b""

    def feed(self, data: bytes) -> Accepted | Refused | None:
        """Process bytes from the server (``b""`` at its end); return the outcome, or None if more bytes are needed.

        Raises :class:`HandshakeError` if the answer is not HTTP or not a correct handshake.
        """
        if not data and self._refusal is None:
            raise HandshakeError("the connection was closed before the WebSocket handshake was answered")
        try:
            self._connection.receive_data(data)
            return self._advance()
        except h11.RemoteProtocolError as error:
            if self._refusal is not None:
                return self._refused(self._refusal)  # a refusal with a damaged body is still a refusal
            raise HandshakeError(f"the answer is not a WebSocket handshake: {error}") from error

    def _advance(self) -> Accepted | Refused | None:
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    self._check(event)
                    return Accepted(bytes(self._connection.trailing_data[0]))
            elif isinstance(event, h11.Response):
                self._refusal = event
            elif isinstance(event, h11.Data):
                self._body += bytes(event.data)
            if self._refusal is not None and (
                isinstance(event, h11.EndOfMessage | h11.ConnectionClosed)
                or len(self._body) >= _MAX_BODY_BYTES
            ):
                return self._refused(self._refusal)

    def _refused(self, response: h11.Response) -> Refused:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        return Refused(response.status_code, headers, self._body[:_MAX_BODY_BYTES].decode(errors="replace"))

    def _check(self, response: h11.InformationalResponse) -> None:
        headers = dict(response.headers)
        accept = headers.get(b"sec-websocket-accept", b"")
        if headers.get(b"upgrade", b"").lower() != b"websocket":
            raise HandshakeError("the answer 101 does not switch to WebSocket")
        if accept.strip() != self._accept:
            raise HandshakeError("Sec-WebSocket-Accept does not match our key: not a WebSocket server")
        for name in (b"sec-websocket-extensions", b"sec-websocket-protocol"):
            if headers.get(name):
                raise HandshakeError(f"the server selected {name.decode()} although none was offered")

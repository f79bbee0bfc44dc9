"""Checks the headers of a WebSocket handshake before Hypercorn does, whose refusals have no body or are none at all.

Hypercorn ends the connection without an answer if one of these headers holds anything but ASCII.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from .connections import invalid_request_body

__all__ = ["handshake_refusal"]

VERSION = b"13"
KEY_BYTES = 16
_READ = (
    b"connection",
    b"upgrade",
    b"sec-websocket-key",
    b"sec-websocket-version",
    b"sec-websocket-protocol",
    b"sec-websocket-extensions",
)


def handshake_refusal(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the HTTP/1.1 answer to a handshake that breaks RFC 6455, or None; ``headers`` by lower-case name."""
    for name in _READ:
        if not headers.get(name, b"").isascii():
            shown = "-".join(
                "WebSocket" if part == "websocket" else part.title() for part in name.decode().split("-")
            )
            return _answer(400, "Bad Request", f"{shown}: expected ASCII characters only")
    if headers.get(b"sec-websocket-version") != VERSION:
        detail = f"Sec-WebSocket-Version: expected {VERSION.decode()}"
        return _answer(426, "Upgrade Required", detail, f"Sec-WebSocket-Version: {VERSION.decode()}\r\n")
    if not _is_key(headers.get(b"sec-websocket-key", b"")):
        return _answer(400, "Bad Request", f"Sec-WebSocket-Key: expected {KEY_BYTES} bytes in base64")
    return None


def _is_key(text: bytes) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False


def _answer(status: int, phrase: str, detail: str, headers: str = "") -> bytes:
    body = invalid_request_body(status, detail)
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nConnection: close\r\n{headers}\r\n"
    )
    return head.encode() + body

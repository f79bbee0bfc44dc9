"""Read and write WebSocket frames (RFC 6455) on a client's side, without I/O.

A market data session is a flow of small text frames from the server, and this reader is made for that: it returns every
message that one read completes, and keeps control frames and faults in attributes. Extensions are not supported,
because the client never offers one.
"""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = [
    "BINARY",
    "CLOSE",
    "PING",
    "PONG",
    "TEXT",
    "Close",
    "FrameReader",
    "encode_close",
    "encode_frame",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

PROTOCOL_ERROR, INVALID_PAYLOAD, TOO_BIG = 1002, 1007, 1009
NO_STATUS = 1005

_FIN = 0x80
_MAX_CONTROL_BYTES = 125
_WHOLE_TEXT = _FIN | TEXT


class Close(NamedTuple):
    """The content of a close frame, received or to be sent. ``code`` 1005: the frame had no code."""

    code: int
    reason: str


class FrameReader:
    """Turns a server's bytes into messages, independent of how the bytes are split into reads.

    After each :meth:`feed` check ``ping`` (the payload of the newest unanswered ping), ``controls`` (the number of
    control frames so far), ``close`` (the server's close frame) and ``failure`` (the server's violation, with its close
    code). Once ``close`` or ``failure`` is set, further bytes are ignored.
    """

    def __init__(self, *, max_message_bytes: int) -> None:
        self.ping: bytes | None = None
        self.controls = 0
        self.close: Close | None = None
        self.failure: Close | None = None
        self._max_bytes = max_message_bytes
        self._held = bytearray()
        self._needed = 0
        self._parts: list[bytes] | None = None
        self._parts_bytes = 0
        self._parts_are_text = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that ``data`` completes, in order; text is valid UTF-8, still encoded."""
        if self.failure is not None or self.close is not None:
            return []
        if self._held:
            # Extends a bytearray instead of joining each time, so a large message in tiny reads costs linear time.
            self._held += data
            if len(self._held) < self._needed:
                return []
            data = bytes(self._held)
            self._held.clear()
        messages: list[bytes] = []
        used = self._parse(data, messages)
        if used < len(data) and self.failure is None and self.close is None:
            self._held += data[used:]
        return messages

    def _parse(self, data: bytes, messages: list[bytes]) -> int:
        """Append complete messages to ``messages``; return the number of consumed bytes."""
        at = 0
        end = len(data)
        while end - at >= 2:
            head = data[at]
            length = data[at + 1]
            body = at + 2
            if length > 125:
                extra = {126: 2, 127: 8}.get(length, 0)
                if end < body + extra:
                    self._needed = 2 + extra
                    return at
                length = self._extended_length(length, data[body : body + extra])
                body += extra
            if (head != _WHOLE_TEXT or self._parts is not None) and not self._allowed(head, length):
                return at
            if length > self._max_bytes:
                self._fail(TOO_BIG, f"frame of {length} bytes, at most {self._max_bytes} are accepted")
            if self.failure is not None:
                return at
            stop = body + length
            if stop > end:
                self._needed = stop - at
                return at
            payload = data[body:stop]
            at = stop
            if head == _WHOLE_TEXT:
                if payload.isascii() or self._is_utf8(payload):
                    messages.append(payload)
            else:
                self._take(head, payload, messages)
            if self.failure is not None or self.close is not None:
                return at
        self._needed = 2
        return at

    def _extended_length(self, marker: int, raw: bytes) -> int:
        if marker > 127:
            self._fail(PROTOCOL_ERROR, "masked frame from the server")
            return 0
        length = int.from_bytes(raw, "big")
        if length < (126 if marker == 126 else 0x10000) or length >> 63:
            self._fail(PROTOCOL_ERROR, f"frame length {length} in a field of {len(raw)} bytes")
            return 0
        return length

    def _allowed(self, head: int, length: int) -> bool:
        """Return whether a frame's first byte is allowed in the present state; set the failure if not."""
        opcode = head & 0x0F
        if head & 0x70:
            self._fail(PROTOCOL_ERROR, f"reserved bits set in a frame's first byte 0x{head:02x}")
        elif opcode >= CLOSE:
            if opcode > PONG:
                self._fail(PROTOCOL_ERROR, f"unknown opcode 0x{opcode:x}")
            elif not head & _FIN or length > _MAX_CONTROL_BYTES:
                self._fail(PROTOCOL_ERROR, "fragmented or oversized control frame")
        elif opcode > BINARY:
            self._fail(PROTOCOL_ERROR, f"unknown opcode 0x{opcode:x}")
        elif (opcode == CONTINUATION) != (self._parts is not None):
            what = "continuation without a start" if opcode == CONTINUATION else "new message inside another"
            self._fail(PROTOCOL_ERROR, what)
        return self.failure is None

    def _take(self, head: int, payload: bytes, messages: list[bytes]) -> None:
        opcode = head & 0x0F
        if opcode >= CLOSE:
            self._take_control(opcode, payload)
            return
        if opcode != CONTINUATION:
            self._parts, self._parts_bytes, self._parts_are_text = [], 0, opcode == TEXT
        parts = self._parts
        if parts is None:
            raise AssertionError("a continuation without a start was let through")
        if payload:
            parts.append(payload)  # empty ones would accumulate without ever reaching the size bound
        self._parts_bytes += len(payload)
        if self._parts_bytes > self._max_bytes:
            self._fail(TOO_BIG, f"message of more than {self._max_bytes} bytes")
        elif head & _FIN:
            message = b"".join(parts)
            self._parts = None
            if not self._parts_are_text or self._is_utf8(message):
                messages.append(message)

    def _take_control(self, opcode: int, payload: bytes) -> None:
        self.controls += 1
        if opcode == PING:
            self.ping = payload
        elif opcode == CLOSE:
            if len(payload) == 1:
                self._fail(PROTOCOL_ERROR, "close frame with half a code")
            elif self._is_utf8(payload[2:]):
                code = int.from_bytes(payload[:2], "big") if payload else NO_STATUS
                self.close = Close(code, payload[2:].decode())

    def _is_utf8(self, payload: bytes) -> bool:
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            self._fail(INVALID_PAYLOAD, f"text that is not UTF-8: {error.reason} at byte {error.start}")
            return False
        return True

    def _fail(self, code: int, reason: str) -> None:
        self.failure = Close(code, reason)


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """Return one whole frame, masked as the protocol requires of a client."""
    length = len(payload)
    if length < 126:
        head = bytes((_FIN | opcode, 0x80 | length))
    elif length < 0x10000:
        head = bytes((_FIN | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
    key = os.urandom(4)
    mask = (key * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + key + masked.to_bytes(length, "big")


def encode_close(code: int, reason: str = "") -> bytes:
    """Return a close frame; a reason that is too long for a control frame is cut between two characters."""
    text = reason.encode()[: _MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    payload = b"" if code == NO_STATUS else code.to_bytes(2, "big") + text
    return encode_frame(CLOSE, payload)

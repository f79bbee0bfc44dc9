"""Server WebSocket frames (RFC 6455, section 5.2).

Server frames are not masked, so the bytes are the same for every client: a record is framed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

__all__ = [
    "CloseCode",
    "binary_frame",
    "close_frame",
    "messages",
    "parts_of",
    "payload_of",
    "payloads",
    "ping_frame",
    "text_frame",
    "text_frames",
    "text_payloads",
]


class CloseCode:
    """The close codes that this server sends (RFC 6455, section 7.4.1, and the IANA registry)."""

    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013


def text_frame(payload: bytes) -> bytes:
    """Frame one text message."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def binary_frame(payload: bytes) -> bytes:
    """Frame one binary message."""
    return b"\x82" + text_frame(payload)[1:]


def text_frames(payloads: Sequence[bytes]) -> bytes:
    """Frame text messages, one after the other; nothing in Python runs per message as long as they are short."""
    sizes = list(map(len, payloads))
    if max(sizes, default=0) >= len(_HEADS):
        return b"".join(map(text_frame, payloads))
    heads = map(_HEADS.__getitem__, sizes)
    return b"".join(chain.from_iterable(zip(heads, payloads, strict=True)))


_HEADS = [text_frame(bytes(size))[:-size] if size else text_frame(b"") for size in range(1024)]
"""What comes before a payload of so many bytes."""


def ping_frame(payload: bytes) -> bytes:
    """Frame a ping; ``payload`` is at most 125 bytes."""
    return b"\x89%c%b" % (len(payload), payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Frame a close; a reason over 123 bytes of UTF-8 is cut at a character."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return b"\x88%c%b%b" % (len(text) + 2, code.to_bytes(2, "big"), text)


def payload_of(frame: bytes) -> bytes:
    """Return the payload of one text or binary frame made here."""
    head = {126: 4, 127: 10}.get(frame[1], 2)
    return frame[head:]


def messages(data: bytes) -> Iterator[str | bytes]:
    """Yield what is in whole frames made here, one after the other: text or bytes, as it is to be sent."""
    for is_text, payload in _cut(data):
        yield payload.decode() if is_text else payload


def payloads(data: bytes) -> Iterator[bytes]:
    """Yield what is in whole frames made here, one after the other."""
    for _, payload in _cut(data):
        yield payload


def parts_of(data: bytes, most: int) -> Iterator[bytes]:
    """Cut whole frames made here into parts of whole frames, of at least ``most`` bytes each but the last."""
    start = at = 0
    while at < len(data):
        at = _end_of(data, at)
        if at - start >= most:
            yield data[start:at]
            start = at
    if start < at:
        yield data[start:at]


def text_payloads(data: bytes) -> Iterator[str]:
    """Yield the texts of whole text frames made by :func:`text_frame`, one after the other."""
    return map(bytes.decode, payloads(data))


def _end_of(data: bytes, at: int) -> int:
    """Return where the frame ends that begins at a place."""
    size = data[at + 1]
    if size == 126:
        return at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
    if size == 127:
        return at + 10 + int.from_bytes(data[at + 2 : at + 10], "big")
    return at + 2 + size


def _cut(data: bytes) -> Iterator[tuple[bool, bytes]]:
    at = 0
    while at < len(data):
        is_text, size, head = data[at] == 0x81, data[at + 1], 2
        if size == 126:
            size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
        at += head
        yield is_text, data[at : at + size]
        at += size

"""The encoding of a client's messages: JSON or MessagePack, with times in one of four forms, framed once.

A :class:`Wire` holds the options in a connection's URL, an :class:`Encoding` those and the options of a subscription.
There is one object for each combination, so they are compared by identity, and clients with the same share the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct

from ..kinds import KINDS
from ..model import US_PER_S, Published
from ..record_wire import Received
from .server_frames import binary_frame, parts_of, payload_of, payloads, text_frame
from .times import TIMES, ShownTime, Times

__all__ = [
    "PLAIN",
    "PLAIN_WIRE",
    "TRANSLATED_BYTES",
    "Encoding",
    "Format",
    "Wire",
    "array_head",
    "encoding",
    "mark",
    "wire_of",
]

Format: TypeAlias = Literal["json", "msgpack"]

ARRAY_BYTES = 64 * 1024
"""The bytes in one frame with several records, at most one record more: clients limit the size of a message."""

TRANSLATED_BYTES = 16 * 1024
"""The bytes of a replay that are translated before other tasks run, at most one record more: 0.3 ms of work."""

_TEXT = 0x81
_TIMES_OF_RECORDS = ("time", "received", "from", "to")
_json = msgspec.json.Encoder().encode
_msgpack = msgspec.msgpack.Encoder().encode


class Wire:
    """The encoding of all messages of a connection. Made by :func:`wire_of`.

    ``show`` converts a time from microseconds, ``encode`` encodes one message, ``frame`` frames its bytes.
    """

    __slots__ = ("encode", "format", "frame", "show", "times")

    def __init__(self, format_: Format, times: Times) -> None:
        self.format: Format = format_
        self.times: Times = times
        self.show: Callable[[int], ShownTime] = TIMES[times]
        self.encode: Callable[[Any], bytes] = _json if format_ == "json" else _msgpack
        self.frame: Callable[[bytes], bytes] = text_frame if format_ == "json" else binary_frame

    def message(self, message: Struct) -> bytes:
        """Return a message as one frame."""
        return self.frame(self.encode(message))

    def array(self, frames: Sequence[bytes]) -> bytes:
        """Return single frames joined into frames of several messages: arrays in the same order.

        A single frame stays unchanged.
        """
        out: list[bytes] = []
        gathered: list[bytes] = []
        size = 0
        for frame in frames:
            gathered.append(frame)
            size += len(frame)
            if size >= ARRAY_BYTES:
                out.append(self._array(gathered))
                gathered, size = [], 0
        if gathered:
            out.append(self._array(gathered))
        return out[0] if len(out) == 1 else b"".join(out)

    def _array(self, frames: Sequence[bytes]) -> bytes:
        if len(frames) == 1:
            return frames[0]
        payloads = list(map(payload_of, frames))
        if self.format == "json":
            return text_frame(b"[%b]" % b",".join(payloads))
        return binary_frame(array_head(len(payloads)) + b"".join(payloads))


class Encoding:
    """The encoding of records for subscriptions with the same options. Made by :func:`encoding`.

    ``received``: with the time of receipt; ``levels``: the levels of an order book, 0 for all.
    """

    __slots__ = ("_encode", "_frame", "_show", "levels", "received", "wire")

    def __init__(self, wire: Wire, *, received: bool, levels: int) -> None:
        self.wire = wire
        self.received = received
        self.levels = levels
        self._encode, self._frame = wire.encode, wire.frame
        self._show = None if wire.times == "s" else wire.show

    def payload(self, published: Published) -> bytes:
        """Return a record without a frame."""
        return self._encode(self._shown(published))

    def frame(self, published: Published) -> bytes:
        """Return a record as one frame."""
        return self._frame(self._encode(self._shown(published)))

    def snapshot(self, published: Published) -> bytes:
        """Return a record as one frame, marked as the last known one."""
        shown = self._shown(published)
        frame = self._frame(self._encode(shown))
        return frame if getattr(shown, "snapshot", UNSET) is True else mark(frame, "snapshot", True)

    def _shown(self, published: Published) -> Struct:
        record = published.record
        kind = KINDS[type(record)]
        if self.levels and kind.cut is not None:
            record = kind.cut(record, self.levels)
        stamp: Received = UNSET
        if self.received and (received_us := published.received_us) is not None:
            # the same as seconds(), inlined because this runs for each record
            stamp = received_us / US_PER_S if received_us % US_PER_S else received_us // US_PER_S
        shown = kind.wire(published, record, stamp)
        if self._show is not None:
            self._show_times(shown, published, kind.times)
        return shown

    def _show_times(self, shown: Any, published: Published, times: Sequence[tuple[str, str]]) -> None:
        """Replace the times of an encoded record by the client's form."""
        show = self._show
        assert show is not None  # noqa: S101 - else they are as they are to be
        for name, source in times:
            if getattr(shown, name) is not UNSET:
                setattr(shown, name, show(getattr(published.record, source)))
        if self.received and published.received_us is not None and hasattr(shown, "received"):
            shown.received = show(published.received_us)

    def parts(self, frames: bytes) -> Iterator[bytes]:
        """Cut frames of a replay into parts, each of which :meth:`translate` handles without delaying other tasks."""
        return iter((frames,)) if self.wire is PLAIN_WIRE else parts_of(frames, TRANSLATED_BYTES)

    def translate(self, frames: bytes) -> bytes:
        """Return in this encoding records that a replay has read as frames of JSON with times in seconds."""
        wire = self.wire
        if wire is PLAIN_WIRE:
            return frames
        out = []
        for text in payloads(frames):
            message = msgspec.json.decode(text)
            if wire.times != "s":
                for name in _TIMES_OF_RECORDS:
                    if name in message:
                        message[name] = wire.show(round(message[name] * US_PER_S))
            out.append(wire.frame(wire.encode(message)))
        return b"".join(out)


_one_wire = cache(Wire)
_one_encoding = cache(Encoding)


def wire_of(format_: Format = "json", times: Times = "s") -> Wire:
    """Return the encoding of a connection with these options; always the same object for the same options."""
    return _one_wire(format_, times)


def encoding(wire: Wire, *, received: bool = False, levels: int = 0) -> Encoding:
    """Return the encoding of records for a subscription; always the same object for the same options."""
    return _one_encoding(wire, received=received, levels=levels)


def mark(frame: bytes, name: str, value: int) -> bytes:
    """Return a record's frame with one more field at the end."""
    payload = payload_of(frame)
    if frame[0] == _TEXT:
        return text_frame(payload[:-1] + b',"%b":%b}' % (name.encode(), _json(value)))
    size, head = (payload[0] & 0x0F, 1) if payload[0] != 0xDE else (int.from_bytes(payload[1:3], "big"), 3)
    added = bytes((0x80 | size + 1,)) if size < 15 else b"\xde" + (size + 1).to_bytes(2, "big")
    return binary_frame(added + payload[head:] + _msgpack(name) + _msgpack(value))


def array_head(size: int) -> bytes:
    """Return the header of a MessagePack array."""
    if size < 16:
        return bytes((0x90 | size,))
    return b"\xdc" + size.to_bytes(2, "big") if size < 65_536 else b"\xdd" + size.to_bytes(4, "big")


PLAIN_WIRE = wire_of()
"""JSON, and times in Unix seconds."""

PLAIN = encoding(PLAIN_WIRE)
"""The default encoding of records; an order book has all its levels."""

"""Records as bytes: encoded once for all clients that want the same, framed once."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.json import Encoder

from ..kinds import KINDS
from ..model import Published
from ..record_wire import Received, seconds
from .server_frames import text_frame, text_payload

__all__ = ["as_snapshot", "encode_record", "frame_record", "with_conflated"]

_encode = Encoder().encode

_SNAPSHOT = b'"snapshot":true}'


def encode_record(published: Published, *, received: bool = False) -> bytes:
    """Return the JSON of a record; with the time of its receipt if ``received``, where there is one."""
    record = published.record
    stamp: Received = UNSET
    if received and published.received_us is not None:
        stamp = seconds(published.received_us)
    return _encode(KINDS[type(record)].wire(published, record, stamp))


def frame_record(published: Published, *, received: bool = False) -> bytes:
    """Return a record as one WebSocket text frame."""
    return text_frame(encode_record(published, received=received))


def as_snapshot(published: Published, *, received: bool = False) -> bytes:
    """Return a record as one WebSocket text frame that says that it is the last one and not a new one."""
    text = encode_record(published, received=received)
    return text_frame(text if text.endswith(_SNAPSHOT) else text[:-1] + b"," + _SNAPSHOT)


def with_conflated(frame: bytes, skipped: int) -> bytes:
    """Return a record's frame with the number of older records that it stands for."""
    return text_frame(b'%b,"conflated":%d}' % (text_payload(frame)[:-1], skipped))

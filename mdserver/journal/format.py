"""The journal's format: frames in segment files. Pure.

A frame is :data:`MAGIC`, the length of its payload and the payload's CRC-32 (both little-endian, 4 bytes), then the
payload: one batch as MessagePack. By the magic a reader finds the next frame after damage: its first byte occurs in
valid MessagePack only inside strings and numbers. Its last byte is the version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct
from typing import Any, Union
from zlib import crc32

import msgspec

from ..errors import JournalCorrupt
from ..kinds import KINDS
from ..model import Published

__all__ = ["HEADER_BYTES", "MAGIC", "FrameDecoder", "FrameEncoder", "frame_end"]

MAGIC = b"\xc1mj1"
_HEADER = Struct("<4sII")
HEADER_BYTES = _HEADER.size


class FrameEncoder:
    """Encodes batches into one buffer, which is reused."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()

    def encode(self, batch: Sequence[Published]) -> bytearray:
        """Return the batch's frame; valid until the next call."""
        buffer = self._buffer
        self._encoder.encode_into(batch, buffer, HEADER_BYTES)
        with memoryview(buffer) as view:
            checksum = crc32(view[HEADER_BYTES:])
        _HEADER.pack_into(buffer, 0, MAGIC, len(buffer) - HEADER_BYTES, checksum)
        return buffer


class FrameDecoder:
    """Decodes what :class:`FrameEncoder` wrote, in this version or an earlier one; the tag of a record names its kind.

    Fields that an earlier version did not have get their defaults.
    """

    def __init__(self) -> None:
        record: Any = Union[tuple(KINDS)]  # noqa: UP007 - the classes are known only at run time
        entry: Any = msgspec.defstruct("_Entry", [("record", record)], bases=(Published,), array_like=True)
        self._decode: Callable[[bytes], list[Published]] = msgspec.msgpack.Decoder(list[entry]).decode

    def decode(self, payload: bytes) -> list[Published]:
        """Return a frame's batch. Raises :class:`msgspec.DecodeError` if we did not write it."""
        try:
            entries = self._decode(payload)
        except UnicodeDecodeError as error:  # msgspec's own error for a text that is none
            raise msgspec.DecodeError(str(error)) from None
        # convert back to the plain class: structs of two classes are never equal
        return [Published(one.topic, one.seq, one.record, one.received_us) for one in entries]


def frame_end(data: bytes, at: int, limit: int, path: Path, start: int) -> int:
    """Return where the frame at ``data[at:]`` ends; more than ``len(data)`` if more bytes are needed to check it.

    ``start`` is the offset of ``data`` in the file ``path``, ``limit`` the number of bytes from there to the end.
    Raises :class:`JournalCorrupt` if no complete frame of ours is there.
    """
    if at + HEADER_BYTES > len(data):
        if at + HEADER_BYTES > limit:
            torn = MAGIC.startswith(data[at : at + len(MAGIC)])
            raise JournalCorrupt(path, start + at, "the header is cut off", torn=torn)
        return at + HEADER_BYTES
    magic, length, checksum = _HEADER.unpack_from(data, at)
    behind: int = at + HEADER_BYTES + length
    if magic != MAGIC:
        raise JournalCorrupt(path, start + at, f"a frame starts with {MAGIC!r}, not with {magic!r}")
    if behind > limit:
        raise JournalCorrupt(
            path, start + at, f"{limit - at} bytes left of a frame of {behind - at}", torn=True
        )
    if behind <= len(data) and crc32(memoryview(data)[at + HEADER_BYTES : behind]) != checksum:
        raise JournalCorrupt(path, start + at, "the checksum is wrong")
    return behind

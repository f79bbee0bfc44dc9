"""How the journal's bytes are laid out: frames in segment files.

A frame is :data:`MAGIC`, the length of its payload and the payload's CRC-32 (both little-endian, 4 bytes),
then the payload: one batch as MessagePack. The magic's first byte occurs in no valid MessagePack except inside
strings and numbers, its last one is the version; it lets a reader find the next frame after damage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from zlib import crc32

import msgspec

from ..errors import JournalCorrupt
from ..model import Published

__all__ = ["HEADER_BYTES", "MAGIC", "FrameEncoder", "decode", "frames", "next_frame", "valid_end"]

MAGIC = b"\xc1mj1"
_HEADER = Struct("<4sII")
HEADER_BYTES = _HEADER.size
CHUNK_BYTES = 1 << 20
"""How much is read at once; a larger frame is read whole."""

_decoder = msgspec.msgpack.Decoder(list[Published])


class FrameEncoder:
    """Encodes batches into one buffer that is used again and again."""

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


def decode(payload: bytes) -> list[Published]:
    """Return a frame's batch. Raises :class:`msgspec.DecodeError` for what we did not write."""
    return _decoder.decode(payload)


def frames(fd: int, path: Path, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yield each payload in ``[start, end)`` with the offset behind its frame; memory is bounded.

    Raises :class:`JournalCorrupt` at the first byte that starts no whole frame.
    """
    size = CHUNK_BYTES
    while start < end:
        data = os.pread(fd, min(size, end - start), start)
        at = 0
        while (behind := _frame_end(data, at, end - start, path, start)) <= len(data):
            yield data[at + HEADER_BYTES : behind], start + behind
            at = behind
            if at == len(data):
                break
        if not at and len(data) < min(size, end - start):
            raise JournalCorrupt(path, start, "the file is shorter than what was written")
        size = max(CHUNK_BYTES, behind - at)
        start += at


def next_frame(fd: int, start: int, end: int) -> int:
    """Return the offset of the first whole frame at or behind ``start``, or ``end`` if there is none."""
    while start < end:
        data = os.pread(fd, min(CHUNK_BYTES, end - start), start)
        at = data.find(MAGIC)
        if at < 0:
            start += max(1, len(data) - len(MAGIC) + 1)
            continue
        try:
            next(frames(fd, Path(), start + at, end))
        except JournalCorrupt:
            start += at + 1
        else:
            return start + at
    return end


def valid_end(fd: int, path: Path, size: int) -> int:
    """Return the offset behind the last whole frame of a file; damage before it is skipped."""
    start = good = 0
    while start < size:
        try:
            for _payload, good in frames(fd, path, start, size):  # noqa: B007
                pass
            return good
        except JournalCorrupt as error:
            start = next_frame(fd, error.offset + 1, size)
    return good


def _frame_end(data: bytes, at: int, limit: int, path: Path, start: int) -> int:
    """Return where the frame at ``at`` ends; more than ``len(data)`` if more bytes are needed to say."""
    if at + HEADER_BYTES > len(data):
        if at + HEADER_BYTES > limit:
            raise JournalCorrupt(path, start + at, "the header is cut off")
        return at + HEADER_BYTES
    magic, length, checksum = _HEADER.unpack_from(data, at)
    behind: int = at + HEADER_BYTES + length
    if magic != MAGIC:
        raise JournalCorrupt(path, start + at, f"a frame starts with {MAGIC!r}, not with {magic!r}")
    if behind > limit:
        raise JournalCorrupt(path, start + at, f"{limit - at} bytes left of a frame of {behind - at}")
    if behind <= len(data) and crc32(memoryview(data)[at + HEADER_BYTES : behind]) != checksum:
        raise JournalCorrupt(path, start + at, "the checksum is wrong")
    return behind

"""Read frames from a segment file, a chunk at a time. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import JournalCorrupt
from .format import HEADER_BYTES, MAGIC, frame_end

__all__ = ["next_frame_offset", "read_frames", "whole_frames_end"]

CHUNK_BYTES = 1 << 20
"""How much is read at once; a larger frame is read in one piece."""


def read_frames(fd: int, path: Path, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yield each payload in ``[start, end)`` with the end offset of its frame; memory is bounded.

    Raises :class:`JournalCorrupt` at the first offset where no complete frame starts.
    """
    size = CHUNK_BYTES
    while start < end:
        data = os.pread(fd, min(size, end - start), start)
        at = 0
        # A frame whose end lies beyond the chunk is read again, at the start of the next and large enough chunk.
        while (behind := frame_end(data, at, end - start, path, start)) <= len(data):
            yield data[at + HEADER_BYTES : behind], start + behind
            at = behind
            if at == len(data):
                break
        if not at and len(data) < min(size, end - start):
            raise JournalCorrupt(path, start, "the file is shorter than what was written")
        size = max(CHUNK_BYTES, behind - at)
        start += at


def next_frame_offset(fd: int, start: int, end: int) -> int:
    """Return the offset of the first complete frame at or after ``start``, or ``end`` if there is none."""
    while start < end:
        data = os.pread(fd, min(CHUNK_BYTES, end - start), start)
        at = data.find(MAGIC)
        if at < 0:
            start += max(1, len(data) - len(MAGIC) + 1)
            continue
        try:
            next(read_frames(fd, Path(), start + at, end))
        except JournalCorrupt:
            start += at + 1
        else:
            return start + at
    return end


def whole_frames_end(fd: int, path: Path, size: int) -> tuple[int, bool]:
    """Return the end offset of the last complete frame of a file, and whether a torn frame of ours follows.

    Torn: it begins as a frame and the file ends within it, as a crash leaves it. Earlier damage is skipped.
    """
    start = good = 0
    torn = False
    while start < size:
        try:
            for _payload, good in read_frames(fd, path, start, size):  # noqa: B007
                pass
            return good, False
        except JournalCorrupt as error:
            torn = error.torn and error.offset == good
            start = next_frame_offset(fd, error.offset + 1, size)
    return good, torn

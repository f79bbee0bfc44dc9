"""The files of the journal: one segment each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from .segment_reader import whole_frames_end

__all__ = ["Segment", "delete_segments", "load_segments"]


class Segment:
    """An open segment file; ``end`` is where the next frame goes. Bytes behind it do not count."""

    __slots__ = ("dirty", "end", "fd", "number", "path")

    def __init__(self, folder: Path, number: int, *, create: bool) -> None:
        self.number = number
        self.path = folder / f"{number:012}.journal"
        flags = os.O_CREAT | os.O_EXCL if create else 0
        self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self.end = 0 if create else os.fstat(self.fd).st_size
        self.dirty = create

    def write(self, frame: bytearray) -> None:
        """Write a frame at the end. On :class:`OSError` the end stays, so the next frame overwrites what got there."""
        size = len(frame)
        try:
            written = os.pwrite(self.fd, frame, self.end)
            while written < size:  # a disk that is filling up: the next write says why, or finishes
                written += os.pwrite(self.fd, frame[written:], self.end + written)
        except OSError:
            with suppress(OSError):  # what stays is overwritten, or cut off at the next start
                os.ftruncate(self.fd, self.end)
            raise
        self.end += size
        self.dirty = True


def load_segments(folder: Path, log: structlog.stdlib.BoundLogger) -> tuple[Segment, ...]:
    """Open the folder's segments, oldest first, or make the first; a torn tail of the newest is cut off and logged."""
    numbers = sorted(int(path.stem) for path in folder.glob("*.journal") if path.stem.isdecimal())
    if not numbers:
        return (Segment(folder, 1, create=True),)
    segments = tuple(Segment(folder, number, create=False) for number in numbers)
    newest = segments[-1]
    end = whole_frames_end(newest.fd, newest.path, newest.end)
    if end < newest.end:
        log.warning("cut off what a crash left half-written", file=str(newest.path), bytes=newest.end - end)
        os.ftruncate(newest.fd, end)
        newest.end = end
    return segments


def delete_segments(segments: Iterable[Segment]) -> None:
    """Close the files and remove them."""
    for segment in segments:
        os.close(segment.fd)
        segment.path.unlink(missing_ok=True)

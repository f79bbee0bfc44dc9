"""The segment files of the journal."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from pathlib import Path

import structlog

from ..os_errors import explain
from ..private_file import open_private
from .segment_reader import whole_frames_end

__all__ = ["Segment", "delete_segments", "load_segments", "new_segment"]

_NAME = re.compile(r"[0-9]{12}\.journal")
_NOT_OURS = frozenset((errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EPERM, errno.ENXIO))
"""The errnos of :func:`~mdserver.private_file.open_private` for anything but a plain file of this user."""


class Segment:
    """An open segment file; ``end`` is where the next frame goes. Bytes after it are ignored."""

    __slots__ = ("dirty", "end", "fd", "number", "path")

    def __init__(self, folder: Path, number: int, *, create: bool) -> None:
        self.number = number
        self.path = folder / f"{number:012}.journal"
        self.fd = open_private(self.path, exclusive=create)
        self.end = 0 if create else os.fstat(self.fd).st_size
        self.dirty = create

    def write(self, frame: bytearray) -> None:
        """Write a frame at the end. After OSError the end is unchanged: the next frame overwrites the torn one."""
        size = len(frame)
        try:
            written = os.pwrite(self.fd, frame, self.end)
            while written < size:  # the disk may be filling up: the next write raises the reason, or finishes
                written += os.pwrite(self.fd, frame[written:], self.end + written)
        except OSError:
            with suppress(OSError):  # a torn frame that stays is overwritten, or cut off at the next start
                os.ftruncate(self.fd, self.end)
            raise
        self.end += size
        self.dirty = True

    def emptied(self) -> Segment:
        """Empty the file and return it as the next segment: a full disk may have no room for another file.

        The name stays. After a restart the segment is numbered by it, and still comes before those made later.
        """
        os.ftruncate(self.fd, 0)
        following = copy(self)
        following.number, following.end, following.dirty = self.number + 1, 0, True
        return following


def load_segments(folder: Path, log: structlog.stdlib.BoundLogger) -> tuple[Segment, ...]:
    """Open the folder's segments, oldest first, or create the first. Cut off a torn tail of the newest and log it."""
    segments = _open_segments(folder, log)
    if not segments:
        return (new_segment(folder, 1),)
    newest = segments[-1]
    end, torn = whole_frames_end(newest.fd, newest.path, newest.end)
    if end == newest.end:
        return tuple(segments)
    if torn:
        log.warning(
            "cut off a half-written batch at the end of the journal, as a crash leaves it",
            file=str(newest.path),
            bytes=newest.end - end,
        )
        os.ftruncate(newest.fd, end)
        newest.end = end
        return tuple(segments)
    # Damaged, not torn: neither cut nor append, so that the reader can keep the whole segment for the operator.
    return (*segments, new_segment(folder, newest.number + 1))


def new_segment(folder: Path, number: int) -> Segment:
    """Create an empty segment with the first free number from ``number`` on."""
    while True:
        try:
            return Segment(folder, number, create=True)
        except FileExistsError:
            number += 1


def _open_segments(folder: Path, log: structlog.stdlib.BoundLogger) -> list[Segment]:
    """Open the segments, oldest first; any other file in the folder is left alone and logged."""
    segments = []
    for path in sorted(folder.glob("*.journal")):
        if _NAME.fullmatch(path.name) is None:
            log.warning("a file in the journal's folder is not a segment and is left alone", file=str(path))
            continue
        try:
            segments.append(Segment(folder, int(path.stem), create=False))
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
            log.error("a journal segment cannot be used and is left alone", error=explain(error))
    return segments


def delete_segments(segments: Iterable[Segment]) -> None:
    """Close the files and remove them."""
    for segment in segments:
        os.close(segment.fd)
        segment.path.unlink(missing_ok=True)

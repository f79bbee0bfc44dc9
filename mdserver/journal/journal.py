"""The log on disk of what was published and is not yet stored.

Segments ``NNNNNNNNNNNN.journal`` in one folder, each a run of frames (:mod:`mdserver.journal.format`). The
event loop appends, one write per batch, before the batch is shown to any client; the writer reads in a worker
thread from the *committed position*, stores, and commits, whereupon segments wholly behind that position go.

What is promised: a batch whose :meth:`Journal.append` returned survives a ``kill -9`` of the process. A power
failure or a crash of the kernel may cost what was appended since the last :meth:`Journal.sync`, which
:meth:`Journal.sync_forever` calls on a timer. The committed position is not kept on disk: after a restart
everything that is left is read again and the store skips what it has, by ``seq``.

Damage: the tail that a crash tore off is cut away at the next start. Damage before that loses only the
frames that it hit: the reader keeps the segment as ``*.corrupt`` for the operator, says where, and goes on at
the next whole frame.

One process at a time; the owner of the data folder's lock sees to it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path
from shutil import copyfile
from threading import Lock
from typing import NamedTuple

import msgspec
import structlog
import trio

from ..errors import JournalCorrupt, JournalFull
from ..model import Gap, LastRecord, Published, Topic
from .format import FrameDecoder, FrameEncoder
from .segment import Segment, delete_segments, load_segments, new_segment
from .segment_reader import next_frame_offset, read_frames
from .seq_floor import SeqFloor

__all__ = ["Journal", "JournalPosition", "open_journal"]

MIB = 1 << 20
SEGMENT_BYTES = 64 * MIB
TURNOVER_BYTES = 4 * MIB
"""A segment of this size is closed as soon as the writer is inside it, so that it can go soon."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class JournalPosition(NamedTuple):
    """A place between two frames; positions compare in the order of writing."""

    segment: int
    offset: int


class Journal:
    """Made by :func:`open_journal`. Methods may be called from any thread unless they say otherwise."""

    def __init__(
        self, folder: Path, *, max_bytes: int, segment_bytes: int, log: structlog.stdlib.BoundLogger
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.appended = 0
        """Records appended since the journal was opened."""
        self._segment_bytes = max(1, min(segment_bytes, max_bytes // 8))
        self._turnover_bytes = min(TURNOVER_BYTES, self._segment_bytes)
        self._log = log
        self._encoder = FrameEncoder()
        self._decode = FrameDecoder().decode
        self._lock = Lock()  # guards the tuple of segments and the files' lifetime; held for microseconds
        self._woken = trio.Event()
        self._wake_at: float = inf
        self._folder_dirty = True
        self._overfull = False
        self.floor = SeqFloor(folder)
        """Numbers given out while records could not be appended."""
        self._segments = load_segments(folder, log)
        self._bytes = sum(segment.end for segment in self._segments)
        self._committed = JournalPosition(self._segments[0].number, 0)

    # -- the event loop's side

    def append(self, batch: Sequence[Published]) -> None:
        """Append a batch with one write; the event loop calls this.

        Raises :class:`JournalFull` at the journal's bound or the disk's, and :class:`OSError` for
        other faults of the disk; then nothing of the batch was written and later ones can be.
        """
        frame = self._encoder.encode(batch)
        size = len(frame)
        with self._lock:
            if self._bytes + size > self.max_bytes:
                raise JournalFull(f"the journal {self.folder} holds {self._bytes} of {self.max_bytes} bytes")
            segment = self._segments[-1]
            if segment.end >= self._segment_bytes:
                segment = self._turn_over()
            try:
                segment.write(frame)
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise JournalFull(f"no space left for the journal {self.folder}: {error}") from error
                raise
            self._bytes += size
        self.appended += len(batch)
        if self.appended >= self._wake_at:
            self._woken.set()

    async def wait_appended(self, total: float) -> None:
        """Return once :attr:`appended` is ``total`` or more, or :meth:`wake` was called. One waiter only."""
        if self.appended >= total:
            await trio.lowlevel.checkpoint()
            return
        self._woken = trio.Event()
        self._wake_at = total
        try:
            await self._woken.wait()
        finally:
            self._wake_at = inf

    def wake(self) -> None:
        """Make :meth:`wait_appended` return now; the event loop calls this."""
        self._woken.set()

    async def sync_forever(self, interval_s: float) -> None:
        """Call :meth:`sync` in a thread every ``interval_s`` seconds, until cancelled.

        A disk that cannot sync is reported once and tried again: what it holds may not outlive a
        power failure, but streaming need not stop for that.
        """
        failed = False
        while True:
            await trio.sleep(interval_s)
            if not self._folder_dirty and not self.floor.dirty and not any(s.dirty for s in self._segments):
                continue
            try:
                await trio.to_thread.run_sync(self.sync)
            except OSError as error:
                if not failed:
                    self._log.error("the journal cannot be synced to disk", error=str(error))
                failed = True
            else:
                if failed:
                    self._log.info("the journal is synced to disk again")
                failed = False

    def barrier(self) -> Callable[[], bool]:
        """Mark what has been appended so far; what is returned tells whether all of that is stored."""
        last = self._segments[-1]
        end = JournalPosition(last.number, last.end)
        return lambda: self._committed >= end or not self.pending_bytes

    # -- the writer's side

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, stored or not."""
        return self._bytes

    @property
    def pending_bytes(self) -> int:
        """Bytes behind the committed position: 0 when everything is stored."""
        segments, (number, offset) = self._segments, self._committed
        behind = sum(segment.end for segment in segments if segment.number >= number)
        return behind - (offset if any(segment.number == number for segment in segments) else 0)

    def read(self, max_records: int, max_bytes: int = 1 << 62) -> tuple[list[Published], JournalPosition]:
        """Return records from the committed position on, whole batches until one of the bounds is reached.

        Also returns the position behind them. Nothing pending: an empty list. Blocking; meant for a worker
        thread. Memory is bounded by ``max_records``, ``max_bytes`` of the file and one batch.
        """
        return self._read_from(self._committed, max_records, max_bytes)

    def commit(self, position: JournalPosition) -> None:
        """Say that everything before ``position`` is stored; segments wholly behind it are deleted.

        Blocking (it deletes files); meant for a worker thread.
        """
        with self._lock:
            self._committed = position
            active = self._segments[-1]
            if position.segment == active.number and active.end >= self._turnover_bytes:
                self._turn_over()
            done = [segment for segment in self._segments[:-1] if _is_behind(segment, position)]
            self._segments = tuple(segment for segment in self._segments if segment not in done)
            self._bytes -= sum(segment.end for segment in done)
        delete_segments(done)

    def last_records(self) -> dict[Topic, LastRecord]:
        """Return the last record of each topic that is pending, in one pass over the backlog. Blocking.

        The numbering of a restarted server goes on from these where they are above the store's own.
        """
        newest: dict[Topic, LastRecord] = {}
        position = self._committed
        while True:
            records, position = self._read_from(position, 20_000)
            if not records:
                return newest
            for published in records:
                topic = published.topic
                if type(published.record) is Gap:
                    continue  # it has the number of the record before it, and the time of the one behind
                if topic not in newest or published.seq > newest[topic].seq:
                    newest[topic] = LastRecord(published.seq, published.record.time_us)

    def sync(self) -> None:
        """Force what was appended onto the disk. Blocking; raises :class:`OSError` if the disk cannot."""
        self.floor.sync()
        with ExitStack() as stack:
            fds: list[int] = []

            def keep(fd: int) -> None:
                fds.append(fd)
                stack.callback(os.close, fd)

            with self._lock:
                dirty = [segment for segment in self._segments if segment.dirty]
                for segment in dirty:
                    keep(os.dup(segment.fd))  # a commit may close the originals meanwhile
                if self._folder_dirty:
                    keep(os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC))
                self._folder_dirty = False
                for segment in dirty:
                    segment.dirty = False
            try:
                for fd in fds:
                    os.fsync(fd)
            except OSError:
                self._folder_dirty = True
                for segment in dirty:
                    segment.dirty = True
                raise

    def close(self) -> None:
        """Sync and close; nothing is left on disk if everything is stored."""
        try:
            self.sync()
        finally:
            self.floor.close()
            done = [segment for segment in self._segments if _is_behind(segment, self._committed)]
            for segment in self._segments:
                if segment not in done:
                    os.close(segment.fd)
            delete_segments(done)

    # -- inside

    def _turn_over(self) -> Segment:
        """Begin another segment and return it; where none can be made, the one there is: only tidiness is lost."""
        try:
            segment = new_segment(self.folder, self._segments[-1].number + 1)
        except OSError as error:
            if not self._overfull:
                self._log.warning("no new journal segment: the last one grows", error=str(error))
            self._overfull = True
            return self._segments[-1]
        self._overfull = False
        self._segments = (*self._segments, segment)
        self._folder_dirty = True
        return segment

    def _read_from(
        self, position: JournalPosition, max_records: int, max_bytes: int = 1 << 62
    ) -> tuple[list[Published], JournalPosition]:
        records: list[Published] = []
        read_bytes = 0
        for segment in self._segments:
            if segment.number < position.segment:
                continue
            start = position.offset if segment.number == position.segment else 0
            for batch, behind in self._batches(segment, start, segment.end):
                records += batch
                read_bytes += behind - start
                start = behind
                position = JournalPosition(segment.number, behind)
                if len(records) >= max_records or read_bytes >= max_bytes:
                    return records, position
        return records, position

    def _batches(self, segment: Segment, start: int, end: int) -> Iterator[tuple[list[Published], int]]:
        """Yield batches and the offsets behind them; what is damaged is set aside and skipped."""
        while start < end:
            try:
                for payload, behind in read_frames(segment.fd, segment.path, start, end):
                    yield self._decode(payload), behind
                    start = behind
            except JournalCorrupt as error:
                damage = error
            except msgspec.DecodeError as error:  # whole, but not ours: another version's
                damage = JournalCorrupt(segment.path, start, str(error))
            else:
                return
            start = next_frame_offset(segment.fd, damage.offset + 1, end)
            self._set_aside(damage, start)
            yield [], start

    def _set_aside(self, damage: JournalCorrupt, behind: int) -> None:
        # Segments of another life can have had the same number: the inode tells whether this one is kept already.
        kept = damage.path.with_suffix(f".{damage.path.stat().st_ino}.corrupt")
        if not kept.exists():
            try:
                os.link(damage.path, kept)  # costs nothing and outlives the segment
            except OSError:  # a file system without links
                copyfile(damage.path, kept)
        self._log.error(
            "the journal is damaged; its records there are lost, the segment is kept",
            error=str(damage),
            bytes_lost=behind - damage.offset,
            kept=str(kept),
        )


@contextmanager
def open_journal(
    folder: Path,
    *,
    max_bytes: int,
    segment_bytes: int = SEGMENT_BYTES,
    log: structlog.stdlib.BoundLogger | None = None,
) -> Iterator[Journal]:
    """Open the journal in ``folder``, making it where there is none; a torn tail is cut off and logged.

    ``max_bytes`` bounds its size on disk. Raises :class:`OSError` if the folder cannot be used.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger() if log is None else log
    journal = Journal(folder, max_bytes=max_bytes, segment_bytes=segment_bytes, log=logger)
    try:
        yield journal
    finally:
        journal.close()


def _is_behind(segment: Segment, position: JournalPosition) -> bool:
    return JournalPosition(segment.number, segment.end) <= position

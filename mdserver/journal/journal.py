"""The log on disk of records that are published but not yet stored.

It consists of segments ``NNNNNNNNNNNN.journal`` in one folder, each a sequence of frames
(:mod:`mdserver.journal.format`). The event loop appends, one write per batch, before any client sees the batch. The
journal drain, in a worker thread, reads from the *committed position*, stores, and commits; then segments that lie
wholly before that position are deleted.

Guarantee: a batch whose :meth:`Journal.append` returned survives a ``kill -9`` of the process. A power failure or a
crash of the kernel may lose what was appended since the last :meth:`Journal.sync`, which :meth:`Journal.sync_forever`
calls on a timer. The committed position is not written to disk: after a restart everything left is read again, and the
store skips records that it has, by ``seq``.

Damage: a half-written tail, as a crash leaves it, is cut off at the next start. Damage before the tail loses only the
frames that it hit: the reader keeps the segment as ``*.corrupt`` for the operator, reports where, and continues at the
next complete frame.

Only one process at a time may use a journal; the lock on the data folder ensures that.
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
from ..os_errors import explain
from .format import FrameDecoder, FrameEncoder
from .segment import Segment, delete_segments, load_segments, new_segment
from .segment_reader import next_frame_offset, read_frames
from .seq_floor import SeqFloor

__all__ = ["Journal", "JournalPosition", "open_journal"]

MIB = 1 << 20
SEGMENT_BYTES = 64 * MIB
TURNOVER_BYTES = 4 * MIB
"""A segment of this size is closed as soon as the drain has reached it, so that it can be deleted soon."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class JournalPosition(NamedTuple):
    """A position between two frames; positions compare in the order of writing."""

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
        """The sequence numbers used while records could not be appended."""
        self._segments = load_segments(folder, log)
        self._bytes = sum(segment.end for segment in self._segments)
        self._committed = JournalPosition(self._segments[0].number, 0)

    # -- the event loop's side

    def append(self, batch: Sequence[Published]) -> None:
        """Append a batch with one write. Called by the event loop.

        Raises :class:`JournalFull` if the journal has reached its bound or the disk is full, and :class:`OSError` for
        other faults of the disk. Then nothing of the batch was written, and later batches can be.
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
                self._write(segment, frame)
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise JournalFull(f"the disk of the journal {self.folder} is full") from error
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
        """Have :meth:`wait_appended` return now. Called by the event loop."""
        self._woken.set()

    async def sync_forever(self, interval_s: float) -> None:
        """Call :meth:`sync` in a thread every ``interval_s`` seconds, until cancelled.

        If the disk cannot sync, that is logged once and retried: the latest records may not survive a power failure,
        but streaming need not stop for that.
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
                    self._log.error(
                        "the journal cannot be synced to disk: a power failure now would lose records",
                        error=explain(error),
                    )
                failed = True
            else:
                if failed:
                    self._log.info("the journal is synced to disk again")
                failed = False

    def barrier(self) -> Callable[[], bool]:
        """Return a function that returns whether everything appended before this call is stored."""
        last = self._segments[-1]
        end = JournalPosition(last.number, last.end)
        return lambda: self._committed >= end or not self.pending_bytes

    # -- the drain's side

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, stored or not."""
        return self._bytes

    @property
    def pending_bytes(self) -> int:
        """Bytes after the committed position: 0 when everything is stored."""
        segments, (number, offset) = self._segments, self._committed
        total = sum(segment.end for segment in segments if segment.number >= number)
        return total - (offset if any(segment.number == number for segment in segments) else 0)

    @property
    def end(self) -> JournalPosition:
        """The place behind all that was appended."""
        newest = self._segments[-1]
        return JournalPosition(newest.number, newest.end)

    @property
    def committed(self) -> JournalPosition:
        """The place before which everything is stored."""
        return self._committed

    def read(self, max_records: int, max_bytes: int = 1 << 62) -> tuple[list[Published], JournalPosition]:
        """Return records from the committed position on, in whole batches until a bound is reached, and their end.

        The list is empty if nothing is pending. Blocking; for a worker thread. Memory is bounded by ``max_records``,
        ``max_bytes`` of the file and one batch.
        """
        return self._read_from(self._committed, max_records, max_bytes)

    def commit(self, position: JournalPosition) -> None:
        """Mark everything before ``position`` as stored, and delete the segments that lie wholly before it.

        Blocking (it deletes files); for a worker thread.
        """
        with self._lock:
            self._committed = position
            active = self._segments[-1]
            if position.segment == active.number and active.end >= self._turnover_bytes:
                self._turn_over()
            done = [segment for segment in self._segments[:-1] if _lies_before(segment, position)]
            self._segments = tuple(segment for segment in self._segments if segment not in done)
            self._bytes -= sum(segment.end for segment in done)
        delete_segments(done)

    def last_records(self) -> dict[Topic, LastRecord]:
        """Return the last pending record of each topic and the hole behind it, in one pass over the backlog. Blocking.

        A restarted server continues numbering from these where they are above the store's own.
        """
        newest: dict[Topic, LastRecord] = {}
        position = self._committed
        while True:
            records, position = self._read_from(position, 20_000)
            if not records:
                return newest
            for published in records:
                topic, record = published.topic, published.record
                if type(record) is Gap:
                    # A gap has the number of the record before it. One that has ended has the time of the one after it.
                    if record.to_us is None:
                        known = newest.get(topic, LastRecord(published.seq, record.from_us))
                        newest[topic] = known._replace(hole=record)
                elif topic not in newest or published.seq > newest[topic].seq:
                    newest[topic] = LastRecord(published.seq, record.time_us)

    def sync(self) -> None:
        """Force everything appended to the disk. Blocking. Raises :class:`OSError` if that fails."""
        self.floor.sync()
        with ExitStack() as stack:
            fds: list[int] = []

            def add(fd: int) -> None:
                fds.append(fd)
                stack.callback(os.close, fd)

            with self._lock:
                dirty = [segment for segment in self._segments if segment.dirty]
                for segment in dirty:
                    add(os.dup(segment.fd))  # a commit may close the originals meanwhile
                if self._folder_dirty:
                    add(os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC))
                # Before the fsync: what is appended during it marks its segment as dirty once more.
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
        """Sync and close; no segment is left on disk if everything is stored."""
        try:
            self.sync()
        finally:
            self.floor.close()
            done = [segment for segment in self._segments if _lies_before(segment, self._committed)]
            for segment in self._segments:
                if segment not in done:
                    os.close(segment.fd)
            delete_segments(done)

    # -- inside

    def _turn_over(self) -> Segment:
        """Begin a new segment and return it. If none can be created, return the last one, which then grows on."""
        try:
            segment = new_segment(self.folder, self._segments[-1].number + 1)
        except OSError as error:
            if not self._overfull:
                self._log.warning(
                    "a new journal segment cannot be created: records go on into the last one",
                    error=explain(error),
                )
            self._overfull = True
            return self._segments[-1]
        self._overfull = False
        self._segments = (*self._segments, segment)
        self._folder_dirty = True
        return segment

    def _write(self, segment: Segment, frame: bytearray) -> None:
        """Write to the last segment; on a full disk, empty it first if all of it is stored."""
        try:
            segment.write(frame)
        except OSError as error:
            stored = self._committed == JournalPosition(segment.number, segment.end)
            if error.errno not in NO_SPACE or not stored or not segment.end:
                raise
            self._empty_last().write(frame)

    def _empty_last(self) -> Segment:
        """Empty the last segment, all of which is stored, and return it: the disk is full, perhaps by it alone."""
        stored = self._segments[-1]
        segment = stored.emptied()
        self._segments = (*self._segments[:-1], segment)
        self._bytes -= stored.end
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
        """Yield batches and the offsets of their ends; damaged parts are reported and skipped."""
        while start < end:
            try:
                for payload, behind in read_frames(segment.fd, segment.path, start, end):
                    yield self._decode(payload), behind
                    start = behind
            except JournalCorrupt as error:
                damage = error
            except msgspec.DecodeError as error:  # a complete frame that this version did not write
                damage = JournalCorrupt(segment.path, start, str(error))
            else:
                return
            start = next_frame_offset(segment.fd, damage.offset + 1, end)
            self._report_damage(damage, start)
            yield [], start

    def _report_damage(self, damage: JournalCorrupt, end: int) -> None:
        """Keep a copy of the damaged segment for the operator, and log what is lost."""
        # Numbers of segments recur after a restart: the inode distinguishes this file from one kept earlier.
        kept = damage.path.with_suffix(f".{damage.path.stat().st_ino}.corrupt")
        if not kept.exists():
            try:
                os.link(damage.path, kept)  # costs nothing and outlives the segment
            except OSError:  # a file system without hard links
                copyfile(damage.path, kept)
        self._log.error(
            "the journal is damaged: the records in that part are lost, a copy of the segment is kept",
            error=str(damage),
            bytes_lost=end - damage.offset,
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
    """Open the journal in ``folder``, created if missing; a half-written tail is cut off and logged.

    ``max_bytes`` bounds its size on disk. Raises :class:`OSError` if the folder cannot be used.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger() if log is None else log
    journal = Journal(folder, max_bytes=max_bytes, segment_bytes=segment_bytes, log=logger)
    try:
        yield journal
    finally:
        journal.close()


def _lies_before(segment: Segment, position: JournalPosition) -> bool:
    return JournalPosition(segment.number, segment.end) <= position

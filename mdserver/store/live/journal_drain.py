"""Move records from the journal into the database: the one path for live storing, catching up and crash recovery."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from time import time
from typing import Protocol

import msgspec
import structlog
import trio

from ...backoff import Backoff
from ...errors import StoreUnavailable
from ...journal.journal import Journal
from ...log import RarelyLogged
from ...metrics import Metrics
from ...model import US_PER_S, Gap, Published, Topic
from ...os_errors import explain
from .culprit import find_culprit
from .named_holes import unstored
from .write_batch import SetAside, Written

__all__ = ["REJECTED_FILE", "JournalDrain", "StoreForWriting"]

CATCH_UP_ROWS = 50_000
"""The largest transaction while there is a backlog: some 0.2 s and 30 MB."""

CATCH_UP_BYTES = 16 << 20
"""How much of the journal is read at once, besides one batch: bounds the memory, however large the records are."""

SEARCH_EVERY = 5
"""After so many failed tries of a batch, search it for a single record that may be to blame."""

OTHERS = 1_000
"""How many records after a batch may serve as the proof that others of the same kind are accepted."""

BACKOFF_S = (0.1, 5.0)
"""The first and the longest pause between tries while the database is unavailable."""

SLOW_S = 10.0
"""After this time a write without an answer is reported as an unavailable database, though it may still be answered."""

WRITE_S = 90.0
"""After this time a write without an answer is given up and repeated: a server may hang and keep the connection.
Longer than the statements of the largest transaction take."""

REJECTED_FILE = "rejected.jsonl"
"""In the journal's folder: records that the database cannot store, each with its cause, one JSON object per line."""


class StoreForWriting(Protocol):
    """The part of :class:`~mdserver.store.store.Store` that is used here."""

    async def write(self, batch: Sequence[Published], set_aside: SetAside) -> Written: ...

    async def try_write(self, batch: Sequence[Published]) -> None: ...


class JournalDrain:
    """Stores journalled records, in order and each one once.

    A record waits for at most ``flush_s`` seconds, or until ``flush_rows`` records are pending. While the database is
    unavailable the journal grows, and the same batch is retried for ever with pauses of at most 5 s. Cancelling is
    safe at any moment: what was not committed stays in the journal. ``on_stored`` is called with what was committed
    before the journal deletes it.
    """

    def __init__(
        self,
        journal: Journal,
        store: StoreForWriting,
        *,
        flush_s: float,
        flush_rows: int,
        metrics: Metrics,
        log: structlog.stdlib.BoundLogger,
        on_stored: Callable[[Sequence[Published]], None] = lambda records: None,
    ) -> None:
        self._on_stored = on_stored
        self._away: str | None = None
        self._write_began: float | None = None
        self._oldest_us: int | None = None
        self._journal = journal
        self._store = store
        self._flush_s = flush_s
        self._flush_rows = flush_rows
        self._metrics = metrics
        self._log = log
        self._rarely = RarelyLogged(log)
        self._last_run_end = journal.end
        self._of_last_run = False
        """Whether the batch in hand begins with records of the last run."""
        self._aside: set[tuple[Topic, int]] = set()
        self._hurried = 0
        """How many wait for :meth:`store_now`."""
        self._stepped = trio.Event()
        self._stopping = trio.Event()
        self._finished = trio.Event()
        metrics.journal_bytes.set_function(lambda: journal.size_bytes)
        metrics.store_lag_s.set_function(self._lag_s)

    @property
    def away(self) -> str | None:
        """Why nothing can be stored at present, or None."""
        if self._away is None and self._write_began is not None:
            waited = trio.current_time() - self._write_began
            if waited > SLOW_S:
                return f"a write has had no answer for {waited:.0f} s"
        return self._away

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Store until :meth:`drain` or until cancelled. Run it once."""
        task_status.started()
        try:
            while not self._stopping.is_set():
                seen = self._journal.appended
                if not self._journal.pending_bytes:
                    await self._journal.wait_appended(seen + 1)
                if not self._stopping.is_set() and not self._hurried:
                    with trio.move_on_after(self._flush_s):
                        await self._journal.wait_appended(seen + self._flush_rows)
                await self._flush()
            await self._flush()
        finally:
            self._finished.set()
            self._step()

    async def drain(self) -> None:
        """Have :meth:`run` store all journalled records and end; return when it has.

        Bound it with a cancel scope. While the database is unavailable it returns after one more try: the rest waits
        in the journal for the next start.
        """
        self._stopping.set()
        self._journal.wake()
        await self._finished.wait()

    async def store_now(self) -> None:
        """Return once all that is journalled now is stored, without waiting for company.

        Raises :class:`StoreUnavailable` while the database is away. Bound it with a cancel scope.
        """
        mark = self._journal.end
        self._hurried += 1
        try:
            while self._journal.committed < mark and self._journal.pending_bytes:
                if (away := self.away) is not None:
                    raise StoreUnavailable(away)
                if self._finished.is_set():
                    raise StoreUnavailable("storing has ended")
                self._journal.wake()
                await self._stepped.wait()
        finally:
            self._hurried -= 1

    def _step(self) -> None:
        """Have those look again who wait for :meth:`store_now`."""
        self._stepped.set()
        self._stepped = trio.Event()

    async def _flush(self) -> None:
        """Store everything that is pending; give up only if stopping while the database is unavailable."""
        while self._journal.pending_bytes:
            limit = max(self._flush_rows, CATCH_UP_ROWS)
            self._of_last_run = self._journal.committed < self._last_run_end
            records, position = await trio.to_thread.run_sync(self._journal.read, limit, CATCH_UP_BYTES)
            if records and not await self._store_batch(records):
                break
            self._on_stored(records)
            # Only after the database's commit: a crash in between stores the batch a second time, and ``seq`` skips it.
            await trio.to_thread.run_sync(self._journal.commit, position)
            self._step()
            if len(records) < self._flush_rows and not self._stopping.is_set():
                break  # records that came meanwhile wait for the next flush
        if not self._journal.pending_bytes:
            self._oldest_us = None

    async def _store_batch(self, records: list[Published]) -> bool:
        """Write a batch, retrying until it is stored; return False if stopped while the database is unavailable."""
        away_since = math.nan
        backoff = Backoff(*BACKOFF_S)
        failed = 0
        seen = self._journal.appended
        # the first that arrived stands for the oldest: to search all records would block the loop
        self._oldest_us = records[0].record.time_us
        while True:
            started = trio.current_time()
            try:
                written = await self._write(records)
            except (StoreUnavailable, OSError) as error:
                if self._away is None:
                    away_since = started
                self._note_away(error)
                failed += 1
                if self._stopping.is_set():
                    return False
                if failed % SEARCH_EVERY == 0:
                    rest = await self._without_culprit(records)
                    if rest is not records:
                        records, failed = rest, SEARCH_EVERY - 1  # search again at once: there may be another
                        if not records:
                            return True
                        continue
                with trio.move_on_after(backoff.next_s()):
                    await self._stopping.wait()
                continue
            if self._away is not None:
                self._away = None
                self._log.info(
                    "the database is available again: storing the records that waited",
                    away_s=round(trio.current_time() - away_since, 1),
                    records=len(records) + self._journal.appended - seen,
                )
            self._metrics.flush_seconds.observe(trio.current_time() - started)
            self._count(written)
            self._aside.clear()
            return True

    def _note_away(self, error: StoreUnavailable | OSError) -> None:
        if isinstance(error, OSError):
            self._rarely.error(
                "records that the database refuses cannot be set aside either: all records wait in the journal",
                file=str(self._journal.folder / REJECTED_FILE),
                error=explain(error),
            )
            self._away = f"{REJECTED_FILE} cannot be written: {explain(error)}"
        else:
            if self._away is None:
                self._log.error("the database is unavailable: records wait in the journal", error=str(error))
            self._away = str(error)
        self._step()
        cause = "unavailable" if isinstance(error, StoreUnavailable) else "set_aside"
        self._metrics.store_retries.labels(cause).inc()

    async def _without_culprit(self, records: list[Published]) -> list[Published]:
        """Return the batch with a gap in place of the record that blocks it, which is set aside; or itself."""
        with trio.move_on_after(WRITE_S):
            more, _ = await trio.to_thread.run_sync(self._journal.read, len(records) + OTHERS, CATCH_UP_BYTES)
            found = await find_culprit(records, self._store.try_write, others=[*records, *more])
            if found is None:
                return records
            place, why = found
            rejected = [(records[place], why)]
            try:
                await trio.to_thread.run_sync(self._set_aside, rejected)
            except OSError as error:
                self._note_away(error)
                return records
            self._count(Written(rejected=rejected))
            culprit = records[place]
            hole = [] if isinstance(culprit.record, Gap) else [unstored(culprit)]
            return records[:place] + hole + records[place + 1 :]
        return records

    async def _write(self, records: list[Published]) -> Written:
        """Write once, within ``WRITE_S``. Raises OSError if a record cannot be set aside."""
        self._write_began = trio.current_time()
        try:
            with trio.move_on_after(WRITE_S):
                return await self._store.write(records, self._set_aside)
        finally:
            self._write_began = None
        raise StoreUnavailable(f"no answer to a write within {WRITE_S:.0f} s")

    def _report_skipped(self, count: int) -> None:
        self._metrics.skipped.inc(count)
        if self._of_last_run:
            self._log.info(
                "records of the last run, which did not end in order, were in the journal but are stored already: they "
                "are skipped",
                records=count,
            )
            return
        self._rarely.warning(
            "records were stored already and are skipped: this is normal after a crash or a lost connection; otherwise "
            "another server stores the same brokers in this database, and one of the two loses records",
            records=count,
        )

    def _count(self, written: Written) -> None:
        if written.skipped:
            self._report_skipped(written.skipped)
        if written.lost:
            self._log.error(
                "numbers of records are missing in the journal: they are a gap", jumps=written.lost
            )
        for kind, rows in written.stored.items():
            self._metrics.stored.labels(kind).inc(rows)
        if not written.rejected:
            return
        for published, _cause in written.rejected:
            self._metrics.rejected.labels(published.topic.broker, "unstorable").inc()
        self._log.error(
            "records that the database refuses are set aside in a file",
            records=len(written.rejected),
            file=str(self._journal.folder / REJECTED_FILE),
            cause=written.rejected[0][1],
        )

    def _lag_s(self) -> float:
        return 0.0 if self._oldest_us is None else max(0.0, time() - self._oldest_us / US_PER_S)

    def _set_aside(self, rejected: Sequence[tuple[Published, str]]) -> None:
        """Append records to :data:`REJECTED_FILE`, durably; each once however often a batch is retried. Blocking."""
        fresh = [(one, cause) for one, cause in rejected if (one.topic, one.seq) not in self._aside]
        lines = [
            msgspec.json.encode({"cause": cause, "seq": one.seq, "topic": one.topic, "record": one.record})
            for one, cause in fresh
        ]
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._journal.folder / REJECTED_FILE, flags, 0o600)
        with open(descriptor, "ab") as file:  # noqa: PTH123 - a descriptor, not a path
            size = os.fstat(descriptor).st_size
            try:
                file.write(b"\n".join([*lines, b""]))
                file.flush()
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)  # no half line
                raise
        self._aside.update((one.topic, one.seq) for one, _ in fresh)

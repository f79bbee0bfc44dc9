"""The parts that store: the database, the journal, the drain from the journal to the database, and housekeeping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog
import trio

from ..backoff import Backoff
from ..config import DatabaseConfig, JournalConfig
from ..errors import MdserverError, StoreUnavailable
from ..journal.journal import Journal, open_journal
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import LastRecord, Published, Topic
from ..os_errors import explain
from ..store.connection.database import Database, Opened
from ..store.live.journal_drain import JournalDrain
from ..store.live.write_batch import SetAside, Written
from ..store.open_database import Opening, configured_url, prepare_database
from ..store.store import Store
from ..store.upkeep.housekeeping import Housekeeping
from ..store.upkeep.signs_of_life import SignsOfLife
from ..stream.live_candles import LiveCandles
from ..stream.publish import Publisher
from .known_database import KnownDatabase
from .parts import Part

__all__ = ["DatabasePart", "DrainPart", "HousekeepingPart", "JournalPart", "LiveCandlesPart"]

KNOWN_WAIT_S = 3.0
"""How long the start waits for a known database that is unavailable."""
KEEP_LAST_S = 30.0
"""How often the data folder is told where each topic ends."""
KEEP_WITHIN_S = 1.0
"""The same at the end."""
DRAIN_S = 2.5
HOLES_S = 1.0
"""How often gaps of records that the journal refused are tried, where no record brings them along."""

_log = structlog.get_logger("mdserver")


class DatabasePart(Part):
    """The database. It is connected before anything is streamed, unless it is known to be ours and unavailable.

    ``database``, ``store``, ``last_records`` (the last number and time of each topic) and ``epoch`` (the name of the
    numbering) are set once the part has started. ``floors``: numbers that are used up if the database is unavailable.
    """

    name = "database"
    stop_s = 4.5  # the embedded one takes up to 4 s

    store: Store
    database: Database
    signs: SignsOfLife
    epoch: str

    def __init__(self, settings: DatabaseConfig, data_dir: Path, *, shared: bool = False) -> None:
        """``shared``: other processes store the same topics, in turn."""
        self._shared = shared
        self.last_records: Mapping[Topic, LastRecord] = {}
        self.floors: Mapping[Topic, int] = {}
        self.away: str | None = None
        self.known: KnownDatabase | None = None
        self._keeping = trio.Lock()
        self._rarely = RarelyLogged(_log)
        self._settings = settings
        self._data_dir = data_dir

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        settings = self._settings
        async with configured_url(settings, self._data_dir, embedded="own", log=_log) as url:
            async with prepare_database(
                url, pooler=settings.pooler, migrate=settings.migrate, log=_log
            ) as opening:
                self.database = opening.database
                self.store = Store(
                    opening.database, store_received=settings.store_received, shared=self._shared
                )
                self.signs = SignsOfLife(opening.database, _log)
                if url != settings.url:
                    await self._open(opening)
                    task_status.started()
                    await self.signs.run()
                    return
                # Open to the end: with each record that is stored the numbers in it may rise.
                with KnownDatabase(self._data_dir / "known_database") as self.known:
                    await self._open_or_begin_without(opening, self.known, task_status)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self.signs.run)
                        nursery.start_soon(self._keep_last_records, self.known)

    async def stop(self) -> None:
        """Have the data folder know where each topic ended."""
        if self.known is not None and self.away is None:
            with trio.move_on_after(KEEP_WITHIN_S):
                await self._keep_last(self.known)

    async def _keep_last_records(self, known: KnownDatabase) -> None:
        """Have the data folder know where each topic ends, for a start without the database. Runs until cancelled."""
        while True:
            await self._keep_last(known)
            await trio.sleep(KEEP_LAST_S)

    async def _keep_last(self, known: KnownDatabase) -> None:
        try:
            async with self._keeping:
                last = await self.store.last_records()
                await trio.to_thread.run_sync(known.note_last, last)
        except MdserverError:
            pass  # others report it; the journal has what was not stored since
        except OSError as error:
            self._rarely.error(
                "the data folder cannot be told where each topic ends: a start without the database would announce "
                "gaps that begin too early",
                error=explain(error),
            )

    async def _open(self, opening: Opening) -> Opened:
        opened = await opening.connect(self._settings.connect_for_s)
        self.epoch = opened.epoch
        self.last_records = await self.store.last_records()
        return opened

    async def _open_or_begin_without(
        self, opening: Opening, known: KnownDatabase, task_status: trio.TaskStatus[None]
    ) -> None:
        where = opening.database.where
        if not known.is_at(where):
            known.remember(where, await self._open(opening), self.last_records)
            task_status.started()
            return
        opened: Opened | None = None
        self.away = f"{where} does not answer"
        with trio.move_on_after(KNOWN_WAIT_S):
            try:
                found = await opening.connect(0)
                self.last_records = await self.store.last_records()
                opened = found  # only now: it may take one connection and no other
            except StoreUnavailable as error:
                self.away = str(error)
        if opened is not None:
            self.away = None
            self.epoch = opened.epoch
            known.remember(where, opened, self.last_records)
            task_status.started()
            return
        self.last_records, self.floors = known.last_records, known.seqs
        self.epoch = known.epoch
        _log.error(
            "the database is unavailable: streaming starts without it, records wait in the journal",
            database=where,
            error=self.away,
        )
        task_status.started()
        await self._open_later(opening, known)

    async def _open_later(self, opening: Opening, known: KnownDatabase) -> None:
        """Connect as soon as the database answers; only the known one is accepted, since the numbers in it are ours."""
        backoff = Backoff(0.5, 5.0)
        rarely = RarelyLogged(_log)
        while self.away is not None:
            await trio.sleep(backoff.next_s())
            try:
                opened = await opening.connect(0, accept=known.check)
            except Exception as error:  # noqa: BLE001 - streaming goes on, whatever the error
                self.away = str(error)
                rarely.error("the database is still unavailable", error=self.away)
            else:
                self.away = None
                known.remember(opening.database.where, opened, {})


class JournalPart(Part):
    """The journal, open as long as any part appends to it or reads from it.

    ``journal``, ``publish`` (to the journal, then to the router) and ``last_records`` are set once it has started.
    """

    name = "journal"

    journal: Journal
    publish: Publisher

    def __init__(
        self,
        settings: JournalConfig,
        data_dir: Path,
        database: DatabasePart,
        route: Callable[[], Callable[[list[Published]], None]],
        metrics: Metrics,
    ) -> None:
        """``route`` returns, once the parts have started, what hands a journalled batch to its subscribers."""
        self.last_records: Mapping[Topic, LastRecord] = {}
        self._settings = settings
        self._folder = data_dir / "journal"
        self._database = database
        self._route = route
        self._metrics = metrics

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        with open_journal(self._folder, max_bytes=self._settings.max_bytes) as self.journal:
            pending = await trio.to_thread.run_sync(self.journal.last_records)
            self.last_records = _merge(self._database.last_records, pending)
            for floors in (self._database.floors, self.journal.floor.seqs):
                beyond = {topic: LastRecord(seq, 0) for topic, seq in floors.items()}
                self.last_records = _merge(self.last_records, beyond)
            self.publish = Publisher(self.journal, self._route(), self._metrics)
            task_status.started()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._note_holes_forever)
                    await self.journal.sync_forever(self._settings.sync_ms / 1000)
            finally:
                self.publish.note_holes(after_s=0)  # stored at the next start

    async def _note_holes_forever(self) -> None:
        while True:
            await trio.sleep(HOLES_S)
            self.publish.note_holes(after_s=HOLES_S)


def _merge(one: Mapping[Topic, LastRecord], other: Mapping[Topic, LastRecord]) -> dict[Topic, LastRecord]:
    """Return the last record of each topic of both, ``other`` being the later account: the higher number and time."""
    return {
        topic: _later(one.get(topic, LastRecord(0, 0)), other.get(topic, LastRecord(0, 0)))
        for topic in one.keys() | other.keys()
    }


def _later(one: LastRecord, other: LastRecord) -> LastRecord:
    # An account without a time knows numbers alone.
    hole = other.hole if other.time_us and other.seq >= one.seq else one.hole
    return LastRecord(max(one.seq, other.seq), max(one.time_us, other.time_us), hole)


class DrainPart(Part):
    """Moves records from the journal into the database. If it fails, streaming goes on and records stay journalled."""

    name = "storing"
    needed = False
    stop_s = DRAIN_S

    def __init__(
        self,
        settings: DatabaseConfig,
        database: DatabasePart,
        journal: JournalPart,
        metrics: Metrics,
        on_stored: Callable[[Sequence[Published]], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._journal = journal
        self._metrics = metrics
        self._on_stored = on_stored
        self._drain: JournalDrain | None = None

    @property
    def away(self) -> str | None:
        """Why nothing can be stored at present, or None."""
        drain = self._drain
        silent = self._database.away or self._database.signs.away
        return silent or ("storing has failed" if drain is None else drain.away)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        self._drain = JournalDrain(
            self._journal.journal,
            _RememberingStore(self._database),
            flush_s=self._settings.flush_ms / 1000,
            flush_rows=self._settings.flush_rows,
            metrics=self._metrics,
            log=_log,
            on_stored=self._on_stored,
        )
        try:
            await self._drain.run(task_status=task_status)
        except* Exception:
            self._drain = None
            raise

    async def store_now(self) -> None:
        """Return once all records journalled so far are stored. Raises :class:`StoreUnavailable` if that fails."""
        away, drain = self.away, self._drain
        if away is not None or drain is None:
            raise StoreUnavailable(away or "storing has failed")
        await drain.store_now()

    async def stop(self) -> None:
        """Store the journalled records, as many as the time allows."""
        if self._drain is not None:
            with trio.move_on_after(DRAIN_S - 0.1):
                await self._drain.drain()
        if self._drain is None or self._journal.journal.pending_bytes:
            _log.warning("some records are not stored yet: they wait in the journal for the next start")


class _RememberingStore:
    """Writes to the store and records in the data folder which numbers are used: see :mod:`.known_database`."""

    def __init__(self, database: DatabasePart) -> None:
        self._store = database.store
        self._database = database
        self._rarely = RarelyLogged(_log)

    async def try_write(self, batch: Sequence[Published]) -> None:
        await self._store.try_write(batch)

    async def write(self, batch: Sequence[Published], set_aside: SetAside) -> Written:
        written = await self._store.write(batch, set_aside)
        known = self._database.known
        if known is not None and known.is_behind(batch):
            try:
                await trio.to_thread.run_sync(known.cover, batch)
            except OSError as error:
                self._rarely.error(
                    "the used sequence numbers cannot be saved in the data folder: a start without the database would "
                    "use some of them a second time",
                    error=explain(error),
                )
        return written


class LiveCandlesPart(Part):
    """Computes live candles from the stored records and sends them to their subscribers."""

    name = "live candles"
    needed = False

    def __init__(self, candles: LiveCandles) -> None:
        self._candles = candles

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        await self._candles.run(task_status=task_status)


class HousekeepingPart(Part):
    """Partitions ahead, compression and retention, every hour. If it fails, nothing else is affected."""

    name = "housekeeping"
    needed = False
    pauses_s = (60.0, 3600.0)

    def __init__(
        self, settings: DatabaseConfig, database: DatabasePart, metrics: Metrics, lake: str | None
    ) -> None:
        self._settings = settings
        self._database = database
        self._metrics = metrics
        self._lake = lake

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        keeper = Housekeeping(self._database.database, self._settings, self._metrics, _log, self._lake)
        await keeper.run(task_status=task_status)

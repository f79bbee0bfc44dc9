"""The part that joins this process with others over the bus. Only where the config names one is anything imported."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import structlog
import trio

from .. import __version__
from ..bus.authorities import trusting
from ..bus.engine import BusMisused, BusUnavailable
from ..bus.followed import Followed, encode_marks
from ..bus.guard import Guard
from ..bus.names import presence_prefix
from ..bus.open_engine import import_engine
from ..bus.shared_broker import SharedBroker
from ..bus.shipper import Shipper
from ..bus.status import CLOCKS_APART_S, PRESENCE_S, Presence, clock_ahead_s, digest, encode_presence
from ..bus.take_over import Bus, Lead
from ..config import BusConfig
from ..errors import MdserverError, StoreUnavailable
from ..feed.broker_host import Emit
from ..kinds import BY_NAME
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import Gap, LastRecord, Published, Record, Topic
from ..private_file import open_private
from ..store.connection.connect import Connection
from ..store.live.leaders import note_leader
from ..stream.router import Router
from .parts import Part
from .storage import DatabasePart, DrainPart, JournalPart

__all__ = ["BusPart", "FollowedStoring"]

SLACK_US = 60_000_000
"""Times of neighbouring records may be in another order than their numbers, by about so much."""
MOST_MISSING = 200_000
LOOK_S = 1.0
NOTE_WITHIN = 0.1
"""Of ``lease_s``: how long the database may take to say who leads."""
STORED_WITHIN_S = 15.0
"""How long a replay waits for the leader to store what the bus brought: a change of leaders included."""

_log = structlog.get_logger("mdserver")


class BusPart(Part):
    """The connection to the bus, and what the brokers of this process share of it.

    Args:
        settings: The config's section.
        data_dir: Where the name of this process is kept.
        database: Where records are read that the bus does not have.
        journal: None on an edge, which never leads.
        router: Takes what the bus brings.
        metrics: Where it is counted.
        on_stored: Called with records of other leaders once these have stored them.

    Raises:
        ConfigError: The library of the engine is not installed, or the file of authorities cannot be used.
    """

    name = "bus"
    stop_s = 1.5

    def __init__(
        self,
        settings: BusConfig,
        data_dir: Path,
        database: DatabasePart,
        journal: JournalPart | None,
        router: Router,
        metrics: Metrics,
        on_stored: Callable[[Sequence[Published]], None],
    ) -> None:
        self.followed: dict[str, Followed] = {}
        self._shared: dict[str, SharedBroker] = {}
        self._settings = settings
        self._name_file = data_dir / "bus_process"
        self._database = database
        self._journal = journal
        self._router = router
        self._metrics = metrics
        self._on_stored = on_stored
        self._open_engine = import_engine()
        if settings.ca_file is not None:
            trusting(settings.ca_file)  # said before anything starts
        self._bus: Bus | None = None
        self._shipper: Shipper | None = None
        self._rarely = RarelyLogged(_log)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See :meth:`Part.run`."""
        process = await trio.to_thread.run_sync(process_name, self._name_file)
        url = self._settings.url
        assert url is not None  # noqa: S101 - the part is made only where there is one
        settings = self._settings
        async with self._open_engine(url, name=f"mdserver-{process}", ca_file=settings.ca_file) as engine:
            shipper = Shipper(
                engine,
                self._metrics,
                max_bytes=settings.max_bytes,
                keep_s=settings.keep_s,
                keep_bytes=settings.keep_bytes,
            )
            lead = None
            if self._journal is not None:
                self._shipper = shipper
                lead = Lead(shipper, self._journal.journal.append, self._own_last, self._note_leader)
            self._bus = Bus(engine, process, settings.lease_s, settings.keep_s, self._last_records, lead)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_what_is_stored)
                nursery.start_soon(self._tell_presence, self._bus)
                await shipper.run(task_status=task_status)

    @property
    def away(self) -> str | None:
        """Why nothing can be shipped at present, or None."""
        return None if self._shipper is None else self._shipper.away

    def publish(self, batch: list[Published]) -> None:
        """Hand a batch of a broker that this process leads to its clients, and to the bus."""
        self._router.publish(batch)
        if self._shipper is not None:
            self._shipper.offer(batch)

    def stored(self, batch: Sequence[Published]) -> None:
        """Tell the other processes what this one has stored."""
        if self._shipper is None:
            return
        marks: dict[str, dict[Topic, int]] = {}
        for published in batch:
            if type(published.record) is not Gap:
                marks.setdefault(published.topic.broker, {})[published.topic] = published.seq
        for broker, seqs in marks.items():
            self._shipper.mark(broker, encode_marks(seqs))

    def guard(self, emit: Emit) -> Guard:
        """Return what a shared broker's host emits to."""
        return Guard(emit, self._metrics)

    def share(self, broker: SharedBroker, guard: Guard) -> SharedBroker:
        """Make a broker one that this process shares with others."""
        assert self._bus is not None  # noqa: S101 - the brokers start later
        followed = self.followed.get(broker.name)
        if followed is None:
            followed = self.followed[broker.name] = Followed(
                broker.name,
                route=self._router.publish,
                on_stored=self._on_stored,
                missing=self._missing,
                metrics=self._metrics,
            )
        broker.share(self._bus, followed, guard)
        self._shared[broker.name] = broker
        return broker

    async def _tell_presence(self, bus: Bus) -> None:
        """Say on the bus what this process is, and count what it does."""
        while True:
            for broker in self._shared.values():
                self._metrics.bus_leads.labels(broker.name).set(broker.fence is not None)
                self._metrics.bus_fence.labels(broker.name).set(broker.leader_fence or 0)
                self._metrics.bus_lag.labels(broker.name).set(
                    0 if broker.fence is not None or broker.lag_s is None else broker.lag_s
                )
            self._metrics.bus_waiting.set(0 if self._shipper is None else self._shipper.bytes)
            clock_s = await self._look_at_the_clock(bus)
            presence = Presence(
                self._settings.role,
                socket.gethostname(),
                os.getpid(),
                __version__,
                [name for name, broker in self._shared.items() if broker.fence is not None],
                {name: broker.lag_s for name, broker in self._shared.items() if broker.fence is None},
                clock_s,
                {name: digest(broker.demand.pinned()) for name, broker in self._shared.items()},
            )
            with suppress(BusUnavailable, BusMisused):  # the brokers report it
                await bus.engine.put_in(presence_prefix(), bus.process, encode_presence(presence), PRESENCE_S)
            await trio.sleep(PRESENCE_S / 5)

    async def _look_at_the_clock(self, bus: Bus) -> float | None:
        """Return how far our clock is ahead of the bus's; None where that cannot be read."""
        try:
            ahead_s = await clock_ahead_s(bus.engine)
        except BusUnavailable:
            return None  # the brokers report it
        except BusMisused as error:
            self._rarely.warning("the clock of the bus cannot be read", error=str(error))
            return None
        if abs(ahead_s) >= CLOCKS_APART_S[0]:
            self._rarely.error(
                "the clocks of this process and of the bus differ, so times of receipt, lags and the ends of candles "
                "are wrong: set both by NTP",
                ahead_s=round(ahead_s, 1),
            )
        return ahead_s

    async def _look_what_is_stored(self) -> None:
        """Read in the database what is stored where no leader says it: the one that stored it may be gone."""
        waited: list[tuple[Followed, dict[Topic, int]]] = []
        while True:
            await trio.sleep(LOOK_S)
            late = [followed for followed, seqs in waited if not followed.caught_up(seqs)]
            if late:
                try:
                    found = await self._database.store.last_records()
                except MdserverError:
                    continue  # replays and candles say that the database is away
                for followed in late:
                    followed.note_stored(
                        {topic: one.seq for topic, one in found.items() if topic.broker == followed.broker}
                    )
            waited = [(followed, followed.to_store()) for followed in self.followed.values()]

    async def _note_leader(self, broker: str, process: str, fence: int) -> tuple[int, str]:
        def work(conn: Connection) -> tuple[int, str]:
            return note_leader(conn, broker, process, fence)

        return await self._database.database.run(work, within_s=self._settings.lease_s * NOTE_WITHIN)

    async def _last_records(self, broker: str) -> Mapping[Topic, LastRecord]:
        found = await self._database.store.last_records()
        return {topic: last for topic, last in found.items() if topic.broker == broker}

    def _own_last(self, broker: str) -> Mapping[Topic, LastRecord]:
        if self._journal is None:
            return {}
        return {topic: last for topic, last in self._journal.last_records.items() if topic.broker == broker}

    async def _missing(
        self, topic: Topic, after: int, before: int, from_us: int, to_us: int
    ) -> Sequence[Published]:
        """Read the records of a topic between two numbers; their times lie about between those given."""
        kind = BY_NAME[topic.type]
        if kind.stored is None:
            return ()
        found = await self._database.store.replay_series([topic])
        if topic not in found:
            return ()
        first_us, last_us = min(from_us, to_us) - SLACK_US, max(from_us, to_us) + SLACK_US
        page = await self._database.store.records(
            found[topic][0].id, topic.type, first_us, last_us, limit=MOST_MISSING
        )
        names = [column.name for column in kind.stored.columns]
        make = cast("Callable[..., Record]", kind.struct)
        records = [
            Published(
                topic,
                seq,
                make(symbol=topic.symbol, time_us=time_us, **dict(zip(names, values, strict=True))),
                received_us,
            )
            for seq, time_us, received_us, *values in zip(
                page.seq, page.time_us, page.received_us, *(page.columns[name] for name in names), strict=True
            )
            if after < seq < before
        ]
        return sorted(records, key=lambda published: published.seq)


class FollowedStoring:
    """What replays and candles need of the storing, in a process that follows: whether its leader has stored.

    ``own``: the storing of this process, None on an edge.
    """

    def __init__(self, bus: BusPart, database: DatabasePart, own: DrainPart | None) -> None:
        self._bus = bus
        self._database = database
        self._own = own

    @property
    def away(self) -> str | None:
        """Why nothing can be read or stored at present, or None."""
        if self._own is not None:
            return self._own.away
        return self._database.away or self._database.signs.away

    def is_behind(self, after: Mapping[Topic, int]) -> bool:
        """See :class:`~mdserver.stream.stored_past.StoredPast`."""
        followed = self._bus.followed
        return any(
            topic.broker in followed and followed[topic.broker].is_behind(topic, seq)
            for topic, seq in after.items()
        )

    async def store_now(self) -> None:
        """Return once all that was published before is stored. Raises StoreUnavailable while that cannot be."""
        if (away := self.away) is not None:
            raise StoreUnavailable(away)
        is_stored = self.barrier()
        if self._own is not None:
            await self._own.store_now()
        with trio.move_on_after(STORED_WITHIN_S):
            while not is_stored():
                if (away := self.away) is not None:
                    raise StoreUnavailable(away)
                await trio.sleep(0.02)
            return
        raise StoreUnavailable(f"the leader has not stored its records within {STORED_WITHIN_S:.0f} s")

    def barrier(self) -> Callable[[], bool]:
        """Return a function that tells whether all that the bus brought before is stored."""
        waited = [(one, one.to_store()) for one in self._bus.followed.values() if not one.leads]
        return lambda: all(followed.leads or followed.caught_up(marked) for followed, marked in waited)


def process_name(path: Path) -> str:
    """Return the name of this data folder's process on the bus; made once."""
    try:
        name = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        name = secrets.token_hex(6)
        with os.fdopen(open_private(path, exclusive=True), "w", encoding="ascii") as file:
            file.write(name)
    return name

"""How a process becomes the leader of a broker: fence, what only the bus has, and where the numbers go on."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

import structlog
import trio

from ..errors import JournalFull, MdserverError, Unavailable
from ..model import Gap, LastRecord, Published, Topic
from .engine import START, BusEngine, Position
from .followed import FAILOVER, LEFT_OUT, Followed, Marks, encode_marks
from .names import holder_key, stream_key
from .shipper import Shipper

__all__ = ["AT_ONCE", "HANDED_OVER", "REMEMBER_S", "Bus", "Fences", "Lead", "TakeOver", "Taken", "catch_up"]

AT_ONCE = 200
"""Entries of a read."""
REMEMBER_S = 90 * 86_400.0
"""How long the last holder of a lease is remembered."""

HANDED_OVER = b"-"
"""In the place of the last holder: it gave the lease back, and all its numbers are known."""


class Fences(Protocol):
    """The row in the database that says under which fence a broker is led."""

    async def __call__(self, broker: str, process: str, fence: int) -> tuple[int, str]:
        """Note that a process leads under a fence, unless a higher one is noted; return what is noted then.

        Raises the errors of the database, within a fraction of the lease.
        """


class Lead(NamedTuple):
    """What a process that may lead has for it.

    ``shipper`` puts batches on the bus. ``journal`` takes what the bus has and the database lacks, so that nothing is
    lost that a client saw. ``own_last``: where each topic stands by this process's own journal.
    """

    shipper: Shipper
    journal: Callable[[list[Published]], None]
    own_last: Callable[[str], Mapping[Topic, LastRecord]]
    fences: Fences


class Bus(NamedTuple):
    """What the brokers of a process share.

    ``process`` names it, also over restarts. ``last_records`` reads where each topic of a broker stands in the
    database. ``lead`` None: it only follows.
    """

    engine: BusEngine
    process: str
    lease_s: float
    keep_s: float
    last_records: Callable[[str], Awaitable[Mapping[Topic, LastRecord]]]
    lead: Lead | None


class Taken(NamedTuple):
    """What a new leader begins with. ``is_noted``: the database has its fence."""

    fence: int
    is_noted: bool
    stand: dict[Topic, LastRecord]


async def catch_up(engine: BusEngine, followed: Followed) -> None:
    """Take what is on the stream."""
    stream = stream_key(followed.broker)
    while entries := (await engine.read({stream: followed.position}, most=AT_ONCE, wait_s=0.001)).get(stream):
        await followed.take(entries)


class TakeOver:
    """One take-over of a broker, by the process that has got the lease.

    ``published``: where each topic stands by what this process published itself while it led. ``is_sure``: it
    published each number that it gave out. ``knows_database``: it has seen where the topics stand in the database.
    """

    def __init__(
        self,
        bus: Bus,
        lead: Lead,
        followed: Followed,
        published: Mapping[Topic, LastRecord],
        *,
        is_sure: bool,
        knows_database: bool,
    ) -> None:
        self._bus = bus
        self._lead = lead
        self._followed = followed
        self._published = published
        self._is_sure = is_sure
        self._knows_database = knows_database
        self._broker = followed.broker
        self._log = structlog.get_logger("mdserver").bind(broker=followed.broker)

    async def run(self, at_least: int, wait_s: float) -> Taken:
        """Cut the bus off for whoever led before, and return where the numbers go on.

        ``wait_s``: within so much time after the fence is noted a leader that does not reach the bus has read it.
        Raises BusUnavailable, BusMisused, Deposed; Unavailable where the journal is full, or where nobody knows the
        numbers because the database is away.
        """
        engine, name = self._bus.engine, self._broker
        fence, is_noted = await self._note_fence(at_least)
        noted_s = trio.current_time()
        # From here on the engine refuses what the leader before may still send.
        await engine.append(stream_key(name), Position(fence, 0), [encode_marks({})])
        before = await engine.get(holder_key(name))
        same = before == HANDED_OVER or (self._is_sure and before == self._bus.process.encode())
        await catch_up(engine, self._followed)
        if not same:
            await trio.sleep_until(noted_s + wait_s)
        stored = await self._stored(may_miss=same or self._knows_database)
        await self._journal_what_is_missing(stored)
        for topic, last in stored.items():  # what the leader before has stored and not shipped
            await self._followed.bridge(topic, last.seq, last.time_us, patient=False)
        await engine.put(holder_key(name), self._bus.process.encode(), REMEMBER_S)
        return Taken(fence, is_noted, self._stand(stored, same=same))

    async def _note_fence(self, fence: int) -> tuple[int, bool]:
        me = self._bus.process
        try:
            while (noted := await self._lead.fences(self._broker, me, fence)) != (fence, me):
                fence = noted[0] + 1
        except MdserverError as error:
            self._log.warning("the database cannot be told that this process leads", error=str(error))
            return fence, False
        return fence, True

    async def _stored(self, *, may_miss: bool) -> Mapping[Topic, LastRecord]:
        try:
            return await self._bus.last_records(self._broker)
        except MdserverError as error:
            if not may_miss:
                raise Unavailable(f"where the numbers go on is not known: {error}") from error
            self._log.warning("this process takes the broker over without the database", error=str(error))
            return {}

    async def _journal_what_is_missing(self, stored: Mapping[Topic, LastRecord]) -> None:
        """Journal what the database lacks of what the bus has, or had when this process read it."""
        stream, position = stream_key(self._broker), START
        known = {topic: last.seq for topic, last in stored.items()}
        at = dict(known)
        while entries := (await self._bus.engine.read({stream: position}, most=AT_ONCE, wait_s=0.001)).get(
            stream
        ):
            position = entries[-1].position
            for entry in entries:
                found = self._followed.decode(entry)
                if found is None or isinstance(found, Marks):
                    continue
                missing: list[Published] = []
                for one in found:
                    if one.seq <= known.get(one.topic, 0):
                        continue
                    last = at.get(one.topic, 0)
                    if one.seq > last + 1:
                        missing += self._received(one.topic, last, one.seq)
                    missing.append(one)
                    at[one.topic] = max(one.seq, last)
                self._journal(missing)
        for topic in self._followed.unstored_topics:
            self._journal(self._received(topic, at.get(topic, 0), math.inf))

    def _received(self, topic: Topic, after: int, before: float) -> list[Published]:
        return [one for one in self._followed.unstored(topic) if after < one.seq < before]

    def _journal(self, missing: list[Published]) -> None:
        if not missing:
            return
        try:
            self._lead.journal(missing)
        except (JournalFull, OSError) as error:
            raise Unavailable(f"the journal cannot take what the bus has: {error}") from error

    def _stand(self, stored: Mapping[Topic, LastRecord], *, same: bool) -> dict[Topic, LastRecord]:
        """Return where each topic goes on: behind all accounts, and with numbers left out where another led before."""
        stand: dict[Topic, LastRecord] = {}
        own = self._lead.own_last(self._broker)
        seen = {topic: LastRecord(*stands) for topic, stands in self._followed.last.items()}
        for topic in {*stored, *own, *self._published, *seen}:
            accounts = [one[topic] for one in (stored, own, self._published, seen) if topic in one]
            newest = max(one.seq for one in accounts)
            seq = newest + (0 if same else LEFT_OUT)
            # an account may know the number alone, or that the record is older than one that was dropped
            times = [one.time_us for one in accounts if one.seq == newest and one.time_us]
            time_us = min(times) if times else max(one.time_us for one in accounts)
            hole = Gap(topic, time_us, None, "restart" if same else FAILOVER) if time_us else None
            stand[topic] = LastRecord(seq, time_us, hole)
        return stand

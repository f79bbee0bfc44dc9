"""What a process takes from the bus of a broker that another process leads: each record once, in order.

A number that the bus did not bring is read from the database, where the leader stores it a moment later; what is not
there either is a gap. So whoever is away longer than the bus keeps its entries catches up without a hole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import trio

from ..errors import JournalCorrupt, MdserverError
from ..journal.format import HEADER_BYTES, MAGIC, FrameDecoder, frame_end
from ..kinds import BY_NAME
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import FAILOVER, LEFT_OUT, Gap, LastRecord, Published, Topic
from .engine import START, Entry

__all__ = ["FAILOVER", "LEFT_OUT", "Followed", "Marks", "Missing", "encode_marks"]

BUS = "bus"
"""The cause of a gap of records that neither the bus nor the database has."""

FETCH_S = 5.0
"""How long a record that is missing may take to be in the database."""
FETCH_EVERY_S = 0.25
IMPATIENT_S = 30.0
"""For so long after a wait in vain nothing is waited for: many topics must not wait one after the other."""
MOST_UNSTORED = 100_000
"""Records of a broker that wait for the leader to store them, for the candles of this process."""

_MARKS = b"\x01st1"
"""An entry that begins so says which numbers are stored; its last byte is the version."""

_log = structlog.get_logger("mdserver")


class Missing(Protocol):
    """Reads records by number; what is not there is left out. Raises the errors of the database."""

    async def __call__(
        self, topic: Topic, after: int, before: int, from_us: int, to_us: int
    ) -> Sequence[Published]: ...


class Marks(msgspec.Struct, frozen=True, array_like=True):
    """Up to which number each topic is stored."""

    stored: list[tuple[Topic, int]]


_decode_marks = msgspec.msgpack.Decoder(Marks).decode
_encode = msgspec.msgpack.Encoder().encode


def encode_marks(stored: Mapping[Topic, int]) -> bytes:
    """Return the entry that says which numbers are stored."""
    return _MARKS + _encode(Marks(list(stored.items())))


class Followed:
    """One broker's records as the bus has them; outlives the connection.

    ``route`` hands a batch to the clients, ``on_stored`` is called with records once the leader has stored them.
    """

    def __init__(
        self,
        broker: str,
        *,
        route: Callable[[list[Published]], None],
        on_stored: Callable[[Sequence[Published]], None],
        missing: Missing,
        metrics: Metrics,
    ) -> None:
        self.broker = broker
        self.position = START
        self.leads = False
        """Whether this process leads the broker: then nothing comes from the bus."""
        self.primed = False
        """Whether the numbers before :attr:`position` are known: before, entries are noted and not routed."""
        self.seeded = False
        """Whether the database has said where the topics stand that the bus has brought nothing of."""
        self.last: dict[Topic, tuple[int, int]] = {}
        """The number and the time of each topic's newest record."""
        self.newest_us = 0
        """The time of the newest record that the bus has brought."""
        self.stored: dict[Topic, int] = {}
        self.refused: str | None = None
        """Why the newest entry was skipped, None if it was not."""
        self._holes: dict[Topic, Gap] = {}
        self._route = route
        self._on_stored = on_stored
        self._missing = missing
        self._metrics = metrics
        self._decode = FrameDecoder().decode
        self._file = Path(broker)
        """What errors of the journal's format name as the file."""
        self._unstored: dict[Topic, list[Published]] = {}
        self._unstored_count = 0
        self._impatient_until_s = -math.inf
        self._rarely = RarelyLogged(_log)

    def decode(self, entry: Entry) -> list[Published] | Marks | None:
        """Return what an entry holds; None where it is damaged, of another version or not of this broker."""
        frame = entry.frame
        try:
            if (why := _other_version(frame)) is not None:
                self._refuse(entry, why)
                return None
            if frame.startswith(_MARKS):
                return _decode_marks(frame[len(_MARKS) :])
            if not frame.startswith(MAGIC):
                raise JournalCorrupt(self._file, 0, f"an entry begins with {frame[:4]!r}")
            end = frame_end(frame, 0, len(frame), self._file, 0)
            batch = self._decode(frame[HEADER_BYTES:end])
        except (JournalCorrupt, msgspec.DecodeError, UnicodeDecodeError) as error:
            self._refuse(entry, str(error))
            return None
        if any(published.topic.broker != self.broker for published in batch):
            self._refuse(entry, "it holds records of another broker")
            return None
        return batch

    async def take(self, entries: Sequence[Entry]) -> None:
        """Take the next entries of the stream: route what is new."""
        for entry in entries:
            found = self.decode(entry)
            if isinstance(found, Marks):
                self.note_stored(dict(found.stored))
            elif found:
                await self._take_batch(found)
            if isinstance(found, list):
                self.refused = None
            self.position = entry.position

    def note_own(self, last: Mapping[Topic, LastRecord]) -> None:
        """Take over where topics stand by what this process published itself."""
        self.last |= {topic: (one.seq, one.time_us) for topic, one in last.items()}

    def last_seq(self, topic: Topic) -> int | None:
        """Return the number of a topic's newest record; 0 if there was none, None if that is not known."""
        if topic in self.last:
            return self.last[topic][0]
        return 0 if self.seeded else None

    def is_behind(self, topic: Topic, seq: int) -> bool:
        """Whether records up to a number may still come from the bus."""
        if self.leads:
            return False
        if topic not in self.last:
            return not self.seeded
        return not self.primed or self.last[topic][0] < seq

    def hole(self, topic: Topic) -> Gap | None:
        """Return the gap that a topic is in now, as its leader has announced it."""
        return self._holes.get(topic)

    def seed(self, stored: Mapping[Topic, tuple[int, int]]) -> None:
        """Take over where topics stand in the database that the bus has brought nothing of."""
        self.seeded = True
        for topic, stands in stored.items():
            self.last.setdefault(topic, stands)
        self.note_stored({topic: seq for topic, (seq, _) in stored.items()})

    def note_stored(self, stored: Mapping[Topic, int]) -> None:
        """Note which numbers are stored: by what the leader said, or by what the database has."""
        done: list[Published] = []
        for topic, seq in stored.items():
            self.stored[topic] = max(seq, self.stored.get(topic, 0))
            waiting = self._unstored.get(topic)
            if waiting:
                count = sum(published.seq <= seq for published in waiting)
                done += waiting[:count]
                del waiting[:count]
        self._unstored_count -= len(done)
        if done and self.primed:
            self._on_stored(done)

    def unstored(self, topic: Topic) -> Sequence[Published]:
        """Return the records of a topic that came and that the leader has not said to have stored, in order."""
        return self._unstored.get(topic, ())

    @property
    def unstored_topics(self) -> Sequence[Topic]:
        """The topics that :meth:`unstored` has records of."""
        return [topic for topic, waiting in self._unstored.items() if waiting]

    def begin_again(self) -> None:
        """Read the stream from its beginning: it is another one. What is known by its number is not taken again."""
        self.position = START

    def caught_up(self, marked: Mapping[Topic, int]) -> bool:
        """Whether the leader has stored these numbers."""
        return all(self.stored.get(topic, 0) >= seq for topic, seq in marked.items())

    def to_store(self) -> dict[Topic, int]:
        """Return the numbers up to which the leader has to store, or has stored."""
        return {topic: seq for topic, (seq, _) in self.last.items() if BY_NAME[topic.type].stored is not None}

    async def _take_batch(self, batch: list[Published]) -> None:
        fresh: list[Published] = []
        bridged: set[Topic] = set()
        for published in batch:
            topic, seq, record = published.topic, published.seq, published.record
            known = self.last.get(topic)
            if type(record) is Gap:
                if known is not None and seq < known[0]:
                    continue  # of the past: the stream is read again
                ended = seq - (LEFT_OUT if record.cause == FAILOVER else 0)
                if known is not None and known[0] < ended:
                    self._hand_on(fresh)
                    fresh = []
                    await self.bridge(topic, ended, record.from_us)
                if record.to_us is None:
                    self._holes[topic] = record
                if self.primed:
                    fresh.append(published)
                if record.cause == FAILOVER:
                    bridged.add(topic)
                continue
            if known is not None and seq <= known[0]:
                continue
            if known is not None and seq > known[0] + 1 and topic not in bridged and self.primed:
                self._hand_on(fresh)
                fresh = [*await self._fetch(topic, known, published), published]
            elif self.primed:
                fresh.append(published)
            self.last[topic] = (seq, record.time_us)
            if record.time_us > self.newest_us:
                self.newest_us = record.time_us
            self._holes.pop(topic, None)
        self._hand_on(fresh)

    async def bridge(self, topic: Topic, seq: int, time_us: int, *, patient: bool = True) -> None:
        """Route the records of a topic up to the last number of a leader, which it may have stored but not shipped.

        A gap takes the place of those that are not stored. ``patient``: wait for them.
        """
        known = self.last.get(topic)
        if known is None or seq <= known[0]:
            return
        if self.primed:
            end = Published(topic, seq + 1, Gap(topic, time_us, time_us, BUS))
            self._hand_on(await self._fetch(topic, known, end, patient=patient))
        self.last[topic] = (seq, time_us)

    def _hand_on(self, batch: list[Published]) -> None:
        if not batch:
            return
        for published in batch:
            if (
                type(published.record) is not Gap
                and BY_NAME[published.topic.type].stored is not None
                and self._unstored_count < MOST_UNSTORED
            ):
                self._unstored.setdefault(published.topic, []).append(published)
                self._unstored_count += 1
        self._metrics.followed.labels(self.broker).value += len(batch)
        self._route(batch)

    async def _fetch(
        self, topic: Topic, known: tuple[int, int], behind: Published, *, patient: bool = True
    ) -> list[Published]:
        """Return the records between a number and a record or gap behind it, and a gap for those that are nowhere."""
        seq, time_us = known
        found: Sequence[Published] = ()
        if BY_NAME[topic.type].stored is not None:
            with trio.move_on_after(FETCH_S) as patience:
                while not _is_all(found, behind, behind.seq - seq - 1):
                    try:
                        found = await self._missing(
                            topic, seq, behind.seq + 1, time_us, behind.record.time_us
                        )
                    except MdserverError as error:
                        self._rarely.error("records that the bus lacks cannot be read", error=str(error))
                    if not patient or trio.current_time() < self._impatient_until_s:
                        break
                    if not _is_all(found, behind, behind.seq - seq - 1):
                        await trio.sleep(FETCH_EVERY_S)
            if patience.cancelled_caught:
                self._impatient_until_s = trio.current_time() + IMPATIENT_S
        found = [published for published in found if published.seq < behind.seq]
        self._metrics.fetched.labels(self.broker).inc(len(found))
        return _with_gaps(topic, known, found, behind)

    def _refuse(self, entry: Entry, why: str) -> None:
        self.refused = why
        self._metrics.frames_refused.labels(self.broker).inc()
        self._rarely.error(
            "an entry of the bus was skipped", broker=self.broker, entry=str(entry.position), error=why
        )


def _other_version(frame: bytes) -> str | None:
    """Return why an entry of another version cannot be read; None where it is of ours, or nothing of ours at all."""
    for ours in (MAGIC, _MARKS):
        if frame.startswith(ours[:-1]) and len(frame) >= len(ours) and not frame.startswith(ours):
            return (
                f"it is of version {chr(frame[len(ours) - 1])} and this process reads version {chr(ours[-1])}: the "
                "processes of a bus need the same version of mdserver"
            )
    return None


def _is_all(found: Sequence[Published], behind: Published, wanted: int) -> bool:
    """Whether nothing can come any more: a leader stores in order, so what is before a stored record is there."""
    # a gap is not stored among the records: the last one before it is
    last = behind.seq - (type(behind.record) is Gap)
    return len(found) >= wanted or (bool(found) and found[-1].seq >= last)


def _with_gaps(
    topic: Topic, known: tuple[int, int], found: Sequence[Published], behind: Published
) -> list[Published]:
    """Return the records that were found, with a gap wherever a number is left out, up to ``behind``."""
    complete: list[Published] = []
    seq, time_us = known
    for published in (*found, behind):
        record = published.record
        if published.seq > seq + 1:
            missing = published.seq - seq - 1
            # behind a change of leaders, whose gap was missed, the numbers say nothing of how many records are missing
            cause, size = (FAILOVER, None) if missing >= LEFT_OUT else (BUS, missing)
            hole = Gap(topic, time_us, max(time_us, record.time_us), cause, size)
            complete.append(Published(topic, seq, hole))
        if published is not behind:
            complete.append(published)
        seq, time_us = published.seq, record.time_us
    return complete

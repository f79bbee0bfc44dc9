"""What a process takes from the bus of a broker that another process leads: each record once, in order.

A number that the bus did not bring is read from the database, where the leader stores it a moment later; what is not
there either is a gap. So whoever is away longer than the bus keeps its entries catches up without a hole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import trio

from ..errors import JournalCorrupt, StoreUnavailable
from ..journal.format import HEADER_BYTES, MAGIC, FrameDecoder, frame_end
from ..log import RarelyLogged
from ..metrics import Metrics
from ..model import Gap, LastRecord, Published, Record, Topic
from .engine import START, Entry

__all__ = ["FAILOVER", "Followed", "Marks", "Missing", "encode_marks"]

FAILOVER = "failover"
"""The cause of the gap between the records of two leaders."""

BUS = "bus"
"""The cause of a gap of records that neither the bus nor the database has."""

FETCH_S = 5.0
"""How long a record that is missing may take to be in the database."""
FETCH_EVERY_S = 0.25
MOST_UNSTORED = 100_000
"""Records of a broker that wait for the leader to store them, for the candles of this process."""

_MARKS = b"\x01st1"
"""An entry that begins so says which numbers are stored; its last byte is the version."""

_log = structlog.get_logger("mdserver")


class Missing(Protocol):
    """Reads records by number; what is not there is left out. Raises StoreUnavailable."""

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
        self.last: dict[Topic, tuple[int, int]] = {}
        """The number and the time of each topic's newest record."""
        self.stored: dict[Topic, int] = {}
        self._holes: dict[Topic, Gap] = {}
        self._route = route
        self._on_stored = on_stored
        self._missing = missing
        self._metrics = metrics
        self._decode = FrameDecoder().decode
        self._unstored: dict[Topic, list[Published]] = {}
        self._unstored_count = 0
        self._rarely = RarelyLogged(_log)

    def decode(self, entry: Entry) -> list[Published] | Marks | None:
        """Return what an entry holds; None where it is damaged, of another version or not of this broker."""
        frame = entry.frame
        try:
            if frame.startswith(_MARKS):
                return _decode_marks(frame[len(_MARKS) :])
            if not frame.startswith(MAGIC):
                raise JournalCorrupt(Path(self.broker), 0, f"an entry begins with {frame[:4]!r}")
            end = frame_end(frame, 0, len(frame), Path(self.broker), 0)
            batch = self._decode(frame[HEADER_BYTES:end])
        except (JournalCorrupt, msgspec.DecodeError) as error:
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
                self._mark(found)
            elif found:
                await self._take_batch(found)
            self.position = entry.position

    def note_own(self, last: Mapping[Topic, LastRecord]) -> None:
        """Take over where topics stand by what this process published itself."""
        self.last |= {topic: (one.seq, one.time_us) for topic, one in last.items()}

    def last_seq(self, topic: Topic) -> int:
        """Return the number of a topic's newest record; 0 if there was none."""
        return self.last.get(topic, (0, 0))[0]

    def hole(self, topic: Topic) -> Gap | None:
        """Return the gap that a topic is in now, as its leader has announced it."""
        return self._holes.get(topic)

    def begin_again(self) -> None:
        """Read the stream from its beginning: it is another one. What is known by its number is not taken again."""
        self.position = START

    def caught_up(self, marked: Mapping[Topic, int]) -> bool:
        """Whether the leader has stored these numbers."""
        return all(self.stored.get(topic, 0) >= seq for topic, seq in marked.items())

    async def _take_batch(self, batch: list[Published]) -> None:
        fresh: list[Published] = []
        bridged: set[Topic] = set()
        for published in batch:
            topic, seq, record = published.topic, published.seq, published.record
            if type(record) is Gap:
                if record.to_us is None:
                    self._holes[topic] = record
                if self.primed:
                    fresh.append(published)
                if record.cause == FAILOVER:
                    bridged.add(topic)
                continue
            known = self.last.get(topic)
            if known is not None and seq <= known[0]:
                continue
            if known is not None and seq > known[0] + 1 and topic not in bridged and self.primed:
                self._hand_on(fresh)
                fresh = await self._fetch(topic, known, published)
            self.last[topic] = (seq, record.time_us)
            self._holes.pop(topic, None)
            if self.primed:
                fresh.append(published)
        self._hand_on(fresh)

    def _hand_on(self, batch: list[Published]) -> None:
        if not batch:
            return
        for published in batch:
            if type(published.record) is not Gap and self._unstored_count < MOST_UNSTORED:
                self._unstored.setdefault(published.topic, []).append(published)
                self._unstored_count += 1
        self._metrics.followed.labels(self.broker).value += len(batch)
        self._route(batch)

    async def _fetch(self, topic: Topic, known: tuple[int, int], behind: Published) -> list[Published]:
        """Return the records between two numbers, and a gap for those that are nowhere."""
        seq, time_us = known
        assert not isinstance(behind.record, Gap)  # noqa: S101 - the caller knows
        wanted = behind.seq - seq - 1
        found: Sequence[Published] = ()
        with trio.move_on_after(FETCH_S):
            while len(found) < wanted:
                try:
                    found = await self._missing(topic, seq, behind.seq, time_us, behind.record.time_us)
                except StoreUnavailable as error:
                    self._rarely.error("records that the bus lacks cannot be read", error=str(error))
                if len(found) < wanted:
                    await trio.sleep(FETCH_EVERY_S)
        self._metrics.fetched.labels(self.broker).inc(len(found))
        return _with_gaps(topic, known, found, behind)

    def _mark(self, marks: Marks) -> None:
        stored: list[Published] = []
        for topic, seq in marks.stored:
            self.stored[topic] = max(seq, self.stored.get(topic, 0))
            waiting = self._unstored.get(topic)
            if waiting:
                done = [published for published in waiting if published.seq <= seq]
                del waiting[: len(done)]
                stored += done
        self._unstored_count -= len(stored)
        if stored and self.primed:
            self._on_stored(stored)

    def _refuse(self, entry: Entry, why: str) -> None:
        self._metrics.frames_refused.labels(self.broker).inc()
        self._rarely.error(
            "an entry of the bus was skipped", broker=self.broker, entry=str(entry.position), error=why
        )


def _with_gaps(
    topic: Topic, known: tuple[int, int], found: Sequence[Published], behind: Published
) -> list[Published]:
    """Return records in order, with a gap wherever a number is left out."""
    complete: list[Published] = []
    seq, time_us = known
    record: Record | Gap
    for published in (*found, behind):
        record = published.record
        if published.seq > seq + 1:
            hole = Gap(topic, time_us, max(time_us, record.time_us), BUS, published.seq - seq - 1)
            complete.append(Published(topic, seq, hole))
        if published is not behind:
            complete.append(published)
        seq, time_us = published.seq, record.time_us
    return complete

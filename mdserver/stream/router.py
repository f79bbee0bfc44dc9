"""Fan-out: from accepted records to the clients that subscribed to them.

One synchronous pass per batch: each record is encoded and framed once, what a client is owed is joined, and each
client gets one write. Clients with the same set of topics form a group and share the joined bytes. Records
that nobody subscribed to are not encoded. No await per delivery: a task switch costs more than the write. Not even
Python code runs per delivery as long as all goes well: the writes of a pass are one loop in C.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import compress, islice, repeat
from typing import Protocol, TypeAlias

import trio

from ..metrics import Metrics
from ..model import Gap, Published, Topic
from ..protocol.record_frames import frame_record

__all__ = ["Router", "Sink"]


class Sink(Protocol):
    """The write side of one client, as the router sees it. Nothing here blocks or raises."""

    @property
    def descriptor(self) -> int:
        """The non-blocking socket that takes frames right now, -1 when they must be handed to the sink."""
        ...

    @property
    def behind(self) -> bool:
        """True while the client has not taken what it was sent before."""
        ...

    def write(self, frames: bytes) -> None:
        """Send whole frames."""
        ...

    def park(self, rest: bytes) -> None:
        """Send the rest of frames that went out through the descriptor in part."""
        ...

    def offer(self, published: Published, frame: bytes) -> None:
        """Keep a record for a client that is behind: ticks may be conflated, trades never are."""
        ...


_Owed: TypeAlias = tuple[Published, bytes]
"""A record and its frame."""


class _Group:
    """Clients with one and the same set of topics; ``only`` is the client of a group of one.

    ``received`` are the topics whose records they want with the time of receipt.
    ``first`` and ``more`` are what it is owed in the current pass: mostly one record, which needs no list.
    """

    __slots__ = ("first", "more", "only", "received", "sinks", "topics")

    def __init__(self, topics: frozenset[Topic], received: frozenset[Topic]) -> None:
        self.topics = topics
        self.received = received
        self.sinks: dict[Sink, None] = {}
        self.only: Sink | None = None
        self.first: _Owed | None = None
        self.more: list[_Owed] | None = None

    def add(self, sink: Sink) -> None:
        self.sinks[sink] = None
        self.only = sink if len(self.sinks) == 1 else None

    def remove(self, sink: Sink) -> None:
        del self.sinks[sink]
        self.only = next(iter(self.sinks)) if len(self.sinks) == 1 else None

    def owed(self) -> list[_Owed]:
        assert self.first is not None  # noqa: S101 - it was touched
        return [self.first, *(self.more or ())]


class _Audience:
    """The groups that listen to one topic; ``sinks`` are their clients, None until they are listed again.

    ``timed``: those of another frame, in which records carry the time of their receipt; None while nobody asks.
    """

    __slots__ = ("groups", "sinks", "timed")

    def __init__(self) -> None:
        self.groups: dict[_Group, None] = {}
        self.sinks: list[Sink] | None = None
        self.timed: dict[_Group, None] | None = None

    def add(self, group: _Group, *, timed: bool) -> None:
        if not timed:
            self.groups[group] = None
        elif self.timed is None:
            self.timed = {group: None}
        else:
            self.timed[group] = None

    def discard(self, group: _Group) -> None:
        """Forget a group; the audience may be empty then."""
        self.groups.pop(group, None)
        if self.timed is not None:
            self.timed.pop(group, None)
            self.timed = self.timed or None

    @property
    def empty(self) -> bool:
        return not self.groups and self.timed is None


class Router:
    """Topics and who listens to them.

    ``window_s`` 0: each batch goes out before :meth:`publish` returns. Above 0: batches are collected that long,
    so that many small ones cost one write per client; :meth:`run` must then be running.
    """

    def __init__(self, metrics: Metrics, window_s: float = 0.0) -> None:
        self._audiences: dict[Topic, _Audience] = {}
        self._groups: dict[tuple[frozenset[Topic], frozenset[Topic]], _Group] = {}
        self._group_of: dict[Sink, _Group] = {}
        self._window_s = window_s
        self._collected: list[Published] = []
        self._wake = trio.Event()
        self._delivered = metrics.delivered.labels()
        self._last: dict[Topic, Published] = {}

    def topics_of(self, sink: Sink) -> frozenset[Topic]:
        """Return what a client is subscribed to."""
        group = self._group_of.get(sink)
        return frozenset() if group is None else group.topics

    def set_topics(self, sink: Sink, topics: Iterable[Topic], received: Iterable[Topic] = ()) -> None:
        """Make ``topics`` the complete set of a client's subscriptions; an empty one forgets the client.

        ``received``: those of them whose records carry the time of their receipt.
        """
        self.flush()  # what was published before is owed to the old set
        wanted, timed = frozenset(topics), frozenset(received)
        self._leave(sink)
        if not wanted:
            return
        group = self._groups.get((wanted, timed))
        if group is None:
            group = self._groups[wanted, timed] = _Group(wanted, timed)
            for topic in wanted:
                self._audiences.setdefault(topic, _Audience()).add(group, timed=topic in timed)
        group.add(sink)
        self._group_of[sink] = group
        self._relist(wanted)

    def _leave(self, sink: Sink) -> None:
        group = self._group_of.pop(sink, None)
        if group is None:
            return
        group.remove(sink)
        self._relist(group.topics)
        if group.sinks:
            return
        del self._groups[group.topics, group.received]
        for topic in group.topics:
            audience = self._audiences[topic]
            audience.discard(group)
            if audience.empty:
                del self._audiences[topic]

    def _relist(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            self._audiences[topic].sinks = None

    def publish(self, batch: Sequence[Published]) -> None:
        """Hand a batch to its subscribers, at once or at the end of the window."""
        last = self._last
        for published in batch:
            if type(published.record) is not Gap:
                last[published.topic] = published
        if not self._window_s:
            self._deliver(batch)
            return
        self._collected.extend(batch)
        self._wake.set()

    def last(self, topic: Topic) -> Published | None:
        """Return the newest record of a topic that was published since the start, or None."""
        return self._last.get(topic)

    def last_seqs(self) -> dict[Topic, int]:
        """Return the number of the newest record of each topic; topics whose records have none are left out."""
        return {topic: published.seq for topic, published in self._last.items() if published.seq}

    def flush(self) -> None:
        """Deliver what the window has collected."""
        if self._collected:
            batch, self._collected = self._collected, []
            self._deliver(batch)

    async def run(self) -> None:
        """Close each window after its time; runs until cancelled, and then delivers what is left."""
        try:
            while True:
                await self._wake.wait()
                await trio.sleep(self._window_s)
                self._wake = trio.Event()
                self.flush()
        finally:
            self.flush()

    def _deliver(self, batch: Sequence[Published]) -> None:
        delivered = self._deliver_one(batch[0]) if len(batch) == 1 else self._deliver_many(batch)
        if delivered:
            self._delivered.value += delivered

    def _deliver_one(self, published: Published) -> int:
        """Deliver a record that came alone: nothing to join."""
        audience = self._audiences.get(published.topic)
        if audience is None:
            return 0
        sinks = audience.sinks
        if sinks is None:
            sinks = audience.sinks = [sink for group in audience.groups for sink in group.sinks]
        if audience.timed is None:
            return _write_to_all(sinks, published, frame_record(published))
        timed = [sink for group in audience.timed for sink in group.sinks]
        delivered = _write_to_all(timed, published, frame_record(published, received=True))
        return delivered + (_write_to_all(sinks, published, frame_record(published)) if sinks else 0)

    def _deliver_many(self, batch: Sequence[Published]) -> int:
        """Deliver records that came together: join what each client is owed, and write it once."""
        touched: list[_Group] = []
        try:
            self._touch(batch, touched)
            return self._deliver_owed(touched)
        finally:
            for group in touched:
                group.first = group.more = None

    def _deliver_owed(self, touched: Sequence[_Group]) -> int:
        sinks: list[Sink] = []
        frames: list[bytes] = []
        delivered = 0
        for group in touched:
            assert group.first is not None  # noqa: S101 - it was touched
            joined, records = group.first[1], 1
            if group.more is not None:
                joined, records = b"".join([frame for _, frame in group.owed()]), 1 + len(group.more)
            if group.only is not None:
                sinks.append(group.only)
                frames.append(joined)
                delivered += records
            else:
                sinks.extend(group.sinks)
                frames.extend(repeat(joined, len(group.sinks)))
                delivered += records * len(group.sinks)
        sent = _write_each(sinks, frames)
        if sent != list(map(len, frames)):
            for sink, joined, count in zip(sinks, frames, sent, strict=True):
                if count != len(joined):
                    _hand_over(sink, self._group_of[sink].owed(), joined, count)
        return delivered

    def _touch(self, batch: Sequence[Published], touched: list[_Group]) -> None:
        """Note for each group what it is owed, and add to ``touched`` the groups that are owed something."""
        for published in batch:
            audience = self._audiences.get(published.topic)
            if audience is None:
                continue
            if audience.groups:
                _owe(audience.groups, (published, frame_record(published)), touched)
            if audience.timed is not None:
                _owe(audience.timed, (published, frame_record(published, received=True)), touched)


def _owe(groups: Iterable[_Group], entry: _Owed, touched: list[_Group]) -> None:
    for group in groups:
        if group.first is None:
            group.first = entry
            touched.append(group)
        elif group.more is None:
            group.more = [entry]
        else:
            group.more.append(entry)


def _write_to_all(sinks: Sequence[Sink], published: Published, frame: bytes) -> int:
    """Write one record to each sink; return how many there are."""
    sent = _write_each(sinks, repeat(frame))
    if sent.count(len(frame)) < len(sinks):
        for sink, count in zip(sinks, sent, strict=True):
            if count != len(frame):
                _hand_over(sink, [(published, frame)], frame, count)
    return len(sinks)


def _write_each(sinks: Sequence[Sink], frames: Iterable[bytes]) -> list[int]:
    """Write to each sink's descriptor; return how many bytes each took, -1 where writing failed.

    ``extend`` keeps what the iterator gave before it raised, and ``map`` goes on behind the failed write.
    """
    descriptors = [sink.descriptor for sink in sinks]
    if -1 not in descriptors:
        return _write_open(descriptors, frames)
    # a failing write costs more than all else that is done for a client that is behind, and there may be thousands
    frames = list(islice(frames, len(sinks)))
    is_open = [descriptor >= 0 for descriptor in descriptors]
    written = iter(_write_open(list(compress(descriptors, is_open)), compress(frames, is_open)))
    return [next(written) if one else -1 for one in is_open]


def _write_open(descriptors: Sequence[int], frames: Iterable[bytes]) -> list[int]:
    sent: list[int] = []
    writes = map(os.write, descriptors, frames)
    while len(sent) < len(descriptors):
        try:
            sent.extend(writes)
        except OSError:
            sent.append(-1)
    return sent


def _hand_over(sink: Sink, owed: Sequence[_Owed], frames: bytes, sent: int) -> None:
    """Leave to the sink what its descriptor did not take: it knows whether the client is slow, gone or not direct."""
    if sent >= 0:
        sink.park(frames[sent:])
    elif sink.behind:
        for published, frame in owed:
            sink.offer(published, frame)
    else:
        sink.write(frames)

"""Fan-out: from accepted records to the clients that subscribed to them.

One synchronous pass per batch: each record is encoded and framed once, what a client is owed is joined, and each
client gets one write. Clients with the same set of topics form a group and share the joined bytes. Records
that nobody subscribed to are not encoded. No await per delivery: a task switch costs more than the write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

import trio

from .metrics import Metrics
from .model import Gap, Published, Topic
from .protocol import answers
from .protocol.records import frame_record

__all__ = ["Router", "Sink"]


class Sink(Protocol):
    """The write side of one client, as the router sees it. Nothing here blocks or raises."""

    @property
    def behind(self) -> bool:
        """True while the client has not taken what it was sent before."""
        ...

    def write(self, frames: bytes) -> None:
        """Send whole frames."""
        ...

    def offer(self, published: Published, frame: bytes) -> None:
        """Keep a record for a client that is behind: ticks may be conflated, trades never are."""
        ...


_Owed: TypeAlias = tuple[Published, bytes]
"""A record and its frame."""


class _Group:
    """Clients with one and the same set of topics; ``only`` is the client of a group of one.

    ``first`` and ``more`` are what it is owed in the current pass: mostly one record, which needs no list.
    """

    __slots__ = ("first", "more", "only", "sinks", "topics")

    def __init__(self, topics: frozenset[Topic]) -> None:
        self.topics = topics
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


class Router:
    """Topics and who listens to them.

    ``window_s`` 0: each batch goes out before :meth:`publish` returns. Above 0: batches are collected that long,
    so that many small ones cost one write per client; :meth:`run` must then be running.
    """

    def __init__(self, metrics: Metrics, window_s: float = 0.0) -> None:
        self._audiences: dict[Topic, dict[_Group, None]] = {}
        self._groups: dict[frozenset[Topic], _Group] = {}
        self._group_of: dict[Sink, _Group] = {}
        self._window_s = window_s
        self._collected: list[Published] = []
        self._wake = trio.Event()
        self._delivered = metrics.delivered

    def topics_of(self, sink: Sink) -> frozenset[Topic]:
        """Return what a client is subscribed to."""
        group = self._group_of.get(sink)
        return frozenset() if group is None else group.topics

    def set_topics(self, sink: Sink, topics: Iterable[Topic]) -> None:
        """Make ``topics`` the complete set of a client's subscriptions; an empty one forgets the client."""
        self.flush()  # what was published before is owed to the old set
        wanted = frozenset(topics)
        self._leave(sink)
        if not wanted:
            return
        group = self._groups.get(wanted)
        if group is None:
            group = self._groups[wanted] = _Group(wanted)
            for topic in wanted:
                self._audiences.setdefault(topic, {})[group] = None
        group.add(sink)
        self._group_of[sink] = group

    def _leave(self, sink: Sink) -> None:
        group = self._group_of.pop(sink, None)
        if group is None:
            return
        group.remove(sink)
        if group.sinks:
            return
        del self._groups[group.topics]
        for topic in group.topics:
            audience = self._audiences[topic]
            del audience[group]
            if not audience:
                del self._audiences[topic]

    def publish(self, batch: Sequence[Published]) -> None:
        """Hand a batch to its subscribers, at once or at the end of the window."""
        if not self._window_s:
            self._deliver(batch)
            return
        self._collected.extend(batch)
        self._wake.set()

    def announce(self, gap: Gap) -> None:
        """Tell a topic's subscribers of a hole, behind all records published before."""
        self.flush()
        audience = self._audiences.get(gap.topic)
        if audience is None:
            return
        frame = answers.gap(gap)
        for group in audience:
            for sink in group.sinks:
                sink.write(frame)

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
            self._delivered.inc(delivered)

    def _deliver_one(self, published: Published) -> int:
        """Deliver a record that came alone: nothing to join."""
        audience = self._audiences.get(published.topic)
        if audience is None:
            return 0
        frame = frame_record(published)
        delivered = 0
        for group in audience:
            only = group.only
            if only is not None:
                delivered += 1
                if only.behind:
                    only.offer(published, frame)
                else:
                    only.write(frame)
                continue
            delivered += len(group.sinks)
            for sink in group.sinks:
                if sink.behind:
                    sink.offer(published, frame)
                else:
                    sink.write(frame)
        return delivered

    def _deliver_many(self, batch: Sequence[Published]) -> int:
        """Deliver records that came together: join what each client is owed, and write it once."""
        touched: list[_Group] = []
        for published in batch:
            audience = self._audiences.get(published.topic)
            if audience is None:
                continue
            entry = (published, frame_record(published))
            for group in audience:
                if group.first is None:
                    group.first = entry
                    touched.append(group)
                elif group.more is None:
                    group.more = [entry]
                else:
                    group.more.append(entry)
        return sum(map(_settle, touched))


def _settle(group: _Group) -> int:
    """Hand a group what it is owed; return the number of deliveries."""
    assert group.first is not None  # noqa: S101 - it was touched
    first, more = group.first, group.more
    group.first = group.more = None
    only = group.only
    if more is None:
        if only is not None and not only.behind:
            only.write(first[1])
            return 1
        owed = [first]
        frames = first[1]
    else:
        owed = [first, *more]
        frames = b"".join([frame for _, frame in owed])
    for sink in group.sinks:
        if sink.behind:
            for published, frame in owed:
                sink.offer(published, frame)
        else:
            sink.write(frames)
    return len(owed) * len(group.sinks)

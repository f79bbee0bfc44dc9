"""Fan-out: from accepted records to the clients that have subscribed to them.

There is one synchronous pass per batch. Each record is encoded and framed once for all clients that want the same
bytes, the frames for a client are joined, and each client gets one write. Clients with the same subscriptions form a
group and share the joined bytes. Records without subscribers are not encoded. A delivery has no await, because a task
switch costs more than the write. It does not even run Python code unless a write fails: the writes of a pass are one
loop in C.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, islice, repeat

import trio

from ..kinds import FULL_BOOK, KINDS
from ..metrics import Metrics
from ..model import Gap, Published, Topic
from ..protocol.encoding import Encoding, mark
from ..protocol.requests import EVERY
from ..protocol.terms import Terms
from .audience import Array, Audience, Group, Key, Line, Owed, Sink
from .full_books import FullBooks
from .pacing import Pace, Pacer

__all__ = ["Router"]


class Router:
    """Topics and their subscribers.

    ``window_s`` 0: each batch is sent before :meth:`publish` returns. Above 0: batches are collected for that time, so
    that many small ones cost one write per client. :meth:`run` must be running for that, and for subscriptions with a
    rate; ``pacer`` is one that runs already.
    """

    def __init__(self, metrics: Metrics, window_s: float = 0.0, *, pacer: Pacer | None = None) -> None:
        self.pacer = pacer or Pacer()
        self._audiences: dict[Topic, Audience] = {}
        self._groups: dict[Key, Group] = {}
        self._group_of: dict[Sink, Group] = {}
        self._of_every = 0
        """The number of subscribed topics with the symbol ``*``; if it is 0, no look-up is made for them."""
        self._window_s = window_s
        self._collected: list[Published] = []
        self._wake = trio.Event()
        self._delivered = metrics.delivered.labels()
        self._conflated = metrics.conflated
        self._last: dict[Topic, Published] = {}
        self._books = FullBooks()
        self._find_last = self.last
        self._for_books: list[Published] = []

    # -- subscriptions -------------------------------------------------------------------------------

    def topics_of(self, sink: Sink) -> frozenset[Topic]:
        """Return a client's subscriptions."""
        group = self._group_of.get(sink)
        return frozenset() if group is None else frozenset(group.terms)

    def set_topics(self, sink: Sink, topics: Mapping[Topic, Terms], array: Array = None) -> None:
        """Replace a client's subscriptions by ``topics``; an empty set removes the client.

        A topic with the symbol ``*`` stands for all topics of its broker, type and variant that are not named
        themselves. ``array`` puts the frames of several records into one for this client.
        """
        self.flush()  # earlier records go to the old set of topics
        before = self._group_of.get(sink)
        if not topics:
            if before is not None:
                self._leave(sink, before)
            return
        terms = dict(topics)
        key: Key = (frozenset(terms.items()), array)
        group = self._groups.get(key)
        if group is not None and group is before:
            return
        if before is not None and before.paced:
            self._send_held(sink, before, terms)
        paced_before = {} if before is None else {topic: before.terms[topic] for topic in before.paced}
        if group is None and before is not None and before.only is sink and before.array is array:
            group = before
            self._change(group, terms, key)
        else:
            if group is None:
                group = self._groups[key] = Group(terms, key)
                self._listen(group, terms)
            group.add(
                sink
            )  # before it leaves the other group, so that common topics always keep a subscriber
            self._relist(group)
            if before is not None:
                self._leave(sink, before)
            self._group_of[sink] = group
        new = [topic for topic in group.paced if paced_before.get(topic) != group.terms[topic]]
        if new:
            self.told(sink, new)

    def told(self, sink: Sink, topics: Iterable[Topic]) -> None:
        """Record that a client has the newest record of these topics, even if a rate would hold it back."""
        group = self._group_of.get(sink)
        if group is None or not group.paced:
            return
        for topic in topics:
            for held, pace in self._paces(group, topic):
                if pace.held is not None:
                    pace.known[sink] = self._last[held].seq

    def _paces(self, group: Group, topic: Topic) -> list[tuple[Topic, Pace]]:
        """Return the paces of a group's subscription, by topic."""
        terms = group.terms.get(topic)
        if terms is None or not terms.rate_ms:
            return []
        return list((self._audiences[topic].lines[terms].paces or {}).items())

    def _send_held(self, sink: Sink, group: Group, topics: Mapping[Topic, Terms]) -> None:
        """Send a client its held-back records of topics whose terms change."""
        for topic in group.paced:
            if topic in topics and topics[topic] != group.terms[topic]:
                for _, pace in self._paces(group, topic):
                    if pace.held is not None:
                        skipped = pace.missed_by(sink, pace.held)
                        self._write_held([(sink, skipped)], pace.held, group.terms[topic])

    def _listen(self, group: Group, topics: Mapping[Topic, Terms]) -> None:
        audiences = self._audiences
        for topic, terms in topics.items():
            audience = audiences.get(topic)
            if audience is None:
                audience = audiences[topic] = Audience(is_every=topic.symbol == EVERY)
                self._of_every += audience.is_every
            audience.add(group, terms)

    def _unlisten(self, group: Group, topics: Mapping[Topic, Terms]) -> None:
        audiences = self._audiences
        for topic, terms in topics.items():
            if audiences[topic].discard(group, terms):
                del audiences[topic]
                self._of_every -= topic.symbol == EVERY
                if topic.variant == FULL_BOOK:
                    self._books.drop_broken(topic)

    def _change(self, group: Group, terms: dict[Topic, Terms], key: Key) -> None:
        """Change the topics of a group of one client; of possibly thousands only those that differ are touched."""
        before = group.terms
        del self._groups[group.key]
        self._groups[key] = group
        added = {topic: one for topic, one in terms.items() if before.get(topic) != one}
        gone = {topic: one for topic, one in before.items() if terms.get(topic) != one}
        group.take(terms, key)
        self._listen(group, added)
        self._unlisten(group, gone)

    def _leave(self, sink: Sink, group: Group) -> None:
        del self._group_of[sink]
        group.remove(sink)
        if group.sinks:
            self._relist(group)
            return
        del self._groups[group.key]
        self._unlisten(group, group.terms)

    def _relist(self, group: Group) -> None:
        for topic, terms in group.terms.items():
            self._audiences[topic].lines[terms].sinks = None

    # -- publishing ----------------------------------------------------------------------------------

    def publish(self, batch: Sequence[Published]) -> None:
        """Send a batch to its subscribers, at once or at the end of the window."""
        last = self._last
        for published in batch:
            if type(published.record) is not Gap:
                last[published.topic] = published
            if published.topic.variant == FULL_BOOK:
                self._for_books.append(published)
        if not self._window_s:
            self._deliver(batch)
            return
        self._collected.extend(batch)
        self._wake.set()

    def last(self, topic: Topic) -> Published | None:
        """Return the newest delivered record of a topic, or None; for a full book, a snapshot of all its levels."""
        return self._books.whole(topic) if topic.variant == FULL_BOOK else self._last.get(topic)

    def last_of_every(self, every: Topic) -> list[Published]:
        """Return the newest records of all topics that a topic with the symbol ``*`` stands for."""
        known = self._books.topics() if every.variant == FULL_BOOK else self._last
        topics = [topic for topic in known if (topic.broker, *topic[2:]) == (every.broker, *every[2:])]
        return [one for topic in topics if (one := self.last(topic)) is not None]

    def last_seqs(self) -> dict[Topic, int]:
        """Return the number of the newest record of each topic; topics without numbers are left out."""
        return {topic: published.seq for topic, published in self._last.items() if published.seq}

    def newest_us(self) -> int:
        """Return the newest time of a record since the start; 0 if there was none."""
        return max((published.record.time_us for published in self._last.values()), default=0)

    def flush(self) -> None:
        """Deliver the records collected in the window."""
        if self._collected:
            batch, self._collected = self._collected, []
            self._deliver(batch)

    async def run(self) -> None:
        """Close each window after its time, and keep rates. Runs until cancelled, then delivers what remains."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.pacer.run)
                nursery.start_soon(self._close_windows)
        finally:
            self.flush()

    async def _close_windows(self) -> None:
        while True:
            await self._wake.wait()
            await trio.sleep(self._window_s)
            self._wake = trio.Event()
            self.flush()

    # -- delivery ------------------------------------------------------------------------------------

    def _deliver(self, batch: Sequence[Published]) -> None:
        if self._for_books:
            for published in self._for_books:
                self._books.take(published)
                if type(published.record) is Gap and not self._is_heard(published.topic):
                    self._books.drop_broken(published.topic)
            self._for_books.clear()
        delivered = self._deliver_one(batch[0]) if len(batch) == 1 else self._deliver_many(batch)
        if delivered:
            self._delivered.value += delivered

    def _is_heard(self, topic: Topic) -> bool:
        return topic in self._audiences or topic._replace(symbol=EVERY) in self._audiences

    def _deliver_one(self, published: Published) -> int:
        """Deliver a batch of one record, for which nothing is joined."""
        audience = self._audiences.get(published.topic)
        if self._of_every or (audience is not None and audience.is_paced):
            return self._deliver_many([published])
        if audience is None:
            return 0
        delivered = 0
        frames: dict[Encoding, bytes] = {}
        for terms, line in audience.lines.items():
            delivered += _write_to_all(line.listed(), self._owed(published, terms, frames))
        return delivered

    def _deliver_many(self, batch: Sequence[Published]) -> int:
        """Deliver a batch of several records: join the frames for each client and write them once."""
        touched: list[Group] = []
        try:
            delivered = self._touch(batch, touched)
            return delivered + self._deliver_owed(touched)
        finally:
            for group in touched:
                group.first = group.more = None

    def _deliver_owed(self, touched: Sequence[Group]) -> int:
        sinks: list[Sink] = []
        frames: list[bytes] = []
        delivered = 0
        for group in touched:
            joined, records = group.joined()
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

    def _touch(self, batch: Sequence[Published], touched: list[Group]) -> int:
        """Collect the records of each group, and add the groups with records to ``touched``.

        Returns the number of records that were delivered meanwhile.
        """
        delivered = 0
        for published in batch:
            topic = published.topic
            audience = self._audiences.get(topic)
            frames: dict[Encoding, bytes] = {}
            if audience is not None:
                for line in audience.lines.values():
                    if line.paces is None:
                        _owe(line.groups, self._owed(published, line.terms, frames), touched)
                    else:
                        delivered += self._pace(line, published, line.groups, frames, touched)
            every = self._audiences.get(Topic(topic.broker, EVERY, *topic[2:])) if self._of_every else None
            if every is not None:
                for line in every.lines_for(topic):
                    groups = line.groups_for(topic)
                    if line.paces is None:
                        _owe(groups, self._owed(published, line.terms, frames), touched)
                    else:
                        delivered += self._pace(line, published, groups, frames, touched)
        return delivered

    def _owed(self, published: Published, terms: Terms, frames: dict[Encoding, bytes]) -> Owed:
        """Return a record for those with these terms; ``frames`` are its encodings so far."""
        encoding = terms.encoding
        frame = frames.get(encoding)
        if frame is None:
            frame = frames[encoding] = encoding.frame(published)
        return Owed(published, frame, terms, _may_wait(published) and not terms.keep_all, 0, self._find_last)

    # -- subscriptions with a rate -------------------------------------------------------------------

    def _pace(
        self,
        line: Line,
        published: Published,
        groups: Iterable[Group],
        frames: dict[Encoding, bytes],
        touched: list[Group],
    ) -> int:
        """Send a record to subscribers with a rate, or hold it back; return how many were delivered meanwhile."""
        assert line.paces is not None  # noqa: S101 - the caller looked
        topic = published.topic
        pace = line.paces.get(topic)
        if pace is None:
            pace = line.paces[topic] = Pace()
        delivered = 0
        if _may_wait(published):
            now_s = trio.current_time()
            if pace.held is not None or now_s < pace.due_s:
                if pace.hold(published):
                    self.pacer.call_at(pace.due_s, self._release_due, line, topic)
                return 0
            pace.due_s = now_s + line.terms.rate_ms / 1000
        elif pace.held is not None and not (pace.skipped and _changes(pace.held)):
            # The waiting record goes first, after those collected already. A full book whose changes were left out
            # waits on: it becomes a snapshot of the present, which must not precede this record.
            delivered = self._deliver_owed(touched)
            for group in touched:
                group.first = group.more = None
            touched.clear()
            delivered += self._release(line, topic)
        _owe(groups, self._owed(published, line.terms, frames), touched)
        return delivered

    def _release_due(self, line: Line, topic: Topic) -> None:
        """Send the records whose time has come, unless they were sent already."""
        pace = (line.paces or {}).get(topic)
        if pace is None or pace.held is None or trio.current_time() < pace.due_s:
            return
        pace.due_s = trio.current_time() + line.terms.rate_ms / 1000
        self._delivered.value += self._release(line, topic)

    def _release(self, line: Line, topic: Topic) -> int:
        assert line.paces is not None  # noqa: S101 - the callers looked
        pace = line.paces[topic]
        sinks = [sink for group in line.groups_for(topic) for sink in group.sinks]
        missed = [(sink, pace.missed_by(sink, pace.held)) for sink in sinks if pace.held is not None]
        published, _, _ = pace.release()
        return self._write_held(missed, published, line.terms)

    def _write_held(
        self, sinks: Sequence[tuple[Sink, int | None]], published: Published, terms: Terms
    ) -> int:
        """Write a held-back record to each client, with the count of those left out for it; None: it has the record."""
        by_skipped: dict[int, list[Sink]] = {}
        for sink, skipped in sinks:
            if skipped is not None:
                by_skipped.setdefault(skipped, []).append(sink)
        delivered = 0
        for skipped, theirs in by_skipped.items():
            shown = published
            if skipped and _changes(published):
                shown = self.last(published.topic) or published
            frame = terms.encoding.frame(shown)
            if skipped:
                frame = mark(frame, "conflated", skipped)
                self._conflated.inc(skipped * len(theirs))
            delivered += _write_to_all(
                theirs, Owed(shown, frame, terms, not terms.keep_all, skipped, self._find_last)
            )
        return delivered


def _may_wait(published: Published) -> bool:
    """Return whether a later record may replace this one; a change of a full book is replaced by the whole book."""
    record = published.record
    kind = KINDS[type(record)]
    return kind.latest_wins(record) or (kind.changes is not None and kind.changes(record))


def _changes(published: Published) -> bool:
    changes = KINDS[type(published.record)].changes
    return changes is not None and changes(published.record)


def _owe(groups: Iterable[Group], entry: Owed, touched: list[Group]) -> None:
    for group in groups:
        if group.first is None:
            group.first = entry
            touched.append(group)
        elif group.more is None:
            group.more = [entry]
        else:
            group.more.append(entry)


def _write_to_all(sinks: Sequence[Sink], owed: Owed) -> int:
    """Write one record to each sink; return the number of sinks."""
    frame = owed.frame
    sent = _write_each(sinks, repeat(frame))
    if sent.count(len(frame)) < len(sinks):
        for sink, count in zip(sinks, sent, strict=True):
            if count != len(frame):
                _hand_over(sink, [owed], frame, count)
    return len(sinks)


def _write_each(sinks: Sequence[Sink], frames: Iterable[bytes]) -> list[int]:
    """Write to each sink's descriptor; return the number of bytes that each took, or -1 for a failed write.

    ``extend`` keeps the results before an exception, and ``map`` then continues after the failed write.
    """
    descriptors = [sink.descriptor for sink in sinks]
    if -1 not in descriptors:
        return _write_open(descriptors, frames)
    # A failing write costs more than all other work for a client that is behind, and there may be thousands.
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


def _hand_over(
    sink: Sink,
    entries: Sequence[Owed],
    frames: bytes,
    sent: int,
) -> None:
    """Give the sink the frames that its descriptor did not take; it handles slow, closed and indirect clients."""
    if sent >= 0:
        sink.park(frames[sent:])
    elif sink.behind:
        for entry in entries:
            sink.offer(entry)
    else:
        sink.write(frames)

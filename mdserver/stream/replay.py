"""Replay from any point of the past into live records: none missing, none twice, in the order of their numbers.

A replay reads its topics from the database, one after the other, page by page and as fast as the client reads.
Meanwhile the topics are not live for this client, and no new records are kept for it, because every published record is
journalled and stored a moment later. Then follows the change to live records, the seam. From here on a bounded
:class:`~mdserver.stream.tail.Tail` keeps newly published records. The records published earlier are stored without
delay and read to the last one. Then, in one step of the event loop, the tail is sent and the topics become live. If the
tail overflows meanwhile, the seam is tried again.

So only the drain reads the journal, and memory is bounded, however fast live records arrive and however slowly the
client reads: a client holds at most one page, or the part of it that the socket has not taken yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import trio

from ..errors import StoreUnavailable
from ..metrics import Metrics
from ..model import Topic
from ..protocol.encoding import Encoding
from ..protocol.terms import Terms
from .router import Router
from .shared_pages import PageKey, SharedPages
from .stored_past import Begin, GapKey, Page, Start, StoredPast
from .tail import Tail

__all__ = ["Replay", "ReplaySink", "Replays"]

READERS = 2
"""The most pages that are read at once for all clients; waiting clients are served in order."""

FIRST_RECORDS = 256
MOST_RECORDS = 4_096
"""Records in a page; a slow client gets small pages, so that little memory waits for it."""

TAIL_BYTES = 1 << 20
HAND_OVER_BYTES = 64 * 1024
"""The most bytes, besides one frame, that are left of a tail when the topics become live."""

BEGIN_S = 5.0
"""How long the start of a replay may take to look up before the database counts as unavailable."""

BEHIND_S = 0.5
"""How often a process that is behind what is stored looks whether more is stored."""

SEAM_S = 20.0
"""How long the seam may wait until earlier records are stored."""


class ReplaySink(Protocol):
    """The write side of a client, as a replay needs it."""

    @property
    def behind(self) -> bool:
        """True while the client has not read all frames sent before."""
        ...

    @property
    def muted(self) -> bool:
        """True once nothing more is sent to the client."""
        ...

    def write(self, frames: bytes) -> None:
        """Send whole frames."""
        ...

    async def drained(self) -> None:
        """Wait until the client has read all frames."""
        ...


class Replays:
    """Shared by the replays of all clients: the stored past, the limit on simultaneous reads, the pages, the router."""

    def __init__(self, past: StoredPast | None, router: Router, metrics: Metrics) -> None:
        self.router = router
        self.metrics = metrics
        self._past = past
        self._turns = trio.CapacityLimiter(READERS)
        self._pages = SharedPages(self._read)
        self.writing = trio.Lock()
        """Held to write one piece. It passes from replay to replay, and each time the event loop first runs everything
        else: so live records wait for one piece, however many replays there are."""
        self._running = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a replay until the block ends; with the last one, no pages are kept any more."""
        self.metrics.replays.inc()
        self._running += 1
        try:
            yield
        finally:
            self.metrics.replays.dec()
            self._running -= 1
            if not self._running:
                self._pages.clear()

    @property
    def stores(self) -> bool:
        """Whether this server stores records at all."""
        return self._past is not None

    async def begins(self, starts: Mapping[Topic, Start]) -> Mapping[Topic, Begin]:
        """Return where a replay of each topic begins, within :data:`BEGIN_S`. Raises :class:`StoreUnavailable`."""
        with trio.move_on_after(BEGIN_S):
            past = self.past()
            await past.caught_up()
            return await past.begins(starts)
        raise StoreUnavailable(f"the database does not answer within {BEGIN_S:.0f} s")

    def past(self) -> StoredPast:
        """Return the stored past. Raises :class:`StoreUnavailable` if this server stores nothing."""
        if self._past is None:
            raise StoreUnavailable("this server stores nothing (database.store is false)")
        return self._past

    async def page(
        self, topic: Topic, after: int, limit: int, *, received: bool, told: frozenset[GapKey]
    ) -> Page:
        """Return a page, read from the database or by another replay a moment ago."""
        page = await self._pages.page(PageKey(topic, after, limit, received, told))
        self.metrics.replayed.inc(page.records)
        return page

    async def _read(self, key: PageKey) -> Page:
        """Read a page, after waiting for a turn."""
        async with self._turns:
            return await self.past().page(
                key.topic, key.after, key.limit, received=key.received, told=key.told
            )


class Replay:
    """One client's replay of some topics.

    ``after``: for each topic the number up to which the client has its records. A topic that is removed from it is not
    replayed any further. ``encodings``: the encoding in which the client gets each topic.
    """

    def __init__(
        self,
        shared: Replays,
        sink: ReplaySink,
        after: Mapping[Topic, int],
        encodings: Mapping[Topic, Encoding],
        on_live: Callable[[Replay], None],
    ) -> None:
        """``on_live`` is called once the client has the whole past; it must make the topics live before it returns."""
        self.after = dict(after)
        self._shared = shared
        self._sink = sink
        self._encodings = dict(encodings)
        self._on_live = on_live
        self._limit = FIRST_RECORDS
        self._told: dict[Topic, frozenset[GapKey]] = {}
        """The gaps after the last record of each topic that the client has received already."""

    async def run(self) -> None:
        """Replay the topics and make them live. Raises :class:`StoreUnavailable`; the topics are then not live."""
        with self._shared.running():
            for topic in tuple(self.after):
                await self._read(topic)
            while self._wanted() and not await self._reach_live():
                pass

    def _wanted(self) -> bool:
        return bool(self.after) and not self._sink.muted

    async def _read(self, topic: Topic) -> None:
        """Send all stored records of a topic."""
        more = True
        while more and topic in self.after and not self._sink.muted:
            page = await self._shared.page(
                topic,
                self.after[topic],
                self._limit,
                received=self._encodings[topic].received,
                told=self._told.get(topic, frozenset()),
            )
            encoding = self._encodings[topic]
            for part in (part for piece in page.pieces for part in encoding.parts(piece)):
                await self._sink.drained()
                async with self._shared.writing:  # also to translate: each turn is a part of one client
                    if topic in self.after:
                        self._sink.write(encoding.translate(part))
            if topic not in self.after:
                return
            # a client that took the page at once gets larger pages
            self._limit = FIRST_RECORDS if self._sink.behind else min(2 * self._limit, MOST_RECORDS)
            self.after[topic] = page.last_seq
            self._told[topic] = page.told
            more = page.more

    async def _reach_live(self) -> bool:
        """Read the records published before now, then send those published since; False if the tail overflowed."""
        tail = Tail(TAIL_BYTES)
        router, past = self._shared.router, self._shared.past()
        router.set_topics(tail, {topic: Terms(self._encodings[topic]) for topic in self.after})
        try:
            with trio.move_on_after(SEAM_S) as waiting:
                await past.caught_up()
            if waiting.cancelled_caught:
                raise StoreUnavailable(f"the newest records are not stored after {SEAM_S:.0f} s")
            stored = await past.last_seqs(self.after)
            for topic, seq in tuple(self.after.items()):
                if stored.get(topic, 0) > seq:
                    await self._read(topic)
            await self._sink.drained()
            while tail.size > HAND_OVER_BYTES and self._wanted():
                self._sink.write(tail.take(self.after, self._told, HAND_OVER_BYTES))
                await self._sink.drained()
            if past.is_behind(self.after):  # live, the client would get records that it has
                await trio.sleep(BEHIND_S)
                return False
        finally:
            router.set_topics(tail, {})  # first sends the records in the router's window to the tail
        if tail.overflowed or not self._wanted():
            return False
        self._sink.write(tail.take(self.after, self._told, TAIL_BYTES))
        self._on_live(self)
        return True

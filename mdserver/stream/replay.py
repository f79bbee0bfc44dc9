"""From any point of the past into live: nothing missing, nothing twice, in the order of the numbers.

A replay reads its topics from the database, one after the other, a page at a time and at the client's pace. While it
does, they are not live for this client: nothing of them is kept for it, since all that is published is journalled, and
stored a moment later. At the end the seam: a bounded :class:`~mdserver.stream.tail.Tail` keeps what is published from
now on, what was published before is stored without delay, the rest of it is read, and the tail is handed over and the
topics become live in one step of the event loop. If more came meanwhile than the tail holds, the seam is tried again.

So there is one reader of the journal, the way into the database, and memory is bounded however fast live comes and
however slowly the client reads: a page, or what the socket did not take of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from ..errors import StoreUnavailable
from ..metrics import Metrics
from ..model import Topic
from ..protocol.encoding import Encoding
from ..protocol.terms import Terms
from .router import Router
from .stored_past import Begin, GapKey, Page, Start, StoredPast
from .tail import Tail

__all__ = ["Replay", "ReplaySink", "Replays"]

READERS = 2
"""Pages that are read at once, of all clients; whoever waits gets his turn in order."""

FIRST_RECORDS = 256
MOST_RECORDS = 4_096
"""Records in a page: few for a client that is slow, so that little waits in memory for it."""

TAIL_BYTES = 1 << 20
HAND_OVER_BYTES = 64 * 1024
"""What is left of a tail when the topics become live, at most, besides one frame."""

BEGIN_S = 5.0
"""How long a client waits to hear where its replay begins before the past counts as away."""

SEAM_S = 20.0
"""How long the seam may wait for what was published before to be stored."""


class ReplaySink(Protocol):
    """The write side of a client, as a replay needs it."""

    @property
    def behind(self) -> bool:
        """True while the client has not taken what it was sent before."""
        ...

    @property
    def muted(self) -> bool:
        """True when nothing is sent to the client any more."""
        ...

    def write(self, frames: bytes) -> None:
        """Send whole frames."""
        ...

    async def drained(self) -> None:
        """Wait until the client has taken all that it was sent."""
        ...


class Replays:
    """What the replays of all clients share: the past, the turns to read it, the router."""

    def __init__(self, past: StoredPast | None, router: Router, metrics: Metrics) -> None:
        self.router = router
        self.metrics = metrics
        self._past = past
        self._turns = trio.CapacityLimiter(READERS)

    async def begins(self, starts: Mapping[Topic, Start]) -> Mapping[Topic, Begin]:
        """Return where a replay of each topic begins, within :data:`BEGIN_S`. Raises :class:`StoreUnavailable`."""
        with trio.move_on_after(BEGIN_S):
            past = self.past()
            await past.caught_up()
            return await past.begins(starts)
        raise StoreUnavailable(f"the database does not answer within {BEGIN_S:.0f} s")

    def past(self) -> StoredPast:
        """Return the stored past. Raises :class:`StoreUnavailable` where nothing is stored."""
        if self._past is None:
            raise StoreUnavailable("this server stores nothing (database.store is false)")
        return self._past

    async def page(
        self, topic: Topic, after: int, limit: int, *, received: bool, told: frozenset[GapKey]
    ) -> Page:
        """Read a page when it is this one's turn."""
        async with self._turns:
            page = await self.past().page(topic, after, limit, received=received, told=told)
        self.metrics.replayed.inc(page.records)
        return page


class Replay:
    """One client's replay of some topics.

    ``after``: where each stands: the number up to which the client has it. A topic that is taken out of it is left
    alone from then on. ``encodings``: in which bytes the client gets each.
    """

    def __init__(
        self,
        shared: Replays,
        sink: ReplaySink,
        after: Mapping[Topic, int],
        encodings: Mapping[Topic, Encoding],
        on_live: Callable[[Replay], None],
    ) -> None:
        """``on_live`` is called once, when the client has all of the past: it makes the topics live at once."""
        self.after = dict(after)
        self._shared = shared
        self._sink = sink
        self._encodings = dict(encodings)
        self._on_live = on_live
        self._limit = FIRST_RECORDS
        self._told: dict[Topic, frozenset[GapKey]] = {}
        """The gaps behind the last record of each topic that the client has been told of."""

    async def run(self) -> None:
        """Replay, and make the topics live. Raises :class:`StoreUnavailable`; then they are as they were."""
        self._shared.metrics.replays.inc()
        try:
            for topic in tuple(self.after):
                await self._read(topic)
            while self._wanted() and not await self._reach_live():
                pass
        finally:
            self._shared.metrics.replays.dec()

    def _wanted(self) -> bool:
        return bool(self.after) and not self._sink.muted

    async def _read(self, topic: Topic) -> None:
        """Send all of a topic that is stored."""
        more = True
        while more and topic in self.after and not self._sink.muted:
            page = await self._shared.page(
                topic,
                self.after[topic],
                self._limit,
                received=self._encodings[topic].received,
                told=self._told.get(topic, frozenset()),
            )
            for piece in page.pieces:
                await self._sink.drained()
                if topic in self.after:
                    self._sink.write(self._encodings[topic].translate(piece))
            if topic not in self.after:
                return
            # a client that took it all at once gets more at once
            self._limit = FIRST_RECORDS if self._sink.behind else min(2 * self._limit, MOST_RECORDS)
            self.after[topic] = page.last_seq
            self._told[topic] = page.told
            more = page.more

    async def _reach_live(self) -> bool:
        """Read what was published before now, hand over what is published from now on; False if that was too much."""
        tail = Tail(TAIL_BYTES)
        router, past = self._shared.router, self._shared.past()
        router.set_topics(tail, {topic: Terms(self._encodings[topic]) for topic in self.after})
        try:
            with trio.move_on_after(SEAM_S) as waiting:
                await past.caught_up()
            if waiting.cancelled_caught:
                raise StoreUnavailable(f"what was published just now is not stored after {SEAM_S:.0f} s")
            stored = await past.last_seqs(self.after)
            for topic, seq in tuple(self.after.items()):
                if stored.get(topic, 0) > seq:
                    await self._read(topic)
            await self._sink.drained()
            while tail.size > HAND_OVER_BYTES and self._wanted():
                self._sink.write(tail.take(self.after, self._told, HAND_OVER_BYTES))
                await self._sink.drained()
        finally:
            router.set_topics(tail, {})  # what its window has gathered goes to the tail first
        if tail.overflowed or not self._wanted():
            return False
        self._sink.write(tail.take(self.after, self._told, TAIL_BYTES))
        self._on_live(self)
        return True

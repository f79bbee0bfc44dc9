"""The stored past, as replays read it: what the store has, once the journal has gone into it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from ..errors import StoreUnavailable
from ..model import Topic
from ..store.series import SeriesInfo
from ..store.store import Store
from ..stream.stored_past import Begin, GapKey, Page, Start

__all__ = ["PastOfStore"]


class Storing(Protocol):
    """The way of what is published into the store."""

    @property
    def away(self) -> str | None:
        """Why nothing can be stored just now, or None."""
        ...

    async def store_now(self) -> None:
        """Return once all that is journalled now is stored. Raises :class:`StoreUnavailable` while that cannot be."""
        ...


class PastOfStore:
    """A :class:`~mdserver.stream.stored_past.StoredPast`."""

    def __init__(self, store: Store, storing: Storing) -> None:
        self._store = store
        self._storing = storing
        self._series: dict[Topic, SeriesInfo] = {}
        """Of each topic that was replayed: its id, which stays. What else a row says is of an earlier time."""

    async def caught_up(self) -> None:
        """See :class:`~mdserver.stream.stored_past.StoredPast`."""
        await self._storing.store_now()

    async def begins(self, starts: Mapping[Topic, Start]) -> Mapping[Topic, Begin]:
        """See :class:`~mdserver.stream.stored_past.StoredPast`."""
        return await self._store.replay_begins(starts)

    async def last_seqs(self, topics: Collection[Topic]) -> Mapping[Topic, int]:
        """See :class:`~mdserver.stream.stored_past.StoredPast`."""
        found = await self._store.replay_series(topics)
        self._series |= {topic: series for topic, (series, _) in found.items()}
        return {topic: last for topic, (_, last) in found.items()}

    async def page(
        self, topic: Topic, after: int, limit: int, *, received: bool, told: frozenset[GapKey] = frozenset()
    ) -> Page:
        """See :class:`~mdserver.stream.stored_past.StoredPast`."""
        if (
            away := self._storing.away
        ) is not None:  # or else each page would wait for it, and nobody would go live
            raise StoreUnavailable(away)
        series = self._series.get(topic)
        if series is None:
            await self.last_seqs([topic])
            series = self._series.get(topic)
        if series is None:
            return Page([], 0, after, more=False)
        return await self._store.replay_page(series, after, limit, received=received, told=told)

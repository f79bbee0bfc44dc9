"""The stored past for replays: the records of the store, after the journal has been stored too."""

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
    """The process that stores published records."""

    @property
    def away(self) -> str | None:
        """Why nothing can be stored at present, or None."""
        ...

    async def store_now(self) -> None:
        """Return once all records journalled so far are stored. Raises :class:`StoreUnavailable` if that fails."""
        ...


class PastOfStore:
    """A :class:`~mdserver.stream.stored_past.StoredPast`."""

    def __init__(self, store: Store, storing: Storing) -> None:
        self._store = store
        self._storing = storing
        self._series: dict[Topic, SeriesInfo] = {}
        """The rows of replayed topics, kept for their ids, which never change; their other columns may be outdated."""

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
        ) is not None:  # otherwise each page would wait for it, and no client would become live
            raise StoreUnavailable(away)
        series = self._series.get(topic)
        if series is None:
            await self.last_seqs([topic])
            series = self._series.get(topic)
        if series is None:
            return Page([], 0, after, more=False)
        return await self._store.replay_page(series, after, limit, received=received, told=told)

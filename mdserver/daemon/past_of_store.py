"""The stored past for replays: the records of the store, after the journal has been stored too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import trio

from ..errors import StoreUnavailable
from ..model import Topic
from ..store.series import SeriesInfo
from ..store.store import Store
from ..stream.stored_past import Begin, GapKey, Page, Start

__all__ = ["PastOfStore"]

UNSTORED_S = 3.0
"""How long a record that a client has may take to be stored by another process."""
LOOK_S = 0.1


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
    """A :class:`~mdserver.stream.stored_past.StoredPast`.

    ``is_behind``: whether others have published records up to these numbers that this process has not streamed yet;
    None where there are no others.
    """

    def __init__(
        self,
        store: Store,
        storing: Storing,
        is_behind: Callable[[Mapping[Topic, int]], bool] | None = None,
    ) -> None:
        self._is_behind = is_behind
        self._store = store
        self._storing = storing
        self._series: dict[Topic, SeriesInfo] = {}
        """The rows of replayed topics, kept for their ids, which never change; their other columns may be outdated."""

    async def caught_up(self) -> None:
        """See :class:`~mdserver.stream.stored_past.StoredPast`."""
        await self._storing.store_now()

    async def begins(self, starts: Mapping[Topic, Start]) -> Mapping[Topic, Begin]:
        """See :class:`~mdserver.stream.stored_past.StoredPast`."""
        begins = await self._store.replay_begins(starts)
        if self._is_behind is None:
            return begins
        with trio.move_on_after(UNSTORED_S):
            while above := {topic: starts[topic] for topic, begin in begins.items() if begin.is_above}:
                await trio.sleep(LOOK_S)
                begins |= await self._store.replay_begins(above)
        last = await self.last_seqs(above)
        for topic in above:
            if self._is_behind({topic: begins[topic].after}):  # nobody knows this number
                begins[topic] = Begin(last.get(topic, 0), begins[topic].missing)
            else:
                begins[topic] = Begin(begins[topic].after)
        return begins

    def is_behind(self, after: Mapping[Topic, int]) -> bool:
        """See :class:`~mdserver.stream.stored_past.StoredPast`."""
        return self._is_behind is not None and self._is_behind(after)

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

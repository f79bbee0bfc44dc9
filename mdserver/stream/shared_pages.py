"""Pages of the past that several replays want at the same time: read once, sent to each.

After a restart, or when the network was away, many clients resume at nearly the same number. A page ends where a block
of numbers does, so replays of one topic want the same pages as soon as each has passed the end of its first block; the
fastest reads the database, and the others find what it has read.

Only a page that further records follow is kept: numbers rise in the order of storing, so nothing is added to it. The
last page is read anew by every replay, since it must hold all that was stored up to then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from ..model import Topic
from .stored_past import GapKey, Page

__all__ = ["KEPT_BYTES", "KEPT_S", "PageKey", "SharedPages"]

KEPT_BYTES = 8 << 20
"""The most bytes kept, of some ten pages."""

KEPT_S = 1.0
"""How long a page is kept: within it a gap may be filled, or records may be deleted."""


class PageKey(NamedTuple):
    """All that the content of a page depends on; see :meth:`~mdserver.stream.stored_past.StoredPast.page`."""

    topic: Topic
    after: int
    limit: int
    received: bool
    told: frozenset[GapKey]


class _Kept(NamedTuple):
    page: Page
    size: int
    read_s: float


class SharedPages:
    """The pages read a moment ago. ``read`` reads one from the database."""

    def __init__(self, read: Callable[[PageKey], Awaitable[Page]]) -> None:
        self._read = read
        self._kept: dict[PageKey, _Kept] = {}
        self._size = 0
        self._reading: dict[PageKey, trio.Event] = {}

    async def page(self, key: PageKey) -> Page:
        """Return a page: one kept, or one that another replay is reading, or a new one. Raises what ``read`` raises."""
        page = self._recent(key)
        if page is None and (reading := self._reading.get(key)) is not None:
            await reading.wait()
            page = self._recent(key)  # none if the other was cancelled or failed, or if it is the last page
        return page if page is not None else await self._read_and_keep(key)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()
        self._size = 0

    def _recent(self, key: PageKey) -> Page | None:
        kept = self._kept.get(key)
        return kept.page if kept is not None and trio.current_time() - kept.read_s <= KEPT_S else None

    async def _read_and_keep(self, key: PageKey) -> Page:
        done = self._reading[key] = trio.Event()
        began_s = trio.current_time()
        try:
            page = await self._read(key)
            if page.more:
                self._keep(key, _Kept(page, sum(map(len, page.pieces)), began_s))
            return page
        finally:
            done.set()
            if self._reading.get(key) is done:
                del self._reading[key]

    def _keep(self, key: PageKey, kept: _Kept) -> None:
        older = self._kept.pop(key, None)
        self._size += kept.size - (0 if older is None else older.size)
        self._kept[key] = kept
        while self._size > KEPT_BYTES:
            oldest = next(iter(self._kept))
            self._size -= self._kept.pop(oldest).size

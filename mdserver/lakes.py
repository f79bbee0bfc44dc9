"""What the server needs of a data lake: an interface, public as part of :mod:`mdserver.plugin`; a plugin implements it.

The server itself knows neither Parquet nor buckets. Without such a plugin it works, and says what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Protocol

import attrs

from .config import LakeConfig
from .model import CandleRow, LakeDay, LakePage, RecordColumns, Topic

__all__ = ["LAKE_GROUP", "Lake", "LakePlugin"]

LAKE_GROUP = "mdserver.lakes"

Position = tuple[int, int]
"""The time in microseconds and the number of a record."""


class Lake(Protocol):
    """A data lake: days (UTC) of series, each there whole or not at all. No database is needed for any of it.

    Every call raises :class:`~mdserver.errors.Unavailable` while the lake cannot be reached,
    :class:`~mdserver.errors.Rejected` for what it refuses, such as the credentials, and
    :class:`~mdserver.errors.BadMessage` for a day that is damaged. It may be used by many tasks at once.
    """

    @property
    def address(self) -> str:
        """Names the lake, as in the ledger of what was pushed."""
        ...

    async def days(self, topic: Topic, first: date, last: date) -> Mapping[date, LakeDay]:
        """Return the days of records from ``first`` to ``last`` that lie there, by what is written beside them.

        A damaged day is left out; reading it reports that.
        """
        ...

    async def read_day(self, topic: Topic, day: date) -> RecordColumns | None:
        """Return the records of a day, all compared with their checksum; None if there are none."""
        ...

    async def write_day(
        self,
        topic: Topic,
        day: date,
        records: RecordColumns,
        candles: Sequence[CandleRow],
        known: LakeDay,
    ) -> int:
        """Write a day of records with its candles, read it back and compare; return how many bytes it has.

        ``known`` is what is written beside it: the day is there once this returns, and takes the place of an older one.
        """
        ...

    async def read_page(
        self,
        topic: Topic,
        day: date,
        checksum: str,
        span: tuple[int, int],
        after: Position | None,
        limit: int,
    ) -> LakePage | None:
        """Return at most ``limit`` records of a day, at times in ``span``, both inclusive, and behind ``after``.

        ``checksum`` is the SHA-256 of the object that the ledger has; an object that has another one is compared with
        its own. None: there is no such day. In memory is the object as it lies there, and the page.
        """
        ...


@attrs.frozen
class LakePlugin:
    """Describes a data lake. ``factory`` returns the lake of the config's section ``lake``; it connects to nothing yet.

    ``factory`` is called in a worker thread and raises :class:`~mdserver.errors.ConfigError` for a lake that there
    cannot be. The first plugin that can be used is taken.
    """

    name: str
    summary: str
    factory: Callable[[LakeConfig], Lake]
    api_version: int = 1

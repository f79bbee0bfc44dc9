"""Pages of ticks and trades whose records retention has dropped: read from the data lake, day by day.

The ledger says which days lie there. What the database has of such a day, pulled back or come late, is joined with it.
A record has the same (time, seq) in both, so it is returned once, and a cursor means the same whichever answers.

Everything is bounded: so many pages at a time, :data:`DAYS_AT_ONCE` objects for one; a page may end early then, as its
cursor says. A lake that cannot be read, or lacks what was pushed, is an error: never an answer without the records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
import structlog
import trio

from ...errors import BadMessage, MdserverError, Rejected, Unavailable
from ...model import NOT_RECEIVED, TIMEFRAMES, US_PER_S, LakePage, RecordColumns
from ...plugin import Lake
from ...store.lake.manifest import DayInLake
from ...store.lake.restore import OTHER_NUMBERING
from ...store.query.candle_arrays import NO_TIME_US
from ...store.store import RecordArrays, RowPosition, SeriesInfo, Store
from .problem import RETRY_AFTER_S, Problem

__all__ = ["InLake", "LakeTurns"]

DAYS_AT_ONCE = 4
"""Days that are read for one page; in memory are their objects and what the page takes of them."""

BYTES_AT_ONCE = 64_000_000
"""Of these objects, where it is more than one."""

LARGE = 50_000
"""A page of more records is read from one day at a time."""

COMPLAIN_EVERY_S = 60.0

_log = structlog.get_logger("mdserver.web")

DAY_US = TIMEFRAMES["1d"] * US_PER_S


@attrs.define(eq=False)
class LakeTurns:
    """Shared by all requests: how many pages are read from the lake at the same time, and when a failure was logged."""

    limiter: trio.CapacityLimiter
    _logged_at: float = -math.inf

    def complain(self, error: MdserverError) -> None:
        """Log why a page cannot be read, at most once a minute: clients are not told addresses."""
        now = trio.current_time()
        if now - self._logged_at >= COMPLAIN_EVERY_S:
            self._logged_at = now
            _log.warning("records of dropped days cannot be read from the data lake", error=str(error))


@attrs.frozen
class InLake:
    """The days of some series that the lake alone has, ascending; and how to read them."""

    lake: Lake
    days: Sequence[DayInLake]
    turns: LakeTurns

    def days_of(self, series: SeriesInfo, from_us: int, to_us: int) -> list[DayInLake]:
        """Return the days of a series that have a part in ``[from_us, to_us]``."""
        return [
            one
            for one in self.days
            if one.series_id == series.id and one.start_us <= to_us and one.start_us + DAY_US > from_us
        ]

    async def page(
        self,
        store: Store,
        series: SeriesInfo,
        span: tuple[int, int],
        after: RowPosition | None,
        limit: int,
    ) -> tuple[RecordArrays, bool]:
        """Return at most ``limit`` records in ``span`` behind ``after``, and whether others may follow.

        Raises :class:`Problem` (503) if the lake cannot be read.
        """
        from_us = span[0] if after is None else max(span[0], after[0])
        days = self.days_of(series, from_us, span[1])
        while True:
            some, days = _next(days, limit)
            async with self.turns.limiter:
                found = await self._read(store, series, some, span, after, limit)
            until_us = days[0].start_us - 1 if days else span[1]
            stored = await store.record_arrays(series, span[0], until_us, after=after, limit=limit)
            page, more = _joined([*found, stored], after, limit)
            if len(page.seq) or not days:
                return page, more or bool(days)

    async def _read(
        self,
        store: Store,
        series: SeriesInfo,
        days: Sequence[DayInLake],
        span: tuple[int, int],
        after: RowPosition | None,
        limit: int,
    ) -> list[RecordArrays]:
        found: dict[int, RecordArrays] = {}
        wrong: list[MdserverError] = []

        async def read(day: DayInLake) -> None:
            try:
                page = await self._read_day(store, series, day, span, after, limit)
                found[day.start_us] = _arrays(page)
            except (BadMessage, Rejected, Unavailable) as error:
                wrong.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for day in days:
                nursery.start_soon(read, day)
        if wrong:
            self.turns.complain(wrong[0])
            raise _problem(wrong[0])
        return [found[at] for at in sorted(found)]

    async def _read_day(
        self,
        store: Store,
        series: SeriesInfo,
        day: DayInLake,
        span: tuple[int, int],
        after: RowPosition | None,
        limit: int,
    ) -> RecordColumns:
        """Return records of a day, numbered as the database would number them."""
        read = partial(self.lake.read_page, series.topic, day.day, day.checksum, span)
        page = await read(after, limit)
        if page is not None and page.numbering not in ("", store.numbering):
            if after is not None:
                page = await read((after[0], after[1] - OTHER_NUMBERING), limit)
            if page is not None:
                page = LakePage(_renumbered(page.records), page.numbering)
        if page is None:
            raise Rejected(
                f"the lake {self.lake.address} does not have {series.broker} {series.symbol} {series.type} {day.day}, "
                "which was pushed there: mdserver run lake verify"
            )
        return page.records


def _problem(error: MdserverError) -> Problem:
    why = "the lake does not answer, try again later"
    if isinstance(error, BadMessage):
        why = "there it is damaged: the operator finds it with `mdserver run lake verify`"
    elif isinstance(error, Rejected):
        why = "the lake refuses or lacks it: the server's log has the reason"
    return Problem(
        503,
        "unavailable",
        f"retention has dropped some of these records here, and they are in the data lake; {why}",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def _next(days: Sequence[DayInLake], limit: int) -> tuple[Sequence[DayInLake], list[DayInLake]]:
    """Return the days to read for a page, and those behind them."""
    count = rows = size = 0
    for one in days:
        size += one.size_bytes
        if count and (count == DAYS_AT_ONCE or rows >= limit or size > BYTES_AT_ONCE or limit > LARGE):
            break
        rows += one.count if count else 0  # within the first day the page may begin anywhere
        count += 1
    return days[:count], list(days[count:])


def _renumbered(records: RecordColumns) -> RecordColumns:
    return records._replace(seq=np.where(records.seq > 0, records.seq + OTHER_NUMBERING, records.seq))


def _arrays(records: RecordColumns) -> RecordArrays:
    received = np.where(records.received_us == NOT_RECEIVED, NO_TIME_US, records.received_us)
    columns: dict[str, Any] = {
        name: values.tolist() if values.dtype.kind == "O" else values
        for name, values in records.values.items()
    }
    return RecordArrays(records.time_us, records.seq, received, columns)


def _joined(
    parts: Sequence[RecordArrays], after: RowPosition | None, limit: int
) -> tuple[RecordArrays, bool]:
    """Return the first ``limit`` records of all parts, each once, and whether there are more."""
    time_us, seq = (np.concatenate([getattr(part, name) for part in parts]) for name in ("time_us", "seq"))
    order = np.lexsort((seq, time_us))
    twice = np.zeros(len(order), bool)
    twice[1:] = (np.diff(time_us[order]) == 0) & (np.diff(seq[order]) == 0)
    order = order[~twice]
    if after is not None:
        behind = (time_us[order] > after[0]) | (seq[order] > after[1])
        order = order[behind]
    chosen = order[:limit]
    columns: dict[str, Any] = {}
    for name, values in parts[0].columns.items():
        if isinstance(values, list):
            texts = [text for part in parts for text in part.columns[name]]
            columns[name] = [texts[row] for row in chosen.tolist()]
        else:
            columns[name] = np.concatenate([part.columns[name] for part in parts])[chosen]
    received = np.concatenate([part.received_us for part in parts])[chosen]
    return RecordArrays(time_us[chosen], seq[chosen], received, columns), len(order) > limit

"""Check that the stored data are complete and consistent: series by series, each in one snapshot of the database.

Nothing is changed. Faults are returned as findings: what, where, how often, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Any, Literal, TypeAlias

import attrs
import numpy as np
import psycopg
from msgspec import Struct

from ...candles import Ints
from ...market_hours import HOUR_US, Market, market_of, open_hours, trades_each_open_hour
from ...model import TIMEFRAMES, US_PER_S
from ..connection.database import Database
from ..pg_binary import TimeArray, to_postgres_us
from ..scan import Block
from ..series import SeriesInfo, list_series
from .candle_diff import Difference, compare, table_of
from .primary_keys import tables_without_key
from .rebuild_candles import bounds

__all__ = ["Finding", "Kind", "Month", "SeriesReport", "check"]

Kind: TypeAlias = Literal[
    "no_primary_key",
    "duplicates",
    "unsorted",
    "unknown_seq",
    "candles",
    "missing_hours",
    "denied_hours",
    "failed_hours",
    "ledger",
    "metadata",
]
"""The kinds of faults."""

REMEDY: dict[Kind, str] = {
    "no_primary_key": "mdserver run cleanup",
    "duplicates": "mdserver run cleanup",
    "unsorted": "mdserver run import {days} --replace",
    "unknown_seq": "find out which other program writes into this table",
    "candles": "mdserver run refresh",
    "missing_hours": "mdserver run import {days}",
    "denied_hours": "mdserver run import {days}; with --accept-empty where they had no ticks",
    "failed_hours": "mdserver run import {days}",
    "ledger": "mdserver run import {days} --replace",
    "metadata": "mdserver run refresh",
}

MAX_EXAMPLES = 5

_DAY_US = 24 * HOUR_US

_LEDGER = """select (extract(epoch from hour) * 1000000)::bigint, outcome, row_count from import_ledger
    where series_id = %s and hour >= (%s)[1] and hour < (%s)[1] order by hour"""

_LEDGER_BOUNDS = """select (extract(epoch from min(hour)) * 1000000)::bigint,
    (extract(epoch from max(hour)) * 1000000)::bigint from import_ledger where series_id = %s"""


class Finding(Struct, frozen=True):
    """A fault found ``count`` times, for example ``at`` these times; ``month`` is None for a whole series."""

    kind: Kind
    month: str | None
    count: int
    message: str
    at: list[str]
    remedy: str


class Month(Struct):
    """Counts of one month. ``hours`` have rows. ``open_hours`` are those in which the market is open and data are
    expected: from the first row of a live series to its last, of an imported series within the imported days.
    """

    month: str
    rows: int = 0
    hours: int = 0
    open_hours: int = 0
    empty_hours: int = 0
    """Imported and without ticks."""
    missing_hours: int = 0
    late: int = 0
    """How many rows arrived after newer ones; not a fault."""


class SeriesReport(Struct):
    """One series: its months with rows or missing hours, and the findings."""

    broker: str
    symbol: str
    type: str
    market: Market
    rows: int
    months: list[Month]
    findings: list[Finding]


async def check(
    database: Database,
    symbol: str | None = None,
    *,
    announce: Callable[[SeriesInfo, str], None] = lambda series, month: None,
) -> list[SeriesReport]:
    """Check all series, or those of one symbol. ``announce`` is called in a worker thread before each month."""
    found = await database.run(lambda conn: list_series(conn, symbol))
    reports = []
    for series in found:

        def work(conn: psycopg.Connection[Any], series: SeriesInfo = series) -> SeriesReport | None:
            conn.execute("set local statement_timeout = 0")
            now = [one for one in list_series(conn, series.symbol) if one.id == series.id]
            return _Check(conn, now[0], announce).run() if now else None

        if (report := await database.run(work, one_state=True)) is not None:
            reports.append(report)
    return reports


@attrs.define(eq=False)
class _Rows:
    """What is found in the rows of a month, block by block."""

    count: int = 0
    late: int = 0
    duplicates: list[int] = attrs.Factory(list)
    unsorted: set[int] = attrs.Factory(set)
    unknown: list[int] = attrs.Factory(list)
    hours: dict[int, int] = attrs.Factory(dict)
    first_us: int | None = None
    last_us: int | None = None
    last_key: tuple[int, int] | None = None

    def add_block(self, block: Block, series: SeriesInfo) -> None:
        time_us, seq = block.time_us, block.seq
        # Neighbours are compared, so the last row of the block before is put in front.
        if self.last_key is not None:
            time_us, seq = np.append(self.last_key[0], time_us), np.append(self.last_key[1], seq)
        same = (time_us[1:] == time_us[:-1]) & (seq[1:] == seq[:-1])
        self.duplicates += time_us[1:][same].tolist()
        falls = (seq[1:] < seq[:-1]) & (time_us[1:] // HOUR_US == time_us[:-1] // HOUR_US)
        self.unsorted.update((time_us[1:][falls] // HOUR_US * HOUR_US).tolist())
        self.last_key = int(time_us[-1]), int(seq[-1])
        self.late += int((seq[1:] < seq[:-1]).sum())
        # without that row: it was counted with its own block
        self._count(block.time_us, block.seq, series)

    def _count(self, time_us: Ints, seq: Ints, series: SeriesInfo) -> None:
        self.unknown += time_us[seq > series.last_seq].tolist()[:MAX_EXAMPLES] if series.last_seq else []
        hours, counts = np.unique(time_us // HOUR_US * HOUR_US, return_counts=True)
        for hour, count in zip(hours.tolist(), counts.tolist(), strict=True):
            self.hours[hour] = self.hours.get(hour, 0) + count
        self.count += len(time_us)
        self.first_us = int(time_us[0]) if self.first_us is None else self.first_us
        self.last_us = int(time_us[-1])


class _Check:
    """The check of one series."""

    def __init__(
        self, conn: psycopg.Connection[Any], series: SeriesInfo, announce: Callable[[SeriesInfo, str], None]
    ) -> None:
        self.conn = conn
        self.series = series
        self.announce = announce
        self.market = market_of(series.symbol, series.type)
        self.table = table_of(series.type)
        self.findings: list[Finding] = []
        self.months: list[Month] = []
        self.rows = 0
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.imported = False

    def run(self) -> SeriesReport:
        if self.table in tables_without_key(self.conn):
            self._find("no_primary_key", None, 1, f"the table {self.table} has no primary key")
        span = self._span()
        if span is not None:
            hours = self._expected_span()
            for first_us, end_us in _months(*span):
                self._month(first_us, end_us, hours)
        self._metadata()
        series = self.series
        return SeriesReport(
            series.broker, series.symbol, series.type, self.market, self.rows, self.months, self.findings
        )

    def _span(self) -> tuple[int, int] | None:
        """Return the days to look at: those with rows, and those that an import asked for, whatever came of it."""
        spans = [span] if (span := bounds(self.conn, self.series)) else []
        asked = self.conn.execute(_LEDGER_BOUNDS, [self.series.id]).fetchone()
        if asked is not None and asked[0] is not None:
            self.imported = True
            spans.append((asked[0] // _DAY_US * _DAY_US, asked[1] // _DAY_US * _DAY_US + _DAY_US))
        if not spans:
            return None
        return min(first_us for first_us, _ in spans), max(end_us for _, end_us in spans)

    def _expected_span(self) -> tuple[int, int]:
        """Return the span in which hours of live records are expected: from the first record to the last."""
        first_us, last_us = self.series.earliest_us, self.series.latest_us
        if first_us is None or last_us is None:
            return 0, 0
        return first_us // HOUR_US * HOUR_US, last_us // HOUR_US * HOUR_US + HOUR_US

    def _month(self, first_us: int, end_us: int, hours: tuple[int, int]) -> None:
        name = _time(first_us)[:7]
        self.announce(self.series, name)
        rows = _Rows()
        differences = compare(
            self.conn,
            self.table,
            self.series.id,
            first_us,
            end_us,
            lambda block: rows.add_block(block, self.series),
        )
        self.rows += rows.count
        self.first_us = rows.first_us if self.first_us is None else self.first_us
        self.last_us = self.last_us if rows.last_us is None else rows.last_us
        month = Month(name, rows.count, len(rows.hours), late=0 if self.imported else rows.late)
        self._rows_findings(name, rows)
        self._candle_findings(name, differences)
        ledger = self._ledger(name, first_us, end_us, rows)
        expected = self._expected_hours(first_us, end_us, hours, ledger)
        month.open_hours = len(expected | rows.hours.keys())
        month.empty_hours = sum(outcome == "empty" for outcome in ledger.values())
        if self.imported or trades_each_open_hour(self.market):
            missing = sorted(expected - rows.hours.keys() - ledger.keys())
            month.missing_hours = len(missing)
            self._find(
                "missing_hours", name, len(missing), "hours without data while the market is open", missing
            )
        if month.rows or month.open_hours:
            self.months.append(month)

    def _expected_hours(
        self, first_us: int, end_us: int, live: tuple[int, int], ledger: Mapping[int, str]
    ) -> set[int]:
        """Return the open hours of a month in which there should be data.

        Of an imported series these are the hours from the first to the last that were imported of each day: days that
        nobody imported are not missing.
        """
        if self.imported and not self.series.last_seq:
            days = [list(hours) for _, hours in groupby(sorted(ledger), lambda hour: hour // _DAY_US)]
            return {hour for hours in days for hour in open_hours(self.market, hours[0], hours[-1] + HOUR_US)}
        return set(open_hours(self.market, max(first_us, live[0]), min(end_us, live[1])))

    def _rows_findings(self, month: str, rows: _Rows) -> None:
        self._find(
            "duplicates",
            month,
            len(rows.duplicates),
            "rows with the same key as another row",
            rows.duplicates,
        )
        if self.imported and not self.series.last_seq:
            message = "imported hours whose rows are not in the order of the source"
            self._find("unsorted", month, len(rows.unsorted), message, sorted(rows.unsorted))
        self._find(
            "unknown_seq", month, len(rows.unknown), "rows that this server did not write", rows.unknown
        )

    def _candle_findings(self, month: str, differences: list[Difference]) -> None:
        names = {seconds: name for name, seconds in TIMEFRAMES.items()}
        for one in differences:
            message = (
                f"{names[one.timeframe_s]} candles differ from the rows: {len(one.missing.time)} missing, "
                f"{len(one.wrong.time)} wrong, {len(one.extra)} without rows"
            )
            times = np.sort(np.concatenate((one.missing.time, one.wrong.time, one.extra))) * US_PER_S
            self._find("candles", month, one.count, message, times.tolist())

    def _ledger(self, month: str, first_us: int, end_us: int, rows: _Rows) -> dict[int, str]:
        """Compare the ledger with the rows; return the outcome of each hour in it."""
        limits = TimeArray.of(to_postgres_us([first_us])), TimeArray.of(to_postgres_us([end_us]))
        known = self.conn.execute(_LEDGER, (self.series.id, *limits)).fetchall()
        disagree = [
            hour
            for hour, outcome, count in known
            if outcome in ("ok", "empty") and rows.hours.get(hour, 0) != count
        ]
        message = "hours with another number of rows than the import ledger has"
        self._find("ledger", month, len(disagree), message, disagree)
        failed = [hour for hour, outcome, _ in known if outcome == "failed"]
        self._find("failed_hours", month, len(failed), "hours that could not be imported", failed)
        denied = [hour for hour, outcome, _ in known if outcome == "denied"]
        message = "hours that the source reports not to have though the market was open"
        self._find("denied_hours", month, len(denied), message, denied)
        if self.imported and not self.series.last_seq:
            unknown = sorted(rows.hours.keys() - {hour for hour, _, _ in known})
            self._find(
                "ledger", month, len(unknown), "hours with rows that the import ledger does not have", unknown
            )
        return {hour: outcome for hour, outcome, _ in known}

    def _metadata(self) -> None:
        """Compare the counts and bounds in ``series`` with the rows."""
        series = self.series
        for what, known, real in (
            ("rows", series.row_count, self.rows),
            ("earliest", _or_none(series.earliest_us), _or_none(self.first_us)),
            ("latest", _or_none(series.latest_us), _or_none(self.last_us)),
        ):
            if known != real:
                self._find(
                    "metadata", None, 1, f"{what} is {known} in series, {real} in the table of its rows"
                )

    def _find(
        self, kind: Kind, month: str | None, count: int, message: str, at: list[int] | None = None
    ) -> None:
        if count:
            times = [_time(us) for us in (at or [])[:MAX_EXAMPLES]]
            remedy = REMEDY[kind].format(days=self._days(at)) if at else REMEDY[kind]
            self.findings.append(Finding(kind, month, count, message, times, remedy))

    def _days(self, at: list[int]) -> str:
        """Return the options of an import that covers these times."""
        series = self.series
        return (
            f"--source {series.broker} --symbol {series.symbol} "
            f"--from {_time(min(at))[:10]} --to {_time(max(at))[:10]}"
        )


def _months(first_us: int, end_us: int) -> Iterator[tuple[int, int]]:
    """Yield the months of ``[first_us, end_us)``, which are midnights; the first and last month are clipped to them."""
    edges = np.arange(
        np.datetime64(first_us, "us").astype("M8[M]"), np.datetime64(end_us - 1, "us").astype("M8[M]") + 2
    )
    starts = edges.astype("M8[us]").astype(np.int64).tolist()
    for start, end in pairwise(starts):
        yield max(start, first_us), min(end, end_us)


def _or_none(time_us: int | None) -> str | None:
    return None if time_us is None else _time(time_us)


def _time(time_us: int) -> str:
    seconds, us = divmod(time_us, US_PER_S)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{us:06d}Z" if us else f"{text}Z"

"""Pull: days of the lake back into the database, through the path of the import, or that of streamed records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TypeAlias

import attrs
import numpy as np
import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.market_hours import HOUR_US
from mdserver.model import PushedDay, RecordColumns, StoredDay, TickColumns, Topic
from mdserver.plugin import CommandDatabase, Progress, StoredSeries, TickHour

from .bucket import Bucket, Denied
from .codec import Header, decode_candles, decode_header, decode_records
from .layout import DAY_US, Place, day_start_us
from .selection import Failed, Report

__all__ = ["Puller", "chunks_of"]

FETCHING = 4
"""Objects fetched at a time."""

LOADING = 2
"""Transactions at a time, each with its chunk of objects."""

Series: TypeAlias = tuple[str, str, str]
"""Broker, symbol, type."""


@attrs.define(eq=False)
class Object:
    """A fetched object. ``data`` is let go once its records are decoded: a month of them is in memory else."""

    place: Place
    data: bytes | None = attrs.field(repr=False)
    header: Header
    size_bytes: int
    checksum: str

    @property
    def bytes_(self) -> bytes:
        """The bytes, while they are still held."""
        if self.data is None:
            raise RuntimeError(f"{self.place.key}: its bytes have been let go")
        return self.data


CHUNK_BYTES = 48_000_000
"""Of objects in one transaction, four million ticks and more: a month goes into its new partition as a whole, whose key
is built over all rows. Two chunks are in memory: one is fetched while the other is loaded."""


def chunks_of(places: Mapping[Place, int]) -> Iterator[list[Place]]:
    """Yield the days of one series and month: what is loaded in one transaction. A large month is several.

    ``places`` have their sizes in bytes, 0 where they are not known.
    """

    def month(place: Place) -> tuple[object, ...]:
        return (place.kind, place.broker, place.symbol, place.type, place.day.year, place.day.month)

    for _, group in groupby(sorted(places, key=lambda place: (*month(place), place.day)), month):
        chunk: list[Place] = []
        size = 0
        for place in group:
            if chunk and size + places[place] > CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
            chunk.append(place)
            size += places[place]
        yield chunk


@attrs.define(eq=False)
class Puller:
    """One pull. ``replace``: also what the database has is loaded again, in the form that the lake has.

    ``may_lack``: a day that is denied may as well not be there, since nothing could be listed.
    """

    database: CommandDatabase
    bucket: Bucket
    report: Report
    progress: Progress
    replace: bool = False
    may_lack: bool = False
    _known: Mapping[tuple[Series, str], Mapping[object, PushedDay]] = attrs.Factory(dict)
    _series: dict[Series, StoredSeries] = attrs.Factory(dict)
    _days: dict[Series, dict[object, StoredDay]] = attrs.Factory(dict)
    _denied: list[Place] = attrs.Factory(list)

    async def find_known(self) -> None:
        """Read what the database has, and what of it is known to be in the lake as it is."""
        known: dict[tuple[Series, str], dict[object, PushedDay]] = {}
        for one in await self.database.pushed_days(self.bucket.address):
            known.setdefault(((one.broker, one.symbol, one.type), one.what), {})[one.day] = one
        self._known = known
        for series in await self.database.series():
            self._series[series.broker, series.symbol, series.type] = series

    async def is_there(self, place: Place) -> bool:
        """Return whether the database has a day as the lake has it."""
        key = place.broker, place.symbol, place.type
        series = self._series.get(key)
        if series is None or self.replace:
            return False
        if key not in self._days:
            self._days[key] = {one.day: one for one in await self.database.days(series)}
        day = self._days[key].get(place.day)
        if day is None:
            return False
        if place.kind == "candle":
            return day.count > 0
        pushed = self._known.get((key, "records"), {}).get(place.day)
        if pushed is None or day.dropped or pushed.count != day.count:
            return False
        return pushed.hist_v == series.hist_v or (
            (await self.database.day_marks(series, [place.day]))[place.day] == pushed.mark
        )

    async def run(self, places: Mapping[Place, int]) -> None:
        """Pull the days. What cannot be pulled is in the report; StoreUnavailable is raised."""
        chunks = chunks_of(places)
        async with trio.open_nursery() as nursery:
            for _ in range(LOADING):
                nursery.start_soon(self._pull_chunks, chunks)
        self._report_denied(places)

    def _report_denied(self, places: Mapping[Place, int]) -> None:
        if not self._denied:
            return
        if self.may_lack and len(self._denied) < len(places):
            self.report.notice(
                f"{len(self._denied):,} days were denied: a lake that does not permit listing answers so for what it "
                "does not have, too"
            )
            return
        self.report.failed += [Failed(place.key, "not permitted to read it (403)") for place in self._denied]

    async def _fetch(self, chunk: Sequence[Place]) -> list[Object]:
        found: list[Object] = []
        limit = trio.CapacityLimiter(FETCHING)

        async def fetch(place: Place) -> None:
            async with limit:
                if self.report.stopped is not None:
                    return
                try:
                    data = await self.bucket.get(place.key)
                    if data is None:
                        if not self.may_lack:
                            self._fail(place.key, "it is listed, but not there (404)")
                        return
                    one = await trio.to_thread.run_sync(_object, place, data)
                    _check_place(one.header, place)
                    found.append(one)
                except Denied:
                    self._denied.append(place)
                except Unavailable as error:
                    self._fail(place.key, str(error))
                    self.report.stopped = str(error)
                except (BadMessage, Rejected) as error:
                    self._fail(place.key, str(error))

        async with trio.open_nursery() as nursery:
            for place in chunk:
                nursery.start_soon(fetch, place)
        return sorted(found, key=lambda one: one.place.day)

    def _fail(self, what: str, why: str) -> None:
        self.report.failed.append(Failed(what, why))

    async def _pull_chunks(self, chunks: Iterator[list[Place]]) -> None:
        for chunk in chunks:  # the iterator is shared, so each chunk goes to one of the tasks
            if self.report.stopped is not None:
                return
            if objects := await self._fetch(chunk):
                try:
                    await self._load(objects)
                except (BadMessage, Rejected) as error:
                    first = chunk[0]
                    self._fail(f"{first.broker} {first.symbol} {first.day:%Y-%m}", str(error))
            self.progress.advance(len(chunk))

    async def _load(self, objects: Sequence[Object]) -> None:
        if objects[0].place.kind == "candle":
            for one in objects:
                candles, _ = await trio.to_thread.run_sync(decode_candles, one.bytes_)
                await self.database.load_candles(_topic(one.place), candles)
                self._count(one, 0)
                await self._note(one)
            return
        imported = [one for one in objects if not one.header.numbering]
        if imported:
            await self._load_imported(imported)
        for one in objects:
            if one.header.numbering:
                await self._load_streamed(one)

    async def _load_streamed(self, one: Object) -> None:
        try:
            records, _ = await trio.to_thread.run_sync(decode_records, one.bytes_)
            await self.database.load_records(
                _topic(one.place), day_start_us(one.place.day), records, numbering=one.header.numbering
            )
        except BadMessage as error:
            self._fail(one.place.key, str(error))
            return
        self._count(one, len(records.time_us))
        await self._note(one)

    async def _load_imported(self, objects: Sequence[Object]) -> None:
        """Load the hours of the days as an import does; hours that the database has by its ledger stay as they are."""
        place = objects[0].place
        days = [_Day(one) for one in objects]
        hours: list[TickHour] = []
        for day in days:
            own = await trio.to_thread.run_sync(_hours_of, day)
            stays = await self._imported(place, day.object)
            hours += [hour for hour in own if hour.hour_us not in stays]
        results = await self.database.load_hours(place.broker, place.symbol, hours)
        wrong: dict[int, list[str]] = {}
        for hour_us, result in results.items():
            if result.startswith("failed"):
                wrong.setdefault(hour_us // DAY_US * DAY_US, []).append(result)
        for day in days:
            one = day.object
            if failures := wrong.get(day_start_us(one.place.day)):
                more = f" (and {len(failures) - 1} more hours)" if len(failures) > 1 else ""
                self._fail(one.place.key, failures[0].removeprefix("failed: ") + more)
                continue
            try:
                await trio.to_thread.run_sync(day.check)
            except BadMessage as error:
                self._fail(one.place.key, str(error))
            else:
                self._count(one, one.header.rows)
                await self._note(one)

    async def _imported(self, place: Place, one: Object) -> set[int]:
        key = place.broker, place.symbol, place.type
        series, day = self._series.get(key), self._days.get(key, {}).get(one.place.day)
        if series is None or day is None or day.dropped or self.replace:
            return set()
        first_us = day_start_us(one.place.day)
        return {
            hour.hour_us for hour in await self.database.imported_hours(series, first_us, first_us + DAY_US)
        }

    def _count(self, one: Object, rows: int) -> None:
        self.report.done += 1
        self.report.rows += rows
        self.report.size_bytes += one.size_bytes

    async def _note(self, one: Object) -> None:
        """Note that the lake has this day as the database has it now, if it does."""
        place = one.place
        series = await self._series_now(place)
        if series is None:
            return
        mark = (await self.database.day_marks(series, [place.day]))[place.day]
        await self.database.note_pushed(
            self.bucket.address,
            PushedDay(
                *(place.broker, place.symbol, place.type, place.day),
                "candles" if place.kind == "candle" else "records",
                place.key,
                one.header.rows,
                one.size_bytes,
                one.checksum,
                mark if await self._is_equal(series, one) else "",
                -1,  # compared at the next push, by the mark
            ),
        )

    async def _series_now(self, place: Place) -> StoredSeries | None:
        found = await self.database.series(place.symbol)
        return next((one for one in found if (one.broker, one.type) == (place.broker, place.type)), None)

    async def _is_equal(self, series: StoredSeries, one: Object) -> bool:
        """Return whether the database has as many records of the day as the object."""
        if one.place.kind == "candle":
            return True
        first_us = day_start_us(one.place.day)
        candles = await self.database.read_candles(series, first_us, first_us + 1)
        count = next((candle.row_count for candle in candles if candle.timeframe_s * 1_000_000 == DAY_US), 0)
        return count == one.header.rows


def _object(place: Place, data: bytes) -> Object:
    return Object(place, data, decode_header(data), len(data), hashlib.sha256(data).hexdigest())


def _topic(place: Place) -> Topic:
    return Topic(place.broker, place.symbol, place.type)


def _check_place(header: Header, place: Place) -> None:
    found = header.kind, header.broker, header.symbol, header.type, header.day
    if found != tuple(place):
        raise BadMessage(f"it holds {' '.join(map(str, found))}, not what its name says")


def _hours_of(day: _Day) -> list[TickHour]:
    """Return the hours of a day of imported ticks: those of the ledger, and those that have ticks besides."""
    one = day.object
    if one.header.type != "tick":
        raise BadMessage(f"{one.place.key}: imported records of the type {one.header.type}, expected ticks")
    hours = [
        TickHour(
            hour.hour_us,
            partial(day.ticks, hour.hour_us) if hour.outcome == "ok" else None,
            hour.checksum,
            hour.service,
            hour.origin,
            hour.settled,
        )
        for hour in one.header.hours
    ]
    if sum(hour.count for hour in one.header.hours) != one.header.rows:
        listed = {hour.hour_us for hour in hours}
        times = day.records().time_us
        for hour_us in np.unique(times // HOUR_US * HOUR_US).tolist():
            if hour_us not in listed:
                checksum = f"{one.header.content_sha256}-{hour_us}"
                hours.append(TickHour(hour_us, partial(day.ticks, hour_us), checksum, "lake", one.place.key))
    hours.sort(key=lambda hour: hour.hour_us)
    day.last_us = hours[-1].hour_us if hours else 0
    return hours


class _Day:
    """The ticks of a day by the hour. They are decoded at the first one, and let go with the last."""

    def __init__(self, one: Object) -> None:
        self.object = one
        self.last_us = 0
        self._records: RecordColumns | None = None
        self._is_whole = False

    def records(self) -> RecordColumns:
        if self._records is None:
            self._records = decode_records(self.object.bytes_)[0]
            self.object.data = None
            self._is_whole = True
        return self._records

    def check(self) -> None:
        """Raise BadMessage for a damaged object, also where no hour of it had to be decoded."""
        if not self._is_whole:
            self.records()
        self._records = self.object.data = None

    def ticks(self, hour_us: int) -> TickColumns:
        try:
            records = self.records()
        except BadMessage as error:
            raise BadMessage(f"{self.object.place.key}: {error}") from error
        first, end = np.searchsorted(records.time_us, (hour_us, hour_us + HOUR_US)).tolist()
        values = records.values
        found = TickColumns(
            records.time_us[first:end],
            *(values[name][first:end] for name in ("bid", "ask", "bid_size", "ask_size")),
        )
        if hour_us == self.last_us:
            self._records = None
        return found

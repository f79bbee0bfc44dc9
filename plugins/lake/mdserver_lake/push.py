"""Push: closed days of the database into the lake, each once, again when it was revised, verified by reading back."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, TypeAlias

import attrs
import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.model import ImportedHour, PushedDay, RecordColumns, StoredDay
from mdserver.plugin import CommandDatabase, Progress, StoredSeries

from .bucket import Bucket, Denied
from .codec import Header, decode_records, encode_candles, encode_records
from .layout import DAY_US, Place, day_start_us
from .merge import DayRecords, merged, of_rows_alone
from .objects import put_verified
from .selection import Failed, Report, Selection

__all__ = ["Task", "plan_push", "push"]

WORKERS = 2
"""Days in hand at a time: one is read from the database while the other is encoded or on its way."""

SETTLE_US = 3_600_000_000
"""A day is closed so long after its end: until then records of it may still be stored."""

GIVE_UP_AFTER = 3
"""After so many failures in a row the lake is taken to be away, and the rest is not tried."""

MARKS_AT_ONCE = 200

LATE = "+"
"""In the mark of a day behind that of its candles, if there are records of it again after they were dropped."""

Known: TypeAlias = Mapping[tuple[str, str, str, str, date], PushedDay]


@attrs.frozen
class Task:
    """A day of a series to push: its records, if they are there, and its candles."""

    series: StoredSeries
    day: StoredDay
    numbering: str
    """That of the database, which its streamed records have."""
    had_candles: bool = False
    """The lake has candles of the day, which have to go if there are none any more."""
    pushed: PushedDay | None = None
    """What the ledger has of its records."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.series.broker} {self.series.symbol} {self.series.type} {self.day.day}"


async def plan_push(
    database: CommandDatabase, lake: str, selection: Selection, report: Report, *, now_us: int, write: bool
) -> AsyncIterator[Task]:
    """Yield what has to be pushed; count in the report what need not be.

    A day is left out while its series says that nothing has changed before its newest record, or else if its mark is
    still that of what was pushed; with ``write`` that is noted, so that it is not compared again.
    """
    known: Known = {
        (one.broker, one.symbol, one.type, one.what, one.day): one for one in await database.pushed_days(lake)
    }
    for series in await database.series():
        if not selection.has_series(series.broker, series.symbol):
            continue
        days = [
            one
            for one in await database.days(series)
            if selection.has_day(one.day) and day_start_us(one.day) + DAY_US + SETTLE_US <= now_us
        ]
        numbering = database.numbering
        unsure: list[StoredDay] = []
        for one in days:
            pushed = _pushed(known, series, one)
            if pushed is None or _is_damaged(known, series, one):
                yield _task(known, series, one, numbering)
            elif (
                not one.late and pushed.hist_v == series.hist_v and (one.dropped or pushed.count == one.count)
            ):
                report.known += 1
            else:
                unsure.append(one)
        for start in range(0, len(unsure), MARKS_AT_ONCE):
            some = unsure[start : start + MARKS_AT_ONCE]
            marks = await database.day_marks(series, [one.day for one in some])
            for one in some:
                pushed = _pushed(known, series, one)
                assert pushed is not None  # noqa: S101 - it was found above
                # the records of a dropped day that came late and are dropped again are not in its mark any more
                known_mark = pushed.mark.partition(LATE)[0] if pushed.what == "candles" else pushed.mark
                if marks[one.day] != known_mark:
                    yield _task(known, series, one, numbering)
                    continue
                report.known += 1
                if write:
                    await database.note_pushed(lake, _at(pushed, series.hist_v))


def _task(known: Known, series: StoredSeries, day: StoredDay, numbering: str) -> Task:
    name = series.broker, series.symbol, series.type
    had_candles = (*name, "candles", day.day) in known
    return Task(series, day, numbering, had_candles, known.get((*name, "records", day.day)))


def _pushed(known: Known, series: StoredSeries, day: StoredDay) -> PushedDay | None:
    """Return what is known to lie in the lake: of the records, or of the candles where the records were dropped."""
    what = "candles" if day.dropped and not day.late else "records"
    return known.get((series.broker, series.symbol, series.type, what, day.day))


def _is_damaged(known: Known, series: StoredSeries, day: StoredDay) -> bool:
    """Return whether the verification has found the candles of the day missing or damaged."""
    candles = known.get((series.broker, series.symbol, series.type, "candles", day.day))
    return candles is not None and not candles.mark


def _at(pushed: PushedDay, hist_v: int) -> PushedDay:
    values = {name: getattr(pushed, name) for name in pushed.__struct_fields__}
    return PushedDay(**{**values, "hist_v": hist_v})


async def push(
    database: CommandDatabase, bucket: Bucket, tasks: Sequence[Task], report: Report, progress: Progress
) -> None:
    """Push the days, a few at a time. What cannot be pushed is in the report; StoreUnavailable is raised."""
    send, receive = trio.open_memory_channel[Task](0)
    failures = 0

    async def work(receive: trio.MemoryReceiveChannel[Task]) -> None:
        nonlocal failures
        async with receive:
            async for task in receive:
                if report.stopped is not None:
                    continue
                try:
                    await _push_day(database, bucket, task, report)
                except (BadMessage, Rejected, Unavailable) as error:
                    if isinstance(error, Unavailable) and type(error) is not Unavailable:
                        raise  # the database is away
                    failures += 1
                    report.failed.append(Failed(task.name, str(error)))
                    if isinstance(error, Rejected) or failures >= GIVE_UP_AFTER:
                        report.stopped = str(error)
                else:
                    failures = 0
                progress.advance()

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(work, receive.clone())
        receive.close()
        async with send:
            for task in tasks:
                await send.send(task)


async def _push_day(database: CommandDatabase, bucket: Bucket, task: Task, report: Report) -> None:
    series, day = task.series, task.day.day
    first_us = day_start_us(day)
    named: dict[str, Any] = {
        "broker": series.broker,
        "symbol": series.symbol,
        "type_": series.type,
        "day": day,
    }
    # The mark before the rows: a change in between makes the day look revised, and it is pushed again.
    mark = (await database.day_marks(series, [day]))[day]
    candles = await database.read_candles(series, first_us, first_us + DAY_US)
    records: DayRecords | None = None
    if task.day.late or not task.day.dropped:
        records, is_joined = await _records(database, bucket, task)
        if is_joined:
            candles = await database.candles_of(records.records)
    # The candles first: what the ledger has of the records then stands for the whole day.
    if candles or task.had_candles:
        data, header = await trio.to_thread.run_sync(partial(encode_candles, candles, **named))
        await _put(database, bucket, task, data, header, mark)
        report.size_bytes += len(data)
    if records is not None:
        encode = partial(
            encode_records, records.records, numbering=records.numbering, hours=records.hours, **named
        )
        data, header = await trio.to_thread.run_sync(encode)
        del records, encode
        await _put(database, bucket, task, data, header, mark)
        report.rows += header.rows
        report.size_bytes += len(data)
    report.done += 1


async def _records(database: CommandDatabase, bucket: Bucket, task: Task) -> tuple[DayRecords, bool]:
    """Return the records of a day, and whether they were joined with others that the lake has of it.

    Nothing is joined where the object is what this database has pushed, and the database still has the whole day: then
    what it lacks was replaced or deleted. Raises BadMessage where the lake's records cannot be read.
    """
    series, first_us = task.series, day_start_us(task.day.day)
    records = await database.read_records(series, first_us, first_us + DAY_US)
    hours = [] if series.last_seq else await database.imported_hours(series, first_us, first_us + DAY_US)
    is_streamed = _is_streamed(series, records, hours)
    own = DayRecords(records, task.numbering if is_streamed else "", () if is_streamed else tuple(hours))
    data = await _in_lake(bucket, task)
    if data is None:
        return (attrs.evolve(own, hours=of_rows_alone(hours, records)) if task.day.late else own), False
    if not task.day.late and _is_as_pushed(task, data):
        return own, False

    def join() -> DayRecords | None:
        try:
            theirs, header = decode_records(data)
        except BadMessage as error:
            if task.pushed is not None and not task.day.late:
                return None  # the whole day is here
            raise BadMessage(
                f"{_place(task).key}: it cannot be joined with the {len(records.time_us):,} records that the database "
                f"has: {error}; bring back the object, or delete these records (mdserver run delete)"
            ) from error
        return merged(own, header, theirs)

    joined = await trio.to_thread.run_sync(join)
    return (own, False) if joined is None else (joined, True)


def _is_streamed(series: StoredSeries, records: RecordColumns, hours: Sequence[ImportedHour]) -> bool:
    """Return whether the records of a day were streamed: here, or elsewhere, and then pulled.

    What was pulled has no last number in its series; but no hour of it is in the import ledger.
    """
    if series.last_seq or series.type != "tick":
        return True
    return len(records.time_us) > 0 and not any(hour.outcome == "ok" for hour in hours)


def _is_as_pushed(task: Task, data: bytes) -> bool:
    return task.pushed is not None and hashlib.sha256(data).hexdigest() == task.pushed.checksum


async def _in_lake(bucket: Bucket, task: Task) -> bytes | None:
    """Return the object of a day's records, None if there is none."""
    place = _place(task)
    try:
        data = await bucket.get(place.key)
    except Denied:  # a bucket that does not permit listing answers so for what it does not have
        if task.pushed is not None:
            raise
        return None
    if data is None and task.day.late and task.pushed is not None and task.pushed.count:
        raise BadMessage(
            f"{place.key}: it was pushed with {task.pushed.count:,} records, but is not there (404), and the database "
            "has only those that came since: bring back the object, or delete these records (mdserver run delete)"
        )
    return data


def _place(task: Task) -> Place:
    series = task.series
    return Place(
        "trade" if series.type == "trade" else "tick",
        *(series.broker, series.symbol, series.type, task.day.day),
    )


async def _put(
    database: CommandDatabase, bucket: Bucket, task: Task, data: bytes, header: Header, mark: str
) -> None:
    """Write an object, read it back, compare bytes and values, and note it."""
    place = await put_verified(bucket, data, header)
    await database.note_pushed(
        bucket.address,
        PushedDay(
            broker=header.broker,
            symbol=header.symbol,
            type=header.type,
            day=header.day,
            what="candles" if place.kind == "candle" else "records",
            key=place.key,
            count=header.rows,
            size_bytes=len(data),
            checksum=hashlib.sha256(data).hexdigest(),
            mark=mark,
            hist_v=task.series.hist_v,
        ),
    )

"""``GET /api/ticks`` and ``GET /api/trades``: recorded ticks and trades, a page at a time.

A page ends at a position in the series, (time, seq), and the next one continues after it. So records that arrive in
between are not returned twice and do not shift the pages. The cursor is that position, opaque to clients.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

import attrs
import msgspec
from quart import Request, Response

from ...kinds import BY_NAME, StoredAs
from ...model import US_PER_S, RecordType
from ...protocol.times import Times
from ...store.query.read_records import NO_TIME_US
from ...store.store import RecordArrays, RecordPage, RowPosition, SeriesInfo, Store
from .bucket_choice import Buckets, choose_buckets, runs
from .caching import REVALIDATE, Span, version_key
from .conditional import answer, format_of
from .encoding import Body, Column, Format, build_body, row_type, shown_times, without_fraction
from .lake_records import InLake
from .params import number_up_to, query_of, symbol_of, time_range_us, times_of
from .problem import Problem, invalid_parameter
from .read_context import Reading, series_headers
from .series_choice import candidates_of

__all__ = ["DEFAULT_RECORDS", "MAX_ARROW_RECORDS", "MAX_RECORDS", "QUERY", "records_answer"]

QUERY = ("symbol", "from", "to", "broker", "limit", "cursor", "format", "times")
MAX_RECORDS = 10_000
MAX_ARROW_RECORDS = 1_000_000
"""As Arrow a record costs a twentieth of what it costs as JSON."""
DEFAULT_RECORDS = 1_000

_CHOICE_S = 3_600
"""The length of the buckets for each of which one source is chosen."""
_CHOICE_US = _CHOICE_S * US_PER_S
_BUCKET_US = 60 * US_PER_S  # a record from before the latest one's minute counts as late and moves hist_v


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    series_id: int
    time_us: int
    seq: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


@attrs.frozen
class _PageQuery:
    """A checked query for one page of one series."""

    series: SeriesInfo
    from_us: int
    to_us: int
    after: RowPosition | None
    limit: int


async def records_answer(request: Request, reading: Reading, type_: RecordType) -> Response:
    """Answer a request for a page of ticks or of trades.

    If several sources have the symbol and none is named, :mod:`.bucket_choice` chooses one for each hour; a page ends
    where the source changes.
    """
    query = query_of(request.args.items(multi=True), QUERY)
    symbol = symbol_of(query)
    from_us, to_us = time_range_us(query)
    form = format_of(request, query)
    most = MAX_ARROW_RECORDS if form == "arrow" else MAX_RECORDS
    limit, times = number_up_to(query, "limit", most, DEFAULT_RECORDS), times_of(query)
    series = candidates_of(
        await reading.series_of(symbol),
        reading.services.sources(),
        symbol,
        broker=query.get("broker"),
        wanted=type_,
        param=None,
    )
    cursor = _cursor_of(query.get("cursor"), series, from_us, to_us)
    span = Span(from_us, to_us, _BUCKET_US)

    async def build() -> Body:
        if limit > MAX_RECORDS:
            async with reading.large:
                return await body_of()
        return await body_of()

    async def body_of() -> Body:
        queries = await _page_queries(reading, series, span, cursor, limit)
        page, found = await _first_page(reading.store, queries, form, times, lake)
        following = _next_cursor(found, page, last=found is queries[-1])
        around = _around(found.series, following)
        body = await build_body(page.row, page.columns, form, **around, turn=reading.encoding)
        return attrs.evolve(
            body,
            headers={
                "X-Broker": found.series.broker,
                **_paging_headers(query, following),
                **({"X-Source": "lake"} if page.from_lake else {}),
            },
        )

    control = await reading.cache_control(series, span, until_us=to_us, named="broker" in query)
    in_lake = await reading.store.days_in_lake(
        [one.id for one in series], _stored(type_).table, from_us, to_us
    )
    lake = None if in_lake is None else await _in_lake(reading, series, type_, from_us, to_us)
    if in_lake is not None:
        control = REVALIDATE  # a pull brings them back
    return await answer(
        request,
        build,
        form=form,
        headers={
            "Cache-Control": control,
            **series_headers(series),
            **({} if in_lake is None else {"X-In-Lake": "/".join(day.isoformat() for day in in_lake)}),
        },
        memory=reading.memory,
        # what others write into the lake has no version here: such a page is always made
        key=None
        if lake is not None
        else ("records", form, cursor, limit, times, *(version_key(one, span) for one in series)),
    )


async def _in_lake(
    reading: Reading, series: Sequence[SeriesInfo], type_: RecordType, from_us: int, to_us: int
) -> InLake | None:
    """Return the days of a range that can be read from the data lake, None if there is no lake."""
    lake = await reading.services.lake()
    if lake is None:
        return None
    ids, table = [one.id for one in series], _stored(type_).table
    days = await reading.store.list_days_in_lake(lake.address, ids, table, from_us, to_us)
    return InLake(lake, days, reading.from_lake)


async def _page_queries(
    reading: Reading, series: Sequence[SeriesInfo], span: Span, cursor: _Cursor | None, limit: int
) -> list[_PageQuery]:
    """Return what to read, one query after another until one has a record; at least one.

    An hour that a page has begun continues in the same series, even if another one would be chosen by now: the cursor
    has a position in that series only.
    """
    after = None if cursor is None else (cursor.time_us, cursor.seq)
    if len(series) == 1:
        return [_PageQuery(series[0], span.first_us, span.last_us, after, limit)]
    queries = []
    from_us = span.first_us
    if cursor is not None:
        own = next(one for one in series if one.id == cursor.series_id)
        hour_end_us = cursor.time_us - cursor.time_us % _CHOICE_US + _CHOICE_US
        queries.append(_PageQuery(own, from_us, min(hour_end_us - 1, span.last_us), after, limit))
        from_us = hour_end_us
    for place, first_us, last_us in await _runs(reading, series, from_us, span.last_us):
        query = _PageQuery(series[place], max(first_us, from_us), min(last_us, span.last_us), None, limit)
        if queries and queries[-1].series is query.series:  # join the hour that was begun with those after it
            queries[-1] = attrs.evolve(queries[-1], to_us=query.to_us)
        else:
            queries.append(query)
    return queries or [_PageQuery(series[0], span.first_us, span.last_us, after, limit)]


async def _runs(
    reading: Reading, series: Sequence[SeriesInfo], from_us: int, to_us: int
) -> list[tuple[int, int, int]]:
    """Return the runs of hours that one series answers: (index in ``series``, first and last microsecond)."""
    if from_us > to_us:
        return []
    opens_s = (from_us - from_us % _CHOICE_US) // US_PER_S, to_us // US_PER_S
    sources = []
    for one in series:
        hours = await reading.store.candles(one.id, _CHOICE_S, *opens_s)
        sources.append(Buckets(hours.time, one.earliest_us, await reading.gaps(one, *opens_s)))
    return [
        (place, first_s * US_PER_S, (last_s + _CHOICE_S) * US_PER_S - 1)
        for place, first_s, last_s in runs(choose_buckets(sources, _CHOICE_S))
    ]


@attrs.frozen
class _Page:
    """A page as columns; ``last`` is the position of its last record, ``more``: the series has records after it.

    ``from_lake``: the data lake was read for it.
    """

    row: type[msgspec.Struct]
    columns: list[Column]
    last: RowPosition | None
    more: bool
    from_lake: bool


async def _first_page(
    store: Store, queries: Sequence[_PageQuery], form: Format, times: Times, lake: InLake | None
) -> tuple[_Page, _PageQuery]:
    """Return the first page that has a record, else the last page, with its query."""
    for query in queries:
        page = await _page(store, query, form, times, lake)
        if page.last is not None:
            break
    return page, query


async def _page(store: Store, query: _PageQuery, form: Format, times: Times, lake: InLake | None) -> _Page:
    """Read one page, and one record more to know whether another page follows."""
    series, limit = query.series, query.limit
    span, after = (query.from_us, query.to_us), query.after
    page: RecordPage | RecordArrays
    more = False
    from_lake = lake is not None and bool(
        lake.days_of(series, span[0] if after is None else max(span[0], after[0]), span[1])
    )
    if lake is not None and from_lake:
        arrays, more = await lake.page(store, series, span, after, limit + 1)
        page = arrays if form == "arrow" else _listed(arrays)
    elif form == "arrow":
        page = await store.record_arrays(series, *span, after=after, limit=limit + 1)
    else:
        page = await store.records(series.id, series.type, *span, after=after, limit=limit + 1)
    shown = shown_times(times)
    columns = [Column(page.seq[:limit], form="int"), Column(page.time_us[:limit], shown, "time_us")]
    for column in _stored(series.type).columns:
        values = page.columns[column.name][:limit]
        if column.form in ("price", "size"):
            columns.append(Column(values, without_fraction))
        else:
            columns.append(Column(values, form="text"))
    columns.append(Column(page.received_us[:limit], shown, "time_us"))
    count = len(page.seq)
    last = min(count, limit) - 1
    end = (int(page.time_us[last]), int(page.seq[last])) if count else None
    return _Page(row_type(_stored(series.type)), columns, end, more or count > limit, from_lake)


def _listed(page: RecordArrays) -> RecordPage:
    """Return a page as Python objects, with None for what nobody gave."""
    return RecordPage(
        page.time_us.tolist(),
        page.seq.tolist(),
        [None if time_us == NO_TIME_US else time_us for time_us in page.received_us.tolist()],
        {
            name: values
            if isinstance(values, list)
            else [None if value != value else value for value in values.tolist()]
            for name, values in page.columns.items()
        },
    )


def _stored(type_: RecordType) -> StoredAs:
    stored = BY_NAME[type_].stored
    if stored is None:
        raise ValueError(f"{type_}: records of this kind are not stored")
    return stored


def _next_cursor(query: _PageQuery, page: _Page, *, last: bool) -> str | None:
    if page.last is None or (last and not page.more):
        return None
    packed = msgspec.msgpack.encode(_Cursor(query.series.id, *page.last))
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _cursor_of(text: str | None, series: Sequence[SeriesInfo], from_us: int, to_us: int) -> _Cursor | None:
    if text is None:
        return None
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        cursor = msgspec.msgpack.decode(packed, type=_Cursor)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise invalid_parameter("cursor", text, "expected the next_cursor of the previous page") from None
    if cursor.series_id not in {one.id for one in series} or not from_us <= cursor.time_us <= to_us:
        raise Problem(
            400,
            "invalid_parameter",
            "the cursor belongs to another request; keep the other parameters from page to page",
            param="cursor",
        )
    return cursor


def _around(series: SeriesInfo, cursor: str | None) -> dict[str, bytes]:
    head = msgspec.json.encode({"broker": series.broker, "symbol": series.symbol})[:-1]
    name = _stored(series.type).table.encode()
    tail = b',"next_cursor":' + msgspec.json.encode(cursor) + b"}"
    return {"before": head + b',"' + name + b'":', "after": tail}


def _paging_headers(query: dict[str, str], cursor: str | None) -> dict[str, str]:
    if cursor is None:
        return {}
    link = urlencode({**query, "cursor": cursor})
    # relative to the request, so that it also works behind a proxy with a path prefix
    return {"X-Next-Cursor": cursor, "Link": f'<?{link}>; rel="next"'}

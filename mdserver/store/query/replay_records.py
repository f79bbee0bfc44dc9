"""Stored records for a replay: by number, a page at a time, and as the JSON that live records are.

The database writes the JSON. So a replay costs the interpreter, whose one lock the stream needs too, next to nothing:
a page of 4,096 ticks is 5 ms of a server process of PostgreSQL and 0.5 ms of ours. A test holds both forms together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from typing import Any, LiteralString, cast

import msgspec
import psycopg
from psycopg import sql

from ...kinds import BY_NAME, StoredAs, StoredColumn
from ...model import FAILOVER, LEFT_OUT, Gap, Published, Topic
from ...protocol.encoding import PLAIN
from ...protocol.server_frames import text_frames
from ...stream.stored_past import After, Begin, GapKey, Page, Start, gap_key
from ..gap_ledger import last_gap_seqs, read_gaps_by_seq
from ..scan import timestamp
from ..seq_times import BLOCK, Span, spans_from_seq, spans_from_time
from ..series import SeriesInfo, list_series

__all__ = ["begin", "read_page", "series_and_ends", "series_of"]

PIECE_BYTES = 64 * 1024
"""What is written to a socket at once, about."""

# Literals, not parameters: of parameters TimescaleDB makes no filter, and decompresses the whole chunk of a series.
_OF_INTERVAL: LiteralString = """(select {columns} from {table} where series_id = {series}
    and time >= {first} and time <= {last} and seq > {after} and seq <= {end})"""

_PAGE: LiteralString = """select max(seq), count(*), convert_to(string_agg({json}, E'\\n' order by seq), 'UTF8')
    from (select * from ({rows}) found order by seq limit {limit}) page"""

_LEAST: LiteralString = "select min(seq) from ({rows}) found"

_LEFT_OUT: LiteralString = """select 1 from gaps g
    where g.series_id = %(series)s and g.seq = %(last)s and g.cause = %(cause)s
      and (%(last)s - %(left_out)s <= %(seq)s or exists (
        select 1 from {table} r where r.series_id = g.series_id
          and r.time >= g.from_time and r.time <= g.to_time and r.seq = %(seq)s))
    limit 1"""

_DROPPED: LiteralString = """select exists (
    select from candles c join retention r on r.table_name = {table} and c.time < r.dropped_before
    where c.series_id = {series} and c.timeframe = 60 and c.time > {first} - interval '1 minute')"""

_SECONDS: LiteralString = "trim_scale(extract(epoch from {column}))::text"


def series_of(conn: psycopg.Connection[Any], topics: Collection[Topic]) -> dict[Topic, SeriesInfo]:
    """Return the series of the topics that have one. Blocking."""
    wanted = frozenset(topics)
    symbols = {topic.symbol for topic in wanted}
    found = list_series(conn, symbols.pop() if len(symbols) == 1 else None)
    return {series.topic: series for series in found if series.topic in wanted}


def series_and_ends(
    conn: psycopg.Connection[Any], topics: Collection[Topic]
) -> dict[Topic, tuple[SeriesInfo, int]]:
    """Return the series of the topics that have one, and the last number of its records and gaps. Blocking."""
    found = series_of(conn, topics)
    gaps = last_gap_seqs(conn, [series.id for series in found.values()])
    return {topic: (one, max(one.last_seq, gaps.get(one.id, 0))) for topic, one in found.items()}


def begin(conn: psycopg.Connection[Any], series: SeriesInfo | None, start: Start) -> Begin:
    """Return where a replay begins; run it in one state of the database. Blocking."""
    if isinstance(start, After):
        return _begin_after(conn, series, start.seq)
    if series is None:
        return Begin(0)
    first = _first_from_time(conn, series, start.time_us)
    if first is None:
        dropped = _has_dropped(conn, series, start.time_us)
        return Begin(series.last_seq, "the records since then are not stored: live only" if dropped else None)
    if first == 1 or _is_stored(conn, series, first - 1):
        return Begin(first - 1)
    return Begin(first - 1, f"the records before {first} are not stored: from the oldest there is")


def _has_dropped(conn: psycopg.Connection[Any], series: SeriesInfo, from_us: int) -> bool:
    """Return whether retention has dropped records at or after a time. Their candles are still there."""
    stored = BY_NAME[series.type].stored
    if stored is None:
        return False
    statement = sql.SQL(_DROPPED).format(
        table=sql.Literal(stored.table), series=sql.Literal(series.id), first=timestamp(from_us)
    )
    return conn.execute(statement).fetchone() == (True,)


def _begin_after(conn: psycopg.Connection[Any], series: SeriesInfo | None, seq: int) -> Begin:
    last = 0 if series is None else series.last_seq
    if seq > last:
        why = f"{seq} is above {last}, the last number that is stored: live only"
        return Begin(seq, why, is_above=True)
    if series is None or seq == last:
        return Begin(seq)
    first = _next_seq(conn, series, seq)
    if first == seq + 1 or (first is not None and _is_left_out(conn, series, seq, first)):
        return Begin(seq)
    if first is None:
        return Begin(last, f"the records {seq + 1} to {last} are not stored: live only")
    return Begin(first - 1, f"the records {seq + 1} to {first - 1} are not stored: from the oldest there is")


def _is_left_out(conn: psycopg.Connection[Any], series: SeriesInfo, seq: int, first: int) -> bool:
    """Whether the gap of a change of leaders explains all that is missing between a number and the next one stored.

    It does if it begins at that number, or, where leaders changed several times, at that record's time or before.
    """
    stored = BY_NAME[series.type].stored
    if stored is None:
        return False
    query = sql.SQL(_LEFT_OUT).format(table=sql.Identifier(stored.table))
    given = {"series": series.id, "last": first - 1, "cause": FAILOVER, "left_out": LEFT_OUT, "seq": seq}
    return conn.execute(query, given).fetchone() is not None


def _first_from_time(conn: psycopg.Connection[Any], series: SeriesInfo, time_us: int) -> int | None:
    """Return the first stored number of this time or later. A block whose records were deleted may name it in vain."""
    span = spans_from_time(conn, series.id, time_us)
    while span is not None:
        first = _least_seq(conn, series, span, from_us=time_us)
        if first is not None:
            return first
        span = spans_from_time(conn, series.id, time_us, span.block + 1)
    return None


def _next_seq(conn: psycopg.Connection[Any], series: SeriesInfo, seq: int) -> int | None:
    """Return the first stored number above ``seq``."""
    span = spans_from_seq(conn, series.id, seq + 1)
    while span is not None:
        first = _least_seq(conn, series, span, after=seq)
        if first is not None or not span.more:
            return first
        span = spans_from_seq(conn, series.id, (span.block + 1) * BLOCK)
    return None


def _is_stored(conn: psycopg.Connection[Any], series: SeriesInfo, seq: int) -> bool:
    span = spans_from_seq(conn, series.id, seq)
    if span is None or span.block != seq // BLOCK:
        return False
    return _least_seq(conn, series, span, after=seq - 1) == seq


def _least_seq(
    conn: psycopg.Connection[Any], series: SeriesInfo, span: Span, *, after: int = -1, from_us: int = 0
) -> int | None:
    rows = _rows(series, span, after, sql.SQL("seq"), from_us)
    row = conn.execute(sql.SQL(_LEAST).format(rows=rows)).fetchone()
    return None if row is None else cast("int | None", row[0])


def read_page(
    conn: psycopg.Connection[Any],
    series: SeriesInfo,
    after: int,
    limit: int,
    *,
    received: bool,
    told: frozenset[GapKey] = frozenset(),
) -> Page:
    """Return records behind the number ``after``, at most ``limit`` and of one block, and the gaps among them.

    A gap lies behind the record of its number, so those behind ``after`` itself come first, but the ones of ``told``.
    One state of the database: the intervals of a block, its records and the gaps are three statements. Blocking.
    """
    span = spans_from_seq(conn, series.id, after + 1)
    lines, count = b"", 0
    end, to, more = after, None, False
    if span is not None:
        lines, count, last = _read_records(conn, series, span, after, limit, received=received)
        more = span.more or count == limit
        # All of this block is told. Where others follow it is complete, for numbers rise in the order of storing.
        end = (span.block + 1) * BLOCK - 1 if span.more and count < limit else last
        to = end if more else None
    gaps = read_gaps_by_seq(conn, series.id, series.topic, after, to)
    fresh = [(seq, gap) for seq, _, gap in gaps if seq > after or gap_key(gap) not in told]
    told = frozenset(gap_key(gap) for _, last_seq, gap in gaps if last_seq >= end)
    if fresh:
        lines = b"\n".join(_with_gaps(lines.split(b"\n") if lines else [], fresh))
    return Page(_pieces(lines), count, end, more, told)


def _read_records(
    conn: psycopg.Connection[Any], series: SeriesInfo, span: Span, after: int, limit: int, *, received: bool
) -> tuple[bytes, int, int]:
    """Return the JSON of the first records of a block behind a number, one a line, their count, the last number."""
    stored = BY_NAME[series.type].stored
    if stored is None:
        raise ValueError(f"{series.type}: records of this kind are not stored")
    columns = ("time", "seq", "received", *(column.name for column in stored.columns))
    query = sql.SQL(_PAGE).format(
        json=_json(series.topic, stored, received=received),
        rows=_rows(series, span, after, sql.SQL(", ").join(map(sql.Identifier, columns))),
        limit=sql.Literal(limit),
    )
    with conn.cursor(binary=True) as cursor:
        last, count, lines = cast("tuple[Any, int, bytes]", cursor.execute(query).fetchone())
    return (lines, count, last) if count else (b"", 0, after)


class _Numbered(msgspec.Struct):
    seq: int


_number = msgspec.json.Decoder(_Numbered).decode


def _with_gaps(records: list[bytes], gaps: Sequence[tuple[int, Gap]]) -> list[bytes]:
    """Return records and gaps in order."""
    merged: list[bytes] = []
    done = 0
    for seq, gap in gaps:
        place = bisect_right(records, seq, lo=done, key=lambda record: _number(record).seq)
        merged += records[done:place]
        merged.append(PLAIN.payload(Published(gap.topic, seq, gap)))
        done = place
    return merged + records[done:]


def _pieces(lines: bytes) -> list[bytes]:
    """Return lines as frames, in pieces.

    A call below holds the interpreter's lock for one piece at most, 0.1 ms: between two of them the event loop may run.
    """
    pieces = []
    at = 0
    while at < len(lines):
        end = lines.find(b"\n", at + PIECE_BYTES)
        if end < 0:
            end = len(lines)
        pieces.append(text_frames(lines[at:end].split(b"\n")))
        at = end + 1
    return pieces


def _rows(
    series: SeriesInfo, span: Span, after: int, columns: sql.Composable, from_us: int = 0
) -> sql.Composed:
    """Return the query of a block's records behind a number, and of a time or later."""
    stored = BY_NAME[series.type].stored
    assert stored is not None  # noqa: S101 - list_series gives no others
    one = sql.SQL(_OF_INTERVAL)
    return sql.SQL(" union all ").join(
        one.format(
            columns=columns,
            table=sql.Identifier(stored.table),
            series=sql.Literal(series.id),
            first=timestamp(max(first, from_us)),
            last=timestamp(last),
            after=sql.Literal(after),
            end=sql.Literal((span.block + 1) * BLOCK - 1),
        )
        for first, last in span.intervals
    )


def _json(topic: Topic, stored: StoredAs, *, received: bool) -> sql.Composed:
    """Return the expression of a record's JSON, as :mod:`mdserver.record_wire` has it."""
    head = msgspec.json.encode({"type": topic.type, "broker": topic.broker, "symbol": topic.symbol}).decode()
    parts: list[sql.Composable] = [
        sql.Literal(head[:-1] + ',"seq":'),
        sql.SQL("seq::text"),
        sql.Literal(',"time":'),
        sql.SQL(_SECONDS).format(column=sql.Identifier("time")),
        *(_field(column) for column in stored.columns),
    ]
    if received:
        seconds = sql.SQL(_SECONDS).format(column=sql.Identifier("received"))
        parts.append(_unless_null("received", seconds))
    return sql.SQL(" || ").join([*parts, sql.Literal("}")])


def _field(column: StoredColumn) -> sql.Composable:
    name = sql.Identifier(column.name)
    if column.form == "code":
        cases = sql.SQL(" ").join(
            sql.SQL("when {} then {}").format(
                sql.Literal(code.decode()), sql.Literal(msgspec.json.encode(text).decode())
            )
            for text, code in column.codes.items()
        )
        return _unless_null(column.name, sql.SQL("case {} {} end").format(name, cases))
    if column.form == "text":
        return _unless_null(column.name, sql.SQL("to_json({})::text").format(name))
    return _unless_null(column.name, sql.SQL("{}::text").format(name))


def _unless_null(name: str, text: sql.Composable) -> sql.Composed:
    return sql.SQL("coalesce({} || {}, '')").format(sql.Literal(f',"{name}":'), text)

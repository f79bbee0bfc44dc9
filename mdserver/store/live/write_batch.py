"""Write one batch of records to the database: rows, candles of every timeframe and metadata in one transaction.

Each record is stored exactly once: one whose ``seq`` is not above the ``last_seq`` of its series is stored already and
is skipped, unless several processes lead in turn: see :mod:`.overtaken`. Every transaction reads the series under a
lock and remembers nothing for the next one. So a write after an unclear commit (the connection broke before the answer)
finds out by itself what the last one achieved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString, TypeAlias

import attrs
import numpy as np
import psycopg
from msgspec import Struct, field
from psycopg import sql

from ...candles import Ints, Prices, all_timeframes, candles_of_prices
from ...kinds import KINDS
from ...model import TIMEFRAMES, US_PER_S, Gap, Published, Record, RecordType
from ..candle_table import put_candles
from ..gap_ledger import write_gaps
from ..pg_binary import Int4Array, Int8Array, TimeArray, to_postgres_us
from ..recompute_candles import recompute
from ..rows import MAX_TIME_US, Rows, rows_of, storage_fault, topic_fault
from ..seq_times import note_times
from ..series import SeriesInfo, lock_series
from ..tables.partitions import ensure_partitions
from .named_holes import Jump, lost_numbers, unstored
from .overtaken import overtaken

__all__ = ["SetAside", "Written", "write"]


class Written(Struct):
    """What a write did: rows added by kind, records skipped as stored already, records refused and why.

    ``lost`` counts jumps of numbers that nothing explains.
    """

    stored: Counter[RecordType] = field(default_factory=Counter)
    skipped: int = 0
    rejected: list[tuple[Published, str]] = field(default_factory=list)
    lost: int = 0

    @property
    def rows(self) -> int:
        """Rows added, of all kinds."""
        return self.stored.total()


_MINUTE_US = TIMEFRAMES["1m"] * US_PER_S
_DAY_US = TIMEFRAMES["1d"] * US_PER_S

_COPY: LiteralString = "copy {table} ({columns}) from stdin (format binary)"
_COPIED = ("time", "seq", "series_id", "received")  # followed by the kind's own columns

_UPDATE_SERIES = """update series set
        last_seq = greatest(series.last_seq, new.last_seq), row_count = series.row_count + new.row_count,
        earliest = case when new.has_rows = 1 then least(series.earliest, new.earliest) else series.earliest end,
        latest = case when new.has_times = 1 then greatest(series.latest, new.latest) else series.latest end,
        live_v = series.live_v + 1, hist_v = series.hist_v + new.hist_v
    from unnest(%s, %s, %s, %s, %s, %s, %s, %s)
        as new(id, last_seq, row_count, earliest, latest, hist_v, has_rows, has_times)
    where series.id = new.id"""


@attrs.frozen(eq=False)
class _State:
    """The locked series, one array element each; the index of a series in the arrays is its *place*."""

    series: list[SeriesInfo]
    ids: Ints
    latest_us: Ints
    """The newest time stored before this write; -1 where there is none."""
    last_seq: Ints
    added: Ints
    first_us: Ints
    last_us: Ints
    changed_history: Ints
    """1 where a candle that was closed before this write changed."""

    @classmethod
    def of(cls, series: list[SeriesInfo]) -> _State:
        def zeros() -> Ints:
            return np.zeros(len(series), np.int64)

        return cls(
            series,
            np.array([one.id for one in series], np.int64),
            np.array([-1 if one.latest_us is None else one.latest_us for one in series], np.int64),
            np.array([one.last_seq for one in series], np.int64),
            zeros(),
            zeros() + MAX_TIME_US,
            zeros(),
            zeros(),
        )


@attrs.frozen
class _Fresh:
    """Records of one kind that are not stored yet, and the place of each one's series."""

    batch: list[Published] = attrs.Factory(list)
    place: list[int] = attrs.Factory(list)

    def newest_us(self, place: int) -> int | None:
        """Return the time of the newest record of a series among these."""
        for known, published in zip(reversed(self.place), reversed(self.batch), strict=True):
            if known == place:
                return published.record.time_us
        return None


SetAside: TypeAlias = Callable[[Sequence[tuple[Published, str]]], None]
"""Saves records that cannot be stored, each with its cause, before ``last_seq`` passes them. Blocking."""


def write(
    conn: psycopg.Connection[Any],
    batch: Sequence[Published],
    *,
    received: bool = True,
    shared: bool = False,
    set_aside: SetAside = lambda rejected: None,
) -> Written:
    """Store a batch; runs inside the caller's transaction. Records of a topic must have rising ``seq``.

    ``shared``: other processes may have stored higher numbers of the same topics.

    Of a kind that is not stored only the last number and the newest time are kept. ``received``: store when each was
    received. ``set_aside`` is called with the records that cannot be stored; if it raises, the transaction ends.

    Blocking. Raises :class:`psycopg.DataError` or :class:`psycopg.IntegrityError` for a record that PostgreSQL refuses
    though it passed :func:`~mdserver.store.rows.storage_fault`.
    """
    batch, gaps = _part_gaps(batch)
    unnamed = {
        topic: cause for topic in {published.topic for published in batch} if (cause := topic_fault(topic))
    }
    faults = {
        number: cause
        for number, published in enumerate(batch)
        if (cause := unnamed.get(published.topic) or storage_fault(published))
    }
    _ensure_months(conn, [published.record for number, published in enumerate(batch) if number not in faults])
    state = _State.of(list(lock_series(conn, {p.topic for p in (*batch, *gaps)} - unnamed.keys()).values()))
    written = Written()
    picked, passed, jumps = _pick_fresh(batch, faults, state, written)
    if written.rejected:
        set_aside(
            written.rejected
        )  # before the commit moves ``last_seq`` past them: else a crash would lose them
    if shared and passed:
        _add_overtaken(conn, passed, state, written, received=received)
    ids = [one.id for one in state.series]
    for type_, fresh in picked.items():
        if not fresh.batch:
            continue
        kind = KINDS[type_]
        if kind.stored is not None:
            rows = rows_of(kind, fresh.batch, fresh.place, ids, received=received)
            written.stored[kind.name] += _add_rows(conn, rows, state)
        else:  # its newest time is where a gap begins if the server ends here
            times_us = [published.record.time_us for published in fresh.batch]
            np.maximum.at(state.last_us, fresh.place, times_us)
    _update_series(conn, state)
    series = {one.topic: one for one in state.series}
    gaps += [unstored(published) for published, _ in written.rejected if published.topic in series]
    lost = lost_numbers(conn, jumps, gaps)
    written.lost = len(lost)
    write_gaps(
        conn,
        [
            (series[p.topic].id, p.seq, p.record)
            for p in (*gaps, *lost)
            # a gap that has not ended, behind which another leader has stored records, was ended by that one
            if isinstance(p.record, Gap) and not (shared and _is_over(p.seq, p.record, series[p.topic]))
        ],
    )
    return written


def _is_over(seq: int, gap: Gap, series: SeriesInfo) -> bool:
    return gap.to_us is None and seq < series.last_seq


def _add_overtaken(
    conn: psycopg.Connection[Any],
    passed: Sequence[Published],
    state: _State,
    written: Written,
    *,
    received: bool,
) -> None:
    """Add those of the records with passed numbers that nobody has stored."""
    ids = [one.id for one in state.series]
    places = {one.topic: place for place, one in enumerate(state.series)}
    found: dict[type, list[Published]] = {}
    for published in overtaken(conn, passed, {one.topic: one.id for one in state.series}):
        found.setdefault(type(published.record), []).append(published)
    for type_, batch in found.items():
        rows = rows_of(KINDS[type_], batch, [places[one.topic] for one in batch], ids, received=received)
        added = _add_rows(conn, rows, state)
        written.stored[KINDS[type_].name] += added
        written.skipped -= added


def _part_gaps(batch: Sequence[Published]) -> tuple[list[Published], list[Published]]:
    """Return the records of a batch, and its gaps."""
    gaps = [published for published in batch if type(published.record) is Gap]
    if not gaps:
        return list(batch), gaps
    return [published for published in batch if type(published.record) is not Gap], gaps


def _ensure_months(conn: psycopg.Connection[Any], records: Sequence[Record | Gap]) -> None:
    """Create the partitions of the months that occur, not of those in between: one odd time costs one partition.

    Must come before anything else in the transaction: see :func:`ensure_partitions`.
    """
    days: dict[type, set[int]] = {}
    for record in records:
        days.setdefault(type(record), set()).add(record.time_us // _DAY_US)
    for type_, seen in days.items():
        if (stored := KINDS[type_].stored) is None:
            continue
        months = np.unique(np.array(sorted(seen), "M8[D]").astype("M8[M]"))
        for month_us in months.astype("M8[us]").astype(np.int64).tolist():
            ensure_partitions(conn, stored.table, month_us, month_us)


def _pick_fresh(
    batch: Sequence[Published], faults: Mapping[int, str], state: _State, written: Written
) -> tuple[dict[type, _Fresh], list[Published], list[Jump]]:
    """Return the new records by kind, those whose number is passed, and the jumps; advance ``state.last_seq``.

    Those that are not new are counted in ``written``.
    """
    picked: dict[type, _Fresh] = {}
    passed: list[Published] = []
    jumps: list[Jump] = []
    places = {one.topic: place for place, one in enumerate(state.series)}
    last_seq: list[int] = state.last_seq.tolist()
    for number, published in enumerate(batch):
        place, seq, type_ = places.get(published.topic), published.seq, type(published.record)
        if place is None:
            written.rejected.append((published, faults[number]))
            continue
        if seq <= last_seq[place]:
            written.skipped += 1
            if number not in faults:
                passed.append(published)
            continue
        fresh = picked.get(type_)
        if fresh is None:
            fresh = picked[type_] = _Fresh()
        before, last_seq[place] = last_seq[place], seq
        if 0 < before < seq - 1:
            from_us = fresh.newest_us(place) or int(state.latest_us[place])
            if from_us > 0:
                jumps.append(Jump(state.series[place].id, before, from_us, published))
        if number in faults:
            written.rejected.append((published, faults[number]))
            continue
        fresh.batch.append(published)
        fresh.place.append(place)
    state.last_seq[:] = last_seq
    return picked, passed, jumps


def _add_rows(conn: psycopg.Connection[Any], rows: Rows, state: _State) -> int:
    """Add rows and bring their candles up to date; return how many rows were new."""
    place = rows.place
    np.minimum.at(state.first_us, place, rows.time_us)
    np.maximum.at(state.last_us, place, rows.time_us)
    try:
        with conn.transaction():  # a savepoint: a violation must not end the surrounding transaction
            _copy(conn, rows)
    except psycopg.errors.UniqueViolation:
        # Some rows are stored although ``last_seq`` is below them: a merge would count them twice, so recompute.
        added = _add_missing(conn, rows, state)
        late = np.ones(len(place), np.bool_)
    else:
        added = np.bincount(place, minlength=len(state.ids))
        # Rows in order extend the candles by a merge; only those older than what is stored need a recomputation.
        late = rows.time_us < state.latest_us[place]
        if rows.prices is not None:
            in_order = rows.prices.time_us >= state.latest_us[rows.prices.series]
            _merge(conn, Prices._make(column[in_order] for column in rows.prices), state.ids)
    np.add(state.added, added, out=state.added)
    note_times(conn, state.ids[place], rows.seq, rows.time_us)
    if late.any():
        place, time_us = place[late], rows.time_us[late]
        if rows.prices is not None:
            recompute(conn, rows.stored.table, state.ids[place], time_us)
        closed = time_us // _MINUTE_US * _MINUTE_US + _MINUTE_US <= state.latest_us[place]
        state.changed_history[place[closed]] = 1
    return int(added.sum())


def _copy(conn: psycopg.Connection[Any], rows: Rows, into: str = "") -> None:
    statement = sql.SQL(_COPY).format(
        table=sql.Identifier(into or rows.stored.table),
        columns=sql.SQL(", ").join(
            map(sql.Identifier, (*_COPIED, *(column.name for column in rows.stored.columns)))
        ),
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(rows.copy_data)


def _add_missing(conn: psycopg.Connection[Any], rows: Rows, state: _State) -> Ints:
    """Add the rows whose key is not stored yet; return how many at each place."""
    table = rows.stored.table
    names = {"incoming": sql.Identifier(f"incoming_{table}"), "table": sql.Identifier(table)}
    conn.execute(sql.SQL("create temporary table {incoming} (like {table}) on commit drop").format(**names))
    _copy(conn, rows, f"incoming_{table}")
    counts = conn.execute(
        sql.SQL(
            """with added as (
                insert into {table} select * from {incoming} on conflict do nothing returning series_id)
            select series_id, count(*) from added group by series_id"""
        ).format(**names)
    ).fetchall()
    conn.execute(sql.SQL("drop table {incoming}").format(**names))
    added = dict(counts)
    return np.array([added.get(series_id, 0) for series_id in state.ids.tolist()], np.int64)


def _merge(conn: psycopg.Connection[Any], prices: Prices, ids: Ints) -> None:
    """Merge rows into the candles of all timeframes; none of them may be older than what is stored."""
    if not len(prices.series):
        return
    put_candles(conn, ids, all_timeframes(candles_of_prices(prices)), "merge")


def _update_series(conn: psycopg.Connection[Any], state: _State) -> None:
    risen = state.last_seq > [one.last_seq for one in state.series]
    touched = np.flatnonzero(risen | (state.added > 0))
    if not len(touched):
        return
    has_rows = state.last_us >= state.first_us
    parameters = (
        Int4Array.of(state.ids[touched]),
        Int8Array.of(state.last_seq[touched]),
        Int8Array.of(state.added[touched]),
        TimeArray.of(to_postgres_us(state.first_us[touched])),
        TimeArray.of(to_postgres_us(state.last_us[touched])),
        Int8Array.of(state.changed_history[touched]),
        Int4Array.of(has_rows[touched]),
        Int4Array.of(state.last_us[touched] > 0),
    )
    conn.execute(_UPDATE_SERIES, parameters, prepare=True)

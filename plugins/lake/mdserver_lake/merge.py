"""A day of the database joined with what the lake has of it, so that no push takes records out of the lake. Pure.

It is needed where the database may have less: records that came late, after retention had dropped the rest of their
day, and objects that another database or an import has written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from mdserver.errors import BadMessage
from mdserver.market_hours import HOUR_US
from mdserver.model import ImportedHour, RecordColumns

from .codec import Header

__all__ = ["OTHER_NUMBERING", "DayRecords", "merged", "of_rows_alone"]

OTHER_NUMBERING = -(2**62)
"""Added to numbers of another numbering, as a pull does."""

Rows = NDArray[np.bool_] | NDArray[np.int64]


@attrs.frozen(eq=False)
class DayRecords:
    """The records of a day, and what is written beside them; see :class:`~mdserver_lake.codec.Header`."""

    records: RecordColumns
    numbering: str
    hours: tuple[ImportedHour, ...] = ()


def merged(own: DayRecords, header: Header, theirs: RecordColumns) -> DayRecords:
    """Return a day with the records of both, each once; where both have a record or an imported hour, ``own`` counts.

    Records of another numbering get the numbers that a pull gives them. Raises BadMessage where imported records would
    be mixed with streamed ones.
    """
    if not len(theirs.time_us):
        return own
    if not len(own.records.time_us):
        return DayRecords(theirs, header.numbering, header.hours)
    if bool(own.numbering) != bool(header.numbering):
        raise BadMessage(
            "the lake has imported records of the day and the database streamed ones, or the other way round, which "
            "cannot be joined: give the history source a name that no broker has"
        )
    if not own.numbering:
        return _imported(own, header, theirs)
    if header.numbering != own.numbering:
        theirs = theirs._replace(seq=np.where(theirs.seq > 0, theirs.seq + OTHER_NUMBERING, theirs.seq))
        theirs = _rows(theirs, ~_same(theirs, own.records))
    return attrs.evolve(own, records=_union(own.records, theirs))


def _imported(own: DayRecords, header: Header, theirs: RecordColumns) -> DayRecords:
    """Join by the hour: what the database has of an hour is all of it."""
    own_hours = set(np.unique(own.records.time_us // HOUR_US).tolist())
    kept = _rows(theirs, ~np.isin(theirs.time_us // HOUR_US, list(own_hours)))
    kept_hours = set(np.unique(kept.time_us // HOUR_US).tolist())
    ledger = {hour.hour_us: hour for hour in header.hours}
    for hour in own.hours:
        if hour.hour_us // HOUR_US not in kept_hours:
            ledger[hour.hour_us] = hour
    return DayRecords(_union(own.records, kept), "", tuple(ledger[at] for at in sorted(ledger)))


def _union(own: RecordColumns, theirs: RecordColumns) -> RecordColumns:
    """Return the records of both in the order of (time, seq), each key once: that of ``own``."""
    known = set(zip(own.time_us.tolist(), own.seq.tolist(), strict=True))
    near = np.isin(theirs.time_us, own.time_us)
    twice = np.zeros(len(near), np.bool_)
    for row in np.flatnonzero(near).tolist():
        twice[row] = (int(theirs.time_us[row]), int(theirs.seq[row])) in known
    new = _rows(theirs, ~twice)
    time_us, seq = np.concatenate((own.time_us, new.time_us)), np.concatenate((own.seq, new.seq))
    order = np.lexsort((seq, time_us))
    return _rows(
        RecordColumns(
            time_us,
            seq,
            np.concatenate((own.received_us, new.received_us)),
            {name: np.concatenate((column, new.values[name])) for name, column in own.values.items()},
        ),
        order,
    )


def _same(theirs: RecordColumns, own: RecordColumns) -> NDArray[np.bool_]:
    """Return which of their records the database has with another number: equal in all else, the time of receipt too.

    So they have been in this database, and came into the lake from another one.
    """
    near = np.flatnonzero(np.isin(own.time_us, theirs.time_us))
    left = Counter(_whole(own, row) for row in near.tolist())
    found = np.zeros(len(theirs.time_us), np.bool_)
    for row in np.flatnonzero(np.isin(theirs.time_us, own.time_us)).tolist():
        one = _whole(theirs, row)
        if left[one]:
            left[one] -= 1
            found[row] = True
    return found


def _whole(records: RecordColumns, row: int) -> tuple[Any, ...]:
    values = (records.values[name][row] for name in sorted(records.values))
    return int(records.time_us[row]), int(records.received_us[row]), *map(_comparable, values)


def _comparable(value: Any) -> Any:
    return None if value != value else value  # NaN, which no value equals


def _rows(records: RecordColumns, rows: Rows) -> RecordColumns:
    return RecordColumns(
        records.time_us[rows],
        records.seq[rows],
        records.received_us[rows],
        {name: column[rows] for name, column in records.values.items()},
    )


def of_rows_alone(hours: Sequence[ImportedHour], records: RecordColumns) -> tuple[ImportedHour, ...]:
    """Return the hours that are empty or have rows here: the rows of the others were dropped, and are nowhere."""
    there = set(np.unique(records.time_us // HOUR_US).tolist())
    return tuple(hour for hour in hours if hour.outcome == "empty" or hour.hour_us // HOUR_US in there)

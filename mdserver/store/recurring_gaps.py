"""Gaps that a venue of constant garbage causes again and again: beyond the first few they share rows of the ledger.

Otherwise such a venue would add a row for each bad record. Nothing is hidden: a row lies over all its gaps, has the sum
of their sizes, and is found by a replay that begins or ends anywhere within. On the stream each gap is one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ..model import LEFT_OUT, US_PER_S, Gap, GapState

__all__ = ["FEW", "NEAR_US", "QUIET_S", "LedgerRow", "fold"]

FEW = 3
"""So many rows within :data:`LONGEST_US` hold one gap each, at its exact place."""

QUIET_S = 900
"""A gap that begins later than this after the end of the row before has a row of its own."""

LONGEST_US = 3_600 * US_PER_S
"""No row becomes longer by a further gap, so that a day has some tens of rows at most, and the venue can fill them."""

NEAR_US = 2 * LONGEST_US
"""Rows that begin earlier than this before a gap have no part in where it belongs."""

_QUIET_US = QUIET_S * US_PER_S


class LedgerRow(Struct):
    """A row of ``gaps`` of one series and cause; ``id`` is None until it is stored.

    Its gaps lie behind the numbers ``seq`` to ``last_seq``. ``changed``: it must be stored.
    """

    id: int | None
    from_us: int
    to_us: int
    size: int | None
    state: GapState
    seq: int
    last_seq: int
    changed: bool = False


def fold(rows: Iterable[LedgerRow], gaps: Sequence[tuple[int, Gap]]) -> list[LedgerRow]:
    """Return the rows that change or are new when gaps that have ended are added, each with the number before it.

    ``rows`` are those of the same series and cause that begin at most :data:`NEAR_US` before the first gap. A gap
    that one of them holds already is not counted again: a journal may be read twice.
    """
    known = list(rows)
    for seq, gap in gaps:
        to_us = max(gap.from_us, gap.time_us)
        if any(_holds(row, seq, gap.from_us, to_us) for row in known):
            continue
        row = max(known, key=lambda row: row.last_seq, default=None)
        at = {(other.from_us, other.to_us): other for other in known}  # the key of the table
        is_one_of_many = sum(_is_recent(one, gap.from_us) for one in known) >= FEW
        if is_one_of_many and row and _may_grow(row, seq, gap.from_us, to_us) and _is_free(at, row, to_us):
            _add(row, seq, gap)
        elif (same := at.get((gap.from_us, to_us))) is not None:  # late records have older times
            _add(same, seq, gap)
        else:
            known.append(LedgerRow(None, gap.from_us, to_us, gap.size, gap.state, seq, seq, changed=True))
    return [row for row in known if row.changed]


def _add(row: LedgerRow, seq: int, gap: Gap) -> None:
    row.to_us = max(row.to_us, gap.time_us)
    row.seq, row.last_seq = min(row.seq, seq), max(row.last_seq, seq)
    row.size = None if row.size is None or gap.size is None else row.size + gap.size
    row.state, row.changed = "open", True


def _is_free(at: Mapping[tuple[int, int], LedgerRow], row: LedgerRow, to_us: int) -> bool:
    return at.get((row.from_us, max(row.to_us, to_us)), row) is row


def _holds(row: LedgerRow, seq: int, from_us: int, to_us: int) -> bool:
    return row.from_us <= from_us and to_us <= row.to_us and row.seq <= seq <= row.last_seq


def _is_recent(row: LedgerRow, from_us: int) -> bool:
    return row.from_us >= from_us - NEAR_US and row.to_us >= from_us - LONGEST_US


def _may_grow(row: LedgerRow, seq: int, from_us: int, to_us: int) -> bool:
    """Return whether a later gap of the same leader belongs to a row that nobody has filled or given up."""
    return (
        row.state == "open"
        and row.last_seq < seq < row.last_seq + LEFT_OUT
        and row.from_us <= from_us <= row.to_us + _QUIET_US
        and to_us - row.from_us <= LONGEST_US
    )

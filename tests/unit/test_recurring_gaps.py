"""Which gaps of a venue's garbage share a row of the ledger: nothing is hidden, counted twice or without a bound."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from mdserver.model import LEFT_OUT, US_PER_S, Gap, Topic
from mdserver.store.recurring_gaps import FEW, NEAR_US, QUIET_S, LedgerRow, fold

TOPIC = Topic("x", "EURUSD", "tick")
HOUR_US, DAY_US = 3_600 * US_PER_S, 86_400 * US_PER_S

Numbered = tuple[int, Gap]


@attrs.define
class Ledger:
    """A table of one series and cause, read and written as the real one is."""

    rows: list[LedgerRow] = attrs.field(factory=list)

    def write(self, gaps: list[Numbered]) -> None:
        first_us = min(gap.from_us for _, gap in gaps)
        near = [row for row in self.rows if row.from_us >= first_us - NEAR_US]
        for row in fold(near, gaps):
            row.changed = False
            if row.id is None:
                row.id = len(self.rows)
                self.rows.append(row)

    def shown(self) -> list[tuple[int, int, int | None, int, int]]:
        return [(row.from_us, row.to_us, row.size, row.seq, row.last_seq) for row in self.rows]


def gap(from_s: float, to_s: float, size: int | None = 1) -> Gap:
    return Gap(TOPIC, int(from_s * US_PER_S), int(to_s * US_PER_S), "rejected", size)


@st.composite
def series_of_gaps(draw: st.DrawFn) -> list[Numbered]:
    """Gaps one behind the other, as a topic has them: pauses and lengths of all orders, several leaders."""
    found: list[Numbered] = []
    at_us, seq = 0, 0
    for _ in range(draw(st.integers(1, 40))):
        at_us += draw(st.sampled_from([0, 1, US_PER_S, 60 * US_PER_S, 899 * US_PER_S, 901 * US_PER_S]))
        end_us = at_us + draw(st.sampled_from([0, 1, US_PER_S, 600 * US_PER_S, HOUR_US, 2 * HOUR_US]))
        seq += draw(st.sampled_from([1, 2, 50, LEFT_OUT]))
        size = draw(st.sampled_from([1, 7, None]))
        found.append((seq, Gap(TOPIC, at_us, end_us, "rejected", size)))
        at_us = end_us + draw(st.sampled_from([0, 1]))
    return found


def model_of(gaps: list[Numbered]) -> list[list[Numbered]]:
    """Return which gaps share a row, as the docs say: beyond a few an hour those close together, up to an hour."""
    rows: list[list[Numbered]] = []
    for seq, one in gaps:
        before = rows[-1] if rows else None
        recent = [
            row
            for row in rows
            if row[0][1].from_us >= one.from_us - 2 * HOUR_US
            and max(gap.time_us for _, gap in row) >= one.from_us - HOUR_US
        ]
        if (
            before is not None
            and len(recent) >= FEW
            and seq - before[-1][0] < LEFT_OUT
            and one.from_us - before[-1][1].time_us <= QUIET_S * US_PER_S
            and one.time_us - before[0][1].from_us <= HOUR_US
        ):
            before.append((seq, one))
        elif before is not None and (one.from_us, one.time_us) == (
            before[0][1].from_us,
            before[-1][1].time_us,
        ):
            before.append((seq, one))  # of two leaders, in one microsecond
        else:
            rows.append([(seq, one)])
    return rows


@given(series_of_gaps(), st.data())
def test_rows_are_those_of_the_model_however_the_journal_is_cut_and_read_again(
    gaps: list[Numbered], data: st.DataObject
) -> None:
    ledger, at = Ledger(), 0
    while at < len(gaps):
        end = data.draw(st.integers(at + 1, len(gaps)), "the end of a batch")
        again = data.draw(st.integers(max(0, at - 5), at), "where a crash has it begin again")
        ledger.write(gaps[again:end])
        at = end
    expected = []
    for row in model_of(gaps):
        sizes = [one.size for _, one in row]
        size = None if None in sizes else sum(size for size in sizes if size is not None)
        last_us = max(one.time_us for _, one in row)
        expected.append((row[0][1].from_us, last_us, size, row[0][0], row[-1][0]))
    assert ledger.shown() == expected


@given(series_of_gaps())
def test_no_gap_is_hidden_and_an_hour_has_a_bounded_number_of_rows(gaps: list[Numbered]) -> None:
    ledger = Ledger()
    for one in gaps:
        ledger.write([one])
    for seq, one in gaps:
        assert any(
            row.from_us <= one.from_us and one.time_us <= row.to_us and row.seq <= seq <= row.last_seq
            for row in ledger.rows
        ), one
    hours = [row.from_us // HOUR_US for row in ledger.rows if row.last_seq < LEFT_OUT]
    assert max((hours.count(hour) for hour in hours), default=0) <= FEW + 3


def test_a_day_of_constant_garbage_is_some_tens_of_rows() -> None:
    ledger = Ledger()
    for number in range(86_400 // 5):
        ledger.write([(number + 1, gap(5 * number, 5 * number + 1))])
    assert 24 <= len(ledger.rows) <= 24 * FEW
    assert [row[:3] for row in ledger.shown()[: FEW - 1]] == [
        (5 * number * US_PER_S, (5 * number + 1) * US_PER_S, 1) for number in range(FEW - 1)
    ]
    assert sum(row.size or 0 for row in ledger.rows) == 86_400 // 5


def test_garbage_at_the_worst_pace_is_some_tens_of_rows_a_day() -> None:
    ledger = Ledger()
    for number in range(86_400 // (QUIET_S + 2)):
        ledger.write([(number + 1, gap(number * (QUIET_S + 2), number * (QUIET_S + 2) + 1))])
    assert len(ledger.rows) <= 96


def test_what_was_filled_or_given_up_does_not_grow() -> None:
    for state in ("filled", "permanent"):
        ledger = Ledger()
        ledger.write([(number, gap(number, number + 1)) for number in range(1, FEW + 2)])
        assert [row.size for row in ledger.rows] == [1] * (FEW - 1) + [2]
        ledger.rows[-1].state = state  # type: ignore[assignment]
        ledger.write([(number, gap(number, number + 1)) for number in range(1, FEW + 4)])
        assert [row.size for row in ledger.rows] == [1] * (FEW - 1) + [2, 2]


def test_a_row_never_grows_into_the_key_of_another() -> None:
    """Late records have older times, so two gaps may begin at one."""
    ledger = Ledger()
    ledger.write([(1, gap(0, 9)), (2, gap(0, 1)), (3, gap(0, 2))])
    ledger.rows[0].state = "filled"
    ledger.write([(4, gap(5, 9))])
    keys = [(row.from_us, row.to_us) for row in ledger.rows]
    assert len(set(keys)) == len(keys) == 4
    ledger.write([(5, gap(0, 9))])
    assert (ledger.rows[0].state, ledger.rows[0].size) == ("open", 2), "the same interval is missing again"

"""What an import says for people: each cause once."""

from __future__ import annotations

from datetime import date

from mdserver.commands.importing.plan import Dates, SymbolPlan
from mdserver.commands.importing.summary import Summary, SymbolSummary
from mdserver.store.store import HourResult

HOUR_US = 3_600_000_000


def summary(*, notes_empty: bool = True) -> SymbolSummary:
    return SymbolSummary(SymbolPlan("EURUSD", "EURUSD", tuple(range(100)), 0, 0, 0, 0, 0, notes_empty))


def whole(one: SymbolSummary) -> Summary:
    return Summary("dukascopy", Dates(date(2024, 1, 1), date(2024, 1, 2)), {"EURUSD": one})


def test_the_same_cause_of_all_hours_is_shown_as_it_is() -> None:
    one = summary()
    cause = "no service answers: https://a/: cannot connect; https://b/: cannot connect"
    one.add([HourResult(n * HOUR_US, "failed", 0, cause) for n in range(3)])
    assert list(one.lines())[1:] == [
        f"  failed: 3 hours: {cause}",
        "    1970-01-01T00:00Z, 1970-01-01T01:00Z, 1970-01-01T02:00Z",
    ]


def test_one_failure_repeated_is_one_line_with_an_example() -> None:
    one = summary()
    one.add(
        [
            HourResult(n * HOUR_US, "failed", 0, f"http://host/EURUSD/{n:02}h_ticks.bi5: HTTP 503: busy")
            for n in range(30)
        ]
    )
    one.add([HourResult(40 * HOUR_US, "failed", 0, "/data/EURUSD/40h: cannot be read")])
    lines = list(one.lines())
    assert lines[1] == "  failed: 30 hours: HTTP 503: busy"
    assert lines[2].startswith("    1970-01-01T00:00Z, 1970-01-01T01:00Z, ")
    assert lines[2].endswith(" and 22 more")
    assert lines[3] == "    for example http://host/EURUSD/00h_ticks.bi5"
    assert lines[4] == "  failed: 1970-01-02T16:00Z: /data/EURUSD/40h: cannot be read"
    assert len(lines) == 5


def test_denied_hours_are_listed_and_fail_the_import_where_they_are_unusual() -> None:
    one = summary()
    one.add([HourResult(0, "denied")])
    assert not whole(one).ok
    assert "1 denied by the source" in next(one.lines())
    assert any("--accept-empty" in line for line in one.lines())
    session = summary(notes_empty=False)
    session.add([HourResult(0, "denied")])
    assert whole(session).ok

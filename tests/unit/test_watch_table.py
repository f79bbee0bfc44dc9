"""The table of ``mdserver watch``."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from mdserver.commands.watching.table import Table


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(**options: Any) -> tuple[Table, Clock, Console]:
    console = Console(width=100, force_terminal=True, color_system="standard", record=True)
    clock = Clock()
    return Table("ws://here/", console=console, clock=clock, **options), clock, console


def drawn(table: Table, console: Console) -> list[list[str]]:
    """Return the cells of the rows; colours come as words before the text."""
    console.print(table.render())
    text = console.export_text(styles=True)
    for code, word in (("\x1b[32m", "+"), ("\x1b[31m", "-"), ("\x1b[33m", "~"), ("\x1b[0m", "")):
        text = text.replace(code, word)
    return [line.split() for line in text.splitlines()]


def tick(bid: float, ask: float, symbol: str = "EURUSD") -> dict[str, Any]:
    return {
        "type": "tick",
        "broker": "mock",
        "symbol": symbol,
        "seq": 1,
        "time": 3_723.5,
        "bid": bid,
        "ask": ask,
    }


def test_a_row_waits_for_its_first_record_and_then_shows_where_the_price_went() -> None:
    table, clock, console = make(trades=False)
    table.connected()
    table.feed({"broker": "mock", "symbol": "EURUSD", "type": "tick", "status": "pending"})
    assert drawn(table, console)[1] == ["EURUSD", "mock", "–", "–", "–", "–", "0.0", "–", "~pending"]
    table.feed({"broker": "mock", "symbol": "EURUSD", "type": "tick", "status": "active"})
    for bid, ask in ((1.1, 1.1002), (1.10005, 1.1002)):
        table.record(tick(bid, ask), b"")
    clock.now += 4
    table._count()
    assert drawn(table, console)[1] == [
        *("EURUSD", "mock", "+1.10005", "+1.10020", "0.00015", "++0.002", "%", "0.5", "01:02:03", "+live")
    ]
    table.record(tick(1.1, 1.1002), b"")
    table.status({"type": "status", "broker": "mock", "state": "backoff"})
    row = drawn(table, console)[1]
    assert (row[2], row[-1]) == ("-1.10000", "~backoff")


def test_trades_have_a_column_and_rows_are_in_order() -> None:
    table, _, console = make()
    trade = {
        "type": "trade",
        "broker": "b",
        "symbol": "XRPUSDT",
        "seq": 1,
        "time": 1.0,
        "price": 0.5,
        "size": 1,
    }
    table.record(trade, b"")
    table.record(tick(1.0, 2.0), b"")
    head, first, second = drawn(table, console)[:3]
    assert "trade" in " ".join(head)
    assert (first[0], second[:6]) == ("EURUSD", ["XRPUSDT", "b", "–", "–", "–", "0.5"])


def test_a_lost_connection_is_said_until_there_is_one() -> None:
    table, _, console = make()
    table.lost("it went", 2.04)
    assert "it went; trying again in 2.0 s" in " ".join(
        words for line in drawn(table, console) for words in line
    )
    table.connected()
    assert "ws://here/" in " ".join(words for line in drawn(table, console) for words in line)

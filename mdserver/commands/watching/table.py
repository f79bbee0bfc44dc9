"""The prices as a table on a terminal, redrawn a few times a second whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import TypeVar

import attrs
import rich.table
import trio
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .session import Message

__all__ = ["Table"]

T = TypeVar("T")

REDRAWN_EVERY_S = 0.125
RATE_OVER_S = 2.0
COLUMNS = ("symbol", "broker", "bid", "ask", "spread", "trade", "change", "per s", "time", "state")
TRADE = COLUMNS.index("trade")
_RISEN, _FALLEN = "green", "red"
_STATE_STYLES = {"live": "green", "active": "green", "failed": "bold red", "stopped": "red", "refused": "red"}


@attrs.define
class _Row:
    """The last prices of a symbol of a broker. ``style`` tells whether the last change went up or down."""

    symbol: str
    broker: str
    status: str = "pending"
    bid: float | None = None
    ask: float | None = None
    trade: float | None = None
    first: float | None = None
    time: float | None = None
    style: str = ""
    trade_style: str = ""
    digits: int = 0
    count: int = 0
    rate: float = 0.0

    def take(self, record: Message) -> None:
        self.count += 1
        self.time = record["time"]
        if record["type"] == "trade":
            self.trade_style = _direction(self.trade, record["price"], self.trade_style)
            self.trade = record["price"]
        else:
            self.style = _direction(self.bid, record["bid"], self.style)
            self.bid, self.ask = record["bid"], record["ask"]
            self.digits = max(self.digits, _decimals(record["bid"]), _decimals(record["ask"]))
        self.first = self.price if self.first is None else self.first

    @property
    def price(self) -> float | None:
        """The middle of the quote, else the last trade."""
        if self.bid is None or self.ask is None:
            return self.trade
        return (self.bid + self.ask) / 2

    @property
    def change(self) -> Text:
        """How far the price moved since the command began."""
        if self.price is None or not self.first:
            return Text("–")
        percent = (self.price - self.first) / self.first * 100
        return Text(f"{percent:+.3f} %", style=_direction(0.0, round(percent, 3), ""))


class Table:
    """Implements :class:`.session.View`. After a lost connection it begins with the prices of then."""

    resumes = False

    def __init__(
        self,
        url: str,
        *,
        trades: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._url = url
        self._left_out = () if trades else (TRADE,)
        self._console = console or Console()
        self._clock = clock
        self._rows: dict[tuple[str, str], _Row] = {}
        self._states: dict[str, str] = {}
        self._note = "connecting …"
        self._counted_at = clock()

    def feed(self, result: Message) -> None:
        """Give each subscription its row, before a record comes."""
        status = str(result.get("status"))
        self._row(str(result.get("symbol")), str(result.get("broker"))).status = status

    def record(self, record: Message, raw: bytes) -> bool:
        """Take a record; it is shown at the next redraw."""
        self._row(record["symbol"], record["broker"]).take(record)
        return False

    def status(self, message: Message) -> None:
        """Take the state of a broker."""
        if message.get("type") == "status" and "broker" in message:
            self._states[str(message["broker"])] = str(message.get("state"))

    def lost(self, why: str, wait_s: float) -> None:
        """Say below the table that the connection is made anew."""
        self._note = f"{why}; trying again in {wait_s:.1f} s"

    def connected(self) -> None:
        """Take the note away."""
        self._note = ""
        self._states.clear()

    async def run(self) -> None:
        """Redraw until cancelled."""
        with Live(self.render(), console=self._console, auto_refresh=False) as live:
            while True:
                await trio.sleep(REDRAWN_EVERY_S)
                self._count()
                live.update(self.render(), refresh=True)

    def _row(self, symbol: str, broker: str) -> _Row:
        return self._rows.setdefault((symbol, broker), _Row(symbol, broker))

    def _count(self) -> None:
        passed_s = self._clock() - self._counted_at
        if passed_s < RATE_OVER_S:
            return
        self._counted_at += passed_s
        for row in self._rows.values():
            row.rate, row.count = row.count / passed_s, 0

    def render(self) -> rich.table.Table:
        """Return the table as it stands."""
        caption = self._note or f"{self._url}   Ctrl-C ends"
        table = rich.table.Table(
            caption=Text(caption, overflow="fold"), box=None, pad_edge=False, padding=(0, 1, 0, 0)
        )
        for place, name in self._shown(COLUMNS):
            table.add_column(
                name, justify="left" if place in (0, 1, len(COLUMNS) - 1) else "right", no_wrap=True
            )
        for _, row in sorted(self._rows.items()):
            table.add_row(*(cell for _, cell in self._shown(self._cells(row))))
        return table

    def _shown(self, cells: Sequence[T]) -> Iterator[tuple[int, T]]:
        return ((place, cell) for place, cell in enumerate(cells) if place not in self._left_out)

    def _cells(self, row: _Row) -> list[Text | str]:
        quoted = row.bid is not None and row.ask is not None
        state = self._states.get(row.broker) or ("live" if row.status == "active" else row.status)
        return [
            row.symbol,
            row.broker,
            Text(f"{row.bid:.{row.digits}f}" if quoted else "–", style=row.style),
            Text(f"{row.ask:.{row.digits}f}" if quoted else "–", style=row.style),
            f"{row.ask - row.bid:.{row.digits}f}" if row.bid is not None and row.ask is not None else "–",
            Text(
                "–" if row.trade is None else f"{row.trade:g}" if row.trade > 1e12 else str(row.trade),
                style=row.trade_style,
            ),
            row.change,
            f"{row.rate:.1f}",
            "–" if row.time is None else f"{datetime.fromtimestamp(row.time, UTC):%H:%M:%S}",
            Text(state, style=_STATE_STYLES.get(state, "yellow")),
        ]


def _direction(before: float | None, now: float, unchanged: str) -> str:
    if before is None or before == now:
        return unchanged
    return _RISEN if now > before else _FALLEN


def _decimals(price: float) -> int:
    """Return how many decimals the venue gave a price."""
    text = f"{price:.12g}"
    return len(text.partition(".")[2]) if "e" not in text else 0

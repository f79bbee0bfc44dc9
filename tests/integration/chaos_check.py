"""What must hold after a run of :mod:`.chaos_run`: for each client, for what is stored, for the candles."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs
import psycopg
import trio

from mdserver.errors import Unavailable
from mdserver.net import open_websocket

from .crash_run import SYMBOLS, Client

__all__ = ["CandleWatcher", "ChaosClient", "Stored", "check_clients", "check_stored", "read_stored"]

Gaps = Mapping[str, Sequence[tuple[float, float, str]]]
"""By symbol: from and to in seconds, and the cause."""
SLACK_S = 2e-6
"""Times of gaps are floats."""


@attrs.define
class ChaosClient(Client):
    """A client that also keeps the gaps that it was told of; ``seq`` may go on higher only behind one of them."""

    told: dict[str, list[tuple[float, float, str]]] = attrs.field(factory=dict)
    first: dict[str, int] = attrs.field(factory=dict)

    def take(self, message: dict[str, Any]) -> None:
        """Look at one message."""
        if message["type"] == "gap" and message.get("to") is not None:
            self.told.setdefault(message["symbol"], []).append(
                (message["from"], message["to"], message["cause"])
            )
        elif message["type"] == "trade":
            symbol, seq = message["symbol"], message["seq"]
            self.first.setdefault(symbol, int(message["trade_id"]))
            if symbol in self.last and seq > self.last[symbol][0] + 1 and symbol not in self.gaps:
                self.wrong.append(f"{symbol}: seq {seq} after {self.last[symbol][0]}, and no gap between")
        elif message["type"] == "error" and message["code"] == 410:
            raise Unavailable(message["message"])  # live goes on without what was asked for: ask again
        super().take(message)


@attrs.define
class CandleWatcher:
    """A client of one edge that gets the candles of a minute; ``closed`` is the last that it had of each."""

    name: str
    closed: dict[tuple[str, int], tuple[float, float, float, float, float, int]] = attrs.field(factory=dict)
    closed_at: dict[tuple[str, int], float] = attrs.field(factory=dict)
    broken_at: float = 0.0
    """When its connection ended last: what closed before may have been revised unseen."""

    async def run(self, port: int) -> None:
        """Be connected for ever."""
        request = {"action": "subscribe", "broker": "numbered", "symbols": SYMBOLS, "types": ["candle"]}
        while True:
            try:
                async with open_websocket(f"ws://127.0.0.1:{port}/") as ws:
                    await ws.send(json.dumps(request))
                    while True:
                        for message in map(json.loads, await ws.receive()):
                            self._take(message)
            except Unavailable:
                self.broken_at = trio.current_time()
                await trio.sleep(0.1)

    def _take(self, one: dict[str, Any]) -> None:
        if one["type"] == "candle" and one["closed"]:
            key = one["symbol"], one["time"]
            self.closed[key] = (
                *(one[name] for name in ("open", "high", "low", "close", "volume")),
                one["count"],
            )
            self.closed_at[key] = trio.current_time()

    def check(self, stored: Stored) -> list[str]:
        """Return which closed candles are stored with other values."""
        return [
            f"{self.name}: {symbol} candle at {open_s} closed as {candle}, stored is {found}"
            for (symbol, open_s), candle in self.closed.items()
            if self.closed_at[symbol, open_s] > self.broken_at
            and (found := stored.candles.get((symbol, 60, open_s))) != candle
        ]


@attrs.frozen
class Stored:
    """What the database has. ``trades``: by symbol and number of the stream the venue's number, time and price."""

    trades: dict[tuple[str, int], tuple[int, int, float]]
    gaps: Gaps
    lasting: Mapping[str, float]
    """By symbol when its lasting gap begins, in seconds."""
    candles: dict[tuple[str, int, int], tuple[float, float, float, float, float, int]]


def read_stored(database_url: str) -> Stored:
    """Read all of it. Blocking."""
    with psycopg.connect(database_url) as conn:
        trades = conn.execute(
            """select s.symbol, t.seq, t.trade_id::bigint, (extract(epoch from t.time) * 1000000)::bigint, t.price
            from trades t join series s on s.id = t.series_id"""
        ).fetchall()
        gaps: dict[str, list[tuple[float, float, str]]] = {}
        for symbol, from_s, to_s, cause in conn.execute(
            """select s.symbol, extract(epoch from g.from_time)::float8, extract(epoch from g.to_time)::float8, g.cause
            from gaps g join series s on s.id = g.series_id order by g.from_time"""
        ):
            gaps.setdefault(symbol, []).append((from_s, to_s, cause))
        lasting = conn.execute(
            """select s.symbol, extract(epoch from g.from_time)::float8
            from lasting_gaps g join series s on s.id = g.series_id"""
        ).fetchall()
        candles = conn.execute(
            """select s.symbol, c.timeframe, extract(epoch from c.time)::bigint,
                open, high, low, close, volume::float8, c.row_count
            from candles c join series s on s.id = c.series_id"""
        ).fetchall()
    return Stored(
        {(symbol, seq): (number, time_us, price) for symbol, seq, number, time_us, price in trades},
        gaps,
        dict(lasting),
        {(symbol, frame, open_s): tuple(values) for symbol, frame, open_s, *values in candles},
    )


def check_clients(
    clients: Sequence[ChaosClient], stored: Stored, times_us: Mapping[str, Sequence[int]]
) -> list[str]:
    """Return what is wrong with what clients had: each record once, or in a gap that it was told of."""
    wrong = []
    published: dict[tuple[str, int], int] = {}
    for client in clients:
        wrong += [f"{client.name}: {what}" for what in client.wrong]
        wrong += [f"{client.name}: {what}" for what in client.jumps if "recovered" in what]
        for key, number in client.seen.items():
            if published.setdefault(key, number) != number:
                wrong.append(f"{client.name}: {key} was record {number}, for another {published[key]}")
            elif stored.trades.get(key, (None,))[0] != number:
                wrong.append(f"{client.name}: {key} was record {number}, stored is {stored.trades.get(key)}")
        for symbol, (_, last) in client.last.items():
            had = {number for (of, _), number in client.seen.items() if of == symbol}
            unnamed = _outside(
                [n for n in range(client.first[symbol], last + 1) if n not in had],
                times_us[symbol],
                client.told.get(symbol, ()),
            )
            if unnamed:
                wrong.append(f"{client.name}: {symbol} {_ranges(unnamed)} missing, in no gap it was told of")
    return wrong


def check_stored(stored: Stored, times_us: Mapping[str, Sequence[int]]) -> list[str]:
    """Return what is wrong with what is stored: each record once, or in a gap; candles of exactly these records."""
    wrong = []
    for symbol in SYMBOLS:
        rows = [trade for (of, _), trade in sorted(stored.trades.items()) if of == symbol]
        numbers = [number for number, _, _ in rows]
        if twice := sorted(
            {number for number in numbers if numbers.count(number) > 1}
            if len(set(numbers)) < len(numbers)
            else ()
        ):
            wrong.append(f"{symbol}: {_ranges(twice)} stored twice")
        elif any(after < before for before, after in pairwise(numbers)):
            wrong.append(f"{symbol}: stored out of order")
        if other := [number for number, time_us, _ in rows if times_us[symbol][number - 1] != time_us]:
            wrong.append(f"{symbol}: {_ranges(other)} stored with another time")
        missing = sorted(set(range(min(numbers), len(times_us[symbol]) + 1)) - set(numbers))
        if stored.lasting.get(symbol, math.inf) < rows[-1][1] / 1e6 - SLACK_S:
            wrong.append(f"{symbol}: a gap lasts from {stored.lasting[symbol]} though records came later")
        if unnamed := _outside(missing, times_us[symbol], stored.gaps.get(symbol, ())):
            wrong.append(f"{symbol}: {_ranges(unnamed)} not stored, in no gap of the ledger")
        wrong += _check_candles(symbol, rows, stored)
    return wrong


def _check_candles(symbol: str, rows: Sequence[tuple[int, int, float]], stored: Stored) -> list[str]:
    wrong = []
    by_time = sorted(rows, key=lambda row: row[1])
    for frame in sorted({frame for of, frame, _ in stored.candles if of == symbol}):
        made: dict[int, list[float]] = {}
        for _, time_us, price in by_time:
            made.setdefault(time_us // 1_000_000 // frame * frame, []).append(price)
        for open_s, prices in made.items():
            computed = (prices[0], max(prices), min(prices), prices[-1], float(len(prices)), len(prices))
            found = stored.candles.get((symbol, frame, open_s))
            if found != computed:
                wrong.append(
                    f"{symbol}: candle of {frame} s at {open_s} is {found}, of its records {computed}"
                )
        stray = {at for of, size, at in stored.candles if of == symbol and size == frame} - made.keys()
        wrong += [f"{symbol}: candle of {frame} s at {at} without records" for at in sorted(stray)]
    return wrong


def _outside(
    numbers: Sequence[int], times_us: Sequence[int], gaps: Sequence[tuple[float, float, str]]
) -> list[int]:
    """Return the records whose time lies in none of the gaps."""
    return [
        number
        for number in numbers
        if not any(
            from_s - SLACK_S <= times_us[number - 1] / 1e6 <= to_s + SLACK_S for from_s, to_s, _ in gaps
        )
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers as people write them: 3, 5-9."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in found[:8]]
    return ", ".join(texts) + (" and more" if len(found) > 8 else "")

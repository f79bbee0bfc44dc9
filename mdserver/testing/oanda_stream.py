"""One price stream of the fake OANDA, and how the venue behaves."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence

import attrs
import msgspec
import trio

from .fake_exchange import FakeExchange
from .oanda_market import FakeQuote, time_text

__all__ = ["FakeOandaStream", "OandaRules", "price_fields"]


@attrs.define
class OandaRules:
    """How the venue behaves; may be changed at any time.

    ``heartbeat_s``, ``price_every_s``: seconds between heartbeats, and between moves of all prices; None: never.
    ``max_connects`` connections are accepted within ``connects_window_s`` seconds. ``max_streams``: further streams get
    429. ``cut_bytes``: data are sent in chunks of this size, which may split a line anywhere. ``blank_lines``: a blank
    line follows each line. ``bare``: price lines have neither ``type`` nor ``tradeable``, as in 2016. ``shuffled``: the
    best level is not the first. ``datetime_format``: ``RFC3339`` or ``UNIX``, whatever the client requests.
    """

    heartbeat_s: float | None = 5.0
    price_every_s: float | None = 0.25
    max_connects: int = 2
    connects_window_s: float = 1.0
    max_streams: int = 20
    cut_bytes: int | None = None
    blank_lines: bool = False
    bare: bool = False
    shuffled: bool = False
    datetime_format: str | None = None


class FakeOandaStream:
    """One price stream that a client opened; ``names`` are the instruments that it requested.

    ``sent`` holds each price line as (instrument, time in ns).
    """

    def __init__(self, exchange: FakeExchange, names: Sequence[str], rules: OandaRules) -> None:
        self.names = tuple(names)
        self.sent: list[tuple[str, int]] = []
        self.exchange = exchange
        self._rules = rules
        self._whole = trio.Lock()  # the chunks of one line are never mixed with another line
        self._beats = True
        self._prices = True

    def silence_prices(self) -> None:
        """Send no more prices, only heartbeats: a quiet market."""
        self._prices = False

    def mute(self) -> None:
        """Send nothing more and leave the connection open; to the client it looks half open."""
        self._prices = self._beats = False

    def unmute(self) -> None:
        """Send prices and heartbeats again."""
        self._prices = self._beats = True

    async def end(self) -> None:
        """End the stream cleanly, as at a restart of the venue."""
        await self.exchange.end()

    async def reset(self, part: bytes = b"") -> None:
        """Reset the connection, after ``part`` of a line if it is given."""
        if part:
            await self.exchange.send(part)
        await self.exchange.reset()

    async def send(self, data: bytes, cuts: Iterable[int] = ()) -> None:
        """Send bytes unchanged in one chunk, or in several, split at the positions ``cuts``."""
        borders = sorted({0, *cuts, len(data)})
        async with self._whole:
            for begin, end in itertools.pairwise(borders):
                await self.exchange.send(data[begin:end])

    async def send_price(self, name: str, quote: FakeQuote) -> None:
        """Send a price line, unless the stream is muted or did not request ``name``."""
        if self._prices and name in self.names:
            self.sent.append((name, quote.time_ns or 0))
            await self._send_line(self.price_line(name, quote))

    async def send_heartbeat(self) -> None:
        """Send a heartbeat unless muted."""
        if self._beats:
            line = {"type": "HEARTBEAT", "time": time_text(time.time_ns(), self.datetime_format)}
            await self._send_line(msgspec.json.encode(line) + b"\n")

    @property
    def datetime_format(self) -> str:
        """RFC3339 or UNIX: from the rules if set, else as the client requested."""
        asked = self.exchange.request.headers.get("accept-datetime-format", "RFC3339")
        return self._rules.datetime_format or asked

    def price_line(self, name: str, quote: FakeQuote) -> bytes:
        """Return a price line as it is sent."""
        stamp = time_text(quote.time_ns or 0, self.datetime_format)
        line = price_fields(name, quote, stamp, self._rules)
        return msgspec.json.encode(line) + b"\n"

    async def _send_line(self, line: bytes) -> None:
        data = line + b"\r\n" if self._rules.blank_lines else line
        await self.send(data, range(0, len(data), self._rules.cut_bytes or len(data)))


def price_fields(name: str, quote: FakeQuote, stamp: str, rules: OandaRules) -> dict[str, object]:
    """Return the fields of a price as the venue writes them; ``stamp`` is its time."""
    sides: dict[str, object] = {}
    for side, levels in (("bids", quote.bids), ("asks", quote.asks)):
        rows = [{"price": price, "liquidity": size} for price, size in levels]
        sides[side] = rows[::-1] if rules.shuffled else rows
    if quote.bids:
        sides["closeoutBid"] = min((price for price, _ in quote.bids), key=float)
    if quote.asks:
        sides["closeoutAsk"] = max((price for price, _ in quote.asks), key=float)
    line: dict[str, object] = {} if rules.bare else {"type": "PRICE"}
    line |= {"time": stamp, **sides, "status": "tradeable" if quote.tradeable else "non-tradeable"}
    if not rules.bare:
        line["tradeable"] = quote.tradeable
    return {**line, "instrument": name, **quote.extra}

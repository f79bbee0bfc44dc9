"""What all connections of a session deliver into: trades by their numbers, whole order books, and the holes in both."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from time import time_ns

import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.model import Feed, Record, Trade
from mdserver.net import Backoff
from mdserver.plugin import BrokerHost

from .codec import DepthUpdate, decode_depth
from .full_books import FullBook, Seeded
from .rest import Rest

__all__ = ["Intake"]

_SEEDS_AT_ONCE = 3
_SEED_LEVELS = 1000
"""Levels of a snapshot: from 100 the price wanders out within minutes, and 5,000 weigh five times as much."""
_SEED_WEIGHT = 50
_TOO_OLD_PAUSE_S = 0.2

_COUNTING = 5
"""Trades in a row whose number is one above that of the last: so many prove that the numbers count."""


class Intake:
    """Takes trades and changes of books in the venue's order. ``rest``: where snapshots come from."""

    def __init__(self, host: BrokerHost, rest: Rest | None) -> None:
        self._host = host
        self._rest = rest
        self._newest: dict[str, int] = {}
        self._in_order = 0
        self._books: dict[str, FullBook] = {}
        self._seeds: dict[str, None] = {}
        self._seeding: set[str] = set()
        self._changed = trio.Event()

    def trade(self, number: int, trade: Trade, batch: list[Record], received_us: int) -> list[Record]:
        """Add a trade to the batch, and return the batch: a new one behind a hole, which was announced.

        A jump is a hole only once numbers are known to count: a relay of the venue may number in its own way, by time
        for one, and every trade of it would be a hole.
        """
        symbol = trade.symbol
        newest = self._newest.get(symbol)
        if newest is not None:
            step = number - newest
            if step == 1:
                self._in_order += 1
            elif step <= 0:
                self._host.ignored("repeated trade")
                return batch
            elif self._in_order < _COUNTING:
                self._in_order = 0
            else:
                batch = self._announce(batch, received_us, Feed(symbol, "trade"), step - 1)
        self._newest[symbol] = number
        batch.append(trade)
        return batch

    def depth(self, update: DepthUpdate, batch: list[Record], received_us: int) -> list[Record]:
        """Add what a message changes in its book to the batch, and return the batch, as :meth:`trade` does."""
        book = self._books.get(update.symbol)
        if book is None:
            self._host.ignored("depthUpdate")
            return batch
        was_valid = book.valid
        record = book.take(update)
        if record is not None:
            batch.append(record)
        elif was_valid and not book.valid:
            self._host.log.warning(
                "changes of an order book are missing: it starts again from a snapshot", symbol=book.symbol
            )
            batch = self._announce(batch, received_us, _full(book.symbol), None)
            self._ask(book.symbol)
        return batch

    def accepted(self, feeds: Iterable[Feed]) -> None:
        """Note that the venue will send these: from now on nothing of a book is missed, so it can be begun."""
        for feed in feeds:
            if feed.variant == "full":
                book = self._books.get(feed.symbol)
                if book is None:
                    book = self._books[feed.symbol] = FullBook(feed.symbol)
                if not book.valid:
                    self._ask(feed.symbol)

    def renew_books(self, symbols: Iterable[str]) -> None:
        """Begin books again from a new snapshot: the server lacks changes of them."""
        for symbol in symbols:
            book = self._books.get(symbol)
            if book is not None and book.valid:
                book.begin_anew()
                self._ask(symbol)

    def left(self, feeds: Iterable[Feed]) -> None:
        """Forget what is known of feeds that are not asked for any more."""
        for feed in feeds:
            if feed.type == "trade":
                self._newest.pop(feed.symbol, None)
            elif feed.variant == "full":
                self._books.pop(feed.symbol, None)
                self._seeds.pop(feed.symbol, None)

    def lost(self, feeds: Iterable[Feed], *, subscribed: Collection[Feed] = ()) -> None:
        """Announce that a connection ended and nobody listened to these for a while.

        ``subscribed`` are those that another connection has been sent since; for the rest :meth:`accepted` follows.
        """
        feeds = tuple(feeds)
        self._host.gap("disconnected", feeds)
        for feed in feeds:
            if feed.type == "trade":
                self._newest.pop(feed.symbol, None)
            elif feed.variant == "full" and feed.symbol in self._books:
                self._books[feed.symbol].begin_anew()
                if feed in subscribed:
                    self._ask(feed.symbol)

    def _announce(self, batch: list[Record], received_us: int, feed: Feed, size: int | None) -> list[Record]:
        """Publish what came before a hole, announce the hole, and return the batch that follows it."""
        if batch:
            self._host.publish(batch, received_us=received_us)
        self._host.gap("missed", [feed], size)
        return []

    # -- snapshots ---------------------------------------------------------------------------------

    def _ask(self, symbol: str) -> None:
        self._seeds[symbol] = None
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Fetch the snapshots of books that need one, until cancelled."""
        if self._rest is None:
            return
        async with trio.open_nursery() as nursery:
            for _ in range(_SEEDS_AT_ONCE):
                nursery.start_soon(self._fetch_snapshots, self._rest)

    async def _fetch_snapshots(self, rest: Rest) -> None:
        backoff = Backoff(1.0, 60.0)
        while True:
            symbol = next((name for name in self._seeds if name not in self._seeding), None)
            if symbol is None:
                await self._changed.wait()
                continue
            del self._seeds[symbol]
            self._seeding.add(symbol)
            try:
                pause_s = await self._seed(rest, symbol, backoff)
            finally:
                self._seeding.discard(symbol)
            await trio.sleep(pause_s)

    async def _seed(self, rest: Rest, symbol: str, backoff: Backoff) -> float:
        """Fetch one snapshot; return the pause before the next."""
        params = {"symbol": symbol, "limit": str(_SEED_LEVELS)}
        try:
            snapshot = decode_depth(await rest.get("/api/v3/depth", params, weight=_SEED_WEIGHT))
        except (Unavailable, BadMessage) as error:
            self._host.log.warning(
                "the snapshot of an order book is not available yet", symbol=symbol, error=str(error)
            )
            self._ask(symbol)
            return backoff.next_s(error.retry_after_s if isinstance(error, Unavailable) else None)
        except Rejected as error:
            self.left([_full(symbol)])
            self._host.refuse([_full(symbol)], f"no snapshot of the order book: {error}")
            return 0.0
        backoff.reset()
        book = self._books.get(symbol)
        if book is None:
            return 0.0  # let go of since
        seeded, record = book.seed(snapshot, time_ns() // 1000)
        if seeded is Seeded.TOO_OLD:
            self._ask(symbol)
            return _TOO_OLD_PAUSE_S
        if record is not None:
            self._host.publish([record])
        return 0.0


def _full(symbol: str) -> Feed:
    return Feed(symbol, "orderbook", "full")

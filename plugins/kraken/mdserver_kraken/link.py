"""One connection to the venue: keeps its subscriptions as wanted and delivers what comes."""

from __future__ import annotations

from collections.abc import Collection

import attrs
import trio

from mdserver.errors import BadMessage, Unavailable
from mdserver.model import Feed, Record
from mdserver.net import WebSocket
from mdserver.plugin import BrokerHost

from .books import DEPTHS, BookKeeper, BookState, carriers
from .codec import (
    Books,
    Decoder,
    Event,
    Heartbeat,
    Ignored,
    Instruments,
    Reply,
    Status,
    Trades,
    encode_request,
)
from .config import KrakenConfig
from .instruments import InstrumentTable
from .subscriptions import CHANNELS, Outcome, Subscriptions

__all__ = ["Link", "Timing"]

_INSTRUMENTS_ID = 0
_LONGEST_PAUSE_S = 60.0


@attrs.frozen
class Timing:
    """Waits of a session, in seconds; tests shorten them.

    ``answer_s``: a symbol that is not acknowledged within this time is requested again, ``attempts`` times in all; so
    is a book whose snapshot is that late. ``request_gap_s``: pause between two requests. ``renew_s``: pause before a
    book is requested again that was invalid for the second time in a row, doubled each time. ``instruments_s``: the
    list of instruments must be received within this time after connecting.
    """

    answer_s: float = 10.0
    attempts: int = 3
    request_gap_s: float = 0.2
    renew_s: float = 1.0
    instruments_s: float = 15.0


class Link:
    """A connection's life. ``listed`` is set once the list of instruments is there."""

    def __init__(
        self,
        websocket: WebSocket,
        host: BrokerHost,
        config: KrakenConfig,
        table: InstrumentTable,
        timing: Timing,
    ) -> None:
        self.listed = trio.Event()
        self._websocket = websocket
        self._host = host
        self._timing = timing
        self._decoder = Decoder()
        self._table = table
        self._books = BookKeeper()
        self._book_variants: dict[str, frozenset[str]] = {}
        self._carried: dict[Feed, Feed] = {}
        self._subscriptions = Subscriptions(answer_s=timing.answer_s, attempts=timing.attempts)
        self._newest_trade: dict[str, int] = {}
        self._snapshot_due: dict[str, float] = {}
        self._renewed: set[str] = set()
        """Symbols whose books the server asked for anew, as long as the venue has not let go of them."""
        self._changed = trio.Event()

    async def run(self) -> None:
        """Serve until the connection ends: raises Unavailable."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_demand)
            nursery.start_soon(self._subscribe)
            await self._pump()

    # -- what comes --------------------------------------------------------------------------------

    async def _pump(self) -> None:
        host, decode, receive = self._host, self._decoder.decode, self._websocket.receive
        while True:
            frames = await receive()
            received_us = self._websocket.received_us
            batch: list[Record] = []
            for frame in frames:
                try:
                    event = decode(frame, received_us)
                except BadMessage as error:
                    if batch:  # before the gap that the message makes
                        host.publish(batch, received_us=received_us)
                        batch = []
                    host.discard(error)
                    continue
                if type(event) is list:
                    batch += event
                elif type(event) is Trades:
                    batch = self._take_trades(event, batch)
                elif type(event) is Books:
                    batch = self._take_books(event, batch, received_us)
                elif type(event) is not Heartbeat:
                    if batch and type(event) is Reply:  # before a gap that the reply makes
                        host.publish(batch, received_us=received_us)
                        batch = []
                    self._handle(event)
            if batch:
                host.publish(batch, received_us=received_us)
            else:
                host.alive()

    def _take_trades(self, event: Trades, batch: list[Record]) -> list[Record]:
        """Add trades to the batch; where the venue's numbers jump, publish it first and announce the hole."""
        if event.snapshot:
            self._host.ignored("trade snapshot")
            return batch
        for row in event.rows:
            symbol, number = row.trade.symbol, row.number
            newest = self._newest_trade.get(symbol)
            if newest is not None and number <= newest:
                self._host.ignored("repeated trade")
                continue
            if newest is not None and number > newest + 1:
                batch = self._announce(batch, "missed", Feed(symbol, "trade"), size=number - newest - 1)
            self._newest_trade[symbol] = number
            batch.append(row.trade)
        return batch

    def _take_books(self, event: Books, batch: list[Record], received_us: int) -> list[Record]:
        for change in event.changes:
            symbol = change.symbol
            state = self._books.take(change, self._subscriptions.depth(symbol) or DEPTHS["full"])
            variants = self._book_variants.get(symbol, frozenset())
            if state is BookState.UNUSABLE:
                self._host.ignored("book update without a snapshot")
                self._renew_if_late(symbol)
            elif state is BookState.BROKEN:
                batch = self._announce(batch, "checksum", *[Feed(symbol, "orderbook", v) for v in variants])
                self._renew(symbol)
            else:
                time_us = received_us if change.time_us is None else change.time_us
                if "25" in variants:
                    batch.append(self._books.best(symbol, time_us))
                if "full" in variants and self._subscriptions.depth(symbol) == DEPTHS["full"]:
                    batch.append(self._books.full(change, time_us))
        return batch

    def _renew_if_late(self, symbol: str) -> None:
        """Subscribe again to a book that is served though its snapshot never came."""
        due = self._snapshot_due.get(symbol)
        if due is not None and trio.current_time() > due:
            del self._snapshot_due[symbol]
            self._host.log.warning("order book without a snapshot: subscribing again", symbol=symbol)
            self._renew_at(symbol, trio.current_time())

    def _announce(
        self, batch: list[Record], cause: str, *feeds: Feed, size: int | None = None
    ) -> list[Record]:
        """Publish what came before a hole, announce the hole, and return the batch that follows it."""
        if batch:
            self._host.publish(batch, received_us=self._websocket.received_us)
        self._host.gap(cause, feeds, size)
        return []

    def _renew(self, symbol: str) -> None:
        mismatches = self._books.mismatches(symbol)
        pause_s = (
            0.0 if mismatches < 2 else min(_LONGEST_PAUSE_S, self._timing.renew_s * 2 ** (mismatches - 2))
        )
        self._host.log.warning(
            "order book differs from the venue's checksum: subscribing again",
            symbol=symbol,
            in_a_row=mismatches,
            pause_s=pause_s,
        )
        self._renew_at(symbol, trio.current_time() + pause_s)

    def renew_books(self, symbols: Collection[str]) -> None:
        """Subscribe to books again, so that the venue sends them whole."""
        for symbol in symbols:
            self._renewed.add(symbol)
            self._renew_at(symbol, trio.current_time())

    def _renew_at(self, symbol: str, not_before: float) -> None:
        for variant in DEPTHS:
            self._subscriptions.renew(Feed(symbol, "orderbook", variant), not_before)
        self._tell()

    def _handle(self, event: Event) -> None:
        if isinstance(event, Reply):
            self._take_reply(event)
        elif isinstance(event, Instruments):
            for hidden in self._table.take(event):
                self._host.log.warning(
                    "instrument left out: another one has the same symbol",
                    symbol=hidden.symbol,
                    venue_symbol=hidden.venue_symbol,
                )
            self._host.instruments(self._table.all())
            self.listed.set()
            self._tell()
        elif isinstance(event, Status):
            log = self._host.log.info if event.system == "online" else self._host.log.warning
            log("state of the exchange", system=event.system)
        elif isinstance(event, Ignored):
            self._host.ignored(event.kind)

    def _take_reply(self, reply: Reply) -> None:
        if reply.request_id == _INSTRUMENTS_ID:
            if reply.error is not None:
                raise Unavailable(f"{self._websocket.url}: no list of instruments: {reply.error}")
            return
        outcome = self._subscriptions.answered(reply, trio.current_time())
        if outcome is None:
            self._host.ignored("reply")
            return
        for feed in outcome.left:
            self._forget(feed)
        for feed in outcome.confirmed:
            if CHANNELS[feed.type] == "book" and feed.symbol not in self._books:
                self._snapshot_due[feed.symbol] = trio.current_time() + self._timing.answer_s
        self._settle(outcome)
        self._tell()

    def _forget(self, feed: Feed) -> None:
        """Drop what is known of a subscription that ended: the next one begins without a past."""
        channel = CHANNELS[feed.type]
        if channel == "trade":
            self._newest_trade.pop(feed.symbol, None)
        elif channel == "book":
            if feed.symbol in self._renewed:
                self._renewed.discard(feed.symbol)
                variants = self._book_variants.get(feed.symbol, frozenset())
                self._host.gap("missed", [Feed(feed.symbol, "orderbook", one) for one in variants])
            self._books.drop(feed.symbol)
            self._snapshot_due.pop(feed.symbol, None)

    # -- what is asked for -------------------------------------------------------------------------

    async def _follow_demand(self) -> None:
        wanted = self._host.demand.current()
        while True:
            wanted = await self._host.demand.wait_changed(wanted)
            self._tell()

    async def _subscribe(self) -> None:
        """Keep what is subscribed equal to what is wanted."""
        timing, subscriptions = self._timing, self._subscriptions
        await self._websocket.send(encode_request("subscribe", "instrument", (), _INSTRUMENTS_ID, depth=0))
        with trio.move_on_after(timing.instruments_s):
            await self.listed.wait()
        if not self.listed.is_set():
            raise Unavailable(
                f"{self._websocket.url}: no list of instruments within {timing.instruments_s:g} s"
            )
        while True:
            changed = self._changed
            now = trio.current_time()
            late = subscriptions.overdue(now)
            if late.refused and not subscriptions.answers:
                raise Unavailable(f"{self._websocket.url}: none of our requests was answered: {late.refused}")
            self._settle(late)
            self._plan(self._host.demand.current())
            request = subscriptions.next_request(now)
            if request is not None:
                await self._websocket.send(request)
                await trio.sleep(timing.request_gap_s)
                continue
            with trio.move_on_at(subscriptions.wake_at(now)):
                await changed.wait()

    def _plan(self, wanted: frozenset[Feed]) -> None:
        """Work out what to ask for."""
        variants: dict[str, set[str]] = {}
        for feed in wanted:
            if feed.type == "orderbook":
                variants.setdefault(feed.symbol, set()).add(feed.variant)
        self._book_variants = {symbol: frozenset(names) for symbol, names in variants.items()}
        carried = carriers(wanted)
        served = self._subscriptions.active
        new = [feed for feed in carried.keys() - self._carried.keys() if carried[feed] in served]
        self._carried = carried
        refused = self._subscriptions.plan(wanted - carried.keys(), self._table.names)
        self._settle(Outcome(confirmed=tuple(new), refused=refused))

    def _settle(self, outcome: Outcome) -> None:
        """Tell the host what became of feeds."""
        if outcome.confirmed:
            carried = [feed for feed, carrier in self._carried.items() if carrier in outcome.confirmed]
            self._host.confirm([*outcome.confirmed, *carried])
        by_reason: dict[str, list[Feed]] = {}
        for feed, reason in outcome.refused.items():
            by_reason.setdefault(reason, []).append(feed)
        for reason, feeds in by_reason.items():
            self._host.refuse(feeds, reason)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

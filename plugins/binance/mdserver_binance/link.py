"""One connection to the venue: keeps its subscriptions as wanted and delivers what comes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import TypeAlias

import attrs
import trio

from mdserver.errors import BadMessage, Unavailable, leaves
from mdserver.model import Feed, OrderBook, Record, Tick, Trade
from mdserver.net import WebSocket
from mdserver.plugin import BrokerHost

from .codec import Decoder, DepthUpdate, Event, Ignored, Reply, ServerShutdown, TradeStream
from .intake import Intake
from .shares import Share
from .subscriptions import Ledger, Subscriptions

__all__ = ["Common", "Link"]

Data: TypeAlias = Tick | Trade | OrderBook | DepthUpdate
_DATA = (Trade, Tick, OrderBook, DepthUpdate)

_REQUEST_GAP_S = 1 / 3
"""Pause between requests. The venue closes on the sixth message within a second, pings and pongs included;
three requests leave room for those, and for requests that a slow network pushes together."""

_REPLY_S = 10.0

_BLAME_S = 2.0
"""A connection that ends this soon after a refused request ended because of it: then the venue is as well as before."""

_LAG_S = 30.0
"""How far a new connection may lag behind the one that it replaced: for so long it is checked for repeats."""


@attrs.frozen
class Common:
    """What all connections of a session share. ``symbols`` returns those that the venue has, None if unknown."""

    host: BrokerHost
    ledger: Ledger
    intake: Intake
    trades: TradeStream
    symbols: Callable[[], frozenset[str] | None]


class Link:
    """A connection's life: ``shadow`` first if it is to replace another, in charge, ``retiring``, ``ended``.

    A shadow holds back what it receives until :meth:`take_over`. ``retiring`` is set when a replacement is
    due: the venue announced its shutdown, the connection is nearly as old as the venue allows, or it ended
    because a request was refused. ``settled`` is set once everything wanted at some moment was subscribed.
    """

    def __init__(
        self,
        websocket: WebSocket,
        share: Share,
        common: Common,
        *,
        lifetime_s: float,
        shadow: bool,
    ) -> None:
        self.settled = trio.Event()
        self.retiring = trio.Event()
        self.ended = trio.Event()
        self.failure: Unavailable | None = None
        self.settled_at = math.inf
        self.ended_at = math.inf
        self.scope = trio.CancelScope()
        self._websocket = websocket
        self._share = share
        self._host = common.host
        self._intake = common.intake
        self._ledger = common.ledger
        self._symbols = common.symbols
        self._subscriptions = Subscriptions(common.ledger, common.trades)
        self._decoder = Decoder(common.trades)
        self._decoder.symbols = self._subscriptions.symbols
        self._lifetime_s = lifetime_s
        self._answered = trio.Event()
        self._next_request_at = trio.current_time()
        self._held: list[tuple[int, Data, int]] | None = [] if shadow else None
        self._marks: dict[Feed, int] | None = None
        self._delivered: dict[Feed, int] = {}
        self._lag_ends = 0.0
        self._refused_at = -math.inf
        self._dismissed = False

    @property
    def active(self) -> frozenset[Feed]:
        """The feeds that the venue said it sends here."""
        return self._subscriptions.active

    async def run(self) -> None:
        """Serve until dismissed, or raise Unavailable when the connection ends.

        An end that is expected (while a shadow, while retiring, after a refused request) is not raised but
        left in ``failure``.
        """
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._subscribe)
                    nursery.start_soon(self._grow_old)
                    await self._pump()
        except* Unavailable as group:
            self.failure = next(error for error in leaves(group) if isinstance(error, Unavailable))
            if trio.current_time() - self._refused_at < _BLAME_S:
                self._host.log.info("connection lost after a refused subscription", error=str(self.failure))
                self.failure = None
                self.retiring.set()
            elif self._held is None and not self.retiring.is_set():
                raise
        finally:
            self.ended_at = trio.current_time()
            self.ended.set()

    def note_ids(self) -> None:
        """From now on keep the venue's newest id of each feed, for whoever takes over."""
        if self._marks is None:
            self._marks = {}

    def dismiss(self) -> dict[Feed, int]:
        """Deliver nothing more, close the connection, and return the newest id noted of each feed."""
        self._dismissed = True
        self.scope.cancel()
        return self._marks or {}

    def take_over(self, marks: dict[Feed, int]) -> None:
        """Deliver what was held back beyond ``marks``, and from now on what comes and is beyond them.

        The connection before may have been the faster one, so what it delivered can still be on its way here.
        """
        held, self._held = self._held or [], None
        self._delivered, self._lag_ends = dict(marks), trio.current_time() + _LAG_S
        for received_us, read in groupby(held, key=itemgetter(2)):
            batch: list[Record] = []
            for id_, data, _ in read:
                if self._is_due(id_, data, received_us):
                    batch = self._take(id_, data, batch, received_us)
            if batch:
                self._host.publish(batch, received_us=received_us)

    async def _pump(self) -> None:
        host, decode, receive = self._host, self._decoder.decode, self._websocket.receive
        while True:
            frames = await receive()
            if self._dismissed:
                return  # read before it was told; the next connection has it too, and they share one intake
            received_us = self._websocket.received_us
            batch: list[Record] = []
            if self._delivered and trio.current_time() > self._lag_ends:
                self._delivered = {}
            changing = self._held is not None or self._marks is not None or bool(self._delivered)
            for frame in frames:
                try:
                    event = decode(frame, received_us)
                except BadMessage as error:
                    if batch:  # before the gap that the message makes
                        host.publish(batch, received_us=received_us)
                        batch = []
                    host.discard(error)
                    continue
                if isinstance(event, Tick) and not changing:
                    batch.append(event)  # of all messages most
                elif isinstance(event, _DATA):
                    id_ = self._decoder.venue_id
                    if not changing or self._is_due(id_, event, received_us):
                        batch = self._take(id_, event, batch, received_us)
                else:
                    self._handle(event)
            if batch:
                host.publish(batch, received_us=received_us)
            else:
                host.alive()

    def _take(self, id_: int, data: Data, batch: list[Record], received_us: int) -> list[Record]:
        """Add to the batch what comes of a message, and return the batch: another one behind a hole."""
        if isinstance(data, Trade):
            return self._intake.trade(id_, data, batch, received_us)
        if isinstance(data, DepthUpdate):
            return self._intake.depth(data, batch, received_us)
        batch.append(data)
        return batch

    def _is_due(self, id_: int, data: Data, received_us: int) -> bool:
        """Tell, around a change of connections, whether this one has to deliver data now; keep account of them."""
        if self._held is not None:
            self._held.append((id_, data, received_us))
            return False
        if isinstance(data, DepthUpdate):
            return True  # its book knows by its numbers
        feed = _feed(data)
        if id_ <= self._delivered.get(feed, -1):
            return False
        self._delivered.pop(feed, None)
        if self._marks is not None:
            self._marks[feed] = id_
        return True

    def _handle(self, event: Event) -> None:
        if isinstance(event, Reply):
            before = self._subscriptions.active
            accepted = self._subscriptions.answered(event)
            if accepted is None:
                self._host.ignored("reply")
                return
            self._intake.left(before - self._subscriptions.active)
            self._intake.accepted(accepted)
            if event.error is not None:
                self._refused_at = trio.current_time()
                self._host.log.warning("request refused", error=event.error)
            self._confirm()
            self._answered.set()
        elif isinstance(event, ServerShutdown):
            self._host.log.info("the venue will close this connection: opening another")
            self.retiring.set()
        elif isinstance(event, Ignored):
            self._host.ignored(event.kind)

    async def _subscribe(self) -> None:
        """Keep what is subscribed equal to what is wanted."""
        share = self._share
        while True:
            changed = share.next_change()
            self._plan(share.feeds)
            self._confirm()
            if not self._subscriptions.due:
                if not self.settled.is_set():
                    self.settled_at = trio.current_time()
                    self.settled.set()
                await changed.wait()
                continue
            await trio.sleep_until(self._next_request_at)
            self._plan(share.feeds)  # what changed during the pause goes into the same request
            request = self._subscriptions.next_request()
            if request is not None:
                await self._ask(request)

    async def _ask(self, request: bytes) -> None:
        self._next_request_at = trio.current_time() + _REQUEST_GAP_S
        self._answered = trio.Event()
        await self._websocket.send(request)
        with trio.move_on_after(_REPLY_S):
            await self._answered.wait()
            return
        raise Unavailable(f"{self._websocket.url}: no reply to a request within {_REPLY_S:g} s")

    def _plan(self, wanted: frozenset[Feed]) -> None:
        reasons: dict[str, list[Feed]] = {}
        for feed, reason in self._subscriptions.plan(wanted, self._symbols()).items():
            reasons.setdefault(reason, []).append(feed)
        for reason, feeds in reasons.items():
            self._host.refuse(feeds, reason)

    def _confirm(self) -> None:
        # What is let go of stays active until the venue has answered; it must not be confirmed anew meanwhile.
        active = self._subscriptions.active & self._share.feeds
        confirmed = self._ledger.confirm(active, self._symbols())
        if confirmed:
            self._host.confirm(confirmed)

    async def _grow_old(self) -> None:
        await trio.sleep(self._lifetime_s)
        self._host.log.info("the connection is near the venue's 24 h limit: opening another")
        self.retiring.set()


def _feed(data: Tick | Trade | OrderBook) -> Feed:
    if isinstance(data, OrderBook):
        return Feed(data.symbol, "orderbook", data.depth)
    return Feed(data.symbol, "tick" if isinstance(data, Tick) else "trade")

"""One connection to the venue: keeps its subscriptions as wanted and delivers what comes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter

import trio

from mdserver.errors import BadMessage, Unavailable, leaves
from mdserver.model import Feed, Record, Tick, Trade
from mdserver.net import WebSocket
from mdserver.plugin import BrokerHost

from .codec import Decoder, Event, Ignored, Reply, ServerShutdown, TradeStream
from .subscriptions import Ledger, Subscriptions

__all__ = ["Link"]

_REQUEST_GAP_S = 1 / 3
"""Pause between requests. The venue closes on the sixth message within a second, pings and pongs included;
three requests leave room for those, and for requests that a slow network pushes together."""

_REPLY_S = 10.0

_BLAME_S = 2.0
"""A connection that ends this soon after a refused request ended because of it: then the venue is as well as before."""

_LAG_S = 30.0
"""How far a new connection may lag behind the one that it replaced: for so long it is checked for repeats."""


class Link:
    """A connection's life: ``shadow`` first if it is to replace another, in charge, ``retiring``, ``ended``.

    A shadow holds back what it receives until :meth:`take_over`. ``retiring`` is set when a replacement is
    due: the venue announced its shutdown, the connection is nearly as old as the venue allows, or it ended
    because a request was refused. ``settled`` is set once everything wanted at some moment was subscribed.
    """

    def __init__(
        self,
        websocket: WebSocket,
        host: BrokerHost,
        ledger: Ledger,
        trades: TradeStream,
        symbols: Callable[[], frozenset[str] | None],
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
        self._host = host
        self._symbols = symbols
        self._subscriptions = Subscriptions(ledger, trades)
        self._decoder = Decoder(trades)
        self._lifetime_s = lifetime_s
        self._answered = trio.Event()
        self._next_request_at = trio.current_time()
        self._held: list[tuple[int, Record, int]] | None = [] if shadow else None
        self._marks: dict[Feed, int] | None = None
        self._delivered: dict[Feed, int] = {}
        self._lag_ends = 0.0
        self._refused_at = -math.inf
        self._dismissed = False

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
            batch = [record for id_, record, _ in read if self._is_due(id_, record, received_us)]
            if batch:
                self._host.publish(batch, received_us=received_us)

    async def _pump(self) -> None:
        host, decode, receive = self._host, self._decoder.decode, self._websocket.receive
        while True:
            frames = await receive()
            received_us = self._websocket.received_us
            batch: list[Record] = []
            if self._delivered and trio.current_time() > self._lag_ends:
                self._delivered = {}
            changing = self._held is not None or self._marks is not None or bool(self._delivered)
            for frame in frames:
                try:
                    event = decode(frame, received_us)
                except BadMessage as error:
                    host.discard(error)
                    continue
                if isinstance(event, Tick | Trade):
                    if not changing or self._is_due(self._decoder.venue_id, event, received_us):
                        batch.append(event)
                else:
                    self._handle(event)
            if self._dismissed:
                return
            if batch:
                host.publish(batch, received_us=received_us)
            else:
                host.alive()

    def _is_due(self, id_: int, record: Record, received_us: int) -> bool:
        """Tell, around a change of connections, whether this one has to deliver a record now; keep account of it."""
        if self._held is not None:
            self._held.append((id_, record, received_us))
            return False
        feed = _feed(record)
        if id_ <= self._delivered.get(feed, -1):
            return False
        self._delivered.pop(feed, None)
        if self._marks is not None:
            self._marks[feed] = id_
        return True

    def _handle(self, event: Event) -> None:
        if isinstance(event, Reply):
            confirmed = self._subscriptions.answered(event)
            if confirmed is None:
                self._host.ignored("reply")
                return
            if event.error is not None:
                self._refused_at = trio.current_time()
                self._host.log.warning("request refused", error=event.error)
            if confirmed:
                self._host.confirm(confirmed)
            self._answered.set()
        elif isinstance(event, ServerShutdown):
            self._host.log.info("the venue will shut this connection down; opening another")
            self.retiring.set()
        elif isinstance(event, Ignored):
            self._host.ignored(event.kind)

    async def _subscribe(self) -> None:
        """Keep what is subscribed equal to what is wanted."""
        demand = self._host.demand
        while True:
            wanted = demand.current()
            self._plan(wanted)
            if not self._subscriptions.due:
                if not self.settled.is_set():
                    self.settled_at = trio.current_time()
                    self.settled.set()
                await demand.wait_changed(wanted)
                continue
            await trio.sleep_until(self._next_request_at)
            self._plan(demand.current())  # what changed during the pause goes into the same request
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

    async def _grow_old(self) -> None:
        await trio.sleep(self._lifetime_s)
        self._host.log.info("connection near the venue's 24 h limit; opening another")
        self.retiring.set()


def _feed(record: Record) -> Feed:
    return Feed(record.symbol, "tick" if isinstance(record, Tick) else "trade")

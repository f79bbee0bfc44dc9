"""One price stream: delivers what comes, or holds it back until the stream before has ended."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from mdserver.errors import BadMessage, Unavailable
from mdserver.model import Tick
from mdserver.net import HttpStream
from mdserver.plugin import BrokerHost

from .codec import Heartbeat, Ignored, Price, decode_line
from .delivered import Delivered, Repeats

__all__ = ["PriceStream"]

_LAG_S = 30.0
"""How far a stream may lag behind the one before: for so long it is checked for repeats."""


class PriceStream:
    """A stream's life: it holds back the instruments ``shared`` with the one before, takes over, ends.

    ``names`` are the venue's names of its instruments, ``symbols`` ours by those. ``settled`` is set once each has
    had its first line: from then on nothing that happens to them can be missed. ``failure`` is why it ended, None
    if it was dismissed.
    """

    def __init__(
        self,
        stream: HttpStream,
        host: BrokerHost,
        symbols: Mapping[str, str],
        delivered: Delivered,
        *,
        shared: frozenset[str],
    ) -> None:
        self.names = frozenset(symbols)
        self.settled = trio.Event()
        self.ended = trio.Event()
        self.failure: Unavailable | None = None
        self._stream = stream
        self._host = host
        self._symbols = symbols
        self._delivered = delivered
        self._shared = shared & self.names
        self._held: list[Price] = []
        self._snapshot: dict[str, int] = {}
        self._awaited = set(symbols)
        self._scope = trio.CancelScope()
        self._dismissed = False
        self._repeats: Repeats | None = None
        self._repeats_end = 0.0
        self._expect_repeats(self.names - self._shared)

    async def run(self) -> None:
        """Serve until dismissed or until the stream fails, which is left in ``failure``."""
        try:
            with self._scope:
                await self._pump()
        except Unavailable as error:
            self.failure = error
        finally:
            self.ended.set()

    def dismiss(self) -> None:
        """Deliver nothing more and close the stream."""
        self._dismissed = True
        self._scope.cancel()

    def take_over(self) -> None:
        """Deliver what was held back and the stream before has not delivered, and from now on what comes."""
        # The stream before has had time to bring what was there when this one began; if it did not, it was dead.
        if not all(self._delivered.reaches(name, time_ns) for name, time_ns in self._snapshot.items()):
            self._host.gap("silence")
        held, self._held = self._held, []
        self._shared = frozenset()
        self._expect_repeats(self.names)
        ticks = [tick for price in held if (tick := self._due(price)) is not None]
        if ticks:
            self._host.publish(ticks)

    def _expect_repeats(self, names: frozenset[str]) -> None:
        self._repeats = self._delivered.repeats(names)
        self._repeats_end = trio.current_time() + _LAG_S

    async def _pump(self) -> None:
        host = self._host
        while True:
            lines = await self._stream.receive_lines()
            if self._dismissed:
                return  # read before it was told, and the next stream has it too
            batch: list[Tick] = []
            for line in lines:
                try:
                    event = decode_line(line)
                except BadMessage as error:
                    if batch:  # before the gap that the line makes
                        host.publish(batch)
                        batch = []
                    host.discard(error)
                    continue
                if isinstance(event, Price):
                    if (tick := self._take(event)) is not None:
                        batch.append(tick)
                elif isinstance(event, Ignored):
                    host.ignored(event.kind)
                elif isinstance(event, Heartbeat):
                    host.alive()
            if batch:
                host.publish(batch)

    def _take(self, price: Price) -> Tick | None:
        """Return the tick to publish now, or None: held back, already delivered, or no tick at all."""
        name = price.instrument
        first = name in self._awaited
        if first:
            self._awaited.remove(name)
            if not self._awaited:
                self.settled.set()
        if name not in self._symbols:
            self._host.ignored("price of an instrument not asked for")
        elif not price.tradeable:
            self._host.ignored("non-tradeable price")
        elif price.bid is None or price.ask is None:
            self._host.ignored("one-sided price")
        elif name in self._shared:
            self._held.append(price)
            if first:
                self._snapshot[name] = price.time_ns
        else:
            return self._due(price)
        return None

    def _due(self, price: Price) -> Tick | None:
        if self._repeats is not None:
            if trio.current_time() > self._repeats_end:
                self._repeats = None
            elif self._repeats.has(price):
                self._host.ignored("repeated price")
                return None
        if price.bid is None or price.ask is None:
            raise AssertionError("one-sided prices were sorted out")
        self._delivered.note(price, self._stream.received_us * 1000)
        symbol, time_us = self._symbols[price.instrument], price.time_ns // 1000
        return Tick(symbol, time_us, price.bid, price.ask, price.bid_size, price.ask_size)

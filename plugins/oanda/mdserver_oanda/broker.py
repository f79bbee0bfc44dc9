"""A session with OANDA: consecutive price streams, each opened before the previous one is ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from weakref import WeakKeyDictionary

import attrs
import trio

from mdserver.errors import MdserverError, Rejected, Unavailable, leaves
from mdserver.model import Candle, Feed, Instrument
from mdserver.net import HttpRefused, open_http, open_http_stream
from mdserver.plugin import BrokerHost

from .account import MAX_CANDLES, Account, auth_headers, plain_refusal
from .codec import Candle as OandaCandle
from .config import OandaConfig
from .delivered import Delivered
from .stream import PriceStream

__all__ = ["OandaBroker", "Timing"]

_REQUEST_S = 10.0
_MINUTE_US = 60_000_000

_delivered_to: WeakKeyDictionary[BrokerHost, Delivered] = WeakKeyDictionary()
"""What each host was given: outlives the sessions, so that a price with which a new one begins is not given twice."""


@attrs.frozen
class Timing:
    """Waits of a session, in seconds; tests shorten them.

    ``connect_gap_s``: least time between the starts of two connections; the venue allows two within a second.
    ``gather_s``: changes of demand within this time share one new stream. ``settle_s``: longest wait for the first line
    of each instrument of a new stream. ``overlap_s``: how long the old stream then still delivers, so that its lines in
    transit are not lost. ``retry_s``: pause before another attempt at a new stream. ``refresh_s``: time between two
    reads of the list of instruments.
    """

    connect_gap_s: float = 0.55
    gather_s: float = 0.1
    settle_s: float = 3.0
    overlap_s: float = 0.5
    retry_s: float = 2.0
    refresh_s: float = 3600.0


class OandaBroker:
    """Streams best bid/ask. See :class:`mdserver.plugin.Broker`."""

    def __init__(self, config: OandaConfig, timing: Timing | None = None) -> None:
        self._config = config
        self._timing = timing or Timing()

    async def run(
        self, host: BrokerHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run one session. Raises Unavailable or Rejected; see :mod:`mdserver.errors`."""
        try:
            headers = auth_headers(self._config)
            async with open_http(headers=headers, timeout_s=_REQUEST_S, max_connections=1) as http:
                session = _Session(self._config, self._timing, host, Account(http, self._config))
                await session.run(task_status)
        except BaseExceptionGroup as group:
            errors = list(leaves(group))
            if not all(isinstance(error, MdserverError) for error in errors):
                raise
            raise errors[0] from group

    async def backfill(self, feed: Feed, from_us: int, to_us: int) -> AsyncGenerator[list[Candle], None]:
        """Yield candles of one minute in place of the ticks between two times, which OANDA does not give.

        Only whole minutes within those times, and only final ones. Ends with Rejected: the ticks stay missing. Raises
        Unavailable for what may be had later.
        """
        if feed.type != "tick":
            raise Rejected(f"OANDA has no history of {feed.type} records")
        start, end = -(-from_us // _MINUTE_US), to_us // _MINUTE_US
        async with open_http(
            headers=auth_headers(self._config), timeout_s=_REQUEST_S, max_connections=1
        ) as http:
            account = Account(http, self._config)
            table = {instrument.symbol: instrument for instrument in await account.instruments()}
            if feed.symbol not in table:
                raise Rejected(f"the OANDA account has no {feed.symbol}")
            name = table[feed.symbol].venue_symbol
            for first in range(start, end, MAX_CANDLES):
                bounds = (_MINUTE_US * 1000 * at for at in (first, min(first + MAX_CANDLES, end)))
                found = await account.candles(name, "M1", *bounds, price="M")
                ours = [one for candle in found if (one := _minute(feed.symbol, candle)) is not None]
                yield ours  # noqa: ASYNC119 - whoever iterates closes it, as the hook asks for
        raise Rejected("OANDA gives candles in place of ticks of the past")


def _minute(symbol: str, candle: OandaCandle) -> Candle | None:
    """Return a candle as ours, of the mid; None where it is not final or has no mid prices."""
    mid = candle.mid
    if mid is None or not candle.complete:
        return None
    time_us = candle.time_ns // 1000
    return Candle(symbol, time_us, "1m", mid.o, mid.h, mid.l, mid.c, 0.0, candle.volume, closed=True)


class _Session:
    def __init__(self, config: OandaConfig, timing: Timing, host: BrokerHost, account: Account) -> None:
        self._config = config
        self._timing = timing
        self._host = host
        self._account = account
        self._delivered = _delivered_to.setdefault(host, Delivered())
        self._next_connection = -1.0
        self._table: dict[str, Instrument] = {}
        self._refused: dict[str, str] = {}
        self._unchangeable: frozenset[str] | None = None

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        await self._turn()
        await self._load_instruments()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_instruments_fresh)
            await self._follow_demand(nursery, task_status)

    # -- the list of instruments -----------------------------------------------------------------------------------

    async def _load_instruments(self) -> None:
        table = await self._account.instruments()
        self._table = {instrument.symbol: instrument for instrument in table}
        self._host.instruments(table)
        if not table:
            self._host.log.warning("the OANDA account has no instruments", account_id=self._config.account_id)

    async def _keep_instruments_fresh(self) -> None:
        while True:
            await trio.sleep(self._timing.refresh_s)
            try:
                await self._turn()
                await self._load_instruments()
            except (Unavailable, Rejected) as error:
                # Prices flow without it: not worth the stream.
                self._host.log.warning(
                    "the list of instruments is unavailable: the old one stays in use", error=str(error)
                )

    def _names(self, wanted: frozenset[Feed]) -> frozenset[str]:
        """Return the venue's names of what is wanted; refuse what cannot be had."""
        names: set[str] = set()
        for feed in wanted:
            instrument = self._table.get(feed.symbol)
            if feed.type != "tick":
                self._host.refuse([feed], "OANDA publishes prices, no trades and no order books")
            elif instrument is None:
                self._host.refuse([feed], "not among the instruments of the OANDA account")
            elif reason := self._refused.get(instrument.venue_symbol):
                self._host.refuse([feed], reason)
            else:
                names.add(instrument.venue_symbol)
        return frozenset(names)

    def _feeds(self, names: Iterable[str]) -> list[Feed]:
        by_name = {instrument.venue_symbol: instrument.symbol for instrument in self._table.values()}
        return [Feed(by_name[name], "tick") for name in sorted(names) if name in by_name]

    # -- streams ---------------------------------------------------------------------------------------------------

    async def _follow_demand(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Keep the stream's instruments equal to what is wanted. Raises when the stream ends."""
        current: PriceStream | None = None
        started = False
        while True:
            if current is not None and current.failure is not None:
                raise current.failure
            wanted = self._host.demand.current()
            names = self._names(wanted)
            served = current.names if current is not None else frozenset()
            if names in (served, self._unchangeable):
                self._host.confirm(self._feeds(names & served))
                if not started:
                    started = True
                    task_status.started()
                await self._wait_changed(wanted, current)
                continue
            self._unchangeable = None
            if current is not None:
                await _wait_any(self._timing.gather_s, current.ended)
                if self._host.demand.current() != wanted or current.ended.is_set():
                    continue
            if names:
                current = await self._change(nursery, names, current)
                if current is not None and not started:
                    started = True  # also where something else is wanted by now
                    task_status.started()
            elif current is not None:
                current.dismiss()
                current = None

    async def _wait_changed(self, wanted: frozenset[Feed], current: PriceStream | None) -> None:
        """Return when something else is wanted, or the stream has ended."""

        async def wait_demand() -> None:
            await self._host.demand.wait_changed(wanted)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_demand)
            if current is not None:
                await current.ended.wait()
                nursery.cancel_scope.cancel()

    async def _change(
        self, nursery: trio.Nursery, names: frozenset[str], old: PriceStream | None
    ) -> PriceStream | None:
        """Return a stream of ``names`` that took over from ``old``, or ``old`` where that is not to be had now."""
        try:
            new = await self._open(nursery, names, old)
        except Unavailable as error:
            if old is None:
                raise
            self._host.log.warning(
                "a new price stream cannot be opened yet: the old one stays in use", error=str(error)
            )
            await _wait_any(max(self._timing.retry_s, error.retry_after_s or 0.0), old.ended)
            return old
        except Rejected as error:
            if old is None:
                raise
            self._keep(names, old, error)
            return old
        if new is None:
            return old
        self._host.confirm(self._feeds(names))
        return new if old is None else await self._hand_over(old, new)

    async def _open(
        self, nursery: trio.Nursery, names: frozenset[str], old: PriceStream | None
    ) -> PriceStream | None:
        """Open a stream, or return None where some of ``names`` are to blame and left out from now on."""
        try:
            stream: PriceStream = await nursery.start(self._serve, names, old)
            return stream
        except HttpRefused as error:
            refused = error
        if refused.status == 400 and await self._blame(names, old):
            return None
        raise plain_refusal(refused) from refused

    async def _serve(
        self, names: frozenset[str], old: PriceStream | None, *, task_status: trio.TaskStatus[PriceStream]
    ) -> None:
        """Open a stream, hand it out and serve it to its end."""
        await self._turn()
        config = self._config
        async with open_http_stream(
            f"{config.url.rstrip('/')}/v3/accounts/{config.account_id}/pricing/stream",
            params={"instruments": ",".join(sorted(names)), "snapshot": "true"},
            headers=auth_headers(config),
            connect_timeout_s=_REQUEST_S,
            silence_s=config.silence_s,
        ) as http_stream:
            symbols = {i.venue_symbol: i.symbol for i in self._table.values() if i.venue_symbol in names}
            shared = old.names if old is not None else frozenset()
            stream = PriceStream(http_stream, self._host, symbols, self._delivered, shared=shared)
            task_status.started(stream)
            await stream.run()

    async def _hand_over(self, old: PriceStream, new: PriceStream) -> PriceStream:
        """Let both run side by side, then end ``old``; return the one that is in charge.

        ``new`` holds back what both carry and drops of it what ``old`` has delivered by then.
        """
        await _wait_any(self._timing.settle_s, new.settled, new.ended, old.ended)
        settled = new.settled.is_set()
        await _wait_any(self._timing.overlap_s, new.ended, old.ended)
        if new.ended.is_set() and not old.ended.is_set():
            self._host.log.warning(
                "a new price stream ended at once: the old one stays in use", error=str(new.failure)
            )
            if new.names - old.names:
                self._host.gap("disconnected")  # what only the new one had
            await _wait_any(self._timing.retry_s, old.ended)
            return old
        if old.ended.is_set() and not settled:
            self._host.gap("disconnected")  # nobody listened in between, for all we know
        old.dismiss()
        new.take_over()
        return new

    async def _blame(self, names: frozenset[str], old: PriceStream | None) -> bool:
        """Find out which of ``names`` the venue will not stream, since it refuses a list as a whole."""
        await self._turn()
        # The new ones first; then those that were streamed so far, which may have been taken off the list.
        served = old.names if old is not None else frozenset()
        for suspects in (names - served, names & served):
            for name in sorted(suspects):
                if reason := await self._account.refusal_of(name):
                    self._refused[name] = reason
            if not self._refused.keys().isdisjoint(suspects):
                return True
        return False

    def _keep(self, names: frozenset[str], old: PriceStream, refusal: Rejected) -> None:
        """Go on with ``old`` although the venue refuses another list."""
        self._host.log.warning(
            "OANDA refuses a new price stream: the old one stays in use", error=str(refusal)
        )
        if added := self._feeds(names - old.names):
            self._host.refuse(added, str(refusal))
        self._unchangeable = names & old.names

    async def _turn(self) -> None:
        """Wait until another connection may be opened."""
        start = max(trio.current_time(), self._next_connection)
        self._next_connection = start + self._timing.connect_gap_s
        await trio.sleep_until(start)


async def _wait_any(timeout_s: float, *events: trio.Event) -> None:
    """Return when any of the events is set, or after ``timeout_s``."""

    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    with trio.move_on_after(timeout_s):
        async with trio.open_nursery() as nursery:
            for event in events:
                nursery.start_soon(wait, event)

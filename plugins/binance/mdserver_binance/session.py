"""A session with Binance: as many connections as the wanted feeds need, and REST beside them."""

from __future__ import annotations

from collections.abc import Collection

import trio

from mdserver.model import Feed
from mdserver.plugin import BrokerHost

from .config import BinanceConfig
from .intake import Intake
from .lane import Lane, Timing
from .limits import ConnectLimit, WeightBudget
from .link import Common
from .rest import Rest
from .shares import MAX_CONNECTIONS, Share, spread
from .subscriptions import Ledger
from .symbols import SymbolTable

__all__ = ["Session"]


class Session:
    """One session; ``ledger``, ``budget`` and ``connects`` outlive it. ``rest`` None: there is no REST API."""

    def __init__(
        self,
        host: BrokerHost,
        config: BinanceConfig,
        timing: Timing,
        *,
        rest: Rest | None,
        ledger: Ledger,
        budget: WeightBudget,
        connects: ConnectLimit,
        max_streams: int,
    ) -> None:
        self._host = host
        self._config = config
        self._timing = timing
        self._connects = connects
        self._max_streams = max_streams
        self._intake = Intake(host, rest)
        self._table = None if rest is None else SymbolTable(rest, host, budget, self._touch)
        self._common = Common(host, ledger, self._intake, config.trades, self._symbols)
        self._lanes: list[Lane] = []

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Run until the last connection is lost, which is raised in a group; started once the first one is there."""
        live = trio.Event()
        async with trio.open_nursery() as nursery:
            if self._table is not None:
                # An address that is the operator's own choice has to be right.
                nursery.start_soon(lambda: self._keep_table(must=self._config.rest_url != "auto"))
            nursery.start_soon(self._intake.run)
            wanted = self._host.demand.current()
            self._follow(nursery, wanted, live)
            await live.wait()
            task_status.started()
            while True:
                wanted = await self._host.demand.wait_changed(wanted)
                self._follow(nursery, wanted, live)

    def renew_books(self, symbols: Collection[str]) -> None:
        """Begin full books again from a new snapshot."""
        self._intake.renew_books(symbols)

    async def _keep_table(self, *, must: bool) -> None:
        if self._table is not None:
            await self._table.run(must=must)

    def _symbols(self) -> frozenset[str] | None:
        return None if self._table is None else self._table.names

    def _touch(self) -> None:
        """Have every connection look at the list of symbols."""
        for lane in self._lanes:
            lane.share.touch()

    def _follow(self, nursery: trio.Nursery, wanted: frozenset[Feed], live: trio.Event) -> None:
        """Give each connection its share of what is wanted; open and close connections as that needs."""
        self._common.ledger.forget_unwanted(wanted)
        shares, too_many = spread(wanted, [lane.share.feeds for lane in self._lanes], self._max_streams)
        for feeds in shares[len(self._lanes) :]:
            lane = Lane(Share(), self._common, self._config, self._timing, self._connects)
            self._lanes.append(lane)
            lane.share.set(feeds)
            nursery.start_soon(lane.run, lambda lane=lane: self._others_live(lane), live.set)
        while len(self._lanes) > len(shares):
            lane = self._lanes.pop()
            self._intake.left(lane.share.feeds)
            lane.scope.cancel()
        for lane, feeds in zip(self._lanes, shares, strict=True):
            lane.share.set(feeds)
        if too_many:
            room = f"{MAX_CONNECTIONS * self._max_streams:,} streams on {MAX_CONNECTIONS} connections"
            self._host.refuse(too_many, f"more than {room} are wanted")

    def _others_live(self, lane: Lane) -> bool:
        return any(other.live for other in self._lanes if other is not lane)

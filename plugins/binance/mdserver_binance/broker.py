"""A session with Binance: one connection after the other, handed over without a gap where possible."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import trio

from mdserver.errors import MdserverError, Unavailable, leaves
from mdserver.net import WebSocketClosed, open_websocket
from mdserver.plugin import BrokerHost

from .config import BinanceConfig
from .link import Link
from .subscriptions import Ledger
from .symbols import BINANCE_RETRY_STATUSES, SymbolTable

__all__ = ["BinanceBroker", "Timing"]

_NORMAL_CLOSES = frozenset({1000, 1001})


@attrs.frozen
class Timing:
    """Waits of a session, in seconds; tests shorten them.

    ``lifetime_s``: age at which a connection is replaced, before the venue cuts it at 24 h. ``overlap_s``:
    how long the old connection stays in charge after its replacement is subscribed, so that what it still
    has in flight is not lost. ``retry_s``: pause before another attempt at a replacement.
    """

    lifetime_s: float = 23.5 * 3600
    overlap_s: float = 1.0
    retry_s: float = 2.0


class BinanceBroker:
    """Streams best bid/ask and trades. See :class:`mdserver.plugin.Broker`.

    The 24 h close, should it come before our own replacement, ends a session normally.
    """

    def __init__(self, config: BinanceConfig, timing: Timing | None = None) -> None:
        self._config = config
        self._timing = timing or Timing()
        self._ledger = Ledger()

    async def run(
        self, host: BrokerHost, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run one session. Raises Unavailable or Rejected; see :mod:`mdserver.errors`."""
        self._ledger.begin_session()
        try:
            await self._session(host, task_status)
        except BaseExceptionGroup as group:
            error = _only_ours(group)
            if error is None:
                raise
        else:
            return
        if isinstance(error, WebSocketClosed) and error.code in _NORMAL_CLOSES:
            host.log.info("session ended by the venue", error=str(error))
            return
        raise error

    async def _session(self, host: BrokerHost, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            table = SymbolTable(self._config.rest_url, host) if self._config.rest_url else None
            if table is not None:
                await table.load_if_possible()
                nursery.start_soon(table.keep_fresh)
            connect = functools.partial(self._connect, host, table)
            link: Link = await nursery.start(connect, False)
            task_status.started()
            while True:
                await link.retiring.wait()
                link = await self._replace(nursery, connect, link, host)

    async def _connect(
        self,
        host: BrokerHost,
        table: SymbolTable | None,
        shadow: bool,
        *,
        task_status: trio.TaskStatus[Link],
    ) -> None:
        """Open a connection, hand out its link and serve it to its end."""
        async with open_websocket(
            f"{self._config.url.rstrip('/')}/stream",
            silence_s=self._config.silence_s,
            retry_statuses=BINANCE_RETRY_STATUSES,
        ) as websocket:
            link = Link(
                websocket,
                host,
                self._ledger,
                self._config.trades,
                lambda: table.names if table is not None else None,
                lifetime_s=self._timing.lifetime_s,
                shadow=shadow,
            )
            task_status.started(link)
            await link.run()

    async def _replace(
        self, nursery: trio.Nursery, connect: functools.partial[Any], old: Link, host: BrokerHost
    ) -> Link:
        """Return a link that took over from ``old``: every record once, in order, as far as ``old`` lived.

        Both receive for a while; only ``old`` delivers, and what the new one holds back is cut where ``old``
        stopped. While ``old`` lives, failed attempts are repeated; afterwards they end the session.
        """
        old.note_ids()
        while True:
            try:
                new: Link = await nursery.start(connect, True)
            except Unavailable as error:
                if old.ended.is_set():
                    raise
                failure: Unavailable | None = error
            else:
                await _first_of(new.settled, new.ended, old.ended)
                with trio.move_on_after(self._timing.overlap_s):
                    await _first_of(new.ended, old.ended)
                if old.ended.is_set() or not new.ended.is_set():
                    if old.ended_at < new.settled_at:
                        host.gap("disconnected")  # nobody listened in between
                    new.take_over(old.dismiss())
                    if new.failure is not None:
                        raise new.failure
                    return new
                failure = new.failure
            host.log.warning("no replacement connection yet", error=str(failure))
            with trio.move_on_after(self._timing.retry_s):
                await old.ended.wait()


async def _first_of(*events: trio.Event) -> None:
    """Return when any of the events is set."""

    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(wait, event)


def _only_ours(group: BaseExceptionGroup[BaseException]) -> MdserverError | None:
    """Return the first error in ``group`` if all of them are ours, so that nothing else gets lost."""
    errors = list(leaves(group))
    ours = [error for error in errors if isinstance(error, MdserverError)]
    return ours[0] if len(ours) == len(errors) else None

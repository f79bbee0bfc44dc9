"""One lane of a session: a connection and those that take its place, without a gap where possible."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from mdserver.errors import MdserverError, Unavailable, leaves
from mdserver.net import Backoff, open_websocket

from .config import BinanceConfig
from .limits import ConnectLimit
from .link import Common, Link
from .refusals import BINANCE_RETRY_STATUSES, explained
from .shares import Share

__all__ = ["Lane", "Timing", "only_ours"]

_MOST_RETRY_S = 60.0
_STABLE_S = 60.0
"""A connection that lived for so long makes the failures before it forgotten."""


@attrs.frozen
class Timing:
    """Waits of a session, in seconds; tests shorten them.

    ``lifetime_s``: age at which a connection is replaced, before the venue cuts it at 24 h. ``overlap_s``:
    how long the old connection stays in charge after its replacement is subscribed, so that what it still
    has in flight is not lost. ``retry_s``: pause before another attempt at a replacement, and the first one
    before a connection is opened anew that was lost while others live. ``connects`` within ``connects_s``:
    attempts to connect; the venue allows 300 in five minutes.
    """

    lifetime_s: float = 23.5 * 3600
    overlap_s: float = 1.0
    retry_s: float = 2.0
    connects: int = 280
    connects_s: float = 300.0


class Lane:
    """A connection with its own share of the feeds. ``live``: it has one now; ``scope`` ends the lane."""

    def __init__(
        self, share: Share, common: Common, config: BinanceConfig, timing: Timing, connects: ConnectLimit
    ) -> None:
        self.share = share
        self.live = False
        self.scope = trio.CancelScope()
        self._was_live = False
        self._common = common
        self._host = common.host
        self._config = config
        self._timing = timing
        self._connects = connects

    async def run(self, others_live: Callable[[], bool], on_live: Callable[[], None]) -> None:
        """Serve for as long as it takes; ``on_live`` is called at each connection from nothing.

        A connection that is lost is opened anew here while others live; if none does, what ended it is raised, and
        ends the session. Raises Rejected for what no retry changes.
        """
        backoff = Backoff(self._timing.retry_s, _MOST_RETRY_S)
        with self.scope:
            while True:
                began = trio.current_time()
                try:
                    await self._serve(on_live)
                except BaseExceptionGroup as group:
                    error = only_ours(group)
                    if error is None:
                        raise
                    if not isinstance(error, Unavailable) or not others_live():
                        raise error from group
                    pause_s = error.retry_after_s
                    self._host.log.warning(
                        "one of several connections was lost: opening another", error=str(error)
                    )
                if trio.current_time() - began > _STABLE_S:
                    backoff.reset()
                if self._was_live:
                    self._common.intake.lost(self.share.feeds)
                    self._was_live = False
                await trio.sleep(backoff.next_s(pause_s))

    async def _serve(self, on_live: Callable[[], None]) -> None:
        """Serve over one connection after the other, each replaced in time; raises a group when one is lost."""
        try:
            async with trio.open_nursery() as nursery:
                link: Link = await nursery.start(self._connect, False)
                self.live = self._was_live = True
                on_live()
                while True:
                    await link.retiring.wait()
                    link = await self._replace(nursery, link)
        finally:
            self.live = False

    async def _connect(self, shadow: bool, *, task_status: trio.TaskStatus[Link]) -> None:
        """Open a connection, hand out its link and serve it to its end."""
        while (wait_s := self._connects.wait_s(trio.current_time())) > 0:
            self._host.log.warning(
                "waiting before the next connection: the venue's limit of attempts is reached",
                wait_s=round(wait_s),
            )
            await trio.sleep(wait_s)
        self._connects.note(trio.current_time())
        handed_out = False
        try:
            async with open_websocket(
                f"{self._config.url.rstrip('/')}/stream?timeUnit=MICROSECOND",
                silence_s=self._config.silence_s,
                retry_statuses=BINANCE_RETRY_STATUSES,
            ) as websocket:
                link = Link(
                    websocket, self.share, self._common, lifetime_s=self._timing.lifetime_s, shadow=shadow
                )
                handed_out = True
                task_status.started(link)
                await link.run()
        except MdserverError as error:
            if handed_out:
                raise
            raise explained(error) from error

    async def _replace(self, nursery: trio.Nursery, old: Link) -> Link:
        """Return a link that took over from ``old``: every record once, in order, as far as ``old`` lived.

        Both receive for a while; only ``old`` delivers, and what the new one holds back is cut where ``old``
        stopped. While ``old`` lives, failed attempts are repeated; afterwards they end the session.
        """
        old.note_ids()
        while True:
            pause_s = self._timing.retry_s
            try:
                new: Link = await nursery.start(self._connect, True)
            except Unavailable as error:
                if old.ended.is_set():
                    raise
                failure: Unavailable | None = error
                pause_s = max(pause_s, error.retry_after_s or 0.0)
            else:
                await _first_of(new.settled, new.ended, old.ended)
                with trio.move_on_after(self._timing.overlap_s):
                    await _first_of(new.ended, old.ended)
                if old.ended.is_set() or not new.ended.is_set():
                    if old.ended_at < new.settled_at:
                        # Nobody listened in between.
                        self._common.intake.lost(self.share.feeds, subscribed=new.active)
                    new.take_over(old.dismiss())
                    if new.failure is not None:
                        raise new.failure
                    return new
                failure = new.failure
            self._host.log.warning("the replacement connection cannot be opened yet", error=str(failure))
            with trio.move_on_after(pause_s):
                await old.ended.wait()


async def _first_of(*events: trio.Event) -> None:
    """Return when any of the events is set."""

    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(wait, event)


def only_ours(group: BaseExceptionGroup[BaseException]) -> MdserverError | None:
    """Return the first error in ``group`` if all of them are ours, so that nothing else gets lost."""
    errors = list(leaves(group))
    ours = [error for error in errors if isinstance(error, MdserverError)]
    return ours[0] if len(ours) == len(errors) else None

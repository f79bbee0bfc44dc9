"""What is wanted from one broker, counted by holders, and what the venue said to it.

Feeds from the config are held for ever; each client holds what it subscribed. A feed stays wanted until its
last holder lets go, so that one client leaving never cuts another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import trio

from .model import Feed, Instrument

__all__ = ["BrokerDemand", "FeedStatus", "Watcher"]

FeedStatus: TypeAlias = Literal["pending", "active", "refused"]

Watcher: TypeAlias = Callable[[Feed, FeedStatus, str], None]
"""Called with a feed, what it became, and the reason of a refusal."""


class BrokerDemand:
    """The wanted feeds of one broker."""

    def __init__(self, pinned: Iterable[Feed] = ()) -> None:
        self._holders: Counter[Feed] = Counter(pinned)
        self._status: dict[Feed, FeedStatus] = dict.fromkeys(self._holders, "pending")
        self._reasons: dict[Feed, str] = {}
        self._symbols: frozenset[str] | None = None
        self._wanted: frozenset[Feed] | None = None
        self._changed = trio.Event()
        self._watchers: dict[Watcher, None] = {}

    # -- the broker's side ---------------------------------------------------------------------------

    def current(self) -> frozenset[Feed]:
        """Return the feeds wanted now: all held ones but those that the venue refused."""
        if self._wanted is None:
            self._wanted = frozenset(f for f in self._holders if self._status[f] != "refused")
        return self._wanted

    async def wait_changed(self, known: frozenset[Feed]) -> frozenset[Feed]:
        """Return the wanted set as soon as it differs from ``known``."""
        while (wanted := self.current()) == known:
            await self._changed.wait()
        return wanted

    def confirm(self, feeds: Iterable[Feed]) -> None:
        """Note that the venue accepted these feeds."""
        for feed in feeds:
            if self._status.get(feed, "active") != "active":
                self._set(feed, "active")

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        """Note that the venue will not serve these feeds: they are no longer wanted."""
        for feed in feeds:
            if feed in self._holders:
                self._reasons[feed] = reason
                self._set(feed, "refused", reason)

    def set_instruments(self, table: Iterable[Instrument]) -> None:
        """Take the venue's complete list; held feeds of unknown symbols are refused."""
        self._symbols = frozenset(i.symbol for i in table)
        unknown = [f for f in self._holders if f.symbol not in self._symbols]
        for feed in unknown:
            self.refuse([feed], f"the venue has no symbol {feed.symbol}")

    def begin_session(self) -> None:
        """Forget what the venue said in the last session; what it refused is asked for once more."""
        self._reasons.clear()
        for feed in self._holders:
            self._status[feed] = "pending"
        self._touch()

    # -- the clients' side ---------------------------------------------------------------------------

    def hold(self, feed: Feed) -> FeedStatus:
        """Want a feed (once more); return what the venue has said to it so far."""
        self._holders[feed] += 1
        if self._holders[feed] == 1 or self._status[feed] == "refused":
            self._status[feed] = "pending"
            self._touch()
        return self._status[feed]

    def release(self, feed: Feed) -> None:
        """Let go of a feed held before."""
        self._holders[feed] -= 1
        if not self._holders[feed]:
            del self._holders[feed], self._status[feed]
            self._reasons.pop(feed, None)
            self._touch()

    def has(self, symbol: str) -> bool | None:
        """Tell whether the venue has a symbol; None where it gave no list."""
        return None if self._symbols is None else symbol in self._symbols

    def refused(self) -> dict[Feed, str]:
        """Return the held feeds that the venue refused, with its reasons."""
        return dict(self._reasons)

    def count(self) -> int:
        """Return how many feeds the venue confirmed."""
        return sum(status == "active" for status in self._status.values())

    def watch(self, watcher: Watcher) -> None:
        """Call ``watcher`` at each change of a feed's status until :meth:`unwatch`."""
        self._watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """End :meth:`watch`."""
        self._watchers.pop(watcher, None)

    def _set(self, feed: Feed, status: FeedStatus, reason: str = "") -> None:
        self._status[feed] = status
        self._touch()
        for watcher in tuple(self._watchers):
            watcher(feed, status, reason)

    def _touch(self) -> None:
        self._wanted = None
        self._changed.set()
        self._changed = trio.Event()

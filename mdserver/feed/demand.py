"""The feeds that are wanted from one broker, with a count of their holders, and the venue's answers.

The config holds the feeds that it names, and each client holds the feeds that it has subscribed to. A feed is wanted
until its last holder releases it, so a client that leaves never ends another client's feed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import trio

from ..model import Feed, Instrument

__all__ = ["BrokerDemand", "FeedChange", "FeedStatus", "Watcher"]

FeedStatus: TypeAlias = Literal["pending", "active", "refused"]


class FeedChange(NamedTuple):
    """The new status of a feed, with the reason of a refusal; ``unwanted``: its last holder has released it."""

    feed: Feed
    status: Literal["active", "refused", "unwanted"]
    reason: str = ""


Watcher: TypeAlias = Callable[[Sequence[FeedChange]], None]
"""Called with all simultaneous changes."""


class BrokerDemand:
    """The wanted feeds of one broker. ``only``: the config lets it serve these symbols and no other; None: any."""

    def __init__(self, pinned: Iterable[Feed] = (), only: Collection[str] | None = None) -> None:
        self._pinned = frozenset(pinned)
        self._only = only
        self._holders: Counter[Feed] = Counter(self._pinned)
        self._status: dict[Feed, FeedStatus] = dict.fromkeys(self._holders, "pending")
        self._reasons: dict[Feed, str] = {}
        self._symbols: frozenset[str] | None = None
        self.instruments: Mapping[str, Instrument] = {}
        """The venue's list by symbol; empty until a plugin has given one."""
        self._wanted: frozenset[Feed] | None = None
        self._changed = trio.Event()
        self._watchers: dict[Watcher, None] = {}

    # -- the broker's side ---------------------------------------------------------------------------

    def current(self) -> frozenset[Feed]:
        """Return the feeds that are wanted now: all held ones except those that the venue refused."""
        if self._wanted is None:
            self._wanted = frozenset(f for f in self._holders if self._status[f] != "refused")
        return self._wanted

    async def wait_changed(self, known: frozenset[Feed]) -> frozenset[Feed]:
        """Return the wanted set as soon as it differs from ``known``."""
        while (wanted := self.current()) == known:
            await self._changed.wait()
        return wanted

    def confirm(self, feeds: Iterable[Feed]) -> None:
        """Record that the venue has accepted these feeds."""
        self._settle([FeedChange(f, "active") for f in feeds if self._status.get(f, "active") != "active"])

    def refuse(self, feeds: Iterable[Feed], reason: str) -> None:
        """Record that the venue will not serve these feeds; they are no longer wanted."""
        self._settle([FeedChange(f, "refused", reason) for f in feeds if f in self._holders])

    def set_instruments(self, table: Iterable[Instrument]) -> dict[Feed, str]:
        """Set the venue's complete list; return the held feeds whose symbols are not in it, with the reason.

        A refused feed whose symbol is newly listed is wanted again.
        """
        self.instruments = {one.symbol: one for one in table}
        before, self._symbols = self._symbols, frozenset(self.instruments)
        gone = {
            f: f"the venue has no symbol {f.symbol}"
            for f, status in self._status.items()
            if status != "refused" and f.symbol not in self._symbols
        }
        if before is not None:
            listed = self._symbols - before
            for feed in [f for f in self._reasons if f.symbol in listed]:
                self._status[feed] = "pending"
                del self._reasons[feed]
            self._touch()
        self._settle([FeedChange(feed, "refused", reason) for feed, reason in gone.items()])
        return gone

    def begin_session(self) -> None:
        """Want all held feeds again, also those that the venue refused in the last session."""
        self._reasons.clear()
        self._status = dict.fromkeys(self._holders, "pending")
        self._touch()

    def end_session(self) -> None:
        """Record that no feed is served any more; active feeds wait for the next session's answer."""
        for feed, status in self._status.items():
            if status == "active":
                self._status[feed] = "pending"

    # -- the config's side ---------------------------------------------------------------------------

    def pin(self, feeds: Iterable[Feed], only: Collection[str] | None = None) -> None:
        """Hold these feeds for the config, and release those that it named before. ``only``: see the class."""
        self._only = only
        before, self._pinned = self._pinned, frozenset(feeds)
        for feed in self._pinned - before:
            self.hold(feed)
        for feed in before - self._pinned:
            self.release(feed)

    def pinned(self) -> frozenset[Feed]:
        """Return the feeds that the config names."""
        return self._pinned

    def is_pinned(self, feed: Feed) -> bool:
        """Return whether the config names a feed."""
        return feed in self._pinned

    def pinned_refused(self) -> dict[Feed, str]:
        """Return the feeds of the config that the venue refused, with its reasons."""
        return {feed: why for feed, why in self._reasons.items() if feed in self._pinned}

    # -- the clients' side ---------------------------------------------------------------------------

    def hold(self, feed: Feed) -> FeedStatus:
        """Add a holder of a feed; return the venue's answer so far."""
        self._holders[feed] += 1
        if self._holders[feed] == 1 or self._status[feed] == "refused":
            self._status[feed] = "pending"
            self._reasons.pop(feed, None)
            self._touch()
        return self._status[feed]

    def release(self, feed: Feed) -> None:
        """Remove a holder of a feed."""
        self._holders[feed] -= 1
        if not self._holders[feed]:
            del self._holders[feed], self._status[feed]
            self._reasons.pop(feed, None)
            self._touch()
            self._notify([FeedChange(feed, "unwanted")])

    def status(self, feed: Feed) -> FeedStatus | None:
        """Return the venue's answer to a feed so far, or None if it has no holder."""
        return self._status.get(feed)

    def serves(self, symbol: str) -> bool:
        """Return whether the config lets the broker serve a symbol."""
        return self._only is None or symbol in self._only

    def has(self, symbol: str) -> bool | None:
        """Return whether the broker has a symbol, or None if the venue gave no list."""
        if not self.serves(symbol):
            return False
        return None if self._symbols is None else symbol in self._symbols

    def refused(self) -> dict[Feed, str]:
        """Return the held feeds that the venue refused, with its reasons."""
        return dict(self._reasons)

    def count(self) -> int:
        """Return the number of feeds that the venue has confirmed."""
        return sum(status == "active" for status in self._status.values())

    def watch(self, watcher: Watcher) -> None:
        """Call ``watcher`` at each change of feeds' status; it may hold and release feeds."""
        self._watchers[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """Stop calling ``watcher``."""
        self._watchers.pop(watcher, None)

    def _settle(self, changes: Sequence[FeedChange]) -> None:
        for feed, status, reason in changes:
            if status == "refused":
                self._status[feed] = "refused"
                self._reasons[feed] = reason
            else:
                self._status[feed] = "active"
                self._reasons.pop(feed, None)
        if changes:
            self._touch()
            self._notify(changes)

    def _notify(self, changes: Sequence[FeedChange]) -> None:
        for watcher in tuple(self._watchers):
            watcher(changes)

    def _touch(self) -> None:
        self._wanted = None
        self._changed.set()
        self._changed = trio.Event()

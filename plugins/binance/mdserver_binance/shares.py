"""Which connection carries which feed, where one has not enough room. No I/O."""

from __future__ import annotations

import trio

from mdserver.model import Feed

__all__ = ["MAX_CONNECTIONS", "Share", "spread"]

MAX_CONNECTIONS = 50
"""Connections of one session; 50 carry 51,200 streams, three times what the venue has symbols for."""


class Share:
    """The feeds of one connection, as :class:`mdserver.plugin.Demand`; ``touch`` has them looked at again."""

    def __init__(self) -> None:
        self.feeds: frozenset[Feed] = frozenset()
        self._changed = trio.Event()

    def set(self, feeds: frozenset[Feed]) -> None:
        """Make these the wanted ones."""
        if feeds != self.feeds:
            self.feeds = feeds
            self.touch()

    def touch(self) -> None:
        """Wake whoever waits for a change, though the feeds are the same."""
        self._changed.set()
        self._changed = trio.Event()

    def next_change(self) -> trio.Event:
        """Return what is set at the next change or touch."""
        return self._changed


def spread(
    wanted: frozenset[Feed], carried: list[frozenset[Feed]], room: int
) -> tuple[list[frozenset[Feed]], frozenset[Feed]]:
    """Return the feeds of each connection, and those for which there is none.

    ``carried`` are those of each connection so far. A feed stays where it is; a new one goes to the first connection
    with room, or to a new one. Empty ones at the end are left out; there is always one.
    """
    shares = [feeds & wanted for feeds in carried] or [frozenset()]
    missing = sorted(wanted.difference(*shares))
    for number in range(MAX_CONNECTIONS):
        if number == len(shares):
            if not missing:
                break
            shares.append(frozenset())
        free = room - len(shares[number])
        if free > 0:
            shares[number] |= frozenset(missing[:free])
            del missing[:free]
    while len(shares) > 1 and not shares[-1]:
        shares.pop()
    return shares, frozenset(missing)

"""Decides when the silence of a venue is a fault.

A venue that sends heartbeats is never silent while its socket works, whatever the markets do. A venue without
heartbeats is silent while its markets are closed, or while its quiet instruments are not traded. For such a venue
silence counts only while the market of a wanted symbol is open. If a new session is as silent as the last one, the
permitted silence (patience) doubles: either the market is quiet, or the venue is unavailable and reconnecting less
often does no harm. Patience then adapts to the observed pauses between messages.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time

import trio

from ..errors import Silent
from ..market_hours import HOUR_US, is_open, market_of
from ..model import US_PER_S
from .broker_host import Host

__all__ = ["Silence"]

MOST_PATIENCE_S = 3600.0
LOOKS = 10
"""How often the watch checks within the time of its patience."""
SHRINKS = 0.9
"""The factor by which patience shrinks with each check that finds a message: from an hour to 90 s in five minutes."""
OF_A_PAUSE = 1.5
"""The least patience, as a multiple of the last pause that ended by itself."""


class Silence:
    """Watches one broker over all sessions. ``silence_s`` is the longest silence of a working venue."""

    def __init__(self, silence_s: float, host: Host, now_s: Callable[[], float] = time) -> None:
        self._silence_s = silence_s
        self._host = host
        self._now_s = now_s
        self._patience_s = silence_s
        self._silent_since: float | None = None

    async def watch(self) -> None:
        """Watch a session until cancelled. Raises Silent after too long a silence."""
        host = self._host
        began = trio.current_time()
        # A pause that a new session did not end goes on: only then is its full length known at its end.
        pause_began, self._silent_since = self._silent_since or began, None
        seen, since = host.last_event_s, began
        heard = False
        while True:
            await trio.sleep(self._silence_s / LOOKS)
            now = trio.current_time()
            if host.last_event_s != seen:
                pause_s = min(MOST_PATIENCE_S, OF_A_PAUSE * (now - pause_began))
                self._patience_s = max(self._silence_s, pause_s, SHRINKS * self._patience_s)
                seen, since, pause_began, heard = host.last_event_s, now, now, True
            elif not self._counts():
                since = pause_began = now
            elif now - since > (self._silence_s if host.has_heartbeats else self._patience_s):
                if not heard:
                    self._patience_s = min(MOST_PATIENCE_S, 2 * self._patience_s)
                self._silent_since = pause_began
                raise Silent(f"nothing from the venue for {now - since:.0f} s")

    def _counts(self) -> bool:
        """Return whether a working venue would send something now."""
        wanted = self._host.demand.current()
        if self._host.has_heartbeats:
            return bool(wanted)
        hour_us = int(self._now_s()) * US_PER_S // HOUR_US * HOUR_US
        return any(is_open(market_of(feed.symbol, feed.type), hour_us) for feed in wanted)

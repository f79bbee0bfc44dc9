"""What the venue allows an address: weight of REST requests a minute, connections in five minutes. No I/O."""

from __future__ import annotations

from collections import deque

__all__ = ["ConnectLimit", "WeightBudget"]

_MINUTE_S = 60.0
_DEFAULT_WEIGHT = 6000


class WeightBudget:
    """The weight that REST requests of this address may have in a minute.

    Other programs at the same address use it too: what the venue says it counts goes before our own sum. Times are
    seconds of one monotonic clock.
    """

    def __init__(self) -> None:
        self.limit = _DEFAULT_WEIGHT
        self.used = 0
        self._since = 0.0
        self._blocked_until = 0.0

    def wait_s(self, now: float, weight: int, share: float) -> float:
        """Return how long to wait before a request; it may use up to ``share`` (0 to 1) of the limit."""
        if now < self._blocked_until:
            return self._blocked_until - now
        if now - self._since < _MINUTE_S and self.used + weight > self.limit * share:
            return self._since + _MINUTE_S - now
        return 0.0

    def spend(self, now: float, weight: int) -> None:
        """Count a request that is sent now."""
        if now - self._since >= _MINUTE_S:
            self._since, self.used = now, 0
        self.used += weight

    def note_used(self, now: float, used: int) -> None:
        """Take the venue's count, of which it begins anew each minute of its own clock."""
        if used < self.used:
            self._since = now
        self.used = used

    def block(self, now: float, pause_s: float) -> None:
        """Send nothing for this time, because the venue reported too many requests."""
        self._blocked_until = max(self._blocked_until, now + pause_s)


class ConnectLimit:
    """At most ``most`` connection attempts within any ``window_s``."""

    def __init__(self, most: int, window_s: float) -> None:
        self._most = most
        self._window_s = window_s
        self._times: deque[float] = deque()

    def wait_s(self, now: float) -> float:
        """Return how long to wait before the next attempt."""
        while self._times and self._times[0] <= now - self._window_s:
            self._times.popleft()
        if len(self._times) < self._most:
            return 0.0
        return self._times[0] + self._window_s - now

    def note(self, now: float) -> None:
        """Count an attempt that is made now."""
        self._times.append(now)

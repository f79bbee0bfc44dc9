"""Which prices were handed over already. No I/O.

There is no number in OANDA's lines that would tell one price from the next, but an instrument's times rise. A new
stream begins with the last price of each instrument, and two streams of one account deliver mostly the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from .codec import NS_PER_S, Price

__all__ = ["Delivered", "Repeats"]

_MAX_AHEAD_NS = 60 * NS_PER_S
"""A price dated further in the future has a wrong time, by which none of the next could be judged."""

_MAX_AT_ONCE = 64


class Delivered:
    """The newest price of each instrument that was handed over, or all of its time if there were several."""

    def __init__(self) -> None:
        self._newest: dict[str, list[Price]] = {}

    def note(self, price: Price, now_ns: int) -> None:
        """Keep ``price`` as the newest; ``now_ns`` is our clock."""
        newest = self._newest.get(price.instrument)
        if newest is not None and newest[0].time_ns == price.time_ns:
            if len(newest) < _MAX_AT_ONCE:
                newest.append(price)
        elif price.time_ns <= now_ns + _MAX_AHEAD_NS:
            self._newest[price.instrument] = [price]

    def reaches(self, name: str, time_ns: int) -> bool:
        """Tell whether a price of ``time_ns`` or later was handed over."""
        newest = self._newest.get(name)
        return newest is not None and newest[0].time_ns >= time_ns

    def repeats(self, names: Iterable[str]) -> Repeats:
        """Return what recognises the repeats in a stream that takes over now."""
        return Repeats({name: list(self._newest[name]) for name in names if name in self._newest})


class Repeats:
    """What a stream may bring although the one before delivered it, until it has brought something newer."""

    def __init__(self, marks: dict[str, list[Price]]) -> None:
        self._marks = marks

    def has(self, price: Price) -> bool:
        """Tell whether ``price`` was delivered, or is older than what was: then it would come out of order."""
        mark = self._marks.get(price.instrument)
        if mark is None:
            return False
        if price.time_ns > mark[0].time_ns:
            del self._marks[price.instrument]
            return False
        if price.time_ns < mark[0].time_ns:
            return True
        if price not in mark:
            return False  # another price of the same nanosecond
        if len(mark) > 1:
            mark.remove(price)
        return True

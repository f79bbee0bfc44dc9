"""Subscriptions with ``rate_ms``: at most one record in so many milliseconds, and the latest wins.

What is held back is held once for all clients on the same terms, and one timer serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TypeVarTuple, Unpack

import trio

from ..model import Published

__all__ = ["Pace", "Pacer"]

Ts = TypeVarTuple("Ts")


class Pace:
    """One topic at one rate. ``held`` waits until ``due_s``; ``skipped`` records before it were left out.

    ``known``: the last number that a client has which came in the meantime, by client.
    """

    __slots__ = ("due_s", "held", "known", "skipped")

    def __init__(self) -> None:
        self.due_s = 0.0
        self.held: Published | None = None
        self.skipped = 0
        self.known: dict[object, int] = {}

    def hold(self, published: Published) -> bool:
        """Keep a record in the place of the one that waits; tell whether it is the first to wait."""
        first = self.held is None
        self.skipped += not first
        self.held = published
        return first

    def release(self) -> tuple[Published, int, dict[object, int]]:
        """Return what waits, how many records it stands for besides, and who knows what; then nothing waits."""
        assert self.held is not None  # noqa: S101 - asked for before
        out = self.held, self.skipped, self.known
        self.held, self.skipped, self.known = None, 0, {}
        return out

    def missed_by(self, client: object, published: Published) -> int | None:
        """Return how many records the one that waits stands for, for a client; None: it has that one already."""
        known = self.known.get(client)
        return self.skipped if known is None or not published.seq else missing(known, published.seq)


def missing(known: int, seq: int) -> int | None:
    """Return how many numbers lie between; None where ``seq`` is known."""
    return None if seq <= known else seq - known - 1


class Pacer:
    """Calls back at given times; :meth:`run` must be running."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._earlier = trio.Event()

    def call_at(self, due_s: float, call: Callable[[Unpack[Ts]], None], *args: *Ts) -> None:
        """Call at a time of trio's clock."""
        self._number += 1
        heappush(self._calls, (due_s, self._number, lambda: call(*args)))
        if self._calls[0][1] == self._number:
            self._earlier.set()

    async def run(self) -> None:
        """Call when it is time; runs until cancelled."""
        while True:
            due_s = self._calls[0][0] if self._calls else float("inf")
            if due_s > trio.current_time():
                self._earlier = trio.Event()
                with trio.move_on_at(due_s):
                    await self._earlier.wait()
            else:
                await trio.lowlevel.checkpoint()
            self._call_due(trio.current_time())

    def _call_due(self, now_s: float) -> None:
        while self._calls and self._calls[0][0] <= now_s:
            heappop(self._calls)[2]()

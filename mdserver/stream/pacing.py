"""Subscriptions with ``rate_ms``: at most one record in this many milliseconds, always the latest.

A record is held back once for all clients with the same terms, and one timer serves them all.
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
    """One topic at one rate. ``held`` waits until ``due_s``; the ``skipped`` records before it were left out.

    ``known``: by client, the last number that it already has; for clients that subscribed in the meantime.
    """

    __slots__ = ("due_s", "held", "known", "skipped")

    def __init__(self) -> None:
        self.due_s = 0.0
        self.held: Published | None = None
        self.skipped = 0
        self.known: dict[object, int] = {}

    def hold(self, published: Published) -> bool:
        """Keep a record in place of the waiting one; return whether none was waiting."""
        first = self.held is None
        self.skipped += not first
        self.held = published
        return first

    def release(self) -> tuple[Published, int, dict[object, int]]:
        """Remove and return the waiting record, the number of records that it replaces, and ``known``."""
        assert self.held is not None  # noqa: S101 - asked for before
        out = self.held, self.skipped, self.known
        self.held, self.skipped, self.known = None, 0, {}
        return out

    def missed_by(self, client: object, published: Published) -> int | None:
        """Return how many records the waiting one replaces for a client; None: the client has it already."""
        known = self.known.get(client)
        return self.skipped if known is None or not published.seq else missing(known, published.seq)


def missing(known: int, seq: int) -> int | None:
    """Return how many numbers are between ``known`` and ``seq``, or None if ``seq`` is not above ``known``."""
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
        """Make each call at its time. Runs until cancelled."""
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

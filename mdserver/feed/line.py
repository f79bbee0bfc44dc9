"""Where one topic of a broker stands: its number, its check, and why records may be missing behind the last one."""

from __future__ import annotations

from math import inf

from ..kinds import Kind
from ..model import REJECTED, Gap, LastRecord, Topic

__all__ = ["Line"]


class Line:
    """One topic of this broker: its number, its check, and its last record's time.

    ``broken_off`` is why records may be missing after that one, or None; ``lost`` is their number if it is known.
    ``served``: the venue is known to serve the topic.
    ``interrupted`` is why it was not served for a while, or None. A late record of the old subscription does not end
    the gap, which lasts until the venue serves the topic again.
    ``announced``: the gap after the last record, if there is one, has been published.
    ``whole_due``: records were lost that later ones build on, so only one that stands for itself can follow;
    ``asked_s`` is when the broker was last asked for it.
    """

    __slots__ = (
        "announced",
        "asked_s",
        "broken_off",
        "earliest_us",
        "fault",
        "interrupted",
        "last_us",
        "lost",
        "needs_before",
        "seq",
        "served",
        "topic",
        "whole_due",
    )

    def __init__(self, topic: Topic, kind: Kind, last: LastRecord | None) -> None:
        self.topic = topic
        self.fault = kind.check().fault
        self.earliest_us = kind.earliest_us
        self.seq, self.last_us, hole = last or (0, 0, None)
        self.served = False
        self.interrupted: str | None = None
        self.broken_off: str | None = None if hole is None else hole.cause
        self.lost: int | None = None if hole is None else hole.size
        self.announced = hole is not None
        self.needs_before = kind.needs_before
        self.whole_due = kind.needs_before is not None
        self.asked_s = -inf

    def break_off(self, cause: str, lost: int | None = None) -> None:
        """Record that records may be missing after the last one, if there was one."""
        self.served = False
        self._lack()
        if not self.last_us:
            return
        if self.broken_off is None:
            self.broken_off, self.lost = self.interrupted or cause, None if self.interrupted else lost
        else:  # two gaps in one: the total number of missing records is unknown
            self.lost = None

    def miss_rejected(self) -> None:
        """Record that a record after the last one was rejected."""
        self._lack()
        if not self.last_us:
            return
        if self.broken_off is None:
            self.broken_off, self.lost = REJECTED, 1
        elif self.broken_off == REJECTED and self.lost is not None:
            self.lost += 1
        else:
            self.lost = None

    def _lack(self) -> None:
        """Record that later records may build on lost ones."""
        if self.needs_before is not None and not self.whole_due:
            self.whole_due, self.asked_s = True, -inf

    def interrupt(self, cause: str) -> None:
        """Record that the topic is no longer subscribed at the venue."""
        self.served = False
        self._lack()
        self.interrupted = self.interrupted or cause

    def hole(self, to_us: int | None) -> Gap | None:
        """Return the gap after the last record until ``to_us`` (None: it still lasts), or None if there is no gap."""
        cause = self.broken_off or (self.interrupted if self.last_us else None)
        return None if cause is None else Gap(self.topic, self.last_us, to_us, cause, self.lost)

    def resume(self) -> None:
        """Record that the venue serves the topic (again)."""
        if self.interrupted is not None:
            self.break_off(self.interrupted)
            self.interrupted = None
        self.served = True

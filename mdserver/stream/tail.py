"""The newest records of some topics, kept for one client while its replay reads the end of the past.

The router treats it as a client that is behind, so the streaming path needs no code for replays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping

from ..model import Gap, Topic
from .audience import Owed
from .stored_past import GapKey, gap_key

__all__ = ["Tail"]


class Tail:
    """A :class:`mdserver.stream.router.Sink` that keeps its frames, up to ``bound_bytes`` in all.

    Beyond the bound it has ``overflowed`` and keeps nothing: its records are journalled and will soon be stored.
    """

    descriptor = -1
    behind = True

    def __init__(self, bound_bytes: int) -> None:
        self.overflowed = False
        self.size = 0
        self._bound_bytes = bound_bytes
        self._kept: deque[tuple[Topic | None, int, GapKey | None, bytes]] = deque()

    def write(self, frames: bytes) -> None:
        """Keep frames that belong between two records."""
        self._keep(None, 0, frames)

    def park(self, rest: bytes) -> None:
        """Never called, because the tail has no descriptor."""
        raise AssertionError(f"found the last {len(rest)} bytes of a frame, expected whole frames")

    def offer(self, owed: Owed) -> None:
        """Keep a record."""
        published, frame = owed.published, owed.frame
        # A gap has the number of the record before it; a client that has a later record does not need it.
        record = published.record
        if type(record) is Gap:
            self._keep(published.topic, published.seq + 1, frame, gap_key(record))
        else:
            self._keep(published.topic, published.seq, frame)

    def take(
        self, after: MutableMapping[Topic, int], told: Mapping[Topic, frozenset[GapKey]], most_bytes: int
    ) -> bytes:
        """Remove the first frames and return the new ones: records above the number of their topic in ``after``.

        The numbers in ``after`` are advanced to the returned records. Topics that are not in it are left out, and so
        are gaps in ``told``.
        """
        frames = []
        taken = 0
        while self._kept and taken < most_bytes:
            topic, seq, gap, frame = self._kept.popleft()
            self.size -= len(frame)
            if topic is not None:
                if seq <= after.get(topic, seq) or gap in told.get(topic, ()):
                    continue
                if gap is None:
                    after[topic] = seq
            frames.append(frame)
            taken += len(frame)
        return b"".join(frames)

    def _keep(self, topic: Topic | None, seq: int, frame: bytes, gap: GapKey | None = None) -> None:
        if self.overflowed:
            return
        self._kept.append((topic, seq, gap, frame))
        self.size += len(frame)
        if self.size > self._bound_bytes:
            self.overflowed = True
            self._kept.clear()
            self.size = 0

"""The newest records of some topics, kept for one client while its replay reads the last of the past.

To the router it is a client that takes nothing at once, so the streaming path knows nothing of replays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, MutableMapping

from ..model import Gap, Topic
from .audience import Owed
from .stored_past import GapKey, gap_key

__all__ = ["Tail"]


class Tail:
    """A :class:`mdserver.stream.router.Sink` that keeps what it is given, up to ``bound_bytes`` in all.

    Past the bound it has ``overflowed`` and keeps nothing: what it was for is in the journal, hence soon stored.
    """

    descriptor = -1
    behind = True

    def __init__(self, bound_bytes: int) -> None:
        self.overflowed = False
        self.size = 0
        self._bound_bytes = bound_bytes
        self._kept: deque[tuple[Topic | None, int, GapKey | None, bytes]] = deque()

    def write(self, frames: bytes) -> None:
        """Keep what belongs between two records."""
        self._keep(None, 0, frames)

    def park(self, rest: bytes) -> None:
        """Never called: nothing is taken through a descriptor."""
        raise AssertionError(f"{len(rest)} bytes of a frame were taken by nobody")

    def offer(self, owed: Owed) -> None:
        """Keep a record."""
        published, frame = owed.published, owed.frame
        # A gap has the number of the record before it: it is of no use to those who have one behind it already.
        record = published.record
        if type(record) is Gap:
            self._keep(published.topic, published.seq + 1, frame, gap_key(record))
        else:
            self._keep(published.topic, published.seq, frame)

    def take(
        self, after: MutableMapping[Topic, int], told: Mapping[Topic, frozenset[GapKey]], most_bytes: int
    ) -> bytes:
        """Remove the first frames and return those that ``after`` lacks: records above the number of their topic.

        The numbers in ``after`` move on with what is returned. Topics that are not in it are left out, and so are the
        gaps that were ``told`` already.
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

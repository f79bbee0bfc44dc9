"""What a client that is behind is owed: whole frames in order, and the latest record of each topic that allows it."""

from __future__ import annotations

from collections import deque

from ...kinds import KINDS
from ...model import Published, Topic
from ...protocol.record_frames import with_conflated

__all__ = ["CHUNK_BYTES", "Backlog"]

CHUNK_BYTES = 64 * 1024
"""What is handed to the socket in one piece, at most a frame more."""


class Backlog:
    """Kept frames and conflated records, handed out in turns so that neither starves.

    Bounded by the owner through :attr:`size`, the bytes of the kept frames; conflated records are bounded by the
    client's topics.
    """

    __slots__ = ("_conflated", "_frames", "_latest", "size")

    def __init__(self) -> None:
        self._frames: deque[bytes] | None = (
            None  # nearly no client is ever behind, and an empty one takes 0.6 kB
        )
        self._latest: dict[Topic, tuple[bytes, int]] = {}
        self.size = 0
        self._conflated = 0

    def append(self, frames: bytes) -> None:
        """Keep frames that must not be lost and say something about records: behind all those that wait."""
        latest = self._take_latest()
        if latest:
            self._keep(latest)
        self._keep(frames)

    def offer(self, published: Published, frame: bytes) -> bool:
        """Keep a record in the place of an older one of its topic, or in full: tell whether in full."""
        topic, record = published.topic, published.record
        older = self._latest.get(topic)
        if KINDS[type(record)].latest_wins(record):
            if older is None:
                self._latest[topic] = (frame, 0)
            else:
                self._latest[topic] = (frame, older[1] + 1)
                self._conflated += 1
            return False
        if older is not None:  # this one must not overtake it
            del self._latest[topic]
            self._keep(_shown(*older))
        self._keep(frame)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._frames = None
        self._latest.clear()
        self.size = 0

    def take(self) -> bytes:
        """Remove and return the next whole frames: some of those kept, then all conflated records."""
        parts = []
        room = CHUNK_BYTES
        while self._frames and room > 0:
            parts.append(self._frames.popleft())
            room -= len(parts[-1])
        if not self._frames:
            self._frames = None
        data = b"".join(parts)
        self.size -= len(data)
        return data + self._take_latest()

    def _keep(self, frames: bytes) -> None:
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frames)
        self.size += len(frames)

    def _take_latest(self) -> bytes:
        latest, self._latest = self._latest, {}
        return b"".join(_shown(frame, skipped) for frame, skipped in latest.values())

    def take_conflated(self) -> int:
        """Return how many records were replaced by newer ones since the last call."""
        count, self._conflated = self._conflated, 0
        return count


def _shown(frame: bytes, skipped: int) -> bytes:
    return with_conflated(frame, skipped) if skipped else frame

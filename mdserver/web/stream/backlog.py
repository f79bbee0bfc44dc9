"""What a client that is behind is owed: whole frames in order, and the latest tick of each topic."""

from __future__ import annotations

from collections import deque

from ...model import Published, Topic
from ...protocol.record_frames import frame_record

__all__ = ["CHUNK_BYTES", "Backlog"]

CHUNK_BYTES = 64 * 1024
"""What is handed to the socket in one piece, at most a frame more."""


class Backlog:
    """Kept frames and conflated ticks, handed out in turns so that neither starves.

    Bounded by the owner through :attr:`size`, the bytes of the kept frames; conflated ticks are bounded by the client's
    topics.
    """

    __slots__ = ("_conflated", "_frames", "_latest", "size")

    def __init__(self) -> None:
        self._frames: deque[bytes] | None = (
            None  # nearly all clients are never behind, and an empty one takes 0.6 kB
        )
        self._latest: dict[Topic, tuple[Published, bytes, int]] = {}
        self.size = 0
        self._conflated = 0

    def append(self, frames: bytes) -> None:
        """Keep frames that must not be lost and say something about records: behind all those that wait."""
        ticks = self._take_ticks()
        if ticks:
            self._keep(ticks)
        self._keep(frames)

    def offer(self, published: Published, frame: bytes) -> None:
        """Keep a tick, or a newer one in its place; anything else in full."""
        topic = published.topic
        if topic.type != "tick":
            self._keep(frame)
            return
        older = self._latest.get(topic)
        if older is None:
            self._latest[topic] = (published, frame, 0)
        else:
            self._latest[topic] = (published, frame, older[2] + 1)
            self._conflated += 1

    def clear(self) -> None:
        """Forget everything."""
        self._frames = None
        self._latest.clear()
        self.size = 0

    def take(self) -> bytes:
        """Remove and return the next whole frames: some of those kept, then all conflated ticks."""
        parts = []
        room = CHUNK_BYTES
        while self._frames and room > 0:
            parts.append(self._frames.popleft())
            room -= len(parts[-1])
        if not self._frames:
            self._frames = None
        data = b"".join(parts)
        self.size -= len(data)
        return data + self._take_ticks()

    def _keep(self, frames: bytes) -> None:
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frames)
        self.size += len(frames)

    def _take_ticks(self) -> bytes:
        latest, self._latest = self._latest, {}
        return b"".join(
            frame_record(published, skipped) if skipped else frame
            for published, frame, skipped in latest.values()
        )

    def take_conflated(self) -> int:
        """Return how many ticks were replaced by newer ones since the last call."""
        count, self._conflated = self._conflated, 0
        return count

"""The data that wait for a client that is behind: whole frames in order, and the latest record of conflated topics."""

from __future__ import annotations

from collections import deque

from ...kinds import KINDS
from ...model import Gap, Topic
from ...protocol.encoding import mark
from ...stream.audience import Owed

__all__ = ["CHUNK_BYTES", "Backlog"]

CHUNK_BYTES = 64 * 1024
"""The bytes given to the socket at once, at most one frame more."""


class Backlog:
    """Kept frames and conflated records, sent in turns so that neither starves.

    The owner bounds it through :attr:`size`, the bytes of the kept frames. There is at most one conflated record for
    each topic of the client.
    """

    __slots__ = ("_before", "_conflated", "_frames", "_latest", "size")

    def __init__(self) -> None:
        self._frames: deque[bytes] | None = (
            None  # nearly no client is ever behind, and an empty one takes 0.6 kB
        )
        self._before = 0
        """How many kept frames go before the conflated records: an answer or one of their topics is among them."""
        self._latest: dict[Topic, tuple[Owed, int]] = {}
        """By topic the newest record that waits, and how many were left out for it while it waited."""
        self.size = 0
        self._conflated = 0

    def append(self, frames: bytes) -> None:
        """Keep frames that must not be lost, after all waiting records, because they refer to them."""
        latest = self._take_latest()
        if latest:
            self._keep(latest)
        self._keep(frames)
        self._hold_back()

    def offer(self, owed: Owed) -> bool:
        """Keep a record, in place of an older one of its topic if that is allowed; return whether it was not."""
        topic = owed.published.topic
        older = self._latest.get(topic)
        if owed.may_wait:
            if older is None:
                self._latest[topic] = (owed, 0)
            else:
                self._latest[topic] = (owed, older[1] + older[0].skipped + 1)
                self._conflated += 1
            return False
        if older is not None and not _needs_whole(*older):  # this one must not overtake it
            del self._latest[topic]
            self._keep(_shown(*older))
        self._keep(owed.frame)
        record = owed.published.record
        if KINDS[type(record)].may_wait or older is not None or isinstance(record, Gap):
            self._hold_back()
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._frames = None
        self._latest.clear()
        self.size = self._before = 0

    def take(self) -> bytes:
        """Remove and return the next whole frames: some of those kept, then the conflated records, if they may go."""
        parts = []
        room = CHUNK_BYTES
        while self._frames and room > 0:
            parts.append(self._frames.popleft())
            self._before = max(0, self._before - 1)
            room -= len(parts[-1])
        if not self._frames:
            self._frames = None
        data = b"".join(parts)
        self.size -= len(data)
        return data if self._before else data + self._take_latest()

    def _keep(self, frames: bytes) -> None:
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frames)
        self.size += len(frames)

    def _hold_back(self) -> None:
        """Have the conflated records wait until all that is kept now has gone."""
        self._before = 0 if self._frames is None else len(self._frames)

    def _take_latest(self) -> bytes:
        latest, self._latest = self._latest, {}
        return b"".join(_shown(owed, skipped) for owed, skipped in latest.values())

    def take_conflated(self) -> int:
        """Return the number of records that were replaced by newer ones since the last call."""
        count, self._conflated = self._conflated, 0
        return count


def _needs_whole(owed: Owed, skipped: int) -> bool:
    """Return whether changes of a full book were left out, so that the whole book must be sent, as it is then."""
    record = owed.published.record
    changes = KINDS[type(record)].changes
    return skipped > 0 and changes is not None and changes(record)


def _shown(owed: Owed, skipped: int) -> bytes:
    """Return the frame of a record that replaces others.

    It is empty for a full book that is not known now: a gap has announced that, and the venue's next snapshot follows.
    """
    if not skipped:
        return owed.frame
    published = owed.published
    if _needs_whole(owed, skipped):
        whole = owed.last(published.topic)
        if whole is None:
            return b""
        published = whole
    # a frame that replaces others already has their number
    as_it_was = published is owed.published and not owed.skipped
    frame = owed.frame if as_it_was else owed.terms.encoding.frame(published)
    return mark(frame, "conflated", skipped + owed.skipped)

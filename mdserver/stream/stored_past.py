"""What a replay needs of the past that is stored (pure); the store has it, and the daemon brings the two together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from ..model import Gap, Topic

__all__ = ["After", "Begin", "FromTime", "GapKey", "Page", "Start", "StoredPast", "gap_key"]


class After(NamedTuple):
    """Behind the record with this number; 0: from the oldest there is."""

    seq: int


class FromTime(NamedTuple):
    """From the first record on whose time, in microseconds, is this one or later."""

    time_us: int


Start: TypeAlias = After | FromTime


class Begin(NamedTuple):
    """Where a replay begins: behind the number ``after``. ``missing``: why records before are not there, or None."""

    after: int
    missing: str | None = None


class GapKey(NamedTuple):
    """What tells the gaps of one topic apart."""

    from_us: int
    to_us: int
    cause: str


def gap_key(gap: Gap) -> GapKey:
    """Return what tells a gap from the others of its topic, however it came."""
    return GapKey(gap.from_us, max(gap.from_us, gap.time_us), gap.cause)


class Page(NamedTuple):
    """Records of one topic in the order of their numbers, and the gaps between: frames, in pieces for a socket.

    ``records`` counts those that are no gaps. ``last_seq`` is the number up to which it holds all there is; ``more``:
    there are others behind. ``told``: the gaps behind ``last_seq`` that are among them, or were told before.
    """

    pieces: list[bytes]
    records: int
    last_seq: int
    more: bool
    told: frozenset[GapKey] = frozenset()


class StoredPast(Protocol):
    """The stored records, by number. All raise :class:`~mdserver.errors.StoreUnavailable` while they are away."""

    async def caught_up(self) -> None:
        """Return once all that was published before this call is stored, or never will be."""
        ...

    async def begins(self, starts: Mapping[Topic, Start]) -> Mapping[Topic, Begin]:
        """Return where the replay of each topic begins."""
        ...

    async def last_seqs(self, topics: Collection[Topic]) -> Mapping[Topic, int]:
        """Return the number of the newest stored record or gap of each topic; 0 where there is none."""
        ...

    async def page(
        self, topic: Topic, after: int, limit: int, *, received: bool, told: frozenset[GapKey] = frozenset()
    ) -> Page:
        """Return the next records behind the number ``after``, at most ``limit``; encoded outside the event loop.

        The gaps behind ``after`` itself are among them, but those of ``told``.
        """
        ...

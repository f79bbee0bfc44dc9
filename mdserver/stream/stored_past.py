"""The interface between replays and the stored past (pure); the daemon connects replays and store through it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from ..model import Gap, Topic

__all__ = ["After", "Begin", "FromTime", "GapKey", "Page", "Start", "StoredPast", "gap_key"]


class After(NamedTuple):
    """Start after the record with this number; 0: start with the oldest record."""

    seq: int


class FromTime(NamedTuple):
    """Start with the first record at or after this time, in Unix microseconds."""

    time_us: int


Start: TypeAlias = After | FromTime


class Begin(NamedTuple):
    """Where a replay begins: after the number ``after``. ``missing``: why earlier records are missing, or None.

    ``is_above``: the number is above the last one that is stored.
    """

    after: int
    missing: str | None = None
    is_above: bool = False


class GapKey(NamedTuple):
    """Identifies a gap among those of its topic."""

    from_us: int
    to_us: int
    cause: str


def gap_key(gap: Gap) -> GapKey:
    """Return the key of a gap, which is the same for a live and a stored one."""
    return GapKey(gap.from_us, max(gap.from_us, gap.time_us), gap.cause)


class Page(NamedTuple):
    """Records of one topic in the order of their numbers, with the gaps between them, as pieces of frames for a socket.

    ``records`` is their number without the gaps. The page is complete up to the number ``last_seq``; ``more``: further
    records follow. ``told``: the gaps after ``last_seq`` that are in this page or were sent before.
    """

    pieces: list[bytes]
    records: int
    last_seq: int
    more: bool
    told: frozenset[GapKey] = frozenset()


class StoredPast(Protocol):
    """The stored records, by number. Every call raises :class:`~mdserver.errors.StoreUnavailable` if it cannot read."""

    async def caught_up(self) -> None:
        """Return once every record published before this call is stored or will never be."""
        ...

    async def begins(self, starts: Mapping[Topic, Start]) -> Mapping[Topic, Begin]:
        """Return where the replay of each topic begins."""
        ...

    def is_behind(self, after: Mapping[Topic, int]) -> bool:
        """Return whether live records with these numbers, or lower ones, may still come in this process.

        That is so where another one has published them, and has stored them or sent them to clients already.
        """
        ...

    async def last_seqs(self, topics: Collection[Topic]) -> Mapping[Topic, int]:
        """Return the number of the newest stored record or gap of each topic; 0 if there is none."""
        ...

    async def page(
        self, topic: Topic, after: int, limit: int, *, received: bool, told: frozenset[GapKey] = frozenset()
    ) -> Page:
        """Return the next records after the number ``after``, at most ``limit``, encoded outside the event loop.

        They include the gaps directly after ``after``, except those in ``told``.
        """
        ...

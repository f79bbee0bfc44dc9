"""What the bus needs of an engine, and the errors of all engines. Redis is one: :mod:`.redis_engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ..errors import MdserverError, Unavailable

__all__ = [
    "START",
    "BusEngine",
    "BusMisused",
    "BusUnavailable",
    "Deposed",
    "Entry",
    "Held",
    "Position",
    "Size",
]


class BusUnavailable(Unavailable):
    """The engine cannot be reached, or cannot take anything now; trying again later may help."""


class BusMisused(MdserverError):
    """The engine answers and refuses: credentials, permissions, a key that is not ours. An operator must act."""


class Deposed(MdserverError):
    """Another process leads: the engine holds an entry with the same id or a later one."""


class Position(NamedTuple):
    """The id of an entry. Positions compare in the order of the stream."""

    fence: int
    number: int

    def __str__(self) -> str:
        return f"{self.fence}-{self.number}"


START = Position(0, 0)
"""Before the first entry of any stream."""


class Entry(NamedTuple):
    """An entry of a stream: one frame of the journal's format."""

    position: Position
    frame: bytes


class Held(NamedTuple):
    """A lease that somebody holds, and how long it lasts if it is not renewed."""

    holder: str
    left_s: float


class Size(NamedTuple):
    """How much is on a stream; ``bytes`` is what the engine needs for it."""

    entries: int
    bytes: int


class BusEngine(Protocol):
    """One connection to the engine. Every call raises BusUnavailable or BusMisused, within a bounded time."""

    async def append(self, stream: str, first: Position, frames: Sequence[bytes]) -> None:
        """Append frames as the entries ``first`` and its followers, all or the first few of them.

        Raises Deposed if the stream has the id of one, or a later one: whoever took the next fence leads now.
        """

    async def read(
        self, positions: Mapping[str, Position], *, most: int, wait_s: float
    ) -> dict[str, list[Entry]]:
        """Return up to ``most`` entries behind each position, at once if there are any, else within ``wait_s``."""

    async def edges(self, stream: str) -> tuple[Position, Position] | None:
        """Return the ids of the oldest and of the newest entry that is kept; None where the stream is empty."""

    async def trim(self, stream: str, before: Position) -> None:
        """Forget the entries before a position, about."""

    async def acquire(self, lease: str, holder: str, ttl_s: float, stream: str) -> int | None:
        """Take a lease; return its fence, above all before it and above all in ``stream``; None: another holds it."""

    async def renew(self, lease: str, holder: str, ttl_s: float) -> bool:
        """Keep a lease for another ``ttl_s``; False where it is not ours any more."""

    async def release(self, lease: str, holder: str) -> None:
        """Give a lease back, if it is ours."""

    async def lease(self, lease: str) -> Held | None:
        """Return who holds a lease; None: nobody."""

    async def size(self, stream: str) -> Size:
        """Return how much is on a stream."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Set a key that is gone after ``ttl_s``."""

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key."""

    async def put_in(self, group: str, name: str, value: bytes, ttl_s: float) -> None:
        """Set one of a group of keys, ``group`` and ``name`` joined, that is gone after ``ttl_s``."""

    async def get_all(self, group: str) -> dict[str, bytes]:
        """Return the values of a group by name. How many other keys there are costs nothing."""

    async def forget(self, key: str) -> None:
        """Delete a key."""

    async def clock_s(self) -> float:
        """Return the engine's time, in Unix seconds."""

"""The subscribers: groups of clients with the same subscriptions, and for each topic the terms of its subscribers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ..model import Published, Topic
from ..protocol.terms import Terms
from .pacing import Pace

__all__ = ["Array", "Audience", "Group", "Key", "Line", "Owed", "Sink"]

Array: TypeAlias = Callable[[Sequence[bytes]], bytes] | None
"""Joins several frames into one; None: they stay separate."""

Key: TypeAlias = tuple[frozenset[tuple[Topic, Terms]], Array]


class Owed(NamedTuple):
    """A record that clients are to get on the same terms, and its frame.

    ``may_wait``: a later record may take its place for a client that is behind. ``skipped`` is the number of records
    that it replaces itself; the frame contains it. ``last`` finds the newest record of a topic, or a full book with all
    its levels: what such a client may get in its place.
    """

    published: Published
    frame: bytes
    terms: Terms
    may_wait: bool
    skipped: int
    last: Callable[[Topic], Published | None]


class Sink(Protocol):
    """The write side of one client, as the router sees it. Nothing here blocks or raises."""

    @property
    def descriptor(self) -> int:
        """The non-blocking socket to write frames to, or -1 if they must be given to the sink."""
        ...

    @property
    def behind(self) -> bool:
        """True while the client has not read all frames sent before."""
        ...

    def write(self, frames: bytes) -> None:
        """Send whole frames."""
        ...

    def park(self, rest: bytes) -> None:
        """Send the rest of frames of which the descriptor took only a part."""
        ...

    def offer(self, owed: Owed) -> None:
        """Keep a record for a client that is behind; ticks may be conflated, trades never are."""
        ...


class Group:
    """Clients with the same subscriptions, their ``key``; ``only`` is the client of a group of one.

    ``paced`` are the topics with a rate. ``first`` and ``more`` are the group's records of the current pass: usually
    one, which needs no list.
    """

    __slots__ = ("array", "first", "key", "more", "only", "paced", "sinks", "terms")

    def __init__(self, terms: Mapping[Topic, Terms], key: Key) -> None:
        self.array = key[1]
        self.sinks: dict[Sink, None] = {}
        self.only: Sink | None = None
        self.first: Owed | None = None
        self.more: list[Owed] | None = None
        self.take(terms, key)

    def take(self, terms: Mapping[Topic, Terms], key: Key) -> None:
        """Replace the topics."""
        self.key = key
        self.terms = terms
        self.paced = [topic for topic, one in terms.items() if one.rate_ms]

    def add(self, sink: Sink) -> None:
        """Add a client."""
        self.sinks[sink] = None
        self.only = sink if len(self.sinks) == 1 else None

    def remove(self, sink: Sink) -> None:
        """Remove a client."""
        del self.sinks[sink]
        self.only = next(iter(self.sinks)) if len(self.sinks) == 1 else None

    def owed(self) -> list[Owed]:
        """Return the records of the current pass."""
        assert self.first is not None  # noqa: S101 - it was touched
        return [self.first, *(self.more or ())]

    def joined(self) -> tuple[bytes, int]:
        """Return the joined bytes of the current pass, and the number of records in them."""
        assert self.first is not None  # noqa: S101 - it was touched
        if self.more is None:
            return self.first.frame, 1
        frames = [self.first.frame, *[one.frame for one in self.more]]
        return b"".join(frames) if self.array is None else self.array(frames), len(frames)


class Line:
    """The subscribers of one topic with the same terms.

    ``is_every``: the topic stands for all symbols. ``paces``: the held-back records by topic, if there is a rate.
    """

    __slots__ = ("groups", "is_every", "paces", "sinks", "terms")

    def __init__(self, terms: Terms, *, is_every: bool) -> None:
        self.terms = terms
        self.is_every = is_every
        self.groups: dict[Group, None] = {}
        self.sinks: list[Sink] | None = None
        self.paces: dict[Topic, Pace] | None = {} if terms.rate_ms else None

    def listed(self) -> list[Sink]:
        """Return the clients."""
        if self.sinks is None:
            self.sinks = [sink for group in self.groups for sink in group.sinks]
        return self.sinks

    def groups_for(self, topic: Topic) -> Collection[Group]:
        """Return the groups that get a topic by this line; a line of every symbol excludes groups with an own line."""
        if not self.is_every:
            return self.groups
        return [group for group in self.groups if topic not in group.terms]


class Audience:
    """The lines of one topic."""

    __slots__ = ("is_every", "is_paced", "lines")

    def __init__(self, *, is_every: bool) -> None:
        self.is_every = is_every
        self.lines: dict[Terms, Line] = {}
        self.is_paced = False

    def add(self, group: Group, terms: Terms) -> None:
        """Add a group."""
        line = self.lines.get(terms)
        if line is None:
            line = self.lines[terms] = Line(terms, is_every=self.is_every)
            self.is_paced = self.is_paced or terms.rate_ms > 0
        line.groups[group] = None
        line.sinks = None

    def discard(self, group: Group, terms: Terms) -> bool:
        """Remove a group; return whether there are no subscribers left."""
        line = self.lines[terms]
        del line.groups[group]
        line.sinks = None
        if line.groups:
            return False
        del self.lines[terms]
        self.is_paced = self.is_paced and any(one.rate_ms for one in self.lines)
        return not self.lines

    def lines_for(self, topic: Topic) -> Iterator[Line]:
        """Yield the lines of every symbol whose clients may see a topic."""
        for line in self.lines.values():
            if line.terms.symbols is None or topic.symbol in line.terms.symbols:
                yield line

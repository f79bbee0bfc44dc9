"""What to ask the venue for next: demand, answers and time in; requests and outcomes out. No I/O.

Level-triggered: each request is worked out from the wanted set and what is known of each feed, so no change of demand
can be lost. The venue answers for each symbol apart and in any order, names only the request when it refuses, and may
leave a symbol unanswered: each feed has its own state and its own deadline.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import attrs

from mdserver.model import Feed

from .books import DEPTHS
from .codec import Channel, Reply, encode_request

__all__ = ["CHANNELS", "Outcome", "Subscriptions"]

CHANNELS: dict[str, Channel] = {"tick": "ticker", "trade": "trade", "orderbook": "book"}
"""The channel of each record type."""

MAX_BATCH = 100
"""Symbols in one request: about 1.5 kB of text."""

RATE_PAUSE_S = 5.0
"""Pause after ``Exceeded msg rate``; the venue publishes no limit."""

_MAX_REQUESTS = 200  # remembered for answers that come late
_RATE = ("msg rate", "rate limit", "too many requests")
_Method: TypeAlias = Literal["subscribe", "unsubscribe"]


class _State(enum.Enum):
    """Where a feed stands; one without a state is neither wanted nor known to the venue.

    DUE → ASKED → ACTIVE → LEAVING → DUE, or gone if it is not wanted. Without an answer ASKED goes back to DUE and
    LEAVING to ACTIVE, to be tried again; at last ASKED becomes SILENT, which a late answer makes ACTIVE all the same.
    """

    DUE = enum.auto()
    ASKED = enum.auto()
    ACTIVE = enum.auto()
    LEAVING = enum.auto()
    SILENT = enum.auto()


_AT_THE_VENUE = (_State.ASKED, _State.ACTIVE, _State.LEAVING)


@attrs.define
class _Line:
    """One feed. ``at``: when it is to be asked for (DUE), or when its answer is overdue (ASKED, LEAVING)."""

    venue_symbol: str
    state: _State = _State.DUE
    at: float = -math.inf
    attempts: int = 0
    renew_at: float | None = None


@attrs.frozen
class Outcome:
    """What an answer, or the lack of one, means. ``left``: the venue serves these no more."""

    confirmed: tuple[Feed, ...] = ()
    refused: dict[Feed, str] = attrs.Factory(dict)
    left: tuple[Feed, ...] = ()


@attrs.frozen
class _Request:
    method: _Method
    unanswered: dict[str, Feed]


class Subscriptions:
    """The feeds of one connection.

    Call :meth:`plan` when demand or the list of symbols changed, then :meth:`next_request` until it gives None; hand
    each reply to :meth:`answered`, and call :meth:`overdue` when the time of :meth:`wake_at` has come. ``answers``
    counts replies to our requests.
    """

    def __init__(self, *, answer_s: float, attempts: int) -> None:
        self.answers = 0
        self._answer_s = answer_s
        self._attempts = attempts
        self._lines: dict[Feed, _Line] = {}
        self._wanted: frozenset[Feed] = frozenset()
        self._requests: dict[int, _Request] = {}
        self._paused_until = -math.inf
        self._last_id = 0

    @property
    def active(self) -> frozenset[Feed]:
        """The feeds that the venue serves now."""
        return frozenset(feed for feed, line in self._lines.items() if line.state is _State.ACTIVE)

    def plan(self, wanted: Iterable[Feed], names: Mapping[str, str]) -> dict[Feed, str]:
        """Take what is wanted, and the venue's names of our symbols; return what cannot be had, with the reason."""
        wanted = frozenset(wanted)
        reasons = {feed: reason for feed in wanted if (reason := self._unusable(feed, names))}
        self._wanted = wanted - reasons.keys()
        for feed in sorted(self._wanted - self._lines.keys()):
            self._lines[feed] = _Line(names[feed.symbol])
        for feed, line in list(self._lines.items()):
            if feed not in self._wanted and line.state in (_State.DUE, _State.SILENT):
                del self._lines[feed]
        return reasons

    def _unusable(self, feed: Feed, names: Mapping[str, str]) -> str | None:
        """Say why a feed cannot be asked for."""
        if feed.symbol not in names:
            return f"Kraken lists no {feed.symbol}"
        if feed.type not in CHANNELS:
            return f"no {feed.type} records come from Kraken"
        if feed.type == "orderbook":
            known = " or ".join(DEPTHS)
            return None if feed.variant in DEPTHS else f"order book {feed.variant!r}: Kraken has {known}"
        return f"no {feed.type} {feed.variant} comes from Kraken" if feed.variant else None

    def depth(self, symbol: str) -> int | None:
        """Return the venue's depth of the book that a symbol has or is asked for now, None if there is none."""
        for variant, depth in DEPTHS.items():
            line = self._lines.get(Feed(symbol, "orderbook", variant))
            if line is not None and line.state in _AT_THE_VENUE:
                return depth
        return None

    def _is_due(self, feed: Feed, line: _Line) -> bool:
        """Say whether a feed is to be asked for: not while the venue serves another depth of the same book."""
        return line.state is _State.DUE and not (feed.type == "orderbook" and self.depth(feed.symbol))

    def renew(self, feed: Feed, not_before: float) -> None:
        """Leave an active feed and ask for it anew, not before the time given: its data have become unusable."""
        line = self._lines.get(feed)
        if line is not None and line.state is _State.ACTIVE:
            line.renew_at = not_before

    def next_request(self, now: float) -> bytes | None:
        """Return the next request's text, None when nothing is due now. Leaves before it asks."""
        if now < self._paused_until:
            return None
        leaving = [
            feed
            for feed, line in self._lines.items()
            if line.state is _State.ACTIVE and (feed not in self._wanted or line.renew_at is not None)
        ]
        if leaving:
            return self._request("unsubscribe", leaving, now)
        due = [feed for feed, line in self._lines.items() if line.at <= now and self._is_due(feed, line)]
        return self._request("subscribe", due, now) if due else None

    def wake_at(self, now: float) -> float:
        """Return when something may be due without a new event; infinity if never."""
        waiting = (_State.ASKED, _State.LEAVING)
        times = [
            line.at for feed, line in self._lines.items() if line.state in waiting or self._is_due(feed, line)
        ]
        return max(min(times, default=math.inf), self._paused_until if self._paused_until > now else now)

    def answered(self, reply: Reply, now: float) -> Outcome | None:
        """Take a reply; None if it belongs to no request of ours."""
        request = self._requests.get(-1 if reply.request_id is None else reply.request_id)
        if request is None:
            return None
        self.answers += 1
        error = reply.error
        if error is not None and any(word in error.lower() for word in _RATE):
            return self._slow_down(request, now)
        if reply.symbol is None and error is not None:
            feeds = tuple(request.unanswered.values())
            request.unanswered.clear()
        else:
            feed = request.unanswered.pop(reply.symbol or "", None)
            feeds = () if feed is None else (feed,)
        if request.method == "unsubscribe":
            for feed in feeds:
                # Refused or not, it is not served; but an old refusal says nothing of what was asked for since.
                self._left(feed, even_active=error is None)
            return Outcome(left=feeds)
        if error is not None and "already subscribed" not in error.lower():
            for feed in feeds:
                self._lines.pop(feed, None)
            return Outcome(refused=dict.fromkeys(feeds, f"refused by Kraken: {error}"))
        for feed in feeds:
            line = self._lines.setdefault(feed, _Line(reply.symbol or ""))
            if line.state is not _State.LEAVING:
                line.state, line.attempts, line.renew_at = _State.ACTIVE, 0, None
        return Outcome(confirmed=feeds)

    def overdue(self, now: float) -> Outcome:
        """Try again what was not answered in time; what was tried often enough is refused, or taken for left."""
        refused: dict[Feed, str] = {}
        for feed, line in list(self._lines.items()):
            if line.at > now or line.state not in (_State.ASKED, _State.LEAVING):
                continue
            if line.state is _State.LEAVING and line.attempts < self._attempts:
                # Left again even if it is wanted by now: the venue may have left it, and only the answer is lost.
                line.state, line.renew_at = (
                    _State.ACTIVE,
                    -math.inf if line.renew_at is None else line.renew_at,
                )
            elif line.state is _State.LEAVING:
                self._left(feed)
            elif line.attempts < self._attempts:
                line.state = _State.DUE
            else:
                line.state = _State.SILENT
                waited = f"{self._answer_s:g} s, asked {line.attempts} times"
                refused[feed] = f"no answer from Kraken within {waited}"
        return Outcome(refused=refused)

    def _request(self, method: _Method, feeds: list[Feed], now: float) -> bytes:
        """Ask for as many of these feeds as are of the first one's kind and fit into one request."""
        kind = feeds[0][1:]
        chosen = [feed for feed in feeds if feed[1:] == kind][:MAX_BATCH]
        for feed in chosen:
            line = self._lines[feed]
            line.state = _State.ASKED if method == "subscribe" else _State.LEAVING
            line.at = now + self._answer_s
            line.attempts += 1
        names = {self._lines[feed].venue_symbol: feed for feed in chosen}
        self._last_id += 1
        self._requests[self._last_id] = _Request(method, names)
        if len(self._requests) > _MAX_REQUESTS:
            del self._requests[min(self._requests)]
        return encode_request(
            method, CHANNELS[kind[0]], list(names), self._last_id, depth=DEPTHS.get(kind[1], 0)
        )

    def _left(self, feed: Feed, *, even_active: bool = False) -> None:
        """Note that the venue serves a feed no more."""
        line = self._lines.get(feed)
        if line is None or not (
            line.state is _State.LEAVING or (even_active and line.state is _State.ACTIVE)
        ):
            return
        if feed in self._wanted:
            self._lines[feed] = _Line(
                line.venue_symbol, at=-math.inf if line.renew_at is None else line.renew_at
            )
        else:
            del self._lines[feed]

    def _slow_down(self, request: _Request, now: float) -> Outcome:
        """Ask again later for what the venue turned down because we ask too often."""
        self._paused_until = now + RATE_PAUSE_S
        for feed in request.unanswered.values():
            line = self._lines.get(feed)
            if line is not None and line.state in (_State.ASKED, _State.LEAVING):
                line.state = _State.DUE if line.state is _State.ASKED else _State.ACTIVE
                line.at = self._paused_until
                line.attempts = 0
        request.unanswered.clear()
        return Outcome()

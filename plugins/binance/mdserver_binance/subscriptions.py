"""What to ask the venue for next: demand and replies in, requests and outcomes out. No I/O.

Level-triggered: each request is worked out from the wanted set and what is known to be subscribed, so no
change of demand can be lost. One request is in flight at a time, which gives every reply an owner, also the
error replies that carry no id.
"""

from __future__ import annotations

import math

import attrs

from mdserver.model import Feed

from .codec import BOOKS, Reply, TradeStream, encode_request, stream_name

__all__ = ["MAX_STREAMS", "Ledger", "Subscriptions"]

MAX_STREAMS = 1024
"""The venue's bound on streams per connection."""

_MAX_BATCH = 100  # streams per request: about 2.5 kB of text
_MAX_REMEMBERED = 10_000
_PUNCTUATION = frozenset("-_.")


@attrs.define
class Ledger:
    """What was learned about feeds: outlives the connections of a session, and the session.

    The venue refuses a request as a whole, without naming the stream that it dislikes, and may close the
    connection after it. Members of a refused request go into ever smaller ones until the culprit stands
    alone.

    ``no_full_books``: why there are no whole order books, if so.
    """

    no_full_books: str = ""

    refused: dict[Feed, str] = attrs.Factory(dict)
    batch_bound: dict[Feed, int] = attrs.Factory(dict)
    told: dict[Feed, str] = attrs.Factory(dict)
    confirmed: set[Feed] = attrs.Factory(set)

    def begin_session(self) -> None:
        """Forget what the host was told: a new session says it again."""
        self.told = {}
        self.confirmed = set()

    def forget_unwanted(self, wanted: frozenset[Feed]) -> None:
        """Give feeds that are not wanted any more, on any connection, another chance for when they are wanted again.

        A feed that was refused is then asked for alone, so that it cannot take others down with it again.
        """
        self.confirmed &= wanted
        self.told = {feed: reason for feed, reason in self.told.items() if feed in wanted}
        self.refused = {feed: reason for feed, reason in self.refused.items() if feed in wanted}
        if len(self.batch_bound) > _MAX_REMEMBERED:
            self.batch_bound = {feed: bound for feed, bound in self.batch_bound.items() if feed in wanted}

    def blame(self, feeds: frozenset[Feed], reason: str) -> None:
        """Take the venue's refusal of a request with these feeds."""
        if len(feeds) == 1:
            self.refused.update(dict.fromkeys(feeds, reason))
        self.batch_bound.update(dict.fromkeys(feeds, math.isqrt(len(feeds))))

    def accept(self, feeds: frozenset[Feed]) -> None:
        """Take the venue's acceptance, which is no proof that there is such a symbol."""
        for feed in feeds:
            self.batch_bound.pop(feed, None)

    def confirm(self, accepted: frozenset[Feed], symbols: frozenset[str] | None) -> frozenset[Feed]:
        """Return the accepted feeds that are known to exist and of which the host was not told.

        As long as there is no list of symbols nothing is known: the venue accepts any name that is well formed, and is
        silent. A record says as much as the list, but the host sees that itself.
        """
        if symbols is None:
            return frozenset()
        fresh = frozenset(feed for feed in accepted - self.confirmed if feed.symbol in symbols)
        self.confirmed |= fresh
        return fresh


@attrs.frozen
class _Request:
    id: int
    feeds: frozenset[Feed]
    subscribe: bool


class Subscriptions:
    """The streams of one connection.

    :meth:`plan`, then send :meth:`next_request` and hand its reply to :meth:`answered`; repeat while
    :attr:`due`. ``symbols``: the symbol of each stream asked for, by the part of its name before the ``@``.
    """

    def __init__(self, ledger: Ledger, trades: TradeStream, *, limit: int = MAX_STREAMS) -> None:
        self.active: frozenset[Feed] = frozenset()
        self.symbols: dict[str, str] = {}
        self._ledger = ledger
        self._trades: TradeStream = trades
        self._limit = limit
        self._in_flight: _Request | None = None
        self._missing: list[Feed] = []
        self._surplus: list[Feed] = []
        self._last_id = 0

    @property
    def due(self) -> bool:
        """Whether the last plan needs a request."""
        return bool(self._missing or self._surplus)

    def plan(self, wanted: frozenset[Feed], symbols: frozenset[str] | None) -> dict[Feed, str]:
        """Work out what is missing and what is too much.

        ``symbols`` are those that the venue trades, None if unknown. Returns the feeds that cannot be had and
        were not reported yet, each with the reason.
        """
        ledger = self._ledger
        reasons = {feed: ledger.refused[feed] for feed in wanted & ledger.refused.keys()}
        for feed in wanted - reasons.keys():
            if reason := _unusable(feed, symbols) or self._unavailable(feed):
                reasons[feed] = reason
        self._surplus = sorted(self.active - wanted)
        missing = sorted(wanted - self.active - reasons.keys())
        room = max(0, self._limit - len(self.active & wanted))
        self._missing = missing[:room]
        full = f"Binance allows {self._limit:,} streams on a connection, {len(wanted):,} are wanted"
        reasons.update(dict.fromkeys(missing[room:], full))
        # A count in a text must not make it news for a feed that was told the same before.
        fresh = {feed: reason for feed, reason in reasons.items() if feed not in ledger.told}
        for feed in wanted - reasons.keys():
            ledger.told.pop(feed, None)
        ledger.told.update(reasons)
        ledger.confirmed -= reasons.keys()
        return fresh

    def _unavailable(self, feed: Feed) -> str | None:
        return self._ledger.no_full_books if feed.variant == "full" else None

    def next_request(self) -> bytes | None:
        """Return the next request's text, None when all is as planned. Makes room before it takes more."""
        if self._in_flight is not None:
            raise RuntimeError("the last request is not answered yet")
        if self._surplus:
            feeds = self._surplus[:_MAX_BATCH]
        elif self._missing:
            bounds = {feed: self._ledger.batch_bound.get(feed, _MAX_BATCH) for feed in self._missing}
            largest = max(bounds.values())  # suspects come last: a refusal may cost the connection
            feeds = [feed for feed in self._missing if bounds[feed] == largest][:largest]
        else:
            return None
        self._last_id += 1
        self._in_flight = _Request(self._last_id, frozenset(feeds), subscribe=not self._surplus)
        names = [stream_name(feed, self._trades) for feed in feeds]
        self.symbols.update(
            (name.partition("@")[0], feed.symbol) for name, feed in zip(names, feeds, strict=True)
        )
        return encode_request("UNSUBSCRIBE" if self._surplus else "SUBSCRIBE", names, self._last_id)

    def answered(self, reply: Reply) -> frozenset[Feed] | None:
        """Take a reply; return the feeds that it accepts, or None if it belongs to no request of ours."""
        request = self._in_flight
        if request is None or reply.id not in (None, request.id):
            return None
        self._in_flight = None
        if not request.subscribe:
            # Refused or not, there is nothing more to do about it.
            self.active -= request.feeds
            return frozenset()
        if reply.error is not None:
            self._ledger.blame(request.feeds, f"refused by Binance: {reply.error}")
            return frozenset()
        self.active |= request.feeds
        self._ledger.accept(request.feeds)
        return request.feeds


def _unusable(feed: Feed, symbols: frozenset[str] | None) -> str | None:
    """Say why a feed cannot be asked for. Names may be outside ASCII, but hold no separators."""
    symbol, kind, variant = feed
    if kind not in ("tick", "trade", "orderbook"):
        return f"no {kind} records come from Binance"
    if kind == "orderbook" and variant not in BOOKS:
        return f"order book {variant!r}: Binance has {' or '.join(BOOKS)}"
    if kind != "orderbook" and variant:
        return f"no {kind} {variant} comes from Binance"
    if not symbol or not all(letter.isalnum() or letter in _PUNCTUATION for letter in symbol):
        return "not the form of a Binance symbol"
    if symbols is not None and symbol not in symbols:
        return "not traded on Binance now"
    return None

"""The cases that a plugin gives to the conformance suite: its fake venue, its settings, and how to cause faults."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import attrs

from ...kinds import default_variant
from ...model import Feed
from ...plugin import Broker, BrokerPlugin, CommandPlugin, HistoryPlugin, HistorySource
from ...symbols import canonical
from ..http_venue import FakeHttpVenue, HttpFault
from ..websocket_venue import FakeWebSocketVenue

__all__ = ["BrokerCase", "CommandCase", "ConformanceCase", "HistoryCase", "HttpCase", "WebSocketCase"]

V = TypeVar("V")
WebSocketVenueT = TypeVar("WebSocketVenueT", bound=FakeWebSocketVenue)
HttpVenueT = TypeVar("HttpVenueT", bound=FakeHttpVenue)

NOTHING: Mapping[str, str] = MappingProxyType({})


class BrokerCase(Generic[V]):
    """A broker plugin and its fake venue of type ``V``. Override the members that your plugin needs.

    ``symbols``: two or more canonical symbols of the venue; ``unknown``: a symbol that it refuses. ``types``: the types
    of records to test; None: all types of the plugin. ``patience_s``: how long the suite waits for what should happen
    at once. ``notices_within_s``: the time within which the plugin must notice a dead connection, with the case's
    settings. ``holds_s``: how long a session must hold by itself; set it above the time after which your fake forgets a
    client without heartbeats (0: not checked). ``burst``: the number of records sent at once. ``not_applicable``: names
    of checks that do not apply, each with the reason, which the scorecard shows.
    """

    plugin: ClassVar[BrokerPlugin]
    symbols: ClassVar[Sequence[str]] = ("EURUSD", "GBPUSD")
    unknown: ClassVar[str] = "NOSUCH"
    types: ClassVar[Sequence[str] | None] = None
    patience_s: ClassVar[float] = 10.0
    notices_within_s: ClassVar[float] = 5.0
    holds_s: ClassVar[float] = 0.0
    burst: ClassVar[int] = 200
    not_applicable: ClassVar[Mapping[str, str]] = NOTHING

    def open_venue(self) -> AbstractAsyncContextManager[V]:
        """Open a fake venue that sends nothing of its own accord except heartbeats."""
        raise NotImplementedError(f"{type(self).__name__}: open_venue() is missing")

    def settings(self, venue: V) -> Mapping[str, object]:
        """Return the broker's config for this venue, as keys and values: addresses, credentials, short times."""
        raise NotImplementedError(f"{type(self).__name__}: settings() is missing")

    def make_broker(self, config: Any) -> Broker:
        """Return the broker; override this to shorten its waits."""
        return self.plugin.factory(config)

    def feeds(self) -> frozenset[Feed]:
        """Return the feeds that the suite subscribes to: each type of each symbol."""
        types = self.types or self.plugin.types
        return frozenset(Feed(s, t, default_variant(t)) for s in self.symbols for t in types)

    def served(self, venue: V) -> Collection[str] | None:
        """Return the canonical symbols that the venue serves to any client now; None if the fake does not know."""
        return None

    async def send(self, venue: V, feed: Feed) -> float | None:
        """Make the venue send one more record of ``feed``, at a price that it has not sent before.

        Return that price (a tick's bid, a trade's price, an order book's best bid), or None if it is not known.
        """
        raise NotImplementedError(f"{type(self).__name__}: send() is missing")

    async def cut(self, venue: V) -> None:
        """End each connection without a close message; new connections are accepted."""
        raise NotImplementedError(f"{type(self).__name__}: cut() is missing")

    async def go_dark(self, venue: V) -> None:
        """Send nothing more, but leave the connections open. Until :meth:`admit` new connections may be dead too."""
        raise NotImplementedError(f"{type(self).__name__}: go_dark() is missing")

    async def garbage(self, venue: V, data: bytes) -> None:
        """Send ``data``, which no codec can decode, in place of a message."""
        raise NotImplementedError(f"{type(self).__name__}: garbage() is missing")

    async def refuse(self, venue: V, status: int) -> None:
        """Cut the connections; answer new ones and requests with 401 (wrong credentials) or 503 (unavailable)."""
        raise NotImplementedError(f"{type(self).__name__}: refuse() is missing")

    async def admit(self, venue: V) -> None:
        """End all faults: work normally again."""
        raise NotImplementedError(f"{type(self).__name__}: admit() is missing")


class WebSocketCase(BrokerCase[WebSocketVenueT]):
    """A case on a :class:`~mdserver.testing.websocket_venue.FakeWebSocketVenue`, whose faults it uses.

    Define ``plugin``, ``symbols``, :meth:`open_venue` and :meth:`send`.
    """

    def settings(self, venue: WebSocketVenueT) -> Mapping[str, object]:
        """Return ``url``, and ``rest_url`` if the config has that key."""
        names = {field.name for field in attrs.fields(self.plugin.config)}
        addresses = {"url": venue.url, "rest_url": venue.rest_url}
        return {name: address for name, address in addresses.items() if name in names}

    def served(self, venue: WebSocketVenueT) -> Collection[str] | None:
        """Return the venue's topics as canonical symbols."""
        return {canonical(topic) for topic in venue.topics}

    async def cut(self, venue: WebSocketVenueT) -> None:
        """Reset the connections in the middle of a message."""
        venue.reset_in_frame()

    async def go_dark(self, venue: WebSocketVenueT) -> None:
        """Leave the connections half open."""
        venue.go_dark()

    async def garbage(self, venue: WebSocketVenueT, data: bytes) -> None:
        """Push ``data`` to all clients as a text message; bytes that are not UTF-8 are replaced."""
        venue.push(None, data.decode(errors="replace"))

    async def refuse(self, venue: WebSocketVenueT, status: int) -> None:
        """Answer every connection attempt and request with ``status``."""
        venue.refuse(status)
        venue.rest_refusal = venue.refusal
        venue.reset()

    async def admit(self, venue: WebSocketVenueT) -> None:
        """Accept everything."""
        venue.admit()
        venue.rest_refusal = None


class HttpCase(BrokerCase[HttpVenueT]):
    """A case on a :class:`~mdserver.testing.http_venue.FakeHttpVenue`: a venue that the plugin polls.

    Define ``plugin``, ``symbols``, :meth:`open_venue`, :meth:`send` and :meth:`served`. ``records_path``: part of the
    path of the requests that bring records, whose answers are replaced by garbage; empty: all requests.
    """

    records_path: ClassVar[str] = ""

    def settings(self, venue: HttpVenueT) -> Mapping[str, object]:
        """Return ``url``."""
        return {"url": venue.url}

    async def cut(self, venue: HttpVenueT) -> None:
        """Reset the next three requests, and all streams."""
        venue.fail(HttpFault("reset"), times=3)
        for stream in venue.streams():
            await stream.reset()

    async def go_dark(self, venue: HttpVenueT) -> None:
        """Read requests and never answer them."""
        venue.fail(HttpFault("hang"))

    async def garbage(self, venue: HttpVenueT, data: bytes) -> None:
        """Send ``data`` as the next answer to a request for records; return once that has come."""
        before = sum(self.records_path in request.path for request in venue.requests)
        venue.fail(HttpFault("status", status=200, body=data), times=1, path=self.records_path)
        await venue.wait_requests(before + 1, self.records_path)

    async def refuse(self, venue: HttpVenueT, status: int) -> None:
        """Answer every request with ``status``."""
        venue.heal()
        venue.fail(HttpFault("status", status=status))

    async def admit(self, venue: HttpVenueT) -> None:
        """Answer again."""
        venue.heal()


class HistoryCase(Generic[V]):
    """A history plugin and its fake remote side, of type ``V``.

    The fake has ``symbol``, with ticks in the hour ``full_hour_us`` and none in ``empty_hour_us``; it has no file for
    ``missing_hour_us`` (None: the source has no such answer). ``unknown`` is a symbol that the source does not have.
    """

    plugin: ClassVar[HistoryPlugin]
    symbol: ClassVar[str] = "EURUSD"
    unknown: ClassVar[str] = "NOSUCH"
    full_hour_us: ClassVar[int]
    empty_hour_us: ClassVar[int | None] = None
    missing_hour_us: ClassVar[int | None] = None
    not_applicable: ClassVar[Mapping[str, str]] = NOTHING

    def open_venue(self) -> AbstractAsyncContextManager[V]:
        """Open the fake remote side."""
        raise NotImplementedError(f"{type(self).__name__}: open_venue() is missing")

    def settings(self, venue: V) -> Mapping[str, object]:
        """Return the source's config for this remote side, as keys and values."""
        raise NotImplementedError(f"{type(self).__name__}: settings() is missing")

    def open_source(self, config: Any, host: Any) -> AbstractAsyncContextManager[HistorySource]:
        """Open the source; override this to shorten its waits."""
        return self.plugin.factory(config, host)

    async def damage(self, venue: V) -> None:
        """Damage the remote side's answer for the full hour, so that it cannot be decoded."""
        raise NotImplementedError(f"{type(self).__name__}: damage() is missing")

    async def go_away(self, venue: V) -> None:
        """Make the remote side answer every request with an error."""
        raise NotImplementedError(f"{type(self).__name__}: go_away() is missing")


class CommandCase:
    """A command plugin: the ``arguments`` to run it with, and ``output``, a text that it must then print.

    The suite runs ``mdserver run NAME ARGUMENTS`` in a process of its own, with ``config`` and an empty database.
    """

    plugin: ClassVar[CommandPlugin]
    arguments: ClassVar[Sequence[str]] = ()
    output: ClassVar[str] = ""
    config: ClassVar[Mapping[str, object]] = MappingProxyType({"brokers": []})
    not_applicable: ClassVar[Mapping[str, str]] = NOTHING

    def open_venue(self) -> AbstractAsyncContextManager[None]:
        """Open the remote side that the command uses; none, unless overridden."""
        return nullcontext()


ConformanceCase = BrokerCase[Any] | HistoryCase[Any] | CommandCase

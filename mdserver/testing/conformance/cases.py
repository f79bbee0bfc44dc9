"""What a plugin tells the conformance suite: how to open its fake venue, its settings, how the venue misbehaves."""

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
    """A broker plugin and its fake venue, of type ``V``; override what yours needs.

    ``symbols``: two or more canonical ones that the venue has; ``unknown``: one that it refuses. ``types``: the record
    types to try, the plugin's if None. ``patience_s``: how long the suite waits for what should come at once.
    ``notices_within_s``: how long the venue may be dead until the plugin has to
    notice, with the case's settings. ``burst``: how many records are sent at once. ``not_applicable``: names of checks
    that make no sense here, each with the reason, which stands on the scorecard.
    """

    plugin: ClassVar[BrokerPlugin]
    symbols: ClassVar[Sequence[str]] = ("EURUSD", "GBPUSD")
    unknown: ClassVar[str] = "NOSUCH"
    types: ClassVar[Sequence[str] | None] = None
    patience_s: ClassVar[float] = 10.0
    notices_within_s: ClassVar[float] = 5.0
    burst: ClassVar[int] = 200
    not_applicable: ClassVar[Mapping[str, str]] = NOTHING

    def open_venue(self) -> AbstractAsyncContextManager[V]:
        """Open a fake venue that does nothing by itself but answer, and send its heartbeats."""
        raise NotImplementedError(f"{type(self).__name__}: open_venue() is missing")

    def settings(self, venue: V) -> Mapping[str, object]:
        """Return the broker's keys of the config for this venue: addresses, credentials, short times."""
        raise NotImplementedError(f"{type(self).__name__}: settings() is missing")

    def make_broker(self, config: Any) -> Broker:
        """Return the broker; override it where its waits can be shortened."""
        return self.plugin.factory(config)

    def feeds(self) -> frozenset[Feed]:
        """Return what the suite wants: each type of each symbol."""
        types = self.types or self.plugin.types
        return frozenset(Feed(s, t, default_variant(t)) for s in self.symbols for t in types)

    def served(self, venue: V) -> Collection[str] | None:
        """Return the canonical symbols that the venue serves to somebody now; None where nobody can tell."""
        return None

    async def send(self, venue: V, feed: Feed) -> float | None:
        """Have the venue give one more record of ``feed``, at a price that it has not given before.

        Return that price (a tick's bid, a trade's price, an order book's best bid), None where it cannot be told.
        """
        raise NotImplementedError(f"{type(self).__name__}: send() is missing")

    async def cut(self, venue: V) -> None:
        """End each connection without a word; new ones are accepted."""
        raise NotImplementedError(f"{type(self).__name__}: cut() is missing")

    async def go_dark(self, venue: V) -> None:
        """Let nothing more come of the connections, which stay open; until :meth:`admit` new ones may be dark too."""
        raise NotImplementedError(f"{type(self).__name__}: go_dark() is missing")

    async def garbage(self, venue: V, data: bytes) -> None:
        """Send ``data``, which no codec can use, in the place of a message."""
        raise NotImplementedError(f"{type(self).__name__}: garbage() is missing")

    async def refuse(self, venue: V, status: int) -> None:
        """Cut the connections and turn new ones and requests down: 401 for wrong credentials, 503 for a venue away."""
        raise NotImplementedError(f"{type(self).__name__}: refuse() is missing")

    async def admit(self, venue: V) -> None:
        """Be well again."""
        raise NotImplementedError(f"{type(self).__name__}: admit() is missing")


class WebSocketCase(BrokerCase[WebSocketVenueT]):
    """A case on a :class:`~mdserver.testing.websocket_venue.FakeWebSocketVenue`, whose faults it uses.

    Left to say: ``plugin``, :meth:`open_venue` and :meth:`send`.
    """

    def settings(self, venue: WebSocketVenueT) -> Mapping[str, object]:
        """Return ``url``, and ``rest_url`` where the config has it."""
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
        """Push it to all clients as a text message, with what is no UTF-8 replaced."""
        venue.push(None, data.decode(errors="replace"))

    async def refuse(self, venue: WebSocketVenueT, status: int) -> None:
        """Turn everything down."""
        venue.refuse(status)
        venue.rest_refusal = venue.refusal
        venue.reset()

    async def admit(self, venue: WebSocketVenueT) -> None:
        """Accept everything."""
        venue.admit()
        venue.rest_refusal = None


class HttpCase(BrokerCase[HttpVenueT]):
    """A case on a :class:`~mdserver.testing.http_venue.FakeHttpVenue`: a venue that is asked again and again.

    Left to say: ``plugin``, :meth:`open_venue`, :meth:`send` and :meth:`served`.
    """

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
        """Give it as the next answer; wait until it was given."""
        before = len(venue.requests)
        venue.fail(HttpFault("status", status=200, body=data), times=1)
        await venue.wait_until(lambda: len(venue.requests) > before)

    async def refuse(self, venue: HttpVenueT, status: int) -> None:
        """Turn every request down."""
        venue.heal()
        venue.fail(HttpFault("status", status=status))

    async def admit(self, venue: HttpVenueT) -> None:
        """Answer again."""
        venue.heal()


class HistoryCase(Generic[V]):
    """A history plugin and its fake remote side, of type ``V``.

    The fake has ``symbol``, which has ticks in the hour ``full_hour_us``, none in ``empty_hour_us``; it denies to have
    ``missing_hour_us`` (None: that cannot be). ``unknown`` is a symbol that the source does not have.
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
        """Return the source's keys of the config for it."""
        raise NotImplementedError(f"{type(self).__name__}: settings() is missing")

    def open_source(self, config: Any, host: Any) -> AbstractAsyncContextManager[HistorySource]:
        """Open the source; override it where its waits can be shortened."""
        return self.plugin.factory(config, host)

    async def damage(self, venue: V) -> None:
        """Damage what the remote side gives for the full hour, so that it cannot be decoded."""
        raise NotImplementedError(f"{type(self).__name__}: damage() is missing")

    async def go_away(self, venue: V) -> None:
        """Let the remote side fail for as long as the source asks."""
        raise NotImplementedError(f"{type(self).__name__}: go_away() is missing")


class CommandCase:
    """A command plugin: ``arguments`` to call it with, and ``output``, a text that it then prints.

    It is run as a process of its own, as ``mdserver run NAME ARGUMENTS`` with ``config`` and an empty database.
    """

    plugin: ClassVar[CommandPlugin]
    arguments: ClassVar[Sequence[str]] = ()
    output: ClassVar[str] = ""
    config: ClassVar[Mapping[str, object]] = MappingProxyType({"brokers": []})
    not_applicable: ClassVar[Mapping[str, str]] = NOTHING

    def open_venue(self) -> AbstractAsyncContextManager[None]:
        """Open what the command talks to; nothing, unless overridden."""
        return nullcontext()


ConformanceCase = BrokerCase[Any] | HistoryCase[Any] | CommandCase

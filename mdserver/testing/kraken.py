"""A fake Kraken over real sockets: the v2 stream and the public REST API, with made-up instruments, at once.

It behaves as the real one is known to, in unpleasant ways too. Each symbol is acknowledged by itself. A refusal leaves
the socket open. Heartbeats prove only that the socket works. A new snapshot looks like any other. No message reports
the levels that are pushed out of a book's depth. There are no sequence numbers::

    async with open_fake_kraken() as venue:
        ...  # connect a client to venue.url and venue.rest_url
        await venue.wait_until(lambda: "book:BTC/USD:10" in venue.topics)
        venue.lose_book_update("BTC/USD")   # from here on the client's checksum differs

By default there are no faults, and each market has ten events a second. With ``rules.pace_s = math.inf`` markets have
no events of their own, and the test causes each one by :meth:`FakeKraken.step`. Faults are set in the rules, or caused
by the methods here and those of :class:`~mdserver.testing.websocket_venue.FakeWebSocketVenue`. A script causes faults
at given times: ``open_fake_kraken(script=[(5.0, FakeKraken.reset_in_frame), (9.0, FakeKraken.lose_book_update)])``.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio

from . import _kraken_rest, _kraken_texts
from ._kraken_market import PAIRS, FakeMarket, FakeTrade, Pair, Window
from .websocket_venue import FakeClient, FakeWebSocketVenue, HttpAnswer, HttpRequest, Script, open_fake_venue

__all__ = ["PAIRS", "FakeKraken", "FakeTrade", "KrakenRules", "Pair", "open_fake_kraken"]

_DEPTHS = (10, 25, 100, 500, 1000)
_INTERVALS = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
_SYMBOL = re.compile(r"[A-Z0-9.]+/[A-Z0-9.]+")
_PRIVATE = "Private data and trading are unavailable on this endpoint. Try ws-auth.kraken.com"
_SNAPSHOT_TRADES = 50
_SNAPSHOT_CANDLES = 100


@attrs.define
class KrakenRules:
    """How the venue behaves; a test may change it at any time. Defaults are the real venue's, as far as known.

    ``pace_s``: seconds between two events in each market; ``math.inf``: only the test causes events.
    ``acks``: the order in which the symbols of a request are acknowledged.
    ``refused``: symbols that are refused although they are listed, each with its error.
    ``mute``: symbols whose subscription is neither acknowledged nor refused nor served.
    ``silent``: heartbeats go on but data stop; events meanwhile are lost, without any message about it.
    ``snapshots``: False leaves out the first messages of a subscription, for a test that sends its own.
    ``snapshot_delay_s``: pause between an acknowledgement and its snapshot; 3.5 s were observed.
    ``max_messages_per_s``: requests beyond it are refused with ``Exceeded msg rate``.
    ``rest_per_s`` and ``rest_burst``: the same for REST requests of one path and pair.
    ``skew_s``: how far the venue's clock is ahead of ours.
    """

    pace_s: float = 0.1
    heartbeat_s: float = 1.0
    idle_s: float = 60.0
    system: Literal["online", "cancel_only", "maintenance", "post_only"] = "online"
    acks: Literal["asked", "reversed", "shuffled"] = "asked"
    refused: dict[str, str] = attrs.Factory(dict)
    mute: frozenset[str] = frozenset()
    silent: bool = False
    snapshots: bool = True
    snapshot_delay_s: float = 0.0
    max_messages_per_s: float = math.inf
    max_connects: int = 150
    connects_window_s: float = 600.0
    rest_delay_s: float = 0.0
    rest_per_s: float = 1.0
    rest_burst: int = 3
    skew_s: float = 0.0


class FakeKraken(FakeWebSocketVenue):
    """The venue. ``markets`` are keyed by v2 symbol; their content may be changed between two steps."""

    path = "/v2"

    def __init__(
        self, rules: KrakenRules | None = None, pairs: Iterable[Pair] = PAIRS, seed: int = 1
    ) -> None:
        super().__init__()
        self.rules = rules or KrakenRules()
        self._rng = random.Random(seed)  # noqa: S311 - made-up prices
        self.markets = {pair.symbol: FakeMarket(pair, self.now_ns(), self._rng) for pair in pairs}
        self._windows: dict[tuple[str, int], Window] = {}
        self._damaged: set[str] = set()
        self._lost: set[str] = set()
        self._message_times: dict[FakeClient, deque[float]] = {}
        self._attempt_times: deque[float] = deque()
        self._rest_times: dict[tuple[str, str], deque[float]] = {}
        self._later: list[tuple[float, FakeClient, str, dict[str, Any]]] = []

    def now_ns(self) -> int:
        """Return the time by the venue's clock."""
        return time.time_ns() + int(self.rules.skew_s * 1e9)

    # -- events that a test causes ----------------------------------------------------------------------

    def step(self, symbol: str) -> None:
        """Produce the next event of a market and send it to its subscribers."""
        market, now_ns = self.markets[symbol], self.now_ns()
        before = market.best()
        executions = market.step(now_ns)
        if not self.rules.silent:
            self._tell_books(market, now_ns)
            self._tell_rest(market, executions, now_ns, quoted=market.best() != before)

    def trade(self, symbol: str, count: int = 1, *, skip_ids: int = 0) -> list[FakeTrade]:
        """Fill one order in ``count`` executions at one time; ``skip_ids`` earlier trades are never sent."""
        market, now_ns = self.markets[symbol], self.now_ns()
        market.next_trade_id += skip_ids
        (bid, _), _ = market.best()
        executions = [market.execute(bid, 5100 + n, "sell", now_ns) for n in range(count)]
        if not self.rules.silent:
            self._tell_rest(market, executions, now_ns, quoted=False)
        return executions

    def break_checksum(self, symbol: str | None = None) -> None:
        """Give the next message of each book of a symbol (None: of all) a wrong checksum."""
        self._damaged.update(self.markets if symbol is None else [symbol])

    def lose_book_update(self, symbol: str | None = None) -> None:
        """Leave out the next update of each book of a symbol (None: of all)."""
        self._lost.update(self.markets if symbol is None else [symbol])

    def change_system(self, system: Literal["online", "cancel_only", "maintenance", "post_only"]) -> None:
        """Change the state of the exchange and send it to all clients."""
        self.rules.system = system
        self.push(None, _kraken_texts.status(self._rng.getrandbits(64), system))

    def list_pair(self, pair: Pair) -> None:
        """List a new pair, or change the status of one, and send it to the subscribers of instruments."""
        if pair.symbol in self.markets:
            self.markets[pair.symbol].pair = pair
        else:
            self.markets[pair.symbol] = FakeMarket(pair, self.now_ns(), self._rng)
        self.push("instrument", _kraken_texts.instrument([pair], "update"))

    # -- the venue's side of FakeWebSocketVenue -------------------------------------------------------

    async def on_attempt(self, request: HttpRequest) -> HttpAnswer | None:
        """Refuse too many attempts within ten minutes, as the network in front of the real venue does."""
        now, rules = trio.current_time(), self.rules
        if not _within(self._attempt_times, now, rules.max_connects, rules.connects_window_s):
            return HttpAnswer(429, "<html>error code: 1015</html>", {"Content-Type": "text/html"})
        return await super().on_attempt(request)

    async def on_connect(self, client: FakeClient) -> None:
        """Send the status frame."""
        client.send(_kraken_texts.status(self._rng.getrandbits(64), self.rules.system))

    async def on_message(self, client: FakeClient, text: str) -> None:
        """Answer a request."""
        now_ns = self.now_ns()
        try:
            request = json.loads(text)
            method, params = request["method"], request.get("params") or {}
            req_id = request.get("req_id")
        except (ValueError, KeyError, TypeError, AttributeError):
            client.send({"error": "Malformed request", "success": False})
            return
        times = self._message_times.setdefault(client, deque())
        if not _within(times, trio.current_time(), self.rules.max_messages_per_s, 1.0):
            client.send(_kraken_texts.refusal(method, "Exceeded msg rate", None, req_id, now_ns))
        elif method == "ping":
            moment = _kraken_texts.rfc3339(now_ns)
            pong = {"method": "pong", "time_in": moment, "time_out": moment}
            client.send(pong if req_id is None else pong | {"req_id": req_id})
        elif method in ("subscribe", "unsubscribe") and isinstance(params, dict):
            client.topics.add("heartbeat")
            self._subscription(client, method, params, req_id)
        else:
            client.send(_kraken_texts.refusal(method, "Unsupported method", None, req_id, now_ns))

    async def on_http(self, request: HttpRequest) -> HttpAnswer:
        """Answer a REST request."""
        await trio.sleep(self.rules.rest_delay_s)
        if not request.path.startswith("/0/public/"):
            return HttpAnswer(404, "not found")
        if pair := request.query.get("pair"):
            times = self._rest_times.setdefault((request.path, pair), deque())
            window_s = self.rules.rest_burst / self.rules.rest_per_s
            if not _within(times, trio.current_time(), self.rules.rest_burst, window_s):
                return HttpAnswer(200, {"error": ["EGeneral:Too many requests"]})
        return _kraken_rest.answer(self.markets, request, self.rules.system, self.now_ns())

    async def run(self) -> None:
        """Send heartbeats and produce the markets' events, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._live)
            nursery.start_soon(self._beat)

    async def _live(self) -> None:
        next_at = trio.current_time() + self.rules.pace_s
        while True:
            await trio.sleep(min(0.02, self.rules.pace_s))
            now = trio.current_time()
            due = [later for later in self._later if later[0] <= now]
            self._later = [later for later in self._later if later[0] > now]
            for _, client, topic, params in due:
                self._begin(client, topic, params)
            next_at = min(next_at, now + self.rules.pace_s)  # the pace may have changed meanwhile
            if now >= next_at:
                next_at = now + self.rules.pace_s
                for symbol in list(self.markets):
                    self.step(symbol)

    async def _beat(self) -> None:
        while True:
            await trio.sleep(self.rules.heartbeat_s)
            self.push("heartbeat", '{"channel":"heartbeat"}')
            for client in self.clients:
                if not client.topics and trio.current_time() - client.active_at > self.rules.idle_s:
                    client.close(1000, "")

    # -- subscriptions ----------------------------------------------------------------------------------

    def _subscription(self, client: FakeClient, method: str, params: dict[str, Any], req_id: object) -> None:
        channel, symbols = params.get("channel"), params.get("symbol", [])
        now_ns = self.now_ns()
        if channel == "instrument":
            symbols = [None]
        elif channel not in ("ticker", "trade", "book", "ohlc"):
            known = ("executions", "balances", "level3")
            error = _PRIVATE if channel in known else f"Channel not supported {channel}"
            client.send(_kraken_texts.refusal(method, error, None, req_id, now_ns))
            return
        elif not isinstance(symbols, list):
            client.send(_kraken_texts.refusal(method, "Symbol(s) must be an array", None, req_id, now_ns))
            return
        if self.rules.acks == "shuffled":
            symbols = self._rng.sample(symbols, len(symbols))
        for symbol in reversed(symbols) if self.rules.acks == "reversed" else symbols:
            if symbol in self.rules.mute:
                continue
            fault = self._fault(client, method, symbol, params)
            if fault is not None:
                client.send(_kraken_texts.refusal(method, fault, symbol, req_id, now_ns))
                continue
            client.send(_kraken_texts.acknowledgement(method, _result(symbol, params), req_id, now_ns))
            topic = _topic(symbol, params)
            if method == "unsubscribe":
                client.topics.discard(topic)
                self._later = [later for later in self._later if later[1:3] != (client, topic)]
            elif self.rules.snapshot_delay_s:
                at = trio.current_time() + self.rules.snapshot_delay_s
                self._later.append((at, client, topic, params))
            else:
                self._begin(client, topic, params)

    def _fault(self, client: FakeClient, method: str, symbol: object, params: dict[str, Any]) -> str | None:
        """Return why a request for one symbol is refused, or None."""
        channel = params["channel"]
        if channel != "instrument":
            if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol):
                return f"Currency pair not in ISO 4217-A3 format {symbol}"
            if symbol in self.rules.refused:
                return self.rules.refused[symbol]
            if symbol not in self.markets:
                return f"Currency pair not supported {symbol}"
        if channel == "book" and params.get("depth", 10) not in _DEPTHS:
            return "Subscription depth not supported"
        if channel == "ohlc" and params.get("interval", 1) not in _INTERVALS:
            return "Subscription ohlc interval not supported"
        if channel == "ticker" and params.get("event_trigger", "trades") not in ("trades", "bbo"):
            return "Event trigger not supported"
        subscribed = _topic(symbol, params) in client.topics
        if subscribed and method == "subscribe":
            return "Already subscribed"
        return "Subscription Not Found" if not subscribed and method == "unsubscribe" else None

    def _begin(self, client: FakeClient, topic: str, params: dict[str, Any]) -> None:
        """Serve a subscription from now on, first with a snapshot if the client wants one."""
        if client not in self.clients:
            return
        client.topics.add(topic)
        channel, symbol, *rest = [*topic.split(":"), ""]
        if channel == "book":
            depth = int(rest[0])
            window = self._windows[symbol, depth] = self.markets[symbol].window(depth)
        if self.rules.snapshots and params.get("snapshot", channel != "trade"):
            market, now_ns = self.markets.get(symbol), self.now_ns()
            if market is None:
                text = _kraken_texts.instrument([m.pair for m in self.markets.values()], "snapshot")
            elif channel == "book":
                text = _kraken_texts.book(
                    market.pair, "snapshot", window, window, now_ns, damage=self._damage(symbol)
                )
            elif channel == "ticker":
                text = _kraken_texts.ticker(market, "snapshot", now_ns)
            elif channel == "trade":
                newest = list(market.trades)[-_SNAPSHOT_TRADES:]
                text = _kraken_texts.trade(market.pair, "snapshot", newest)
            else:
                found = _kraken_texts.candles(market, int(rest[0]))
                newest_candles = dict(list(found.items())[-_SNAPSHOT_CANDLES:])
                text = _kraken_texts.ohlc(market.pair, "snapshot", int(rest[0]), newest_candles, now_ns)
            client.send(text)
        self.tell()

    # -- data ---------------------------------------------------------------------------------------------

    def _tell_books(self, market: FakeMarket, now_ns: int) -> None:
        symbol = market.pair.symbol
        damage, lost = int(symbol in self._damaged), symbol in self._lost
        told = False
        for depth in _DEPTHS:
            topic = f"book:{symbol}:{depth}"
            if topic not in self.topics:
                continue
            before, now = self._windows[symbol, depth], market.window(depth)
            bids = _changes(before[0], now[0], market.bids)
            asks = _changes(before[1], now[1], market.asks)
            self._windows[symbol, depth] = now
            if bids or asks:
                told = True
                if not lost:
                    self.push(
                        topic,
                        _kraken_texts.book(market.pair, "update", (bids, asks), now, now_ns, damage=damage),
                    )
        if told:
            (self._lost if lost else self._damaged).discard(symbol)

    def _tell_rest(
        self, market: FakeMarket, executions: Sequence[FakeTrade], now_ns: int, *, quoted: bool
    ) -> None:
        symbol, topics = market.pair.symbol, self.topics
        if executions:
            self.push(f"trade:{symbol}", _kraken_texts.trade(market.pair, "update", executions))
            for minutes in _INTERVALS:
                if f"ohlc:{symbol}:{minutes}" in topics:
                    start_s, trades = _kraken_texts.candles(market, minutes).popitem()
                    text = _kraken_texts.ohlc(market.pair, "update", minutes, {start_s: trades}, now_ns)
                    self.push(f"ohlc:{symbol}:{minutes}", text)
        for trigger, due in (("trades", bool(executions)), ("bbo", quoted)):
            if due and f"ticker:{symbol}:{trigger}" in topics:
                self.push(f"ticker:{symbol}:{trigger}", _kraken_texts.ticker(market, "update", now_ns))

    def _damage(self, symbol: str) -> int:
        """Return what to add to the next checksum of a symbol."""
        damage = int(symbol in self._damaged)
        self._damaged.discard(symbol)
        return damage


@asynccontextmanager
async def open_fake_kraken(
    rules: KrakenRules | None = None, *, pairs: Iterable[Pair] = PAIRS, script: Script = (), seed: int = 1
) -> AsyncIterator[FakeKraken]:
    """Run a fake Kraken on a free local port for the length of the block."""
    async with open_fake_venue(FakeKraken(rules, pairs, seed), script=script) as venue:
        yield venue


def _topic(symbol: object, params: dict[str, Any]) -> str:
    """Return the name under which a subscription is kept: ``book:BTC/USD:10``, ``ticker:BTC/USD:bbo``."""
    channel = params["channel"]
    if channel == "instrument":
        return "instrument"
    detail = {
        "book": params.get("depth", 10),
        "ohlc": params.get("interval", 1),
        "ticker": params.get("event_trigger", "trades"),
    }.get(channel)
    return f"{channel}:{symbol}" if detail is None else f"{channel}:{symbol}:{detail}"


def _result(symbol: object, params: dict[str, Any]) -> dict[str, object]:
    """Return the ``result`` in the acknowledgement of a subscription."""
    channel = params["channel"]
    result: dict[str, object] = {"channel": channel, "snapshot": params.get("snapshot", channel != "trade")}
    defaults = {"book": ("depth", 10), "ohlc": ("interval", 1), "ticker": ("event_trigger", "trades")}
    if channel in defaults:
        name, default = defaults[channel]
        result[name] = params.get(name, default)
    if channel == "ohlc":
        result["warnings"] = ["timestamp is deprecated, use interval_begin"]
    return result if symbol is None else result | {"symbol": symbol}


def _changes(before: dict[int, int], now: dict[int, int], whole: dict[int, int]) -> dict[int, int]:
    """Return the levels to send, with size 0 for a removed one; a level only pushed out of the depth is not sent."""
    changed = {price: size for price, size in now.items() if before.get(price) != size}
    return changed | {price: 0 for price in before if price not in whole}


def _within(times: deque[float], now: float, most: float, window_s: float) -> bool:
    """Record a request and return whether it is one of the ``most`` allowed within ``window_s``."""
    while times and times[0] <= now - window_s:
        times.popleft()
    if len(times) >= most:
        return False
    times.append(now)
    return True

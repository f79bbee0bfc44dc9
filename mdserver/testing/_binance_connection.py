"""One client of the fake Binance, after the WebSocket handshake."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from typing import Any

import attrs
import msgspec
import trio

from ._binance_control import Answer, StreamState
from .fake_client import FakeClient
from .http_exchange import HttpAnswer

__all__ = ["BinanceRules", "FakeConnection", "Refusal", "in_microseconds", "rest_in_microseconds"]

Refusal = tuple[int, dict[str, str], str]
"""HTTP status, extra headers and body."""

_TIMES = ("E", "T", "time", "serverTime", "closeTime", "openTime", "O", "C")
_KLINE_TIMES = (0, 6)


@attrs.define
class BinanceRules:
    """How the venue behaves; a test may change it at any time. Defaults are the real venue's.

    ``pace_s``: seconds between two events in each made-up market with subscribers; ``math.inf``: only the test causes
    events. ``skew_s``: how far the venue's clock is ahead of ours.
    ``refuse``: HTTP status, extra headers and body of the answer to every new connection; ``rest_refuse``: the same for
    REST requests. ``rest_delay_s`` delays every REST answer, ``depth_delay_s`` the answers with an order book. The book
    is taken before the delay, as on the real venue, where 1 to 1.5 s were observed.
    ``malformed``: well-formed stream names to treat as malformed: a nested error, then a close.
    ``answer_requests``: False leaves every control message without a reply. ``ack_delay_s``: each reply is delayed by a
    random time up to this, so replies arrive in any order and data may arrive first.
    ``answer_pings``: False leaves the client's pings unanswered.
    ``weight_per_minute``: the request weight allowed; beyond it the status is 429, and after ``warnings`` of those 418.
    ``without``: REST paths that the venue lacks; the hosts that serve market data only lack historicalTrades.
    """

    pace_s: float = 0.1
    skew_s: float = 0.0
    ping_interval_s: float = 20.0
    pong_timeout_s: float = 60.0
    lifetime_s: float = 24 * 3600.0
    lifetime_close: tuple[int, str] = (1000, "")
    max_streams: int = 1024
    max_messages_per_s: int = 5
    max_connects: int = 300
    connects_window_s: float = 300.0
    refuse: Refusal | None = None
    malformed: frozenset[str] = frozenset()
    answer_requests: bool = True
    ack_delay_s: float = 0.0
    answer_pings: bool = True
    rest_delay_s: float = 0.0
    depth_delay_s: float = 0.0
    rest_refuse: Refusal | None = None
    weight_per_minute: int = 6000
    warnings: int = 5
    without: frozenset[str] = frozenset()


class FakeConnection:
    """A connected client. ``received`` holds its text messages, ``closed_by`` the reason why the venue closed it.

    Messages to the client are queued in order, and no call here waits until they are sent. ``client`` offers further
    faults: ``go_dark()``, ``reset_in_frame()``, ``bytes_per_s``.
    """

    def __init__(
        self, client: FakeClient, rules: BinanceRules, state: StreamState, *, microseconds: bool
    ) -> None:
        self.client = client
        self._rules = rules
        self._state = state
        self._microseconds = microseconds
        self._arrivals: deque[float] = deque()
        self._ping: tuple[bytes, float] | None = None
        self._late: trio.Nursery | None = None
        client.on_frame = self._count_frame

    @property
    def streams(self) -> frozenset[str]:
        """The streams that it is subscribed to."""
        return frozenset(self._state.streams)

    @property
    def received(self) -> list[str]:
        """Its text messages so far."""
        return self.client.received

    @property
    def pongs(self) -> list[bytes]:
        """Payloads of its pongs."""
        return self.client.pongs

    @property
    def closed_by(self) -> tuple[int, str] | None:
        """Code and reason of the venue's close frame."""
        return self.client.closed_by

    @property
    def client_close(self) -> tuple[int, str] | None:
        """Code and reason of the client's close frame."""
        return self.client.client_close

    async def serve(self) -> None:
        """Run until either side ends the connection."""
        async with trio.open_nursery() as nursery:
            self._late = nursery
            nursery.start_soon(self._ping_forever)
            nursery.start_soon(self._end_of_life)
            await self.client.serve(self._greet, self._take)
            nursery.cancel_scope.cancel()

    async def _greet(self, _client: FakeClient) -> None:
        """Send no greeting: the real venue sends none."""

    async def send_data(self, stream: str, data: bytes) -> None:
        """Send a payload of a stream, even without a subscription, raw or combined as this connection expects."""
        if self._microseconds:
            data = in_microseconds(data)
        name = stream.encode()
        await self.send_text(b'{"stream":"%s","data":%s}' % (name, data) if self._state.combined else data)

    async def send_text(self, text: bytes | str) -> None:
        """Send any text message."""
        self.client.send(text)
        await trio.lowlevel.checkpoint()

    async def send_raw(self, data: bytes) -> None:
        """Put bytes on the wire as they are: half a frame, garbage, frames made by the test."""
        self.client.send_raw(data)
        await trio.lowlevel.checkpoint()

    async def send_ping(self, payload: bytes | None = None) -> bytes:
        """Send a ping as the venue does, the ms epoch in 13 bytes; return its payload."""
        payload = str(time.time_ns() // 1_000_000).encode() if payload is None else payload
        self._ping = (payload, trio.current_time())
        self.client.ping(payload)
        await trio.lowlevel.checkpoint()
        return payload

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame and hang up once it is sent."""
        self.client.close(code, reason)
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Cut the TCP connection with a reset."""
        self.client.reset()

    def _count_frame(self) -> None:
        """Close the connection after too many messages within a second; pings and pongs count."""
        now = trio.current_time()
        self.client.answers_pings = self._rules.answer_pings
        self._arrivals.append(now)
        while self._arrivals[0] <= now - 1.0:
            self._arrivals.popleft()
        if len(self._arrivals) > self._rules.max_messages_per_s:
            self.client.close(1008, "Too many requests")

    async def _take(self, _client: FakeClient, text: str) -> None:
        if not self._rules.answer_requests or self.closed_by is not None:
            return
        self._state.max_streams, self._state.malformed = self._rules.max_streams, self._rules.malformed
        answer = self._state.answer(text)
        if self._rules.ack_delay_s and self._late is not None:
            self._late.start_soon(self._answer_late, answer)
        else:
            self._answer(answer)

    async def _answer_late(self, answer: Answer) -> None:
        await trio.sleep(random.uniform(0.0, self._rules.ack_delay_s))  # noqa: S311 - guards nothing
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        self.client.send(answer.text)
        if answer.close is not None:
            self.client.close(*answer.close)

    async def _ping_forever(self) -> None:
        while True:
            await trio.sleep(self._rules.ping_interval_s)
            if self._ping is None or self._ping[0] in self.pongs:
                await self.send_ping()
            elif trio.current_time() - self._ping[1] >= self._rules.pong_timeout_s:
                await self.close(1008, "Pong timeout")

    async def _end_of_life(self) -> None:
        if self._rules.lifetime_s < math.inf:
            await trio.sleep(self._rules.lifetime_s)
            await self.close(*self._rules.lifetime_close)


def in_microseconds(data: bytes) -> bytes:
    """Return the venue's JSON with its times converted from milliseconds to microseconds."""
    return msgspec.json.encode(_scaled(msgspec.json.decode(data)))


def rest_in_microseconds(answer: HttpAnswer) -> HttpAnswer:
    """Return a REST answer with its times converted to microseconds."""
    return attrs.evolve(answer, content=_scaled(msgspec.to_builtins(answer.content)))


def _scaled(value: Any) -> Any:
    if isinstance(value, dict):
        times = _TIMES if value.get("e") != "kline" else ("E",)
        scaled = {
            key: one * 1000 if key in times and isinstance(one, int) else _scaled(one)
            for key, one in value.items()
        }
        if isinstance(value.get("k"), dict):
            scaled["k"] = {key: one * 1000 if key in ("t", "T") else one for key, one in value["k"].items()}
        return scaled
    if isinstance(value, list):
        if len(value) == 12 and isinstance(value[0], int):  # a candle
            return [one * 1000 if at in _KLINE_TIMES else one for at, one in enumerate(value)]
        return [_scaled(one) for one in value]
    return value

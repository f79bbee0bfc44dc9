r"""A generic venue over HTTP, on real sockets: answers by route, streams to push to, faults on demand.

A fake of a venue of your own is a handful of routes::

    async with open_fake_http() as venue:
        venue.route("/time", {"now": 1700000000})                  # JSON, bytes, an HttpAnswer, or a function

        async def prices(exchange: FakeExchange) -> None:          # a body that does not end
            await exchange.start_stream()
            await exchange.wait_gone()

        venue.route("/prices/{symbol}", prices)
        ...                                                        # point the plugin to venue.url
        async def news(exchange: FakeExchange) -> object:          # a long poll: what is returned is the answer
            await venue.hold(exchange, lambda: bool(waiting), 4.0)
            return waiting

        venue.route("/news", news)
        venue.route("/beat", {"ok": True}, method="POST")
        await venue.wait_streams(1, "/prices/")
        await venue.push(b'{"bid": 1.1, "ask": 1.2}\n', "/prices/EURUSD")
        venue.fail(HttpFault("status", status=503), times=2)

A fake with state of its own is a subclass: ``async with open_fake_http(FakeAcme()) as venue``. Every request is kept in
``venue.requests``. Connections are kept alive, as a real server's are.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import isawaitable
from typing import TypeAlias, TypeVar, overload
from urllib.parse import unquote

import h11
import trio

from .fake_exchange import FakeExchange, HttpFault, reset_on_close
from .http_exchange import GONE, HttpAnswer, HttpRequest, read_request

__all__ = [
    "ConnectLimit",
    "FakeExchange",
    "FakeHttpVenue",
    "Handler",
    "HttpAnswer",
    "HttpFault",
    "HttpRequest",
    "open_fake_http",
]


class ConnectLimit:
    """Allows a number of connections within a number of seconds; further ones are reset. Venues may share a limit."""

    def __init__(self, most: int, window_s: float) -> None:
        self.most = most
        self.window_s = window_s
        self.refused = 0
        self._times: deque[float] = deque()

    def allows(self) -> bool:
        """Count a connection and return whether it is within the limit."""
        now = trio.current_time()
        while self._times and self._times[0] <= now - self.window_s:
            self._times.popleft()
        if len(self._times) >= self.most:
            self.refused += 1
            return False
        self._times.append(now)
        return True


Handler: TypeAlias = Callable[[FakeExchange], object]
"""A route's function, async or not: what it returns is the answer (an HttpAnswer, or content with status 200); None: it
has answered by the exchange's methods."""


class FakeHttpVenue:
    """The server. ``requests`` are all requests so far, ``exchanges`` the unfinished ones, oldest first.

    ``gate`` is called with each request before its route; an answer that it returns is sent in place of the route's.
    """

    def __init__(self, limit: ConnectLimit | None = None) -> None:
        self.url = ""
        self.limit = limit
        self.requests: list[HttpRequest] = []
        self.exchanges: list[FakeExchange] = []
        self.gate: Callable[[FakeExchange], HttpAnswer | None] = lambda _: None
        self._routes: list[tuple[str, re.Pattern[str], Handler | HttpAnswer]] = []
        self._faults: list[tuple[HttpFault, int | None, str]] = []
        self._changed = trio.Event()

    def route(self, path: str, answer: Handler | HttpAnswer | object, *, method: str = "GET") -> None:
        """Answer requests of ``path``, in which ``{name}`` matches one part. The newest matching route is used."""
        parts = re.split(r"\{(\w+)\}", path)
        pattern = "".join(f"(?P<{p}>[^/]+)" if at % 2 else re.escape(p) for at, p in enumerate(parts))
        if not callable(answer) and not isinstance(answer, HttpAnswer):
            answer = HttpAnswer(content=answer)
        self._routes.insert(0, (method, re.compile(pattern), answer))

    def fail(self, fault: HttpFault, *, times: int | None = None, path: str = "") -> None:
        """Apply a fault to the next ``times`` requests (None: all) whose path contains ``path``.

        Faults are used up in the order in which they were given.
        """
        self._faults.append((fault, times, path))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def streams(self, path: str = "") -> list[FakeExchange]:
        """Return the open streams whose path contains ``path``, oldest first."""
        return [e for e in self.exchanges if e.streaming and path in e.request.path]

    async def push(self, data: bytes, path: str = "") -> int:
        """Send a chunk to all streams whose path contains ``path``; return their number."""
        count = 0
        for exchange in self.streams(path):
            try:
                await exchange.send(data)
            except GONE:
                continue  # it is ending
            count += 1
        return count

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds; it is checked after each request, stream start and exchange end."""
        while not condition():
            await self._changed.wait()

    async def wait_streams(self, count: int, path: str = "") -> list[FakeExchange]:
        """Wait until exactly ``count`` streams are open and return them."""
        await self.wait_until(lambda: len(self.streams(path)) == count)
        return self.streams(path)

    async def wait_requests(self, count: int, path: str = "") -> None:
        """Wait until ``count`` requests whose path contains ``path`` have been received."""
        await self.wait_until(lambda: sum(path in request.path for request in self.requests) >= count)

    async def hold(self, exchange: FakeExchange, condition: Callable[[], bool], most_s: float) -> bool:
        """Wait as a long poll does: until ``condition`` holds, ``most_s`` are over or the client has gone.

        Returns whether it holds. It is checked as in :meth:`wait_until`: call :meth:`tell` when there is news.
        """
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await exchange.wait_gone()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            with trio.move_on_after(most_s):
                await self.wait_until(condition)
            nursery.cancel_scope.cancel()
        return condition()

    def tell(self) -> None:
        """Check the conditions waited for again; call it in a fake with further state of its own."""
        self._changed.set()
        self._changed = trio.Event()

    async def serve_stream(self, stream: trio.SocketStream) -> None:
        """Serve one TCP connection, with keep-alive, from its first byte to its end."""
        async with stream:
            if self.limit is not None and not self.limit.allows():
                reset_on_close(stream)
                self.tell()
                return
            try:
                http = h11.Connection(h11.SERVER)
                while (request := await read_request(stream, http)) is not None:
                    await self._serve(FakeExchange(stream, http, request, self.tell))
                    if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                        return
                    http.start_next_cycle()
            except (*GONE, h11.ProtocolError):
                return  # a client that disconnects or breaks the protocol must not fail the test

    async def _serve(self, exchange: FakeExchange) -> None:
        self.requests.append(exchange.request)
        self.exchanges.append(exchange)
        self.tell()
        try:
            fault = self._take_fault(exchange.request.path)
            if fault is not None and await exchange.misbehave(fault):
                return
            await self._route(exchange)
        finally:
            exchange.streaming = False
            self.exchanges.remove(exchange)
            self.tell()

    async def _route(self, exchange: FakeExchange) -> None:
        answer = self.gate(exchange)
        if answer is not None:
            await exchange.answer(answer)
            return
        allowed: list[str] = []
        for method, pattern, found in self._routes:
            match = pattern.fullmatch(exchange.request.path)
            if match is None:
                continue
            if exchange.request.method != method:
                allowed.append(method)
                continue
            exchange.params = {name: unquote(text) for name, text in match.groupdict().items()}
            await self._answer(exchange, found)
            return
        if allowed:
            told = f"{exchange.request.method} is not allowed here, only {', '.join(sorted(set(allowed)))}"
            await exchange.answer(HttpAnswer(405, {"errorMessage": told}, {"Allow": ", ".join(allowed)}))
        else:
            await exchange.respond(404, {"errorMessage": "not found"})

    async def _answer(self, exchange: FakeExchange, found: Handler | HttpAnswer) -> None:
        answer: object = found
        if not isinstance(found, HttpAnswer):
            answer = found(exchange)
            if isawaitable(answer):
                answer = await answer
        if answer is not None:
            await exchange.answer(answer if isinstance(answer, HttpAnswer) else HttpAnswer(content=answer))

    def _take_fault(self, path: str) -> HttpFault | None:
        for index, (fault, times, part) in enumerate(self._faults):
            if part not in path:
                continue
            if times is not None:
                self._faults[index] = (fault, times - 1, part)
                if times == 1:
                    del self._faults[index]
            return fault
        return None


HttpVenueT = TypeVar("HttpVenueT", bound=FakeHttpVenue)


@overload
def open_fake_http(
    venue: Mapping[str, Handler | HttpAnswer | object] | None = None,
    *,
    limit: ConnectLimit | None = None,
    port: int = 0,
) -> AbstractAsyncContextManager[FakeHttpVenue]: ...
@overload
def open_fake_http(venue: HttpVenueT, *, port: int = 0) -> AbstractAsyncContextManager[HttpVenueT]: ...
def open_fake_http(
    venue: FakeHttpVenue | Mapping[str, Handler | HttpAnswer | object] | None = None,
    *,
    limit: ConnectLimit | None = None,
    port: int = 0,
) -> AbstractAsyncContextManager[FakeHttpVenue]:
    """Serve a venue, or the routes of one, on a loopback port (0: a free one) for the length of the block."""
    if not isinstance(venue, FakeHttpVenue):
        routes, venue = venue or {}, FakeHttpVenue(limit)
        for path, answer in routes.items():
            venue.route(path, answer)
    return _served(venue, port)


@asynccontextmanager
async def _served(venue: HttpVenueT, port: int) -> AsyncIterator[HttpVenueT]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        venue.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.start_soon(trio.serve_listeners, venue.serve_stream, listeners)  # noqa: ASYNC113 - they listen already
        yield venue
        nursery.cancel_scope.cancel()

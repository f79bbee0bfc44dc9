"""The client for asyncio and trio."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from weakref import WeakSet

import anyio
import httpx2

from ._queries import Answer, Asking, Query, decode_answer
from ._questions import Questions
from ._resumption import Resumption
from ._stream import Stream
from ._websocket import WebSocket, close_all
from .errors import ConnectionFailed, reason_of
from .messages import Status
from .records import Position, Record, RecordType, Time

__all__ = ["Client", "base_url", "connect"]

TIMEOUT_S = 30.0

T = TypeVar("T")


def connect(
    url: str = "http://127.0.0.1:8080",
    key: str | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Client:
    """Return a client, to be used with ``async with``. Nothing is sent yet.

    Args:
        url: Where the server listens, ``http://`` or ``https://``.
        key: The client key, where the server asks for one.
        tls: Which certificates to trust; default: those of the system.
        timeout_s: Of each question to history.
    """
    return Client(url, key, tls=tls, timeout_s=timeout_s)


def base_url(url: str) -> str:
    """Return the address without a slash at its end. Raises ValueError for what is none."""
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url: expected http://HOST:PORT or https://HOST:PORT, got {url!r}")
    return parts._replace(scheme=scheme, query="", fragment="").geturl().rstrip("/")


class Client(Questions):
    """Questions to history, and streams. Make it with :func:`connect`; leaving it closes all of its connections."""

    def __init__(self, url: str, key: str | None, *, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        self.url = base_url(url)
        self._key = key
        self._tls = tls
        self._timeout_s = timeout_s
        self._http: httpx2.AsyncClient | None = None
        self._stack = AsyncExitStack()
        self._streams: WeakSet[Stream] = WeakSet()
        self._abandoned: list[WebSocket] = []

    async def __aenter__(self) -> Client:
        self._http = await self._stack.enter_async_context(
            httpx2.AsyncClient(**http_options(self._key, self._tls, self._timeout_s))
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        with anyio.CancelScope(shield=True):  # each stream bounds its own goodbye
            for stream in list(self._streams):
                await stream.aclose()
            await close_all(self._abandoned)
        self._http = None
        await self._stack.aclose()

    def stream(
        self,
        symbols: Sequence[str] = (),
        types: Sequence[RecordType] = ("tick",),
        broker: str | None = None,
        since: Time | Position | Mapping[str, Any] | None = None,
        *,
        interval: str | None = None,
        depth: int | str | None = None,
        snapshot: bool | None = None,
        received: bool | None = None,
        rate_ms: int | None = None,
        slow: Literal["conflate", "close"] | None = None,
        skip_refused: bool = False,
        on_status: Callable[[Status], None] | None = None,
    ) -> Stream:
        """Return an endless stream of records: ``async for record in client.stream(["EURUSD"])``.

        It connects anew when the connection is lost, and resumes: each tick and trade comes exactly once, in order,
        or a :class:`Gap` says between which times some may be missing. The first connection must succeed.

        Args:
            symbols: At least one, or none where ``since`` is a position, which names them itself. ``["*"]``: all that
                ``broker`` streams, now and later.
            types: Of ``tick``, ``trade``, ``candle``, ``orderbook``.
            broker: Default: the first of the server's config that has the symbol.
            since: A time or a :attr:`Stream.position` to begin at; live follows on it.
            interval: Of candles, such as ``1m``.
            depth: Of order books.
            snapshot: The last record of each topic comes first.
            received: Records carry when the server's socket had them.
            rate_ms: At most one tick, forming candle or order book of an instrument in so many milliseconds.
            slow: ``close`` has the server close the connection, and the client resume, in place of conflating.
            skip_refused: Go on without symbols and types that the server refuses; :attr:`Stream.refused` has them.
            on_status: Called with each change of the connection and of the brokers.

        Iteration raises:
            ConnectionFailed: The first connection fails.
            NotAuthenticated: The server asks for a key, or does not take this one.
            Refused: A symbol, a type or the request is refused.
            ProtocolViolation: The other end does not speak the protocol.
        """
        if isinstance(symbols, str):
            raise TypeError(f"symbols: expected a list of symbols, got the text {symbols!r}")
        options: dict[str, Any] = {
            "interval": interval,
            "depth": depth,
            "snapshot": snapshot,
            "received": received,
        }
        options |= {"rate_ms": rate_ms, "slow": slow}
        resumption = Resumption(symbols, types, broker, since, options)
        url = self.url.replace("http", "ws", 1) + "/?batch=true"
        stream = Stream(
            url,
            self._key,
            self._tls,
            resumption,
            self._abandoned,
            skip_refused=skip_refused,
            on_status=on_status,
        )
        self._streams.add(stream)
        return stream

    def batches(self, *arguments: Any, **options: Any) -> AsyncIterator[list[Record]]:
        """Return an iterator over lists of records, each with all that has come since the one before.

        Arguments: :meth:`stream`.
        """
        return self.stream(*arguments, **options).batches()

    async def _run(self, asking: Asking[T]) -> T:
        answer = None
        while True:
            try:
                query = asking.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            answer = decode_answer(await self._get(query))

    async def _get(self, query: Query) -> Answer:
        if self._http is None:
            raise RuntimeError("the client is closed: use it within `async with connect(…) as client`")
        url, parameters = self.url + query.path, given(query)
        try:
            response = await self._http.get(url, params=parameters)
        except httpx2.HTTPError as error:
            raise unreachable(url, error) from error
        return answer_of(url, response)


def http_options(key: str | None, tls: ssl.SSLContext | None, timeout_s: float) -> dict[str, Any]:
    """Return how the HTTP client is to be made."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    options: dict[str, Any] = {"headers": headers, "timeout": timeout_s, "trust_env": False}
    return options if tls is None else {**options, "verify": tls}


def given(query: Query) -> dict[str, Any]:
    """Return the parameters that are not None."""
    return {name: value for name, value in query.parameters.items() if value is not None}


def answer_of(url: str, response: httpx2.Response) -> Answer:
    """Return what came back."""
    return Answer(url, response.status_code, response.headers.get("content-type", ""), response.content)


def unreachable(url: str, error: Exception) -> ConnectionFailed:
    """Return the error for a request that got no answer."""
    return ConnectionFailed(f"cannot reach {url}: {reason_of(error)}")

"""The client without an event loop: for notebooks and scripts."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx2
from anyio.from_thread import start_blocking_portal

from ._client import TIMEOUT_S, Client, answer_of, base_url, given, http_options, unreachable
from ._queries import Asking, Query, decode_answer
from ._questions import Questions
from .records import Record

__all__ = ["SyncClient", "open_sync"]

P = ParamSpec("P")
T = TypeVar("T")


def open_sync(
    url: str = "http://127.0.0.1:8080",
    key: str | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> SyncClient:
    """Return a client that needs no event loop. Arguments: :func:`mdserver_client.connect`."""
    return SyncClient(url, key, tls=tls, timeout_s=timeout_s)


def _at_once(
    ask: Callable[Concatenate[Questions, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    """Return a question as a method that blocks until it is answered."""

    @wraps(ask)
    def method(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        running = ask(_Blocking(self.url, self._http), *args, **kwargs)
        try:
            running.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        raise RuntimeError(f"{ask.__name__} waits for an event loop")

    return method


class SyncClient:
    """As :class:`Client`, but each call blocks; also within a notebook, whose own event loop it does not touch.

    ``with`` closes it; in a notebook :meth:`close` does, or nothing at all.
    """

    def __init__(self, url: str, key: str | None, *, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        self.url = base_url(url)
        self._options = (key, tls, timeout_s)
        self._http = httpx2.Client(**http_options(key, tls, timeout_s))

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def stream(self, *arguments: Any, **options: Any) -> Generator[Record]:
        """Iterate over records. Arguments and errors: :meth:`Client.stream`. Leaving the loop ends the connection."""
        with closing(self.batches(*arguments, **options)) as batches:
            for batch in batches:
                yield from batch

    def batches(self, *arguments: Any, **options: Any) -> Generator[list[Record]]:
        """Iterate over lists of records: all that has come since the one before."""
        key, tls, timeout_s = self._options
        with start_blocking_portal() as portal:  # a thread of its own, which ends with the loop
            with portal.wrap_async_context_manager(
                Client(self.url, key, tls=tls, timeout_s=timeout_s)
            ) as client:
                stream = client.stream(*arguments, **options)
                while True:
                    yield portal.call(stream._next_batch)  # noqa: SLF001 - of this package

    candles = _at_once(Questions.candles)
    ticks = _at_once(Questions.ticks)
    trades = _at_once(Questions.trades)
    symbols = _at_once(Questions.symbols)
    metadata = _at_once(Questions.metadata)
    gaps = _at_once(Questions.gaps)
    brokers = _at_once(Questions.brokers)


class _Blocking(Questions):
    """Asks without an event loop: nothing in it ever waits for one."""

    def __init__(self, url: str, http: httpx2.Client) -> None:
        self._url = url
        self._http = http

    async def _run(self, asking: Asking[T]) -> T:
        answer = None
        while True:
            try:
                query = asking.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            answer = self._get(query)

    def _get(self, query: Query) -> Any:
        url = self._url + query.path
        try:
            response = self._http.get(url, params=given(query))
        except httpx2.HTTPError as error:
            raise unreachable(url, error) from error
        return decode_answer(answer_of(url, response))

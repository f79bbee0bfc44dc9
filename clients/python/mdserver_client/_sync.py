"""The client without an event loop: for notebooks and scripts."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from contextlib import closing
from typing import Any, TypeVar

import httpx2
from anyio.from_thread import start_blocking_portal

from . import _queries
from ._client import TIMEOUT_S, Client, answer_of, base_url, given, http_options, unreachable
from ._queries import Asking, Query, decode_answer
from .records import BrokerState, Gap, Record, StoredCandle, Tick, Time, Trade
from .tables import Table

__all__ = ["SyncClient", "open_sync"]

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

    def candles(
        self,
        symbol: str,
        timeframe: str,
        start: Time,
        end: Time,
        *,
        broker: str | None = None,
        price: str | None = None,
    ) -> Table[StoredCandle]:
        """Return the candles whose opens lie in [start, end]; ``price``: mid, bid, ask or trade."""
        options = {"broker": broker, "price": price}
        return self._run(_queries.candles(symbol, timeframe, start, end, options))

    def ticks(
        self, symbol: str, start: Time, end: Time, *, broker: str | None = None, limit: int | None = None
    ) -> Table[Tick]:
        """Return the recorded quotes of [start, end], of all pages; at most ``limit``."""
        table: Table[Tick] = self._run(_queries.records("tick", symbol, start, end, broker, limit))
        return table

    def trades(
        self, symbol: str, start: Time, end: Time, *, broker: str | None = None, limit: int | None = None
    ) -> Table[Trade]:
        """Return the recorded trades of [start, end], of all pages; at most ``limit``."""
        table: Table[Trade] = self._run(_queries.records("trade", symbol, start, end, broker, limit))
        return table

    def symbols(self, query: str | None = None, **options: Any) -> list[dict[str, Any]]:
        """Return what there is, at most 1,000; ``options`` are ``type``, ``broker``, ``limit``."""
        return self._run(_queries.symbols({"query": query, "limit": _queries.MOST_SYMBOLS, **options}))

    def metadata(self, symbol: str | None = None) -> dict[str, Any]:
        """Return what is stored of a symbol, or of all."""
        return self._run(_queries.metadata(symbol))

    def gaps(
        self,
        symbol: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        *,
        broker: str | None = None,
        state: str | None = None,
    ) -> list[Gap]:
        """Return where records may be missing, the earliest first."""
        options = {"symbol": symbol, "broker": broker, "state": state}
        return self._run(_queries.gaps(options, start, end))

    def brokers(self) -> list[BrokerState]:
        """Return how each broker is doing."""
        return self._run(_queries.brokers())

    def _run(self, asking: Asking[T]) -> T:
        answer = None
        while True:
            try:
                query = asking.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            answer = self._get(query)

    def _get(self, query: Query) -> Any:
        url = self.url + query.path
        try:
            response = self._http.get(url, params=given(query))
        except httpx2.HTTPError as error:
            raise unreachable(url, error) from error
        return decode_answer(answer_of(url, response))

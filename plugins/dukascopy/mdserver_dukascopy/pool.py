"""Polite requests to one service: few at once, a pause between them, finite retries, Retry-After heeded."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, TypeVar

import structlog
import trio

from mdserver.errors import BadMessage, Unavailable
from mdserver.net import AnswerTooLarge, HttpClient, open_http, status_error

from .config import DukascopyConfig

__all__ = ["Answer", "Outage", "PolitePool", "open_client"]

MAX_BODY = 64 * 1024 * 1024
"""Bytes in the largest body that is read; the busiest real hours have less than one million."""

_T = TypeVar("_T")


class Outage(Unavailable):
    """The service as a whole does not work for us now: not reached, no answer, overloaded, a block page."""


class Answer(NamedTuple):
    """A complete answer of one of the statuses 200, 204, 400, 404."""

    status: int
    body: bytes


class PolitePool:
    """All requests to one service go through its pool."""

    def __init__(self, http: HttpClient, config: DukascopyConfig, log: structlog.stdlib.BoundLogger) -> None:
        self._http = http
        self._config = config
        self._log = log
        self._slots = trio.CapacityLimiter(config.concurrency)
        self._next_start = -1.0

    async def get(
        self,
        url: str,
        judge: Callable[[Answer], Awaitable[_T]],
        *,
        attempts: int,
        void: Callable[[], str | None] = lambda: None,
    ) -> _T:
        """Return what ``judge`` makes of the answer; it raises if the answer is unusable.

        Outage, Unavailable and BadMessage are tried again until ``attempts`` or ``give_up_s`` is reached; the
        last error is raised. Rejected is raised at once. Where ``void`` gives a reason, nothing more is asked.
        """
        # The slot is kept while waiting: a service in trouble gets fewer requests, and those that queue for a
        # slot learn of an outage before they have tried themselves.
        async with self._slots:
            started = trio.current_time()
            attempt = 1
            while True:
                if (why := void()) is not None:
                    raise Outage(f"{url}: not asked, the service has an outage: {why}")
                try:
                    return await judge(await self._attempt(url))
                except (Unavailable, BadMessage) as error:
                    wait_s = self._wait_s(attempt, error)
                    spent_s = trio.current_time() - started
                    if void() is not None or attempt >= attempts or spent_s + wait_s > self._config.give_up_s:
                        raise
                    self._log.debug(
                        "request failed, retried after a pause", url=url, attempt=attempt, error=str(error)
                    )
                await trio.sleep(wait_s)
                attempt += 1

    def _wait_s(self, attempt: int, error: Exception) -> float:
        bound = min(self._config.backoff_s * 2 ** (attempt - 1), self._config.max_backoff_s)
        wait_s = random.uniform(bound / 2, bound)  # noqa: S311 - spreads retries, guards nothing
        asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
        if asked_s is None:
            return wait_s
        # Retry-After applies to all requests: none starts before.
        patience_s = min(asked_s, self._config.give_up_s)
        self._next_start = max(self._next_start, trio.current_time() + patience_s)
        return max(wait_s, asked_s)

    async def _attempt(self, url: str) -> Answer:
        await self._turn()
        try:
            status, headers, body = await self._http.get(url)
        except AnswerTooLarge:
            raise  # of this one file, the service works
        except Unavailable as error:
            raise Outage(str(error)) from error
        return _sort(url, status, headers, body)

    async def _turn(self) -> None:
        """Wait for those who came before, and until the pause since the last start is over."""
        start = max(trio.current_time(), self._next_start)
        self._next_start = start + self._config.pause_s
        await trio.sleep_until(start)


def _sort(url: str, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Return an answer that the service may have meant; raise for the others."""
    if status in (200, 204, 400, 404):
        # Decided by the body alone: real data begin with 5d or {, and types in headers cannot be relied on.
        if status == 200 and body.lstrip()[:1] == b"<":
            raise Outage(f"{url}: a page in place of data, as from a block or a proxy: {body[:60]!r}")
        return Answer(status, body)
    if status == 202:
        raise Outage(f"{url}: HTTP 202 without data, as for clients that do not look like a browser")
    error = status_error(url, status, headers, body[:4096].decode(errors="replace"))
    if isinstance(error, Unavailable) and status != 500:  # a lone 500 is common for hours before the start
        raise Outage(str(error), retry_after_s=error.retry_after_s)
    raise error


def open_client(config: DukascopyConfig) -> AbstractAsyncContextManager[HttpClient]:
    """Return the HTTP client of all pools; a context manager that closes its connections at the end."""
    return open_http(
        headers={"User-Agent": config.user_agent, "Referer": config.referer, "Accept": "*/*"},
        timeout_s=config.timeout_s,
        max_bytes=MAX_BODY,
        max_connections=config.concurrency * len(config.services),
    )

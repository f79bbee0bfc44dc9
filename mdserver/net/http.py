"""An HTTP client for plugins: GET over pooled connections, with a deadline, a size bound and our errors."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx2
import trio

from ..errors import Unavailable
from .http_errors import RETRY_STATUSES, is_web_page, mapped_errors, page_error, status_error

__all__ = ["AnswerTooLarge", "HttpAnswer", "HttpClient", "fetch", "make_client", "open_http"]

MAX_ERROR_BYTES = 4096
"""Bytes that are read of an answer that is an error."""

_MAX_BYTES = 64 * 1024 * 1024


class AnswerTooLarge(Unavailable):
    """An answer has more bytes than the caller takes."""


class HttpAnswer(NamedTuple):
    """A complete answer of any status. ``headers`` ignores case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Connections that are kept and used again, made by :func:`open_http`. Many tasks may use it at once."""

    def __init__(self, client: httpx2.AsyncClient, *, timeout_s: float, max_bytes: int) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes

    async def get(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        max_bytes: int | None = None,
    ) -> HttpAnswer:
        """Return the answer to a GET, whatever its status (HTTP/1.1, redirects not followed).

        ``params`` are added to the URL's query, ``headers`` to the client's. ``timeout_s`` bounds the whole
        exchange, ``max_bytes`` the body; None takes what :func:`open_http` was given. Raises Unavailable when
        the server cannot be reached, is too slow or breaks off (AnswerTooLarge: sends more than ``max_bytes``),
        Rejected for an unusable URL.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        max_bytes = self._max_bytes if max_bytes is None else max_bytes
        with mapped_errors(url):
            try:
                # The deadline covers everything, so that a host that accepts and stays silent is found out.
                with trio.fail_after(timeout_s):
                    return await self._exchange(url, params, headers, max_bytes)
            except trio.TooSlowError as error:
                raise Unavailable(f"{url}: no complete answer within {timeout_s:g} s") from error

    async def fetch(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        max_bytes: int | None = None,
        retry_statuses: Collection[int] = RETRY_STATUSES,
    ) -> bytes:
        """Return the body of an answer with status 200; see :meth:`get`.

        Any other status raises: Unavailable for 5xx and ``retry_statuses``, HttpRefused (a Rejected) for the
        rest. A web page raises Unavailable: what plugins read is data, so it comes from a proxy or a block.
        """
        status, answered, body = await self.get(
            url, params=params, headers=headers, timeout_s=timeout_s, max_bytes=max_bytes
        )
        if status != 200:
            text = body[:MAX_ERROR_BYTES].decode(errors="replace")
            raise status_error(url, status, answered, text, retry_statuses)
        if is_web_page(answered.get("content-type", ""), body[:MAX_ERROR_BYTES]):
            raise page_error(url, body[:MAX_ERROR_BYTES].decode(errors="replace"))
        return body

    async def _exchange(
        self, url: str, params: Mapping[str, str] | None, headers: Mapping[str, str] | None, max_bytes: int
    ) -> HttpAnswer:
        async with self._client.stream("GET", url, params=params, headers=headers) as response:
            body = bytearray()
            bound = max_bytes if response.status_code == 200 else min(max_bytes, MAX_ERROR_BYTES)
            # Leaving the loop would leave the library's generators open; cancelled, they clean up.
            with trio.CancelScope() as enough:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > bound:
                        enough.cancel()
            if len(body) > max_bytes:
                raise AnswerTooLarge(f"{url}: the answer is larger than {max_bytes} bytes")
            return HttpAnswer(response.status_code, response.headers, bytes(body))


@asynccontextmanager
async def open_http(
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
    max_bytes: int = _MAX_BYTES,
    max_connections: int = 4,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpClient]:
    """Open a client that keeps up to ``max_connections`` connections; they are closed at the end of the block.

    ``headers`` go with each request; ``timeout_s`` and ``max_bytes`` are defaults of :meth:`HttpClient.get`.
    A proxy named in the environment (``HTTPS_PROXY``) is used.
    """
    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    async with make_client(headers, ssl_context, limits) as client:
        yield HttpClient(client, timeout_s=timeout_s, max_bytes=max_bytes)


async def fetch(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
    max_bytes: int = _MAX_BYTES,
    retry_statuses: Collection[int] = RETRY_STATUSES,
) -> bytes:
    """Return the body of ``url`` over a connection of its own. See :meth:`HttpClient.fetch`."""
    async with open_http(
        headers=headers, timeout_s=timeout_s, max_bytes=max_bytes, max_connections=1
    ) as http:
        return await http.fetch(url, retry_statuses=retry_statuses)


def make_client(
    headers: Mapping[str, str] | None, ssl_context: ssl.SSLContext | None, limits: httpx2.Limits
) -> httpx2.AsyncClient:
    """Return httpx2's client without deadlines of its own: ours cover more."""
    return httpx2.AsyncClient(
        timeout=None, headers=headers, limits=limits, verify=ssl_context or _default_context()
    )


@functools.cache
def _default_context() -> ssl.SSLContext:
    """Return the context of all HTTP connections: making one reads every root certificate, 20 ms of the loop."""
    return httpx2.create_ssl_context()

"""An HTTP client for plugins: pooled connections, with a deadline, a size bound and the server's errors."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx2
import msgspec
import trio

from ..errors import Unavailable
from .http_errors import RETRY_STATUSES, is_web_page, mapped_errors, page_error, status_error

__all__ = ["AnswerTooLarge", "HttpAnswer", "HttpClient", "fetch", "make_client", "open_http"]

MAX_ERROR_BYTES = 4096
"""The most bytes that are read of an answer with an error status."""

_MAX_BYTES = 64 * 1024 * 1024


class AnswerTooLarge(Unavailable):
    """An answer has more bytes than the caller allows."""


class HttpAnswer(NamedTuple):
    """A complete answer of any status. Look-ups in ``headers`` ignore case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """A pool of reused connections, made by :func:`open_http`. Many tasks may use it at once."""

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
        """Return the answer to a GET, whatever its status; see :meth:`request`."""
        return await self.request(
            "GET", url, params=params, headers=headers, timeout_s=timeout_s, max_bytes=max_bytes
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: object = b"",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        max_bytes: int | None = None,
    ) -> HttpAnswer:
        """Return the answer to a request, whatever its status (HTTP/1.1, redirects not followed, sent once).

        ``body``: bytes are sent as they are, anything else as JSON. ``params`` are added to the URL's query,
        ``headers`` to the client's headers. ``timeout_s`` bounds the whole exchange, the wait for a free connection
        too, and ``max_bytes`` the answer's body; None means the value given to :func:`open_http`. Raises Unavailable if
        the server cannot be reached, is too slow or ends early (AnswerTooLarge if the body exceeds ``max_bytes``), and
        Rejected if the URL is unusable.
        """
        content, named = _encoded(body, headers)
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        max_bytes = self._max_bytes if max_bytes is None else max_bytes
        with mapped_errors(url):
            try:
                # The deadline covers the whole exchange, so a host that accepts and then stays silent is noticed.
                with trio.fail_after(timeout_s):
                    return await self._exchange(method, url, content, params, named, max_bytes)
            except trio.TooSlowError as error:
                raise Unavailable(f"{url}: no complete answer within {timeout_s:g} s") from error

    async def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        body: object = b"",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        max_bytes: int | None = None,
        retry_statuses: Collection[int] = RETRY_STATUSES,
    ) -> bytes:
        """Return the body of an answer with status 200; see :meth:`request`.

        Raises Unavailable for 5xx and ``retry_statuses``, and HttpRefused (a Rejected) for any other status. A web page
        raises Unavailable: plugins read data, so the page must be from a proxy or a block.
        """
        status, answered, found = await self.request(
            method,
            url,
            body=body,
            params=params,
            headers=headers,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
        )
        if status != 200:
            text = found[:MAX_ERROR_BYTES].decode(errors="replace")
            raise status_error(url, status, answered, text, retry_statuses)
        if is_web_page(answered.get("content-type", ""), found[:MAX_ERROR_BYTES]):
            raise page_error(url, found[:MAX_ERROR_BYTES].decode(errors="replace"))
        return found

    async def _exchange(
        self,
        method: str,
        url: str,
        content: bytes,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        max_bytes: int,
    ) -> HttpAnswer:
        sent = content if content or method not in ("GET", "HEAD") else None
        async with self._client.stream(method, url, content=sent, params=params, headers=headers) as response:
            body = bytearray()
            bound = max_bytes if response.status_code == 200 else min(max_bytes, MAX_ERROR_BYTES)
            # Leaving the loop would leave the library's generators open; cancelling them lets them clean up.
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
    """Open a client with up to ``max_connections`` connections, which are closed at the end of the block.

    ``headers`` are sent with each request; ``timeout_s`` and ``max_bytes`` are the defaults of :meth:`HttpClient.get`.
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


def _encoded(body: object, headers: Mapping[str, str] | None) -> tuple[bytes, Mapping[str, str] | None]:
    """Return the bytes of a request's body, and the headers with what they are."""
    if isinstance(body, bytes):
        return body, headers
    return msgspec.json.encode(body), {"Content-Type": "application/json", **(headers or {})}


def make_client(
    headers: Mapping[str, str] | None, ssl_context: ssl.SSLContext | None, limits: httpx2.Limits
) -> httpx2.AsyncClient:
    """Return an httpx2 client without deadlines of its own, because ours cover the whole exchange."""
    return httpx2.AsyncClient(
        timeout=None, headers=headers, limits=limits, verify=ssl_context or _default_context()
    )


@functools.cache
def _default_context() -> ssl.SSLContext:
    """Return one context for all HTTP connections: making one reads all root certificates and blocks for 20 ms."""
    return httpx2.create_ssl_context()

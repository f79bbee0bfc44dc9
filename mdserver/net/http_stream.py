"""A GET whose answer does not end: each read returns the bytes received so far, and silence is bounded."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import httpx2
import trio

from ..errors import Silent, Unavailable
from .http import MAX_ERROR_BYTES, make_client
from .http_errors import RETRY_STATUSES, is_web_page, mapped_errors, page_error, status_error
from .http_lines import LineReader, LineTooLong

__all__ = ["HttpStream", "open_http_stream"]

_CLOSE_S = 1.0
_ONE_CONNECTION = httpx2.Limits(max_connections=1, max_keepalive_connections=0)


class HttpStream:
    """An open answer, made by :func:`open_http_stream`. Only one task may receive.

    ``received_us``: the time of the newest read, in Unix microseconds; set once per read.
    """

    def __init__(
        self, url: str, chunks: AsyncIterator[bytes], *, silence_s: float | None, max_line_bytes: int
    ) -> None:
        self.url = url
        self.received_us = 0
        self._chunks = chunks
        self._silence_s = silence_s
        self._lines = LineReader(max_line_bytes=max_line_bytes)

    async def receive(self) -> bytes:
        """Wait for bytes and return them as the network delivered them; never empty.

        Raises Unavailable if the connection is lost, the server ends the answer, or nothing is received for
        ``silence_s``. A stream cannot be used after a call was cancelled or failed.
        """
        silence_s = math.inf if self._silence_s is None else self._silence_s
        data = b""
        with trio.move_on_after(silence_s) as scope, mapped_errors(self.url):
            try:
                while not data:
                    data = await anext(self._chunks)
            except StopAsyncIteration:
                raise Unavailable(f"{self.url}: the server ended the stream") from None
        if scope.cancelled_caught:
            raise Silent(f"{self.url}: nothing received for {silence_s:g} s, not even a heartbeat")
        self.received_us = time.time_ns() // 1000
        return data

    async def receive_lines(self) -> list[bytes]:
        """Wait for bytes and return the lines that they complete, without line ends; possibly none.

        Blank lines are left out. Raises like :meth:`receive`, and Unavailable for a line of more than
        ``max_line_bytes``. An incomplete line at the end of the stream is dropped.
        """
        data = await self.receive()
        try:
            return self._lines.feed(data)
        except LineTooLong as error:
            raise Unavailable(f"{self.url}: {error}") from error


@asynccontextmanager
async def open_http_stream(
    url: str,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    connect_timeout_s: float = 10.0,
    silence_s: float | None = None,
    max_line_bytes: int = 1024 * 1024,
    ssl_context: ssl.SSLContext | None = None,
    retry_statuses: Collection[int] = RETRY_STATUSES,
) -> AsyncIterator[HttpStream]:
    """Request ``url`` on a connection of its own (HTTP/1.1), which is closed at the end of the block.

    HTTP/1.1 is used because closing its connection ends the stream on the server too. ``connect_timeout_s`` bounds
    everything up to the head of the answer; ``silence_s``: see :meth:`HttpStream.receive`. Raises HttpRefused for a
    status below 500 that is neither 200 nor in ``retry_statuses``, and Unavailable for every other failure, such as a
    web page, which must be from a proxy or a block.
    """
    async with make_client(headers, ssl_context, _ONE_CONNECTION) as client:
        response = await _ask(client, url, params, connect_timeout_s, retry_statuses)
        chunks = response.aiter_bytes()
        try:
            yield HttpStream(url, chunks, silence_s=silence_s, max_line_bytes=max_line_bytes)
        finally:
            await _abandon(chunks)  # noqa: ASYNC102 - shields itself, and cannot wait
            with trio.move_on_after(_CLOSE_S, shield=True):
                await response.aclose()


async def _abandon(chunks: AsyncIterator[bytes]) -> None:
    """End the library's nested generators; closing only the outer one would leave the inner ones open."""
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        try:
            while True:
                await anext(chunks)
        except (StopAsyncIteration, httpx2.RequestError):
            return


async def _ask(
    client: httpx2.AsyncClient,
    url: str,
    params: Mapping[str, str] | None,
    connect_timeout_s: float,
    retry_statuses: Collection[int],
) -> httpx2.Response:
    """Return the answer once its head has been received and announces data."""
    with mapped_errors(url):
        try:
            with trio.fail_after(connect_timeout_s):
                request = client.build_request("GET", url, params=params)
                response = await client.send(request, stream=True)
                is_page = is_web_page(response.headers.get("content-type", ""), b"")
                if response.status_code == 200 and not is_page:
                    return response
                body = await _start_of(response)
                await response.aclose()
        except trio.TooSlowError as error:
            raise Unavailable(f"{url}: no stream within {connect_timeout_s:g} s") from error
    if response.status_code == 200:
        raise page_error(url, body)
    raise status_error(url, response.status_code, response.headers, body, retry_statuses)


async def _start_of(response: httpx2.Response) -> str:
    body = bytearray()
    with trio.CancelScope() as enough:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_ERROR_BYTES:
                enough.cancel()
    return body[:MAX_ERROR_BYTES].decode(errors="replace")

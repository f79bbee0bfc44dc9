"""A small HTTP client for plugins: one GET with a deadline, a size bound and our errors."""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Collection, Mapping

import httpx2
import trio

from ..errors import MdserverError, Rejected, Unavailable

__all__ = ["RETRY_STATUSES", "fetch", "status_error"]

RETRY_STATUSES: frozenset[int] = frozenset({408, 418, 425, 429})
"""4xx statuses after which trying again later may help; every 5xx is one too."""

_MAX_QUOTE = 300


async def fetch(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
    max_bytes: int = 64 * 1024 * 1024,
    retry_statuses: Collection[int] = RETRY_STATUSES,
) -> bytes:
    """Return the body of ``url`` (HTTP/1.1, redirects not followed).

    ``timeout_s`` bounds the whole exchange. Raises Unavailable when the server cannot be reached, is too
    slow, sends more than ``max_bytes`` or answers 5xx or one of ``retry_statuses``; Rejected for any other
    status.
    """
    try:
        with trio.fail_after(timeout_s):
            return await _get(url, dict(headers or {}), max_bytes, retry_statuses)
    except trio.TooSlowError as error:
        raise Unavailable(f"{url}: no complete answer within {timeout_s:g} s") from error
    except httpx2.InvalidURL as error:
        raise Rejected(f"{url}: not a usable URL: {error}") from error
    except httpx2.RequestError as error:
        raise Unavailable(f"{url}: {error or type(error).__name__}") from error


async def _get(url: str, headers: dict[str, str], max_bytes: int, retry_statuses: Collection[int]) -> bytes:
    # The deadline of fetch() covers everything, so the client's own timeouts stay off.
    async with (
        httpx2.AsyncClient(timeout=None, headers=headers) as client,
        client.stream("GET", url) as response,
    ):
        body = bytearray()
        bound = max_bytes if response.status_code == 200 else 4096
        # Leaving the loop would leave the library's generators open; cancelled, they clean up.
        with trio.CancelScope() as enough:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > bound:
                    enough.cancel()
        if response.status_code != 200:
            text = body.decode(errors="replace")
            raise status_error(url, response.status_code, response.headers, text, retry_statuses)
        if len(body) > max_bytes:
            raise Unavailable(f"{url}: the answer is larger than {max_bytes} bytes")
        return bytes(body)


def status_error(
    where: str,
    status: int,
    headers: Mapping[str, str],
    body: str,
    retry_statuses: Collection[int] = RETRY_STATUSES,
) -> MdserverError:
    """Return the error for an HTTP status that is not the wanted one.

    5xx and ``retry_statuses`` give Unavailable with the server's Retry-After; the rest gives Rejected.
    ``headers`` has lower-case names or ignores case. The message quotes the start of ``body``.
    """
    quoted = " ".join(body.split())
    if len(quoted) > _MAX_QUOTE:
        quoted = quoted[:_MAX_QUOTE] + "…"
    message = f"{where}: HTTP {status}" + (f": {quoted}" if quoted else "")
    if status >= 500 or status in retry_statuses:
        return Unavailable(message, retry_after_s=_retry_after_s(headers.get("retry-after")))
    return Rejected(message)


def _retry_after_s(value: str | None) -> float | None:
    """Read Retry-After: seconds or an HTTP date; None where it is absent or makes no sense."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdecimal():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, (when - datetime.datetime.now(datetime.UTC)).total_seconds())

"""Maps HTTP statuses and httpx2's exceptions to the server's errors, with one plain sentence each."""

from __future__ import annotations

import datetime
import email.utils
import html
import os
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2

from ..errors import MdserverError, Rejected, Unavailable

__all__ = [
    "RETRY_STATUSES",
    "HttpRefused",
    "HttpUnavailable",
    "connect_failure",
    "is_web_page",
    "mapped_errors",
    "page_error",
    "status_error",
]

RETRY_STATUSES: frozenset[int] = frozenset({408, 418, 425, 429})
"""4xx statuses after which trying again may help, as it may after every 5xx."""

_MAX_QUOTE = 300
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|UNEXPECTED_EOF|EOF occurred")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)


class HttpRefused(Rejected):
    """The server answered with a ``status`` that trying again does not change; ``body`` is the start of its answer."""

    def __init__(self, message: str, *, status: int, body: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class HttpUnavailable(Unavailable):
    """The server answered with a ``status`` after which trying again later may help."""

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status


def status_error(
    where: str,
    status: int,
    headers: Mapping[str, str],
    body: str,
    retry_statuses: Collection[int] = RETRY_STATUSES,
) -> MdserverError:
    """Return the error for an HTTP status other than the expected one.

    It is HttpUnavailable, with the Retry-After header, for 5xx and ``retry_statuses``, and HttpRefused for the others.
    ``headers`` has lower-case names or ignores case. The message quotes the start of ``body``.
    """
    message = f"{where}: HTTP {status}"
    if target := headers.get("location"):
        message += f", a redirect to {_quoted(target)}"
    elif is_web_page(headers.get("content-type", ""), body.encode()):
        message += f" with {_page(body)}"
    elif body.strip():
        message += f": {_quoted(body)}"
    if status >= 500 or status in retry_statuses:
        retry_after_s = _retry_after_s(headers.get("retry-after"))
        return HttpUnavailable(message, status=status, retry_after_s=retry_after_s)
    return HttpRefused(message, status=status, body=body)


def is_web_page(content_type: str, body: bytes) -> bool:
    """Return whether an answer is a web page, such as a proxy or a block sends in place of data."""
    return content_type.partition(";")[0].strip().lower() == "text/html" or body.lstrip()[:1] == b"<"


def page_error(where: str, body: str) -> Unavailable:
    """Return the error for a web page received with status 200 in place of data."""
    return Unavailable(f"{where}: {_page(body)} came in place of data, as from a proxy or a block page")


@contextmanager
def mapped_errors(url: str) -> Iterator[None]:
    """Turn httpx2's exceptions into the server's, each with a sentence that names the address and the fault."""
    try:
        yield
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise Rejected(f"{url}: not a usable URL: {error}") from error
    except httpx2.LocalProtocolError as error:
        # The error's own text may quote a header, and with it a key.
        raise Rejected(f"{url}: the request cannot be sent as HTTP; check the headers and the URL") from error
    except httpx2.RequestError as error:
        raise Unavailable(f"{url}: {_reason(url, error)}") from error


def connect_failure(url: str, error: BaseException, *, connected: bool = False) -> str | None:
    """Return in one sentence why a connection did not come about: its name, TLS, or the network; None for others.

    ``connected``: the network is not to blame.
    """
    parts = urlsplit(url)
    host, plain = parts.hostname, {"wss": "ws"}.get(parts.scheme, "http")
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the TLS certificate of {host} is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            why = str(cause.reason or cause)
            hint = (
                f"; does the server use TLS at all, or should it be {plain}://?"
                if _NO_TLS.search(why)
                else ""
            )
            return f"the TLS handshake with {host} failed: {why}{hint}"
        if isinstance(cause, socket.gaierror):
            return f"the name {host} cannot be resolved: {cause.strerror or cause}"
        if isinstance(cause, OSError) and cause.errno and not connected:
            return f"cannot connect: {os.strerror(cause.errno)}"
    return None


def _reason(url: str, error: httpx2.RequestError) -> str:
    failure = connect_failure(url, error, connected=not isinstance(error, httpx2.ConnectError))
    if failure is not None:
        return failure
    text = str(error) or next((str(cause) for cause in _causes(error) if str(cause)), type(error).__name__)
    if isinstance(error, httpx2.ProxyError):
        return f"the proxy refuses: {text}"
    if isinstance(error, httpx2.ConnectError):
        return f"cannot connect: {text}"
    if isinstance(error, httpx2.RemoteProtocolError):
        return f"the server broke the HTTP protocol: {text}"
    if isinstance(error, httpx2.NetworkError):
        return f"connection lost: {text}"
    return text


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        # A group has one error for each address that was tried; the first is enough.
        if isinstance(seen, BaseExceptionGroup):
            seen = seen.exceptions[0]
            continue
        seen = seen.__cause__ or seen.__context__


def _page(body: str) -> str:
    title = _TITLE.search(body)
    return f"a web page titled {_quoted(html.unescape(title[1]))!r}" if title else "a web page"


def _quoted(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_QUOTE else text[:_MAX_QUOTE] + "…"


def _retry_after_s(value: str | None) -> float | None:
    """Parse Retry-After, which is seconds or an HTTP date; return None if it is absent or invalid."""
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

"""The limits on connections, in all and from one address, and the answer to a connection beyond them."""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

from ...metrics import Metrics

__all__ = ["Connections", "Refusal", "malformed_body", "refusal_response"]

Refusal: TypeAlias = Literal["all", "address", "flood"]
"""The limit that a connection exceeds; ``flood``: so many exceed it that this one is closed without an answer."""

SPARE = 64
"""Connections beyond the limits that are answered at the same time."""

RETRY_AFTER_S = 5

_STATUS = {
    "all": (503, "Service Unavailable", "unavailable"),
    "address": (429, "Too Many Requests", "rate_limited"),
}
_DETAIL = {"all": "too many connections", "address": "too many connections from this address"}


class Connections:
    """The open connections by address."""

    def __init__(self, most: int, most_per_address: int, metrics: Metrics) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._metrics = metrics
        self._by_address: Counter[str] = Counter()
        self._count = 0
        self._refused = 0

    def enter(self, address: str) -> Refusal | None:
        """Count a connection; return the limit that it exceeds, or None. Call :meth:`leave` for each."""
        refusal: Refusal | None = None
        if self._count >= self._most:
            refusal = "all"
        elif self._by_address[address] >= self._most_per_address:
            refusal = "address"
        if refusal is None:
            self._count += 1
            self._by_address[address] += 1
            return None
        self._metrics.connections_refused.labels(refusal).inc()
        self._refused += 1
        return refusal if self._refused <= SPARE else "flood"

    def leave(self, address: str, refusal: Refusal | None) -> None:
        """Stop counting a connection."""
        if refusal is not None:
            self._refused -= 1
            return
        self._count -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


def malformed_body(status: int) -> bytes:
    """Return the body of the answer to what is no HTTP request, which h11 has refused with ``status``."""
    title, detail = "The request is not valid", "this is no HTTP/1.1 request"
    if status == 431:
        detail = "the request line and the headers are too long"
    elif status == 400:
        detail += "; a URL has ASCII characters only: write others percent-encoded, in UTF-8"
    return (
        f'{{"type":"urn:mdserver:problem:invalid_request","title":"{title}","status":{status},"detail":"{detail}",'
        '"code":"invalid_request","param":null}'
    ).encode()


def refusal_response(refusal: Refusal) -> bytes:
    """Return the HTTP/1.1 answer to a request on a connection beyond the limits."""
    status, phrase, code = _STATUS.get(refusal, _STATUS["all"])
    detail = _DETAIL.get(refusal, _DETAIL["all"])
    body = (
        f'{{"type":"urn:mdserver:problem:{code}","title":"{phrase}","status":{status},'
        f'"detail":"{detail}","code":"{code}","param":null}}'
    )
    return (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
        f"Retry-After: {RETRY_AFTER_S}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    ).encode()

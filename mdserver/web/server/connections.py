"""The limits on connections, in all and from one address, and the answer to a connection beyond them."""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

from ...metrics import Metrics

__all__ = ["Connections", "Refusal", "invalid_request_body", "malformed_body", "refusal_response"]

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


_URL = (
    "this is no HTTP/1.1 request: the request line is not valid; "
    "a URL has ASCII characters only: write others percent-encoded, in UTF-8"
)
_HEADER = "a header line is not valid: expected `Name: value`, without control characters"
_CODING = "Transfer-Encoding: expected chunked, once"
_CHUNK = "the body is not valid: a chunk does not have the length that it says"
_FRAMING = {
    "receive buffer too long": "the request line and the headers are too long",
    "illegal request line": _URL,
    "illegal target": _URL,
    "illegal header": _HEADER,
    "continuation line": _HEADER,
    "bad content-length": "Content-Length: expected a number of bytes",
    "conflicting content-length": "Content-Length: given twice, with different numbers",
    "missing mandatory host": "the header Host is missing",
    "found multiple host": "the header Host is given more than once",
    "multiple transfer-encoding": _CODING,
    "only transfer-encoding": _CODING,
    "illegal chunk": _CHUNK,
    "malformed chunk": _CHUNK,
}
"""How h11's reason begins, in small letters, and what a client is told; theirs may quote what the client sent."""


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


def malformed_body(status: int, reason: str = "") -> bytes:
    """Return the body of the answer to what is no HTTP request, which h11 has refused with ``status`` and a reason."""
    found = (ours for theirs, ours in _FRAMING.items() if reason.lower().startswith(theirs))
    return invalid_request_body(status, next(found, "this is no HTTP/1.1 request"))


def invalid_request_body(status: int, detail: str) -> bytes:
    """Return the problem document of a request that no route has seen; ``detail`` is a sentence of ours."""
    return (
        '{"type":"urn:mdserver:problem:invalid_request","title":"The request is not valid",'
        f'"status":{status},"detail":"{detail}","code":"invalid_request","param":null}}'
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

"""Cross-origin access for the origins that the operator allows; none by default."""

from __future__ import annotations

from collections.abc import Sequence

from quart import Request, Response

__all__ = ["cross_origin"]

_EXPOSED = (
    "ETag, Link, X-Available-From, X-Available-To, X-Broker, X-In-Lake, X-Next-Cursor, X-Price, X-Source"
)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Accept, Authorization, If-None-Match, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}


def cross_origin(request: Request, response: Response, origins: Sequence[str]) -> None:
    """Add the headers by which a page of another origin may read the answer, if its origin is allowed.

    ``origins`` are exact, such as ``https://charts.example``; ``*`` allows all. ``Vary: Origin`` is set even if this
    request has no origin: otherwise a shared cache would give the answer for one origin to another.
    """
    if not origins:
        return
    anyone = "*" in origins
    if not anyone:
        response.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin is None or not (anyone or origin in origins):
        return
    response.headers["Access-Control-Allow-Origin"] = "*" if anyone else origin
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    if request.method == "OPTIONS":
        response.headers.extend(_PREFLIGHT)

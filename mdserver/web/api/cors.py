"""Cross-origin access, for the origins that the operator names; none by default."""

from __future__ import annotations

from quart import Request, Response

__all__ = ["cross_origin"]

_EXPOSED = "ETag, Link, X-Available-From, X-Available-To, X-Broker, X-Next-Cursor, X-Price"
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Accept, Authorization, If-None-Match",
    "Access-Control-Max-Age": "600",
}


def cross_origin(request: Request, response: Response, origins: tuple[str, ...]) -> None:
    """Add the headers that let a page of another origin read the answer, if its origin may.

    ``origins`` are exact, like ``https://charts.example``; ``*`` allows all. The answer varies with the origin
    even where this request had none, or a shared cache would hand one origin's answer to another.
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

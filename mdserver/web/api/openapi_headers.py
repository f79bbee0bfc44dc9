"""What the OpenAPI document says of each route beside its parameters and schemas: headers, 304, words for problems."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

__all__ = ["HEADERS", "complete"]

_TEXT = {"type": "string"}
_NUMBER = {"type": "number", "description": "Unix seconds, UTC"}

HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {"description": "names the body byte for byte; for `If-None-Match`", "schema": _TEXT},
    "Cache-Control": {"description": "how long the answer may be kept, and by whom", "schema": _TEXT},
    "Link": {"description": '`rel="next"`: the next page, relative to the request', "schema": _TEXT},
    "X-Broker": {"description": "the sources that answered, in the order of the config", "schema": _TEXT},
    "X-Price": {
        "description": "the prices of these sources: `mid`, `bid`, `ask` or `trade`",
        "schema": _TEXT,
    },
    "X-Available-From": {"description": "the first record stored of all that may answer", "schema": _NUMBER},
    "X-Available-To": {"description": "the last record stored of all that may answer", "schema": _NUMBER},
    "X-Next-Cursor": {"description": "`cursor` of the next page; absent on the last one", "schema": _TEXT},
    "X-In-Lake": {
        "description": "first and last day of the range of which records are in the data lake alone, as `DATE/DATE`",
        "schema": _TEXT,
    },
    "X-Source": {
        "description": "`lake`: records of the page are from the data lake, since retention has dropped them here",
        "schema": _TEXT,
    },
    "Retry-After": {"description": "seconds to wait before another try", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "`Bearer`: a key is asked for", "schema": _TEXT},
    "Upgrade": {"description": "`websocket`", "schema": _TEXT},
    "Content-Security-Policy": {"description": "a page loads nothing from elsewhere", "schema": _TEXT},
}
"""Every header that an answer may carry and a client may want, as components of the document."""

_AVAILABLE = ("X-Available-From", "X-Available-To")
_PAGED = ("X-Broker", "X-Next-Cursor", "Link", *_AVAILABLE)
_OF_ROUTE = {
    "/api/candles": ("X-Price", *_PAGED),
    "/api/candles/{symbol}/{timeframe}": ("X-Price", *_PAGED),
    "/api/ticks": (*_PAGED, "X-In-Lake", "X-Source"),
    "/api/trades": (*_PAGED, "X-In-Lake", "X-Source"),
    "/": ("ETag", "Content-Security-Policy"),
    "/docs": ("ETag", "Content-Security-Policy"),
}
_OF_STATUS = {
    "401": ("WWW-Authenticate",),
    "426": ("Upgrade",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}
_WORDS = {
    "400": "a parameter is missing, unknown or wrong: `param` names it",
    "401": "a key is asked for, or this one is not valid",
    "403": "not for this key, host or origin",
    "404": "no such symbol or broker",
    "406": "this server cannot write the answer in that form",
    "426": "a WebSocket: connect with a WebSocket client",
    "429": "too many requests",
    "500": "the server failed; its log has the details",
    "503": "the database is away or busy",
}
_UNCONDITIONAL = ("/api/stream", "/udf/time")
_TAGS = (
    ("/api/candles", "History"),
    ("/api/ticks", "History"),
    ("/api/trades", "History"),
    ("/api/metadata", "History"),
    ("/api/symbols", "History"),
    ("/api/coverage", "History"),
    ("/api/gaps", "History"),
    ("/api/snapshot", "Live"),
    ("/api/stream", "Live"),
    ("/stream", "Live"),
    ("/udf/", "TradingView UDF"),
    ("/", "Server"),
)


def complete(paths: dict[str, Any]) -> dict[str, Any]:
    """Return the paths with an id and a tag for each operation, and with headers and words for each answer."""
    return {path: {"get": _operation(path, item["get"])} for path, item in paths.items()}


def _operation(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    responses = {status: _response(path, status, answer) for status, answer in operation["responses"].items()}
    if _is_conditional(path):
        responses["304"] = {"description": "the client's body is still the same", "headers": _refs("ETag")}
    name = "_".join(part.strip("{}").replace(".", "_") for part in path.split("/") if part) or "page"
    tag = next(tag for start, tag in _TAGS if path.startswith(start))
    return {
        "operationId": f"get_{name}",
        "tags": [tag],
        **operation,
        "parameters": list(map(_parameter, operation["parameters"])),
        "responses": dict(sorted(responses.items())),
    }


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter of a route; an empty value of an optional one counts as not given."""
    optional = parameter["in"] == "query" and not parameter["required"]
    return parameter | ({"allowEmptyValue": True} if optional else {})


def _is_conditional(path: str) -> bool:
    """Tell whether the answers of a route have an ETag."""
    return path.startswith(("/api/", "/udf/")) and path not in _UNCONDITIONAL


def _response(path: str, status: str, answer: dict[str, Any]) -> dict[str, Any]:
    names = list(_OF_STATUS.get(status, ()))
    if status == "200":
        names += ["Cache-Control", *_OF_ROUTE.get(path, ())]
        if _is_conditional(path):
            names.append("ETag")
    words = (
        answer["description"]
        if status in ("101", "200")
        else _WORDS.get(status, HTTPStatus(int(status)).phrase)
    )
    return {**answer, "description": words} | ({"headers": _refs(*sorted(names))} if names else {})


def _refs(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}

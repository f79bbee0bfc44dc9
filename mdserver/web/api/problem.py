"""HTTP errors as RFC 9457 problem details, ``application/problem+json``."""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec
from quart import Response, current_app, has_request_context, request

from ...errors import StoreUnavailable

__all__ = [
    "RETRY_AFTER_S",
    "Problem",
    "invalid_parameter",
    "missing_parameter",
    "problem_response",
    "shortened",
    "store_away",
    "unknown_symbol",
]

UDF = "/udf/"
"""Where TradingView's protocol is served."""

RETRY_AFTER_S = 5
"""The ``Retry-After`` while the database is unavailable, unless something better is known."""

_TITLES = {
    "missing_parameter": "A parameter is missing",
    "invalid_request": "The request is not valid",
    "invalid_parameter": "A parameter is not valid",
    "unknown_timeframe": "There is no such timeframe",
    "range_too_large": "The range holds too much",
    "unknown_symbol": "There is no data of this symbol",
    "unauthorized": "A key is needed",
    "forbidden": "This is not permitted",
    "rate_limited": "There are too many requests",
    "not_found": "There is nothing here",
    "method_not_allowed": "This method is not allowed here",
    "not_acceptable": "The answer cannot be written so",
    "internal": "The server failed",
    "unavailable": "The server cannot answer now",
}


class Problem(Exception):
    """A request that cannot be answered, in the terms of RFC 9457.

    ``code`` is for programs, ``detail`` for people: it names the parameter, the value and what was expected.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.param = param
        self.headers = headers or {}


def missing_parameter(param: str, expected: str) -> Problem:
    """Return the problem of a missing parameter."""
    return Problem(400, "missing_parameter", f"{param} is required: {expected}", param=param)


def invalid_parameter(param: str, value: str, expected: str) -> Problem:
    """Return the problem of a wrong value; long texts are shortened."""
    param = shortened(param)
    return Problem(400, "invalid_parameter", f"{param}={shortened(value)!r}: {expected}", param=param)


def unknown_symbol(param: str, detail: str) -> Problem:
    """Return the problem of an unknown symbol or broker."""
    return Problem(404, "unknown_symbol", detail, param=param)


def store_away(error: StoreUnavailable) -> Problem:
    """Return the problem of an unavailable database, with the time to wait before a retry."""
    wait_s = RETRY_AFTER_S if error.retry_after_s is None else math.ceil(error.retry_after_s)
    return Problem(
        503,
        "unavailable",
        "the database cannot be reached; live streaming goes on, try again later",
        headers={"Retry-After": str(wait_s)},
    )


def problem_response(problem: Problem, **extra: object) -> Response:
    """Return the HTTP response for a problem; ``extra`` become members of the document.

    Under ``/udf`` it has the form of that protocol. Its clients read the body alone and ask it for ``s``, and what the
    request is to blame for is an answer of theirs like any other.
    """
    if has_request_context() and request.path.startswith(UDF):
        status = 200 if problem.status == 400 or problem.code == "unknown_symbol" else problem.status
        return _response(problem, status, {"s": "error", "errmsg": problem.detail}, "application/json")
    document = {
        "type": f"urn:mdserver:problem:{problem.code}",
        "title": _TITLES.get(problem.code) or HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "param": problem.param,
        **extra,
    }
    return _response(problem, problem.status, document, "application/problem+json")


def _response(problem: Problem, status: int, document: object, content_type: str) -> Response:
    response: Response = current_app.response_class(
        msgspec.json.encode(document), status, content_type=content_type
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(problem.headers)
    return response


def shortened(text: str, most: int = 60) -> str:
    """Return a client's text, cut to a length that can be shown."""
    return text if len(text) <= most else text[:most] + "…"

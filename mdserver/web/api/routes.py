"""The HTTP routes: ``/api``, health and metrics. Their answers are made in the modules beside this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import structlog
import trio
from quart import Blueprint, Response, current_app, has_request_context, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import WebsocketMismatch

from ...errors import StoreUnavailable
from .caching import REVALIDATE
from .candles_view import candles_answer
from .conditional import answer, small_body
from .cors import cross_origin
from .coverage_view import coverage_document
from .dependencies import Dependencies
from .encoding import Body
from .gaps_view import gaps_document
from .guard import may_see_names
from .openapi import openapi_document
from .overview import all_symbols, broker_list, one_symbol
from .params import query_of, symbol_of, times_of
from .problem import RETRY_AFTER_S, Problem, problem_response, shortened, store_away
from .read_context import Reading
from .records_view import records_answer
from .snapshot_view import snapshot_answer
from .symbols_view import symbols_document

__all__ = ["add_error_handlers", "http_routes", "json_answer", "within"]

_log = structlog.get_logger("mdserver.web")


def http_routes(reading: Reading, event_stream: Callable[[], Awaitable[Response]]) -> Blueprint:
    """Return the blueprint with all HTTP routes and the error handlers of the whole app."""
    routes = Blueprint("http", __name__)
    services = reading.services
    _add_data_routes(routes, reading)
    _add_symbol_routes(routes, reading)
    _add_overview_routes(routes, reading)
    _add_operator_routes(routes, services)
    add_error_handlers(routes)
    routes.add_url_rule("/api/stream", "event_stream", event_stream)

    @routes.after_app_request
    async def finish(response: Response) -> Response:
        cross_origin(request, response, services.allowed_origins())
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        if request.method == "HEAD":  # Content-Length stays that of the GET
            response.response = response.iterable_body_class([])
        route = request.url_rule.rule if request.url_rule is not None else "unmatched"
        services.metrics.http_requests.labels(route, str(response.status_code)).inc()
        return response

    return routes


async def within(work: Awaitable[Response], seconds: float) -> Response:
    """Return the answer, or raise Problem if it takes too long: no client waits for a database that hangs."""
    with trio.move_on_after(seconds):
        return await work
    detail = (
        f"not answered within {seconds:g} s: the database hangs or is busy; narrow the range or try again"
    )
    raise Problem(503, "unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def _add_data_routes(routes: Blueprint, reading: Reading) -> None:
    in_time = partial(within, seconds=reading.services.answer_s)

    @routes.get("/api/candles")
    async def candles() -> Response:
        return await in_time(candles_answer(request, reading))

    @routes.get("/api/candles/<path:symbol>/<timeframe>")
    async def candles_by_path(symbol: str, timeframe: str) -> Response:
        path = (("symbol", symbol), ("timeframe", timeframe))
        return await in_time(candles_answer(request, reading, path))

    @routes.get("/api/ticks")
    async def ticks() -> Response:
        return await in_time(records_answer(request, reading, "tick"))

    @routes.get("/api/trades")
    async def trades() -> Response:
        return await in_time(records_answer(request, reading, "trade"))

    @routes.get("/api/snapshot")
    async def snapshot() -> Response:
        return await in_time(snapshot_answer(request, reading))


def _add_symbol_routes(routes: Blueprint, reading: Reading) -> None:
    @routes.get("/api/symbols")
    async def symbols() -> Response:
        return await within(symbols_of(), reading.services.answer_s)

    async def symbols_of() -> Response:
        return await json_answer(reading, await symbols_document(request, reading))


async def json_answer(reading: Reading, document: object) -> Response:
    """Answer with a small document, or with 304."""

    async def build() -> Body:
        return small_body(msgspec.json.encode(document))

    headers = {"Cache-Control": REVALIDATE}
    return await answer(request, build, form="json", headers=headers, memory=reading.memory)


def _add_overview_routes(routes: Blueprint, reading: Reading) -> None:
    shown = partial(json_answer, reading)

    @routes.get("/api/metadata")
    async def metadata() -> Response:
        return await within(stored(), reading.services.answer_s)

    async def stored() -> Response:
        query = query_of(request.args.items(multi=True), ("symbol", "times"))
        times, sources = times_of(query), reading.services.sources()
        if "symbol" not in query:
            return await shown(all_symbols(await reading.all_series(), sources, times))
        symbol = symbol_of(query)
        return await shown(one_symbol(symbol, await reading.series_of(symbol), sources, times))

    @routes.get("/api/gaps")
    async def gaps() -> Response:
        return await within(gaps_of(), reading.services.answer_s)

    async def gaps_of() -> Response:
        return await shown(await gaps_document(request, reading))

    @routes.get("/api/coverage")
    async def coverage() -> Response:
        return await within(coverage_of(), reading.services.answer_s)

    async def coverage_of() -> Response:
        return await shown(await coverage_document(request, reading))

    @routes.get("/api/brokers")
    async def brokers() -> Response:
        query = query_of(request.args.items(multi=True), ("times",))
        return await shown(broker_list(reading.seen_brokers(), times_of(query)))

    @routes.get("/api/openapi.json")
    async def openapi() -> Response:
        query_of(request.args.items(multi=True), ())
        return await shown(openapi_document())


def _add_operator_routes(routes: Blueprint, services: Dependencies) -> None:
    def uncached(data: bytes, content_type: str) -> Response:
        response: Response = current_app.response_class(data, content_type=content_type)
        response.headers["Cache-Control"] = "no-store"
        return response

    @routes.get("/stream")
    async def stream() -> Response:
        detail = (
            "/stream is a WebSocket: connect with a WebSocket client, to ws:// or wss:// and this address"
        )
        raise Problem(426, "invalid_request", detail, headers={"Upgrade": "websocket"})

    @routes.get("/health/live")
    async def live() -> Response:
        return uncached(b'{"status":"live"}', "application/json")

    @routes.get("/health/ready")
    async def ready() -> Response:
        states = services.broker_states()
        named = may_see_names()
        reasons = list(services.ready())
        if states and all(broker.state == "failed" for broker in states):
            names = ": " + ", ".join(broker.name for broker in states) if named else ""
            reasons.append("every broker has failed" + names)
        if reasons:
            problem = Problem(503, "unavailable", "not ready: " + "; ".join(reasons))
            return problem_response(problem, reasons=reasons)
        # names and states only: the text of an error may contain addresses; it is at /api/brokers
        lacking = [f"broker {broker.name} is {broker.state}" for broker in states if broker.state != "live"]
        if lacking and not named:
            lacking = [f"{len(lacking)} of {len(states)} brokers are not live"]
        body = {"status": "degraded", "reasons": lacking} if lacking else {"status": "ready"}
        return uncached(msgspec.json.encode(body), "application/json")

    @routes.get("/metrics")
    async def metrics() -> Response:
        return uncached(services.metrics.render(), "text/plain; version=0.0.4; charset=utf-8")


def add_error_handlers(routes: Blueprint) -> None:
    """Answer what goes wrong in these routes with a problem document."""

    @routes.errorhandler(Problem)
    async def problem(error: Problem) -> Response:
        return problem_response(error)

    @routes.errorhandler(StoreUnavailable)
    async def store_unavailable(error: StoreUnavailable) -> Response:
        # at debug: the journal drain reports an outage once, this would be a line per request
        _log.debug("request not answered: the database is unavailable", path=request.path, error=str(error))
        return problem_response(store_away(error))

    @routes.errorhandler(Exception)
    async def failed(error: Exception) -> Response:
        _log.error("request failed", path=request.path, exc_info=error)
        return problem_response(Problem(500, "internal", "the server failed; its log has the details"))

    # Both, because the blueprint's handler of Exception takes precedence over the app's handler of HTTPException.
    routes.errorhandler(HTTPException)(_http_error)
    routes.app_errorhandler(HTTPException)(_http_error)


async def _http_error(error: HTTPException) -> Response:
    """Answer what Quart itself refuses, and (with 500) what no other handler has handled."""
    status = error.code or 500
    if status == 404:
        where = (
            f"there is nothing at {shortened(request.path, 200)}"
            if has_request_context()
            else "there is nothing here"
        )
        return problem_response(Problem(404, "not_found", where))
    if status == 405:
        allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        detail = f"{shortened(request.method)} is not allowed here; allowed: {allowed}"
        return problem_response(Problem(405, "method_not_allowed", detail, headers={"Allow": allowed}))
    if status >= 500:
        return problem_response(Problem(status, "internal", "the server failed; its log has the details"))
    if isinstance(error, WebsocketMismatch):
        detail = "there is no WebSocket here: the WebSocket is at / and at /stream"
        return problem_response(Problem(status, "invalid_request", detail))
    return problem_response(Problem(status, "invalid_request", error.description or error.name))

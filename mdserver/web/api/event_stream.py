"""``GET /api/stream``: the stream as server-sent events. The fields are those of ``subscribe``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from quart import Request, Response, current_app, request

from ...protocol.encoding import wire_of
from ...protocol.event_ids import parse_event_id
from ...protocol.requests import RequestError, Subscribe, parse_request
from ..access.access import Access
from ..server.http_connection import nursery_of_request
from ..stream.clients import Clients
from ..stream.event_session import EventSession, keep_event_session, stream_keys
from ..stream.event_sink import EventSink
from ..stream.gate import Gate
from .guard import current_grant, peer_of
from .params import query_of
from .problem import RETRY_AFTER_S, Problem, invalid_parameter, missing_parameter
from .stream_form import times_of

__all__ = ["QUERY", "event_stream"]

QUERY = (
    *("symbols", "types", "broker", "interval", "depth", "since", "snapshot", "received"),
    *("rate_ms", "slow", "times"),
)
_LISTS = frozenset(("symbols", "types"))
_TEXTS = frozenset(("broker", "interval", "slow"))
MAX_STREAMS = 500
"""Symbols times types of one stream: each event names its place in all of them."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second is for nginx

_PROBLEMS = {
    400: (400, "invalid_parameter"),
    405: (400, "range_too_large"),
    406: (429, "rate_limited"),
    408: (404, "unknown_symbol"),
    409: (403, "forbidden"),
    410: (503, "unavailable"),
}


def event_stream(
    clients: Clients,
    make_session: Callable[..., EventSession],
    access: Access,
    *,
    epoch: str,
    buffer_bytes: int,
) -> Callable[[], Awaitable[Response]]:
    """Return the handler of the route; the arguments are those of :func:`..stream.endpoint.stream_endpoint`."""

    async def stream() -> Response:
        query = query_of(request.args.items(multi=True), QUERY)
        wire = wire_of("json", times_of(query))
        asked = _subscription(request, query)
        if request.method == "HEAD":
            return _response(())
        nursery = nursery_of_request(request)
        session: EventSession | None = None

        def overflow() -> None:
            if session is not None:
                session.overflow()

        sink = EventSink(nursery.start_soon, buffer_bytes, clients.metrics, overflow)
        gate = Gate(access, peer_of(request))
        session = make_session(sink, nursery.start_soon, gate=gate, wire=wire)
        nursery.start_soon(keep_event_session, session, sink, clients)
        if not clients.admit(session):
            raise Problem(503, "unavailable", "too many clients", headers=_later())
        try:
            gate.take(current_grant())
            await session.begin(asked, sink, epoch)
        except RequestError as error:
            raise _problem(error) from None
        return _response(sink.events())

    return stream


def _response(body: Any) -> Response:
    response: Response = current_app.response_class(
        body, content_type="text/event-stream; charset=utf-8", headers=_HEADERS
    )
    response.timeout = None
    return response


def _later() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_S)}


def _problem(error: RequestError) -> Problem:
    status, code = _PROBLEMS.get(error.code, (400, "invalid_request"))
    field, colon, _ = error.message.partition(":")
    param = field if colon and field in QUERY else None
    headers = _later() if status in (429, 503) else None
    return Problem(status, code, error.message, param=param, headers=headers)


def _subscription(asked: Request, query: Mapping[str, str]) -> Subscribe:
    """Return what the URL asks for, from where the client's last event was. Raises Problem."""
    query = {name: text for name, text in query.items() if name != "times"}
    if "symbols" not in query and query.get("types") != "heartbeat":
        raise missing_parameter("symbols", "one or more symbols, like EURUSD,GBPUSD")
    message = {"action": "subscribe", **{name: _value(name, text) for name, text in query.items()}}
    if "*" in message.get("symbols", ()):
        raise invalid_parameter("symbols", "*", "expected names: an event's id has a place for each")
    subscribe = _parsed(message)
    keys = stream_keys(subscribe)
    if len(keys) > MAX_STREAMS:
        detail = f"symbols: {len(keys)} streams; at most {MAX_STREAMS} in one request: divide the symbols"
        raise Problem(400, "range_too_large", detail, param="symbols")
    last = asked.headers.get("Last-Event-ID")
    if not last:
        return subscribe
    try:
        epoch, rows = parse_event_id(last, keys)
    except ValueError as error:
        raise invalid_parameter("Last-Event-ID", last, str(error)) from None
    if not rows:
        return subscribe
    message.pop("snapshot", None)  # the records themselves come
    return _parsed({**message, "since": {"epoch": epoch, "seqs": rows}})


def _parsed(message: Mapping[str, Any]) -> Subscribe:
    try:
        parsed = parse_request(msgspec.json.encode(message).decode())
    except RequestError as error:
        raise _problem(error) from None
    assert isinstance(parsed, Subscribe)  # noqa: S101 - the action says so
    return parsed


def _value(name: str, text: str) -> Any:
    """Return a parameter as the field of a request that it stands for: what is no number or object stays text."""
    if name in _LISTS:
        return [part for part in text.split(",") if part]
    if name in _TEXTS:
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text

"""The HTTP routes as OpenAPI 3.1, written by hand; a test compares it with the routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ... import __version__
from ...model import TIMEFRAMES
from ...protocol.times import TIMES
from ...timeframes import ALIGNS
from . import arrow
from .candle_query import DEFAULT_FIELDS, FIELDS, FILLS, MAX_CANDLES, SORTS
from .coverage_view import MAX_DAYS
from .encoding import FORMATS
from .gaps_view import DEFAULT_GAPS, MAX_GAPS_SHOWN, STATES
from .params import DEFAULT_TIMEFRAME
from .records_view import DEFAULT_RECORDS, MAX_ARROW_RECORDS, MAX_RECORDS
from .series_choice import PRICES
from .snapshot_view import MAX_SYMBOLS

__all__ = ["openapi_document"]

_TIME = {"type": "number", "description": "Unix seconds, UTC"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def _list(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _rows_or_columns(name: str) -> dict[str, Any]:
    return {"oneOf": [_list(_ref(name)), _ref(f"{name}Columns")]}


def _page(field: str, name: str) -> dict[str, Any]:
    return _object({"broker": _TEXT, "symbol": _TEXT, field: _rows_or_columns(name)} | _CURSOR)


_EXTENT = {
    "earliest": _nullable(_TIME),
    "latest": _nullable(_TIME),
    "tick_count": _COUNT,
    "trade_count": _COUNT,
}
_BROKER_STATE = {
    "type": "string",
    "enum": ["starting", "live", "degraded", "backoff", "failed", "stopped"],
}
_TIMEFRAMES = _list({"type": "string", "enum": list(TIMEFRAMES)})
_CURSOR = {"next_cursor": {"type": ["string", "null"]}}

_SHOWN_TIME = {"type": ["number", "string"], "description": "as `times` says, by default Unix seconds, UTC"}
_CANDLE = {
    "time": _SHOWN_TIME,
    **dict.fromkeys(("open", "high", "low", "close", "volume"), _nullable(_NUMBER)),
    "count": _nullable(_COUNT),
    "vwap": _nullable(_NUMBER),
    "broker": _TEXT,
    "complete": {"type": "boolean"},
}

_FORMING = _object(
    {"time": {**_TIME, "type": "integer"}, "count": _COUNT}
    | dict.fromkeys(("open", "high", "low", "close", "volume"), _NUMBER)
)


def _message(kind: str, values: dict[str, Any], *optional: str) -> dict[str, Any]:
    """Describe a record as the stream has it."""
    head = {"type": {"const": kind, "type": "string"}, "broker": _TEXT, "symbol": _TEXT}
    numbered = {"seq": {"type": "integer"}, "time": _TIME}
    return _object(head | numbered | values, {name: dict[str, Any]() for name in optional})


_SCHEMAS = {
    "Candle": _object({}, _CANDLE),
    "CandlesBySymbol": {"type": "object", "additionalProperties": _rows_or_columns("Candle")},
    "Tick": _object(
        {"seq": _COUNT, "time": _SHOWN_TIME, "bid": _NUMBER, "ask": _NUMBER},
        {"bid_size": _NUMBER, "ask_size": _NUMBER, "received": _SHOWN_TIME},
    ),
    "Trade": _object(
        {"seq": _COUNT, "time": _SHOWN_TIME, "price": _NUMBER, "size": _NUMBER},
        {"side": {"type": "string", "enum": ["buy", "sell"]}, "trade_id": _TEXT, "received": _SHOWN_TIME},
    ),
    "CandleColumns": _object({}, {name: _list(schema) for name, schema in _CANDLE.items()}),
    "TickColumns": _object(
        {"seq": _list(_COUNT), "time": _list(_SHOWN_TIME), "bid": _list(_NUMBER), "ask": _list(_NUMBER)}
        | dict.fromkeys(("bid_size", "ask_size"), _list(_nullable(_NUMBER)))
        | {"received": _list({"type": ["number", "string", "null"]})}
    ),
    "TradeColumns": _object(
        {"seq": _list(_COUNT), "time": _list(_SHOWN_TIME), "price": _list(_NUMBER), "size": _list(_NUMBER)}
        | dict.fromkeys(("side", "trade_id"), _list(_nullable(_TEXT)))
        | {"received": _list({"type": ["number", "string", "null"]})}
    ),
    "TickPage": _page("ticks", "Tick"),
    "TradePage": _page("trades", "Trade"),
    "Metadata": {
        "oneOf": [
            _object({"symbols": _list(_object({"symbol": _TEXT} | _EXTENT)), "timeframes": _TIMEFRAMES}),
            _object(
                {"symbol": _TEXT}
                | _EXTENT
                | {"timeframes": _TIMEFRAMES, "brokers": _list(_object({"broker": _TEXT} | _EXTENT))}
            ),
        ]
    },
    "Brokers": _object(
        {
            "brokers": _list(
                _object(
                    {
                        "broker": _TEXT,
                        "plugin": _TEXT,
                        "state": _BROKER_STATE,
                        "since": _TIME,
                        "attempt": _COUNT,
                        "last_error": _nullable(_TEXT),
                        "last_event": _nullable(_TIME),
                        "feeds": _COUNT,
                        "active": _COUNT,
                        "refused": {"type": "object", "additionalProperties": _TEXT},
                        "errors": _list(
                            _object(
                                {
                                    "time": _TIME,
                                    "outcome": {
                                        "type": "string",
                                        "enum": ["rejected", "crashed", "unavailable"],
                                    },
                                    "message": _TEXT,
                                }
                            )
                        ),
                        "changes": _list(_object({"time": _TIME, "state": _BROKER_STATE, "message": _TEXT})),
                    }
                )
            )
        }
    ),
    "Gaps": _object(
        {
            "gaps": _list(
                _object(
                    {
                        "broker": _TEXT,
                        "symbol": _TEXT,
                        "record_type": _TEXT,
                        "from": _TIME,
                        "to": _nullable(_TIME),
                        "cause": _TEXT,
                        "size": _nullable(_COUNT),
                        "state": {"type": "string", "enum": list(STATES)},
                    }
                )
            ),
            "more": {"type": "boolean"},
        }
    ),
    "Coverage": _object(
        {
            "symbol": _TEXT,
            "series": _list(
                _object(
                    {
                        "broker": _TEXT,
                        "record_type": _TEXT,
                        "days": _list(
                            _object(
                                {"time": {**_TIME, "type": "integer"}}
                                | dict.fromkeys(
                                    ("records", "hours", "open_hours", "empty_hours", "failed_hours"), _COUNT
                                )
                                | {"gap_s": {"type": "number", "minimum": 0}}
                            )
                        ),
                    }
                )
            ),
        }
    ),
    "Snapshot": _object(
        {
            "broker": _TEXT,
            "tick": _nullable(_message("tick", {"bid": _NUMBER, "ask": _NUMBER}, "bid_size", "ask_size")),
            "trade": _nullable(_message("trade", {"price": _NUMBER, "size": _NUMBER}, "side", "trade_id")),
            "candles": _object({"1m": _nullable(_FORMING), "1d": _nullable(_FORMING)}),
            "change": _nullable(_NUMBER),
            "change_percent": _nullable(_NUMBER),
        }
    ),
    "Health": _object(
        {"status": {"type": "string", "enum": ["live", "ready", "degraded"]}}, {"reasons": _list(_TEXT)}
    ),
    "Problem": {
        "type": "object",
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "code": _TEXT,
            "param": _nullable(_TEXT),
            "reasons": _list(_TEXT),
        },
        "required": ["type", "title", "status", "detail", "code", "param"],
    },
}


def _parameter(
    name: str, description: str, schema: dict[str, Any], *, required: bool = False, where: str = "query"
) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": required,
        "description": description,
        "schema": schema,
    }


_SYMBOL = _parameter("symbol", "also `eur/usd`, `EUR_USD`, `EUR-USD`", _TEXT, required=True)
_SYMBOLS = _parameter("symbols", "several, separated by commas: the answer is an object by symbol", _TEXT)
_TIMEFRAME = _parameter(
    "timeframe",
    "length of a candle: minutes or hours that divide a day, `1d`, `1w`, `1M`",
    {"type": "string", "pattern": "^([1-9][0-9]*[mh]|1d|1w|1M)$", "default": DEFAULT_TIMEFRAME},
)
_SECONDS = {"type": "number", "minimum": 0, "exclusiveMaximum": 100_000_000_000}
_RANGE = [
    _parameter("from", "start of the range, Unix seconds, included", _SECONDS, required=True),
    _parameter("to", "end of the range, Unix seconds, included", _SECONDS, required=True),
]
_BROKER = _parameter("broker", "default: joined from all sources that have the symbol", _TEXT)
_PRICE = _parameter(
    "price", "default: mid or trade, as the broker prefers", {"type": "string", "enum": list(PRICES)}
)
_FORMAT = _parameter(
    "format",
    "default: by `Accept`; `columns` is JSON with one array per field",
    {"type": "string", "enum": list(FORMATS)},
)
_TIMES = _parameter(
    "times",
    "how times are written; `s`: Unix seconds",
    {"type": "string", "enum": list(TIMES), "default": "s"},
)


def _words(known: Sequence[str], default: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(known), "default": default}


_CANDLE_CHOICES = [
    _BROKER,
    _PRICE,
    _FORMAT,
    _parameter(
        "align", "`ny17`: from two hours on, candles begin at 17:00 in New York", _words(ALIGNS, "utc")
    ),
    _parameter("fill", "candles for buckets that certainly had no record", _words(FILLS, "none")),
    _parameter("sort", "by time", _words(SORTS, "asc")),
    _parameter(
        "limit", "candles in a page; default: all", {"type": "integer", "minimum": 1, "maximum": MAX_CANDLES}
    ),
    _parameter("cursor", "`X-Next-Cursor` of the previous page", _TEXT),
    _parameter(
        "fields",
        f"separated by commas, some of {', '.join(FIELDS)}",
        {"type": "string", "default": ",".join(DEFAULT_FIELDS)},
    ),
    _TIMES,
]
_PAGING = [
    _parameter(
        "limit",
        f"records in a page, as Arrow up to {MAX_ARROW_RECORDS}, else up to {MAX_RECORDS}",
        {"type": "integer", "minimum": 1, "maximum": MAX_ARROW_RECORDS, "default": DEFAULT_RECORDS},
    ),
    _parameter("cursor", "`next_cursor` of the previous page", _TEXT),
    _FORMAT,
    _TIMES,
]


def _in_path(parameter: dict[str, Any]) -> dict[str, Any]:
    return {**parameter, "in": "path", "required": True}


def _problem() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {"description": "a problem", "content": content}


def _get(
    summary: str,
    answer: dict[str, Any] | None,
    parameters: list[dict[str, Any]] | None = None,
    *,
    csv: bool = False,
    kind: str = "application/json",
    problems: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Describe one route; ``answer`` None means text."""
    content = {kind: {"schema": _TEXT if answer is None else answer}}
    if csv:
        content["text/csv"] = {"schema": _TEXT}
        content[arrow.CONTENT_TYPE] = {"schema": {"type": "string", "format": "binary"}}
        problems = (*problems, 406)
    responses = {"200": {"description": "the answer", "content": content}}
    responses |= {str(status): _problem() for status in problems}
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": responses}}


_DATA = (400, 404, 500, 503)
_CANDLES = {"anyOf": [*_rows_or_columns("Candle")["oneOf"], _ref("CandlesBySymbol")]}
_LIMIT = f"Candles, of one symbol at most {MAX_CANDLES}"

_PATHS = {
    "/api/metadata": _get(
        "What is stored", _ref("Metadata"), [{**_SYMBOL, "required": False}], problems=_DATA
    ),
    "/api/candles": _get(
        _LIMIT,
        _CANDLES,
        [{**_SYMBOL, "required": False}, _SYMBOLS, _TIMEFRAME, *_RANGE, *_CANDLE_CHOICES],
        csv=True,
        problems=_DATA,
    ),
    "/api/candles/{symbol}/{timeframe}": _get(
        _LIMIT,
        _CANDLES,
        [_in_path(_SYMBOL), _in_path(_TIMEFRAME), *_RANGE, *_CANDLE_CHOICES],
        csv=True,
        problems=_DATA,
    ),
    "/api/ticks": _get(
        "Recorded quotes", _ref("TickPage"), [_SYMBOL, *_RANGE, _BROKER, *_PAGING], csv=True, problems=_DATA
    ),
    "/api/trades": _get(
        "Recorded trades", _ref("TradePage"), [_SYMBOL, *_RANGE, _BROKER, *_PAGING], csv=True, problems=_DATA
    ),
    "/api/gaps": _get(
        "Intervals in which records may be missing",
        _ref("Gaps"),
        [
            {**_SYMBOL, "required": False},
            _BROKER,
            *({**one, "required": False} for one in _RANGE),
            _parameter("state", "default: all", {"type": "string", "enum": list(STATES)}),
            _parameter(
                "limit",
                "gaps in the answer",
                {"type": "integer", "minimum": 1, "maximum": MAX_GAPS_SHOWN, "default": DEFAULT_GAPS},
            ),
        ],
        problems=(400, 500, 503),
    ),
    "/api/coverage": _get(
        f"What is stored of each day; by default of the last year, at most {MAX_DAYS} days",
        _ref("Coverage"),
        [_SYMBOL, *({**one, "required": False} for one in _RANGE)],
        problems=_DATA,
    ),
    "/api/brokers": _get("The state of each broker", _ref("Brokers"), problems=(400, 500)),
    "/api/snapshot": _get(
        f"Where symbols are now: last tick and trade, forming candles, change of the day; at most {MAX_SYMBOLS}",
        {"type": "object", "additionalProperties": _ref("Snapshot")},
        [_parameter("symbols", "one or more, divided by commas", _TEXT, required=True), _BROKER],
        problems=_DATA,
    ),
    "/api/stream": _get(
        "The stream as server-sent events; the fields are those of `subscribe`",
        None,
        [
            _parameter("symbols", "one or more, divided by commas", _TEXT, required=True),
            _parameter("types", "default: tick; several are divided by commas", _TEXT),
            _parameter("broker", "default: the first in the config that has the symbol", _TEXT),
            _parameter("interval", "of candles", {"type": "string", "enum": list(TIMEFRAMES)}),
            _parameter("since", 'Unix seconds, or `{"seq": n}`: where in the past to begin', _TEXT),
            _parameter("snapshot", "the last record of each topic first", {"type": "boolean"}),
            _parameter("received", "records carry the time of their receipt", {"type": "boolean"}),
            _parameter("depth", "of order books: 1 to 25 levels, or `full`; default: 10", _TEXT),
            _parameter(
                "rate_ms",
                "at most one record of an instrument in so many ms",
                {"type": "integer", "minimum": 1, "maximum": 60_000},
            ),
            _parameter(
                "slow", "what becomes of a slow client", {"type": "string", "enum": ["conflate", "close"]}
            ),
            _parameter("times", "how times are written", {"type": "string", "enum": list(TIMES)}),
            _parameter(
                "Last-Event-ID", "the id of the last event that the client has", _TEXT, where="header"
            ),
        ],
        kind="text/event-stream",
        problems=(400, 404, 500, 503),
    ),
    "/api/openapi.json": _get("This document", {"type": "object"}, problems=(400, 500)),
    "/health/live": _get("Whether the process answers", _ref("Health")),
    "/health/ready": _get("Whether the server can do all of its work", _ref("Health"), problems=(503,)),
    "/metrics": _get("Prometheus text format", None, kind="text/plain"),
    "/": _get("A page with a live chart", None, kind="text/html"),
    "/docs": _get("A page that shows this document", None, kind="text/html"),
    "/client.js": _get("The JavaScript client, an ES module", None, kind="text/javascript"),
    "/stream": {
        "get": {
            "summary": "The WebSocket; a plain HTTP request is answered with 426",
            "parameters": [],
            "responses": {"101": {"description": "the stream"}, "426": _problem()},
        }
    },
}


_SECURITY = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "A client's key, where the config has keys; `mdserver keys new` makes one",
    }
}
_REFUSALS = {str(status): _problem() for status in (401, 403, 429)}
for _path, _item in _PATHS.items():
    if not _path.startswith("/health/"):
        _item["get"]["responses"] |= _REFUSALS


def openapi_document() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mdserver",
            "version": __version__,
            "description": "Times are Unix seconds, UTC. Answers under /api carry strong ETags.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": _PATHS,
        # Without keys in the config none is asked for.
        "security": [{"key": []}, {}],
        "components": {"schemas": _SCHEMAS, "securitySchemes": _SECURITY},
    }

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
from .instruments import KINDS
from .openapi_headers import HEADERS, complete
from .openapi_schemas import NAME, SCHEMAS, TEXT, ref, rows_or_columns
from .openapi_udf import UDF_SCHEMAS
from .params import DEFAULT_TIMEFRAME, MAX_SYMBOLS
from .records_view import DEFAULT_RECORDS, MAX_ARROW_RECORDS, MAX_RECORDS
from .series_choice import PRICES
from .symbols_view import DEFAULT_SYMBOLS, MAX_SYMBOLS_SHOWN

__all__ = ["openapi_document"]


def _parameter(
    name: str,
    description: str,
    schema: dict[str, Any],
    *,
    required: bool = False,
    where: str = "query",
    example: object = None,
) -> dict[str, Any]:
    """Describe a parameter; ``example`` is what a form to try it begins with."""
    return {
        "name": name,
        "in": where,
        "required": required,
        "description": description,
        "schema": schema,
    } | ({} if example is None else {"example": example})


_SYMBOL = _parameter("symbol", "also `eur/usd`, `EUR_USD`, `EUR-USD`", NAME, required=True, example="EURUSD")
_LISTED = _parameter(
    "symbols", "one or more, separated by commas", NAME, required=True, example="EURUSD,GBPUSD"
)
_SYMBOLS = _parameter("symbols", "several, separated by commas: the answer is an object by symbol", TEXT)
_TIMEFRAME = _parameter(
    "timeframe",
    "length of a candle: minutes or hours that divide a day, `1d`, `1w`, `1M`",
    {"type": "string", "pattern": "^([1-9][0-9]*[mh]|1d|1w|1M)$", "default": DEFAULT_TIMEFRAME},
)
_SECONDS = {"type": "number", "minimum": 0, "exclusiveMaximum": 100_000_000_000}
_RANGE = [
    _parameter(
        "from", "start of the range, Unix seconds, included", _SECONDS, required=True, example=1_710_892_800
    ),
    _parameter(
        "to", "end of the range, Unix seconds, included", _SECONDS, required=True, example=1_710_896_400
    ),
]
_BROKER = _parameter("broker", "default: joined from all sources that have the symbol", TEXT)
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
    _parameter("cursor", "`X-Next-Cursor` of the previous page", TEXT),
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
    _parameter("cursor", "`next_cursor` of the previous page", TEXT),
    _FORMAT,
    _TIMES,
]


def _in_path(parameter: dict[str, Any]) -> dict[str, Any]:
    return {**parameter, "in": "path", "required": True}


def _problem() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": ref("Problem")}}
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
    content = {kind: {"schema": TEXT if answer is None else answer}}
    if csv:
        content["text/csv"] = {"schema": TEXT}
        content[arrow.CONTENT_TYPE] = {"schema": {"type": "string", "format": "binary"}}
        problems = (*problems, 406)
    responses = {"200": {"description": "the answer", "content": content}}
    responses |= {str(status): _problem() for status in problems}
    return {"get": {"summary": summary, "parameters": parameters or [], "responses": responses}}


_DATA = (400, 404, 500, 503)
_CANDLES = {"anyOf": [*rows_or_columns("Candle")["oneOf"], ref("CandlesBySymbol")]}
_LIMIT = f"Candles, of one symbol at most {MAX_CANDLES}"


def _udf(summary: str, answer: dict[str, Any] | None, *parameters: dict[str, Any]) -> dict[str, Any]:
    """Describe a route of TradingView's protocol; what a request is to blame for is 200 with ``s: error`` there."""
    either = None if answer is None else {"anyOf": [answer, ref("UdfError")]}
    return _get(
        summary, either, list(parameters), kind="text/plain" if answer is None else "application/json"
    )


_UDF_SYMBOL = _parameter(
    "symbol", "`EURUSD`, or of one source `oanda:EURUSD`", NAME, required=True, example="EURUSD"
)
_UDF_RANGE = [
    _UDF_SYMBOL,
    *({**one, "description": f"{one['name']}, Unix seconds"} for one in _RANGE),
    _parameter("resolution", "minutes, `1D`, `1W` or `1M`", NAME, required=True, example="60"),
]
_UDF_PATHS = {
    "/udf/config": _udf("UDF: what this datafeed can do", ref("UdfConfig")),
    "/udf/symbols": _udf("UDF: one symbol", ref("UdfSymbol"), _UDF_SYMBOL),
    "/udf/symbol_info": _udf(
        "UDF: all symbols, a column for each field",
        ref("UdfGroup"),
        _parameter("group", "a source", TEXT),
    ),
    "/udf/search": _udf(
        "UDF: symbols by name",
        ref("UdfFound"),
        *(_parameter(name, "as TradingView asks", TEXT) for name in ("query", "type", "exchange", "limit")),
    ),
    "/udf/history": _udf(
        "UDF: bars in front of `to`",
        ref("UdfBars"),
        *_UDF_RANGE,
        _parameter("countback", "so many bars, wherever `from` is", {"type": "integer", "minimum": 1}),
    ),
    "/udf/marks": _udf("UDF: gaps as marks on bars", ref("UdfMarks"), *_UDF_RANGE),
    "/udf/timescale_marks": _udf(
        "UDF: gaps as marks on the axis of time", ref("UdfTimescaleMarks"), *_UDF_RANGE
    ),
    "/udf/quotes": _udf(
        "UDF: newest prices",
        ref("UdfQuotes"),
        _LISTED,
    ),
    "/udf/time": _udf("UDF: the time of the server in Unix seconds", None),
}

_PATHS = {
    "/api/metadata": _get(
        "What is stored",
        ref("Metadata"),
        [{**_SYMBOL, "required": False, "schema": TEXT}, _TIMES],
        problems=_DATA,
    ),
    "/api/candles": _get(
        _LIMIT,
        _CANDLES,
        [{**_SYMBOL, "required": False, "schema": TEXT}, _SYMBOLS, _TIMEFRAME, *_RANGE, *_CANDLE_CHOICES],
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
        "Recorded quotes", ref("TickPage"), [_SYMBOL, *_RANGE, _BROKER, *_PAGING], csv=True, problems=_DATA
    ),
    "/api/trades": _get(
        "Recorded trades", ref("TradePage"), [_SYMBOL, *_RANGE, _BROKER, *_PAGING], csv=True, problems=_DATA
    ),
    "/api/gaps": _get(
        "Intervals in which records may be missing",
        ref("Gaps"),
        [
            {**_SYMBOL, "required": False, "schema": TEXT},
            _BROKER,
            *({**one, "required": False} for one in _RANGE),
            _parameter("state", "default: all", {"type": "string", "enum": list(STATES)}),
            _parameter(
                "limit",
                "gaps in the answer",
                {"type": "integer", "minimum": 1, "maximum": MAX_GAPS_SHOWN, "default": DEFAULT_GAPS},
            ),
            _TIMES,
        ],
        problems=(400, 500, 503),
    ),
    "/api/coverage": _get(
        f"What is stored of each day; by default of the last year, at most {MAX_DAYS} days",
        ref("Coverage"),
        [_SYMBOL, *({**one, "required": False} for one in _RANGE), _TIMES],
        problems=_DATA,
    ),
    "/api/symbols": _get(
        "Which instruments there are",
        ref("Symbols"),
        [
            _parameter("query", "part of a name, also with separators and in small letters", TEXT),
            _parameter("type", "default: all", {"type": "string", "enum": list(KINDS)}),
            _BROKER,
            _parameter(
                "limit",
                "instruments in the answer",
                {"type": "integer", "minimum": 1, "maximum": MAX_SYMBOLS_SHOWN, "default": DEFAULT_SYMBOLS},
            ),
            _TIMES,
        ],
        problems=(400, 500, 503),
    ),
    **_UDF_PATHS,
    "/api/brokers": _get("The state of each broker", ref("Brokers"), [_TIMES], problems=(400, 500)),
    "/api/snapshot": _get(
        f"Where symbols are now: last tick and trade, forming candles, change of the day; at most {MAX_SYMBOLS}",
        {"type": "object", "additionalProperties": ref("Snapshot")},
        [_LISTED, _BROKER, _TIMES],
        problems=_DATA,
    ),
    "/api/stream": _get(
        "The stream as server-sent events; the fields are those of `subscribe`",
        ref("StreamEvent"),
        [
            _LISTED,
            _parameter("types", "default: tick; several are divided by commas", TEXT),
            _parameter("broker", "default: the first in the config that has the symbol", TEXT),
            _parameter("interval", "of candles", {"type": "string", "enum": list(TIMEFRAMES)}),
            _parameter("since", 'Unix seconds, or `{"seq": n}`: where in the past to begin', TEXT),
            _parameter("snapshot", "the last record of each topic first", {"type": "boolean"}),
            _parameter("received", "records carry the time of their receipt", {"type": "boolean"}),
            _parameter("depth", "of order books: 1 to 25 levels, or `full`; default: 10", TEXT),
            _parameter(
                "rate_ms",
                "at most one record of an instrument in so many ms; 0: all",
                {"type": "integer", "minimum": 0, "maximum": 60_000},
            ),
            _parameter(
                "slow", "what becomes of a slow client", {"type": "string", "enum": ["conflate", "close"]}
            ),
            _parameter("times", "how times are written", {"type": "string", "enum": list(TIMES)}),
            _parameter("Last-Event-ID", "the id of the last event that the client has", TEXT, where="header"),
        ],
        kind="text/event-stream",
        problems=(400, 404, 500, 503),
    ),
    "/api/openapi.json": _get("This document", {"type": "object"}, problems=(400, 500)),
    "/health/live": _get("Whether the process answers", ref("Health")),
    "/health/ready": _get("Whether the server can do all of its work", ref("Health"), problems=(503,)),
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
_COMPLETE = complete(_PATHS)


def openapi_document() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mdserver",
            "version": __version__,
            "description": (
                "Times are Unix seconds, UTC, unless `times` says otherwise. Symbols may be written `EURUSD`, "
                "`eur/usd`, `EUR_USD`. Every route answers GET, HEAD and OPTIONS; another method is a problem "
                "with status 405 and the header `Allow`. Every error is a problem of RFC 9457; below `/udf` it "
                "is TradingView's own form."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": _COMPLETE,
        "servers": [{"url": "../", "description": "this server, also behind a path prefix"}],
        # Without keys in the config none is asked for.
        "security": [{"key": []}, {}],
        "components": {"schemas": SCHEMAS | UDF_SCHEMAS, "headers": HEADERS, "securitySchemes": _SECURITY},
    }

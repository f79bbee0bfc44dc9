"""The schemas of :mod:`.openapi`: what the documents that the HTTP routes answer with look like."""

from __future__ import annotations

from typing import Any

from ...model import TIMEFRAMES
from .gaps_view import STATES
from .instruments import KINDS

__all__ = [
    "COUNT",
    "NAME",
    "NUMBER",
    "SCHEMAS",
    "TEXT",
    "TIME",
    "list_of",
    "nullable",
    "object_of",
    "ref",
    "rows_or_columns",
]

TIME = {"type": ["number", "string"], "description": "as `times` says, by default Unix seconds, UTC"}
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}
NAME = {"type": "string", "minLength": 1}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that also takes null."""
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*types, "null"]}


def object_of(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def list_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an array."""
    return {"type": "array", "items": schema}


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a schema of :data:`SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def rows_or_columns(name: str) -> dict[str, Any]:
    """Return the schema of a table: an array of rows, or an object of columns."""
    return {"oneOf": [list_of(ref(name)), ref(f"{name}Columns")]}


def _page(field: str, name: str) -> dict[str, Any]:
    return object_of({"broker": TEXT, "symbol": TEXT, field: rows_or_columns(name)} | _CURSOR)


_EXTENT = {
    "earliest": nullable(TIME),
    "latest": nullable(TIME),
    "tick_count": COUNT,
    "trade_count": COUNT,
}
_BROKER_STATE = {
    "type": "string",
    "enum": ["starting", "live", "degraded", "backoff", "standby", "failed", "stopped"],
}
_TIMEFRAMES = list_of({"type": "string", "enum": list(TIMEFRAMES)})
_CURSOR = {"next_cursor": {"type": ["string", "null"]}}

_CANDLE = {
    "time": TIME,
    **dict.fromkeys(("open", "high", "low", "close", "volume"), nullable(NUMBER)),
    "count": nullable(COUNT),
    "vwap": nullable(NUMBER),
    "broker": TEXT,
    "complete": {"type": "boolean"},
}

_FORMING = object_of(
    {"time": TIME, "count": COUNT} | dict.fromkeys(("open", "high", "low", "close", "volume"), NUMBER)
)


def _message(kind: str, values: dict[str, Any], *optional: str) -> dict[str, Any]:
    """Describe a record as the stream has it."""
    head = {"type": {"const": kind, "type": "string"}, "broker": TEXT, "symbol": TEXT}
    numbered = {"seq": {"type": "integer"}, "time": TIME}
    return object_of(head | numbered | values, {name: dict[str, Any]() for name in optional})


SCHEMAS = {
    "Candle": object_of({}, _CANDLE),
    "CandlesBySymbol": {"type": "object", "additionalProperties": rows_or_columns("Candle")},
    "Tick": object_of(
        {"seq": COUNT, "time": TIME, "bid": NUMBER, "ask": NUMBER},
        {"bid_size": NUMBER, "ask_size": NUMBER, "received": TIME},
    ),
    "Trade": object_of(
        {"seq": COUNT, "time": TIME, "price": NUMBER, "size": NUMBER},
        {"side": {"type": "string", "enum": ["buy", "sell"]}, "trade_id": TEXT, "received": TIME},
    ),
    "CandleColumns": object_of({}, {name: list_of(schema) for name, schema in _CANDLE.items()}),
    "TickColumns": object_of(
        {"seq": list_of(COUNT), "time": list_of(TIME), "bid": list_of(NUMBER), "ask": list_of(NUMBER)}
        | dict.fromkeys(("bid_size", "ask_size"), list_of(nullable(NUMBER)))
        | {"received": list_of({"type": ["number", "string", "null"]})}
    ),
    "TradeColumns": object_of(
        {
            "seq": list_of(COUNT),
            "time": list_of(TIME),
            "price": list_of(NUMBER),
            "size": list_of(NUMBER),
        }
        | dict.fromkeys(("side", "trade_id"), list_of(nullable(TEXT)))
        | {"received": list_of({"type": ["number", "string", "null"]})}
    ),
    "TickPage": _page("ticks", "Tick"),
    "TradePage": _page("trades", "Trade"),
    "Metadata": {
        "oneOf": [
            object_of({"symbols": list_of(object_of({"symbol": TEXT} | _EXTENT)), "timeframes": _TIMEFRAMES}),
            object_of(
                {"symbol": TEXT}
                | _EXTENT
                | {"timeframes": _TIMEFRAMES, "brokers": list_of(object_of({"broker": TEXT} | _EXTENT))}
            ),
        ]
    },
    "Brokers": object_of(
        {
            "brokers": list_of(
                object_of(
                    {
                        "broker": TEXT,
                        "plugin": TEXT,
                        "state": _BROKER_STATE,
                        "since": TIME,
                        "attempt": COUNT,
                        "last_error": nullable(TEXT),
                        "last_event": nullable(TIME),
                        "feeds": COUNT,
                        "active": COUNT,
                        "refused": {"type": "object", "additionalProperties": TEXT},
                        "errors": list_of(
                            object_of(
                                {
                                    "time": TIME,
                                    "outcome": {
                                        "type": "string",
                                        "enum": ["rejected", "crashed", "unavailable"],
                                    },
                                    "message": TEXT,
                                }
                            )
                        ),
                        "changes": list_of(
                            object_of({"time": TIME, "state": _BROKER_STATE, "message": TEXT})
                        ),
                    },
                    {
                        "bus": object_of(
                            {
                                "process": TEXT,
                                "leader": nullable(TEXT),
                                "fence": nullable(COUNT),
                                "lag": nullable({"type": "number"}),
                            }
                        )
                    },
                )
            )
        }
    ),
    "Gaps": object_of(
        {
            "gaps": list_of(
                object_of(
                    {
                        "broker": TEXT,
                        "symbol": TEXT,
                        "record_type": TEXT,
                        "from": TIME,
                        "to": nullable(TIME),
                        "cause": TEXT,
                        "size": nullable(COUNT),
                        "state": {"type": "string", "enum": list(STATES)},
                    }
                )
            ),
            "more": {"type": "boolean"},
        }
    ),
    "Coverage": object_of(
        {
            "symbol": TEXT,
            "series": list_of(
                object_of(
                    {
                        "broker": TEXT,
                        "record_type": TEXT,
                        "days": list_of(
                            object_of(
                                {"time": TIME}
                                | dict.fromkeys(
                                    ("records", "hours", "open_hours", "empty_hours", "failed_hours"), COUNT
                                )
                                | {"gap_s": {"type": "number", "minimum": 0}}
                            )
                        ),
                    }
                )
            ),
        }
    ),
    "Symbols": object_of(
        {
            "symbols": list_of(
                object_of(
                    {
                        "symbol": TEXT,
                        "display": TEXT,
                        "type": {"type": "string", "enum": list(KINDS)},
                        "base": nullable(TEXT),
                        "quote": nullable(TEXT),
                        "price_digits": nullable(COUNT),
                        "session": TEXT,
                        "timezone": TEXT,
                        "brokers": list_of(object_of({"broker": TEXT, "venue_symbol": nullable(TEXT)})),
                        "earliest": nullable(TIME),
                        "latest": nullable(TIME),
                    }
                )
            ),
            "more": {"type": "boolean"},
        }
    ),
    "UdfError": object_of({"s": {"type": "string", "enum": ["error"]}, "errmsg": TEXT}),
    "Snapshot": object_of(
        {
            "broker": TEXT,
            "tick": nullable(_message("tick", {"bid": NUMBER, "ask": NUMBER}, "bid_size", "ask_size")),
            "trade": nullable(_message("trade", {"price": NUMBER, "size": NUMBER}, "side", "trade_id")),
            "candles": object_of({"1m": nullable(_FORMING), "1d": nullable(_FORMING)}),
            "change": nullable(NUMBER),
            "change_percent": nullable(NUMBER),
        }
    ),
    "StreamEvent": {
        **object_of({"data": {**TEXT, "contentMediaType": "application/json"}}, {"id": TEXT, "event": TEXT}),
        "description": "one event: `data` is a message as the WebSocket has it, `id` resumes by `Last-Event-ID`",
    },
    "Health": object_of(
        {"status": {"type": "string", "enum": ["live", "ready", "degraded"]}}, {"reasons": list_of(TEXT)}
    ),
    "Problem": {
        "type": "object",
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "code": TEXT,
            "param": nullable(TEXT),
            "reasons": list_of(TEXT),
        },
        "required": ["type", "title", "status", "detail", "code", "param"],
    },
}

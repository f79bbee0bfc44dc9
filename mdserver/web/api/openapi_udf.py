"""The schemas of what ``/udf`` answers: TradingView's protocol, as far as this server fills it."""

from __future__ import annotations

from typing import Any

from .openapi_schemas import COUNT, NUMBER, TEXT, list_of, nullable, object_of

__all__ = ["UDF_SCHEMAS"]

_FLAG = {"type": "boolean"}
_SECONDS = {"type": "integer", "description": "Unix seconds, UTC"}


def _all(kind: dict[str, Any], *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, kind)


_CONFIG = object_of(
    _all(
        _FLAG,
        "supports_search",
        "supports_group_request",
        "supports_marks",
        "supports_timescale_marks",
        "supports_time",
    )
    | {
        "exchanges": list_of(object_of(_all(TEXT, "value", "name", "desc"))),
        "symbols_types": list_of(object_of(_all(TEXT, "name", "value"))),
        "supported_resolutions": list_of(TEXT),
    }
)
_SYMBOL = object_of(
    _all(TEXT, "name", "ticker", "full_name", "description", "type", "exchange", "listed_exchange")
    | _all(TEXT, "timezone", "session", "visible_plots_set", "data_status", "format")
    | _all(COUNT, "minmov", "pricescale", "minmove2", "volume_precision")
    | _all(_FLAG, "has_intraday", "has_seconds", "has_ticks", "has_daily", "has_weekly_and_monthly")
    | _all(list_of(TEXT), "intraday_multipliers", "supported_resolutions"),
    {"currency_code": TEXT},
)
_GROUP = object_of(
    _all(list_of(TEXT), "symbol", "ticker", "description", "exchange-listed", "exchange-traded")
    | _all(list_of(TEXT), "type", "timezone", "session-regular")
    | _all(COUNT, "minmovement", "minmovement2")
    | {"pricescale": list_of(COUNT)}
    | _all(_FLAG, "has-intraday", "has-no-volume", "has-daily", "has-weekly-and-monthly")
    | _all(list_of(list_of(TEXT)), "intraday-multipliers", "supported-resolutions")
)
_FOUND = list_of(
    object_of(_all(TEXT, "symbol", "full_name", "description", "exchange", "ticker", "type")),
)
_BARS = {
    "oneOf": [
        object_of(
            {"s": {"const": "ok", "type": "string"}, "t": list_of(_SECONDS)}
            | _all(list_of(nullable(NUMBER)), "o", "h", "l", "c", "v")
        ),
        object_of({"s": {"const": "no_data", "type": "string"}}, {"nextTime": _SECONDS}),
    ]
}
_MARKS = list_of(
    object_of(
        {"id": {"type": "integer"}, "time": _SECONDS, "minSize": COUNT}
        | _all(TEXT, "color", "text", "label", "labelFontColor")
    )
)
_TIMESCALE_MARKS = list_of(
    object_of({"id": TEXT, "time": _SECONDS, "tooltip": list_of(TEXT)} | _all(TEXT, "color", "label"))
)
_QUOTE = object_of(
    _all(TEXT, "short_name", "exchange", "description")
    | _all(NUMBER, "lp", "open_price", "high_price", "low_price", "volume"),
    _all(NUMBER, "bid", "ask", "spread", "prev_close_price", "ch", "chp"),
)
_QUOTES = object_of(
    {
        "s": {"const": "ok", "type": "string"},
        "d": list_of(
            {
                "oneOf": [
                    object_of({"s": {"const": "ok", "type": "string"}, "n": TEXT, "v": _QUOTE}),
                    object_of(
                        {
                            "s": {"const": "error", "type": "string"},
                            "n": TEXT,
                            "v": object_of({}),
                            "errmsg": TEXT,
                        }
                    ),
                ]
            }
        ),
    }
)

UDF_SCHEMAS = {
    "UdfConfig": _CONFIG,
    "UdfSymbol": _SYMBOL,
    "UdfGroup": _GROUP,
    "UdfFound": _FOUND,
    "UdfBars": _BARS,
    "UdfMarks": _MARKS,
    "UdfTimescaleMarks": _TIMESCALE_MARKS,
    "UdfQuotes": _QUOTES,
}

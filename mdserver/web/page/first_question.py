"""The page's first question, which the browser asks while the page's modules are still on their way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlencode

__all__ = ["TIMEFRAMES", "first_question"]

FIRST_PAGE = 500
LAST_S = 7_258_118_400
TIMEFRAMES = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d", "1w", "1M")
"""As in ``candles.js``: the browser takes this answer only for exactly the same question."""

_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
_CHOSEN = ("symbol", "timeframe", "price", "align", "broker")


def first_question(query: Mapping[str, str]) -> str | None:
    """Return the address, relative to the page, that a page with this query asks first; None: that is not known."""
    chosen = {name: query.get(name, "") for name in _CHOSEN}
    chosen["symbol"] = chosen["symbol"].upper()
    if not all(_PLAIN.fullmatch(value) for value in chosen.values()):
        return None  # the page itself says what is wrong with it
    if not chosen["symbol"]:
        return "api/metadata"
    if chosen["timeframe"] not in TIMEFRAMES:
        chosen["timeframe"] = "1m"
    rest = {"from": 0, "to": LAST_S, "sort": "desc", "limit": FIRST_PAGE}
    return "api/candles?" + urlencode({name: value for name, value in chosen.items() if value} | rest)

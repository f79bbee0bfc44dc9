"""``GET /api/gaps``: intervals in which records of a series may be missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from quart import Request

from ...model import GapState
from ...protocol.times import TIMES, Times
from ...store.store import GapRow, LastingGap
from .guard import current_grant
from .params import number_up_to, query_of, symbol_of, time_range_us, times_of
from .problem import invalid_parameter
from .read_context import Reading

__all__ = ["DEFAULT_GAPS", "MAX_GAPS_SHOWN", "STATES", "gaps_document"]

QUERY = ("symbol", "broker", "from", "to", "state", "limit", "times")
STATES: tuple[GapState, ...] = get_args(GapState)
DEFAULT_GAPS = 1_000
MAX_GAPS_SHOWN = 10_000

_LAST_S = 7_258_118_400
"""2200-01-01: no record has a later time."""


async def gaps_document(request: Request, reading: Reading) -> dict[str, Any]:
    """Return the requested gaps, the earliest first; ``more``: the limit left some out."""
    query = query_of(request.args.items(multi=True), QUERY)
    symbol = symbol_of(query) if "symbol" in query else None
    first_us, last_us = time_range_us({"from": "0", "to": str(_LAST_S), **query})
    limit = number_up_to(query, "limit", MAX_GAPS_SHOWN, DEFAULT_GAPS)
    broker, state, times = query.get("broker"), _state_of(query.get("state")), times_of(query)
    seen = current_grant()
    found: list[GapRow | LastingGap] = []
    found += await reading.store.gaps(
        first_us,
        last_us,
        symbol=symbol,
        broker=broker,
        state=state,
        symbols=seen.symbols,
        brokers=seen.brokers,
        limit=limit + 1,
    )
    if state in (None, "open"):
        found += await reading.store.lasting_gaps(
            last_us,
            symbol=symbol,
            broker=broker,
            symbols=seen.symbols,
            brokers=seen.brokers,
            limit=limit + 1,
        )
        found.sort(key=lambda gap: gap.from_us)
    return {"gaps": list(_shown(found[:limit], times)), "more": len(found) > limit}


def _state_of(text: str | None) -> GapState | None:
    for state in STATES:
        if text == state:
            return state
    if text is None:
        return None
    raise invalid_parameter("state", text, f"expected one of {', '.join(STATES)}")


def _shown(gaps: Iterable[GapRow | LastingGap], times: Times) -> Iterable[dict[str, Any]]:
    show = TIMES[times]
    for gap in gaps:
        to_us, state = (gap.to_us, gap.state) if isinstance(gap, GapRow) else (None, "open")
        yield {
            "broker": gap.broker,
            "symbol": gap.symbol,
            "record_type": gap.type,
            "from": show(gap.from_us),
            "to": None if to_us is None else show(to_us),
            "cause": gap.cause,
            "size": gap.size,
            "state": state,
        }

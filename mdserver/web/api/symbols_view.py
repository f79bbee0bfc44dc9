"""``GET /api/symbols``: which instruments there are, with search."""

from __future__ import annotations

from typing import Any

from quart import Request

from .instruments import KINDS, instruments_of, search, with_digits
from .params import number_up_to, one_of, query_of, times_of
from .read_context import Reading

__all__ = ["DEFAULT_SYMBOLS", "MAX_SYMBOLS_SHOWN", "QUERY", "symbols_document"]

QUERY = ("query", "type", "broker", "limit", "times")
DEFAULT_SYMBOLS = 100
MAX_SYMBOLS_SHOWN = 1_000


async def symbols_document(request: Request, reading: Reading) -> dict[str, Any]:
    """Return the instruments that are asked for; ``more``: the limit left some out.

    Those stored or configured come first, then what the venues of the running brokers list.
    """
    query = query_of(request.args.items(multi=True), QUERY)
    limit = number_up_to(query, "limit", MAX_SYMBOLS_SHOWN, DEFAULT_SYMBOLS)
    times = times_of(query)
    kind = one_of(query, "type", KINDS, KINDS[0]) if "type" in query else None
    broker = query.get("broker")
    visible = [one.name for one in reading.seen_brokers() if broker in (None, one.name)]
    known = [one for one in await reading.all_series() if broker in (None, one.broker)]
    found = [one for one in instruments_of(known, reading, listed=visible) if kind in (None, one.kind)]
    if "query" in query:
        found = search(found, query["query"])
    shown = await with_digits(found[:limit], reading)
    return {"symbols": [one.document(times) for one in shown], "more": len(found) > limit}

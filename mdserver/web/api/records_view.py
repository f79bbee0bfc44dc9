"""``GET /api/ticks`` and ``GET /api/trades``: what was recorded, a page at a time.

A page ends at a position in the series, (time, seq), and the next one goes on behind it: records that arrive
meanwhile are neither given twice nor do they shift the pages. The cursor is that position, in a form
that clients have no reason to take apart.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

import attrs
import msgspec
from quart import Request, Response

from ...model import US_PER_S, RecordType
from ...store.store import RowPosition, SeriesInfo, Store
from .caching import Span, version_key
from .conditional import answer, format_of
from .encoding import Body, Column, TickRow, TradeRow, build_body, seconds, without_fraction
from .params import number_up_to, query_of, symbol_of, time_range_us
from .problem import Problem, invalid_parameter
from .read_context import Reading, series_headers
from .series_choice import choose_series

__all__ = ["DEFAULT_RECORDS", "MAX_RECORDS", "QUERY", "records_answer"]

QUERY = ("symbol", "from", "to", "broker", "limit", "cursor", "format")
MAX_RECORDS = 10_000
DEFAULT_RECORDS = 1_000

_BUCKET_US = 60 * US_PER_S  # a record from before the latest one's minute counts as late and moves hist_v


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    series_id: int
    time_us: int
    seq: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


@attrs.frozen
class _Ask:
    """A checked request for one page."""

    series: SeriesInfo
    from_us: int
    to_us: int
    after: RowPosition | None
    limit: int


async def records_answer(request: Request, reading: Reading, type_: RecordType) -> Response:
    """Answer a request for a page of ticks or of trades."""
    query = query_of(request.args.items(multi=True), QUERY)
    symbol = symbol_of(query)
    from_us, to_us = time_range_us(query)
    form = format_of(request, query)
    limit = number_up_to(query, "limit", MAX_RECORDS, DEFAULT_RECORDS)
    series = choose_series(
        await reading.series_of(symbol),
        reading.services.sources(),
        symbol,
        broker=query.get("broker"),
        wanted=type_,
        param=None,
    )
    after = _after(query.get("cursor"), series, from_us, to_us)
    ask = _Ask(series, from_us, to_us, after, limit)

    async def build() -> Body:
        row, columns, positions = await _page(reading.store, ask)
        following = _next_cursor(ask, positions)
        body = await build_body(row, columns, form, **_around(series, following))
        return attrs.evolve(body, headers=_paging_headers(query, following))

    span = Span(from_us, to_us, _BUCKET_US)
    return await answer(
        request,
        build,
        form=form,
        headers={"Cache-Control": reading.cache_control(series, span), **series_headers(series)},
        memory=reading.memory,
        key=("records", form, ask.after, limit, *version_key(series, span)),
    )


async def _page(store: Store, ask: _Ask) -> tuple[type[msgspec.Struct], list[Column], Sequence[RowPosition]]:
    """Return the row type, the columns, and the positions of one row more: it tells that a page follows."""
    where = (ask.series.id, ask.from_us, ask.to_us)
    if ask.series.type == "tick":
        ticks = await store.ticks(*where, after=ask.after, limit=ask.limit + 1)
        positions = list(zip(ticks.time_us, ticks.seq, strict=True))
        numbers = (ticks.bid, ticks.ask, ticks.bid_size, ticks.ask_size)
        columns = [Column(values[: ask.limit], without_fraction) for values in numbers]
        return TickRow, [*_place_columns(positions[: ask.limit]), *columns], positions
    trades = await store.trades(*where, after=ask.after, limit=ask.limit + 1)
    positions = list(zip(trades.time_us, trades.seq, strict=True))
    columns = [Column(values[: ask.limit], without_fraction) for values in (trades.price, trades.size)]
    columns += [Column(values[: ask.limit]) for values in (trades.side, trades.trade_id)]
    return TradeRow, [*_place_columns(positions[: ask.limit]), *columns], positions


def _place_columns(positions: Sequence[RowPosition]) -> list[Column]:
    return [Column([seq for _, seq in positions]), Column([us for us, _ in positions], seconds)]


def _next_cursor(ask: _Ask, positions: Sequence[RowPosition]) -> str | None:
    if len(positions) <= ask.limit:
        return None
    packed = msgspec.msgpack.encode(_Cursor(ask.series.id, *positions[ask.limit - 1]))
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def _after(cursor: str | None, series: SeriesInfo, from_us: int, to_us: int) -> RowPosition | None:
    if cursor is None:
        return None
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars="-_", validate=True)
        found = msgspec.msgpack.decode(packed, type=_Cursor)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise invalid_parameter("cursor", cursor, "expected the next_cursor of the page before") from None
    if found.series_id != series.id or not from_us <= found.time_us <= to_us:
        raise Problem(
            400,
            "invalid_parameter",
            "the cursor belongs to another request; keep the other parameters from page to page",
            param="cursor",
        )
    return found.time_us, found.seq


def _around(series: SeriesInfo, cursor: str | None) -> dict[str, bytes]:
    head = msgspec.json.encode({"broker": series.broker, "symbol": series.symbol})[:-1]
    name = {"tick": b"ticks", "trade": b"trades"}[series.type]
    tail = b',"next_cursor":' + msgspec.json.encode(cursor) + b"}"
    return {"before": head + b',"' + name + b'":', "after": tail}


def _paging_headers(query: dict[str, str], cursor: str | None) -> dict[str, str]:
    if cursor is None:
        return {}
    link = urlencode({**query, "cursor": cursor})
    # relative to the request, so that it leads to the next page behind a proxy's path prefix too
    return {"X-Next-Cursor": cursor, "Link": f'<?{link}>; rel="next"'}

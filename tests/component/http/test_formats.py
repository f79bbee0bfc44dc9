"""``format``: the same rows as JSON, as CSV and as JSON columns."""

from __future__ import annotations

from typing import Any

import pytest

from mdserver.web.api.candle_query import DEFAULT_FIELDS as FIELDS
from mdserver.web.api.encoding import PIECE_ROWS, Column, build_body, candle_row

T0 = 1_710_892_800
RECORDS = f"symbol=EURUSD&from={T0}&to={T0 + 100}&limit=3"


def columns_of(rows: list[dict[str, Any]], names: list[str]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in names}


async def test_columns_of_candles_are_the_rows_turned(site: Any, hours: str) -> None:
    rows = await (await site.get(hours)).get_json()
    response = await site.get(hours + "&format=columns", Accept="text/csv")
    assert response.content_type == "application/json"
    columns = await response.get_json()
    assert columns == columns_of(rows, list(rows[0]))
    assert list(columns) == ["time", "open", "high", "low", "close", "volume"]


async def test_columns_without_candles(site: Any) -> None:
    response = await site.get("/api/candles/EURUSD/1h?from=0&to=100000&format=columns")
    assert await response.get_data() == b'{"time":[],"open":[],"high":[],"low":[],"close":[],"volume":[]}'


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("ticks", ["seq", "time", "bid", "ask", "bid_size", "ask_size", "received"]),
        ("trades", ["seq", "time", "price", "size", "side", "trade_id", "received"]),
    ],
)
async def test_columns_of_records_and_their_pages(site: Any, kind: str, names: list[str]) -> None:
    """What the venue does not give is null: all columns are of one length."""
    page = await (await site.get(f"/api/{kind}?{RECORDS}")).get_json()
    response = await site.get(f"/api/{kind}?{RECORDS}&format=columns")
    assert await response.get_json() == page | {kind: columns_of(page[kind], names)}
    following = await site.get(f"/api/{kind}" + response.headers["Link"].partition(">")[0].removeprefix("<"))
    assert (await following.get_json())[kind]["seq"] == [4, 5, 6]


@pytest.mark.parametrize("rows", [0, 1, PIECE_ROWS, PIECE_ROWS + 1, 3 * PIECE_ROWS])
async def test_pieces_join(rows: int) -> None:
    columns = [Column([n * k for n in range(rows)]) for k in range(1, 7)]
    body = await build_body(candle_row(FIELDS), columns, "columns")
    lists = ",".join(
        f'"{name}":[{",".join(str(n) for n in column.values)}]'
        for name, column in zip(candle_row(FIELDS).__struct_fields__, columns, strict=True)
    )
    assert b"".join(body.pieces).decode() == "{" + lists + "}"
    assert body.size == len(lists) + 2


@pytest.mark.parametrize(
    ("form", "accept", "kind"),
    [("json", "text/csv", "application/json"), ("csv", "application/json", "text/csv; charset=utf-8")],
)
async def test_format_comes_before_accept(site: Any, hours: str, form: str, accept: str, kind: str) -> None:
    asked = await site.get(f"{hours}&format={form}", Accept=accept)
    assert asked.content_type == kind
    same = await site.get(hours, Accept=kind.partition(";")[0])
    assert asked.headers["ETag"] == same.headers["ETag"]


async def test_columns_have_an_etag_of_their_own(site: Any, hours: str) -> None:
    tag = (await site.get(hours)).headers["ETag"]
    columns = await site.get(hours + "&format=columns", If_None_Match=tag)
    assert columns.status_code == 200
    site.store.reads.clear()
    again = await site.get(hours + "&format=columns", If_None_Match=columns.headers["ETag"])
    assert again.status_code == 304
    assert site.store.reads == ["series"]


@pytest.mark.parametrize("path", ["candles?timeframe=1h&", "ticks?", "trades?"])
@pytest.mark.parametrize("form", ["xml", "JSON", "column"])
async def test_unknown_format(site: Any, path: str, form: str) -> None:
    problem = await site.problem(f"/api/{path}symbol=EURUSD&from={T0}&to={T0}&format={form}")
    assert (problem["status"], problem["code"], problem["param"]) == (400, "invalid_parameter", "format")
    assert "expected one of json, csv, columns" in problem["detail"]

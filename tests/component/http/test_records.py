"""``/api/ticks`` and ``/api/trades``, a page at a time."""

from __future__ import annotations

import base64
import csv
import io
from typing import Any

import msgspec
import pytest

T0 = 1_710_892_800


def path(kind: str, **query: object) -> str:
    asked = {"symbol": "EURUSD", "from": T0, "to": T0 + 100} | query
    return f"/api/{kind}?" + "&".join(f"{name.rstrip('_')}={value}" for name, value in asked.items())


async def test_a_tick_looks_as_in_the_stream(site: Any) -> None:
    page = await (await site.get(path("ticks", limit=1))).get_json()
    assert (page["broker"], page["symbol"]) == ("binance", "EURUSD")
    assert page["ticks"] == [{"seq": 1, "time": T0, "bid": 1.001, "ask": 2, "bid_size": 1_000_000}]


async def test_a_trade_looks_as_in_the_stream(site: Any) -> None:
    page = await (await site.get(path("trades", limit=2))).get_json()
    assert page["trades"] == [
        {"seq": 1, "time": T0, "price": 100.5, "size": 0.25, "side": "buy", "trade_id": 'id,"1"'},
        {"seq": 2, "time": T0 + 1, "price": 100.5, "size": 0.25, "received": T0 + 1.25},
    ]


@pytest.mark.parametrize("kind", ["ticks", "trades"])
@pytest.mark.parametrize("limit", [1, 7, 100, 201, 10_000])
async def test_pages_hold_every_record_once(site: Any, kind: str, limit: int) -> None:
    seen: list[int] = []
    where: str | None = path(kind, limit=limit)
    while where is not None:
        response = await site.get(where)
        page = await response.get_json()
        assert len(page[kind]) <= limit
        seen += [row["seq"] for row in page[kind]]
        cursor = page["next_cursor"]
        assert response.headers.get("X-Next-Cursor") == cursor
        if cursor is None:
            assert "Link" not in response.headers
            where = None
        else:
            where = f"/api/{kind}" + response.headers["Link"].split(">")[0].removeprefix("<")
    assert seen == list(range(1, 202))  # two a second, 100 s, both ends, the first second has one


async def test_csv_pages(site: Any) -> None:
    response = await site.get(path("trades", limit=2), Accept="text/csv")
    rows = list(csv.reader(io.StringIO(await response.get_data(as_text=True))))
    assert rows[0] == ["seq", "time", "price", "size", "side", "trade_id", "received"]
    assert rows[1] == ["1", str(T0), "100.5", "0.25", "buy", 'id,"1"', ""]
    assert rows[2] == ["2", str(T0 + 1), "100.5", "0.25", "", "", str(T0 + 1.25)]
    assert "X-Next-Cursor" in response.headers


async def test_page_is_revalidated_without_reading_it(site: Any) -> None:
    first = await site.get(path("ticks"))
    site.store.reads.clear()
    again = await site.get(path("ticks"), If_None_Match=first.headers["ETag"])
    assert again.status_code == 304
    assert site.store.reads == ["series"]
    other = await site.get(path("ticks", limit=5), If_None_Match=first.headers["ETag"])
    assert other.status_code == 200


@pytest.mark.parametrize("cursor", ["x", "!!", "a" * 500, "kwLPAAYU", "%C3%A9"])
async def test_bad_cursor(site: Any, cursor: str) -> None:
    problem = await site.problem(path("ticks", cursor=cursor))
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "cursor")


@pytest.mark.parametrize("changed", [{"broker": "oanda"}, {"from": T0 + 5}])
async def test_cursor_of_another_request(site: Any, changed: dict[str, object]) -> None:
    cursor = (await (await site.get(path("ticks", limit=1))).get_json())["next_cursor"]
    problem = await site.problem(path("ticks", limit=1, cursor=cursor, **changed))
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "cursor")
    assert "another request" in problem["detail"]


@pytest.mark.parametrize("place", [[2, T0 * 10**6, 2**64 - 1], [2, 2**63, 1], [2, -5, 1], [2]])
async def test_forged_cursor(site: Any, place: list[int]) -> None:
    cursor = base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).decode().rstrip("=")
    problem = await site.problem(path("ticks", cursor=cursor))
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "cursor")


@pytest.mark.parametrize("limit", ["0", "-1", "10001", "1.5", "x", "%D9%A3", "1" * 5_000])
async def test_bad_limit(site: Any, limit: str) -> None:
    problem = await site.problem(path("ticks", limit=limit))
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "limit")
    assert "from 1 to 10000" in problem["detail"]


async def test_symbol_without_this_type_of_record(site: Any) -> None:
    problem = await site.problem(path("trades", symbol="XAUUSD"))
    assert (problem["status"], problem["code"]) == (404, "unknown_symbol")
    assert "no trades of XAUUSD" in problem["detail"]

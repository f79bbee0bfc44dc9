"""What ``/api/candles`` answers."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import Any

import pytest

from mdserver.web.api.candle_query import DEFAULT_FIELDS as FIELDS
from mdserver.web.api.encoding import Column, build_body, candle_row, without_fraction

T0 = 1_710_892_800
HOUR = 3_600


async def test_candles_have_six_numbers_and_ascend(site: Any, hours: str) -> None:
    response = await site.get(hours)
    assert response.status_code == 200
    assert response.content_type == "application/json"
    candles = await response.get_json()
    assert [candle["time"] for candle in candles] == [T0 + n * HOUR for n in range(10)]
    assert list(candles[0]) == ["time", "open", "high", "low", "close", "volume"]


async def test_whole_numbers_have_no_invented_digit(site: Any, hours: str) -> None:
    text = await (await site.get(hours)).get_data(as_text=True)
    assert text.startswith(f'[{{"time":{T0},"open":3,"high":3,"low":3,"close":3,"volume":12}},')


async def test_both_forms_give_the_same(site: Any, hours: str) -> None:
    by_query = await site.get(hours)
    by_path = await site.get(f"/api/candles/EUR/USD/1h?from={T0}&to={T0 + 9 * HOUR}")
    assert await by_query.get_data() == await by_path.get_data()
    assert by_query.headers["ETag"] == by_path.headers["ETag"]


@pytest.mark.parametrize("symbol", ["EURUSD", "eurusd", "EUR/USD", "EUR%2FUSD", "eur_usd", "EUR-USD"])
async def test_symbols_are_taken_in_every_spelling(site: Any, symbol: str) -> None:
    assert (await site.get(f"/api/candles?symbol={symbol}&timeframe=1d&from={T0}&to={T0}")).status_code == 200
    assert (await site.get(f"/api/candles/{symbol}/1d?from={T0}&to={T0}")).status_code == 200


async def test_opens_on_both_ends_belong_to_the_range(site: Any) -> None:
    async def opens(first: float, last: float) -> list[int]:
        response = await site.get(f"/api/candles/EURUSD/1h?from={first}&to={last}")
        return [candle["time"] for candle in await response.get_json()]

    assert await opens(T0, T0 + HOUR) == [T0, T0 + HOUR]
    assert await opens(T0 + 0.000001, T0 + HOUR) == [T0 + HOUR]
    assert await opens(T0, T0 + HOUR - 0.000001) == [T0]
    assert await opens(T0 + 1, T0 + 2) == []


@pytest.mark.parametrize(
    ("query", "broker", "price"),
    [
        ("", "binance", "trade"),
        ("&price=mid", "binance", "mid"),
        ("&broker=oanda", "oanda", "mid"),
        ("&broker=binance", "binance", "trade"),
        ("&broker=binance&price=mid", "binance", "mid"),
    ],
)
async def test_series_is_chosen_by_broker_order_and_price(
    site: Any, hours: str, query: str, broker: str, price: str
) -> None:
    response = await site.get(hours + query)
    assert (response.headers["X-Broker"], response.headers["X-Price"]) == (broker, price)


async def test_source_outside_the_config_comes_last_but_comes(site: Any) -> None:
    response = await site.get(f"/api/candles/XAUUSD/1h?from={T0}&to={T0}")
    assert response.headers["X-Broker"] == "dukascopy"


async def test_series_without_rows_does_not_hide_one_with_rows(site: Any, rows: Any, hours: str) -> None:
    for row in rows[1:3]:
        row.row_count, row.earliest_us, row.latest_us = 0, None, None
    assert (await site.get(hours)).headers["X-Broker"] == "oanda"


async def test_known_symbol_without_any_row_is_empty(site: Any, rows: Any) -> None:
    rows[3].row_count, rows[3].earliest_us, rows[3].latest_us = 0, None, None
    response = await site.get(f"/api/candles/XAUUSD/1h?from={T0}&to={T0}")
    assert await response.get_json() == []
    assert "X-Available-From" not in response.headers


async def test_empty_range_says_what_there_is(site: Any) -> None:
    response = await site.get("/api/candles/EURUSD/1h?from=0&to=100000")
    assert response.status_code == 200
    assert await response.get_data() == b"[]"
    assert response.headers["X-Available-From"] == str(T0)
    assert response.headers["X-Available-To"] == f"{T0 + 86_400}.123456"


async def test_csv_on_request(site: Any, hours: str) -> None:
    response = await site.get(hours, Accept="text/csv")
    assert response.content_type == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(await response.get_data(as_text=True))))
    expected = await (await site.get(hours)).get_json()
    assert [{name: float(text) for name, text in row.items()} for row in rows] == expected
    empty = await site.get("/api/candles/EURUSD/1h?from=0&to=100000", Accept="text/csv")
    assert await empty.get_data() == b"time,open,high,low,close,volume\n"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json, text/csv;q=0.5", "application/json"),
        ("text/csv, */*;q=0.1", "text/csv; charset=utf-8"),
        ("image/png", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
    ],
)
async def test_accept_decides_the_format(site: Any, hours: str, accept: str, kind: str) -> None:
    response = await site.get(hours, Accept=accept)
    assert response.content_type == kind
    assert "Accept" in response.vary


async def test_head_has_the_headers_of_get_and_no_body(site: Any, hours: str) -> None:
    _, got, body = await site.raw("GET", hours)
    status, head, nothing = await site.raw("HEAD", hours)
    assert status == 200
    assert dict(head) == dict(got)
    assert int(head["Content-Length"]) == len(body)
    assert nothing == b""


async def test_large_range_is_whole(site: Any, rows: Any) -> None:
    rows[0].latest_us = (T0 + 20_000 * 60) * 1_000_000
    response = await site.get(f"/api/candles/EURUSD/1m?broker=oanda&from={T0}&to={T0 + 20_000 * 60}")
    body = await response.get_data()
    assert int(response.headers["Content-Length"]) == len(body)
    assert [candle["time"] for candle in json.loads(body)] == [T0 + 60 * n for n in range(20_001)]


@pytest.mark.serial
async def test_year_of_hours_is_encoded_fast() -> None:
    """The bound is far above what it takes, for a busy machine.

    Serial: it measures how long it takes.
    """
    count = 8_760
    prices = [[1 + (n * k % 99_991) / 100_000 for n in range(count)] for k in (3, 5, 7, 11)]
    columns = [[T0 + HOUR * n for n in range(count)], *prices, [float(n) for n in range(count)]]
    took = []
    for _ in range(5):
        start = time.perf_counter()
        await build_body(
            candle_row(FIELDS),
            [Column(columns[0]), *(Column(c, without_fraction) for c in columns[1:])],
            "json",
        )
        took.append(time.perf_counter() - start)
    assert min(took) < 0.1


async def test_bid_and_ask_are_other_candles_of_the_same_series(site: Any, hours: str) -> None:
    opens: dict[str, float] = {}
    tags = set()
    for price in ("mid", "bid", "ask"):
        response = await site.get(f"{hours}&broker=oanda&price={price}")
        assert (response.headers["X-Broker"], response.headers["X-Price"]) == ("oanda", price)
        opens[price] = (await response.get_json())[0]["open"]
        tags.add(response.headers["ETag"])
        site.store.reads.clear()
        again = await site.get(f"{hours}&broker=oanda&price={price}", If_None_Match=response.headers["ETag"])
        assert (again.status_code, site.store.reads) == (304, ["series", "is_settled"])
    assert opens["bid"] < opens["mid"] < opens["ask"]
    assert len(tags) == 3


@pytest.mark.parametrize("price", ["bid", "ask"])
async def test_bid_and_ask_of_a_broker_with_both_are_from_its_quotes(
    site: Any, hours: str, price: str
) -> None:
    response = await site.get(f"{hours}&price={price}")
    assert (response.headers["X-Broker"], response.headers["X-Price"]) == ("binance", price)


async def test_there_is_no_bid_of_trades(site: Any, rows: Any, hours: str) -> None:
    del rows[:2]
    problem = await site.problem(f"{hours}&price=bid")
    assert (problem["status"], problem["code"], problem["param"]) == (400, "invalid_parameter", "price")
    assert "no quotes (ticks) of EURUSD are stored; available: binance: trade" in problem["detail"]

"""The further parameters of ``/api/candles``: timeframes, alignment, fields, order, pages, filling, several symbols."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from mdserver.web.api.params import MAX_SYMBOLS

T0 = 1_710_892_800
"""2024-03-20, a Wednesday, midnight UTC. New York is on daylight saving time: 17:00 there is 21:00 UTC."""
HOUR, DAY, US = 3_600, 86_400, 1_000_000
END = T0 + DAY + HOUR - 1


async def candles(site: Any, **query: Any) -> Any:
    query = {"symbol": "EURUSD", "broker": "oanda", "from": T0, "to": END} | query
    query = {name: value for name, value in query.items() if value is not None}
    response = await site.get("/api/candles?" + "&".join(f"{name}={value}" for name, value in query.items()))
    assert response.status_code == 200, await response.get_data(as_text=True)
    return await response.get_json()


async def opens(site: Any, **query: Any) -> list[int]:
    return [one["time"] for one in await candles(site, **query)]


@pytest.mark.parametrize(
    ("timeframe", "align", "first", "count"),
    [
        ("3m", "utc", T0, 481),
        ("90m", "utc", T0, 17),
        ("2h", "utc", T0, 13),
        ("2h", "ny17", T0 + HOUR, 12),
        ("1d", "ny17", T0 + 21 * HOUR, 1),
        ("12h", "ny17", T0 + 9 * HOUR, 2),
        ("60m", "ny17", T0, 25),
    ],
)
async def test_any_timeframe(site: Any, timeframe: str, align: str, first: int, count: int) -> None:
    found = await opens(site, timeframe=timeframe, align=align)
    assert (found[0], len(found)) == (first, count)


async def test_weeks_and_months_begin_before_their_first_record(site: Any) -> None:
    assert await opens(site, timeframe="1w", **{"from": T0 - 30 * DAY}) == [T0 - 2 * DAY]
    assert await opens(site, timeframe="1M", **{"from": T0 - 30 * DAY}) == [T0 - 19 * DAY]


async def test_fields_in_the_order_that_was_asked_for(site: Any) -> None:
    site.store.open_gaps = {1: [((T0 + HOUR) * US, (T0 + HOUR + 60) * US)]}
    found = await candles(site, fields="close,complete,broker,count,vwap,time", to=T0 + 2 * HOUR)
    assert [list(one) for one in found] == [["close", "complete", "broker", "count", "vwap", "time"]] * 3
    assert [one["complete"] for one in found] == [True, False, True]
    assert {(one["broker"], one["count"], one["vwap"]) for one in found} == {("oanda", 3, 1.5)}


async def test_csv_says_true_and_false_as_json_does(site: Any) -> None:
    site.now_s = T0 + DAY + 60
    path = f"/api/candles?symbol=EURUSD&broker=oanda&from={T0 + 23 * HOUR}&to={END}&fields=complete,time&format=csv"
    text = await (await site.get(path)).get_data(as_text=True)
    assert text == f"complete,time\ntrue,{T0 + 23 * HOUR}\nfalse,{T0 + DAY}\n"


async def test_from_where_a_gap_lasts_no_candle_is_complete(site: Any) -> None:
    site.store.open_gaps = {1: [((T0 + HOUR + 60) * US, None)]}
    found = await candles(site, fields="time,complete", to=T0 + 2 * HOUR)
    assert [one["complete"] for one in found] == [True, False, False]


async def test_a_candle_is_complete_when_it_is_over(site: Any) -> None:
    site.now_s = T0 + DAY + 60
    path = f"/api/candles?symbol=EURUSD&broker=oanda&from={T0 + 23 * HOUR}&to={END}&fields=time,complete"
    before = await site.get(path)
    assert [one["complete"] for one in await before.get_json()] == [True, False]
    site.now_s = T0 + DAY + HOUR
    after = await site.get(path, If_None_Match=before.headers["ETag"])
    assert after.status_code == 200  # not 304, though no record came in between
    assert [one["complete"] for one in await after.get_json()] == [True, True]


async def test_broker_tells_the_source_of_each_candle(site: Any) -> None:
    site.store.rows[1].earliest_us = (T0 + 2 * HOUR + 1) * US
    site.store.rows = site.store.rows[:2]
    found = await candles(site, broker=None, fields="time,broker", to=T0 + 4 * HOUR)
    assert [one["broker"] for one in found] == ["oanda", "oanda", "oanda", "binance", "binance"]


@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("timeframe", ["1m", "1h", "2h"])
async def test_pages_hold_each_candle_once_in_order(site: Any, sort: str, timeframe: str) -> None:
    whole = await opens(site, timeframe=timeframe, sort=sort)
    assert whole == sorted(whole, reverse=sort == "desc")
    path = f"/api/candles?symbol=EURUSD&broker=oanda&from={T0}&to={END}&timeframe={timeframe}&sort={sort}"
    limit, pages, cursor = len(whole) // 3 + 1, [], ""
    while True:
        response = await site.get(f"{path}&limit={limit}{cursor}")
        page = [one["time"] for one in await response.get_json()]
        pages.append(page)
        if "X-Next-Cursor" not in response.headers:
            break
        assert len(page) == limit
        cursor = f"&cursor={response.headers['X-Next-Cursor']}"
        assert response.headers["Link"].endswith('; rel="next"')
    assert [time for page in pages for time in page] == whole
    assert len(pages) == 3


async def test_a_limit_reads_no_more_than_it_needs(site: Any) -> None:
    """A week of minutes before the first record, and none after the last, cost nothing."""
    found = await opens(site, timeframe="1m", limit=3, sort="desc", **{"from": 0, "to": T0 + 30 * DAY})
    assert found == [T0 + DAY - 60 * n for n in range(3)]
    assert site.store.reads.count("candles") <= 2
    with_hole = set(range(T0 + HOUR, T0 + DAY + 1, 60))
    site.store.missing = with_hole
    assert await opens(site, timeframe="1m", limit=2, sort="desc") == [T0 + HOUR - 60, T0 + HOUR - 120]


async def test_a_range_is_not_too_large_for_a_limit(site: Any) -> None:
    assert await opens(site, timeframe="1m", limit=1, **{"from": 0, "to": T0 + 3000 * DAY}) == [T0]


async def test_several_symbols_are_an_object(site: Any) -> None:
    found = await candles(site, symbol=None, symbols="eur/usd,XAUUSD,EURUSD", broker=None, to=T0 + HOUR)
    assert list(found) == ["EURUSD", "XAUUSD"]
    assert [[one["time"] for one in rows] for rows in found.values()] == [[T0, T0 + HOUR]] * 2
    columns = await candles(
        site, symbol=None, symbols="EURUSD,XAUUSD", broker=None, to=T0 + HOUR, format="columns"
    )
    assert columns["XAUUSD"]["time"] == [T0, T0 + HOUR]
    path = f"/api/candles?symbols=EURUSD,XAUUSD&from={T0}&to={T0}&format=csv&fields=time"
    assert await (await site.get(path)).get_data(as_text=True) == f"symbol,time\nEURUSD,{T0}\nXAUUSD,{T0}\n"


async def test_pages_of_several_symbols_end_at_one_time(site: Any) -> None:
    """No symbol is ahead of the others, so that one cursor serves all."""
    site.store.rows[3].earliest_us = (T0 + 2 * HOUR) * US
    path = f"/api/candles?symbols=EURUSD,XAUUSD&from={T0}&to={T0 + 5 * HOUR}&limit=3&fields=time"
    seen: dict[str, list[int]] = {"EURUSD": [], "XAUUSD": []}
    cursor, pages = "", 0
    while True:
        response = await site.get(path + cursor)
        for symbol, rows in (await response.get_json()).items():
            seen[symbol] += [one["time"] for one in rows]
        pages += 1
        if "X-Next-Cursor" not in response.headers:
            break
        cursor = f"&cursor={response.headers['X-Next-Cursor']}"
    assert seen == {
        "EURUSD": [T0 + n * HOUR for n in range(6)],
        "XAUUSD": [T0 + n * HOUR for n in range(2, 6)],
    }
    assert pages == 2


MINUTES = f"&timeframe=1m&from={T0}&to={T0 + 300}"


async def filled(site: Any, fill: str, more: str = MINUTES) -> list[tuple[int, Any, Any]]:
    path = f"/api/candles?symbol=EURUSD&broker=oanda&fill={fill}{more}&fields=time,close,volume"
    return [tuple(one.values()) for one in await (await site.get(path)).get_json()]


async def test_fill(site: Any) -> None:
    site.store.missing = {T0 + 60, T0 + 240}
    price = {n: 1 + n * 60 / DAY for n in range(6)}
    none = [(T0 + n * 60, pytest.approx(price[n]), 12) for n in (0, 2, 3, 5)]
    assert await filled(site, "none") == none
    assert await filled(site, "null") == sorted([*none, (T0 + 60, None, None), (T0 + 240, None, None)])
    previous = [(T0 + 60, 1, 0), (T0 + 240, pytest.approx(price[3]), 0)]
    assert await filled(site, "previous") == sorted([*none, *previous])


async def test_the_price_that_holds_on_may_be_from_before_the_range(site: Any) -> None:
    site.store.missing = set(range(T0 + 3_660, T0 + 7_200, 60)) | {T0 + 60}
    assert (await filled(site, "previous", f"&timeframe=1m&from={T0 + 60}&to={T0 + 120}"))[0] == (
        T0 + 60,
        1,
        0,
    )
    assert await filled(site, "previous", f"&timeframe=1m&from={T0 + 3_720}&to={T0 + 3_780}") == [
        (T0 + n, pytest.approx(1 + 3_600 / DAY), 0) for n in (3_720, 3_780)
    ]


async def test_no_gap_is_filled_nor_the_price_carried_over_it(site: Any) -> None:
    site.store.missing = {T0 + 60, T0 + 120, T0 + 240}
    site.store.open_gaps = {1: [((T0 + 50) * US, (T0 + 70) * US)]}
    found = [time for time, _, _ in await filled(site, "previous")]
    assert found == [T0, T0 + 180, T0 + 240, T0 + 300]
    assert [time for time, _, _ in await filled(site, "null")] == [T0 + n for n in (0, 120, 180, 240, 300)]


async def test_no_closed_hour_is_filled(site: Any) -> None:
    """An hour of a currency without any record was a holiday or an outage."""
    site.store.missing = set(range(T0 + HOUR, T0 + 2 * HOUR, 60))
    more = f"&timeframe=1m&from={T0}&to={T0 + 3 * HOUR - 60}"
    assert len(await filled(site, "null", more)) == 120


async def test_nothing_is_filled_behind_the_last_record_or_before_the_first(site: Any) -> None:
    more = f"&timeframe=1m&from={T0 - HOUR}&to={T0 + 2 * DAY}"
    found = await filled(site, "previous", more)
    assert (found[0][0], found[-1][0]) == (T0, T0 + DAY)


@pytest.mark.parametrize(
    ("times", "shown"),
    [("s", T0), ("ms", T0 * 1000), ("us", T0 * US), ("iso", "2024-03-20T00:00:00.000000Z")],
)
async def test_times(site: Any, times: str, shown: Any) -> None:
    (candle,) = await candles(site, times=times, to=T0)
    assert candle["time"] == shown
    for kind in ("ticks", "trades"):
        path = f"/api/{kind}?symbol=EURUSD&broker=binance&from={T0}&to={T0 + 1}&times={times}&limit=2"
        records = (await (await site.get(path)).get_json())[kind]
        assert records[0]["time"] == shown
        assert isinstance(records[1].get("received"), type(shown) if times != "s" else float | int)


def read_arrow(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(io.BytesIO(data)).read_all()


@pytest.mark.parametrize("by", ["format", "accept"])
async def test_candles_as_arrow(site: Any, by: str) -> None:
    path = f"/api/candles?symbol=EURUSD&broker=oanda&from={T0}&to={T0 + HOUR}&fields=time,close,count,broker,complete"
    if by == "format":
        response = await site.get(path + "&format=arrow")
    else:
        response = await site.get(path, Accept="application/vnd.apache.arrow.stream, application/json;q=0.5")
    assert response.content_type == "application/vnd.apache.arrow.stream"
    table = read_arrow(await response.get_data())
    assert table.schema.field("time").type == pa.timestamp("us", "UTC")
    assert table.to_pylist() == [
        {
            "time": datetime.fromtimestamp(T0 + n * HOUR, UTC),
            "close": pytest.approx(1 + n / 24),
            "count": 3,
            "broker": "oanda",
            "complete": True,
        }
        for n in range(2)
    ]


@pytest.mark.parametrize("kind", ["ticks", "trades"])
async def test_records_as_arrow_are_those_of_json(site: Any, kind: str) -> None:
    path = f"/api/{kind}?symbol=EURUSD&broker=binance&from={T0}&to={T0 + 9}&times=us"
    expected = (await (await site.get(path)).get_json())[kind]
    table = read_arrow(await (await site.get(path + "&format=arrow")).get_data())
    rows = []
    for row in table.to_pylist():
        for name in ("time", "received"):
            if row[name] is not None:
                row[name] = round(row[name].timestamp() * US)
        rows.append({name: value for name, value in row.items() if value is not None})
    assert rows == expected
    assert len(rows) > 5


async def test_a_page_of_arrow_may_be_large(site: Any) -> None:
    path = f"/api/ticks?symbol=EURUSD&broker=oanda&from={T0}&to={END}&limit=10001"
    assert (await site.get(path + "&format=arrow")).status_code == 200
    problem = await site.problem(path)
    assert (problem["code"], problem["param"]) == ("invalid_parameter", "limit")


async def test_without_pyarrow_arrow_is_not_acceptable(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdserver.web.api.arrow.is_installed", lambda: False)
    for kind in ("candles", "ticks", "trades"):
        path = f"/api/{kind}?symbol=EURUSD&from={T0}&to={T0}"
        problem = await site.problem(path + "&format=arrow")
        assert (problem["status"], problem["code"], problem["param"]) == (406, "not_acceptable", "format")
        assert "mdserver[arrow]" in problem["detail"]
        either = await site.get(path, Accept="application/vnd.apache.arrow.stream, application/json;q=0.5")
        assert either.content_type == "application/json"
        only = await site.get(path, Accept="application/vnd.apache.arrow.stream")
        assert only.status_code == 406


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("align", "NY17", "expected one of utc, ny17"),
        ("fill", "zero", "expected one of none, previous, null"),
        ("sort", "up", "expected one of asc, desc"),
        ("times", "ns", "expected one of s, ms, us, iso"),
        ("limit", "0", "a whole number from 1 to 1000000"),
        ("limit", "1000001", "a whole number from 1 to 1000000"),
        ("limit", "1e3", "a whole number"),
        ("cursor", "!", "expected the X-Next-Cursor"),
        ("cursor", "kaFh", "expected the X-Next-Cursor"),
        ("fields", "time,bid", "no 'bid'"),
        ("fields", "time,time", "each once"),
        ("symbols", "EURUSD", "not both"),
        ("from", T0 * 1000, "looks like milliseconds"),
    ],
)
async def test_what_is_wrong_is_named(site: Any, name: str, value: Any, said: str) -> None:
    query = {"symbol": "EURUSD", "from": T0, "to": END} | {name: value}
    path = "/api/candles?" + "&".join(f"{key}={given}" for key, given in query.items())
    problem = await site.problem(path)
    assert (problem["status"], problem["code"], problem["param"]) == (400, "invalid_parameter", name)
    assert said in problem["detail"]
    doubled = await site.problem(f"{path}&{name}={value}")
    assert (doubled["param"], doubled["code"]) == (name, "invalid_parameter")
    assert "given more than once" in doubled["detail"]


@pytest.mark.parametrize("path", [f"/api/candles?from={T0}&to={T0}&", "/api/snapshot?"])
async def test_every_route_takes_so_many_symbols(site: Any, path: str) -> None:
    names = [f"S{number}" for number in range(MAX_SYMBOLS + 1)]
    assert (await site.problem(f"{path}symbols={','.join(names[1:])}"))["code"] == "unknown_symbol"
    problem = await site.problem(f"{path}symbols={','.join(names)}")
    assert (problem["status"], problem["code"], problem["param"]) == (400, "range_too_large", "symbols")
    assert "101 symbols; at most 100" in problem["detail"]


async def test_empty_parameters_count_as_absent(site: Any) -> None:
    names = ("align", "fill", "sort", "limit", "cursor", "fields", "times", "format", "price", "symbols")
    empty = "&".join(f"{name}=" for name in names)
    path = f"/api/candles?symbol=EURUSD&from={T0}&to={END}"
    assert await (await site.get(f"{path}&{empty}")).get_data() == await (await site.get(path)).get_data()


async def test_a_cursor_of_another_range_is_refused(site: Any) -> None:
    response = await site.get(f"/api/candles?symbol=EURUSD&from={T0}&to={END}&limit=1")
    problem = await site.problem(
        f"/api/candles?symbol=EURUSD&from={T0 + HOUR}&to={END}&cursor={response.headers['X-Next-Cursor']}"
    )
    assert problem["param"] == "cursor"


async def test_one_unknown_symbol_of_several_is_named(site: Any) -> None:
    problem = await site.problem(f"/api/candles?symbols=EURUSD,NOPE&from={T0}&to={END}")
    assert (problem["status"], problem["code"], problem["param"]) == (404, "unknown_symbol", "symbols")
    assert "'NOPE'" in problem["detail"]
    many = ",".join(f"S{n}" for n in range(51))
    assert (await site.problem(f"/api/candles?symbols={many}&from={T0}&to={END}"))["param"] == "symbols"


async def test_each_answer_has_a_tag_of_its_own(site: Any) -> None:
    path = f"/api/candles?symbol=EURUSD&broker=oanda&from={T0}&to={T0 + 5 * HOUR}"
    tags = set()
    for more in (
        "",
        "&sort=desc",
        "&limit=2",
        "&fields=time",
        "&times=ms",
        "&timeframe=2h",
        "&align=ny17&timeframe=2h",
    ):
        tag = (await site.get(path + more)).headers["ETag"]
        assert (await site.get(path + more, If_None_Match=tag)).status_code == 304
        tags.add(tag)
    assert len(tags) == 7


async def test_derived_candles_may_be_immutable(site: Any) -> None:
    path = "/api/candles?symbol=EURUSD&broker=oanda&timeframe={}&align=ny17&from={}&to={}"
    closed = await site.get(path.format("4h", T0 + HOUR, T0 + 12 * HOUR))
    assert closed.headers["Cache-Control"].endswith("immutable")
    forming = await site.get(path.format("1w", T0 - 7 * DAY, T0 + DAY))
    assert "immutable" not in forming.headers["Cache-Control"]

"""TradingView's UDF protocol, as its own client asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mdserver.errors import StoreUnavailable
from mdserver.model import Instrument
from mdserver.store.store import LastingGap
from mdserver.web.api.dependencies import SourceInfo

from .conftest import Series

T0 = 1_710_892_800
"""2024-03-20, a Wednesday, midnight UTC."""
MINUTE, HOUR, DAY, US = 60, 3_600, 86_400, 1_000_000
END = T0 + DAY
"""The open of the last minute and of the last hour that the store has."""


@pytest.fixture
def rows(rows: list[Any]) -> list[Any]:
    """Quotes of two brokers, and a crypto currency."""
    rows[3].symbol, rows[3].broker, rows[3].type = "BTCUSDT", "binance", "trade"
    return rows


async def udf(site: Any, path: str) -> Any:
    response = await site.get(f"/udf/{path}")
    assert response.status_code == 200
    assert response.content_type == "application/json"
    return await response.get_json()


async def error(site: Any, path: str, said: str) -> None:
    document = await udf(site, path)
    assert set(document) == {"s", "errmsg"}
    assert document["s"] == "error"
    assert said in document["errmsg"]


def history(**query: Any) -> str:
    query = {"symbol": "EURUSD", "resolution": "60", "from": T0, "to": END + HOUR} | query
    return "history?" + "&".join(f"{name}={value}" for name, value in query.items() if value is not None)


async def bars(site: Any, **query: Any) -> list[int]:
    document = await udf(site, history(**query))
    assert document["s"] == "ok"
    assert len({len(document[name]) for name in "tohlcv"}) == 1
    times: list[int] = document["t"]
    assert times == sorted(set(times))
    return times


async def test_config_has_what_the_client_needs(site: Any) -> None:
    config = await udf(site, "config")
    assert config["supports_search"]
    assert not config["supports_group_request"]
    assert {"1", "3", "60", "240", "1D", "1W", "1M"} <= set(config["supported_resolutions"])
    assert [one["value"] for one in config["exchanges"]] == ["", "binance", "oanda"]
    assert {"supports_marks", "supports_timescale_marks", "supports_time"} <= {
        name for name, value in config.items() if value is True
    }


async def test_a_mock_is_an_exchange_only_where_there_is_one(site: Any) -> None:
    configured = list(site.sources)
    site.sources.append(
        SourceInfo("mock", synthetic=True)
    )  # so that what a first run stored stays marked as made up

    async def exchanges() -> list[str]:
        return [one["value"] for one in (await udf(site, "config"))["exchanges"]]

    assert await exchanges() == ["", "binance", "oanda"]
    site.store.fault = StoreUnavailable("away")
    assert await exchanges() == ["", "binance", "oanda"]
    site.store.fault = None
    site.store.rows.append(Series(9, "mock", "EURUSD", "tick"))
    assert await exchanges() == ["", "binance", "oanda", "mock"]
    del site.store.rows[-1]
    site.sources[:] = [*configured, SourceInfo("mock", types=("tick",), synthetic=True)]
    assert await exchanges() == ["", "binance", "oanda", "mock"]


async def test_time_is_text(site: Any) -> None:
    response = await site.get("/udf/time")
    assert response.content_type == "text/plain; charset=utf-8"
    assert await response.get_data(as_text=True) == str(site.now_s)


@pytest.mark.parametrize("symbol", ["EURUSD", "eur/usd", "oanda:EURUSD", "OANDA:EUR_USD"])
async def test_a_symbol(site: Any, symbol: str) -> None:
    found = await udf(site, f"symbols?symbol={symbol}")
    ticker = "oanda:EURUSD" if ":" in symbol else "EURUSD"
    assert (found["name"], found["ticker"], found["description"]) == ("EURUSD", ticker, "EUR/USD")
    assert (found["session"], found["timezone"], found["type"]) == ("1700-1700", "America/New_York", "forex")
    assert (found["pricescale"], found["minmov"], found["currency_code"]) == (100_000, 1, "USD")
    assert found["has_intraday"] is found["has_daily"] is found["has_weekly_and_monthly"] is True
    assert set(found["intraday_multipliers"]) < set(found["supported_resolutions"])
    assert found["exchange"] == ("oanda" if ":" in symbol else "binance")
    assert await udf(site, f"symbols?symbol={found['ticker']}") == found


async def test_crypto_currencies_trade_always(site: Any) -> None:
    found = await udf(site, "symbols?symbol=BTCUSDT")
    assert (found["session"], found["timezone"], found["type"]) == ("24x7", "Etc/UTC", "crypto")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("EUR/U", ["EURUSD"]),
        ("btc", ["BTCUSDT"]),
        ("USD", ["BTCUSDT", "EURUSD"]),
        ("NOPE", []),
        ("", ["BTCUSDT", "EURUSD"]),
    ],
)
async def test_search(site: Any, query: str, found: list[str]) -> None:
    items = await udf(site, f"search?limit=30&query={query}&type=&exchange=")
    assert [one["symbol"] for one in items] == found
    for one in items:
        assert (await udf(site, f"symbols?symbol={one['ticker']}"))["name"] == one["symbol"]
        assert {"full_name", "description", "exchange", "type"} <= set(one)


async def test_search_of_one_source_and_kind(site: Any) -> None:
    items = await udf(site, "search?limit=30&query=E&type=forex&exchange=oanda")
    assert [one["ticker"] for one in items] == ["oanda:EURUSD"]
    assert await udf(site, "search?limit=30&query=E&type=crypto&exchange=oanda") == []
    assert len(await udf(site, "search?limit=1&query=&type=&exchange=")) == 1


async def test_symbol_info_is_a_column_for_each_field(site: Any) -> None:
    info = await udf(site, "symbol_info?group=oanda")
    assert info["symbol"] == ["EURUSD"]
    assert info["pricescale"] == [100_000]
    assert all(len(column) == 1 for column in info.values() if isinstance(column, list))


async def test_the_end_of_a_range_is_not_in_it(site: Any) -> None:
    assert await bars(site, to=T0 + 2 * HOUR) == [T0, T0 + HOUR]
    assert await bars(site, to=T0 + 2 * HOUR + 1) == [T0, T0 + HOUR, T0 + 2 * HOUR]


async def test_countback_counts_over_from(site: Any) -> None:
    assert await bars(site, countback=3) == [END - 2 * HOUR, END - HOUR, END]
    assert await bars(site, **{"from": END, "countback": 4}) == [END - n * HOUR for n in (3, 2, 1, 0)]
    assert await bars(site, **{"from": None, "countback": 1, "to": END}) == [END - HOUR]
    assert len(await bars(site, countback=1_000_000)) == 25


async def test_countback_goes_on_behind_a_hole(site: Any) -> None:
    site.store.missing = set(range(T0 + HOUR, END, MINUTE))
    found = await bars(site, resolution="1", countback=3, to=END)
    assert found == [T0 + HOUR - n * MINUTE for n in (3, 2, 1)]


async def test_the_newest_bars_of_a_long_range(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdserver.web.udf.bars.MAX_BARS", 5)
    assert await bars(site) == [END - n * HOUR for n in (4, 3, 2, 1, 0)]
    assert len(await bars(site, countback=9)) == 5


async def test_no_data_names_the_last_bar_in_front(site: Any) -> None:
    assert await udf(site, history(**{"from": END + DAY, "to": END + 2 * DAY})) == {
        "s": "no_data",
        "nextTime": END,
    }
    assert await udf(site, history(**{"from": 100_000, "to": 200_000})) == {"s": "no_data"}
    assert await udf(site, history(**{"from": 100_000, "to": 200_000, "countback": 5})) == {"s": "no_data"}
    for row in site.store.rows:
        row.row_count, row.earliest_us, row.latest_us = 0, None, None
    assert await udf(site, history()) == {"s": "no_data"}


async def test_a_day_bears_the_date_that_it_ends_on(site: Any) -> None:
    """The day of EURUSD that begins on Wednesday at 17:00 in New York is Thursday's."""
    assert await bars(site, resolution="1D", to=T0 + 10 * DAY) == [T0, T0 + DAY]
    assert await bars(site, resolution="D", to=T0 + DAY) == [T0]
    assert await bars(site, resolution="1D", countback=1, to=T0 + DAY) == [T0]
    assert await bars(site, resolution="1D", **{"from": T0 + DAY, "to": T0 + 2 * DAY}) == [T0 + DAY]
    assert await udf(site, history(resolution="1D", **{"from": T0 + 2 * DAY, "to": T0 + 3 * DAY})) == {
        "s": "no_data",
        "nextTime": T0 + DAY,
    }
    assert await bars(site, resolution="1W", to=T0 + 10 * DAY, **{"from": T0 - 9 * DAY}) == [T0 - 2 * DAY]
    assert await bars(site, resolution="1M", to=T0 + 10 * DAY, **{"from": T0 - 90 * DAY}) == [T0 - 19 * DAY]
    assert await bars(site, symbol="BTCUSDT", resolution="1D") == [T0, T0 + DAY]


async def test_the_forming_day_is_there_though_its_date_lies_ahead(site: Any) -> None:
    """At 23:00 UTC it is the next dealers' day already; the client asks up to now every few seconds."""
    now = site.now_s = T0 + 23 * HOUR
    assert await bars(site, resolution="1D", countback=2, to=now, **{"from": now - 10 * DAY}) == [
        T0,
        T0 + DAY,
    ]
    assert await bars(site, resolution="1D", to=now, **{"from": now - 10 * DAY}) == [T0, T0 + DAY]
    assert await bars(site, resolution="1D", countback=2, to=T0 + DAY) == [
        T0
    ]  # those in front of the forming one
    site.now_s = T0 + 30 * DAY
    assert await bars(site, resolution="1D", countback=2, to=now) == [T0]


async def test_hours_of_a_currency_begin_with_its_session(site: Any) -> None:
    """17:00 in New York is 21:00 UTC then, so every fourth hour from 1:00."""
    assert await bars(site, resolution="240") == [T0 + HOUR + n * 4 * HOUR for n in range(6)]
    assert await bars(site, symbol="BTCUSDT", resolution="240") == [T0 + n * 4 * HOUR for n in range(7)]


async def test_one_source(site: Any) -> None:
    joined, own = await udf(site, history()), await udf(site, history(symbol="oanda:EURUSD"))
    assert joined["c"][0] != own["c"][0] == 1  # without .0 in the text
    await error(site, history(symbol="kraken:EURUSD"), "KRAKEN:EURUSD")


async def test_a_chart_may_ask_from_before_1970(site: Any) -> None:
    assert len(await bars(site, **{"from": -31_536_000})) == 25


async def test_gaps_are_marks(site: Any) -> None:
    site.store.open_gaps = {1: [((T0 + HOUR + 5) * US, (T0 + HOUR + 65) * US)]}
    path = f"?symbol=oanda:EURUSD&from={T0}&to={END}&resolution=60"
    (mark,) = await udf(site, f"marks{path}")
    assert (mark["time"], mark["color"]) == (T0 + HOUR, "red")
    assert {"id", "text", "label", "labelFontColor", "minSize"} <= set(mark)
    assert "2024-03-20 01:00:05 UTC" in mark["text"]
    (mark,) = await udf(site, f"timescale_marks{path}")
    assert mark["time"] == T0 + HOUR
    assert len(mark["tooltip"]) == 3
    assert await udf(site, f"marks?symbol=BTCUSDT&from={T0}&to={END}&resolution=1D") == []


async def test_a_gap_that_lasts_is_a_mark_until_now(site: Any) -> None:
    since_us = (T0 + HOUR + 5) * US
    site.store.lasting = [
        LastingGap("oanda", "EURUSD", "tick", since_us, "disconnected", None),
        LastingGap("oanda", "EURUSD", "orderbook", since_us, "disconnected", None),
        LastingGap("oanda", "GBPUSD", "tick", since_us, "disconnected", None),
    ]
    site.store.open_gaps = {1: [((T0 + 2 * HOUR) * US, (T0 + 3 * HOUR) * US)]}
    path = f"?symbol=oanda:EURUSD&from={T0}&to={END}&resolution=60"
    lasting, ended = await udf(site, f"marks{path}")
    assert (lasting["time"], lasting["color"], ended["time"]) == (T0 + HOUR, "red", T0 + 2 * HOUR)
    assert lasting["text"].split("\n")[1:] == ["2024-03-20 01:00:05 UTC until now", "disconnected"]
    assert (lasting["id"], ended["id"]) == (-1, 9)
    (lasting, _) = await udf(site, f"timescale_marks{path}")
    assert lasting["tooltip"][2] == "disconnected"
    early = f"?symbol=oanda:EURUSD&from={T0}&to={T0 + HOUR}&resolution=60"
    assert await udf(site, f"marks{early}") == []


async def test_quotes(site: Any) -> None:
    document = await udf(site, "quotes?symbols=oanda:EURUSD,NOPE,BTCUSDT")
    assert document["s"] == "ok"
    assert [(one["s"], one["n"]) for one in document["d"]] == [
        ("ok", "oanda:EURUSD"),
        ("error", "NOPE"),
        ("ok", "BTCUSDT"),
    ]
    values = document["d"][0]["v"]
    assert (values["bid"], values["ask"], values["spread"]) == (1.08703, 1.08705, 0.00002)
    assert {"lp", "ch", "chp", "open_price", "high_price", "low_price", "prev_close_price", "volume"} <= set(
        values
    )
    assert values["ch"] == pytest.approx(values["lp"] - values["prev_close_price"])
    assert "bid" not in document["d"][2]["v"]


BAD = [
    ("symbols", "symbol is required"),
    ("symbols?symbol=", "symbol is required"),
    ("symbols?symbol=EURUSD&symbol=EURUSD", "given more than once"),
    ("symbols?symbol=NOPE", "NOPE"),
    ("symbols?symbol=%00", "symbol"),
    (history(symbol=None), "symbol is required"),
    (history(resolution=None), "resolution is required"),
    (history(resolution=""), "resolution is required"),
    (history(resolution="7"), "resolution='7': expected minutes that divide a day"),
    (history(resolution="1S"), "resolution="),
    (history(**{"from": None}), "from is required"),
    (history(to=None), "to is required"),
    (history(to=""), "to is required"),
    (history(to=END * 1000), "to='1710979200000': looks like milliseconds"),
    (history(**{"from": T0 * 1000}), "from='1710892800000': looks like milliseconds"),
    (history(**{"from": END, "to": T0}), "from='1710979200': expected no later than to="),
    (history(to="soon"), "to='soon': is not a number"),
    (history(countback=0), "countback='0'"),
    (history(countback="-1"), "countback='-1'"),
    (history(countback=10**12), "countback="),
    (history() + "&to=5", "to='5': given more than once"),
    ("search?limit=0", "limit='0'"),
    ("search?limit=5000", "limit='5000'"),
    ("search?type=share", "type='share'"),
    ("marks?symbol=EURUSD", "resolution is required"),
    ("marks?symbol=EURUSD&resolution=1&from=1", "to is required"),
    (f"timescale_marks?symbol=EURUSD&resolution=1&from={END}&to={T0}", "from="),
    ("quotes", "symbols is required"),
    ("quotes?symbols=" + ",".join(f"S{n}" for n in range(101)), "at most 100"),
]


@pytest.mark.parametrize(("path", "said"), BAD, ids=[said for _, said in BAD])
async def test_bad_input_is_named_in_the_form_of_the_protocol(site: Any, path: str, said: str) -> None:
    await error(site, path, said)


async def test_what_a_newer_client_sends_besides_is_no_error(site: Any) -> None:
    assert await udf(site, history(currencyCode="EUR", unitId="")) == await udf(site, history())


async def test_a_database_that_is_away_is_an_error_of_the_protocol(site: Any) -> None:
    site.store.fault = StoreUnavailable("gone")
    response = await site.get(f"/udf/{history()}")
    assert response.status_code == 503
    assert (await response.get_json())["s"] == "error"
    response = await site.get("/udf/nothing")
    assert (response.status_code, (await response.get_json())["s"]) == (404, "error")


async def test_symbols_of_the_api(make_site: Callable[..., Any]) -> None:
    listed = {
        "binance": {
            one.symbol: one
            for one in (
                Instrument("BTCUSDT", "btcusdt", "BTC", "USDT"),
                Instrument("ETHBTC", "ETH-BTC", "ETH", "BTC"),
            )
        }
    }
    site = make_site(listed=lambda broker: listed.get(broker, {}))
    site.states = [type("State", (), {"name": "binance"})()]
    document = await (await site.get("/api/symbols")).get_json()
    assert [one["symbol"] for one in document["symbols"]] == ["BTCUSDT", "EURUSD", "ETHBTC"]
    assert document["more"] is False
    bitcoin, euro, ether = document["symbols"]
    assert (bitcoin["display"], bitcoin["base"], bitcoin["type"]) == ("BTC/USDT", "BTC", "crypto")
    assert bitcoin["price_digits"] == 2  # though no float is exactly 66997.97
    assert bitcoin["brokers"] == [{"broker": "binance", "venue_symbol": "btcusdt"}]
    assert (euro["earliest"], euro["latest"], euro["price_digits"]) == (T0, T0 + 2 * DAY, 5)
    assert [one["broker"] for one in euro["brokers"]] == ["binance", "oanda"]
    assert (ether["earliest"], ether["price_digits"]) == (None, None)
    found = await (await site.get("/api/symbols?query=eth-b")).get_json()
    assert [one["symbol"] for one in found["symbols"]] == ["ETHBTC"]
    some = await (await site.get("/api/symbols?limit=1&type=crypto")).get_json()
    assert (len(some["symbols"]), some["more"]) == (1, True)
    for query, param in (
        ("type=share", "type"),
        ("limit=1001", "limit"),
        ("query=a&query=b", "query"),
        ("q=a", "q"),
    ):
        assert (await site.problem(f"/api/symbols?{query}"))["param"] == param

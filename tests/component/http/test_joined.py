"""Where no broker is named: one chart from all sources that have the symbol, made-up prices never among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mdserver.web.api.dependencies import SourceInfo

from .conftest import Series

US = 1_000_000
HOUR = 3_600
T0 = 1_710_892_800
SOURCES = [
    SourceInfo("mock", symbols=("GBPUSD",), types=("tick",), synthetic=True),
    SourceInfo("oanda"),
    SourceInfo("dukascopy"),
]


@pytest.fixture
def rows() -> list[Series]:
    """A live feed since half past two, an import until six, and a mock that has both and more."""
    return [
        Series(
            1, "mock", "EURUSD", "tick", earliest_us=(T0 - 9 * HOUR) * US, latest_us=(T0 + 24 * HOUR) * US
        ),
        Series(2, "oanda", "EURUSD", "tick", 90, (T0 + 2 * HOUR + 1_800) * US, (T0 + 9 * HOUR) * US),
        Series(3, "dukascopy", "EURUSD", "tick", 50, T0 * US, (T0 + 6 * HOUR) * US - 1),
        Series(4, "mock", "XAUUSD", "tick"),
    ]


@pytest.fixture
def site(make_site: Callable[..., Any]) -> Any:
    site = make_site()
    site.sources = SOURCES
    return site


def path(symbol: str = "EURUSD", **query: object) -> str:
    asked = {"symbol": symbol, "from": T0 - 3 * HOUR, "to": T0 + 30 * HOUR}
    asked |= {name.rstrip("_"): value for name, value in query.items()}
    return "/api/candles?" + "&".join(f"{name}={value}" for name, value in asked.items())


async def test_the_import_goes_up_to_the_first_whole_candle_of_the_live_feed(site: Any) -> None:
    response = await site.get(path())
    candles = await response.get_json()
    assert [(c["time"] - T0) // HOUR for c in candles] == list(range(10))
    sources = [int(c["open"] - (c["time"] % 86_400) / 86_400 + 0.5) for c in candles]
    assert sources == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert response.headers["X-Broker"] == "oanda, dukascopy"
    assert response.headers["X-Price"] == "mid"
    assert response.headers["X-Available-From"] == str(T0)
    assert response.headers["X-Available-To"] == str(T0 + 9 * HOUR)


async def test_where_a_live_feed_broke_off_for_good_another_source_goes_on(site: Any, rows: Any) -> None:
    """A gap that lasts is a cut like one that has ended: half an hour is no hour."""
    begin_us = rows[1].latest_us = (T0 + 3 * HOUR + 1_800) * US
    site.store.open_gaps = {2: [(begin_us, None)]}
    response = await site.get(path())
    candles = await response.get_json()
    assert [(c["time"] - T0) // HOUR for c in candles] == list(range(6))
    assert {int(c["open"] - (c["time"] % 86_400) / 86_400 + 0.5) for c in candles} == {3}


async def test_a_range_of_one_source_names_that_one_with_304_too(site: Any) -> None:
    early = path(to=T0 + HOUR)
    response = await site.get(early)
    assert response.headers["X-Broker"] == "dukascopy"
    site.store.reads.clear()
    again = await site.get(early, If_None_Match=response.headers["ETag"])
    assert (again.status_code, again.headers["X-Broker"]) == (304, "dukascopy")
    assert site.store.reads == ["series"]


@pytest.mark.parametrize("place", [1, 2])
async def test_a_change_of_any_source_changes_the_answer(site: Any, rows: Any, place: int) -> None:
    tag = (await site.get(path())).headers["ETag"]
    site.store.shift, rows[place].hist_v = 0.5, 2
    assert (await site.get(path(), If_None_Match=tag)).status_code == 200


async def test_a_mock_answers_by_name_and_where_nothing_else_has_the_symbol(site: Any) -> None:
    assert (await site.get(path(broker="mock"))).headers["X-Broker"] == "mock"
    assert (await site.get(path("XAUUSD"))).headers["X-Broker"] == "mock"


async def test_a_mock_is_silent_as_soon_as_another_source_is_configured(site: Any) -> None:
    site.sources = [*SOURCES, SourceInfo("kraken", symbols=("XAUUSD",), types=("tick",))]
    response = await site.get(path("XAUUSD"))
    assert (response.headers["X-Broker"], await response.get_json()) == ("kraken", [])


async def test_an_import_that_fetched_nothing_does_not_silence_a_mock(site: Any, rows: list[Series]) -> None:
    rows.append(Series(5, "dukascopy", "XAUUSD", "tick", 0, None, None))
    response = await site.get(path("XAUUSD"))
    assert response.headers["X-Broker"] == "mock"
    assert await response.get_json()
    one = await (await site.get("/api/metadata?symbol=XAUUSD")).get_json()
    assert one["tick_count"] == 1_000
    rows[-1] = Series(5, "dukascopy", "XAUUSD", "tick", 1)
    assert (await site.get(path("XAUUSD"))).headers["X-Broker"] == "dukascopy"


async def test_a_mock_is_never_counted_with_others(site: Any) -> None:
    document = await (await site.get("/api/metadata?symbol=EURUSD")).get_json()
    assert (document["earliest"], document["latest"], document["tick_count"]) == (T0, T0 + 9 * HOUR, 140)
    assert {one["broker"]: one["tick_count"] for one in document["brokers"]} == {
        "mock": 1_000,
        "oanda": 90,
        "dukascopy": 50,
    }
    every = {one["symbol"]: one for one in (await (await site.get("/api/metadata")).get_json())["symbols"]}
    assert every["EURUSD"]["tick_count"] == 140
    assert every["XAUUSD"]["tick_count"] == 1_000
    assert every["GBPUSD"]["tick_count"] == 0


async def test_many_candles_are_joined_in_a_thread(site: Any, rows: Any) -> None:
    response = await site.get(path(timeframe="1m", from_=T0, to=T0 + 9 * HOUR))
    few = await response.get_json()
    rows[1].latest_us = (T0 + 200 * HOUR) * US
    many = await (await site.get(path(timeframe="1m", from_=T0, to=T0 + 200 * HOUR))).get_json()
    assert len(many) == 200 * 60 + 1
    assert many[: len(few)] == few


async def test_sides_are_joined_too(site: Any) -> None:
    response = await site.get(path(price="bid"))
    assert response.headers["X-Broker"] == "oanda, dukascopy"
    assert len(await response.get_json()) == 10


@pytest.mark.parametrize("limit", [1, 7, 1_000])
async def test_pages_of_ticks_go_from_one_source_to_the_next(site: Any, rows: Any, limit: int) -> None:
    """Each hour's ticks come from one source: no tick twice, none of the live feed's half hour beside the import's."""
    rows[1].earliest_us = (T0 + HOUR - 10) * US  # 45 seconds from ten before the hour: in two hours
    rows[2].latest_us = (T0 + HOUR) * US - 1
    rows[1].latest_us = (T0 + HOUR + 35) * US
    query = f"symbol=EURUSD&from={T0}&to={T0 + 9 * HOUR}&limit={limit}"
    seen: list[tuple[str, int]] = []
    cursor = ""
    while True:
        response = await site.get(f"/api/ticks?{query}" + (f"&cursor={cursor}" if cursor else ""))
        page = await response.get_json()
        assert response.headers["X-Broker"] == page["broker"]
        assert page["ticks"]
        seen += [(page["broker"], tick["seq"]) for tick in page["ticks"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    imported = [("dukascopy", seq) for seq in range(1, 51)]
    live = [("oanda", seq) for seq in range(20, 91)]  # what lies behind the hour
    assert seen == imported + live

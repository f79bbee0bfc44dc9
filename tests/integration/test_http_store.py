"""The HTTP routes on a real store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
import trio
from quart import Response
from quart_trio import QuartTrio

from mdserver.metrics import Metrics
from mdserver.model import TIMEFRAMES, US_PER_S, Published, PushedDay, Record, Tick, TickColumns, Topic, Trade
from mdserver.store.connection.database import Database
from mdserver.store.lake.manifest import note_pushed
from mdserver.store.store import FetchedHour, Store
from mdserver.store.upkeep.retention import drop_old
from mdserver.web.api.dependencies import Dependencies, SourceInfo
from mdserver.web.api.read_context import Reading
from mdserver.web.api.routes import http_routes

pytestmark = pytest.mark.both_engines

T0 = 1_710_892_800
"""2024-03-20, midnight UTC."""

DAY = 86_400
TICKS = Topic("oanda", "EURUSD", "tick")
TRADES = Topic("binance", "EURUSD", "trade")
IMMUTABLE = "public, max-age=31536000, immutable"


def tick(at_s: float, bid: float, ask: float, size: float | None = None) -> Tick:
    return Tick("EURUSD", round(at_s * US_PER_S), bid, ask, size, size)


async def no_stream() -> Response:
    raise AssertionError("nothing streams here")


class Site:
    """An app on a store, and a numbering of what is written."""

    def __init__(self, database: Database) -> None:
        self.store = Store(database)
        self.seqs = {TICKS: 0, TRADES: 0}
        services = Dependencies(
            store=self.store,
            broker_states=list,
            sources=lambda: [
                SourceInfo("oanda", "tick"),
                SourceInfo("binance", "trade"),
                SourceInfo("dukascopy"),
            ],
            ready=list,
            metrics=Metrics(),
            now_us=lambda: (T0 + 30 * DAY) * US_PER_S,
        )
        app = QuartTrio("site")
        app.register_blueprint(http_routes(Reading(services), no_stream))
        self.client = app.test_client()

    async def write(self, topic: Topic, records: Sequence[Record]) -> None:
        first = self.seqs[topic] + 1
        self.seqs[topic] += len(records)
        await self.store.write([Published(topic, seq, record) for seq, record in enumerate(records, first)])

    async def get(self, path: str, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers=named)

    async def candles(self, timeframe: str, first: float, last: float, more: str = "") -> Any:
        response = await self.get(f"/api/candles/EURUSD/{timeframe}?from={first}&to={last}{more}")
        assert response.status_code == 200
        return await response.get_json()


@pytest.fixture
def site(database: Database) -> Site:
    return Site(database)


async def test_quotes_become_mid_price_candles(site: Site) -> None:
    await site.write(
        TICKS,
        [
            tick(T0, 1.0, 2.0, 1.5),
            tick(T0 + 30.5, 3.0, 4.0),
            tick(T0 + 59, 0.5, 1.0, 1.0),
            tick(T0 + 60, 2, 2),
        ],
    )
    minute = {"time": T0, "open": 1.5, "high": 3.5, "low": 0.75, "close": 0.75, "volume": 5}
    forming = {"time": T0 + 60, "open": 2, "high": 2, "low": 2, "close": 2, "volume": 0}
    assert await site.candles("1m", T0, T0 + 60) == [minute, forming]
    assert await site.candles("1m", T0, T0 + 59) == [minute]
    for timeframe in list(TIMEFRAMES)[1:]:
        assert await site.candles(timeframe, T0, T0) == [minute | {"close": 2}]


async def test_trades_become_trade_price_candles(site: Site) -> None:
    await site.write(
        TRADES,
        [Trade("EURUSD", T0 * US_PER_S, 10.5, 0.1, "buy", "a"), Trade("EURUSD", T0 * US_PER_S + 1, 11, 0.2)],
    )
    assert await site.candles("1h", T0, T0) == [
        {"time": T0, "open": 10.5, "high": 11, "low": 10.5, "close": 11, "volume": 0.3}
    ]
    await site.write(TICKS, [tick(T0, 1, 2)])
    response = await site.get(f"/api/candles/EURUSD/1h?from={T0}&to={T0}")
    assert (response.headers["X-Broker"], response.headers["X-Price"]) == ("oanda", "mid")
    assert len(await site.candles("1h", T0, T0, "&broker=binance")) == 1


async def test_metadata_counts_exactly(site: Site) -> None:
    await site.write(TICKS, [tick(T0 + n / 8, 1, 2) for n in range(20)])
    await site.write(TRADES, [Trade("EURUSD", (T0 - 5) * US_PER_S + 123_456, 1, 1)])
    document = await (await site.get("/api/metadata?symbol=EUR/USD")).get_json()
    assert (document["tick_count"], document["trade_count"]) == (20, 1)
    assert (document["earliest"], document["latest"]) == (T0 - 5 + 0.123456, T0 + 19 / 8)
    assert [row["broker"] for row in document["brokers"]] == ["oanda", "binance"]


async def test_pages_of_ticks_come_back_as_written(site: Site) -> None:
    """Several ticks share a microsecond: pages end between them all the same."""
    written = [tick(T0 + n // 3, 1 + n / 1_000, 2, None if n % 2 else n / 10 + 0.05) for n in range(100)]
    await site.write(TICKS, written)
    rows: list[dict[str, Any]] = []
    where: str | None = f"/api/ticks?symbol=EURUSD&from={T0}&to={T0 + 100}&limit=7"
    while where:
        response = await site.get(where)
        rows += (await response.get_json())["ticks"]
        link = response.headers.get("Link", "").partition(">")[0].removeprefix("<")
        where = link and where.partition("?")[0] + link
    assert [row["seq"] for row in rows] == list(range(1, 101))
    again = [tick(row["time"], row["bid"], row["ask"], row.get("bid_size")) for row in rows]
    assert again == written


async def test_pages_of_trades_come_back_as_written(site: Site) -> None:
    written = [
        Trade("EURUSD", T0 * US_PER_S + n // 2, 1.5, 0.1, ("buy", "sell", None)[n % 3], 'i"d')
        for n in range(9)
    ]
    await site.write(TRADES, written)
    response = await site.get(f"/api/trades?symbol=EURUSD&from={T0}&to={T0 + 1}")
    page = await response.get_json()
    assert page["next_cursor"] is None
    assert [
        Trade(
            "EURUSD",
            round(row["time"] * US_PER_S),
            row["price"],
            row["size"],
            row.get("side"),
            row["trade_id"],
        )
        for row in page["trades"]
    ] == written


async def test_live_ticks_change_the_forming_candle_and_leave_closed_ones(site: Site) -> None:
    closed = f"/api/candles/EURUSD/1h?from={T0}&to={T0 + 3_600}"
    forming = f"/api/candles/EURUSD/1h?from={T0}&to={T0 + 7_200}"
    await site.write(TICKS, [tick(T0 + n * 600, 1 + n / 10, 2) for n in range(13)])
    old = await site.get(closed)
    live = await site.get(forming)
    assert old.headers["Cache-Control"] == "no-cache"  # nothing proves that the live feed has no hole
    assert live.headers["Cache-Control"] == "no-cache"
    await site.write(TICKS, [tick(T0 + 7_201, 9, 9)])
    assert (await site.get(closed, If_None_Match=old.headers["ETag"])).status_code == 304
    changed = await site.get(forming, If_None_Match=live.headers["ETag"])
    assert changed.status_code == 200
    assert (await changed.get_json())[-1]["close"] == 9


@pytest.mark.parametrize("late_s", [0.5, 3_599, 3_601])
async def test_late_tick_changes_the_etag_of_its_range(site: Site, late_s: float) -> None:
    path = f"/api/candles/EURUSD/1h?from={T0}&to={T0 + 3_600}"
    await site.write(TICKS, [tick(T0, 1, 2), tick(T0 + 7_200, 1, 2)])
    before = await site.get(path)
    await site.write(TICKS, [tick(T0 + late_s, 8, 8)])
    after = await site.get(path, If_None_Match=before.headers["ETag"])
    assert after.status_code == 200
    assert max(candle["high"] for candle in await after.get_json()) == 8


async def test_rewriting_what_is_stored_changes_nothing(site: Site) -> None:
    path = f"/api/candles/EURUSD/1m?from={T0}&to={T0 + 600}"
    batch = [Published(TICKS, 1, tick(T0, 1, 2)), Published(TICKS, 2, tick(T0 + 1, 1, 3))]
    await site.store.write(batch)
    before = await site.get(path)
    await site.store.write(batch)
    assert (await site.get(path, If_None_Match=before.headers["ETag"])).status_code == 304


async def test_etag_never_names_a_body_that_it_is_not(site: Site) -> None:
    """Readers race with a writer; whatever comes with one ETag must be one body."""
    path = f"/api/candles/EURUSD/1m?from={T0 - 600}&to={T0 + 600}"
    bodies: dict[str, set[bytes]] = {}
    await site.write(TICKS, [tick(T0, 1, 2)])
    finished = trio.Event()

    async def read() -> None:
        tag = ""
        while not finished.is_set():
            response = await site.get(path, If_None_Match=tag)
            if response.status_code == 200:
                tag = response.headers["ETag"]
                bodies.setdefault(tag, set()).add(await response.get_data())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        for n in range(1, 60):
            await site.write(TICKS, [tick(T0 - (n % 3) * 200 + n / 10, n, n + 1)])
        finished.set()

    assert len(bodies) > 5
    assert all(len(same) == 1 for same in bodies.values())
    final = await site.get(path)
    tag = final.headers["ETag"]
    assert bodies.get(tag, {await final.get_data()}) == {await final.get_data()}
    assert (await site.get(path, If_None_Match=tag)).status_code == 304


async def test_time_beyond_all_data_and_before_all_data(site: Site) -> None:
    await site.write(TICKS, [tick(T0, 1, 2)])
    assert await site.candles("1d", 99_999_000_000, 99_999_999_999) == []
    assert await site.candles("1d", 0, 0) == []
    response = await site.get("/api/ticks?symbol=EURUSD&from=99999999999&to=99999999999.999999")
    assert (await response.get_json())["ticks"] == []


@pytest.mark.plain_only
async def test_database_away(database_url: str, make_database: Callable[[str | None], str]) -> None:
    """A store that lost its database answers 503, live and health stay."""
    import psycopg
    import structlog
    from psycopg.conninfo import conninfo_to_dict

    from mdserver.store.open_database import open_database

    name = conninfo_to_dict(database_url)["dbname"]
    other = make_database(None)
    async with open_database(database_url, retry_for_s=0, log=structlog.get_logger()) as database:
        site = Site(database)
        await site.write(TICKS, [tick(T0, 1, 2)])
        with psycopg.connect(other, autocommit=True) as conn:
            conn.execute(f'alter database "{name}" allow_connections false')
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
            try:
                response = await site.get(f"/api/candles/EURUSD/1h?from={T0}&to={T0}")
                assert response.status_code == 503
                assert int(response.headers["Retry-After"]) > 0
                assert (await response.get_json(force=True))["code"] == "unavailable"
                assert (await site.get("/health/live")).status_code == 200
            finally:
                conn.execute(f'alter database "{name}" allow_connections true')
        assert len(await site.candles("1h", T0, T0)) == 1


@pytest.mark.serial
async def test_year_of_hours(site: Site) -> None:
    """The bounds are far above what it takes, for a busy machine.

    Serial: it measures how long a request takes.
    """
    await site.write(
        TICKS, [tick(T0 - n * 3_600, 1 + n % 97 / 1_000, 2, 3.0) for n in reversed(range(8_760))]
    )
    path = f"/api/candles/EURUSD/1h?from={T0 - 8_759 * 3_600}&to={T0}"
    first = await site.get(path)
    assert len(json.loads(await first.get_data())) == 8_760
    for status, most_s, headers in ((200, 0.5, {}), (304, 0.1, {"If_None_Match": first.headers["ETag"]})):
        took = []
        for _ in range(5):
            start = time.perf_counter()
            assert (await site.get(path, **headers)).status_code == status
            took.append(time.perf_counter() - start)
        assert min(took) < most_s


def hour_of_ticks(number: int) -> FetchedHour:
    """An hour with a tick each ten minutes, its bid the hour's number."""
    times = (T0 + 3_600 * number + np.arange(0, 3_600, 600, dtype=np.int64)) * US_PER_S
    bid = np.full(6, number + 1.0)
    ticks = TickColumns(times, bid, bid + 0.5, np.full(6, np.nan), np.full(6, np.nan))
    return FetchedHour(
        (T0 + 3_600 * number) * US_PER_S, "data", lambda: ticks, f"sum {number}", "fake", f"file {number}"
    )


async def test_an_import_and_a_live_feed_are_one_chart_and_one_list_of_ticks(site: Site) -> None:
    series = await site.store.open_series("dukascopy", "EURUSD")
    await site.store.load_hours(series, [hour_of_ticks(number) for number in range(3)])
    live = [tick(T0 + 2 * 3_600 + 1_800 + n * 600, 20, 20.5) for n in range(9)]  # from the middle of hour 2
    await site.write(TICKS, live)
    response = await site.get(f"/api/candles/EURUSD/1h?from={T0}&to={T0 + 9 * 3_600}")
    candles = await response.get_json()
    assert [(c["time"] - T0) // 3_600 for c in candles] == [0, 1, 2, 3]
    assert [c["open"] for c in candles] == [1.25, 2.25, 3.25, 20.25]
    assert response.headers["X-Broker"] == "oanda, dukascopy"
    seen: list[tuple[str, float]] = []
    cursor = ""
    while cursor is not None:
        query = f"symbol=EURUSD&from={T0}&to={T0 + 9 * 3_600}&limit=5" + (
            f"&cursor={cursor}" if cursor else ""
        )
        page = await (await site.get(f"/api/ticks?{query}")).get_json()
        seen += [(page["broker"], row["time"]) for row in page["ticks"]]
        cursor = page["next_cursor"]
    imported = [("dukascopy", T0 + 600 * n) for n in range(18)]
    assert seen == imported + [("oanda", T0 + 3 * 3_600 + 600 * n) for n in range(6)]


async def test_imported_hours_are_immutable_and_holes_between_them_are_not(site: Site) -> None:
    series = await site.store.open_series("dukascopy", "EURUSD")
    await site.store.load_hours(series, [hour_of_ticks(number) for number in (0, 1, 4, 5)])

    async def control(first: int, last: int, broker: str = "&broker=dukascopy") -> str:
        path = f"/api/candles/EURUSD/1h?from={T0 + first * 3_600}&to={T0 + last * 3_600}{broker}"
        return str((await site.get(path)).headers["Cache-Control"])

    assert await control(0, 1) == IMMUTABLE
    assert await control(0, 1, "") == "no-cache"
    assert await control(2, 3) == "no-cache"
    assert await control(0, 4) == "no-cache"
    ticks = await site.get(f"/api/ticks?symbol=EURUSD&broker=dukascopy&from={T0}&to={T0 + 7_199}")
    assert ticks.headers["Cache-Control"] == IMMUTABLE
    await site.store.load_hours(series, [hour_of_ticks(number) for number in (2, 3)])
    assert await control(0, 4) == IMMUTABLE


async def test_pages_go_on_after_a_record_that_was_added_later(site: Site) -> None:
    """Its number is below 0."""
    trades = [Trade("EURUSD", T0 * US_PER_S + n, 10.5, 0.1, "buy", str(n)) for n in range(4)]
    await site.store.add_missed(TRADES, trades)
    found, cursor = [], ""
    for _ in trades:
        response = await site.get(f"/api/trades?symbol=EURUSD&from={T0}&to={T0 + 1}&limit=1{cursor}")
        assert response.status_code == 200, await response.get_json()
        page = await response.get_json()
        found += page["trades"]
        cursor = f"&cursor={page['next_cursor']}"
    assert [one["trade_id"] for one in found] == ["0", "1", "2", "3"]
    assert page["next_cursor"] is None


async def test_where_the_records_are_that_retention_has_dropped(site: Site, database: Database) -> None:
    await site.write(TICKS, [tick(T0 - 40 * DAY, 1.0, 2.0), tick(T0, 1.0, 2.0)])
    path = f"/api/ticks?symbol=EURUSD&broker=oanda&from={T0 - 90 * DAY}&to={T0 - 30 * DAY}"
    assert "X-In-Lake" not in (await site.get(path)).headers
    day = date(2024, 2, 9)
    pushed = PushedDay("oanda", "EURUSD", "tick", day, "records", "key", 1, 100, "sum", "", -1)
    await database.run(lambda conn: note_pushed(conn, "file:///lake", pushed))
    assert "X-In-Lake" not in (await site.get(path)).headers  # it is still here
    dropped = await drop_old(database, 5, now=datetime(2024, 3, 20, tzinfo=UTC))
    assert [one.rows for one in dropped.dropped] == [1]
    answer = await site.get(path)
    assert answer.headers["X-In-Lake"] == "2024-02-09/2024-02-09"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert (await answer.get_json())["ticks"] == []
    near = await site.get(f"/api/ticks?symbol=EURUSD&from={T0 - DAY}&to={T0}")
    assert "X-In-Lake" not in near.headers

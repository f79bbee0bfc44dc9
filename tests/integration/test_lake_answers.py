"""``/api/ticks`` and ``/api/trades`` of what retention has dropped: from the data lake, or the place is named."""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pytest
import structlog
import structlog.testing
from quart import Response
from quart_trio import QuartTrio

from mdserver.commands.database_access import DatabaseAccess
from mdserver.config import LakeConfig
from mdserver.daemon.lake_on_demand import LakeOnDemand
from mdserver.metrics import Metrics
from mdserver.model import US_PER_S, Published, Trade
from mdserver.plugin import Lake
from mdserver.store.connection.database import Database
from mdserver.store.lake.restore import OTHER_NUMBERING
from mdserver.store.store import Store
from mdserver.store.upkeep.retention import drop_old
from mdserver.stream.stored_past import After, Begin, FromTime, Start
from mdserver.web.api import lake_records
from mdserver.web.api.dependencies import Dependencies, SourceInfo
from mdserver.web.api.read_context import Reading
from mdserver.web.api.routes import http_routes
from mdserver_lake import lake as lake_module
from mdserver_lake.bucket import open_bucket
from mdserver_lake.layout import DAY_US, day_start_us
from tests.integration.test_lake import DAYS, LATER_US, TRADES, load_ticks, pull_all, push_all, stream
from tests.lakes import answering, new_bucket

FROM_S, TO_S = day_start_us(DAYS[0]) // US_PER_S, day_start_us(DAYS[-1]) // US_PER_S + 86_400
NOW = datetime(2024, 4, 25, tzinfo=UTC)
"""With 20 days kept March is dropped, and April is here."""


class Site:
    """The routes on a store, with a lake."""

    def __init__(self, database: Database, lake: Callable[[], Awaitable[Lake | None]]) -> None:
        services = Dependencies(
            store=Store(database),
            broker_states=list,
            sources=lambda: [SourceInfo("binance", "trade"), SourceInfo("dukascopy")],
            ready=list,
            metrics=Metrics(),
            now_us=lambda: LATER_US,
            lake=lake,
        )

        async def no_stream() -> Response:
            raise AssertionError("nothing streams here")

        app = QuartTrio("site")
        app.register_blueprint(http_routes(Reading(services), no_stream))
        self.client = app.test_client()

    async def get(self, kind: str, symbol: str, more: str = "") -> Any:
        return await self.client.get(f"/api/{kind}?symbol={symbol}&from={FROM_S}&to={TO_S}{more}")

    async def pages(self, kind: str, symbol: str, more: str) -> tuple[list[dict[str, Any]], list[bool]]:
        """Return all records by the cursor, and which pages were from the lake."""
        rows: list[dict[str, Any]] = []
        from_lake, cursor = [], ""
        while True:
            answer = await self.get(kind, symbol, more + cursor)
            assert answer.status_code == 200, await answer.get_data()
            found = await answer.get_json()
            rows += found[kind]
            from_lake.append(answer.headers.get("X-Source") == "lake")
            if found["next_cursor"] is None:
                return rows, from_lake
            cursor = f"&cursor={found['next_cursor']}"


@pytest.fixture
def settings(tmp_path: Path) -> LakeConfig:
    return LakeConfig(url=f"file://{tmp_path}/lake")


async def filled(database: Database, settings: LakeConfig) -> DatabaseAccess:
    access = DatabaseAccess(database, write=True)
    await load_ticks(access)
    await stream(database)
    assert (await push_all(access, open_bucket(settings))).ok
    return access


def lake_of(settings: LakeConfig) -> LakeOnDemand:
    return LakeOnDemand(settings, ())


@pytest.mark.parametrize("place", ["folder", "s3"])
async def test_every_page_is_as_it_was(
    database: Database, settings: LakeConfig, place: str, request: pytest.FixtureRequest
) -> None:
    if place == "s3":
        settings = new_bucket(request.getfixturevalue("s3_address"))
    access = await filled(database, settings)
    site = Site(database, lake_of(settings))
    asked = [("ticks", "EURUSD"), ("trades", "BTCUSDT")]
    before = {kind: (await site.pages(kind, symbol, "&limit=10000&times=us"))[0] for kind, symbol in asked}
    assert [len(rows) for rows in before.values()] == [480, 150]
    texts = [await (await site.get(kind, symbol, "&format=csv")).get_data() for kind, symbol in asked]
    assert len((await drop_old(database, 20, lake=settings.address, now=NOW)).dropped) == 2
    for limit in (17, 1_000) if place == "folder" else (100,):
        for kind, symbol in asked:
            rows, from_lake = await site.pages(kind, symbol, f"&limit={limit}&times=us")
            assert rows == before[kind]
            assert from_lake[0]
            assert len(from_lake) == 1 or not from_lake[-1]  # what is here is not asked for there
    for (kind, symbol), text in zip(asked, texts, strict=True):
        answer = await site.get(kind, symbol, "&format=csv")
        assert await answer.get_data() == text
        assert (answer.headers["X-In-Lake"], answer.headers["Cache-Control"]) == (
            "2024-03-29/2024-03-29",
            "no-cache",
        )
        arrow = pa.ipc.open_stream(
            await (await site.get(kind, symbol, "&format=arrow&limit=100000")).get_data()
        )
        assert arrow.read_all().num_rows == len(list(csv.reader(io.StringIO(text.decode())))) - 1
    # what comes late, or is pulled back, is joined with it, each record once
    late = Trade("BTCUSDT", day_start_us(DAYS[0]) + 5, 67_000.0, 1.0)
    await Store(database).write([Published(TRADES, 151, late)])
    rows, _ = await site.pages("trades", "BTCUSDT", "&limit=50&times=us")
    assert len(rows) == 151
    assert [row for row in rows if row["seq"] != 151] == before["trades"]
    assert (await pull_all(access, open_bucket(settings), replace=True)).ok
    rows, _ = await site.pages("ticks", "EURUSD", "&limit=70&times=us")
    assert rows == before["ticks"]
    candles = await site.client.get(
        f"/api/candles?symbol=EURUSD&broker=dukascopy&from={FROM_S}&to={FROM_S + 86_399}"
    )
    assert len(await candles.get_json()) == 4


async def test_without_a_lake_the_place_is_named(
    database: Database, settings: LakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await filled(database, settings)
    await drop_old(database, 20, lake=settings.address, now=NOW)
    monkeypatch.setattr("mdserver.registry.load_lake", lambda folders: None)
    for lake in (lake_of(LakeConfig()), lake_of(settings)):
        answer = await Site(database, lake).get("ticks", "EURUSD")
        assert (answer.headers["X-In-Lake"], answer.headers.get("X-Source")) == (
            "2024-03-29/2024-03-29",
            None,
        )
        assert len((await answer.get_json())["ticks"]) == 320
    monkeypatch.undo()
    answer = await Site(database, lake_of(LakeConfig(url=f"file://{tmp_path}/other"))).get("ticks", "EURUSD")
    assert (answer.status_code, "X-In-Lake" in answer.headers) == (200, True)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    capture = structlog.testing.LogCapture()
    monkeypatch.setattr(lake_records, "_log", structlog.wrap_logger(None, processors=[capture]))
    return lambda: capture.entries


async def test_a_lake_that_cannot_be_read_is_an_error_and_never_an_empty_answer(
    database: Database, s3_address: str, logged: Callable[[], list[Any]]
) -> None:
    down = False

    def answer(method: str, path: str) -> tuple[int, str] | None:
        return (503, "SlowDown") if down else None

    with answering(answer, s3_address) as address:
        settings = attrs.evolve(new_bucket(s3_address), endpoint=address, retry_for_s=0)
        await filled(database, settings)
        await drop_old(database, 20, lake=settings.address, now=NOW)
        site = Site(database, lake_of(settings))
        down = True
        found = await site.get("ticks", "EURUSD")
        problem = await found.get_json()
        assert (found.status_code, problem["code"], found.headers["Retry-After"]) == (503, "unavailable", "5")
        assert problem["detail"] == (
            "retention has dropped some of these records here, and they are in the data lake; "
            "the lake does not answer, try again later"
        )
        (event,) = [one for one in logged() if "cannot be read from the data lake" in one["event"]]
        assert "answers 503" in event["error"]
        assert (await site.get("ticks", "EURUSD", "&limit=1")).status_code == 503
        near = await site.client.get(f"/api/ticks?symbol=EURUSD&from={FROM_S + 2 * 86_400}&to={TO_S}")
        assert near.status_code == 200  # what is here needs no lake
        down = False
        assert (await site.get("ticks", "EURUSD")).status_code == 200


async def test_missing_and_damaged_objects_are_named(
    database: Database, settings: LakeConfig, tmp_path: Path, logged: Callable[[], list[Any]]
) -> None:
    await filled(database, settings)
    await drop_old(database, 20, lake=settings.address, now=NOW)
    (path,) = (tmp_path / "lake").rglob("kind=tick/**/date=2024-03-29/data.parquet")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 1
    for data, words, logs in (
        (whole[:-100], "there it is damaged", "date=2024-03-29/data.parquet: not a whole Parquet"),
        (bytes(flipped), "there it is damaged", "data.parquet: "),
        (
            None,
            "the lake refuses or lacks it",
            "does not have dukascopy EURUSD tick 2024-03-29, which was pushed",
        ),
    ):
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        found = await Site(database, lake_of(settings)).get("ticks", "EURUSD")
        assert (found.status_code, words in (await found.get_json())["detail"]) == (503, True)
        assert logs in logged()[-1]["error"]
        path.write_bytes(whole)
    assert (await Site(database, lake_of(settings)).get("ticks", "EURUSD")).status_code == 200


async def test_a_replay_that_would_begin_there_says_so(database: Database, settings: LakeConfig) -> None:
    """It begins with what is here, and never pretends to be complete."""
    await filled(database, settings)
    store, first = Store(database), FromTime(day_start_us(DAYS[0]))

    async def begin(start: Start) -> Begin:
        return (await store.replay_begins({TRADES: start}))[TRADES]

    assert (await begin(After(0)), await begin(first)) == (Begin(0), Begin(0))
    await drop_old(database, 20, lake=settings.address, now=NOW)
    where = "; those of 2024-03-29 to 2024-03-29 are in the data lake, which answers /api/trades"
    assert await begin(After(0)) == Begin(
        50, f"the records 1 to 50 are not stored: from the oldest there is{where}"
    )
    assert await begin(first) == Begin(
        50, f"the records before 51 are not stored: from the oldest there is{where}"
    )
    await drop_old(database, 5, lake=settings.address, now=datetime(2024, 6, 1, tzinfo=UTC))
    found = await begin(first)
    assert found.after == 150
    assert found.missing is not None
    assert found.missing.startswith(
        "the records since then are not stored: live only; those of 2024-03-29 to 2024-04-02"
    )
    assert await begin(FromTime(LATER_US)) == Begin(150)


async def test_records_of_another_numbering_keep_the_numbers_that_a_pull_gives(
    database: Database, settings: LakeConfig
) -> None:
    access = await filled(database, settings)
    await pull_all(access, open_bucket(settings))
    site = Site(database, lake_of(settings))
    before, _ = await site.pages("trades", "BTCUSDT", "&limit=10000&times=us")
    await drop_old(database, 20, lake=settings.address, now=NOW)
    assert database.opened is not None
    database.opened = attrs.evolve(database.opened, epoch="another")
    rows, _ = await site.pages("trades", "BTCUSDT", "&limit=9&times=us")
    old = [row for row in before if row["time"] < day_start_us(date(2024, 4, 1))]
    assert rows[: len(old)] == [{**row, "seq": row["seq"] + OTHER_NUMBERING} for row in old]
    assert len(rows) == len(before)


async def test_a_page_takes_few_objects_at_a_time(
    database: Database, settings: LakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_records, "DAYS_AT_ONCE", 1)
    monkeypatch.setattr(lake_module, "KEPT_BYTES", 0)
    await filled(database, settings)
    await drop_old(database, 5, lake=settings.address, now=datetime(2024, 6, 1, tzinfo=UTC))
    site = Site(database, lake_of(settings))
    rows, from_lake = await site.pages("trades", "BTCUSDT", "&limit=1000")
    assert (len(rows), from_lake) == (150, [True, True, True])
    empty = DAY_US // US_PER_S
    found = await site.client.get(
        f"/api/trades?symbol=BTCUSDT&from={FROM_S + empty}&to={FROM_S + 2 * empty}&broker=binance"
    )
    assert (await found.get_json())["trades"] == []

"""One symbol that is hard everywhere, over the days that are hard everywhere: from a broker through all ways out."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mdserver.commands.database_access import DatabaseAccess
from mdserver.config import LakeConfig
from mdserver.model import Feed, Tick
from mdserver.store.connection.database import Database
from mdserver.store.store import Store
from mdserver_lake.bucket import open_bucket
from tests.component.conftest import http_get

from .storing_server import open_client, open_storing_server
from .test_lake import other, pull_all, push_all

__all__ = ["other"]  # a fixture

SPELLED = "币/安/人/生/ñ/Ω/я/é/ü/ö/क/ก/ا/あ/ア/한/1/0/0/0/S/A/T/S/U/S/D/T/P/E/R/P"
"""63 characters, 32 without the separators, as many as a symbol may have; its last one is below."""

SYMBOL = "币安人生ÑΩЯÉÜÖकกاあア한1000SATSUSDTPERP"

CHANGES = [
    datetime(2023, 10, 29, tzinfo=UTC),
    datetime(2023, 11, 5, tzinfo=UTC),
    datetime(2024, 3, 10, tzinfo=UTC),
]
"""Summer time ends in Europe and in New York, and begins there."""


def hours() -> list[int]:
    """Every hour of each of these days and of those around them, in Unix seconds."""
    return [int(day.timestamp()) + hour * 3_600 for day in CHANGES for hour in range(-24, 48)]


async def test_a_hard_symbol_over_changes_of_summer_time(
    database: Database, other: Database, tmp_path: Path
) -> None:
    services = {"store": Store(database), "now_us": lambda: time.time_ns() // 1_000}
    ticks = [Tick(SYMBOL, at * 1_000_000 + 1, 1.0 + n, 1.5 + n) for n, at in enumerate(hours())]
    name = quote(SPELLED)
    assert len(SPELLED) == 63
    assert len(SYMBOL) == 32
    async with open_storing_server(database, tmp_path, services=services) as server:
        stream = server.stream

        async def get(path: str) -> Any:
            answer = await http_get(stream.port, path)
            assert answer.status == 200, answer.body
            return answer.json()

        async with open_client(stream.url) as client:
            ack = await client.subscribe(SPELLED.lower())
            assert ack["results"][0]["symbol"] == SYMBOL
            stream.supervisor.brokers["one"].host.confirm([Feed(SYMBOL, "tick")])
            stream.brokers["one"].publish(*ticks)
            live = [
                one for one in [await client.get() for _ in range(len(ticks) + 1)] if one["type"] == "tick"
            ]
            assert [(one["symbol"], one["seq"], one["bid"]) for one in live] == [
                (SYMBOL, n + 1, 1.0 + n) for n in range(len(ticks))
            ]
            await client.subscribe(SPELLED, since=live[7]["time"])
            assert [await client.get() for _ in range(len(ticks) - 7)] == live[7:]
        first, last = hours()[0], hours()[-1]
        span = f"from={first}&to={last + 3_600}"
        stored = (await get(f"/api/ticks?symbol={name}&{span}&limit=1000"))["ticks"]
        assert [(one["time"], one["bid"]) for one in stored] == [(one["time"], one["bid"]) for one in live]
        candles = await get(f"/api/candles/{quote(SYMBOL)}/1h?{span}")
        assert [one["time"] for one in candles] == hours(), "no hour twice, none missing"
        bars = await get(f"/udf/history?symbol={quote('one:' + SYMBOL)}&resolution=60&{span}")
        assert (bars["s"], bars["t"]) == ("ok", hours())
        assert (await get(f"/udf/symbols?symbol={quote(SYMBOL)}"))["ticker"].endswith(SYMBOL)
        around = f"from={first - 86_400}&to={last}"
        days = await get(f"/api/candles?symbol={name}&timeframe=1d&align=ny17&{around}&fields=time,count")
        lengths = [one["count"] for one in days]
        assert sum(lengths) == len(ticks)
        assert {25, 23} < set(lengths), "a day in New York has an hour more or less"
    bucket = open_bucket(LakeConfig(url=f"file://{tmp_path}/lake"))
    pushed = await push_all(DatabaseAccess(database, write=True), bucket)
    assert (pushed.failed, pushed.rows) == ([], len(ticks))
    pulled = await pull_all(DatabaseAccess(other, write=True), bucket)
    assert (pulled.failed, pulled.rows) == ([], len(ticks))
    (series,) = await Store(other).series(SYMBOL)
    page = await Store(other).records(series.id, "tick", 0, 2_000_000_000_000_000, limit=1_000)
    assert [(at / 1e6, bid) for at, bid in zip(page.time_us, page.columns["bid"], strict=True)] == [
        (one["time"], one["bid"]) for one in live
    ]

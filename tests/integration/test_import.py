"""``mdserver run import`` as a process, against a fake datafeed over real sockets and a real PostgreSQL."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import trio
import yaml

from mdserver.market_hours import open_hours
from mdserver.testing.bi5 import FakeTick, ticks_path
from mdserver.testing.dukascopy import FakeDukascopy, Fault, open_fake_dukascopy
from mdserver.testing.recorded import recorded_folder
from tests.integration.daemon import clean_environment, open_daemon, write_config

DEADLINE_S = 60.0
FIRST, LAST = "2024-03-08", "2024-03-11"
"""Friday to Monday over the change to summer time: the market closes at 22:00 and opens at 21:00 UTC."""

TABLES = {
    "ticks": "select time, seq, bid, ask, bid_size, ask_size from ticks order by time, seq",
    "candles": "select timeframe, time, open, high, low, close, volume, row_count from candles order by 1, 2",
    "series": "select broker, symbol, type, row_count, earliest, latest from series",
    "ledger": "select hour, outcome, row_count, checksum from import_ledger order by hour",
}


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


HOURS = open_hours("fx", us(FIRST), us("2024-03-12"))
CODE, JETTA_CODE = "EURUSD", "EUR-USD"


def made_up(hour_us: int, seed: int = 0) -> list[FakeTick]:
    random_ = random.Random(hour_us + seed)  # noqa: S311
    ms = sorted(random_.randrange(3_600_000) for _ in range(random_.randint(1, 80)))
    bids = [random_.randint(114000, 115000) for _ in ms]
    return [
        FakeTick(
            at, bid + random_.randint(0, 5), bid, random_.randint(1, 900) / 100, random_.randint(1, 900) / 100
        )
        for at, bid in zip(ms, bids, strict=True)
    ]


@pytest.fixture
async def feed() -> AsyncIterator[FakeDukascopy]:
    async with open_fake_dukascopy() as feed:
        for hour_us in HOURS:
            feed.put_hour(CODE, JETTA_CODE, hour_us, made_up(hour_us), decimals=5)
        yield feed


class Importer:
    """Runs the command with a config of its own."""

    def __init__(self, folder: Path, url: str, feed: FakeDukascopy, **settings: Any) -> None:
        source = {
            "name": "dukascopy",
            "url": feed.url,
            "jetta_url": feed.jetta_url,
            "services": ["datafeed"],
            "pause_s": 0,
            "backoff_s": 0.01,
            "attempts": 2,
            "timeout_s": 0.5,
            **settings,
        }
        self.url = url
        self.config = folder / "config.yaml"
        config: dict[str, Any] = {"data_dir": str(folder / "data"), "history": [source]}
        self.config.write_text(yaml.safe_dump({**config, "database": {"url": as_url(url)}}))

    def command(self, *options: str) -> list[str]:
        chosen = [
            "--config",
            str(self.config),
            "--symbol",
            "EUR/USD",
            "--from",
            FIRST,
            "--to",
            LAST,
            *options,
        ]
        return [sys.executable, "-m", "mdserver", "run", "import", "--json", "--chunk", "1", *chosen]

    async def run(self, *options: str, code: int = 0) -> dict[str, Any]:
        """Run to the end and return the hours by what became of them, and the rest of the summary."""
        with trio.fail_after(DEADLINE_S):
            done = await trio.run_process(
                self.command(*options),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=clean_environment(),
            )
        assert done.returncode == code, done.stderr.decode()
        return _flat(json.loads(done.stdout))

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        with psycopg.connect(self.url) as conn:
            return {name: conn.execute(query).fetchall() for name, query in TABLES.items()}  # type: ignore[call-overload]


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    (symbol,) = summary["symbols"]
    return {**summary, **symbol, **symbol["hours"], "causes": symbol["failed"]}


def as_url(conninfo: str) -> str:
    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    return "postgresql:///?" + "&".join(f"{key}={value}" for key, value in given.items())


@pytest.fixture
def importer(tmp_path: Path, database_url: str, feed: FakeDukascopy) -> Importer:
    return Importer(tmp_path, database_url, feed)


async def test_it_imports_then_skips_then_compares(importer: Importer, feed: FakeDukascopy) -> None:
    empty = HOURS[3]
    feed.put_hour(CODE, JETTA_CODE, empty, [], decimals=5)
    done = await importer.run()
    assert (done["ok"], done["added"], done["empty"], done["closed"]) == (
        True,
        len(HOURS) - 1,
        1,
        96 - len(HOURS),
    )
    assert done["empty_open_hours"] == ["2024-03-08T03:00Z"]
    assert done["ticks"] == sum(len(made_up(hour)) for hour in HOURS if hour != empty)
    before, asked = importer.tables(), feed.count()
    assert asked == len(HOURS)
    again = await importer.run()
    assert (again["skipped"], again["added"], feed.count()) == (len(HOURS), 0, asked)
    same = await importer.run("--replace")
    assert (same["unchanged"], same["empty"], same["replaced"]) == (len(HOURS), 0, 0)
    assert importer.tables() == before
    feed.put_hour(CODE, JETTA_CODE, HOURS[5], made_up(HOURS[5], seed=1), decimals=5)
    revised = await importer.run("--replace")
    assert (revised["replaced"], revised["unchanged"]) == (1, len(HOURS) - 1)
    after = importer.tables()
    assert after["ledger"] != before["ledger"]
    assert after["series"][0][3] == len(after["ticks"])


async def test_a_dry_run_asks_and_writes_nothing(importer: Importer, feed: FakeDukascopy) -> None:
    done = await importer.run("--dry-run")
    assert (done["not_tried"], feed.count(), importer.tables()["series"]) == (len(HOURS), 0, [])


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=503),
        Fault("html"),
        Fault("cut"),
        Fault("broken off"),
        Fault("garbage"),
        Fault("hang"),
        Fault("reset"),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_fault_is_failed_and_mended_by_the_next_run(
    importer: Importer, feed: FakeDukascopy, fault: Fault
) -> None:
    bad = HOURS[7]
    feed.fail(fault, path=ticks_path(CODE, bad))
    done = await importer.run(code=1)
    assert (done["causes"][0]["hour"], done["added"]) == ("2024-03-08T07:00Z", len(HOURS) - 1)
    assert "07h_ticks.bi5" in done["causes"][0]["cause"]
    feed.heal()
    mended = await importer.run()
    assert (mended["added"], mended["skipped"]) == (1, len(HOURS) - 1)
    assert len(importer.tables()["ticks"]) == sum(len(made_up(hour)) for hour in HOURS)


async def test_404_is_empty_unless_nothing_is_known(
    importer: Importer, feed: FakeDukascopy, tmp_path: Path
) -> None:
    del feed.files[ticks_path(CODE, HOURS[2])]
    done = await importer.run()
    assert done["empty"] == 1
    feed.files.clear()
    with psycopg.connect(importer.url) as conn:
        conn.execute("truncate ticks, candles, import_ledger, series")
    (tmp_path / "new").mkdir()  # with an empty cache
    done = await Importer(tmp_path / "new", importer.url, feed).run(code=1)
    assert (done["empty"], len(done["causes"])) == (0, len(HOURS))


async def test_it_gives_up_on_a_source_that_is_away(importer: Importer, feed: FakeDukascopy) -> None:
    feed.fail(Fault("status", status=503))
    done = await importer.run("--from", "2024-02-01", code=1)
    assert "in a row" in done["stopped"]
    assert 24 <= len(done["causes"]) < 100 < done["not_tried"]
    feed.heal()
    await importer.run()


async def test_interrupted_and_killed_it_ends_in_the_same_table(
    importer: Importer, feed: FakeDukascopy, tmp_path: Path, database_url: str
) -> None:
    await importer.run()
    expected = importer.tables()
    with psycopg.connect(importer.url) as conn:
        conn.execute("truncate ticks, candles, import_ledger, series")
    random_ = random.Random(7)  # noqa: S311
    codes = []
    (tmp_path / "slow").mkdir()  # with a cache of its own
    slow = Importer(tmp_path / "slow", database_url, feed, pause_s=0.06)
    for number in range(10):
        process = await trio.lowlevel.open_process(
            slow.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment()
        )
        await trio.sleep(random_.uniform(0.7, 1.4))
        process.send_signal(signal.SIGINT if number % 2 else signal.SIGKILL)
        with trio.fail_after(DEADLINE_S):
            codes.append(await process.wait())
    # -SIGINT: it came while Python itself was starting
    assert {code for code in codes if code != 0} <= {130, -signal.SIGINT, -signal.SIGKILL}
    assert set(codes) != {0}
    await importer.run()
    assert importer.tables() == expected


async def test_beside_a_running_server(folder: Path, feed: FakeDukascopy) -> None:
    source = {"name": "dukascopy", "url": feed.url, "services": ["datafeed"], "pause_s": 0}
    config = write_config(folder, history=[source])
    query = {"symbol": "EURUSD", "broker": "dukascopy", "timeframe": "1h", "from": us(FIRST) // 10**6}
    async with open_daemon(config) as daemon:
        importer = Importer.__new__(Importer)
        importer.config = config
        etags = []
        for seed in (0, 1):
            feed.put_hour(CODE, JETTA_CODE, HOURS[0], made_up(HOURS[0], seed), decimals=5)
            assert (await importer.run("--replace"))["ok"]
            answer = await daemon.get("/api/candles", **query, to=us("2024-03-12") // 10**6)
            assert len(answer.json()) == len(HOURS)
            etags.append(answer.headers["etag"])
        assert etags[0] != etags[1]
    alone = await importer.run()
    assert alone["skipped"] == len(HOURS)


@contextmanager
def recorded_day() -> Iterator[tuple[Path, Sequence[dict[str, Any]]]]:
    folder = recorded_folder()
    if folder is None:
        pytest.skip("no recorded data: set MDSERVER_RECORDED_DATA")
    repository = folder / "Leo4815162342+dukascopy-node"
    index = msgspec.json.decode((folder.parent / "index.json").read_bytes())
    day = "Leo4815162342+dukascopy-node/EURUSD/2019/01/04/"
    yield (
        repository,
        [entry["facts"] for entry in index if day in entry["file"] and "h_ticks" in entry["file"]],
    )


@pytest.mark.recorded
async def test_a_recorded_day(tmp_path: Path, database_url: str) -> None:
    with recorded_day() as (folder, facts):
        assert len(facts) == 24
        async with open_fake_dukascopy(folder) as feed:
            importer = Importer(tmp_path, database_url, feed, attempts=20)
            feed.fail(Fault("status", status=503), times=5)
            feed.fail(Fault("cut"), times=3)
            feed.fail(Fault("hang"), times=2)
            await importer.run("--from", "2019-02-04", "--to", "2019-02-04")
    with psycopg.connect(database_url) as conn:
        found = conn.execute(
            """select count(*), sum(round(ask * 100000)), sum(round(bid * 100000)),
                sum(extract(epoch from time - date_trunc('hour', time)) * 1000)
            from ticks group by date_trunc('hour', time) order by date_trunc('hour', time)"""
        ).fetchall()
    assert [tuple(map(int, row)) for row in found] == [
        (fact["count"], fact["sum_ask"], fact["sum_bid"], fact["sum_ms"]) for fact in facts
    ]

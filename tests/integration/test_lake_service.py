"""What a service may answer besides what is asked for, in plain sentences; and the commands as their user runs them."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
import structlog
import structlog.testing
import trio
import yaml

from mdserver import cli
from mdserver.commands.database_access import DatabaseAccess
from mdserver.config import LakeConfig
from mdserver.daemon import lake_push
from mdserver.daemon.lake_push import LakePushPart
from mdserver.errors import MdserverError, Rejected, Unavailable
from mdserver.metrics import Metrics
from mdserver.model import Published, Trade
from mdserver.store.connection.database import Database
from mdserver.store.store import Store
from mdserver_lake.bucket import Denied, open_bucket
from mdserver_lake.layout import DAY_US, day_start_us
from mdserver_lake.push import SETTLE_US, plan_push
from mdserver_lake.selection import Report, Selection
from tests.integration.daemon import clean_environment
from tests.integration.test_lake import (
    DAYS,
    TRADES,
    load_ticks,
    pull_all,
    push_all,
    stream,
    tables,
    verify_all,
)
from tests.lakes import CUT, KEY_ID, SECRET, answering, new_bucket

COMMAND_S = 60.0

Command = Callable[..., Awaitable[tuple[dict[str, Any], str]]]


def settings(address: str, **changes: Any) -> LakeConfig:
    keys = {"access_key_id": KEY_ID, "secret_access_key": SECRET}
    return LakeConfig(
        url="s3://bucket/md", endpoint=address, timeout_s=5.0, retry_for_s=0.0, **{**keys, **changes}
    )


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (403, "AccessDenied", Denied, "not permitted (403)"),
        (403, "RequestTimeTooSkewed", Rejected, "this machine's clock differs too much"),
        (403, "SignatureDoesNotMatch", Rejected, "the secret_access_key is wrong"),
        (403, "InvalidAccessKeyId", Rejected, "the access_key_id is not known there"),
        (404, "NoSuchBucket", Rejected, "there is no such bucket"),
        (401, "Unauthorized", Rejected, "the credentials are not accepted (401)"),
        (503, "SlowDown", Unavailable, "answers 503"),
        (500, "InternalError", Unavailable, "answers 500"),
    ],
)
async def test_each_refusal_is_a_plain_sentence(
    status: int, code: str, error: type[MdserverError], words: str
) -> None:
    with answering(lambda method, path: (status, code)) as address:
        bucket = open_bucket(settings(address))
        for ask in (
            lambda: bucket.put("a", b"x"),
            lambda: bucket.get("a"),
            lambda: bucket.objects("kind=tick/"),
        ):
            with pytest.raises(error) as raised:
                await ask()
            assert type(raised.value) is error
            assert words in str(raised.value)
            assert "s3://bucket/md" in str(raised.value)
            assert "Debug source" not in str(raised.value)


async def test_an_object_that_is_not_there_is_none(s3_address: str) -> None:
    assert await open_bucket(new_bucket(s3_address)).get("kind=tick/none") is None


async def test_nobody_answers() -> None:
    with pytest.raises(Unavailable, match="nobody answers there"):
        await open_bucket(settings("http://127.0.0.1:9")).get("a")


async def test_no_answer_in_time() -> None:
    with trio.socket.socket() as hanging:
        await hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        with pytest.raises(Unavailable, match="no answer in time"):
            await open_bucket(settings(f"http://127.0.0.1:{hanging.getsockname()[1]}")).get("a")


async def test_what_fails_for_a_moment_is_asked_again(s3_address: str) -> None:
    lake = new_bucket(s3_address)
    seen: set[str] = set()

    def answer(method: str, path: str) -> tuple[int, str] | None:
        """Fail the first time of each request."""
        request = f"{method} {path}"
        fresh = request not in seen
        seen.add(request)
        return (503, "SlowDown") if fresh else None

    with answering(answer, s3_address) as address:
        bucket = open_bucket(attrs.evolve(lake, endpoint=address, retry_for_s=20.0))
        await bucket.put("a/b", b"whole")
        assert await bucket.get("a/b") == b"whole"
        assert await bucket.objects("a/") == [("a/b", 5)]
    assert len(seen) == 3


async def test_a_lake_that_is_away_stops_the_push_and_loses_nothing(database: Database) -> None:
    access = DatabaseAccess(database, write=True)
    await load_ticks(access)
    with answering(lambda method, path: (503, "SlowDown")) as address:
        bucket = open_bucket(settings(address))
        report = await push_all(access, bucket)
    assert not report.ok
    assert report.stopped is not None
    assert "503" in report.stopped
    assert await access.pushed_days(bucket.address) == []


async def test_faults_in_between_lose_and_change_nothing(
    s3_address: str, database: Database, long: bool
) -> None:
    """503s, connections that are reset, and answers that are broken off, up and down."""
    access, days = DatabaseAccess(database, write=True), DAYS if long else DAYS[:1]
    await load_ticks(access, days)
    await stream(database, days)
    before = await tables(database)
    faults = [*[None] * 8, (503, "SlowDown"), (500, "InternalError"), (0, ""), CUT]
    for seed in (1, 2, 3) if long else (2,):
        random_, lock = random.Random(seed), threading.Lock()  # noqa: S311
        met: set[object] = set()

        def answer(
            method: str, path: str, random_: random.Random = random_, lock: Any = lock, met: set[object] = met
        ) -> tuple[int, str] | None:
            with lock:
                fault = random_.choice(faults)
                fault = None if fault == CUT and method != "GET" else fault
                met.add(fault)
            return fault

        lake = new_bucket(s3_address)
        with answering(answer, s3_address) as address:
            bucket = open_bucket(attrs.evolve(lake, endpoint=address, retry_for_s=20.0))
            assert (await push_all(access, bucket)).failed == []
            assert len(await access.pushed_days(bucket.address)) == 4 * len(days)
            await database.run(
                lambda conn: conn.execute(
                    "truncate ticks, trades, candles, import_ledger, seq_times, pushed_days, series cascade"
                )
            )
            assert (await pull_all(access, bucket)).failed == []
        assert len(met) > 2
        after = await tables(database)
        assert {**after, "series": None} == {**before, "series": None}


async def test_an_object_that_was_cut_short_does_not_count(s3_address: str, database: Database) -> None:
    """The service says yes and keeps a part."""
    lake = new_bucket(s3_address)
    access = DatabaseAccess(database, write=True)
    await load_ticks(access)
    bucket = open_bucket(lake)

    class Short(type(bucket)):  # type: ignore[misc]
        async def put(self, key: str, data: bytes) -> None:
            await super().put(key, data[:-10])

    cut = Short(bucket._store, bucket.address)
    report = await push_all(access, cut)
    assert report.done == 0
    assert "reading back found" in report.failed[0].why
    assert await access.pushed_days(bucket.address) == []


# -- the commands --------------------------------------------------------------------------------------


@pytest.fixture
def lake_command(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command line; returns what ``--json`` printed and all that was shown."""

    async def run(config: Path, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
        capsys.readouterr()  # what was logged before
        with trio.fail_after(COMMAND_S):
            line = ["run", "lake", *arguments, "--config", str(config)]
            found = await trio.to_thread.run_sync(cli.main, line)
        out, err = capsys.readouterr()
        assert found == code, out + err
        for hidden in ("Traceback", SECRET, KEY_ID):
            assert hidden not in out + err
        return json.loads(out) if "--json" in arguments and out else {}, out + err

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def log_events(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """What the server's own push logs."""
    capture = structlog.testing.LogCapture()
    monkeypatch.setattr(lake_push, "_log", structlog.wrap_logger(None, processors=[capture]))
    return lambda: capture.entries


def write_config(folder: Path, database_url: str, lake: LakeConfig, **sections: Any) -> Path:
    params = psycopg.conninfo.conninfo_to_dict(database_url)
    url = f"postgresql://{params['user']}@/{params['dbname']}?host={params['host']}&port={params['port']}"
    own = {name: value for name, value in attrs.asdict(lake).items() if value is not None}
    config = {"data_dir": str(folder / "data"), "database": {"url": url}, "lake": own, **sections}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


async def test_the_commands(
    lake_command: Command, tmp_path: Path, database_url: str, database: Database, s3_address: str
) -> None:
    config = write_config(tmp_path, database_url, new_bucket(s3_address))
    await load_ticks(DatabaseAccess(database, write=True))
    before = await tables(database)
    planned, _ = await lake_command(config, "push", "--dry-run", "--json")
    assert planned["planned"] == [f"dukascopy EURUSD tick {day}" for day in DAYS]
    pushed, _ = await lake_command(config, "push", "--symbol", "eur/usd", "--to", "2024-04-01", "--json")
    assert (pushed["ok"], pushed["done"], pushed["rows"]) == (True, 2, 320)
    symbols = tmp_path / "symbols.txt"
    symbols.write_text("EUR/USD # the only one\n")
    await lake_command(config, "push", "--symbols-file", str(symbols))
    status, _ = await lake_command(config, "status", "--json")
    assert {month["month"] for month in status["months"]} == {"2024-03", "2024-04"}
    verified, _ = await lake_command(config, "verify", "--json")
    assert (verified["ok"], verified["done"]) == (True, 6)
    await database.run(
        lambda conn: conn.execute("truncate ticks, candles, import_ledger, series, pushed_days cascade")
    )
    pulled, _ = await lake_command(config, "pull", "--symbol", "EURUSD", "--json")
    assert (pulled["ok"], pulled["done"], pulled["rows"]) == (True, 3, 480)
    assert await tables(database) == before
    _, wrong = await lake_command(config, "push", "--symbol", "EURUSX", code=1)
    assert "nothing is stored of EURUSX; there is: dukascopy EURUSD" in wrong
    _, wrong = await lake_command(config, "pull", "--symbol", "EURUSX", code=1)
    assert "has nothing of this symbol" in wrong
    await lake_command(config, "pull", "--layout", "json", code=2)


async def test_without_a_lake_or_a_bucket(
    lake_command: Command, tmp_path: Path, database_url: str, s3_address: str
) -> None:
    config = write_config(tmp_path, database_url, LakeConfig())
    _, done = await lake_command(config, "status", code=2)
    assert "lake.url: missing" in done
    config = write_config(
        tmp_path, database_url, attrs.evolve(new_bucket(s3_address), url="s3://no-such-bucket")
    )
    _, done = await lake_command(config, "status", code=1)
    assert "there is no such bucket" in done


async def test_a_bucket_that_may_not_be_listed(
    lake_command: Command, tmp_path: Path, database_url: str, database: Database, s3_address: str
) -> None:
    """It answers 403 to listing, and for what is not there."""
    lake = new_bucket(s3_address)
    missing: list[str] = []

    def answer(method: str, path: str) -> tuple[int, str] | None:
        if "list-type" in path:
            return 403, "AccessDenied"
        if method == "GET" and not any(f"date%3D{day}" in path or f"date={day}" in path for day in DAYS):
            missing.append(path)
            return 403, "AccessDenied"
        return None

    with answering(answer, s3_address) as address:
        config = write_config(
            tmp_path,
            database_url,
            attrs.evolve(lake, endpoint=address),
            history=[{"name": "dukascopy"}],
            brokers=[],
        )
        access = DatabaseAccess(database, write=True)
        await load_ticks(access)
        before = await tables(database)
        await lake_command(config, "push")
        verified, _ = await lake_command(config, "verify", "--json")
        assert (verified["done"], "does not permit listing" in verified["notices"][0]) == (6, True)
        _, done = await lake_command(config, "status")
        assert "does not permit listing" in done
        await database.run(
            lambda conn: conn.execute("truncate ticks, candles, import_ledger, series, pushed_days cascade")
        )
        _, done = await lake_command(config, "pull", code=1)
        assert "name --symbol and --from" in done
        span = ("--symbol", "EURUSD", "--from", "2024-03-29", "--to", "2024-04-02")
        pulled, _ = await lake_command(config, "pull", *span, "--json")
        assert (pulled["ok"], pulled["done"]) == (True, 3)
        assert any("were denied" in notice for notice in pulled["notices"])
        assert missing
        assert await tables(database) == before


async def test_kill_9_at_any_moment(
    lake_command: Command, tmp_path: Path, database_url: str, database: Database, long: bool
) -> None:
    config = write_config(tmp_path, database_url, LakeConfig(url=f"file://{tmp_path}/lake"))
    access = DatabaseAccess(database, write=True)
    await load_ticks(access)
    await stream(database)
    bucket = open_bucket(LakeConfig(url=f"file://{tmp_path}/lake"))
    command = [sys.executable, "-m", "mdserver", "run", "lake", "push", "--config", str(config)]
    moments = range(1, 11) if long else (4,)
    for moment in moments:
        process = await trio.lowlevel.open_process(
            command, stderr=subprocess.DEVNULL, env=clean_environment()
        )
        with trio.move_on_after(COMMAND_S):  # until so many objects are there, whole or not
            while process.poll() is None and len(list(tmp_path.glob("lake/**/data.parquet*"))) < moment:
                await trio.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        for one in await access.pushed_days(bucket.address):
            assert await bucket.get(one.key) is not None
    await lake_command(config, "push")
    found = await verify_all(access, bucket)
    assert (found.failed, found.done) == ([], 12)


@pytest.mark.parametrize("signals", [1, 2])
async def test_an_interrupted_push_says_what_it_has_done(
    lake_command: Command,
    tmp_path: Path,
    database_url: str,
    database: Database,
    s3_address: str,
    signals: int,
) -> None:
    """The first Ctrl-C finishes what is in hand, the second abandons it."""
    settings, held, hold = new_bucket(s3_address), threading.Event(), threading.Event()

    def answer(method: str, path: str) -> None:
        if method == "PUT" and "kind%3Dtick" in path.replace("=", "%3D"):
            held.set()
            hold.wait(COMMAND_S)

    access = DatabaseAccess(database, write=True)
    await load_ticks(access)
    with answering(answer, s3_address) as address:
        lake = attrs.evolve(settings, endpoint=address)
        config = write_config(tmp_path, database_url, lake)
        command = [sys.executable, "-m", "mdserver", "run", "lake", "push", "--json", "--config", str(config)]
        with trio.fail_after(COMMAND_S):
            process = await trio.lowlevel.open_process(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
            )
            assert process.stdout is not None
            assert process.stderr is not None
            await trio.to_thread.run_sync(held.wait)
            process.send_signal(signal.SIGINT)
            said = b""
            while b"press Ctrl-C again" not in said:
                said += await process.stderr.receive_some()
            if signals == 2:
                process.send_signal(signal.SIGINT)
            else:
                hold.set()
            printed = b"".join([part async for part in process.stdout])
            assert await process.wait() == 130
        hold.set()
    report = json.loads(printed)
    assert (report["ok"], report["interrupted"], report["stopped"]) == (False, True, "interrupted")
    pushed = [one for one in await access.pushed_days(lake.address or "") if one.what == "records"]
    assert report["done"] == len(pushed) == (2 if signals == 1 else 0)  # two are in hand at a time
    assert (await push_all(access, open_bucket(settings))).ok


async def test_a_day_that_is_not_over_stays(database: Database) -> None:
    await Store(database).write(
        [Published(TRADES, 1, Trade("BTCUSDT", day_start_us(DAYS[0]), 67_000.0, 1.0))]
    )
    access = DatabaseAccess(database, write=True)
    over_us = day_start_us(DAYS[0]) + DAY_US + SETTLE_US
    for now_us, tasks in ((over_us - 1, 0), (over_us, 1)):
        plan = plan_push(access, "file:///x", Selection(), Report("pushed"), now_us=now_us, write=False)
        assert len([task async for task in plan]) == tasks


async def test_the_server_pushes_by_itself(
    tmp_path: Path, database_url: str, database: Database, log_events: Callable[[], list[dict[str, Any]]]
) -> None:
    lake = LakeConfig(url=f"file://{tmp_path}/lake", push_every_h=1.0)
    config = write_config(tmp_path, database_url, lake)
    access = DatabaseAccess(database, write=True)
    await load_ticks(access)
    part = LakePushPart(lake, config, tmp_path / "data", Metrics(), first_after_s=0.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(part.run)
        while len(await access.pushed_days("file://" + str(tmp_path / "lake"))) < 6:
            await trio.sleep(0.02)
        while not any("were pushed" in one["event"] for one in log_events()):
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    (event,) = [one for one in log_events() if "were pushed" in one["event"]]
    assert (event["days"], event["records"]) == (3, 480)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it has a low priority")
async def test_the_servers_push_leaves_the_cores_to_the_streams(
    tmp_path: Path, log_events: Callable[[], list[dict[str, Any]]]
) -> None:
    wait = (
        "import os, time; end = time.monotonic() + 20\n"
        "while os.sched_getscheduler(0) != os.SCHED_IDLE and time.monotonic() < end: time.sleep(.01)"
    )
    lake = LakeConfig(url=f"file://{tmp_path}/lake", push_every_h=1.0)
    part = LakePushPart(
        lake,
        None,
        tmp_path,
        Metrics(),
        command=(sys.executable, "-c", f"{wait}\nexit(f'of the kind {{os.sched_getscheduler(0)}}')"),
        first_after_s=0.0,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(part.run)
        while not log_events():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert log_events()[0]["error"] == f"of the kind {os.SCHED_IDLE}"


async def test_a_push_of_the_server_that_fails_is_said_and_hung_ones_are_ended(
    tmp_path: Path, log_events: Callable[[], list[dict[str, Any]]]
) -> None:
    lake = LakeConfig(url=f"file://{tmp_path}/lake", push_every_h=1.0)
    failing = LakePushPart(
        lake,
        None,
        tmp_path,
        Metrics(),
        command=(sys.executable, "-c", "exit('no room left')"),
        first_after_s=0.0,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(failing.run)
        while not log_events():
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    (event,) = log_events()
    assert event["event"] == "the push into the data lake failed: tried again later"
    assert (event["exit_code"], event["error"]) == (1, "no room left")
    code = (
        "import signal, time, pathlib; signal.signal(2, signal.SIG_IGN); "
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch(); time.sleep(60)"
    )
    hung = LakePushPart(
        lake, None, tmp_path, Metrics(), command=(sys.executable, "-c", code), first_after_s=0.0
    )
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(hung.run)
            while not (tmp_path / "up").exists():
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

"""From the journal into PostgreSQL: flushing, outages, crashes, draining."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from mdserver.errors import StoreUnavailable
from mdserver.journal.journal import Journal, open_journal
from mdserver.metrics import Metrics
from mdserver.model import Published, Tick, Topic
from mdserver.store.connection.database import Database
from mdserver.store.embedded.server import open_embedded
from mdserver.store.live import journal_drain as writer_module
from mdserver.store.live.journal_drain import REJECTED_FILE, JournalDrain, StoreForWriting
from mdserver.store.live.write_batch import SetAside
from mdserver.store.open_database import open_database
from mdserver.store.store import Store, Written

MIB = 1 << 20
TOPIC = Topic("mock", "EURUSD", "tick")
START_US = 1_710_918_000_000_000


def ticks(*seqs: int) -> list[Published]:
    return [Published(TOPIC, seq, Tick("EURUSD", START_US + seq, 1.0 + seq, 2.0 + seq)) for seq in seqs]


def make_writer(
    journal: Journal, store: StoreForWriting, flush_s: float = 0.01, flush_rows: int = 1000
) -> tuple[JournalDrain, Metrics]:
    metrics = Metrics()
    log = structlog.get_logger()
    return JournalDrain(
        journal, store, flush_s=flush_s, flush_rows=flush_rows, metrics=metrics, log=log
    ), metrics


@asynccontextmanager
async def running(writer: JournalDrain) -> Any:
    """Run the writer while the block runs, then drain it."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(writer.run)
        yield nursery
        with trio.fail_after(60):
            await writer.drain()


async def until(condition: Callable[[], bool]) -> None:
    """Poll what no event tells."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def stored(database: Database) -> list[tuple[Any, ...]]:
    def work(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
        return conn.execute("select seq, bid from ticks order by time, seq").fetchall()

    return await database.run(work)


async def candle_rows(database: Database) -> int:
    def work(conn: psycopg.Connection[Any]) -> int:
        row = conn.execute("select sum(row_count)::int from candles where timeframe = 60").fetchone()
        assert row is not None
        return int(row[0])

    return await database.run(work)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"mdserver_{name}", labels) or 0.0


def as_rows(*seqs: int) -> list[tuple[int, float]]:
    return [(seq, 1.0 + seq) for seq in seqs]


@pytest.mark.both_engines
async def test_what_is_journalled_is_stored_within_a_flush(database: Database, tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        writer, metrics = make_writer(journal, Store(database))
        async with running(writer):
            journal.append(ticks(1, 2))
            await until(lambda: not journal.pending_bytes)
            assert await stored(database) == as_rows(1, 2)
            journal.append(ticks(3))
        assert await stored(database) == as_rows(1, 2, 3)
        assert value(metrics, "records_stored_total", type="tick") == 3
        assert value(metrics, "store_lag_seconds") == 0
        assert value(metrics, "flush_seconds_count") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["seq_floor"]


class Fake:
    async def try_write(self, batch: Sequence[Published]) -> None:
        raise StoreUnavailable("gone fishing")


class Recorder(Fake):
    """A store that only remembers; ``fails`` is how often it is away first."""

    def __init__(self, fails: float = 0) -> None:
        self.batches: list[list[int]] = []
        self.fails = fails

    async def write(self, batch: Sequence[Published], set_aside: SetAside) -> Written:
        await trio.lowlevel.checkpoint()
        if self.fails > 0:
            self.fails -= 1
            raise StoreUnavailable("gone fishing")
        self.batches.append([published.seq for published in batch])
        return Written(Counter(tick=len(batch)))


async def test_enough_rows_are_written_before_the_time_is_up(tmp_path: Path) -> None:
    recorder = Recorder()
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        writer, _ = make_writer(journal, recorder, flush_s=60, flush_rows=3)
        async with running(writer):
            journal.append(ticks(1, 2))
            await trio.sleep(0.05)
            assert recorder.batches == []
            journal.append(ticks(3))
            await until(lambda: bool(recorder.batches))
            journal.append(ticks(4))  # fewer: draining does not wait for the time either
    assert recorder.batches == [[1, 2, 3], [4]]


async def test_storing_at_once_does_not_wait_for_company(tmp_path: Path) -> None:
    recorder = Recorder()
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        writer, _ = make_writer(journal, recorder, flush_s=60, flush_rows=1_000)
        async with running(writer) as nursery:
            with trio.fail_after(60):
                await writer.store_now()  # nothing to store
                for number in range(1, 20):
                    journal.append(ticks(number))
                    nursery.start_soon(writer.store_now)
                    await writer.store_now()
                    assert recorder.batches[-1][-1] == number


async def test_storing_at_once_ends_when_the_database_is_away(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        writer, _ = make_writer(journal, Recorder(fails=float("inf")), flush_s=60)
        async with running(writer):
            journal.append(ticks(1))
            for _ in range(2):
                with trio.fail_after(60), pytest.raises(StoreUnavailable, match="gone fishing"):
                    await writer.store_now()
        with trio.fail_after(60), pytest.raises(StoreUnavailable):
            await writer.store_now()


async def test_draining_stores_also_what_comes_meanwhile(tmp_path: Path) -> None:
    class Busy(Recorder):
        async def write(self, batch: Sequence[Published], set_aside: SetAside) -> Written:
            if len(self.batches) < 4:
                journal.append(ticks(batch[-1].seq + 1))
            return await super().write(batch, set_aside)

    busy = Busy()
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        async with running(make_writer(journal, busy, flush_s=60)[0]):
            journal.append(ticks(1))
        assert not journal.pending_bytes
    assert busy.batches == [[1], [2], [3], [4], [5]]


class Mute(Fake):
    """A store that hangs, then answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.answer = trio.Event()

    async def write(self, batch: Sequence[Published], set_aside: SetAside) -> Written:
        self.calls += 1
        await self.answer.wait()
        return Written(Counter(tick=len(batch)))


async def test_a_database_that_hangs_counts_as_away_and_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "SLOW_S", 0.1)
    monkeypatch.setattr(writer_module, "WRITE_S", 0.4)
    mute = Mute()
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        writer, metrics = make_writer(journal, mute)
        async with running(writer):
            journal.append(ticks(1))
            await until(lambda: writer.away is not None)
            assert "a write has had no answer for" in str(writer.away)
            assert value(metrics, "store_lag_seconds") > 1  # these ticks are of 2024
            assert value(metrics, "journal_bytes") == journal.size_bytes > 0
            await until(lambda: mute.calls > 1)
            assert "no answer to a write within" in str(writer.away)
            mute.answer.set()
            await until(lambda: not journal.pending_bytes)
            assert writer.away is None


async def test_what_the_database_had_before_is_counted_and_said(tmp_path: Path) -> None:
    class Known(Fake):
        async def write(self, batch: Sequence[Published], set_aside: SetAside) -> Written:
            await trio.lowlevel.checkpoint()
            return Written(skipped=len(batch))

    with open_journal(tmp_path, max_bytes=MIB) as journal, capture_logs() as logs:
        writer, metrics = make_writer(journal, Known())
        async with running(writer):
            journal.append(ticks(1, 2))
            await until(lambda: not journal.pending_bytes)
            journal.append(ticks(3))
    assert value(metrics, "records_stored_before_total") == 3
    assert len([line for line in logs if "stored already" in line["event"]]) == 1


async def test_what_a_crash_left_in_the_journal_is_no_cause_for_a_warning(tmp_path: Path) -> None:
    class Known(Fake):
        async def write(self, batch: Sequence[Published], set_aside: SetAside) -> Written:
            await trio.lowlevel.checkpoint()
            return Written(skipped=len(batch))

    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(ticks(1, 2))
    with open_journal(tmp_path, max_bytes=MIB) as journal, capture_logs() as logs:
        writer, metrics = make_writer(journal, Known())
        async with running(writer):
            await until(lambda: not journal.pending_bytes)
            journal.append(ticks(3))
    assert value(metrics, "records_stored_before_total") == 3
    first, second = [line for line in logs if "stored already" in line["event"]]
    assert (first["log_level"], first["records"]) == ("info", 2)
    assert "of the last run" in first["event"]
    assert (second["log_level"], second["records"]) == ("warning", 1)


async def test_an_outage_is_said_once_and_counted(tmp_path: Path) -> None:
    recorder = Recorder(fails=3)
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        writer, metrics = make_writer(journal, recorder)
        with capture_logs() as logs:
            async with running(writer):
                journal.append(ticks(1))
                await until(lambda: writer.away is not None)
                assert writer.away == "gone fishing"
                assert value(metrics, "store_lag_seconds") > 0
                journal.append(ticks(2, 3))
                await until(lambda: not journal.pending_bytes)
                assert writer.away is None
    assert sorted(chain.from_iterable(recorder.batches)) == [1, 2, 3]
    away, back = logs
    assert (away["log_level"], away["error"]) == ("error", "gone fishing")
    assert (back["log_level"], back["records"]) == ("info", 3)
    assert 0.05 < back["away_s"] < 5
    assert value(metrics, "store_retries_total", cause="unavailable") == 3


async def test_draining_gives_up_when_the_database_is_away(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        writer, _ = make_writer(journal, Recorder(fails=float("inf")))
        async with running(writer):
            journal.append(ticks(1, 2))
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        recorder = Recorder()
        async with running(make_writer(journal, recorder)[0]):
            pass
        assert recorder.batches == [[1, 2]]


async def test_connections_killed_again_and_again(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """Each record is there once, in order, whatever moment the backends die at."""
    with open_journal(tmp_path, max_bytes=64 * MIB) as journal:
        writer, _ = make_writer(journal, Store(database), flush_s=0.001)
        seq = 0
        with psycopg.connect(database_url, autocommit=True) as killer:
            async with running(writer):
                for _ in range(40):
                    for _ in range(10):
                        journal.append(ticks(*range(seq + 1, seq + 21)))
                        seq += 20
                        await trio.sleep(0.002)
                    killer.execute(
                        """select pg_terminate_backend(pid) from pg_stat_activity
                        where datname = current_database() and pid <> pg_backend_pid()"""
                    )
                await until(lambda: not journal.pending_bytes)
    assert await stored(database) == as_rows(*range(1, seq + 1))
    assert await candle_rows(database) == seq


async def serve(folder: Path, stop: trio.Event, gone: trio.Event, *, task_status: Any) -> None:
    """Run a PostgreSQL of its own until told to stop."""
    async with open_embedded(folder, log=structlog.get_logger()) as url:
        task_status.started(url)
        await stop.wait()
    gone.set()


async def test_a_server_that_is_stopped_and_started_again(prepared_path: Path, tmp_path: Path) -> None:
    stop, gone, last_stop = trio.Event(), trio.Event(), trio.Event()
    async with trio.open_nursery() as servers:
        url = await servers.start(serve, prepared_path, stop, gone)
        async with open_database(url, retry_for_s=5, log=structlog.get_logger()) as database:
            with open_journal(tmp_path, max_bytes=MIB) as journal:
                writer, _ = make_writer(journal, Store(database))
                async with running(writer):
                    journal.append(ticks(1, 2))
                    await until(lambda: not journal.pending_bytes)
                    stop.set()
                    await gone.wait()
                    journal.append(ticks(3))
                    await until(lambda: writer.away is not None)
                    journal.append(ticks(4))
                    assert await servers.start(serve, prepared_path, last_stop, trio.Event()) == url
                    await until(lambda: not journal.pending_bytes)
                    assert writer.away is None
            assert await stored(database) == as_rows(1, 2, 3, 4)
        last_stop.set()


CRASHES = """
import os, signal, sys, trio, structlog
from itertools import chain
from pathlib import Path
from mdserver.journal.journal import open_journal
from mdserver.metrics import Metrics
from mdserver.model import Published, Tick, Topic
from mdserver.store.store import Store
from mdserver.store.open_database import open_database
from mdserver.store.live.journal_drain import JournalDrain

async def main(url, folder):
    log = structlog.get_logger()
    async with open_database(url, retry_for_s=5, migrate=False, log=log) as database:
        with open_journal(Path(folder), max_bytes=1 << 26) as journal:
            writer = JournalDrain(journal, Store(database), flush_s=0.005, flush_rows=100, metrics=Metrics(), log=log)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer.run)
                seq = 0
                while True:
                    seq += 1
                    tick = Tick("EURUSD", 1_710_918_000_000_000 + seq, 1.0 + seq, 2.0 + seq)
                    journal.append([Published(Topic("mock", "EURUSD", "tick"), seq, tick)])
                    os.write(1, b"%d\\n" % seq)  # a client has seen it
                    if seq % 10 == 0:
                        await trio.sleep(0.001)

trio.run(main, *sys.argv[1:])
"""


@pytest.mark.parametrize("seen_before_the_kill", [50, 1500])
async def test_kill_9_loses_nothing_that_was_seen(
    database: Database, database_url: str, tmp_path: Path, seen_before_the_kill: int
) -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", CRASHES, database_url, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    output = b""
    with trio.fail_after(60):
        while output.count(b"\n") < seen_before_the_kill:
            output += await process.stdout.receive_some()
        os.kill(process.pid, signal.SIGKILL)
        while chunk := await process.stdout.receive_some():
            output += chunk
        await process.wait()
    await process.stdout.aclose()
    seen = int(output[: output.rindex(b"\n")].split()[-1])
    already = len(await stored(database))
    with open_journal(tmp_path, max_bytes=64 * MIB) as journal:
        last = journal.last_records()[TOPIC].seq
        assert last >= seen
        async with running(make_writer(journal, Store(database))[0]):
            pass
        assert journal.pending_bytes == 0
    assert already <= last
    assert await stored(database) == as_rows(*range(1, last + 1))
    assert await candle_rows(database) == last


@pytest.mark.both_engines
async def test_a_journal_that_the_database_has_in_part_is_replayed_once(
    database: Database, tmp_path: Path
) -> None:
    store = Store(database)
    await store.write(ticks(*range(1, 8)))
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        for seq in range(1, 20):
            journal.append(ticks(seq))
        async with running(make_writer(journal, store)[0]):
            pass
    assert await stored(database) == as_rows(*range(1, 20))
    assert await candle_rows(database) == 19
    assert [file.name for file in tmp_path.iterdir()] == ["seq_floor"]


@pytest.mark.both_engines
async def test_what_cannot_be_stored_is_set_aside(database: Database, tmp_path: Path) -> None:
    bad = Published(TOPIC, 2, Tick("EURUSD", -5, 1.0, 2.0))
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        writer, metrics = make_writer(journal, Store(database))
        with capture_logs() as logs:
            async with running(writer):
                journal.append([*ticks(1), bad, *ticks(3)])
    assert await stored(database) == as_rows(1, 3)
    (line,) = (tmp_path / REJECTED_FILE).read_text().splitlines()
    told = json.loads(line)
    assert (told["seq"], told["topic"]) == (2, list(TOPIC))
    assert "time_us -5" in told["cause"]
    assert value(metrics, "records_rejected_total", broker="mock", reason="unstorable") == 1
    assert [log["event"] for log in logs] == ["records that the database refuses are set aside in a file"]


async def test_a_fault_of_ours_ends_the_writer(tmp_path: Path) -> None:
    class Broken(Fake):
        async def write(self, batch: Sequence[Published], set_aside: SetAside) -> Written:
            await trio.lowlevel.checkpoint()
            raise LookupError("a bug")

    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(ticks(1))
        writer, _ = make_writer(journal, Broken())
        with pytest.raises(LookupError):
            await writer.run()
        await writer.drain()  # does not hang
        assert journal.pending_bytes

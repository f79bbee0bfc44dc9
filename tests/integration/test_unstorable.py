"""Records that cannot be stored never keep the others from it, and are kept in a file: whatever goes wrong there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from mdserver.errors import StoreUnavailable
from mdserver.journal.journal import Journal, open_journal
from mdserver.metrics import Metrics
from mdserver.model import Gap, Published, Tick, Topic, Trade
from mdserver.store.connection.database import Database
from mdserver.store.live import journal_drain
from mdserver.store.live.culprit import CONFIRMED, find_culprit
from mdserver.store.live.journal_drain import REJECTED_FILE, JournalDrain
from mdserver.store.store import Store
from mdserver.stream.stored_past import After

MIB = 1 << 20
START_US = 1_710_918_000_000_000
TICKS = Topic("mock", "EURUSD", "tick")
TRADES = Topic("mock", "EURUSD", "trade")


def tick(seq: int, topic: Topic = TICKS, time_us: int | None = None) -> Published:
    return Published(topic, seq, Tick(topic.symbol, START_US + seq if time_us is None else time_us, 1.0, 2.0))


def trade(seq: int) -> Published:
    return Published(TRADES, seq, Trade("EURUSD", START_US + seq, 1.0, 2.0))


def long_symbol() -> Topic:
    """A symbol that an index cannot hold, however PostgreSQL compresses it."""
    return Topic("mock", "".join(hashlib.sha256(b"%d" % n).hexdigest() for n in range(80)).upper(), "tick")


async def seqs(database: Database) -> list[int]:
    rows = await database.run(lambda conn: conn.execute("select seq from ticks order by seq").fetchall())
    return [seq for (seq,) in rows]


async def gaps(database: Database) -> list[tuple[str, int, int, int | None]]:
    """The gaps of the ledger: cause, from, to, size."""
    found = await Store(database).gaps(0, 2 * START_US, limit=99)
    return [(one.cause, one.from_us - START_US, one.to_us - START_US, one.size) for one in found]


async def refuse(database: Database, table: str, when: str, what: str) -> None:
    """Have a trigger refuse some rows, as triggers, extensions and bugs of others do."""

    def work(conn: psycopg.Connection[Any]) -> None:
        conn.execute(
            f"""create function refuse() returns trigger language plpgsql as $$
                begin if {when} then {what} end if; return new; end $$""".encode()
        )
        conn.execute(
            f"create trigger refuse before insert on {table} for each row execute function refuse()".encode()
        )

    await database.run(work)


def set_aside_lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / REJECTED_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def draining(database: Database, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(journal_drain, "BACKOFF_S", (0.01, 0.05))
    metrics = Metrics()
    drain = JournalDrain(
        journal, Store(database), flush_s=0.01, flush_rows=1000, metrics=metrics, log=structlog.get_logger()
    )
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(drain.run)
        yield drain, metrics
        nursery.cancel_scope.cancel()


def retries(metrics: Metrics, cause: str) -> float:
    return metrics.registry.get_sample_value("mdserver_store_retries_total", {"cause": cause}) or 0.0


async def all_stored(journal: Journal) -> None:
    with trio.fail_after(60):
        while journal.pending_bytes:
            await trio.sleep(0.01)


@pytest.mark.both_engines
async def test_a_text_too_long_for_an_index_costs_its_record_only(database: Database) -> None:
    bad = tick(1, long_symbol())
    written = await Store(database).write([tick(1), bad, tick(2)])
    assert [one for one, _ in written.rejected] == [bad]
    assert await seqs(database) == [1, 2]


@pytest.mark.parametrize("when", ["check", "database"])
async def test_who_resumes_over_a_record_that_is_not_stored_gets_a_gap_in_its_place(
    database: Database, when: str
) -> None:
    store = Store(database)
    batch = [tick(1), tick(2, time_us=-5 if when == "check" else None), tick(3)]
    if when == "database":
        await refuse(database, "ticks", "new.seq = 2", "raise exception 'no' using errcode = '22000';")
    for _ in range(2):  # again, as after a commit whose answer was lost
        await store.write(
            [msgspec.structs.replace(batch[0], record=Gap(TICKS, START_US, None, "restart")), *batch]
        )
        (begin,) = (await store.replay_begins({TICKS: After(1)})).values()
        assert "the records 2 to 2 are not stored" in str(begin.missing)
        (series,) = await store.series()
        page = await store.replay_page(series, 0, 9, received=False)
        text = b"".join(page.pieces).decode(errors="ignore")
        assert [part.partition('"')[0] for part in text.split('"type":"')[1:]] == ["tick", "gap", "tick"]
        assert '"cause":"unstorable","size":1' in text
        (lasting,) = await store.lasting_gaps(2 * START_US, limit=9)
        assert lasting.cause == "restart", "it says nothing of the venue"


async def test_numbers_that_a_damaged_journal_lost_are_a_gap(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append([tick(1), tick(2)])
        begin = journal.end.offset
        journal.append([tick(3), tick(4)])
        journal.append([tick(5), tick(6)])
        with (tmp_path / "000000000001.journal").open("r+b") as file:
            file.seek(begin + 20)
            file.write(b"????")
        with capture_logs() as logs:
            async with draining(database, journal, monkeypatch):
                await all_stored(journal)
        assert await seqs(database) == [1, 2, 5, 6]
        assert await gaps(database) == [("lost", 2, 5, None)]
        assert [one["event"] for one in logs].count(
            "numbers of records are missing in the journal: they are a gap"
        ) == 1


@pytest.mark.parametrize(
    "what",
    [
        "raise exception 'out of order' using errcode = 'XX000';",
        "raise exception 'no' using errcode = '42501';",
        "perform pg_terminate_backend(pg_backend_pid());",
    ],
)
async def test_the_culprit_is_found_whatever_the_error_says(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    await refuse(database, "ticks", "new.seq in (7, 31)", what)
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        async with draining(database, journal, monkeypatch) as (drain, metrics):
            journal.append([tick(seq) for seq in range(1, 50)])
            await all_stored(journal)
            assert await seqs(database) == [seq for seq in range(1, 50) if seq not in (7, 31)]
            assert [line["seq"] for line in set_aside_lines(tmp_path)] == [7, 31]
            assert await gaps(database) == [("unstorable", 7, 7, 1), ("unstorable", 31, 31, 1)]
            assert drain.away is None
            labels = {"broker": "mock", "reason": "unstorable"}
            assert metrics.registry.get_sample_value("mdserver_records_rejected_total", labels) == 2


async def test_a_first_record_that_is_alone_waits_for_others_to_be_compared_with(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refuse(database, "ticks", "new.seq = 1", "raise exception 'no' using errcode = 'XX000';")
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        async with draining(database, journal, monkeypatch) as (drain, metrics):
            journal.append([tick(1)])
            with trio.fail_after(60):
                while (
                    metrics.registry.get_sample_value(
                        "mdserver_store_retries_total", {"cause": "unavailable"}
                    )
                    or 0
                ) < 12:
                    await trio.sleep(0.01)
            assert set_aside_lines(tmp_path) == []
            assert drain.away is not None
            journal.append([tick(2)])
            await all_stored(journal)
            assert await seqs(database) == [2]


async def test_a_table_that_refuses_everything_has_no_culprit(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right that is missing is the operator's to give: nothing is set aside for it."""
    await refuse(database, "trades", "true", "raise exception 'no' using errcode = '42501';")
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        async with draining(database, journal, monkeypatch) as (_, metrics):
            journal.append([tick(1), trade(1), tick(2), trade(2)])
            with trio.fail_after(60):
                while (
                    metrics.registry.get_sample_value(
                        "mdserver_store_retries_total", {"cause": "unavailable"}
                    )
                    or 0
                ) < 12:
                    await trio.sleep(0.01)
            assert set_aside_lines(tmp_path) == []
            await database.run(lambda conn: conn.execute("drop trigger refuse on trades"))
            await all_stored(journal)
    rows = await database.run(lambda conn: conn.execute("select count(*) from trades").fetchone())
    assert rows == (2,)


async def test_a_file_that_cannot_be_written_stops_storing_not_the_server(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the record was is not lost: it waits in the journal until there is space for it again."""
    blocked = tmp_path / REJECTED_FILE
    blocked.mkdir()
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        async with draining(database, journal, monkeypatch) as (drain, metrics):
            journal.append([tick(1), tick(2, time_us=-1), tick(3)])
            with trio.fail_after(60):
                while drain.away is None:
                    await trio.sleep(0.01)
            assert REJECTED_FILE in drain.away
            assert retries(metrics, "set_aside") > 0
            assert await seqs(database) == []
            blocked.rmdir()
            await all_stored(journal)
            assert await seqs(database) == [1, 3]
            (line,) = set_aside_lines(tmp_path)
            assert (line["seq"], "time_us -1" in line["cause"]) == (2, True)


async def test_a_fault_that_comes_and_goes_has_no_culprit() -> None:
    fates = iter([False, False, True, True] + [False, True] * CONFIRMED)

    async def try_write(batch: Sequence[Published]) -> None:
        await trio.lowlevel.checkpoint()
        if not next(fates, True):
            raise StoreUnavailable("flaps")

    records = [tick(1), tick(2), tick(3)]
    assert await find_culprit(records, try_write, records) is None

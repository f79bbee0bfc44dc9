"""Migrations and partitions on real databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from mdserver.errors import Rejected
from mdserver.store.tables import partitions
from mdserver.store.tables.migrations import (
    Engine,
    Migration,
    applied_engine,
    load_migrations,
    migrate,
    pending,
)
from mdserver.store.tables.partitions import ensure_ahead, ensure_partitions
from tests import timescaledb

Connection = psycopg.Connection[Any]
PLAIN = [migration.name for migration in load_migrations("plain")]


def us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000


def tables(conn: Connection) -> set[str]:
    return {
        name for (name,) in conn.execute("select tablename::text from pg_tables where schemaname = 'public'")
    }


def insert_tick(conn: Connection, time: str) -> None:
    conn.execute("insert into ticks (time, seq, bid, ask, series_id) values (%s, 1, 1.1, 1.2, 1)", [time])


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database_url) as conn:
        yield conn


@pytest.fixture
def migrated(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url) as conn:
        yield conn


def run_together(*works: Callable[[], Any]) -> list[Any]:
    """Run each in a thread; return what they return or raise, in order."""
    results: list[Any] = [None] * len(works)

    def run(index: int) -> None:
        try:
            results[index] = works[index]()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_every_file_once_in_order(empty: Connection) -> None:
    assert pending(empty) == PLAIN
    assert applied_engine(empty) is None
    assert migrate(empty) == PLAIN
    assert migrate(empty) == []
    assert pending(empty) == []
    assert applied_engine(empty) == "plain"
    assert tables(empty) == {
        *(
            "schema_migrations",
            "series",
            "candles",
            "ticks",
            "trades",
            "import_ledger",
            "dropped_indexes",
            "retention",
            "numbering",
            "gaps",
            "seq_times",
            "pushed_days",
            "lasting_gaps",
            "venue_candles",
            "side_hours",
            "leaders",
        ),
    }
    for view in ("market_ticks", "market_trades", "forex_candles_1m", "forex_candles_1d"):
        assert empty.execute(f"select * from {view}").fetchall() == []


def test_both_engines_have_the_same_numbers() -> None:
    numbers = [migration.number for migration in load_migrations("plain")]
    assert [migration.number for migration in load_migrations("timescaledb")] == numbers


def test_servers_that_start_at_once_apply_it_once(empty_database_url: str) -> None:
    def start() -> list[str]:
        with psycopg.connect(empty_database_url) as conn:
            return migrate(conn)

    results = run_together(*[start] * 4)
    assert sorted(results, key=repr) == sorted([PLAIN, [], [], []], key=repr)


def test_an_edited_file_is_refused_by_name(migrated: Connection) -> None:
    migrated.execute("update schema_migrations set sha256 = 'other' where number = 2")
    with pytest.raises(Rejected, match=r"0002_ticks_and_trades\.plain\.sql was changed after it was applied"):
        migrate(migrated)


def test_a_database_newer_than_the_code_is_refused(migrated: Connection) -> None:
    migrated.execute("insert into schema_migrations values (9999, '9999_future.sql', 'x')")
    with pytest.raises(Rejected, match=r"9999_future\.sql, newer than any"):
        migrate(migrated)
    with pytest.raises(Rejected):
        pending(migrated)


def test_a_failing_file_leaves_nothing(empty: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [
        *load_migrations("plain"),
        Migration(len(PLAIN) + 1, "9999_broken.sql", None, "create table x (); select nonsense"),
    ]
    monkeypatch.setattr("mdserver.store.tables.migrations.load_migrations", lambda engine: broken)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        migrate(empty)
    assert tables(empty) == set()


def test_without_the_right_to_create_tables(empty: Connection) -> None:
    empty.execute("drop role if exists weak")
    empty.execute("create role weak")
    empty.execute("revoke create on schema public from public")
    empty.execute("set role weak")
    with pytest.raises(Rejected, match="may not create the tables in database test_"):
        migrate(empty)
    empty.rollback()


@pytest.mark.parametrize("table", ["ticks", "trades"])
def test_partitions_cover_the_range_with_both_ends(migrated: Connection, table: str) -> None:
    ensure_partitions(migrated, table, us(2023, 11, 30, 23, 59, 59), us(2024, 2, 1))
    assert {name for name in tables(migrated) if name.startswith(f"{table}_")} == {
        f"{table}_y2023m11",
        f"{table}_y2023m12",
        f"{table}_y2024m01",
        f"{table}_y2024m02",
    }
    ensure_partitions(migrated, table, us(2023, 11, 30), us(2024, 2, 29))


def test_a_months_boundaries_are_utc_whatever_the_session_says(migrated: Connection) -> None:
    migrated.execute("set timezone to 'Asia/Tokyo'")
    ensure_partitions(migrated, "ticks", us(2024, 3, 1), us(2024, 3, 1))
    insert_tick(migrated, "2024-03-01 00:00:00+00")
    insert_tick(migrated, "2024-03-31 23:59:59.999999+00")
    assert migrated.execute("select count(*) from ticks_y2024m03").fetchone() == (2,)
    with pytest.raises(psycopg.errors.CheckViolation):
        insert_tick(migrated, "2024-04-01 00:00:00+00")


def test_times_before_1970(migrated: Connection) -> None:
    ensure_partitions(migrated, "ticks", -1, -1)
    assert "ticks_y1969m12" in tables(migrated)


def test_a_partition_rolled_back_is_made_again(migrated: Connection) -> None:
    with migrated.transaction(force_rollback=True):
        ensure_partitions(migrated, "ticks", us(2024, 3, 1), us(2024, 3, 1))
        ensure_partitions(migrated, "ticks", us(2024, 3, 1), us(2024, 3, 1))
    with migrated.transaction():
        ensure_partitions(migrated, "ticks", us(2024, 3, 1), us(2024, 3, 1))
        insert_tick(migrated, "2024-03-05 00:00:00+00")


def test_a_known_month_asks_nothing_of_the_server(
    migrated: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with migrated.transaction():
            ensure_partitions(migrated, "ticks", us(2024, 3, 1), us(2024, 3, 1))

    def fail(*args: Any) -> Any:
        raise AssertionError("asked")

    monkeypatch.setattr(partitions, "_absent", fail)
    ensure_partitions(migrated, "ticks", us(2024, 3, 1), us(2024, 3, 31))


def test_several_processes_make_the_same_months(database_url: str) -> None:
    barrier = threading.Barrier(4)

    def write(seq: int) -> None:
        with psycopg.connect(database_url) as conn:
            barrier.wait()
            ensure_partitions(conn, "ticks", us(2024, 1, 1), us(2024, 6, 1))
            conn.execute(
                "insert into ticks (time, seq, bid, ask, series_id) values ('2024-05-05Z', %s, 1, 1, 1)",
                [seq],
            )

    assert run_together(*[lambda seq=seq: write(seq) for seq in range(4)]) == [None] * 4


def test_making_a_month_does_not_wait_for_readers_and_writers(database_url: str) -> None:
    with psycopg.connect(database_url) as reader, psycopg.connect(database_url) as writer:
        ensure_partitions(reader, "ticks", us(2024, 1, 1), us(2024, 1, 1))
        reader.commit()
        insert_tick(reader, "2024-01-01Z")
        reader.execute("select * from ticks").fetchall()
        writer.execute("set lock_timeout = '2s'")
        ensure_partitions(writer, "ticks", us(2024, 2, 1), us(2024, 2, 1))
        writer.commit()


def test_ahead_is_this_and_the_next_month(migrated: Connection) -> None:
    ensure_ahead(migrated)
    now = datetime.now(UTC)
    assert len([name for name in tables(migrated) if name.startswith("ticks_")]) == 2
    insert_tick(migrated, now.isoformat())


def test_a_table_that_is_not_partitioned_needs_nothing(migrated: Connection) -> None:
    ensure_partitions(migrated, "candles", us(2024, 1, 1), us(2024, 1, 1))
    ensure_partitions(migrated, "candles", us(2024, 1, 1), us(2024, 1, 1))
    assert not any(name.startswith("candles_") for name in tables(migrated))


def test_the_wheels_postgresql_takes_the_schema(wheel_postgres_url: str) -> None:
    with psycopg.connect(wheel_postgres_url, autocommit=True) as conn:
        conn.execute("create database empty")
    with psycopg.connect(make_conninfo(wheel_postgres_url, dbname="empty")) as conn:
        assert migrate(conn) == PLAIN
        ensure_ahead(conn)
        conn.rollback()


@pytest.mark.both_engines
def test_a_database_of_an_older_version_keeps_its_rows(database_url: str, engine: Engine) -> None:
    """The first three files are those of the first version; a tick from then is there after the rest."""
    with psycopg.connect(database_url) as conn:
        if engine == "timescaledb":
            timescaledb.reset(conn)
        else:
            conn.execute("drop schema public cascade; create schema public")
        old = load_migrations(engine)[:3]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mdserver.store.tables.migrations.load_migrations", lambda engine: old)
            assert migrate(conn) == [migration.name for migration in old]
        ensure_partitions(conn, "ticks", us(2024, 3, 1), us(2024, 3, 1))
        insert_tick(conn, "2024-03-05 00:00:00+00")
        assert migrate(conn) == [migration.name for migration in load_migrations(engine)[3:]]
        assert conn.execute("select seq, bid from ticks").fetchall() == [(1, 1.1)]


@pytest.mark.both_engines
def test_the_time_of_receipt_comes_to_a_database_with_records(database_url: str, engine: Engine) -> None:
    """From the version before it, with compressed chunks: at once, since no row is rewritten."""
    with psycopg.connect(database_url) as conn:
        if engine == "timescaledb":
            timescaledb.reset(conn)
        else:
            conn.execute("drop schema public cascade; create schema public")
        old = load_migrations(engine)[:7]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mdserver.store.tables.migrations.load_migrations", lambda engine: old)
            migrate(conn)
        conn.execute("insert into series (broker, symbol, type, last_seq) values ('b', 'EURUSD', 'tick', 1)")
        ensure_partitions(conn, "ticks", us(2024, 3, 1), us(2024, 3, 1))
        insert_tick(conn, "2024-03-05 00:00:00+00")
        if engine == "timescaledb":
            conn.execute("select compress_chunk(c) from show_chunks('ticks') c")
        before = conn.execute(FILES).fetchall()
        assert "0008_received.sql" in migrate(conn)
        assert conn.execute(FILES).fetchall() == before, "no table of records was rewritten"
        assert conn.execute("select seq, bid, received from ticks").fetchall() == [(1, 1.1, None)]
        # where the records of that time lie is found out once
        spans = "select block, hour, first = last, first = '2024-03-05 00:00:00+00' from seq_times"
        assert conn.execute(spans).fetchall() == [(0, 474_888, True, True)]
        assert conn.execute("select symbol, type, variant, last_seq from series").fetchall() == [
            ("EURUSD", "tick", "", 1)
        ]
        conn.execute(
            """insert into ticks (time, seq, bid, ask, series_id, received)
               values ('2024-03-05 00:00:01+00', 2, 1, 1, 1, '2024-03-05 00:00:02+00')"""
        )
        assert conn.execute("select count(received) from ticks").fetchone() == (1,)
        conn.rollback() if engine == "plain" else conn.commit()


@pytest.mark.both_engines
def test_gaps_of_before_are_placed_by_time(engine: Engine, database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        if engine == "timescaledb":
            timescaledb.reset(conn)
        else:
            conn.execute("drop schema public cascade; create schema public")
        old = load_migrations(engine)[:11]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mdserver.store.tables.migrations.load_migrations", lambda engine: old)
            migrate(conn)
        conn.execute("insert into series (broker, symbol, type, last_seq) values ('b', 'EURUSD', 'tick', 2)")
        ensure_partitions(conn, "ticks", us(2024, 3, 1), us(2024, 3, 1))
        conn.execute(
            """insert into ticks (time, seq, bid, ask, series_id) values
               ('2024-03-05 00:00:01', 1, 1, 1, 1), ('2024-03-05 00:00:05', 2, 1, 1, 1),
               ('2024-03-05 00:00:03', -1000000, 1, 1, 1)"""
        )
        conn.execute(
            """insert into gaps (series_id, from_time, to_time, cause) values
               (1, '2024-03-04', '2024-03-05', 'a'), (1, '2024-03-05 00:00:01', '2024-03-05 00:00:05', 'b'),
               (1, '2024-03-05 00:00:04', '2024-03-05 00:00:05', 'c')"""
        )
        assert migrate(conn)[0] == "0012_gap_seq.sql"
        assert conn.execute("select cause, seq from gaps order by cause").fetchall() == [
            ("a", 0),
            ("b", 1),
            ("c", 1),
        ]
        conn.rollback() if engine == "plain" else conn.commit()


FILES = """select c.oid::regclass::text, pg_relation_filenode(c.oid) from pg_class c
    where c.oid::regclass::text ~ 'ticks|trades|_hyper_' and c.relkind = 'r' order by 1"""

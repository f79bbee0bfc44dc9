"""Sessions of a database that others administer: settings, poolers, fail-over, a server that is frozen or read-only."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
import trio
from psycopg import sql
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from mdserver.errors import Rejected, StoreUnavailable
from mdserver.model import Published, Tick, Topic
from mdserver.store import store as store_module
from mdserver.store.embedded.server import open_embedded
from mdserver.store.open_database import open_database
from mdserver.store.store import Store
from mdserver.store.tables.recreate_indexes import recreate
from mdserver.store.tables.secondary_indexes import drop_secondary
from mdserver.store.upkeep.integrity import check
from mdserver.store.upkeep.retention import drop_old
from tests.integration.clusters import Switch, frozen, let_everybody_in, running_pgbouncer

LOG = structlog.get_logger()
TOPIC = Topic("mock", "EURUSD", "tick")
WIDE = Topic("mock", "币安人生USDT", "tick")


def us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000


def ticks(*seqs: int, topic: Topic = TOPIC, bid: float = 1.087_035_123_456_7) -> list[Published]:
    start = us(2024, 3, 20)
    return [Published(topic, seq, Tick(topic.symbol, start + seq, bid, bid + 1)) for seq in seqs]


def execute(query: str) -> Callable[[psycopg.Connection[Any]], Any]:
    return lambda conn: conn.execute(query).fetchone()


def alter(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        name = sql.Identifier(conn.info.dbname)
        for statement in statements:
            conn.execute(sql.SQL(statement).format(name))


def pause_between_statements(conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pg_sleep(0.05)")
    time.sleep(0.05)
    conn.execute("select 1")


HOSTILE = {
    "datestyle": "'German, DMY'",
    "intervalstyle": "'iso_8601'",
    "timezone": "'Asia/Kathmandu'",
    "extra_float_digits": "-15",
    "bytea_output": "'escape'",
    "standard_conforming_strings": "off",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'20ms'",
    "statement_timeout": "'20ms'",
    "default_transaction_isolation": "'serializable'",
    "synchronous_commit": "off",
    "client_encoding": "'LATIN1'",
}


async def test_settings_of_the_database_decide_nothing(empty_database_url: str) -> None:
    alter(
        empty_database_url, *(f"alter database {{}} set {name} = {value}" for name, value in HOSTILE.items())
    )
    async with open_database(empty_database_url, retry_for_s=0, log=LOG) as database:
        for name, value in [
            ("datestyle", "ISO, YMD"),
            ("intervalstyle", "postgres"),
            ("timezone", "UTC"),
            ("extra_float_digits", "1"),
            ("bytea_output", "hex"),
            ("standard_conforming_strings", "on"),
            ("lock_timeout", "0"),
            ("statement_timeout", "30s"),
            ("transaction_isolation", "read committed"),
            ("synchronous_commit", "on"),
            ("client_encoding", "UTF8"),
        ]:
            assert await database.run(execute(f"show {name}")) == (value,), name
        await database.run(pause_between_statements)
        store = Store(database)
        await store.write(ticks(1, 2) + ticks(1, topic=WIDE))
        assert {one.symbol for one in await store.series()} == {"EURUSD", "币安人生USDT"}
        assert [report.findings for report in await check(database)] == [[], []]
        kept = await drop_old(database, 30, now=datetime(2024, 6, 1, tzinfo=UTC))
        assert [one.name for one in kept.dropped] == ["ticks_y2024m03"]


async def test_a_database_without_an_encoding(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(
            "create database ascii encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'"
        )
    try:
        async with open_database(
            make_conninfo(postgres_url, dbname="ascii"), retry_for_s=0, log=LOG
        ) as database:
            store = Store(database)
            await store.write(ticks(1) + ticks(1, topic=WIDE))
            assert {one.symbol for one in await store.series()} == {"EURUSD", "币安人生USDT"}
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as conn:
            conn.execute("drop database ascii with (force)")


async def test_through_pgbouncer_in_transaction_mode(reachable_path: Path) -> None:
    """Sessions are shared: with settings of other clients, and with no place for prepared statements."""
    pooler = reachable_path / "pgbouncer"
    pooler.mkdir()
    async with open_embedded(reachable_path, log=LOG) as server:
        let_everybody_in(reachable_path, server)
        alter(server, "alter database {} set datestyle = 'German, DMY'")
        with running_pgbouncer(server, pooler) as url, capture_logs() as logs:
            await _work_through_a_pooler(url)
    assert any("pooler" in line["event"] for line in logs)


async def _work_through_a_pooler(url: str) -> None:
    async with open_database(url, retry_for_s=5, log=LOG) as database:
        assert database.pooled
        store = Store(database)
        for first in range(1, 400, 20):
            await store.write(ticks(*range(first, first + 20)))
        refused: list[StoreUnavailable] = []

        async def read() -> None:
            try:
                (series,) = await store.series("EURUSD")
                page = await store.records(series.id, "tick", 0, us(2025, 1, 1), limit=1000)
                assert len(page.seq) == 400
                assert (
                    await store.candles(
                        series.id, 60, us(2024, 3, 20) // 1_000_000, us(2024, 3, 21) // 1_000_000
                    )
                ).count == [400]
                assert await database.run(execute("show datestyle")) == ("ISO, YMD",)
                assert await database.run(execute("show statement_timeout")) == ("30s",)
            except StoreUnavailable as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(read)
        assert refused == []
        for of_a_session in (drop_secondary, recreate):
            with pytest.raises(Rejected, match="which the pooler does not provide"):
                await of_a_session(database)
        assert [report.findings for report in await check(database)] == [[]]
        kept = await drop_old(database, 30, now=datetime(2024, 6, 1, tzinfo=UTC))
        assert [one.rows for one in kept.dropped] == [400]
    with psycopg.connect(url) as other:  # nothing of ours is left in what others get
        assert other.execute("show statement_timeout").fetchone() == ("0",)


async def test_a_direct_connection_is_no_pooler(database_url: str) -> None:
    async with open_database(database_url, retry_for_s=0, log=LOG) as database:
        assert not database.pooled
    async with open_database(database_url, retry_for_s=0, log=LOG, pooler="transaction") as database:
        assert database.pooled
        assert await database.run(execute("show timezone")) == ("UTC",)


async def test_after_a_fail_over_no_connection_to_the_old_primary_is_kept(
    database_url: str, reachable_path: Path
) -> None:
    async with open_embedded(reachable_path, log=LOG) as old, Switch.open(old) as switch:
        address = make_conninfo(old, host="127.0.0.1", port=switch.port)
        new = psycopg.conninfo.conninfo_to_dict(database_url)
        with psycopg.connect(old, autocommit=True) as conn:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(new["dbname"])))
        address = make_conninfo(address, dbname=new["dbname"])
        async with open_database(address, retry_for_s=0, log=LOG) as database:
            store = Store(database)
            async with trio.open_nursery() as nursery:  # several connections
                for _ in range(4):
                    nursery.start_soon(database.run, execute("select pg_sleep(0.3)"))
            await store.write(ticks(1))
            async with open_database(database_url, retry_for_s=0, log=LOG) as replica:
                await Store(replica).write(ticks(1))
            switch.point_to(database_url)
            with psycopg.connect(old, autocommit=True) as conn:
                conn.execute("alter system set default_transaction_read_only = on")
                conn.execute("select pg_reload_conf()")
            with psycopg.connect(old) as conn:  # until the old server has read its settings again
                while conn.execute("show default_transaction_read_only").fetchone() != ("on",):
                    await trio.sleep(0.01)
            with pytest.raises(StoreUnavailable, match="read-only"):
                await store.write(ticks(2))
            with trio.fail_after(60):
                written = await store.write(ticks(1, 2, 3))
            assert (written.rows, written.skipped) == (2, 1)
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(_assert_writable, database)


async def _assert_writable(database: Any) -> None:
    assert await database.run(execute("select current_setting('transaction_read_only'), pg_sleep(0.2)")) == (
        "off",
        "",
    )


async def test_a_frozen_database_costs_a_reader_its_deadline_no_more(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_module.READ_S + 2 < 10
    monkeypatch.setattr(store_module, "READ_S", 1.0)
    async with open_embedded(reachable_path, log=LOG) as url:
        async with open_database(url, retry_for_s=0, log=LOG) as database:
            store = Store(database)
            await store.write(ticks(1))
            took: list[float] = []

            async def read() -> None:
                began = trio.current_time()
                with pytest.raises(StoreUnavailable, match=r"no answer within 1 s|no connection|no turn"):
                    await store.series()
                took.append(trio.current_time() - began)

            with frozen(reachable_path):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(read)
            assert max(took) < 15
            with trio.fail_after(60):
                while True:
                    try:
                        assert len(await store.series()) == 1
                        break
                    except StoreUnavailable:
                        await trio.sleep(0.1)


async def test_a_read_only_database_is_waited_for_then_named(database_url: str) -> None:
    alter(database_url, "alter database {} set default_transaction_read_only = on")
    with capture_logs() as logs:
        with pytest.raises(StoreUnavailable, match="default_transaction_read_only is on") as caught:
            async with open_database(database_url, retry_for_s=0.5, log=LOG):
                pass
    assert "\n" not in str(caught.value)
    assert any(line["event"] == "waiting for the database" for line in logs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_open, database_url)
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute("set default_transaction_read_only = off")
            conn.execute(
                sql.SQL("alter database {} reset default_transaction_read_only").format(
                    sql.Identifier(conn.info.dbname)
                )
            )


async def _open(url: str) -> None:
    async with open_database(url, retry_for_s=20, log=LOG):
        pass

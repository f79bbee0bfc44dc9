"""What goes wrong in housekeeping is reported, counted and tried again; it ends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
import trio
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from mdserver.config import DatabaseConfig
from mdserver.metrics import Metrics
from mdserver.store.connection.database import Database
from mdserver.store.embedded.server import open_embedded
from mdserver.store.open_database import open_database
from mdserver.store.store import Store
from mdserver.store.tables import partitions
from mdserver.store.upkeep import signs_of_life
from mdserver.store.upkeep.housekeeping import Housekeeping
from mdserver.store.upkeep.signs_of_life import SignsOfLife
from tests.integration.clusters import frozen
from tests.integration.test_retention import rows, store

__all__ = ["store"]  # a fixture


async def execute(database: Database, statement: str) -> None:
    await database.run(lambda conn: conn.execute(statement.encode()))


def failures(metrics: Metrics, step: str) -> float:
    return metrics.registry.get_sample_value("mdserver_housekeeping_failures_total", {"step": step}) or 0.0


async def test_a_view_on_an_old_partition_is_reported_and_the_rest_is_done(
    store: Store, database: Database
) -> None:
    await execute(database, "create view mine as select * from ticks_y2024m01")
    metrics = Metrics()
    housekeeping = Housekeeping(database, DatabaseConfig(retention_days=30), metrics, structlog.get_logger())
    with capture_logs() as logs:
        await housekeeping.once()
    assert failures(metrics, "retention") == 1
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert "ticks_y2024m01" in line["error"]
    assert "mine" in line["error"]
    assert await rows(database, "select count(*) from trades") == [(0,)]
    await execute(database, "drop view mine")
    await housekeeping.once()
    assert await rows(database, "select count(*) from ticks") == [(0,)]


async def test_a_role_that_owns_nothing_at_the_turn_of_a_month(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        for (name,) in conn.execute(
            "select relname from pg_class where relname ~ '^(ticks|trades)_y' and relkind = 'r'"
        ).fetchall():
            conn.execute(f"drop table {name}".encode())
        conn.execute(
            "do $$ begin create role writer login; exception when duplicate_object then null; end $$"
        )
        conn.execute("grant select, insert, update, delete on all tables in schema public to writer")
        conn.execute("revoke create on schema public from public")
    partitions.forget_all_partitions()
    metrics = Metrics()
    as_writer = make_conninfo(database_url, options="-crole=writer")
    log = structlog.get_logger()
    async with open_database(as_writer, retry_for_s=0, migrate=False, log=log) as database:
        housekeeping = Housekeeping(database, DatabaseConfig(), metrics, log)
        await housekeeping.once()
        assert failures(metrics, "partitions") == 1
        assert (failures(metrics, "retention"), failures(metrics, "compression")) == (0, 0)
        assert len(await Store(database).series()) == 0  # reading goes on


async def test_a_database_that_becomes_read_only(store: Store, database: Database, database_url: str) -> None:
    def read_only(conn: psycopg.Connection[Any]) -> None:
        name = psycopg.sql.Identifier(conn.info.dbname)
        conn.execute(psycopg.sql.SQL("alter database {} set default_transaction_read_only = on").format(name))

    await database.run(read_only)
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            """select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()"""
        )
    metrics = Metrics()
    settings = DatabaseConfig(retention_days=30)
    with capture_logs() as logs:
        await Housekeeping(database, settings, metrics, structlog.get_logger()).once()
    assert failures(metrics, "retention") >= 1
    assert all("read-only" in line["error"] for line in logs if line["log_level"] == "warning")


async def test_a_frozen_database_is_known_without_a_reader(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs_of_life, "WITHIN_S", 0.3)
    log = structlog.get_logger()
    async with open_embedded(reachable_path, log=log) as url:
        async with open_database(url, retry_for_s=0, log=log) as database:
            signs = SignsOfLife(database, log)
            await signs.check()
            assert signs.away is None
            with frozen(reachable_path), capture_logs() as logs:
                await signs.check()
                await signs.check()
                assert signs.away is not None
                assert "no answer within 0.3 s" in signs.away
            assert [line["event"] for line in logs if "database" in line["event"]] == [
                "the database does not answer"
            ]
            with trio.fail_after(60):
                while signs.away is not None:
                    await signs.check()

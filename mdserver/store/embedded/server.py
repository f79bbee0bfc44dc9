"""Run a PostgreSQL of our own below the data folder: set up at the first start, reached by a unix socket only.

The server is a child process in a session of its own: Ctrl-C at the terminal reaches the daemon alone, which can then
still write. A PostgreSQL that a killed daemon left running is taken over, or stopped and started anew.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import psycopg
import structlog
import trio
from psycopg import sql

from ...backoff import Backoff
from ...data_folder_lock import lock_data_folder
from ...errors import ConfigError, DataFolderInUse, StoreUnavailable
from ...os_errors import explain
from .access import restrict_access
from .data_folder import Place, is_postmaster, prepare_place, read_pid_file
from .postmaster import NAME, POLL_S, START_S, Postmaster, start_postmaster, stop_postmaster
from .programs import Binaries, Choice, choose_binaries
from .run_as import account_without_name

__all__ = ["attach_embedded", "open_embedded"]

RESTART_S = (0.5, 30.0)
"""The first and the longest pause before a PostgreSQL that ended by itself is started again."""

ATTACH_POLL_S = 0.2
"""How often a server that another process is starting is polled."""


SETTINGS = f"""
# Settings of mdserver for a store of ticks: yours to change, this file is not written again.
max_connections = 50
shared_buffers = 256MB
max_wal_size = 2GB
checkpoint_timeout = 15min
# no log for replicas and pg_basebackup: rows loaded into a new table are then written once, not twice
wal_level = minimal
max_wal_senders = 0
jit = off
# parallel workers share memory in /dev/shm, which is small in containers; no query of ours gains by them
max_parallel_workers_per_gather = 0
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
cluster_name = '{NAME}'
"""


@asynccontextmanager
async def open_embedded(
    data_dir: Path, *, binaries: Choice = "auto", log: structlog.stdlib.BoundLogger
) -> AsyncIterator[str]:
    """Run a PostgreSQL in ``data_dir/postgres`` until the end of the block; yield its conninfo.

    If we are root, it runs as the account ``postgres``, else ``nobody``. At the end it is stopped, also when
    cancelled, within ``FAST_STOP_S + IMMEDIATE_STOP_S``.

    Raises :class:`ConfigError` for what the operator must change (no PostgreSQL, an unusable folder, a cluster of
    another version), :class:`DataFolderInUse`, and :class:`StoreUnavailable` if it does not start.
    """
    place = await trio.to_thread.run_sync(prepare_place, data_dir)
    with lock_data_folder(place.folder):
        server = await _take_over(place, log)
        if server is None:
            server = await start_postmaster(place, await _prepare(place, binaries, log), log)
        running = [server]
        problem: Exception | None = None
        try:
            try:
                conninfo = await trio.to_thread.run_sync(_ensure_database, server)
            except psycopg.Error as error:
                raise StoreUnavailable(
                    f"PostgreSQL has started but cannot be used: {place.without_disk_trouble(str(error))}"
                ) from error
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep_running, running, binaries, log)
                try:
                    yield conninfo
                except Exception as error:  # noqa: BLE001 - raised below, so that the nursery does not wrap it
                    problem = error
                nursery.cancel_scope.cancel()
        finally:
            await stop_postmaster(running[0], log)  # noqa: ASYNC102 - shields itself, with a deadline
        if problem is not None:
            raise problem


@asynccontextmanager
async def attach_embedded(
    data_dir: Path, *, binaries: Choice = "auto", log: structlog.stdlib.BoundLogger
) -> AsyncIterator[str]:
    """Yield the conninfo of the PostgreSQL in ``data_dir/postgres``: the running daemon's, else one that we start.

    So a command can work beside the daemon. It does not stop the daemon's server at the end; when the daemon stops
    it, connections break. Raises as :func:`open_embedded` does, and :class:`StoreUnavailable` if the daemon's server
    is not ready within ``START_S``.
    """
    async with AsyncExitStack() as stack:
        try:
            conninfo = await stack.enter_async_context(open_embedded(data_dir, binaries=binaries, log=log))
        except DataFolderInUse:
            conninfo = await _running_conninfo(data_dir, log)
        yield conninfo


async def _running_conninfo(data_dir: Path, log: structlog.stdlib.BoundLogger) -> str:
    """Return the conninfo of a server that another mdserver process runs, once it is ready."""
    place = await trio.to_thread.run_sync(prepare_place, data_dir)
    with trio.move_on_after(START_S):
        while True:
            found = read_pid_file(place)
            if found is not None and found.status == "ready" and is_postmaster(place, found.pid):
                server = Postmaster(place, found.pid, found.socket_folder)
                try:
                    conninfo = await trio.to_thread.run_sync(_ensure_database, server)
                except psycopg.Error as error:
                    log.debug("the running PostgreSQL does not answer yet", error=str(error))
                else:
                    log.info("using the PostgreSQL of the running server", pid=found.pid)
                    return conninfo
            await trio.sleep(ATTACH_POLL_S)
    raise StoreUnavailable(
        f"the PostgreSQL of the server that uses {data_dir} is not ready after {START_S:.0f} s"
    )


async def _keep_running(running: list[Postmaster], choice: Choice, log: structlog.stdlib.BoundLogger) -> None:
    """Restart the server whenever it ends by itself (out of memory, killed). Never returns.

    ``running`` holds the current one. The socket keeps its path, so the pool reconnects by itself.
    """
    while True:
        server = running[0]
        await server.wait()
        log.error("PostgreSQL has ended by itself; it is started again", pid=server.pid)
        backoff = Backoff(*RESTART_S)
        while running[0] is server:
            pause_s = backoff.next_s()
            await trio.sleep(pause_s)
            try:
                found = await _prepare(server.place, choice, log)
                running[0] = await start_postmaster(server.place, found, log, server.socket_folder)
            except (StoreUnavailable, ConfigError, OSError) as error:
                why = explain(error) if isinstance(error, OSError) else str(error)
                log.error("PostgreSQL does not start", error=why, waited_s=round(pause_s, 1))


async def _prepare(place: Place, choice: Choice, log: structlog.stdlib.BoundLogger) -> Binaries:
    """Choose the binaries and create the cluster if there is none."""

    def choose() -> Binaries:
        return choose_binaries(
            choice, account=place.account, copies=place.copies, cluster_major=place.major()
        )

    found = await trio.to_thread.run_sync(choose)
    if place.major() is None:
        log.info(
            "creating the database folder (first start, about 2 s)",
            version=found.text,
            folder=str(place.cluster),
        )
        await _init_cluster(place, found)
    if not await trio.to_thread.run_sync(restrict_access, place) and place.account.is_other:
        log.info(
            "pg_hba.conf was edited and is left as it is: other processes of the database's account may connect",
            file=str(place.cluster / "pg_hba.conf"),
            account=str(place.account),
        )
    return found


async def _init_cluster(place: Place, binaries: Binaries) -> None:
    """Create the cluster in a sibling folder and rename it, so that a cluster with this name is always complete."""
    for stale in place.folder.glob("cluster.new-*"):
        await trio.to_thread.run_sync(shutil.rmtree, stale)
    new = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=place.folder))
    place.account.own(new)
    command: list[str | Path] = [binaries.folder / "initdb", "-D", new, "-U", NAME, "-A", "trust"]
    options = place.account.spawn
    with tempfile.TemporaryDirectory(prefix="names-", dir=place.folder) as names:
        options["env"] |= account_without_name(Path(names))
        result = await trio.run_process(
            [*command, "-E", "UTF8", "--locale=C", "--no-instructions"],
            check=False,
            capture_stdout=True,
            capture_stderr=True,
            start_new_session=True,
            **options,
        )
    if result.returncode != 0:
        text = place.without_disk_trouble(result.stderr.decode(errors="replace").strip())
        await trio.to_thread.run_sync(partial(shutil.rmtree, new, ignore_errors=True))
        raise StoreUnavailable(f"initdb of PostgreSQL {binaries.text} failed as {place.account}: {text}")
    await trio.to_thread.run_sync(place.finish_cluster, new, SETTINGS)


async def _take_over(place: Place, log: structlog.stdlib.BoundLogger) -> Postmaster | None:
    """Take over a server that runs on our cluster, or stop it if it does not answer; return None if none runs now."""
    found = read_pid_file(place)
    if found is None or not is_postmaster(place, found.pid):
        return None
    if not place.is_own_socket_folder(found.socket_folder):
        # The operator started it by hand, perhaps for a dump: do not stop it, its socket folder may hold other files.
        raise DataFolderInUse(
            f"a PostgreSQL that was not started by mdserver runs on {place.cluster} (process {found.pid}, socket in "
            f"{found.socket_folder}): stop it first, with pg_ctl stop"
        )
    server = Postmaster(place, found.pid, found.socket_folder)
    log.info("found a PostgreSQL that an earlier run left running", pid=found.pid, status=found.status)
    with trio.move_on_after(START_S):
        while found.status == "starting" and is_postmaster(place, server.pid):
            await trio.sleep(POLL_S)
            found = read_pid_file(place) or found
    if found.status == "ready":
        try:
            await trio.to_thread.run_sync(_ensure_database, server)
        except psycopg.Error as error:
            log.warning(
                "the PostgreSQL of an earlier run does not answer; it is stopped and started anew",
                pid=server.pid,
                error=str(error),
            )
        else:
            log.info("took over the PostgreSQL of an earlier run", pid=server.pid, psql=server.psql)
            return server
    await stop_postmaster(server, log)
    if is_postmaster(place, server.pid):
        raise StoreUnavailable(
            f"a PostgreSQL that an earlier run left running (process {server.pid}) neither answers nor stops: end it "
            f"and start again; its log is {place.log_file}"
        )
    return None


def _ensure_database(server: Postmaster) -> str:
    """Create our database if there is none; return its conninfo. Blocking. Raises psycopg.Error."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as conn:
        folder = conn.execute("show data_directory").fetchone()
        if folder is None or Path(folder[0]).resolve() != server.place.cluster:
            raise psycopg.OperationalError(
                f"the server on {server.socket_folder} has the data folder {folder}, expected {server.place.cluster}"
            )
        if conn.execute("select from pg_database where datname = %s", [NAME]).fetchone() is None:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(NAME)))
    return server.conninfo(NAME)

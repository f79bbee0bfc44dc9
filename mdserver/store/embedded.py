"""A PostgreSQL of our own below the data folder: prepared at the first start, reached by a unix socket only.

The server is an ordinary child process in a session of its own, so that Ctrl-C at the terminal reaches the daemon
alone and the daemon can still write. One that a killed daemon left behind is adopted, or stopped and started anew.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import structlog
import trio
from attrs import define
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from mdserver.errors import StoreUnavailable
from mdserver.lock import lock_data_folder
from mdserver.store.binaries import Binaries, Choice, choose_binaries
from mdserver.store.cluster import (
    PORT,
    Place,
    disarm_pid_file,
    is_postmaster,
    prepare_place,
    read_pid_file,
)

__all__ = ["open_embedded"]

NAME = "mdserver"
"""Of the superuser and of the database."""

START_S = 300.0
"""How long a start may take: after a crash the write-ahead log (up to max_wal_size) is replayed first."""

SAY_S = 5.0
"""How often a start that takes long is logged."""

POLL_S = 0.01
FAST_STOP_S = 6.0
"""Fast shutdown writes a checkpoint; the daemon as a whole stops within 10 s."""

IMMEDIATE_STOP_S = 2.0
"""Immediate shutdown leaves recovery to the next start."""

SETTINGS = f"""
# Settings of mdserver for a store of ticks: yours to change, this file is not written again.
max_connections = 50
shared_buffers = 256MB
max_wal_size = 2GB
checkpoint_timeout = 15min
wal_compression = on
jit = off
# parallel workers share memory in /dev/shm, which is small in containers; no query of ours gains by them
max_parallel_workers_per_gather = 0
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
cluster_name = '{NAME}'
"""

# Where the operator's environment sets one of these for other databases, an explicit value goes before it.
_NEUTRAL = {
    "hostaddr": "",
    "options": "",
    "client_encoding": "",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "gssencmode": "disable",
    "channel_binding": "prefer",
    "require_auth": "",
    "requirepeer": "",
    "target_session_attrs": "any",
    "load_balance_hosts": "disable",
}


@define
class _Server:
    """A running server; ``process`` is None for one that we adopted, which is not our child."""

    place: Place
    pid: int
    socket_folder: Path
    process: trio.Process | None = None

    def conninfo(self, dbname: str) -> str:
        given = {
            option.keyword.decode()
            for option in pq.Conninfo.get_defaults()
            if option.envvar is not None and option.envvar.decode() in os.environ
        }
        neutral = {name: value for name, value in _NEUTRAL.items() if name in given}
        return make_conninfo(
            host=str(self.socket_folder), port=PORT, user=NAME, dbname=dbname, connect_timeout=10, **neutral
        )

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
        elif is_postmaster(self.place, self.pid):
            os.kill(self.pid, number)

    async def wait(self) -> None:
        """Return when the server is gone."""
        if self.process is not None:
            await self.process.wait()
        # an adopted one is not our child: nobody tells us when it ends
        while is_postmaster(self.place, self.pid):  # noqa: ASYNC110
            await trio.sleep(POLL_S)


@asynccontextmanager
async def open_embedded(
    data_dir: Path, *, binaries: Choice = "auto", log: structlog.stdlib.BoundLogger
) -> AsyncIterator[str]:
    """Run a PostgreSQL in ``data_dir/postgres`` for as long as the context is open; yield its conninfo.

    As root the server runs as the account ``postgres``, else ``nobody``. At the end it is stopped, within
    ``FAST_STOP_S + IMMEDIATE_STOP_S``, also when cancelled.

    Raises :class:`ConfigError` for what the operator must change (no PostgreSQL, a folder that cannot be used, a
    cluster of another version), :class:`DataFolderInUse`, and :class:`StoreUnavailable` if it does not start.
    """
    place = await trio.to_thread.run_sync(prepare_place, data_dir)
    with lock_data_folder(place.folder):
        server = await _adopt(place, log)
        if server is None:
            server = await _start(place, await _prepare(place, binaries, log), log)
        try:
            try:
                conninfo = await trio.to_thread.run_sync(_ensure_database, server)
            except psycopg.Error as error:
                raise StoreUnavailable(f"PostgreSQL has started but does not serve: {error}") from error
            yield conninfo
        finally:
            await _stop(server, log)


async def _prepare(place: Place, choice: Choice, log: structlog.stdlib.BoundLogger) -> Binaries:
    """Choose the binaries and make the cluster if there is none."""

    def choose() -> Binaries:
        return choose_binaries(
            choice, account=place.account, copies=place.copies, cluster_major=place.major()
        )

    found = await trio.to_thread.run_sync(choose)
    if place.major() is None:
        log.info(
            "preparing PostgreSQL (first start, about 2 s)", version=found.text, folder=str(place.cluster)
        )
        await _init_cluster(place, found)
    return found


async def _init_cluster(place: Place, binaries: Binaries) -> None:
    """Make the cluster in a sibling and rename it, so that a cluster with this name is always whole."""
    for stale in place.folder.glob("cluster.new-*"):
        await trio.to_thread.run_sync(shutil.rmtree, stale)
    new = Path(tempfile.mkdtemp(prefix="cluster.new-", dir=place.folder))
    place.account.own(new)
    command: list[str | Path] = [binaries.folder / "initdb", "-D", new, "-U", NAME, "-A", "trust"]
    result = await trio.run_process(
        [*command, "-E", "UTF8", "--locale=C", "--no-instructions"],
        check=False,
        capture_stdout=True,
        capture_stderr=True,
        start_new_session=True,
        **place.account.spawn,
    )
    if result.returncode != 0:
        text = result.stderr.decode(errors="replace").strip()
        raise StoreUnavailable(f"initdb of PostgreSQL {binaries.text} failed as {place.account}: {text}")
    await trio.to_thread.run_sync(place.finish_cluster, new, SETTINGS)


async def _adopt(place: Place, log: structlog.stdlib.BoundLogger) -> _Server | None:
    """Take over a server that runs on our cluster, or stop it if it does not answer; None if there is none now."""
    found = read_pid_file(place)
    if found is None or not is_postmaster(place, found.pid):
        return None
    server = _Server(place, found.pid, found.socket_folder)
    log.info("found a PostgreSQL that an earlier run left behind", pid=found.pid, status=found.status)
    with trio.move_on_after(START_S):
        while found.status == "starting" and is_postmaster(place, server.pid):
            await trio.sleep(POLL_S)
            found = read_pid_file(place) or found
    if found.status == "ready":
        try:
            await trio.to_thread.run_sync(_ensure_database, server)
        except psycopg.Error as error:
            log.warning("it does not answer", pid=server.pid, error=str(error))
        else:
            log.info("adopted it", pid=server.pid)
            return server
    await _stop(server, log)
    if is_postmaster(place, server.pid):
        raise StoreUnavailable(
            f"a PostgreSQL that an earlier run left behind (process {server.pid}) neither answers nor stops: end it "
            f"and start again; its log is {place.log_file}"
        )
    return None


def _ensure_database(server: _Server) -> str:
    """Make our database if there is none; return its conninfo. Blocking. Raises psycopg.Error."""
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as conn:
        folder = conn.execute("show data_directory").fetchone()
        if folder is None or Path(folder[0]).resolve() != server.place.cluster:
            raise psycopg.OperationalError(
                f"the server on {server.socket_folder} has another folder: {folder}"
            )
        if conn.execute("select from pg_database where datname = %s", [NAME]).fetchone() is None:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(NAME)))
    return server.conninfo(NAME)


async def _start(place: Place, binaries: Binaries, log: structlog.stdlib.BoundLogger) -> _Server:
    """Start the server and wait until it takes connections."""
    started = trio.current_time()
    disarm_pid_file(place)
    socket_folder = await trio.to_thread.run_sync(place.make_socket_folder)
    log_descriptor = place.open_log()
    log_start = os.fstat(log_descriptor).st_size
    try:
        process = await trio.lowlevel.open_process(
            _command(place, binaries, socket_folder),
            stdout=log_descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **place.account.spawn,
        )
    finally:
        os.close(log_descriptor)
    server = _Server(place, process.pid, socket_folder, process)
    try:
        await _wait_ready(server, process, log_start, log)
    except BaseException:
        await _stop(server, log)
        raise
    log.info(
        "PostgreSQL is ready",
        version=binaries.text,
        binaries=str(binaries.folder),
        folder=str(place.cluster),
        user=str(place.account),
        pid=process.pid,
        seconds=round(trio.current_time() - started, 3),
    )
    return server


def _command(place: Place, binaries: Binaries, socket_folder: Path) -> list[str | Path]:
    command: list[str | Path] = [binaries.folder / "postgres", "-D", place.cluster, "-p", str(PORT)]
    settings: dict[str, Any] = {
        "listen_addresses": "",
        "unix_socket_directories": f'"{socket_folder}"',
        "unix_socket_permissions": "0700",
        "logging_collector": "off",
        "log_destination": "stderr",
    }
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return command


async def _wait_ready(
    server: _Server, process: trio.Process, log_start: int, log: structlog.stdlib.BoundLogger
) -> None:
    """Return when the server says that it is ready; raises :class:`StoreUnavailable` if it ends or takes too long."""
    started = said = trio.current_time()
    while True:
        if process.poll() is not None:
            text = server.place.log_tail(since=log_start)
            raise StoreUnavailable(
                f"PostgreSQL ended with status {process.returncode} while starting:\n{text}"
            )
        found = read_pid_file(server.place)
        if found is not None and found.pid == process.pid and found.status == "ready":
            return
        now = trio.current_time()
        if now - started > START_S:
            text = server.place.log_tail(since=log_start)
            raise StoreUnavailable(f"PostgreSQL is not ready after {START_S:.0f} s:\n{text}")
        if now - said > SAY_S:
            said = now
            log.info(
                "PostgreSQL is still starting", seconds=round(now - started), log=str(server.place.log_file)
            )
        await trio.sleep(POLL_S)


async def _stop(server: _Server, log: structlog.stdlib.BoundLogger) -> None:
    """Stop the server: politely, then not; shielded, with a deadline. Does nothing if it is gone already."""
    started = trio.current_time()
    stopped = False
    for number, seconds in ((signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, IMMEDIATE_STOP_S)):
        server.signal(number)
        with trio.move_on_after(seconds, shield=True) as scope:
            await server.wait()
        stopped = not scope.cancelled_caught
        if stopped:
            break
        log.warning("PostgreSQL does not stop", pid=server.pid, signal=number.name, waited_s=seconds)
    if stopped:
        server.place.remove_socket_folder(server.socket_folder)
        log.info("PostgreSQL has stopped", seconds=round(trio.current_time() - started, 3))
    else:
        log.error("PostgreSQL is left running; the next start takes it over", pid=server.pid)

"""The server process of the embedded database: start it, wait until it is ready, stop it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import structlog
import trio
from attrs import define
from psycopg import pq
from psycopg.conninfo import make_conninfo

from ...errors import StoreUnavailable
from .data_folder import PORT, Place, disarm_pid_file, end_orphans, is_postmaster, read_pid_file
from .programs import Binaries

__all__ = ["NAME", "POLL_S", "START_S", "Postmaster", "start_postmaster", "stop_postmaster"]

NAME = "mdserver"
"""The name of the superuser and of the database."""

START_S = 300.0
"""How long a start may take: after a crash PostgreSQL first replays the write-ahead log (up to max_wal_size)."""

REPORT_EVERY_S = 5.0
"""How often a slow start is logged."""

POLL_S = 0.01

FAST_STOP_S = 3.0
"""Fast shutdown writes a checkpoint; the daemon as a whole stops within 10 s."""

IMMEDIATE_STOP_S = 1.0
"""Immediate shutdown leaves recovery to the next start."""

# Explicit values for what the operator's environment (PGSSLMODE …) sets for other databases: they take precedence.
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
class Postmaster:
    """A running server; ``process`` is None for one taken over from an earlier run, which is not our child."""

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

    @property
    def psql(self) -> str:
        """The command line that opens the database with psql, for whoever runs mdserver."""
        return shlex.join(["psql", "-h", str(self.socket_folder), "-p", str(PORT), "-U", NAME, NAME])

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
        elif is_postmaster(self.place, self.pid):
            os.kill(self.pid, number)

    async def wait(self) -> None:
        """Return when the server is gone."""
        if self.process is not None:
            await self.process.wait()
        # one that was taken over is not our child, so its end can only be polled
        while is_postmaster(self.place, self.pid):  # noqa: ASYNC110
            await trio.sleep(POLL_S)


async def start_postmaster(
    place: Place,
    binaries: Binaries,
    log: structlog.stdlib.BoundLogger,
    socket_folder: Path | None = None,
) -> Postmaster:
    """Start the server and wait until it accepts connections; ``socket_folder``, if given, is where its socket goes.

    No server may be running on the cluster. Raises :class:`StoreUnavailable` with the end of the server's log. When
    cancelled, it stops the server again.
    """
    started = trio.current_time()
    orphans = await trio.to_thread.run_sync(end_orphans, place)
    if orphans:
        log.warning("killed processes that a killed PostgreSQL server had left behind", pids=orphans)
    disarm_pid_file(place)
    socket_folder = await trio.to_thread.run_sync(place.make_socket_folder, socket_folder)
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
    server = Postmaster(place, process.pid, socket_folder, process)
    try:
        await _wait_ready(server, process, log_start, log)
    except BaseException:
        await stop_postmaster(server, log)  # noqa: ASYNC102 - shields itself, with a deadline
        raise
    log.info(
        "PostgreSQL is ready",
        version=binaries.text,
        binaries=str(binaries.folder),
        folder=str(place.cluster),
        user=str(place.account),
        pid=process.pid,
        seconds=round(trio.current_time() - started, 3),
        psql=server.psql,
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
    server: Postmaster, process: trio.Process, log_start: int, log: structlog.stdlib.BoundLogger
) -> None:
    """Return when the server is ready. Raises :class:`StoreUnavailable` if it ends or takes too long."""
    started = reported = trio.current_time()
    while True:
        if process.poll() is not None:
            text = server.place.without_disk_trouble(server.place.log_tail(since=log_start))
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
        if now - reported > REPORT_EVERY_S:
            reported = now
            log.info(
                "PostgreSQL is still starting", seconds=round(now - started), log=str(server.place.log_file)
            )
        await trio.sleep(POLL_S)


async def stop_postmaster(server: Postmaster, log: structlog.stdlib.BoundLogger) -> None:
    """Stop the server: a fast shutdown, then an immediate one; shielded, with a deadline. It may be gone already."""
    started = trio.current_time()
    stopped = False
    for number, seconds in ((signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, IMMEDIATE_STOP_S)):
        server.signal(number)
        with trio.move_on_after(seconds, shield=True) as scope:
            await server.wait()
        stopped = not scope.cancelled_caught
        if stopped:
            break
        log.warning("PostgreSQL does not stop in time", pid=server.pid, signal=number.name, waited_s=seconds)
    if stopped:
        server.place.remove_socket_folder(server.socket_folder)
        log.info("PostgreSQL has stopped", seconds=round(trio.current_time() - started, 3))
    else:
        log.error("PostgreSQL is left running; the next start takes it over", pid=server.pid)

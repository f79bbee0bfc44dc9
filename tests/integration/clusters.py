"""PostgreSQL clusters for tests that one server is not enough for: freezing, failing over, a pooler in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

PGBOUNCER_S = 10.0


def processes(folder: Path) -> list[int]:
    """Return the numbers of the server in ``folder/postgres`` and of its children."""
    parent = int((folder / "postgres/cluster/postmaster.pid").read_text().split("\n")[0])
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True
    )
    return [parent, *(int(pid) for pid in found.stdout.split())]


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Stop all processes of a server, as a hypervisor or a full disk array does, until the block ends."""
    pids = processes(folder)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def let_everybody_in(folder: Path, url: str) -> None:
    """Let other accounts into a server in ``folder/postgres`` that we run as root: a pooler does not run as root."""
    (folder / "postgres/cluster/pg_hba.conf").write_text("local all all trust\n")
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("select pg_reload_conf()")
    (folder / "postgres/run").chmod(0o711)


class Switch:
    """A TCP address before PostgreSQL servers: new connections go where ``target`` says, old ones stay."""

    def __init__(self, url: str) -> None:
        self.port = 0
        self.point_to(url)

    def point_to(self, url: str) -> None:
        given = conninfo_to_dict(url)
        self.target = f"{given['host']}/.s.PGSQL.{given['port']}"

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            async with client, await trio.open_unix_socket(self.target) as server:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, client, server, nursery.cancel_scope)
                    await self._pump(server, client, nursery.cancel_scope)
        except* (OSError, trio.BrokenResourceError):
            pass

    @staticmethod
    async def _pump(source: trio.abc.Stream, sink: trio.abc.Stream, both: trio.CancelScope) -> None:
        async for data in source:
            await sink.send_all(data)
        both.cancel()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Switch]:
        switch = cls(url)
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                trio.serve_tcp,
                switch._serve,
                0,
            )
            switch.port = listeners[0].socket.getsockname()[1]
            yield switch
            nursery.cancel_scope.cancel()


@contextmanager
def running_pgbouncer(url: str, folder: Path, *, pool_mode: str = "transaction") -> Iterator[str]:
    """Run pgbouncer before a server; yield a URL that leads through it. Skips where there is none, but not in CI."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        if os.environ.get("CI"):
            raise RuntimeError("pgbouncer is not installed: apt-get install pgbouncer")
        pytest.skip("pgbouncer is not installed")
    given = conninfo_to_dict(url)
    (folder / "users.txt").write_text(f'"{given["user"]}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""[databases]
* = host={given["host"]} port={given["port"]} user={given["user"]}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 6432
auth_type = any
pool_mode = {pool_mode}
max_client_conn = 200
default_pool_size = 4
logfile = {folder}/pgbouncer.log
"""
    )
    command = [program, str(folder / "pgbouncer.ini")]
    account = {}
    if os.geteuid() == 0:  # it refuses root
        shutil.chown(folder, "postgres")
        account = {"user": "postgres", "group": "postgres", "extra_groups": []}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account)
    through = f"host={folder} port=6432 user={given['user']} dbname={given['dbname']}"
    try:
        _wait_for(through, process, folder)
        yield through
    finally:
        process.terminate()
        process.wait(PGBOUNCER_S)


def _wait_for(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    import time

    deadline = time.monotonic() + PGBOUNCER_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                log = folder / "pgbouncer.log"
                raise RuntimeError(
                    f"pgbouncer did not start: {log.read_text() if log.exists() else ''}"
                ) from None
            time.sleep(0.05)

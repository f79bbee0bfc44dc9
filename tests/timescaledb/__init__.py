"""A real TimescaleDB for tests: PostgreSQL compiled to WebAssembly, run by Node, behind a wire server of ours.

One backend session serves all connections, so there is no concurrency, no cancelling and one database: tests of
those things use plain PostgreSQL, and :func:`reset` makes the database as good as new.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import psycopg
from psycopg import sql

__all__ = ["Missing", "reset", "running_timescaledb"]

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json", "server.mjs", "wire.mjs")
INSTALL_S = 120.0
START_S = 120.0
STOP_S = 5.0


class Missing(Exception):
    """What a run needs is not on this machine."""


@contextmanager
def running_timescaledb(**environment: str) -> Iterator[str]:
    """Run the server; yield its conninfo. Raises :class:`Missing` without Node or npm, or if npm installs nothing.

    ``environment``: what ``server.mjs`` reads of it.
    """
    node = shutil.which("node")
    if node is None:
        raise Missing("node is not installed")
    folder = _installed()
    process = subprocess.Popen(
        [node, "server.mjs"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield f"host=127.0.0.1 port={_port(process)} user=postgres dbname=postgres sslmode=disable"
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def _installed() -> Path:
    """Return a folder outside the repository with the server and its package in it; made once per version."""
    digest = hashlib.sha256(b"\0".join((HERE / name).read_bytes() for name in FILES)).hexdigest()
    folder = platformdirs.user_cache_path("mdserver-tests") / f"timescaledb-{digest[:16]}"
    if (folder / "node_modules").is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not installed")
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        for name in FILES:
            shutil.copyfile(HERE / name, unfinished / name)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        result = subprocess.run(
            command, cwd=unfinished, check=False, capture_output=True, text=True, timeout=INSTALL_S
        )
        if result.returncode != 0:
            raise Missing(f"npm ci failed: {result.stderr.strip()[-500:]}")
        with contextlib.suppress(OSError):  # another run was quicker
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _port(process: subprocess.Popen[str]) -> int:
    stdout = process.stdout
    assert stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
    line = lines.get(timeout=START_S)
    assert line.startswith("ready "), f"TimescaleDB did not start: {line!r}"
    return int(line.split()[1])


_RELATIONS = """select c.relname, c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'public' and c.relkind in ('r', 'p', 'v') and not c.relispartition
      and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    order by c.relkind = 'v' desc"""


def reset(conn: psycopg.Connection[Any]) -> None:
    """Drop every table and view; the extension stays."""
    kinds = {"v": sql.SQL("view"), "r": sql.SQL("table"), "p": sql.SQL("table")}
    for name, kind in conn.execute(_RELATIONS).fetchall():
        conn.execute(sql.SQL("drop {} if exists {} cascade").format(kinds[_text(kind)], sql.Identifier(name)))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value

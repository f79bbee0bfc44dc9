"""A real ``mdserver run`` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx2
import trio
import yaml

from mdserver.net import open_websocket
from tests.clusters import put_cluster
from tests.mdserver_process import MdserverProcess, open_mdserver, run_mdserver

READY_S = 120.0


@attrs.define
class Daemon:
    """A running server. ``lines`` are its log, parsed."""

    process: MdserverProcess | trio.Process
    folder: Path
    base: str = ""
    lines: list[dict[str, Any]] = attrs.field(factory=list)
    stdout: str = ""

    @property
    def ws(self) -> str:
        return self.base.replace("http", "ws", 1) + "/"

    async def get(self, path: str, **query: Any) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=self.base, timeout=10) as client:
            return await client.get(path, params=query)

    async def wait_log(self, event: str, *, after: int = 0) -> dict[str, Any]:
        with trio.fail_after(READY_S):
            while True:
                for line in self.lines[after:]:
                    if event in line.get("event", ""):
                        return line
                await trio.sleep(0.02)

    async def wait_stored(self, symbol: str, count: int, kind: str = "tick") -> None:
        """Wait until at least so many records of a symbol are in the database."""
        with trio.fail_after(READY_S):
            while True:
                answer = await self.get("/api/metadata", symbol=symbol)
                if answer.status_code == 200 and answer.json()[f"{kind}_count"] >= count:
                    return
                await trio.sleep(0.05)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        self.process.send_signal(number)
        with trio.fail_after(60):
            return await self.process.wait()

    def postgres_pid(self) -> int:
        (pid_file,) = self.folder.glob("data/postgres/cluster/postmaster.pid")
        return int(pid_file.read_text().split("\n")[0])


def write_config(folder: Path, *, first_start: bool = False, **sections: Any) -> Path:
    """Write a config whose server takes a free port and whose data lie in ``folder``.

    There its database is prepared already, unless this is about the first start.
    """
    config = {
        "data_dir": str(folder / "data"),
        "server": {"port": 0},
        "log": {"format": "json"},
        "brokers": [{"name": "mock", "rate": 500, "symbols": ["EURUSD"]}],
        **sections,
    }
    config["server"] = {"port": 0, **sections.get("server", {})}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    database = config.get("database", {})
    embedded = database.get("store", True) and "url" not in database and "data_dir" not in sections
    if embedded and not first_start and not (folder / "data" / "postgres" / "cluster").exists():
        put_cluster(folder / "data")
    return path


def command(config: Path, before: str = "", options: Sequence[str] = ()) -> list[str]:
    """Return the command line of a server; ``before`` is code that shortens a patience of its first."""
    program = ["-c", f"{before}\nfrom mdserver.__main__ import main\nraise SystemExit(main())"]
    return [
        sys.executable,
        *(program if before else ["-m", "mdserver"]),
        "run",
        "--config",
        str(config),
        *options,
    ]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "MDSERVER_"))}


async def run_to_end(config: Path, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    with trio.fail_after(limit_s):
        done = await run_mdserver(["run", "--config", str(config)], clean_environment())
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


async def start(
    config: Path, before: str, options: Sequence[str], *, fork: bool
) -> MdserverProcess | trio.Process:
    if fork and not before:
        return await open_mdserver(["run", "--config", str(config), *options], clean_environment())
    return await trio.lowlevel.open_process(
        command(config, before, options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )


@asynccontextmanager
async def open_daemon(
    config: Path,
    *,
    wait_ready: bool = True,
    before: str = "",
    options: Sequence[str] = (),
    fork: bool = True,
) -> AsyncIterator[Daemon]:
    """Run a server until the block ends; it is ready when this yields, unless that is not waited for.

    It is a fork that need not import the server, unless there is code for ``before``, or ``fork`` is false.
    """
    process = await start(config, before, options, fork=fork)
    daemon = Daemon(process, config.parent)
    ready = trio.Event()

    async def read_stdout() -> None:
        async for chunk in process.stdout:
            daemon.stdout += chunk.decode()
            for line in daemon.stdout.splitlines():
                if "/api/metadata" in line:
                    daemon.base = line.split()[-1].removesuffix("/api/metadata")
                    ready.set()

    async def read_stderr() -> None:
        rest = ""
        async for chunk in process.stderr:
            *lines, rest = (rest + chunk.decode()).split("\n")
            for line in lines:
                try:
                    daemon.lines.append(json.loads(line))
                except ValueError:
                    daemon.lines.append({"event": line})
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_stdout)
        nursery.start_soon(read_stderr)
        try:
            if wait_ready:
                with trio.fail_after(READY_S):
                    await ready.wait()
                assert daemon.base, daemon.lines
            yield daemon
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.terminate()
                    with trio.move_on_after(15):
                        await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_stream(url: str, *symbols: str, **fields: Any) -> AsyncIterator[Any]:
    """Subscribe, and give a function that returns the next records (tick or trade), one list a read."""
    async with open_websocket(url) as ws:
        await ws.send(json.dumps({"action": "subscribe", "symbols": symbols, **fields}))
        early: list[dict[str, Any]] = []
        with trio.fail_after(READY_S):
            while not any(message["type"] == "ack" for message in early):
                early += map(json.loads, await ws.receive())

        async def receive() -> list[dict[str, Any]]:
            messages = early or [json.loads(text) for text in await ws.receive()]
            records = [m for m in messages if m["type"] in ("tick", "trade")]
            early.clear()
            return records

        yield receive

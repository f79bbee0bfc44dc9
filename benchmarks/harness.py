"""What the benchmarks share: the load client, the servers as subprocesses, medians and tables."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
LOAD_SOURCE, LOAD = HERE / "load.c", HERE / "bin" / "load"
PEERS = HERE / "peers"

START_S = 90.0
"""Longest wait for a server to come up; a first embedded database takes a few seconds."""

STOP_S = 15.0
"""Longest wait for a server to end after SIGTERM, before it is killed."""

SERVER_CORE, CLIENT_CORE = 0, 1
"""Server and load client get a core each: on a shared one a wake-up costs the sender less, and figures jump."""

Result = dict[str, Any]
"""The load client's report: see ``load.c``."""


def build_load_client() -> None:
    """Compile the load client if its source is newer than the binary."""
    if LOAD.exists() and LOAD.stat().st_mtime > LOAD_SOURCE.stat().st_mtime:
        return
    LOAD.parent.mkdir(exist_ok=True)
    warnings = ["-Wall", "-Wextra", "-Wno-format-truncation"]
    subprocess.run(["gcc", "-O2", *warnings, "-o", str(LOAD), str(LOAD_SOURCE)], check=True)


def install_peers() -> None:
    """Install the Node peers' one dependency if it is not there."""
    if not (PEERS / "node_modules" / "ws").exists():
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=PEERS, check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _on_core(core: int | None) -> Callable[[], None] | None:
    """Return what binds a child to a core before it starts; None where that is not wanted or not possible."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        return None
    if not {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0):
        return None
    return lambda: os.sched_setaffinity(0, {core})


@contextmanager
def process(
    command: Sequence[str], *, log: Path, stop_s: float = STOP_S, core: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for the length of the block, on one core if so wished; its output goes to ``log``."""
    with log.open("wb") as sink:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, preexec_fn=_on_core(core)
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(stop_s)
            except subprocess.TimeoutExpired:
                print(
                    f"  {command[0]} did not end within {stop_s:g} s after SIGTERM: killed", file=sys.stderr
                )
                child.kill()
                child.wait()


def wait_until_up(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until ``url`` answers 200; raise with the end of the log if the process ends or takes too long."""
    deadline = time.monotonic() + START_S
    while child.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own http URL
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    tail = log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"{url} did not come up (exit code {child.poll()}):\n{tail}")


def wait_until_listening(port: int) -> None:
    """Wait until something accepts connections at a port of this machine."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


class Server:
    """A running server: where it listens and which process to measure."""

    def __init__(self, port: int, pid: int, *, pinned: bool) -> None:
        self.port = port
        self.pid = pid
        self.config: Path | None = None
        """The config file of an mdserver."""
        self._client_core = CLIENT_CORE if pinned else None

    def load(self, *options: object, limit_s: float = 120.0, samples: bool = False) -> Result:
        """Run the load client against it and return its report (under ``samples``: what it told meanwhile)."""
        command = [str(LOAD), "--port", str(self.port), "--pid", str(self.pid), *map(str, options)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            preexec_fn=_on_core(self._client_core),
        )
        if not done.stdout.strip():
            raise RuntimeError(f"the load client ended with {done.returncode}: {done.stderr.strip()}")
        result: Result = json.loads(done.stdout)
        if "error" in result:
            raise RuntimeError(f"load client: {result['error']}")
        if samples:
            result["samples"] = [
                json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")
            ]
        return result

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return str(response.read().decode())

    def counter(self, name: str) -> float:
        """Return the sum of one of mdserver's counters over its labels."""
        lines = [
            line for line in self.get("/metrics").splitlines() if line.startswith(f"mdserver_{name}_total")
        ]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def mdserver_command() -> str:
    """Return the `mdserver` to measure: MDSERVER from the environment, else the one of this Python."""
    if chosen := os.environ.get("MDSERVER"):
        return chosen
    found = shutil.which("mdserver", path=str(Path(sys.executable).parent)) or shutil.which("mdserver")
    if found is None:
        raise SystemExit("no `mdserver` command: install the project into this Python first")
    return found


@contextmanager
def data_folder() -> Iterator[Path]:
    """Yield a folder for one server that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mdserver-bench-"))
    folder.chmod(0o711)  # started by root, the database runs as another uid and has to get in
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mdserver(
    brokers: list[dict[str, Any]], *, store: bool = False, window_ms: float = 0, pinned: bool = True
) -> Iterator[Server]:
    """Run `mdserver run` with these brokers, in a data folder of its own; ``pinned``: on a core of its own.

    A server that stores is never pinned: its database would have to share the core.
    """
    pinned = pinned and not store
    with data_folder() as folder:
        port = free_port()
        config = {
            "server": {"host": "127.0.0.1", "port": port, "window_ms": window_ms},
            "database": {"url": "embedded", "store": store},
            "data_dir": str(folder / "data"),
            "brokers": brokers,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        command = [mdserver_command(), "run", "--config", str(folder / "config.yaml")]
        log = folder / "server.log"
        with process(command, log=log, core=SERVER_CORE if pinned else None) as child:
            try:
                wait_until_up(child, f"http://127.0.0.1:{port}/health/live", log)
                server = Server(port, child.pid, pinned=pinned)
                server.config = folder / "config.yaml"
                yield server
            except Exception:
                print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
                raise


def mock_broker(rate: float, burst: int) -> dict[str, Any]:
    return {"name": "mock", "plugin": "mock", "rate": rate, "burst": burst, "types": ["tick"]}


@contextmanager
def node_peer(variant: str, *, rate: float, burst: int, window_ms: float = 0) -> Iterator[Server]:
    """Run one of the Node servers."""
    with data_folder() as folder:
        port = free_port()
        settings = ["--rate", f"{rate:g}", "--burst", str(burst), "--window", f"{window_ms:g}"]
        command = ["node", str(PEERS / "server.js"), "--port", str(port), "--variant", variant, *settings]
        log = folder / "server.log"
        with process(command, log=log, core=SERVER_CORE) as child:
            wait_until_up(child, f"http://127.0.0.1:{port}/", log)
            yield Server(port, child.pid, pinned=True)


@contextmanager
def trade_venue(rate: float) -> Iterator[str]:
    """Run a venue that sends ``rate`` trades/s, one at a time; yield its URL."""
    with data_folder() as folder:
        port = free_port()
        command = [sys.executable, str(HERE / "trade_venue.py"), str(port), f"{rate:g}"]
        with process(command, log=folder / "venue.log", stop_s=2):
            wait_until_listening(port)
            yield f"ws://127.0.0.1:{port}"


@contextmanager
def node_relay(venue_url: str) -> Iterator[Server]:
    """Run the Node relay of a venue's trades."""
    with data_folder() as folder:
        port = free_port()
        command = ["node", str(PEERS / "relay.js"), "--port", str(port), "--venue", venue_url]
        log = folder / "relay.log"
        with process(command, log=log) as child:
            wait_until_up(child, f"http://127.0.0.1:{port}/", log)
            yield Server(port, child.pid, pinned=False)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format a median with the least and the greatest value."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """Describe where this ran: processor, cores, versions, and how busy it was."""
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown CPU"
    )
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    python = ".".join(map(str, sys.version_info[:3]))
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{model}, {os.cpu_count()} cores, Python {python}, Node {node or 'none'}; load average {load}"

"""The clients that we ship, as their users run them, against a real server: also one that is killed under them."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

import mdserver_client

from .daemon import open_daemon, write_config
from .test_clients_of_others import program

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs and the package, as npm would lay it out."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(PROGRAMS / "stream.mjs", folder)
    package = folder / "node_modules" / "mdserver-client"
    shutil.copytree(ROOT / "clients/js", package)
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Program:
    """A client's program under way: ``going`` once it has had its first 100 records."""

    def __init__(self, name: str, command: Sequence[str | Path]) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.going = trio.Event()
        self.result: dict[str, Any] = {}

    async def run(self) -> None:
        process = await trio.lowlevel.open_process(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        errors = b""

        async def read_errors() -> None:
            nonlocal errors
            async for chunk in process.stderr:
                errors += chunk

        output = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_errors)
            try:
                async for chunk in process.stdout:
                    output += chunk
                    if output.startswith(b"go"):
                        self.going.set()
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
        assert process.returncode == 0, f"{self.name}: {errors.decode()}"
        self.result = json.loads(output.splitlines()[-1])


async def test_every_tick_exactly_once_over_kill_9(node_folder: Path, folder: Path, long: bool) -> None:
    kills = 10 if long else 1
    port = free_port()
    brokers = [{"name": "mock", "rate": 500, "symbols": ["EURUSD"]}]
    config = write_config(folder, brokers=brokers, server={"port": port})
    base, count = f"http://127.0.0.1:{port}", 1_000 * (kills + 1)
    python = [sys.executable, "-W", "error", PROGRAMS / "stream.py", base, str(count)]
    programs = [Program(loop, [*python, loop]) for loop in ("asyncio", "trio")]
    programs.append(Program("node", [program("node"), node_folder / "stream.mjs", base, str(count)]))
    async with trio.open_nursery() as nursery:
        for number in range(kills + 1):
            async with open_daemon(config) as daemon:
                if number == 0:
                    for client in programs:
                        nursery.start_soon(client.run)
                    for client in programs:
                        await client.going.wait()
                else:
                    await daemon.wait_stored("EURUSD", 700 * number)
                if number == kills:
                    while nursery.child_tasks:
                        await trio.sleep(0.05)
                else:
                    daemon.process.send_signal(signal.SIGKILL)
                    await daemon.process.wait()
    for client in programs:
        seqs = client.result["seqs"]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), client.name
        assert len(seqs) >= count


def examples_of(page: str, language: str) -> list[str]:
    """Return the blocks of the language that a page marks as tested."""
    text = (ROOT / "docs/howto" / page).read_text(encoding="utf-8")
    return re.findall(rf"<!-- tested -->\n```{language}\n(.*?)```", text, re.DOTALL)


async def run_node(code: Path, base: str) -> list[str]:
    done = await trio.run_process(
        [program("node"), code], capture_stdout=True, capture_stderr=True, check=False, env={"BASE": base}
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


CHART = """
import { chart } from "./chart.mjs";
const stop = new AbortController();
const all = [];
let updates = 0;
const series = { setData: (data) => all.push(data), update: () => ++updates === 2 && stop.abort() };
await chart(process.env.BASE, "EURUSD", "1m", 1, series, stop.signal);
console.log(all.length, all[0].length, updates > 1);
"""


async def test_the_how_tos(node_folder: Path, folder: Path) -> None:
    """As they stand there, against one server; also the module that it serves."""
    async with open_daemon(write_config(folder)) as daemon:
        await daemon.wait_stored("EURUSD", 1)
        await check_javascript(node_folder, daemon.base)
        served = await daemon.get("/client.js")
        assert served.text == (ROOT / "clients/js/mdserver.js").read_text(encoding="utf-8")
        assert served.headers["content-type"] == "text/javascript; charset=utf-8"
        await check_python(folder, daemon.base)
        await check_history_and_live(daemon.base)
        await trio.to_thread.run_sync(check_notebook, daemon.base)


async def check_javascript(node_folder: Path, base: str) -> None:
    (block,) = examples_of("javascript-client.md", "javascript")
    (node_folder / "howto.mjs").write_text(block)
    lines = await run_node(node_folder / "howto.mjs", base)
    assert len(lines) == 6
    assert re.match("[12] candles", lines[-1])
    (block,) = examples_of("history-and-live.md", "javascript")
    (node_folder / "chart.mjs").write_text(block)
    (node_folder / "show.mjs").write_text(CHART)
    (line,) = await run_node(node_folder / "show.mjs", base)
    assert re.fullmatch("1 [12] true", line)  # one message may have brought more records


async def check_python(folder: Path, base: str) -> None:
    names: dict[str, Any] = {}
    for block in examples_of("python-client.md", "python"):
        exec(block, names)  # noqa: S102 - the page's own code
    candles, seen = await names["main"](base)
    assert len(candles) in (1, 2)
    assert [seq for seq, *_ in seen] == list(range(seen[0][0], seen[0][0] + 5))
    async with mdserver_client.connect(base) as client:
        assert [one["symbol"] for one in await client.symbols("eur", broker="mock")] == ["EURUSD"]
        assert [one.broker for one in await client.brokers()] == ["mock"]
        assert (await client.metadata("EURUSD"))["tick_count"] >= 1
        assert await client.gaps("EURUSD", "2020-01-01", "2020-01-02") == []
    seqs = await names["collect"](base, folder / "position.json", 2)
    seqs += await names["collect"](base, folder / "position.json", 2)
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


async def check_history_and_live(base: str) -> None:
    names: dict[str, Any] = {}
    for block in examples_of("history-and-live.md", "python"):
        exec(block, names)  # noqa: S102 - the page's own code
    records = await names["last_minutes_and_on"](base, "EURUSD", 10, 1_000)
    seqs = [record.seq for record in records if record.type == "tick"]
    assert seqs == list(range(1, len(seqs) + 1))
    shown: list[int] = []

    def show(candles: dict[float, Any]) -> bool:
        shown.append(len(candles))
        return len(shown) == 3

    candles = await names["chart"](base, "EURUSD", "1m", 1, show)
    assert list(candles) == sorted(candles)
    assert len(candles) in (1, 2)


def check_notebook(base: str) -> None:
    names: dict[str, Any] = {}
    for block in examples_of("notebook.md", "python"):
        exec(block.replace("http://127.0.0.1:8080", base), names)  # noqa: S102 - the page's own code
    names["client"].close()
    assert len(names["ticks"]) > len(names["spread"]) >= 1
    assert len(names["candles"]) >= len(names["five_minutes"]) >= 1
    live = names["live"]
    assert list(live["seq"]) == list(range(live["seq"].iloc[0], live["seq"].iloc[0] + len(live)))

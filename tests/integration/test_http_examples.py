"""The examples in the reference of HTTP, as they stand there, against a running server."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from .daemon import Daemon, open_daemon, write_config
from .test_clients_of_others import program

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"


def example(language: str) -> str:
    """Return the one block of the language that the page marks as tested."""
    (block,) = re.findall(rf"<!-- tested -->\n```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(block)


@pytest.fixture
async def daemon(folder: Path) -> AsyncIterator[Daemon]:
    """A server that has stored some ticks."""
    brokers = [{"name": "mock", "rate": 2_000, "symbols": ["EURUSD"]}]
    async with open_daemon(write_config(folder, brokers=brokers)) as running:
        await running.wait_stored("EURUSD", 1_001)  # more than a page
        yield running


async def output(daemon: Daemon, *arguments: str) -> str:
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        arguments,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=os.environ | {"BASE": daemon.base},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_curl(daemon: Daemon) -> None:
    program("curl")
    lines = (await output(daemon, program("bash"), "-ec", example("bash"))).splitlines()
    assert lines[0] == "time,open,high,low,close,volume"
    assert all(line.count(",") == 5 for line in lines[1:-1])
    assert len(lines) >= 3
    assert lines[-1].startswith('{"symbol":"EURUSD"')


async def test_python(daemon: Daemon) -> None:
    names: dict[str, Any] = {}
    exec(example("python"), names)  # noqa: S102 - the page's own code
    columns = await trio.to_thread.run_sync(partial(names["last_candles"], daemon.base, "EURUSD", 10))
    assert list(columns) == ["time", "open", "high", "low", "close", "volume"]
    assert len(columns["time"]) == len(columns["close"]) >= 1
    now = time.time()
    pages = partial(names["ticks"], daemon.base, "EURUSD", now - 600, now)
    seqs = [tick["seq"] for tick in await trio.to_thread.run_sync(lambda: list(pages()))]
    assert seqs == list(range(1, len(seqs) + 1))
    assert len(seqs) > 1_000


async def test_javascript(daemon: Daemon) -> None:
    node = program("node")
    lines = (await output(daemon, node, "--input-type=module", "-e", example("javascript"))).splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00\.000Z [0-9.]+", line)

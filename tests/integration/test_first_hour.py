"""What a newcomer does in the first hour, and must not stumble over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.mdserver_process import run_mdserver

from .daemon import clean_environment, command, open_daemon, open_stream, write_config
from .test_daemon import broken_distribution


async def mdserver(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(60):
        return await run_mdserver(arguments, clean_environment())


PICKY = """
import attrs, time, trio
from mdserver.model import Tick
from mdserver.plugin import BrokerPlugin
@attrs.frozen
class C: pass
class Picky:
    async def run(self, host, *, task_status):
        task_status.started()
        while True:
            with trio.move_on_after(0.02):
                await host.demand.wait_changed(host.demand.current())
            for feed in host.demand.current():
                if feed.symbol != 'EURUSD':
                    host.refuse([feed], 'the venue has no ' + feed.symbol)
            host.publish([Tick('EURUSD', int(time.time() * 1e6), 1.0, 1.1)])
plugin = BrokerPlugin('picky', '', C, lambda config: Picky(), silence_s=None)
"""


async def test_watching_what_there_is_not_ends_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "picky", PICKY)))
    config = write_config(
        folder, database={"store": False}, brokers=[{"name": "picky", "symbols": ["EURUSD"]}]
    )
    async with open_daemon(config) as daemon:
        done = await mdserver("run", "watch", "EURUSD", "--url", daemon.ws, "--count", "3")
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
        for symbols in (["NOPE"], ["EURUSD", "NOPE"]):
            done = await mdserver("run", "watch", *symbols, "--url", daemon.ws)
            assert done.returncode == 1
            assert done.stderr.decode() == "mdserver: error 408: the venue has no NOPE\n"


async def test_the_config_of_the_current_folder_is_taken_and_named_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(folder, database={"store": False})
    monkeypatch.chdir(folder)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "mdserver", "run"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        env=clean_environment(),
    )  # fmt: skip
    first = b""
    with trio.fail_after(60):
        while b"\n" not in first:
            first += await process.stderr.receive_some()
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(60):
        await process.wait()
    await process.stderr.aclose()
    line = first.split(b"\n")[0].decode()
    assert "the config is read from a file" in line
    assert str(config) in line


async def test_the_server_runs_on_where_nobody_reads_its_banner(folder: Path) -> None:
    config = write_config(folder, database={"store": False}, server={"port": 0})
    ours, theirs = os.pipe()
    os.close(ours)
    process = await trio.lowlevel.open_process(
        command(config), stdout=theirs, stderr=subprocess.PIPE, env=clean_environment()
    )
    os.close(theirs)
    text = b""
    with trio.fail_after(60):
        while b"standard output is closed" not in text:
            text += await process.stderr.receive_some()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(60):
        async for chunk in process.stderr:
            text += chunk
        assert await process.wait() == 0
    assert b"Traceback" not in text
    assert b"BrokenPipeError" not in text.replace(b"[Errno 32] Broken pipe", b"")


async def test_a_comma_in_the_data_folder(folder: Path) -> None:
    config = write_config(folder, data_dir=str(folder / "mine, all mine"))
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD") as receive:
        with trio.fail_after(60):
            while not await receive():
                pass
            while (await daemon.get("/api/metadata", symbol="EURUSD")).json().get("tick_count", 0) == 0:
                await trio.sleep(0.05)

"""SIGHUP: an operator's reload stops nothing, a closed terminal stops the server in order."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import trio

from .daemon import clean_environment, command, open_daemon, open_stream, write_config

IN_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

WITHOUT_HANGUP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


async def test_a_hangup_by_an_operator_stops_nothing(folder: Path) -> None:
    config = write_config(folder, database={"store": False})
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD") as receive:
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.wait_log("the config was reloaded")
        last = 0
        with trio.fail_after(60):
            while last < 500:  # the same client goes on
                last = max([last, *(tick["seq"] for tick in await receive())])
        assert await daemon.stop(signal.SIGTERM) == 0


@asynccontextmanager
async def in_a_terminal(*prefix: str, config: Path, ready: Path) -> AsyncIterator[tuple[trio.Process, int]]:
    """Run the server as the foreground process of a terminal of its own; yield it and the terminal's other end."""
    ours, theirs = pty.openpty()
    with ready.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", IN_A_TERMINAL, *prefix, *command(config)],
            stdin=theirs,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
        )
    os.close(theirs)
    try:
        with trio.fail_after(60):
            while "is ready" not in ready.read_text():
                await trio.sleep(0.05)
        yield process, ours
    finally:
        if process.returncode is None:
            process.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(12):
                await process.wait()


async def test_a_closed_terminal_stops_the_server_in_order(folder: Path) -> None:
    """Without this the database would be left running."""
    async with in_a_terminal(config=write_config(folder), ready=folder / "out") as (process, terminal):
        (pid_file,) = folder.glob("data/postgres/cluster/postmaster.pid")
        database = psutil.Process(int(pid_file.read_text().split("\n")[0]))
        os.close(terminal)
        with trio.fail_after(60):
            assert await process.wait() == 0
        assert not database.is_running()
    assert not list(folder.glob("data/postgres/cluster/postmaster.pid"))


async def test_nohup_outlives_its_terminal(folder: Path) -> None:
    config = write_config(folder, database={"store": False})
    nohup = (sys.executable, "-c", WITHOUT_HANGUP)
    async with in_a_terminal(*nohup, config=config, ready=folder / "out") as (process, terminal):
        os.close(terminal)
        process.send_signal(signal.SIGHUP)  # as the shell may
        with trio.move_on_after(1.0):
            await process.wait()
        assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(60):
            assert await process.wait() == 0

"""Tests leave no process and no folder behind, also those that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import trio

from tests.clusters import reachable_folder

from .daemon import open_daemon, write_config

ROOT = Path(__file__).parents[2]

TESTS = """
import json, subprocess, time
from tests.clusters import reachable_folder, running_postgres
from tests.leftovers import watch_over
watch_over()
with running_postgres("auto") as url:
    other = subprocess.Popen(["sleep", "600"])
    folder = url.partition("host=")[2].partition(" ")[0].strip("'")
    pid_file = folder.replace("/run", "/cluster/postmaster.pid")
    print("started", json.dumps([folder, other.pid, int(open(pid_file).readline())]), flush=True)
    time.sleep(600)
"""


async def gone(pid: int) -> None:
    with trio.fail_after(60):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await trio.sleep(0.05)


async def test_what_killed_tests_had_started_ends() -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", TESTS], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    said = b""
    try:
        with trio.fail_after(120):
            while b"started " not in said or not said.endswith(b"\n"):
                part = await process.stdout.receive_some()
                assert part, "it ended by itself"
                said += part
        folder, *pids = json.loads(said.partition(b"started ")[2])
        assert all(map(psutil.pid_exists, pids))
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()
    for pid in pids:
        await gone(pid)
    with trio.fail_after(60):
        while Path(folder).parents[1].exists():
            await trio.sleep(0.05)


async def test_a_killed_servers_database_ends_with_its_folder_frozen_or_not() -> None:
    with reachable_folder() as folder:
        config = write_config(folder)
        async with open_daemon(config) as daemon:
            pid = daemon.postgres_pid()
            os.kill(daemon.process.pid, signal.SIGKILL)
            await daemon.process.wait()
        for stopped in psutil.Process(pid).children():
            stopped.suspend()
        psutil.Process(pid).suspend()
    await gone(pid)

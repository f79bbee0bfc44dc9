"""What systemd gets to know of a real server, and the unit that asks for it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from .daemon import open_daemon, write_config

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/mdserver.service"


async def test_ready_alive_reloading_and_stopping(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        await manager.bind(str(folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        config = write_config(folder, database={"store": False})
        async with open_daemon(config) as daemon:

            async def expect(*wanted: str) -> list[str]:
                """Read until a message begins with one of these, or fail; return all that were read."""
                read: list[str] = []
                with trio.fail_after(60):
                    while not read or not read[-1].startswith(wanted):
                        read.append((await manager.recv(4096)).decode())
                return read

            before = await expect("READY=1")
            assert all(one == "WATCHDOG=1" for one in before[:-1])
            await expect("WATCHDOG=1")
            daemon.process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in (await expect("RELOADING=1"))[-1]
            await expect("READY=1")
            daemon.process.send_signal(signal.SIGTERM)
            await expect("STOPPING=1")
            assert await daemon.process.wait() == 0


async def test_a_loop_that_hangs_is_not_alive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        await manager.bind(str(folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        config = write_config(folder, database={"store": False})
        # SIGUSR1 has the loop's thread sleep, as a plugin that computes would.
        before = "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1.5))"
        async with open_daemon(config, before=before) as daemon:
            daemon.process.send_signal(signal.SIGUSR1)
            await daemon.wait_log("blocks the event loop")
            with trio.fail_after(60):
                late = 0.0
                while late < 1.0:  # told every 0.1 s otherwise
                    began = trio.current_time()
                    await manager.recv(4096)
                    late = trio.current_time() - began


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


def test_the_unit_is_valid(systemd_analyze: str, tmp_path: Path) -> None:
    program = tmp_path / "mdserver"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "mdserver.service"
    unit.write_text(UNIT.read_text().replace("/opt/mdserver/bin/mdserver", str(program)))
    done = subprocess.run([systemd_analyze, "verify", unit], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "mdserver" in line]
    assert (complaints, done.returncode) == ([], 0)


def test_the_unit_is_hardened(systemd_analyze: str) -> None:
    """An exposure of 2 of 10 or less: "OK" begins at 4, most services of a distribution are above 9."""
    command = [systemd_analyze, "security", "--offline=true", "--threshold=20", "--no-pager", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-200:]

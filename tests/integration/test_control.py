"""The commands that reach a running server through the private socket in its data folder."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
import trio

from mdserver.control_socket import FILE_NAME, MAX_BYTES, ask_server
from mdserver.errors import Rejected, Unavailable
from tests.mdserver_process import run_mdserver

from .daemon import Daemon, clean_environment, open_daemon
from .test_daemon import broken_distribution
from .test_reload import KEYED, MOCK, broker_in, brokers_of, config_of


async def run_broker(config: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(60):
        return await run_mdserver(["run", "--config", str(config), "broker", *arguments], clean_environment())


def data_dir(daemon: Daemon) -> Path:
    return daemon.folder / "data"


async def test_a_command_restarts_a_broker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "keyed", KEYED)))
    config = config_of(folder, MOCK, {"name": "keyed", "api_key": "wrong-key-1"})
    async with open_daemon(config) as daemon:
        await broker_in(daemon, "keyed", "failed")
        began = (await broker_in(daemon, "mock", "live"))["since"]
        again = await run_broker(config, "restart", "mock")
        assert (again.returncode, again.stdout) == (0, b"mock: live\n"), again.stderr
        assert (await brokers_of(daemon))["mock"]["since"] > began

        failed = await run_broker(config, "restart", "keyed")
        assert (failed.returncode, failed.stderr) == (1, b"keyed: failed: the venue refuses the key ***\n")
        assert len((await brokers_of(daemon))["keyed"]["errors"]) == 2

        unknown = await run_broker(config, "restart", "nobody")
        assert unknown.returncode == 1
        assert unknown.stderr == b'mdserver: found broker "nobody", expected a running one: mock, keyed\n'

        listed = await run_broker(config, "list", "--json")
        assert [one["state"] for one in json.loads(listed.stdout)["brokers"]] == ["live", "failed"]
        shown = (await run_broker(config, "list")).stdout.decode()
        assert "the venue refuses the key ***" in shown
        assert await daemon.stop() == 0
    gone = await run_broker(config, "restart", "mock")
    assert gone.returncode == 1
    assert gone.stderr.decode() == f"mdserver: no server runs with the data folder {folder / 'data'}\n"


async def test_the_socket_is_private_and_one_that_a_killed_server_left_is_replaced(folder: Path) -> None:
    config = config_of(folder, MOCK)
    path = folder / "data" / FILE_NAME
    async with open_daemon(config) as daemon:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        daemon.process.send_signal(signal.SIGKILL)
        await daemon.process.wait()
    assert path.exists()
    with pytest.raises(Unavailable, match="no server runs"):
        await ask_server(folder / "data", {"do": "brokers"}, wait_s=5)
    async with open_daemon(config) as daemon:
        assert await ask_server(folder / "data", {"do": "brokers"}, wait_s=5)
        assert await daemon.stop() == 0
    assert not path.exists()


async def test_the_folders_path_may_be_longer_than_that_of_a_socket(folder: Path) -> None:
    deep = folder / ("d" * 100) / ("e" * 100)
    config = config_of(folder, MOCK, data_dir=str(deep))
    async with open_daemon(config) as daemon:
        assert await ask_server(deep, {"do": "brokers"}, wait_s=5)
        assert await daemon.stop() == 0


async def test_what_is_no_request_gets_an_error_and_disturbs_nothing(folder: Path) -> None:
    config = config_of(folder, MOCK)
    async with open_daemon(config) as daemon:
        path = str(data_dir(daemon) / FILE_NAME)
        for text, answer in (
            (b"no JSON\n", b'{"error":'),
            (b"[]\n", b'{"error":'),
            (b'{"do": "\xff"}\n', b'{"error":'),
            (b"{}\n", b'{"error":'),
            (b'{"do": 3}\n', b'{"error":'),
            (b'{"do": "restart-broker", "broker": ["mock"]}\n', b'{"error":'),
            (b"x" * (2 * MAX_BYTES), b""),
            (b"", b'{"error":'),
        ):
            async with await trio.open_unix_socket(path) as stream:
                with trio.fail_after(60):
                    try:
                        await stream.send_all(text)
                        await stream.send_eof()
                        received = await stream.receive_some(4096)
                    except trio.BrokenResourceError:  # cut off in the middle
                        received = b""
                assert received.startswith(answer), text
                assert bool(received) is bool(answer), text
        held = socket.socket(socket.AF_UNIX)
        held.connect(path)  # says nothing, and holds up nobody
        with pytest.raises(Rejected, match="expected one of"):
            await ask_server(data_dir(daemon), {"do": "nothing"}, wait_s=5)
        held.close()
        assert await daemon.stop() == 0


async def test_a_file_in_the_sockets_place_is_not_touched(folder: Path) -> None:
    config = config_of(folder, MOCK)
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / FILE_NAME).write_text("mine")
    async with open_daemon(config) as daemon:
        await daemon.wait_log("a part of the server failed")
        assert (await daemon.get("/health/live")).status_code == 200
        assert await daemon.stop() == 0
    assert (folder / "data" / FILE_NAME).read_text() == "mine"

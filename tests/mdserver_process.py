"""Processes of mdserver, forked by a process that has imported it: see :mod:`tests.fork_server`.

Importing takes a second of computing, and the tests start mdserver hundreds of times. What is about the start itself
runs the command, as ``trio.lowlevel.open_process`` does.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

__all__ = ["MdserverProcess", "open_mdserver", "run_mdserver"]

PROGRAM = Path(__file__).with_name("fork_server.py")
END_S = 30.0

_socket: socket.socket | None = None


class MdserverProcess:
    """A running process; what of :class:`trio.Process` the tests need."""

    def __init__(self, args: Sequence[str], pid: int, told: socket.socket, stdout: int, stderr: int) -> None:
        self.args = args
        self.pid = pid
        self.stdout = trio.lowlevel.FdStream(stdout)
        self.stderr = trio.lowlevel.FdStream(stderr)
        self._told = told
        self._code: int | None = None
        self._waiting = trio.Lock()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None:
            with contextlib.suppress(BlockingIOError):
                self._code = _number(self._told.recv(4, socket.MSG_DONTWAIT))
                self._told.close()
        return self._code

    async def wait(self) -> int:
        """Wait for its end; return the exit code."""
        async with self._waiting:
            while self.returncode is None:
                await trio.lowlevel.wait_readable(self._told)
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def open_mdserver(arguments: Sequence[str], env: Mapping[str, str]) -> MdserverProcess:
    """Start mdserver with arguments, without any input, its output in pipes."""
    mine, its = socket.socketpair()
    out, its_out = os.pipe()
    err, its_err = os.pipe()
    with its, open(os.devnull, "rb") as nothing:  # noqa: PTH123 - opens no file of a disk
        request = {"arguments": list(arguments), "environment": dict(env), "folder": str(Path.cwd())}
        descriptors = [nothing.fileno(), its_out, its_err, its.fileno()]
        socket.send_fds(_fork_server(), [json.dumps(request).encode()], descriptors)
    os.close(its_out)
    os.close(its_err)
    await trio.lowlevel.wait_readable(mine)
    pid = _number(mine.recv(4))
    return MdserverProcess(["mdserver", *arguments], pid, mine, out, err)


async def run_mdserver(
    arguments: Sequence[str], env: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run mdserver to its end, which comes at once if this is cancelled."""
    process = await open_mdserver(arguments, env)
    parts: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    async def read(name: str, stream: trio.abc.ReceiveStream) -> None:
        async with stream:
            async for part in stream:
                parts[name] += part

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "stdout", process.stdout)
            nursery.start_soon(read, "stderr", process.stderr)
            code = await process.wait()
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, code, **parts)


def _number(message: bytes) -> int:
    if len(message) != 4:
        raise RuntimeError("the fork server has ended")
    return int.from_bytes(message, "big", signed=True)


def _fork_server() -> socket.socket:
    """Return the socket to this process's fork server, started now if there is none."""
    global _socket
    if _socket is None:
        _socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # what a test adds to the environment is for its own processes
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with its:
            process = subprocess.Popen(
                [sys.executable, PROGRAM, str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=env,
            )
        atexit.register(_end, process)
    return _socket


def _end(process: subprocess.Popen[bytes]) -> None:
    assert _socket is not None
    _socket.close()
    process.wait(END_S)

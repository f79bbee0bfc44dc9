"""A Redis of a test's own, which it may stop, freeze and start again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["RedisServer", "free_port", "running_redis"]

START_S = 20.0


def free_port() -> int:
    """Return a port on loopback that nothing listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """One redis-server on loopback, without persistence: started again it is empty."""

    def __init__(self, folder: Path, program: str, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while b"Ready to accept connections" not in (self._folder / "redis.log").read_bytes():
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError((self._folder / "redis.log").read_text())
            time.sleep(0.01)

    def send(self, signal_: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP and SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal_)

    def kill(self) -> None:
        """End it with SIGKILL; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            (self._folder / "redis.log").unlink()
            self._process = None


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run a Redis. Skips where there is none, but not in CI."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        if os.environ.get("CI"):
            raise RuntimeError("redis-server is not installed: apt-get install redis-server")
        pytest.skip("redis-server is not installed")
    server = RedisServer(folder, program, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()

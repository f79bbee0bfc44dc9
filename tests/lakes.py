"""A real S3 server on loopback for the session, and lakes on it or in a folder."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from mdserver.config import LakeConfig

KEY_ID, SECRET = "lake-key-id", "lake-secret-value"
START_S = 30.0

_numbers = itertools.count(1)


@contextmanager
def running_s3() -> Iterator[str]:
    """Run moto's server; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                httpx2.get(f"{address}/moto-api/data.json", timeout=2)
                break
            except httpx2.TransportError:
                assert process.poll() is None, "moto's server ended"
                assert time.monotonic() < deadline, "moto's server did not start"
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def new_bucket(address: str) -> LakeConfig:
    """Make a bucket, and return the settings of a lake in it."""
    name = f"bucket-{next(_numbers)}"
    httpx2.put(f"{address}/{name}", timeout=5).raise_for_status()
    return LakeConfig(
        url=f"s3://{name}/md",
        endpoint=address,
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
        timeout_s=10,
        retry_for_s=2,
    )

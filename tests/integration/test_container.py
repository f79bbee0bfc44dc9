"""The Containerfile: linted, and with ``--long`` built, started, killed and started anew over its volume."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import psutil
import pytest
import trio

from .redis import free_port

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "Containerfile"
BASE = os.environ.get("MDSERVER_TEST_BASE")
"""An image with Python to build upon in place of the public one, such as one of debootstrap's."""
USER = 10001
IMAGE = "mdserver-test"


def test_hadolint_has_no_complaint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, CONTAINERFILE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_last_stage_runs_as_a_user_without_privileges() -> None:
    stages = re.split(r"(?m)^FROM ", CONTAINERFILE.read_text())
    last = stages[-1]
    assert re.findall(r"(?m)^(?:USER|VOLUME|STOPSIGNAL|ENTRYPOINT) .*", last) == [
        f"USER {USER}:0",
        "VOLUME /data",
        "STOPSIGNAL SIGTERM",
        'ENTRYPOINT ["mdserver"]',
    ]
    assert "HEALTHCHECK" in last
    assert "pip" not in last


def buildah(*arguments: str | Path) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Build the image from what git knows."""
    if not request.config.getoption("long"):
        pytest.skip("the build takes minutes: --long")
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in files.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    base = ["--build-arg", f"PYTHON={BASE}"] if BASE else []
    buildah("bud", "--isolation", "chroot", "--format", "docker", *base, "-t", IMAGE, source)
    try:
        yield
    finally:
        buildah("rmi", IMAGE)


@contextmanager
def container() -> Iterator[str]:
    """Yield a container of the image, with an empty volume."""
    name = buildah("from", IMAGE)
    try:
        yield name
    finally:
        buildah("rm", name)


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("user", [USER, 1_234_567])
async def test_built_killed_and_started_anew(user: int) -> None:
    """As the image's user and as one without a name: PostgreSQL starts, ``kill -9`` loses nothing, SIGTERM ends it."""
    with container() as name:
        counts = [await ticks_before(number, name, user) for number in (signal.SIGKILL, signal.SIGTERM)]
    assert counts[1] >= counts[0]


async def ticks_before(number: signal.Signals, container: str, user: int) -> int:
    """Run the server until it has stored ticks, send it a signal; return how many it had."""
    port = free_port()
    command = ["buildah", "run", "--isolation", "chroot", "--user", f"{user}:0"]
    command += ["--env", "MDSERVER_ALLOW_ANONYMOUS=true", container, "--"]
    command += ["mdserver", "run", "--host", "127.0.0.1", "--port", str(port)]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, check=False))
        count = await count_ticks(port)
        server = server_of(process.pid)
        assert server.uids().effective == user
        server.send_signal(number)
    return count


async def count_ticks(port: int) -> int:
    """Wait until the server is ready and stores; return how many ticks it has."""
    with trio.fail_after(120):
        while True:
            try:
                async with httpx2.AsyncClient(timeout=5) as client:
                    answer = await client.get(f"http://127.0.0.1:{port}/api/metadata?symbol=EURUSD")
                if answer.status_code == 200 and answer.json()["tick_count"] > 0:
                    return int(answer.json()["tick_count"])
            except httpx2.TransportError:
                pass
            await trio.sleep(0.2)


def server_of(pid: int) -> psutil.Process:
    """Return the server within the processes of ``buildah run``."""
    tree = psutil.Process(pid).children(recursive=True)
    (server,) = [one for one in tree if one.cmdline()[:1] == ["/opt/mdserver/bin/python"]]
    return server

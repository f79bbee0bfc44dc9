"""Images of mdserver built by buildah, and servers that run in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx2
import psutil
import pytest
import trio

from .redis import free_port

ROOT = Path(__file__).parents[2]
BASE = os.environ.get("MDSERVER_TEST_BASE")
"""An image with Python to build upon in place of the public one, such as one of debootstrap's."""
USER = 10001
READY_S = 120.0


def buildah(*arguments: str | Path) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def need_buildah(request: pytest.FixtureRequest) -> None:
    """Skip with the reason where no image can be built."""
    if not request.config.getoption("long"):
        pytest.skip("the build takes minutes: --long")
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")


@contextmanager
def image_of(source: Path, name: str, *arguments: str) -> Iterator[str]:
    """Build an image of a folder of sources, and remove it in the end."""
    base = ["--build-arg", f"PYTHON={BASE}"] if BASE else []
    buildah("bud", "--isolation", "chroot", "--format", "docker", *base, *arguments, "-t", name, source)
    try:
        yield name
    finally:
        buildah("rmi", name)


def copy_sources(to: Path) -> Path:
    """Copy what git knows, as it lies here; return the folder."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in files.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


@contextmanager
def container_of(image: str) -> Iterator[str]:
    """Yield a container of the image, with an empty volume."""
    name = buildah("from", image)
    try:
        yield name
    finally:
        buildah("rm", name)


@attrs.define
class Running:
    """A server in a container. ``process`` is buildah's."""

    base: str
    process: trio.Process

    @property
    def ws(self) -> str:
        return self.base.replace("http", "ws", 1) + "/"

    def server(self) -> psutil.Process:
        """Return the server within the processes of ``buildah run``."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        (server,) = [one for one in tree if one.cmdline()[:1] == ["/opt/mdserver/bin/python"]]
        return server

    def postgres(self) -> list[psutil.Process]:
        """Return the processes of the embedded PostgreSQL, the postmaster first."""
        tree = self.server().children(recursive=True)
        return [one for one in tree if re.search(r"\bpostgres\b", " ".join(one.cmdline())) is not None]

    async def get(self, path: str, **query: str | int | float) -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=self.base, timeout=10) as client:
            return await client.get(path, params=query)

    async def ticks(self) -> int:
        """Wait until the server is ready and has stored ticks; return how many."""
        with trio.fail_after(READY_S):
            while True:
                try:
                    answer = await self.get("/api/metadata", symbol="EURUSD")
                    if answer.status_code == 200 and answer.json()["tick_count"] > 0:
                        return int(answer.json()["tick_count"])
                except httpx2.TransportError:
                    pass
                await trio.sleep(0.2)


def run_command(container: str, port: int, *, user: int = USER, volume: Path | None = None) -> list[str]:
    """Return the command line of a server in a container, over a folder in place of its volume if one is given.

    The folder is at a path of its own, because buildah puts the container's own volume over what is mounted at /data.
    """
    mount = ["--volume", f"{volume}:/kept", "--env", "MDSERVER_DATA_DIR=/kept"] if volume else []
    environment = ["--env", "MDSERVER_ALLOW_ANONYMOUS=true"]
    command = ["buildah", "run", "--isolation", "chroot", "--user", f"{user}:0", *mount, *environment]
    return [*command, container, "--", "mdserver", "run", "--host", "127.0.0.1", "--port", str(port)]


@asynccontextmanager
async def running(container: str, *, user: int = USER, volume: Path | None = None) -> AsyncIterator[Running]:
    """Run a server in a container until the block ends, which must have sent it a signal."""
    port = free_port()
    command = run_command(container, port, user=user, volume=volume)
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, check=False))
        server = Running(f"http://127.0.0.1:{port}", process)
        try:
            yield server
        except BaseException:
            server.server().terminate()
            raise
        finally:
            with trio.CancelScope(shield=True), trio.fail_after(30):
                await process.wait()

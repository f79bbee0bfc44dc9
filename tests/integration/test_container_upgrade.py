"""With ``--long``: an image of an older version, then one of today over the same volume, and the older one again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import trio

from mdserver.net import open_websocket

from .containers import (
    ROOT,
    USER,
    Running,
    container_of,
    copy_sources,
    image_of,
    need_buildah,
    run_command,
    running,
)
from .daemon import open_stream
from .redis import free_port

OLDER = "b61e1afd4143b31698d35523d29bbe850aac7b4e"
"""The commit of the older version: migrations up to 0012, no lake, no bus."""

Record = dict[str, Any]


@pytest.fixture(scope="module")
def older_image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the older version with today's Containerfile, since its own has no other base than the public one."""
    need_buildah(request)
    archive = subprocess.run(["git", "archive", OLDER], cwd=ROOT, capture_output=True)
    if archive.returncode != 0:
        pytest.skip(f"this clone has no commit {OLDER}")
    source = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(source, filter="data")
    (source / "Containerfile").write_text((ROOT / "Containerfile").read_text().replace(" --extra bus", ""))
    # What LAKE=no leaves out it does not have.
    with image_of(source, "mdserver-test-older", "--build-arg", "LAKE=yes") as name:
        yield name


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need_buildah(request)
    with image_of(copy_sources(tmp_path_factory.mktemp("source")), "mdserver-test-newer") as name:
        yield name


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Make a folder that the image's user may write to, as a named volume is."""
    folder = tmp_path / "volume"
    folder.mkdir()
    os.chown(folder, USER, 0)
    return folder


async def test_upgraded_over_its_volume_and_back_again(older_image: str, image: str, volume: Path) -> None:
    with container_of(older_image) as older, container_of(image) as newer:
        async with running(older, volume=volume) as server:
            await server.ticks()
            end = await closed_minute(server)
            before = await answers(server, until=end)
            shown = await shown_until_killed(server)
        assert any(path.stat().st_size > 0 for path in volume.glob("journal/*") if path.name != "seq_floor")

        async with running(newer, volume=volume) as server:
            await server.ticks()
            assert await answers(server, until=end) == before
            records = await resumed(server, shown[0], more_than=len(shown))
            server.server().send_signal(signal.SIGTERM)
        assert records[: len(shown) - 1] == shown[1:]
        assert [one["seq"] for one in records] == [*range(shown[1]["seq"], records[-1]["seq"] + 1)]

        files = listing(volume)
        done = await run_to_end(older, volume)
        assert done.returncode == 1
        (sentence,) = [line for line in done.stderr.decode().splitlines() if line.startswith("mdserver: ")]
        assert "newer than any that this version of mdserver knows" in sentence
        assert "Traceback" not in done.stderr.decode()
        assert listing(volume) == files

        async with running(newer, volume=volume) as server:
            await server.ticks()
            assert await answers(server, until=end) == before
            server.server().send_signal(signal.SIGTERM)


async def closed_minute(server: Running) -> int:
    """Wait until a minute with ticks is over and stored; return its end."""
    with trio.fail_after(150):
        while True:
            end = int(time.time()) // 60 * 60
            (before, behind) = [
                (await server.get("/api/ticks", symbol="EURUSD", **{"from": since, "to": since + 60})).json()[
                    "ticks"
                ]
                for since in (end - 60, end)
            ]
            if before and behind:
                return end
            await trio.sleep(0.5)


async def answers(server: Running, *, until: int) -> tuple[list[Record], list[Record]]:
    """Return the ticks up to a moment and their candles."""
    query: dict[str, Any] = {"symbol": "EURUSD", "from": until - 3600, "to": until - 1}
    ticks = (await server.get("/api/ticks", limit=10_000, **query)).json()["ticks"]
    candles = (await server.get("/api/candles", timeframe="1m", **query)).json()
    assert ticks
    assert candles
    return ticks, candles


async def shown_until_killed(server: Running) -> list[Record]:
    """Kill the server while its database does not answer; return the ticks that a client got until then.

    What it showed in that time is in the journal alone.
    """
    shown: list[Record] = []
    async with open_stream(server.ws, "EURUSD") as receive:
        while len(shown) < 20:
            shown += await receive()
        processes = [server.server(), *server.postgres()]
        for one in processes[1:]:
            one.suspend()
        count = len(shown)
        while len(shown) < count + 50:
            shown += await receive()
        for one in processes:
            one.kill()
    return shown


async def resumed(server: Running, last: Record, *, more_than: int) -> list[Record]:
    """Return the ticks behind the last one that a client had, up to live ones."""
    request = {
        "action": "subscribe",
        "symbols": ["EURUSD"],
        "broker": last["broker"],
        "since": {"seq": last["seq"]},
    }
    records: list[Record] = []
    live = False
    with trio.fail_after(60):
        async with open_websocket(server.ws) as ws:
            await ws.send(json.dumps(request))
            while not live or len(records) <= more_than:
                for message in map(json.loads, await ws.receive()):
                    records += [message] if message["type"] == "tick" else []
                    live = live or message.get("message") == "replay complete"
    return records


async def run_to_end(container: str, volume: Path) -> subprocess.CompletedProcess[bytes]:
    command = run_command(container, free_port(), volume=volume)
    with trio.fail_after(120):
        return await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)


def listing(volume: Path) -> dict[str, bytes]:
    """Return the files of the volume but the lock with its process id and PostgreSQL's, which change at every start."""
    found = (path for path in volume.rglob("*") if path.is_file() and "postgres" not in path.parts)
    found = (path for path in found if path.name != "mdserver.lock")
    return {str(path.relative_to(volume)): path.read_bytes() for path in found}

"""What a running process says of a bus that is not as it should be: one sentence each, and it runs on."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
from click.testing import CliRunner

from mdserver.bus.engine import Position
from mdserver.bus.names import answers_key, stream_key
from mdserver.bus.redis_engine import open_redis
from mdserver.commands import bus as bus_command
from mdserver.config import BrokerEntry, BusConfig, Config, DatabaseConfig
from mdserver.journal.format import MAGIC, FrameEncoder
from mdserver.model import Published, Tick, Topic

from .daemon import Daemon, open_daemon, write_config
from .importing import as_url
from .redis import running_redis

A_MINUTE_AHEAD = """
import time
real, real_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: real() + 60, lambda: real_ns() + 60_000_000_000
"""
STREAM = stream_key("mock")


def frame(number: int) -> bytes:
    tick = Tick("EURUSD", time.time_ns() // 1000 + number, 1.0, 1.1)
    return bytes(FrameEncoder().encode([Published(Topic("mock", "EURUSD", "tick"), number, tick)]))


async def broker(edge: Daemon, state: str) -> dict[str, Any]:
    """Wait until the edge's broker is in a state; return it."""
    with trio.fail_after(60):
        while True:
            found: dict[str, Any] = (await edge.get("/api/brokers")).json()["brokers"][0]
            if found["state"] == state:
                return found
            await trio.sleep(0.05)


def status(url: str, folder: Path) -> str:
    config = Config(
        bus=BusConfig(url=url),
        database=DatabaseConfig(url="postgresql:///x"),
        brokers=(BrokerEntry("mock", "mock"),),
        data_dir=folder,
    )
    done = CliRunner().invoke(bus_command.bus_, ["status"], obj=SimpleNamespace(config=config))
    assert done.exit_code == 1, done.output  # nobody leads
    return done.output


@pytest.mark.slow
async def test_an_edge_says_what_is_wrong_with_the_bus_and_runs_on(folder: Path, database_url: str) -> None:
    with running_redis(folder) as redis:
        config = write_config(
            folder,
            database={"url": as_url(database_url)},
            bus={"url": redis.url, "role": "edge"},
            brokers=[{"name": "mock", "symbols": ["EURUSD"]}],
        )
        async with open_redis(redis.url) as bus:
            await bus.put(STREAM, b"of another program", 60)
            async with open_daemon(config, before=A_MINUTE_AHEAD) as edge:
                assert (
                    "a key of that name holds something else" in (await broker(edge, "backoff"))["last_error"]
                )

                await bus.forget(STREAM)
                says = msgspec.msgpack.encode(["another", 1, "live", "connected", []])
                await bus.put(answers_key("mock"), says, 60)
                await bus.append(STREAM, Position(1, 0), [frame(1)])
                await broker(edge, "live")

                await bus.append(STREAM, Position(1, 1), [MAGIC[:-1] + b"2" + frame(2)[len(MAGIC) :]])
                sentence = "it is of version 2 and this process reads version 1"
                assert sentence in (await broker(edge, "degraded"))["changes"][0]["message"]
                assert sentence in (await edge.wait_log("an entry of the bus was skipped"))["error"]
                await bus.append(STREAM, Position(1, 2), [frame(2)])
                await broker(edge, "live")

                apart = await edge.wait_log("the clocks of this process and of the bus differ")
                assert apart["ahead_s"] == pytest.approx(60, abs=2)
                shown = await trio.to_thread.run_sync(status, redis.url, folder)
                assert re.search(
                    r"The clock of \w+ is (59|60)\.\d s ahead of that of Redis: set both by NTP", shown
                )
                assert "nobody" in shown
                assert (await edge.get("/health/live")).status_code == 200
                assert await edge.stop() == 0
                assert not [line for line in edge.lines if "exception" in line or "Traceback" in str(line)]

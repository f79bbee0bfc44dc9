"""Gaps filled from a venue's own history, by a real server and by the command."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from mdserver.backfill import GapFiller, gaps_to_fill
from mdserver.errors import Rejected, Unavailable
from mdserver.model import Feed, Gap, Published, Record, Tick
from mdserver.net import open_websocket
from mdserver.store.connection.database import Database
from mdserver.store.store import Store
from tests.mdserver_process import run_mdserver

from .daemon import Daemon, clean_environment, open_daemon, write_config
from .test_daemon import broken_distribution
from .test_reload import Watching
from .test_write_batch import EURUSD, START_US

TAPE = """
import attrs, time, trio, mdserver.plugin as p
from mdserver.errors import Rejected, Unavailable
from mdserver.model import Trade
from mdserver.net import HttpRefused
EVERY_US = 20_000
def trade(number):
    return Trade('BTCUSDT', number * EVERY_US, 100.0 + number % 50, 1.0, 'buy', str(number))
@attrs.frozen
class C:
    history: str = 'there'
class Tape:
    '''A venue that trades every 20 ms for ever, each trade with the number that its time gives.'''
    def __init__(self, config): self.config = config
    async def run(self, host, *, task_status):
        task_status.started()
        await trio.sleep(0.6)
        next_one = time.time_ns() // 1000 // EVERY_US
        while True:
            await trio.sleep(0.005)
            now = time.time_ns() // 1000 // EVERY_US
            host.publish([trade(n) for n in range(next_one, now)])
            next_one = now
    async def backfill(self, feed, from_us, to_us):
        if self.config.history == 'gone':
            raise Rejected('the venue keeps no trades so old')
        if self.config.history == 'key':
            refused = HttpRefused('HTTP 403', status=403, body='wrong key')
            raise Rejected('the venue refuses the key') from refused
        if self.config.history == 'busy':
            raise Unavailable('the venue is busy')
        if self.config.history == 'broken':
            raise ZeroDivisionError('a bug')
        numbers = range(-(-from_us // EVERY_US), to_us // EVERY_US + 1)
        for start in range(0, len(numbers), 7):
            yield [trade(n) for n in numbers[start:start + 7]]
plugin = p.BrokerPlugin('tape', '', C, Tape, types=('trade',), candles_from='trade', silence_s=None)
"""

SOON = """
import mdserver.daemon.backfill as b
b.LOOK_EVERY_S, b.SETTLED_S, b.BATCHES_PER_MINUTE = 0.2, 0.5, 6000
"""


@pytest.fixture
def config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "tape", TAPE)))
    return write_config(folder, brokers=[{"name": "tape", "symbols": ["BTCUSDT"]}])


async def run_command(config: Path, *arguments: str) -> tuple[int, str, str]:
    with trio.fail_after(60):
        done = await run_mdserver(["run", "--config", str(config), *arguments], clean_environment())
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def make_gap(daemon: Daemon, config: Path, broker: str = "tape") -> None:
    """Have the broker begin a new session, and wait until the gap that has ended is in the ledger."""
    code, _, errors = await run_command(config, "broker", "restart", broker)
    assert code == 0, errors
    with trio.fail_after(60):
        while not any(gap["broker"] == broker for gap in await gaps_of(daemon)):
            await trio.sleep(0.05)


async def gaps_of(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the gaps that have ended."""
    found: list[dict[str, Any]] = (await daemon.get("/api/gaps")).json()["gaps"]
    return [gap for gap in found if gap["to"] is not None]


async def trades_of(daemon: Daemon) -> list[dict[str, Any]]:
    """Return all stored trades."""
    query = {"symbol": "BTCUSDT", "from": 0, "to": 4_000_000_000, "limit": 10_000}
    found: list[dict[str, Any]] = (await daemon.get("/api/trades", **query)).json()["trades"]
    return found


def whole(trades: list[dict[str, Any]]) -> bool:
    """Whether there is each trade of the time from the first to the last, once."""
    ids = [int(trade["trade_id"]) for trade in trades]
    return ids == list(range(ids[0], ids[-1] + 1))


async def test_the_command_fills_a_gap_and_clients_are_told_but_sent_nothing_old(
    folder: Path, config: Path
) -> None:
    async with open_daemon(config) as daemon, open_websocket(daemon.ws) as ws:
        client = Watching(ws)
        await client.subscribe("BTCUSDT", types=["trade"])
        seen = await client.until(lambda m: m["type"] == "trade")
        await make_gap(daemon, config)
        seen += await client.until(lambda m: m["type"] == "gap" and "to" in m)
        gap = seen[-1]
        assert (gap["cause"], gap["state"]) == ("restart", "open")
        assert not whole(await trades_of(daemon))
        code, output, _ = await run_command(config, "backfill", "--json")
        result = json.loads(output)
        assert (code, result["filled"], result["open"]) == (0, 1, 0)
        assert result["records"] > 20
        seen += await client.until(lambda m: m["type"] == "gap" and "to" in m)
        assert (seen[-1]["state"], seen[-1]["from"], seen[-1]["to"]) == ("filled", gap["from"], gap["to"])
        assert [one["state"] for one in await gaps_of(daemon)] == ["filled"]
        stored = await trades_of(daemon)
        assert whole(stored)
        live = [m for m in seen if m["type"] == "trade"]
        assert [m["seq"] for m in live] == list(range(live[0]["seq"], live[0]["seq"] + len(live)))
        assert not any(gap["from"] < m["time"] < gap["to"] for m in live)
        code, output, _ = await run_command(config, "backfill")
        assert (code, output) == (0, "gaps filled 0, permanent 0, still open 0; records added 0\n")
        code, output, errors = await run_command(config, "backfill", "--broker", "nobody")
        assert (code, "expected a running one: tape" in errors) == (1, True)
        assert await daemon.stop() == 0
    code, output, _ = await run_command(config, "check", "--json")
    assert json.loads(output)["ok"], output


async def test_the_server_fills_gaps_by_itself(config: Path) -> None:
    async with open_daemon(config, before=SOON) as daemon:
        await daemon.wait_stored("BTCUSDT", 20, "trade")
        await make_gap(daemon, config)
        line = await daemon.wait_log("a gap was filled")
        assert line["records"] > 20
        assert whole(await trades_of(daemon))
        metrics = (await daemon.get("/metrics")).text
        assert 'mdserver_gaps_filled_total{broker="tape",state="filled"} 1.0' in metrics
        assert await daemon.stop() == 0


async def test_without_a_server_the_command_does_it_itself(config: Path) -> None:
    async with open_daemon(config) as daemon:
        await daemon.wait_stored("BTCUSDT", 20, "trade")
        await make_gap(daemon, config)
        assert await daemon.stop() == 0
    code, output, errors = await run_command(config, "backfill", "--broker", "tape")
    assert (code, output.split(";")[0]) == (0, "gaps filled 1, permanent 0, still open 0"), errors
    async with open_daemon(config) as daemon:
        assert (await gaps_of(daemon))[0]["state"] == "filled"
        assert await daemon.stop() == 0


async def test_what_cannot_be_had_is_told(folder: Path, config: Path) -> None:
    expected = {
        "gone": ("permanent", "the venue keeps no trades so old"),
        "key": ("open", "the venue refuses the key"),
        "busy": ("open", "the venue is busy"),
        "broken": ("open", "a bug"),
    }
    brokers = [{"name": name, "plugin": "tape", "symbols": ["BTCUSDT"], "history": name} for name in expected]
    write_config(folder, brokers=brokers)
    async with open_daemon(config) as daemon:
        await daemon.wait_stored("BTCUSDT", 60, "trade")
        for name in expected:
            await make_gap(daemon, config, name)
        for name, (state, why) in expected.items():
            code, _, errors = await run_command(config, "backfill", "--broker", name)
            assert (code, errors) == (0 if state == "permanent" else 1, f"{name}: 1 {state}: {why}\n")
        found = {one["broker"]: one["state"] for one in await gaps_of(daemon)}
        assert found == {name: state for name, (state, _) in expected.items()}
        code, output, _ = await run_command(config, "backfill", "--broker", "gone")
        assert (code, output.split(";")[0]) == (0, "gaps filled 0, permanent 0, still open 0")
        code, output, _ = await run_command(config, "backfill", "--broker", "gone", "--retry-permanent")
        assert (code, output.split(";")[0]) == (0, "gaps filled 0, permanent 1, still open 0")
        assert await daemon.stop() == 0


class Archive:
    """A venue's past, which refuses, is unavailable or is there."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.asked = 0

    async def backfill(self, feed: Feed, from_us: int, to_us: int) -> AsyncGenerator[Sequence[Record]]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        yield [Tick(feed.symbol, from_us + 1, 1.0, 1.1)]


async def test_what_a_venue_refused_is_tried_again_on_request_alone(database: Database) -> None:
    store, archive, told = Store(database), Archive(), list[Gap]()
    before, after = Tick("EURUSD", START_US, 1.0, 1.1), Tick("EURUSD", START_US + 9_000_000, 1.0, 1.1)
    missed = Gap(EURUSD, START_US, START_US + 9_000_000, "disconnected")
    gone = Gap(EURUSD, START_US, START_US + 5_000_000, "deleted", 3, "permanent")
    await store.write(
        [Published(EURUSD, 1, before), Published(EURUSD, 1, missed), Published(EURUSD, 1, gone)]
    )
    await store.write([Published(EURUSD, 2, after)])
    filler = GapFiller(store, lambda _: archive, on_changed=told.append, log=structlog.get_logger())

    async def fill(fault: Exception | None, *, retry: bool = True) -> list[str]:
        archive.fault, archive.asked = fault, 0
        told.clear()
        gaps = await gaps_to_fill(store, EURUSD.broker, None, retry_permanent=retry)
        states = [(await filler.fill(gap)).state for gap in gaps]
        kept = await store.gaps(0, 1 << 60, limit=9)
        assert [gap.state for gap in kept if gap.cause == "disconnected"] == states or not states
        assert [gap.state for gap in kept if gap.cause == "deleted"] == ["permanent"]
        assert archive.asked == len(states)
        return [gap.state for gap in told]

    refused, busy = Rejected("the venue keeps no ticks"), Unavailable("busy")
    assert await fill(refused) == ["permanent"]
    assert await fill(None, retry=False) == []
    assert archive.asked == 0
    assert await fill(refused) == []  # nothing has changed
    assert archive.asked == 1
    assert await fill(busy) == ["open"]
    assert await fill(refused, retry=False) == ["permanent"]
    assert await fill(None) == ["filled"]
    assert await fill(None) == []
    assert archive.asked == 0

"""Every hole that can be known is in the ledger, with its cause: a fake Kraken, a real daemon, a real database."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import psycopg
import trio
import yaml

from mdserver.net import open_websocket
from mdserver.testing.kraken import FakeKraken, KrakenRules, open_fake_kraken

from .daemon import Daemon, open_daemon, write_config
from .importing import as_url

SYMBOL = "BTC/USD"


@attrs.define
class Desk:
    """A daemon that stores trades of a fake Kraken."""

    venue: FakeKraken
    daemon: Daemon

    async def gaps(self, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.daemon.get("/api/gaps", **query)).json()["gaps"]
        return found

    async def wait_gap(self, cause: str, *, lasts: bool = False, symbol: str = "BTCUSD") -> dict[str, Any]:
        """Wait until the ledger has one gap of this cause that has ended, or lasts; return it."""
        with trio.fail_after(60):
            while True:
                for gap in await self.gaps(symbol=symbol):
                    if gap["cause"] == cause and (gap["to"] is None) == lasts:
                        return gap
                await trio.sleep(0.05)

    async def served(self, symbol: str = SYMBOL, *, but: object = None) -> None:
        """Wait until a session has a subscription, the newest one, and not that of the client ``but``."""
        venue = self.venue
        with trio.fail_after(60):
            await venue.wait_until(
                lambda: (
                    bool(venue.clients)
                    and venue.clients[-1] is not but
                    and f"trade:{symbol}" in venue.clients[-1].topics
                )
            )

    async def trade(self, symbol: str = SYMBOL, *, skip_ids: int = 0, count: int = 1) -> float:
        """Have the venue trade, wait until it is stored; return the time."""
        await self.served(symbol)
        done = self.venue.trade(symbol, count, skip_ids=skip_ids)
        name = symbol.replace("/", "")
        with trio.fail_after(60):
            while True:
                query = {"symbol": name, "from": 0, "to": 4_000_000_000, "limit": 10_000}
                answer = await self.daemon.get("/api/trades", **query)
                rows = answer.json()["trades"] if answer.status_code == 200 else []
                if rows and rows[-1]["trade_id"] == str(done[-1].trade_id):
                    return float(rows[-1]["time"])
                await trio.sleep(0.05)

    async def hole(self, cause: str, make: Callable[[], object]) -> dict[str, Any]:
        """Make a hole between two trades; return it as it is in the ledger."""
        before = await self.trade()
        client = self.venue.clients[-1]
        make()
        lasting = await self.wait_gap(cause, lasts=True)
        assert lasting["from"] == before
        await self.served(but=client)
        after = await self.trade()
        gap = await self.wait_gap(cause)
        assert (gap["from"], gap["to"], gap["state"]) == (before, after, "open")
        assert [one for one in await self.gaps() if one["to"] is None] == []
        return gap


def write(folder: Path, url: str, venue: FakeKraken, **sections: Any) -> Path:
    broker = {
        "name": "kraken",
        "url": venue.url,
        "rest_url": venue.rest_url,
        "symbols": ["BTCUSD"],
        "types": ["trade"],
        "silence_s": 2.0,
        "backoff": {"first_s": 0.1, "most_s": 0.3},
    }
    database = {"url": as_url(url), "flush_ms": 20}
    return write_config(folder, brokers=[broker], database=database, **sections)


@asynccontextmanager
async def open_desk(folder: Path, url: str, venue: FakeKraken, **sections: Any) -> AsyncIterator[Desk]:
    async with open_daemon(write(folder, url, venue, **sections)) as daemon:
        yield Desk(venue, daemon)


async def test_each_cause_is_in_the_ledger_from_its_beginning(folder: Path, database_url: str) -> None:
    async with (
        open_fake_kraken(KrakenRules(pace_s=math.inf, heartbeat_s=0.5)) as venue,
        open_desk(folder, database_url, venue) as desk,
    ):
        await desk.hole("disconnected", venue.reset)
        await desk.hole("silence", venue.go_dark)

        before = await desk.trade()
        after = await desk.trade(skip_ids=4)
        missed = await desk.wait_gap("missed")
        assert (missed["from"], missed["to"], missed["size"]) == (before, after, 4)

        pair = venue.markets[SYMBOL].pair

        def delist() -> None:
            venue.list_pair(attrs.evolve(pair, status="delisted"))

        before = await desk.trade()
        delist()
        assert (await desk.wait_gap("refused", lasts=True))["from"] == before
        venue.list_pair(pair)
        after = await desk.trade()
        gap = await desk.wait_gap("refused")
        assert (gap["from"], gap["to"]) == (before, after)

        request = {"action": "subscribe", "symbols": ["ETHUSD"], "types": ["trade"]}
        async with open_websocket(desk.daemon.ws) as client:
            await client.send(json.dumps(request))
            before = await desk.trade("ETH/USD")
        assert (await desk.wait_gap("unsubscribed", lasts=True, symbol="ETHUSD"))["from"] == before
        async with open_websocket(desk.daemon.ws) as client:
            await client.send(json.dumps(request))
            after = await desk.trade("ETH/USD")
            gap = await desk.wait_gap("unsubscribed", symbol="ETHUSD")
            assert (gap["from"], gap["to"]) == (before, after)


async def test_a_gap_that_lasts_when_the_server_is_killed_is_there_when_it_is_back(
    folder: Path, database_url: str
) -> None:
    async with open_fake_kraken(KrakenRules(pace_s=math.inf, heartbeat_s=0.5)) as venue:
        async with open_desk(folder, database_url, venue) as desk:
            before = await desk.trade()
            venue.refuse()
            venue.reset()
            await desk.wait_gap("disconnected", lasts=True)
            desk.daemon.process.send_signal(signal.SIGKILL)
            await desk.daemon.process.wait()
        async with open_desk(folder, database_url, venue) as desk:
            (gap,) = await desk.gaps()
            assert (gap["from"], gap["to"], gap["cause"]) == (before, None, "disconnected")
            venue.admit()
            after = await desk.trade()
            gap = await desk.wait_gap("disconnected")
            assert (gap["from"], gap["to"]) == (before, after)


async def test_nothing_is_lost_unnamed_over_a_sleep_a_reload_and_a_kill_at_once(
    folder: Path, database_url: str
) -> None:
    async with open_fake_kraken(KrakenRules(pace_s=math.inf, heartbeat_s=0.5)) as venue:
        async with open_desk(folder, database_url, venue) as desk:
            before = await desk.trade()
            client = venue.clients[-1]
            desk.daemon.process.send_signal(signal.SIGSTOP)  # a laptop that sleeps
            venue.reset()
            venue.trade(SYMBOL)
            desk.daemon.process.send_signal(signal.SIGCONT)
            await desk.served(but=client)
            after = await desk.trade()
            gap = await desk.wait_gap("disconnected")
            assert (gap["from"], gap["to"]) == (before, after)

            config = yaml.safe_load((folder / "config.yaml").read_text())
            broker = config["brokers"][0]

            async def reload(*brokers: dict[str, Any]) -> None:
                (folder / "config.yaml").write_text(yaml.safe_dump({**config, "brokers": list(brokers)}))
                count = len(desk.daemon.lines)
                desk.daemon.process.send_signal(signal.SIGHUP)
                await desk.daemon.wait_log("the config was reloaded", after=count)

            for without, cause in (([{**broker, "symbols": ["DOGEUSD"]}], "unsubscribed"), ([], "restart")):
                before, client = await desk.trade(), venue.clients[-1]
                await reload(*without)
                assert (await desk.wait_gap(cause, lasts=True))["from"] == before
                await reload(broker)
                await desk.served(but=None if without else client)
                after = await desk.trade()
                gap = await desk.wait_gap(cause)
                assert (gap["from"], gap["to"]) == (before, after)

            request = {"action": "subscribe", "symbols": ["ETHUSD"], "types": ["trade"]}
            async with open_websocket(desk.daemon.ws) as ws:
                await ws.send(json.dumps(request))
                await desk.served("ETH/USD")
                venue.trade("ETH/USD")
                with trio.fail_after(30):
                    seen: list[dict[str, Any]] = []
                    while not seen:
                        seen = [one for one in map(json.loads, await ws.receive()) if one["type"] == "trade"]
                desk.daemon.process.send_signal(signal.SIGKILL)
                await desk.daemon.process.wait()
        async with open_desk(folder, database_url, venue) as desk:
            assert (await desk.wait_gap("restart", lasts=True, symbol="ETHUSD"))["from"] == seen[0]["time"]
            await desk.daemon.wait_stored("ETHUSD", 1, "trade")


async def test_what_a_full_journal_did_not_take_is_in_the_ledger_with_its_number(
    folder: Path, database_url: str
) -> None:
    async with (
        open_fake_kraken(KrakenRules(pace_s=math.inf)) as venue,
        open_desk(folder, database_url, venue, journal={"max_bytes": 1 << 20}) as desk,
    ):
        await desk.trade()
        with psycopg.connect(database_url) as conn:
            conn.execute("lock table trades in access exclusive mode")
            for _ in range(25):
                venue.trade(SYMBOL, 1000)
                await trio.sleep(0.01)
            with trio.fail_after(60):
                refused = 0.0
                while not refused:
                    metrics = (await desk.daemon.get("/metrics")).text
                    (line,) = [
                        x for x in metrics.splitlines() if x.startswith("mdserver_journal_refused_total")
                    ]
                    refused = float(line.split()[1])
        venue.trade(SYMBOL)
        with trio.fail_after(60):  # where records come slowly, what is refused may lie in several gaps
            while True:
                gaps = [gap for gap in await desk.gaps() if gap["cause"] == "journal_full"]
                lost = sum(gap["size"] for gap in gaps)
                found = (await desk.daemon.get("/api/metadata", symbol="BTCUSD")).json()
                if found["trade_count"] + lost == 25_002:
                    break
                await trio.sleep(0.05)
        assert f"mdserver_journal_refused_total {float(lost)}" in (await desk.daemon.get("/metrics")).text

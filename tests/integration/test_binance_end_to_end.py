"""From the venue's socket to a client's: a fake Binance, the real plugin in a real daemon, a WebSocket client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio

from mdserver.net import open_websocket
from mdserver.testing.binance import BinanceRules, FakeBinance, open_fake_binance
from mdserver.testing.recorded import Frame, read_cryptofeed, read_jsonl

from .daemon import Daemon, open_daemon, open_stream, write_config

RECORDED = [
    "bmoscon+cryptofeed/BINANCE.ws.1.0",
    "bmoscon+cryptofeed/BINANCE_US.ws.1.0.first320",
    "crypto-crawler+crypto-msg-parser/binance_spot.jsonl",
]


def plain(frames: Iterable[Frame]) -> list[tuple[Any, ...]]:
    """Read single-symbol book tickers and aggregate trades in the plainest way: json and float."""
    rows: list[tuple[Any, ...]] = []
    for frame in frames:
        data = json.loads(frame.text)["data"]
        if frame.stream.endswith("@bookTicker"):
            rows.append(("tick", data["s"], *(float(data[key]) for key in "baBA")))
        elif frame.stream.endswith("@aggTrade"):
            side = "sell" if data["m"] else "buy"
            price, size = float(data["p"]), float(data["q"])
            rows.append(("trade", data["s"], data["T"] / 1000, price, size, side, str(data["a"])))
    return rows


def as_seen(message: dict[str, Any]) -> tuple[Any, ...]:
    names = (
        ("type", "symbol", "bid", "ask", "bid_size", "ask_size")
        if message["type"] == "tick"
        else ("type", "symbol", "time", "price", "size", "side", "trade_id")
    )
    return tuple(message[name] for name in names)


def still() -> BinanceRules:
    """Return the rules of a venue that sends nothing by itself: it has prices of BTCUSDT, which is recorded too."""
    return BinanceRules(pace_s=math.inf)


async def confirmed(daemon: Daemon, feeds: int) -> None:
    """Wait until the first broker's venue has confirmed so many feeds."""
    while (await daemon.get("/api/brokers")).json()["brokers"][0]["feeds"] < feeds:
        await trio.sleep(0.02)


async def through_the_daemon(folder: Path, frames: list[Frame]) -> None:
    rows = plain(frames)
    symbols = sorted({row[1] for row in rows})
    async with open_fake_binance(still()) as venue:
        broker = {"name": "binance", "url": venue.url, "trades": "aggTrade", "symbols": symbols}
        async with open_daemon(write_config(folder, brokers=[broker])) as daemon:
            async with open_stream(daemon.ws, *symbols, types=["tick", "trade"]) as receive:
                streams = [f"{s.lower()}@{kind}" for s in symbols for kind in ("bookTicker", "aggTrade")]
                with trio.fail_after(60):
                    await venue.wait_subscribed(*streams)
                    await confirmed(daemon, len(streams))
                    assert await venue.replay(frames) == len(rows)
                    seen: list[dict[str, Any]] = []
                    while len(seen) < len(rows):
                        seen += await receive()
            assert [as_seen(message) for message in seen] == rows
            counters: dict[tuple[str, str], int] = {}
            for message in seen:
                key = (message["symbol"], message["type"])
                counters[key] = counters.get(key, 0) + 1
                assert message["seq"] == counters[key]
            for (symbol, kind), count in counters.items():
                await daemon.wait_stored(symbol, count, kind)
                path, name = ("/api/ticks", "ticks") if kind == "tick" else ("/api/trades", "trades")
                answer = await daemon.get(
                    path, symbol=symbol, **{"from": 0, "to": 4_000_000_000, "limit": 1000}
                )
                stored = [as_seen({**row, "type": kind, "symbol": symbol}) for row in answer.json()[name]]
                assert stored == [as_seen(m) for m in seen if (m["symbol"], m["type"]) == (symbol, kind)]


@pytest.mark.recorded
@pytest.mark.parametrize("name", RECORDED)
async def test_recorded_frames_reach_a_client_and_the_store(
    folder: Path, recorded_data: Path, name: str
) -> None:
    path = recorded_data / name
    await through_the_daemon(folder, read_jsonl(path) if name.endswith("jsonl") else read_cryptofeed(path))


def combined(stream: str, **data: Any) -> Frame:
    return Frame(0.0, stream, json.dumps({"stream": stream, "data": data}))


def book(n: int, symbol: str = "AAAUSDT") -> Frame:
    prices = {
        "b": f"{100 + n / 100:.8f}",
        "B": "1.50000000",
        "a": f"{100.01 + n / 100:.8f}",
        "A": "0.00000001",
    }
    return combined(f"{symbol.lower()}@bookTicker", u=n, s=symbol, **prices)


def agg(n: int, symbol: str = "AAAUSDT") -> Frame:
    body = {"e": "aggTrade", "E": 1_700_000_000_000 + n, "s": symbol, "a": n, "f": n, "l": n, "M": True}
    numbers = {"p": f"{100 + n / 100:.8f}", "q": "0.12345678", "T": 1_700_000_000_000 + n, "m": n % 2 == 0}
    return combined(f"{symbol.lower()}@aggTrade", **body, **numbers)


async def test_made_up_frames_reach_a_client_and_the_store(folder: Path) -> None:
    frames = [
        make(n, symbol) for n in range(1, 60) for symbol in ("AAAUSDT", "BBBBTC") for make in (book, agg)
    ]
    await through_the_daemon(folder, frames)


BAD = [
    "not json at all",
    '{"stream":"aaausdt@bookTicker","data":{"u":1,"s":"AAAUSDT","b":"1.0"}}',
    '{"stream":"aaausdt@bookTicker","data":{"u":2,"s":"AAAUSDT","b":"NaN","B":"1","a":"2","A":"1"}}',
    '{"stream":"aaausdt@bookTicker","data":{"u":3,"s":"AAAUSDT","b":"-5","B":"1","a":"2","A":"1"}}',
    '{"stream":"aaausdt@bookTicker","data":{"u":4,"s":"AAAUSDT","b":"1e300","B":"1","a":"1e301","A":"1"}}',
    '{"stream":"aaausdt@bookTicker","data":{"u":5,"s":"AAAUSDT","b":[],"B":"1","a":"2","A":"1"}}',
    "[]",
    '"\\ud800"',
    "[" * 3000,
]


async def test_garbage_from_the_venue_is_counted_and_the_stream_goes_on(folder: Path) -> None:
    async with open_fake_binance(still()) as venue:
        broker = {"name": "binance", "url": venue.url, "symbols": ["AAAUSDT"], "types": ["tick"]}
        config = write_config(folder, brokers=[broker], database={"store": False})
        async with open_daemon(config) as daemon, open_stream(daemon.ws, "AAAUSDT") as receive:
            with trio.fail_after(60):
                await confirmed(daemon, 1)
                for n, bad in enumerate(BAD, 1):
                    await venue.replay([book(2 * n)])
                    await venue.connections[0].send_text(bad)
                    await venue.replay([book(2 * n + 1)])
                seen: list[dict[str, Any]] = []
                while len(seen) < 2 * len(BAD):
                    seen += await receive()
            assert [tick["seq"] for tick in seen] == list(range(1, 2 * len(BAD) + 1))
            metrics = (await daemon.get("/metrics")).text
            counted = sum(
                float(line.split()[-1])
                for line in metrics.splitlines()
                if line.startswith(("mdserver_messages_discarded_total", "mdserver_records_rejected_total"))
                or ("messages_ignored_total" in line and not line.startswith("#"))
            )
            assert counted >= len(BAD)
            warnings = [
                x
                for x in daemon.lines
                if x["event"] in ("invalid message from the venue discarded", "record rejected")
            ]
            assert 1 <= len(warnings) <= 2


async def seen_around_a_reset(daemon: Daemon, venue: FakeBinance) -> list[dict[str, Any]]:
    """Return what a client gets of one tick, a lost connection and two more ticks."""
    seen: list[dict[str, Any]] = []
    async with open_websocket(daemon.ws) as ws:

        async def until(count: int, *types: str) -> None:
            while sum(message["type"] in types for message in seen) < count:
                seen.extend(map(json.loads, await ws.receive()))

        with trio.fail_after(60):
            await ws.send('{"action":"subscribe","symbols":["AAAUSDT"]}')
            await until(1, "ack")
            await venue.replay([book(1)])
            await until(1, "tick")
            venue.connections[0].reset()
            await venue.wait_until(lambda: not venue.connections)
            await venue.wait_subscribed("aaausdt@bookTicker")
            await venue.replay([book(7), book(8)])
            await until(5, "tick", "gap")
    return seen


async def test_a_lost_connection_is_told_as_a_gap(folder: Path) -> None:
    async with open_fake_binance(still()) as venue:
        broker = {"name": "binance", "url": venue.url, "symbols": ["AAAUSDT"], "types": ["tick"]}
        config = write_config(folder, brokers=[broker])
        async with open_daemon(config) as daemon:
            with trio.fail_after(60):
                await confirmed(daemon, 1)
            seen = await seen_around_a_reset(daemon, venue)
            told = [message for message in seen if message["type"] in ("tick", "gap")]
            assert [message.get("seq", "gap") for message in told] == [1, "gap", "gap", 2, 3]
            lasting = {
                "type": "gap",
                "broker": "binance",
                "symbol": "AAAUSDT",
                "record_type": "tick",
                "from": told[0]["time"],
                "cause": "disconnected",
                "state": "open",
            }
            gap = {**lasting, "to": told[3]["time"]}
            assert told[1:3] == [lasting, gap]
            with trio.fail_after(60):
                kept: list[dict[str, Any]] = []
                while not kept or kept[0]["to"] is None:
                    kept = (await daemon.get("/api/gaps?broker=binance")).json()["gaps"]
                    await trio.sleep(0.05)
            assert kept == [{**{key: gap[key] for key in gap if key != "type"}, "size": None}]
            states = [
                message["state"] for message in seen if message["type"] == "status" and "state" in message
            ]
            assert states == ["backoff", "starting", "live"]


async def test_a_plugin_that_cannot_be_used_is_named_and_the_rest_run(folder: Path) -> None:
    async with open_fake_binance(still()) as venue:
        venue.rules.refuse = (451, {}, "Service unavailable from a restricted location")
        brokers = [
            {"name": "binance", "url": venue.url, "symbols": ["AAAUSDT"]},
            {"name": "mock", "rate": 200, "symbols": ["EURUSD"]},
        ]
        config = write_config(folder, brokers=brokers, database={"store": False})
        async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD") as receive:
            with trio.fail_after(60):
                while not await receive():
                    pass
            states = {b["broker"]: b for b in (await daemon.get("/api/brokers")).json()["brokers"]}
            assert states["mock"]["state"] == "live"
            assert states["binance"]["state"] == "failed"
            assert "451" in states["binance"]["last_error"]


async def answers_to(daemon: Daemon, request: dict[str, Any], enough: Any) -> list[dict[str, Any]]:
    """Return what a client gets after a request, until ``enough`` says so."""
    seen: list[dict[str, Any]] = []
    async with open_websocket(daemon.ws) as ws:
        await ws.send(json.dumps(request))
        with trio.fail_after(60):
            while not enough(seen):
                seen += map(json.loads, await ws.receive())
    return seen


def results(seen: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Symbol and status of each answer about a feed, in their order."""
    acks = [m["results"] for m in seen if m["type"] == "ack"]
    return [
        (r["symbol"], f"error {r['code']}" if r["status"] == "error" else r["status"])
        for a in acks
        for r in a
    ]


async def test_a_symbol_that_the_venue_does_not_have_is_408(folder: Path) -> None:
    async with open_fake_binance(still()) as venue:
        broker = {"name": "binance", "url": venue.url, "rest_url": venue.rest_url}
        config = write_config(folder, brokers=[broker], database={"store": False})
        async with open_daemon(config) as daemon:
            request = {"action": "subscribe", "symbols": ["ETHUSDT", "NOSUCH", "币安人生USDT"]}
            seen = await answers_to(
                daemon,
                request,
                lambda seen: (
                    {("ETHUSDT", "active"), ("NOSUCH", "error 408"), ("币安人生USDT", "active")}
                    <= set(results(seen))
                ),
            )
    assert ("NOSUCH", "active") not in results(seen)


async def test_without_a_list_a_symbol_is_pending_until_its_first_record(folder: Path) -> None:
    async with open_fake_binance(BinanceRules(rest_delay_s=60.0, pace_s=math.inf)) as venue:
        broker = {"name": "binance", "url": venue.url, "rest_url": venue.rest_url}
        config = write_config(folder, brokers=[broker], database={"store": False})
        async with open_daemon(config) as daemon, trio.open_nursery() as nursery:

            async def trade_later() -> None:
                await venue.wait_subscribed("btcusdt@trade", "nosuch@trade")
                await venue.connections[0].send_ping()
                await venue.wait_until(lambda: bool(venue.connections[0].pongs))  # its acks have come
                await venue.trade("BTCUSDT")

            nursery.start_soon(trade_later)
            request = {"action": "subscribe", "symbols": ["BTCUSDT", "NOSUCH"], "types": ["trade"]}
            seen = await answers_to(daemon, request, lambda seen: any(m["type"] == "trade" for m in seen))
    assert results(seen) == [("BTCUSDT", "pending"), ("NOSUCH", "pending"), ("BTCUSDT", "active")]


async def test_order_books_reach_a_client(folder: Path) -> None:
    async with open_fake_binance() as venue:
        broker = {"name": "binance", "url": venue.url, "rest_url": venue.rest_url}
        config = write_config(folder, brokers=[broker], database={"store": False})
        async with open_daemon(config) as daemon:
            request = {
                "action": "subscribe",
                "symbols": ["BTCUSDT"],
                "types": ["orderbook"],
                "broker": "binance",
            }
            seen = await answers_to(
                daemon, request, lambda seen: sum(m["type"] == "orderbook" for m in seen) >= 10
            )
    books = [message for message in seen if message["type"] == "orderbook"]
    assert all(book["bids"][0][0] < book["asks"][0][0] for book in books)
    assert [book["seq"] for book in books] == list(range(books[0]["seq"], books[0]["seq"] + len(books)))

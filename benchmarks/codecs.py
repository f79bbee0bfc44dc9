"""What decoding costs: µs per message of each venue's codec, on one core, messages that we made up.

Each kind is decoded many times over, with other numbers each time; the fastest round counts, since the others show what
else the machine did. The last column sets a message's cost per byte in relation to that of Binance's book ticker: above
1.5 a codec is slower than it need be.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from mdserver_binance.codec import Decoder
from mdserver_kraken.codec import Decoder as KrakenDecoder
from mdserver_oanda.codec import decode_line

MESSAGES = 5_000
ROUNDS = 15
RECEIVED_US = 1_700_000_000_000_000


class Case(NamedTuple):
    """A kind of message of a venue: how one is made, and how it is decoded."""

    venue: str
    kind: str
    make: Callable[[random.Random, int], object]
    decode: Callable[[bytes], object]


def book_ticker(rng: random.Random, number: int) -> object:
    sides = {key: f"{rng.uniform(1, 70_000):.8f}" for key in "bBaA"}
    return {"stream": "btcusdt@bookTicker", "data": {"u": number, "s": "BTCUSDT", **sides}}


def trade(kind: str) -> Callable[[random.Random, int], object]:
    def make(rng: random.Random, number: int) -> object:
        at = 1_700_000_000_000 + number
        about = {"e": kind, "E": at, "s": "BTCUSDT", "p": f"{rng.uniform(1, 70_000):.8f}"}
        about |= {"q": f"{rng.random():.8f}", "T": at, "m": rng.random() < 0.5, "M": True}
        ids = {"t": number} if kind == "trade" else {"a": number, "f": number, "l": number + 2}
        return {"stream": f"btcusdt@{kind}", "data": {**about, **ids}}

    return make


def depth_update(levels: int) -> Callable[[random.Random, int], object]:
    def make(rng: random.Random, number: int) -> object:
        made = [[f"{rng.uniform(1, 70_000):.8f}", f"{rng.random():.8f}"] for _ in range(levels)]
        about = {
            "e": "depthUpdate",
            "E": 1_700_000_000_000 + number,
            "s": "BTCUSDT",
            "U": number,
            "u": number + 2,
        }
        return {"stream": "btcusdt@depth@100ms", "data": {**about, "b": made[::2], "a": made[1::2]}}

    return make


def partial_depth(rng: random.Random, number: int) -> object:
    sides = [[[f"{rng.uniform(1, 70_000):.8f}", f"{rng.random():.8f}"] for _ in range(20)] for _ in range(2)]
    return {
        "stream": "btcusdt@depth20@100ms",
        "data": {"lastUpdateId": number, "bids": sides[0], "asks": sides[1]},
    }


def price(levels: int, form: str = "RFC3339") -> Callable[[random.Random, int], object]:
    def make(rng: random.Random, number: int) -> object:
        second, fraction = number // 50, rng.randrange(10**9)
        stamp = f"2024-03-05T14:{second // 60 % 60:02}:{second % 60:02}.{fraction:09}Z"
        if form == "UNIX":
            stamp = f"{1_700_000_000 + second}.{fraction:09}"
        bid = rng.uniform(1, 2)
        bids = [{"price": f"{bid - n / 1e5:.5f}", "liquidity": 1_000_000} for n in range(levels)]
        asks = [{"price": f"{bid + (n + 9) / 1e5:.5f}", "liquidity": 1_000_000} for n in range(levels)]
        sides = {"bids": bids, "asks": asks, "closeoutBid": f"{bid:.5f}", "closeoutAsk": f"{bid:.5f}"}
        about = {"status": "tradeable", "tradeable": True, "instrument": "EUR_USD"}
        return {"type": "PRICE", "time": stamp, **sides, **about}

    return make


def heartbeat(_rng: random.Random, number: int) -> object:
    return {"type": "HEARTBEAT", "time": f"2024-03-05T14:07:{number % 60:02}.123456789Z"}


def kraken(channel: str, row: Callable[[random.Random, int], dict[str, object]]) -> Callable[..., object]:
    def make(rng: random.Random, number: int) -> object:
        stamp = f"2026-07-08T05:{number // 60 % 60:02}:{number % 60:02}.{rng.randrange(10**6):06}Z"
        data = [{"symbol": "BTC/USD", **row(rng, number), "timestamp": stamp}]
        return {"channel": channel, "type": "update", "data": data}

    return make


def kraken_ticker(rng: random.Random, _number: int) -> dict[str, object]:
    prices = {key: round(rng.uniform(1, 70_000), 1) for key in ("bid", "ask", "last", "vwap", "low", "high")}
    sizes = {key: round(rng.uniform(0, 2000), 8) for key in ("bid_qty", "ask_qty", "volume")}
    return prices | sizes | {"change": -239.4, "change_pct": -0.38}


def kraken_trade(rng: random.Random, number: int) -> dict[str, object]:
    about = {"side": rng.choice(("buy", "sell")), "price": round(rng.uniform(1, 70_000), 1)}
    return about | {"qty": round(rng.uniform(0, 2), 8), "ord_type": "limit", "trade_id": 107_612_614 + number}


def kraken_book(levels: int) -> Callable[[random.Random, int], dict[str, object]]:
    def row(rng: random.Random, _number: int) -> dict[str, object]:
        made = [
            {"price": round(rng.uniform(1, 70_000), 1), "qty": round(rng.uniform(0, 2), 8)}
            for _ in range(levels)
        ]
        return {"bids": made[::2], "asks": made[1::2], "checksum": rng.randrange(2**32)}

    return row


def kraken_decode(frame: bytes) -> object:
    return KRAKEN.decode(frame, RECEIVED_US)


def binance(frame: bytes) -> object:
    return BINANCE.decode(frame, RECEIVED_US)


def binance_aggregate(frame: bytes) -> object:
    return BINANCE_AGGREGATE.decode(frame, RECEIVED_US)


BINANCE, BINANCE_AGGREGATE = Decoder("trade"), Decoder("aggTrade")
BINANCE.symbols["btcusdt"] = "BTCUSDT"
KRAKEN = KrakenDecoder()

CASES = (
    Case("binance", "bookTicker", book_ticker, binance),
    Case("binance", "trade", trade("trade"), binance),
    Case("binance", "aggTrade", trade("aggTrade"), binance_aggregate),
    Case("binance", "depth, 3 levels", depth_update(3), binance),
    Case("binance", "depth, 20 levels", depth_update(20), binance),
    Case("binance", "book, 2 x 20 levels", partial_depth, binance),
    Case("oanda", "price, 1 level", price(1), decode_line),
    Case("oanda", "price, 4 levels", price(4), decode_line),
    Case("oanda", "price, UNIX time", price(1, "UNIX"), decode_line),
    Case("oanda", "heartbeat", heartbeat, decode_line),
    Case("kraken", "ticker", kraken("ticker", kraken_ticker), kraken_decode),
    Case("kraken", "trade", kraken("trade", kraken_trade), kraken_decode),
    Case("kraken", "book, 3 levels", kraken("book", kraken_book(3)), kraken_decode),
    Case("kraken", "book, 20 levels", kraken("book", kraken_book(20)), kraken_decode),
    Case("kraken", "heartbeat", lambda _rng, _number: {"channel": "heartbeat"}, kraken_decode),
)


def measure(messages: list[bytes], decode: Callable[[bytes], object]) -> float:
    """Return µs per message."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for message in messages:
            decode(message)
        rounds.append((time.perf_counter() - start) / len(messages) * 1e6)
    return min(rounds)


def main() -> None:
    """Print a table."""
    rng = random.Random(1)
    print(f"µs per message, fastest of {ROUNDS} rounds of {MESSAGES} messages; json.loads alone beside it")
    print(f"{'venue':9} {'message':19} {'bytes':>5} {'µs':>6} {'json':>6} {'per byte, bookTicker = 1':>26}")
    base = 0.0
    for case in CASES:
        made = [json.dumps(case.make(rng, n), separators=(",", ":")).encode() for n in range(1, MESSAGES + 1)]
        size = statistics.mean(map(len, made))
        us, plain = measure(made, case.decode), measure(made, json.loads)
        base = base or us / size
        print(f"{case.venue:9} {case.kind:19} {size:5.0f} {us:6.2f} {plain:6.2f} {us / size / base:26.2f}")


if __name__ == "__main__":
    main()

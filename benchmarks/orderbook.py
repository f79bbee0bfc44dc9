"""What an order book costs: µs per update of a full book, by its depth and by how much of it is read afterwards."""

from __future__ import annotations

import random
import statistics
import time

from mdserver.orderbook import Book

UPDATES = 20_000
ROUNDS = 5
CHANGES = 3
"""Levels in one update: Kraken's recorded ones have 1 to 5."""

Level = tuple[float, float]


def messages(depth: int) -> list[tuple[list[Level], list[Level]]]:
    """Return updates around the best prices: a third of the changes removes, most fall near the top."""
    rng = random.Random(depth)
    made = []
    for _ in range(UPDATES):
        sides: tuple[list[Level], list[Level]] = ([], [])
        for _ in range(CHANGES):
            away = min(int(rng.expovariate(10 / depth)), depth)
            size = 0.0 if rng.random() < 1 / 3 else rng.random() + 0.1
            side = rng.randrange(2)
            price = round(60_000 + (away + 1) / 10 if side else 60_000 - away / 10, 1)
            sides[side].append((price, size))
        made.append(sides)
    return made


def measure(depth: int, read: int | None) -> float:
    """Return µs per update of a full book from which the best ``read`` levels are taken after each."""
    made = messages(depth)
    best = []
    for _ in range(ROUNDS):
        book: Book[Level] = Book(depth)
        levels = range(depth)
        book.snapshot(
            [(round(60_000 - n / 10, 1), 1.0) for n in levels],
            [(round(60_000 + (n + 1) / 10, 1), 1.0) for n in levels],
        )
        start = time.perf_counter()
        for bids, asks in made:
            book.update(bids, asks)
            if read != 0:
                book.top(read)
        best.append((time.perf_counter() - start) / UPDATES * 1e6)
    return statistics.median(best)


def main() -> None:
    """Print a table."""
    print(f"µs per update of {CHANGES} levels, median of {ROUNDS} rounds; and of a core at 50 updates/s")
    for depth in (10, 25, 100, 1000):
        for read, name in ((0, "nothing read"), (10, "top 10 read"), (None, "all read")):
            us = measure(depth, read)
            print(f"  {depth:5} levels a side, {name:12}  {us:7.2f} µs  {us * 50 / 1e4:.3f} %")


if __name__ == "__main__":
    main()

"""The router and the encodings without sockets: what is done per record, per client and per subscription.

CPU time of the thread, with the garbage collector as the server has it: of the encodings the least of several tries, of
all else the median.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from time import thread_time

import harness

from mdserver.daemon.interpreter import settle
from mdserver.metrics import Metrics
from mdserver.model import OrderBook, Published, Tick, Topic
from mdserver.protocol.encoding import Encoding, Format, encoding, wire_of
from mdserver.protocol.terms import PLAIN_TERMS, Terms
from mdserver.protocol.times import TIMES
from mdserver.stream.audience import Owed
from mdserver.stream.router import Router
from mdserver.web.stream.backlog import Backlog
from mdserver.web.stream.session import ROUTED_AT_ONCE

TRIES = 7
FORMATS: tuple[Format, ...] = ("json", "msgpack")
T0 = 1_710_918_000_123_456
TICK = Published(Topic("mock", "EURUSD", "tick"), 1042, Tick("EURUSD", T0, 1.08703, 1.08705, 1e6, 5e5), T0)
LEVELS = tuple((67_123.4 - n / 10, 0.5 + n) for n in range(25))
BOOK = Published(
    Topic("mock", "BTCUSDT", "orderbook", "25"), 3, OrderBook("BTCUSDT", T0, LEVELS, LEVELS, "snapshot", "25")
)


class _Behind:
    """A client that takes nothing."""

    descriptor = -1
    behind = True

    def __init__(self) -> None:
        self.backlog = Backlog()

    def write(self, frames: bytes) -> None:
        self.backlog.append(frames)

    def park(self, rest: bytes) -> None:
        raise AssertionError("nothing is taken")

    def offer(self, owed: Owed) -> None:
        self.backlog.offer(owed)


def seconds(work: Callable[[], object]) -> float:
    began = thread_time()
    work()
    return thread_time() - began


def encodings() -> list[list[str]]:
    """Measure all in turn, several times, and take the least of each: what others do at the time only adds."""
    made = {
        (form, times): (encoding(wire_of(form, times)), encoding(wire_of(form, times), levels=10))
        for form in FORMATS
        for times in TIMES
    }
    taken: dict[tuple[Encoding, bool], list[float]] = {}
    for _ in range(2 * TRIES):
        for of_tick, of_book in made.values():
            for one, published, count in ((of_tick, TICK, 5_000), (of_book, BOOK, 500)):
                work = partial(_frame_often, one, published, count)
                taken.setdefault((one, published is TICK), []).append(seconds(work) / count * 1e6)
    return [
        [
            *name,
            *(
                f"{min(taken[one, published is TICK]):.2f} ({len(one.frame(published))})"
                for one, published in zip(both, (TICK, BOOK), strict=True)
            ),
        ]
        for name, both in made.items()
    ]


def _frame_often(made: Encoding, published: Published, count: int) -> None:
    frame = made.frame
    for _ in range(count):
        frame(published)


def subscriptions(count: int) -> list[list[str]]:
    topics = {Topic("mock", f"S{n}", "tick"): PLAIN_TERMS for n in range(count)}
    fewer = dict(list(topics.items())[:-1])
    most = dict(list(topics.items())[: count - ROUTED_AT_ONCE])
    rows: dict[str, list[float]] = {}

    def take(router: Router, sink: _Behind, other: _Behind) -> None:
        steps: list[tuple[str, Callable[[], object]]] = [
            (f"{len(most):,} topics at once", lambda: router.set_topics(sink, most)),
            (
                f"{len(fewer) - len(most):,} more, as a session adds them",
                lambda: router.set_topics(sink, fewer),
            ),
            ("one more", lambda: router.set_topics(sink, topics)),
            ("one less", lambda: router.set_topics(sink, fewer)),
            ("the same once more", lambda: router.set_topics(sink, fewer)),
            ("another client with the same", lambda: router.set_topics(other, fewer)),
            ("one more of a shared set", lambda: router.set_topics(other, topics)),
            (
                "all at other terms",
                lambda: router.set_topics(other, dict.fromkeys(topics, Terms(rate_ms=100))),
            ),
            ("none any more", lambda: router.set_topics(other, {})),
        ]
        for name, work in steps:
            rows.setdefault(name, []).append(seconds(work))

    for _ in range(TRIES):
        take(Router(Metrics()), _Behind(), _Behind())
    return [[name, f"{median(taken) * 1e3:.1f}", f"{max(taken) * 1e3:.1f}"] for name, taken in rows.items()]


def behind(clients: int, *, together: int) -> list[str]:
    router = Router(Metrics())
    topics = [Topic("mock", f"S{n}", "tick") for n in range(10)]
    sinks = [_Behind() for _ in range(clients)]
    for sink in sinks:
        router.set_topics(sink, dict.fromkeys(topics, PLAIN_TERMS))
    rounds = max(1, 50 // together)
    batches = [
        [Published(topics[n % 10], 10 * r + n, TICK.record, T0) for n in range(together)]
        for r in range(rounds)
    ]

    def work() -> None:
        for batch in batches:
            router.publish(batch)

    taken = median(seconds(work) for _ in range(TRIES)) / (rounds * together * clients)
    return [f"{clients:,} clients behind, {together} records a pass", f"{taken * 1e6:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topics", type=int, default=20_000, help="subscriptions of one client")
    parser.add_argument("--clients", type=int, default=2_000, help="clients that are behind")
    options = parser.parse_args()
    print(f"{harness.machine()}\n")
    settle()
    print(
        harness.table(["format", "times", "us a tick (bytes)", "us a book of 10 levels (bytes)"], encodings())
    )
    print("\n" + harness.table(["subscriptions", "ms", "longest"], subscriptions(options.topics)))
    rows = [behind(options.clients, together=together) for together in (1, 10)]
    print("\n" + harness.table(["conflation", "us a record and client"], rows))


if __name__ == "__main__":
    main()

"""Reading history: what a year of candles and its metadata cost at 10 million ticks, and how large the ticks are.

The ticks are synthetic and loaded through the store as the importer does, into an embedded PostgreSQL. A running
`mdserver run` answers one client on one keep-alive connection. The peers are SQL on the same tables, in the same
rounds: the same candles computed from the ticks, and `count(*)`.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, LiteralString, TypeAlias

import harness
import numpy as np
import psycopg
import structlog
import trio
import yaml
from year import END_US, FIRST_US, make_hours, weeks

from mdserver.log import get_logger
from mdserver.model import US_PER_S
from mdserver.store.embedded.server import open_embedded
from mdserver.store.open_database import open_database
from mdserver.store.store import FetchedHour, Store

SYMBOL, SOURCE = "EURUSD", "synthetic"
FROM_S, TO_S = FIRST_US // US_PER_S, END_US // US_PER_S - 1
CANDLES = f"/api/candles?symbol={SYMBOL}&timeframe=1h&from={FROM_S}&to={TO_S}"
METADATA = f"/api/metadata?symbol={SYMBOL}"
SMALLER = 100
"""How many times fewer ticks the second database has."""

REQUESTS = {"candles": 100, "gzip": 40, "304": 300, "metadata": 200, "metadata small": 200}
"""Requests in a round; the SQL runs once."""

WARM = 30
"""Requests before those that count, each time."""

LOAD_S = 600.0
"""Longest statement of the load."""

Spent: TypeAlias = dict[str, list[list[float]]]
"""Milliseconds of each call, by round, by what is measured."""

# The peer's best case: one pass in the order of the key, so that neither the groups nor their arrays are sorted.
FROM_TICKS = """select extract(epoch from hour)::bigint, (array_agg(mid))[1], max(mid), min(mid),
    (array_agg(mid))[count(*)], sum(volume), count(*)
from (select date_trunc('hour', time) as hour, (bid + ask) / 2 as mid, bid_size + ask_size as volume
      from ticks where series_id = %s and time >= to_timestamp(%s) and time <= to_timestamp(%s)
      order by series_id, time, seq) as chosen
group by hour order by hour"""

COUNT = "select count(*) from ticks where series_id = %s"

SIZES = """select coalesce(sum(pg_relation_size(relid)), 0)::bigint, coalesce(sum(pg_indexes_size(relid)), 0)::bigint,
    coalesce(sum(pg_total_relation_size(relid)), 0)::bigint, pg_total_relation_size('candles')
from pg_partition_tree('ticks') where isleaf"""


class Client:
    """One keep-alive connection that does as little as a client can: the body is received, not parsed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def reconnect(self) -> None:
        """Begin anew: the server closes a connection that idles, and after its thousandth request."""
        self.close()
        self._socket = self._connect()

    def close(self) -> None:
        self._socket.close()

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (names in small letters) and body."""
        lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        answered = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        status = int(first.split()[1])
        missing = (0 if status == 304 else int(answered["content-length"])) - len(body)
        pieces = [body]
        while missing > 0:
            pieces.append(self._receive())
            missing -= len(pieces[-1])
        return status, answered, b"".join(pieces)

    def _receive(self) -> bytes:
        piece = self._socket.recv(1 << 20)
        if not piece:
            raise RuntimeError("the server has closed the connection")
        return piece


def timed(count: int, work: Callable[[], object]) -> list[float]:
    """Return how many milliseconds each call took."""
    spent = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1e3)
    return spent


async def load(url: str, hours: list[FetchedHour]) -> tuple[int, float]:
    """Store hours in transactions of a week; return the series' number and the seconds it took."""
    log = get_logger("benchmark")
    async with open_database(url, retry_for_s=10, log=log, statement_timeout_s=LOAD_S) as database:
        store = Store(database)
        series = await store.open_series(SOURCE, SYMBOL)
        began = time.perf_counter()
        for week in weeks(hours):
            for result in await store.load_hours(series, week):
                assert result.status in ("added", "empty"), result
        return series.id, time.perf_counter() - began


def settle(url: str) -> None:
    """Do at once what autovacuum and the checkpointer would do in the middle of the measurement."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("vacuum (analyze) ticks, candles")
        conn.execute("checkpoint")


@contextmanager
def reading_server(url: str, folder: Path) -> Iterator[Client]:
    """Run `mdserver run` without brokers on a database; yield a connection to it."""
    folder.mkdir()
    given = psycopg.conninfo.conninfo_to_dict(url)
    port = harness.free_port()
    config = {
        "server": {"host": "127.0.0.1", "port": port},
        "database": {"url": "postgresql:///?" + "&".join(f"{key}={value}" for key, value in given.items())},
        "data_dir": str(folder / "data"),
        "brokers": [],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    log = folder / "server.log"
    command = [harness.mdserver_command(), "run", "--config", str(folder / "config.yaml")]
    with harness.process(command, log=log) as child:
        harness.wait_until_up(child, f"http://127.0.0.1:{port}/health/ready", log)
        with closing(Client(port)) as client:
            yield client


def check_equal(body: bytes, rows: list[tuple[Any, ...]]) -> None:
    """Make sure that both ways give the same candles, but for the last bits of a mid price."""
    ours = [
        tuple(candle[name] for name in ("time", "open", "high", "low", "close", "volume"))
        for candle in json.loads(body)
    ]
    theirs = np.array([row[:6] for row in rows], float)
    assert len(ours) == len(theirs), (len(ours), len(theirs))
    assert np.allclose(np.array(ours, float), theirs, rtol=1e-9, atol=1e-9)


def expect(client: Client, status: int, path: str, **headers: str) -> Callable[[], bytes]:
    """Return a request whose answer must have this status."""

    def request() -> bytes:
        got, _, body = client.get(path, **headers)
        assert got == status, (path, got, body[:200])
        return body

    return request


def measure(
    large: Client, small: Client, conn: psycopg.Connection[Any], series_id: int, rounds: int
) -> tuple[Spent, int, int]:
    """Return the milliseconds of each thing by round, the candles in an answer and its bytes."""
    span = (series_id, FROM_S, TO_S)
    status, headers, body = large.get(CANDLES)
    assert status == 200, body[:200]
    rows = conn.execute(FROM_TICKS, span).fetchall()
    check_equal(body, rows)
    works: dict[str, Callable[[], object]] = {
        "candles": expect(large, 200, CANDLES),
        "gzip": expect(large, 200, CANDLES, Accept_Encoding="gzip"),
        "304": expect(large, 304, CANDLES, If_None_Match=headers["etag"]),
        "from ticks": lambda: conn.execute(FROM_TICKS, span).fetchall(),
        "metadata": expect(large, 200, METADATA),
        "metadata small": expect(small, 200, METADATA),
        "count": lambda: conn.execute(COUNT, [series_id]).fetchone(),
    }
    spent: Spent = {name: [] for name in works}
    for number in range(rounds):
        names = list(works)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if name in REQUESTS:
                large.reconnect()
                small.reconnect()
                timed(WARM, works[name])
            spent[name].append(timed(REQUESTS.get(name, 1), works[name]))
        print(f"  round {number + 1}: done", file=sys.stderr, flush=True)
    return spent, len(rows), len(body)


def compressed_size(ticks: int, whole: int) -> tuple[int, int, int] | None:
    """Return ticks, their bytes and their bytes compressed on TimescaleDB; None where there is none.

    It gets the beginning of a year with ``whole`` ticks, since a chunk's compression depends on its density.
    """
    sys.path.insert(0, str(harness.HERE.parent))
    from tests import timescaledb

    hours = make_hours(ticks, FIRST_US, FIRST_US + (END_US - FIRST_US) * ticks // whole)
    with ExitStack() as stack:
        try:
            url = stack.enter_context(timescaledb.running_timescaledb())
        except timescaledb.Missing as error:
            print(f"  no TimescaleDB: {error}", file=sys.stderr)
            return None
        trio.run(load, url, hours)
        with psycopg.connect(url, autocommit=True) as conn:
            before = one(conn, "select hypertable_size('ticks')")[0]
            conn.execute("select compress_chunk(chunk) from show_chunks('ticks') as chunk")
            after = one(conn, "select hypertable_size('ticks')")[0]
            return one(conn, "select count(*) from ticks")[0], before, after


def one(conn: psycopg.Connection[Any], query: LiteralString) -> tuple[Any, ...]:
    """Return the one row of a query."""
    row = conn.execute(query).fetchone()
    assert row is not None, query
    return row


def print_speed(spent: Spent, ticks: int) -> None:
    """Print what the answers took, and the peers' times divided by mdserver's of the same round."""
    fewer = f"{ticks // SMALLER:,}"
    rows = []
    for name, what, goal in (
        ("candles", "GET /api/candles, 1h over the year", "p50 < 20"),
        ("gzip", "the same, gzip", "-"),
        ("304", "the same, 304 by If-None-Match", "p50 < 2"),
        ("from ticks", "SQL: the same candles from the ticks", "-"),
        ("metadata", f"GET /api/metadata, {ticks:,} ticks", "-"),
        ("metadata small", f"the same, {fewer} ticks", "-"),
        ("count", f"SQL: count(*) of {ticks:,} ticks", "-"),
    ):
        each = [np.percentile(values, (50, 99)) for values in spent[name]]
        p99 = harness.spread([p99 for _, p99 in each]) if name in REQUESTS else "-"
        rows.append([what, harness.spread([p50 for p50, _ in each]), p99, goal])
    print(harness.table(["what", "p50 ms", "p99 ms", "goal"], rows) + "\n")
    rows = []
    for what, slow, quick, goal in (
        ("candles from the ticks / GET /api/candles", "from ticks", "candles", ">= 100"),
        (f"metadata at {ticks:,} / at {fewer} ticks", "metadata", "metadata small", "1"),
        ("count(*) / GET /api/metadata", "count", "metadata", "-"),
    ):
        pairs = zip(spent[slow], spent[quick], strict=True)
        ratios = [harness.median(one) / harness.median(other) for one, other in pairs]
        rows.append([what, harness.spread(ratios), goal])
    print(harness.table(["ratio of the p50 in a round", "median (least-greatest)", "goal"], rows) + "\n")


def print_sizes(ticks: int, sizes: tuple[int, ...], timescale: tuple[int, int, int] | None) -> None:
    """Print bytes per tick."""
    heap, index, total, candles = (size / ticks for size in sizes)
    rows = [
        [
            f"plain PostgreSQL, {ticks:,} ticks",
            f"{total:.1f}",
            f"rows {heap:.1f}, primary key {index:.1f}; candles of all timeframes {candles:.1f} more",
        ]
    ]
    if timescale is not None:
        count, before, after = timescale
        rows.append([f"TimescaleDB, {count:,} ticks", f"{before / count:.1f}", "not compressed"])
        rows.append(["the same, compressed", f"{after / count:.1f}", f"{before / after:.1f} times smaller"])
    else:
        rows.append(["TimescaleDB", "not measured", ""])
    print(harness.table(["ticks on disk", "bytes per tick", "of that"], rows))


def measure_plain(conninfo: str, folder: Path, options: argparse.Namespace) -> None:
    """Load both databases, measure and print; runs in a thread beside the server."""
    urls = []
    with psycopg.connect(conninfo, autocommit=True) as conn:
        for name in ("year", "smaller"):
            conn.execute(f"create database {name}")
            urls.append(psycopg.conninfo.make_conninfo(conninfo, dbname=name))
    series_id, seconds = trio.run(load, urls[0], make_hours(options.ticks))
    trio.run(load, urls[1], make_hours(options.ticks // SMALLER))
    for url in urls:
        settle(url)
    rate = options.ticks / seconds
    print(f"  loaded in {seconds:.0f} s, {rate:,.0f} ticks/s", file=sys.stderr, flush=True)
    with (
        psycopg.connect(urls[0], autocommit=True) as conn,
        reading_server(urls[0], folder / "large") as large,
        reading_server(urls[1], folder / "small") as small,
    ):
        sizes = one(conn, SIZES)
        spent, candles, size = measure(large, small, conn, series_id, options.rounds)
    print(f"{candles:,} candles, {size:,} bytes of JSON; {options.rounds} rounds: median (least-greatest)\n")
    print_speed(spent, options.ticks)
    print_sizes(options.ticks, sizes, options.timescale)


async def run(options: argparse.Namespace, folder: Path) -> None:
    async with open_embedded(folder / "cluster", log=get_logger("benchmark")) as conninfo:
        await trio.to_thread.run_sync(measure_plain, conninfo, folder, options)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=10_000_000, help="ticks in the year")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--timescaledb-ticks", type=int, default=500_000, help="ticks on TimescaleDB; 0: leave it out"
    )
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(f"{harness.machine()}; {options.ticks:,} ticks", flush=True)
    some = min(options.timescaledb_ticks, options.ticks)
    options.timescale = compressed_size(some, options.ticks) if some else None
    with harness.data_folder() as folder:
        trio.run(run, options, folder)


if __name__ == "__main__":
    main()

"""Replays from the database: records/s to one client and to eight, and what live latency costs others meanwhile.

    python replay.py [--records 400000] [--rounds 3] [--format msgpack]

A first server fills the database with ticks of one symbol; a second one on the same data streams 1,000 ticks/s, replays
and has a live client whose latency is measured with and without replays. Then the journal: records/s of one core in
batches of 20.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
import yaml
from harness import Server

from mdserver.journal.journal import open_journal
from mdserver.model import Published, Tick, Topic

FULL_RATE, LIVE_RATE = 40_000, 1_000
CLIENTS = 8


@contextmanager
def server_on(folder: Path, rate: float, burst: int) -> Iterator[Server]:
    """Run a server on a data folder that stays."""
    port = harness.free_port()
    config = {
        "server": {"host": "127.0.0.1", "port": port},
        "data_dir": str(folder / "data"),
        "brokers": [{**harness.mock_broker(rate, burst), "symbols": ["EURUSD"]}],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [harness.mdserver_command(), "run", "--config", str(folder / "config.yaml")]
    log = folder / "server.log"
    with harness.process(command, log=log) as child:
        harness.wait_until_up(child, f"http://127.0.0.1:{port}/health/live", log)
        yield Server(port, child.pid, pinned=False)


def stored(server: Server) -> int:
    return int(json.loads(server.get("/api/metadata?symbol=EURUSD"))["tick_count"])


def replay(port: int, records: int, rates: list[float], form: str = "json") -> None:
    """Replay from the first record and read as fast as Python takes bytes; add records/s to ``rates``."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET /?format={form} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
        )
        head = "\r\n".join((*lines, f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""))
        sock.sendall(head.encode())
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += sock.recv(65_536)
        payload = json.dumps(
            {"action": "subscribe", "symbols": ["EURUSD"], "broker": "mock", "since": {"seq": 0}}
        ).encode()
        sock.sendall(bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload)  # masked with zeros
        name = b'"bid":' if form == "json" else b"\xa3bid"
        began, count, tail = time.monotonic(), 0, b""
        while count < records:
            data = sock.recv(1 << 18)
            if not data:
                raise RuntimeError(f"the server closed after {count} records")
            tail += data
            count += tail.count(name)
            tail = tail[1 - len(name) :]
        rates.append(count / (time.monotonic() - began))


def replay_together(port: int, records: int, clients: int, form: str) -> float:
    """Return the records/s of all clients together."""
    rates: list[float] = []
    threads = [threading.Thread(target=replay, args=(port, records, rates, form)) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients * records / (time.monotonic() - began)


def live_latency(server: Server, seconds: float) -> tuple[int, int]:
    """Return the p99 and the most of a live client's latency, in microseconds."""
    options = (
        "--clients",
        1,
        "--symbols",
        1,
        "--universe",
        1,
        "--latency",
        "--warm",
        0.5,
        "--seconds",
        seconds,
    )
    found = server.load(*options)["latency_us"]
    return int(found["p99"]), int(found["max"])


def latency_beside(server: Server, records: int, seconds: float, form: str) -> list[tuple[int, int]]:
    """Return :func:`live_latency` without and with replays of eight others."""
    alone = live_latency(server, seconds)
    ended = threading.Event()

    def replay_on() -> None:
        while not ended.is_set():
            replay(server.port, records, [], form)

    threads = [threading.Thread(target=replay_on) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    beside = live_latency(server, seconds)
    ended.set()
    for thread in threads:
        thread.join()
    return [alone, beside]


def journal_rate(records: int = 1_000_000, batch: int = 20) -> float:
    """Return the records/s that the journal takes, of one core."""
    topic = Topic("mock", "EURUSD", "tick")
    batches = [
        [Published(topic, seq, Tick("EURUSD", seq, 1.1, 1.2, 1e6, 1e6), seq) for seq in range(at, at + batch)]
        for at in range(1, 20_000, batch)
    ]
    with tempfile.TemporaryDirectory() as name, open_journal(Path(name), max_bytes=1 << 32) as journal:
        began = time.process_time()
        for _ in range(records // 20_000):
            for one in batches:
                journal.append(one)
        return records / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--format", choices=("json", "msgpack"), default="json")
    options = parser.parse_args()
    harness.build_load_client()
    with harness.data_folder() as folder:
        with server_on(folder, FULL_RATE, 400) as server:
            while stored(server) < options.records:
                time.sleep(0.2)
        with server_on(folder, LIVE_RATE, 1) as server:
            print(f"{harness.machine()}; {options.records:,} records\n")
            one = [
                replay_together(server.port, options.records, 1, options.format)
                for _ in range(options.rounds)
            ]
            eight = [
                replay_together(server.port, options.records, CLIENTS, options.format)
                for _ in range(options.rounds)
            ]
            print(f"records/s to one client: {harness.spread(one, 0)}")
            print(f"records/s to eight clients together: {harness.spread(eight, 0)}")
            pairs = [
                latency_beside(server, options.records, 8.0, options.format) for _ in range(options.rounds)
            ]
            for place, name in enumerate(("alone", "beside eight replays")):
                p99, longest = zip(*(pair[place] for pair in pairs), strict=True)
                print(f"a live client {name}, us: p99 {harness.spread(list(p99), 0)}", end="; ")
                print(f"most {harness.spread(list(longest), 0)}")
    print(f"journal, records/s of one core in batches of 20: {journal_rate():,.0f}")


if __name__ == "__main__":
    main()

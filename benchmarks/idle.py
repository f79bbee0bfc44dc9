"""Idle clients: what memory the server takes for one that connects, is greeted, and asks for nothing."""

from __future__ import annotations

import argparse
import resource
import socket
import time
from pathlib import Path

import harness

REQUEST = (
    b"GET /stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: bWRzZXJ2ZXItYmVuY2gtMQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SETTLE_S = 2.0


def connect(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(REQUEST)
    received = b""
    while b'"status"' not in received:
        more = client.recv(4096)
        if not more:
            raise SystemExit(f"the server ended a connection: {received!r}")
        received += more
    return client


def resident_kb(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5_000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{harness.machine()}\n")
    with harness.mdserver([harness.mock_broker(1, 1)]) as server:
        first = [
            connect(server.port) for _ in range(50)
        ]  # what is imported and cached once is not a client's
        time.sleep(SETTLE_S)
        before = resident_kb(server.pid)
        clients = [connect(server.port) for _ in range(options.clients)]
        time.sleep(SETTLE_S)
        after = resident_kb(server.pid)
        print(
            f"{len(clients):,} idle clients: {(after - before) / len(clients):.1f} kB each, "
            f"{(after - before) * 1024 / 1e6:.0f} MB in all (goal: 250); "
            f"{before / 1024:.1f} MiB before, {after / 1024:.1f} MiB with them"
        )
        for client in (*first, *clients):
            client.close()


if __name__ == "__main__":
    main()

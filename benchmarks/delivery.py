"""What a delivery costs in other forms: MessagePack, TLS, and to clients with a key, against JSON without any of them.

    python delivery.py [--rounds 3] [--seconds 4]

The same clients read the same ticks in all forms, in rounds that start with another one each. Prints the CPU-seconds of
the server per million deliveries, and those divided by plain JSON's of the same round: above 1 it costs more.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
import yaml

from mdserver.keys import new_key

CLIENTS, SYMBOLS = 50, 10
CERTIFICATE = str(Path(__file__).parents[1] / "tests" / "component" / "tls" / "localhost.pem")
KEY, HASH = new_key()
SCENARIOS = {"one by one": (500, 1), "in bursts of 10": (5_000, 10)}
"""Ticks/s and how many are handed over at once."""


@dataclass(frozen=True)
class Form:
    """``path`` and ``headers`` are the clients'; a record is found by ``mark``."""

    name: str
    path: str = "/"
    mark: bytes = b'"bid":'
    server: dict[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


FORMS = (
    Form("JSON"),
    Form("MessagePack", "/?format=msgpack", b"\xa3bid"),
    Form(
        "JSON, with a key",
        server={
            "auth": {"keys": [{"name": "bench", "hash": HASH, "scopes": ["stream"], "brokers": ["mock"]}]}
        },
        headers=(f"Authorization: Bearer {KEY}",),
    ),
    Form("JSON, with TLS", server={"tls": {"certificate": CERTIFICATE, "key": CERTIFICATE}}),
)


class Clients:
    """Read all that comes, each in a thread, and count the records."""

    def __init__(self, port: int, form: Form) -> None:
        self.counts = [0] * CLIENTS
        self._port, self._form = port, form
        self._context = ssl.create_default_context(cafile=CERTIFICATE) if "tls" in form.server else None
        self._sockets = [self._subscribed() for _ in range(CLIENTS)]
        for number in range(CLIENTS):
            threading.Thread(target=self._read, args=(number,), daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        for one in self._sockets:
            one.close()

    def _subscribed(self) -> socket.socket:
        sock: socket.socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_hostname="localhost")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (f"GET {self._form.path} HTTP/1.1", f"Host: localhost:{self._port}", "Upgrade: websocket")
        lines += ("Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
        sock.sendall("\r\n".join((*lines, *self._form.headers, "", "")).encode())
        while not (head := sock.recv(65_536)).startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"{self._form.name}: {head!r}")
        symbols = [f"SYM{number:03}" for number in range(SYMBOLS)]
        request = json.dumps({"action": "subscribe", "symbols": symbols, "broker": "mock"}).encode()
        # masked with zeros
        sock.sendall(b"\x81" + bytes([0x80 | 126]) + len(request).to_bytes(2, "big") + bytes(4) + request)
        return sock

    def _read(self, number: int) -> None:
        sock, mark = self._sockets[number], self._form.mark
        keep = len(mark) - 1
        tail = b""
        try:
            while data := sock.recv(1 << 17):
                tail += data
                self.counts[number] += tail.count(mark)
                tail = tail[-keep:]
        except OSError:
            pass  # closed at the end


@contextmanager
def server(form: Form, rate: float, burst: int) -> Iterator[tuple[int, int]]:
    """Run a server that stores nothing; yield its port and process."""
    with harness.data_folder() as folder:
        port = harness.free_port()
        config = {
            "server": {"host": "127.0.0.1", "port": port, **form.server},
            "database": {"store": False},
            "data_dir": str(folder / "data"),
            "brokers": [harness.mock_broker(rate, burst)],
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        command = [harness.mdserver_command(), "run", "--config", str(folder / "config.yaml")]
        with harness.process(command, log=folder / "server.log", core=harness.SERVER_CORE) as child:
            harness.wait_until_listening(port)
            yield port, child.pid


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(form: Form, rate: float, burst: int, seconds: float) -> tuple[float, float]:
    """Return CPU-seconds per million deliveries, and deliveries/s."""
    with server(form, rate, burst) as (port, pid):
        clients = Clients(port, form)
        time.sleep(1)
        began, cpu, count = time.monotonic(), cpu_s(pid), sum(clients.counts)
        time.sleep(seconds)
        cpu, count = cpu_s(pid) - cpu, sum(clients.counts) - count
        per_s = count / (time.monotonic() - began)
        clients.close()
    if not count:
        raise SystemExit(f"{form.name}: nothing was delivered")
    return cpu / count * 1e6, per_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of counting")
    options = parser.parse_args()
    print(
        f"{harness.machine()}; {CLIENTS} clients, {options.rounds} rounds of {options.seconds:g} s",
        flush=True,
    )
    for title, (rate, burst) in SCENARIOS.items():
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for round_ in range(options.rounds):
            turn = round_ % len(FORMS)
            for form in (*FORMS[turn:], *FORMS[:turn]):
                found[form.name].append(measure(form, rate, burst, options.seconds))
                print(
                    f"  {title} {round_ + 1} {form.name}: {found[form.name][-1]}", file=sys.stderr, flush=True
                )
        plain = [cost for cost, _ in found["JSON"]]
        rows = []
        for form in FORMS:
            costs = [cost for cost, _ in found[form.name]]
            ratios = [cost / own for cost, own in zip(costs, plain, strict=True)]
            per_s = harness.median([rate for _, rate in found[form.name]])
            rows.append([form.name, harness.spread(costs), harness.spread(ratios), f"{per_s:,.0f}"])
        head = ["form", "CPU-s per million", "of plain JSON's", "deliveries/s"]
        print(f"\n### {rate:,} ticks/s, {title}\n\n{harness.table(head, rows)}", flush=True)


if __name__ == "__main__":
    main()

"""How many ticks a second the Python client hands to a loop, beside `websockets` and `json.loads` by hand.

    python benchmarks/python_client.py [TICKS]

A process of its own sends frames made beforehand over a real socket, one record in each or 64 (`batch=true`). Each
figure is of a process of its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import subprocess
import sys
import time

import trio
from websockets.asyncio.client import connect as websockets_connect

import mdserver_client

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HELLO = {"type": "status", "message": "hello", "protocol": 1, "server": "bench", "epoch": "e", "time": 1.0}
RESULT = {"broker": "mock", "symbol": "EURUSD", "type": "tick", "status": "active"}
ACK = {"type": "ack", "id": 1, "action": "subscribe", "results": [RESULT], "subscriptions": [RESULT]}


def frame(text: bytes) -> bytes:
    """Frame a text message as a server does."""
    if len(text) < 126:
        return b"\x81%c%b" % (len(text), text)
    return b"\x81\x7e%b%b" % (len(text).to_bytes(2, "big"), text)


def tick(seq: int) -> bytes:
    """Return a tick as the server writes it."""
    record = {"type": "tick", "broker": "mock", "symbol": "EURUSD", "seq": seq, "time": 1710918000.123456}
    record |= {"bid": 1.08703, "ask": 1.08705, "bid_size": 1000000, "ask_size": 500000}
    return json.dumps(record, separators=(",", ":")).encode()


def serve(count: int, batch: int) -> None:
    """Serve one client, and print the port first."""
    texts = [tick(seq) for seq in range(1, count + 1)]
    if batch > 1:
        texts = [b"[%b]" % b",".join(texts[at : at + batch]) for at in range(0, count, batch)]
    data = b"".join(map(frame, texts))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        client, _ = listener.accept()
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65_536)
            (key,) = (
                line.split()[1]
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"sec-websocket-key")
            )
            accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
            client.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frame(json.dumps(HELLO).encode())
            )
            client.recv(65_536)  # the subscription
            client.sendall(frame(json.dumps(ACK).encode()) + data)
            client.recv(1)


async def by_client(port: int, count: int) -> float:
    """Return the seconds that the client takes."""
    got, began = 0, 0.0
    async with mdserver_client.connect(f"http://127.0.0.1:{port}") as client:
        async for batch in client.batches(["EURUSD"]):
            began = began or time.perf_counter()
            for record in batch:
                got += record.type == "tick"
            if got >= count:
                return time.perf_counter() - began
    raise AssertionError("the stream has ended")


async def by_hand(port: int, count: int) -> float:
    """Return the seconds that `websockets` and `json.loads` take."""
    got, began = 0, 0.0
    async with websockets_connect(f"ws://127.0.0.1:{port}/", compression=None, max_size=None) as ws:
        await ws.send(json.dumps({"action": "subscribe", "id": 1, "symbols": ["EURUSD"]}))
        async for text in ws:
            found = json.loads(text)
            for record in found if isinstance(found, list) else [found]:
                if record["type"] == "tick":
                    began = began or time.perf_counter()
                    got += 1
            if got >= count:
                return time.perf_counter() - began
    raise AssertionError("the stream has ended")


def measure(way: str, port: int, count: int) -> float:
    """Return the seconds of one way."""
    if way == "client, trio":
        return trio.run(by_client, port, count)
    return asyncio.run((by_hand if way == "by hand" else by_client)(port, count))


def main(count: int) -> None:
    """Print a line for each way."""
    for batch in (1, 64):
        for way in ("by hand", "client, asyncio", "client, trio"):
            server = [sys.executable, __file__, "serve", str(count), str(batch)]
            with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                port = process.stdout.readline().strip()
                done = subprocess.check_output([sys.executable, __file__, way, port, str(count)], text=True)
                process.terminate()
            print(f"{batch:>3} a frame  {way:<16} {count / float(done) / 1000:8.0f} k ticks/s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]), int(sys.argv[3]))
    elif len(sys.argv) > 2:
        print(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 300_000)

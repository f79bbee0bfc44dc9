"""A venue that costs next to nothing: Binance combined streams with book tickers as fast as they are taken.

    python venue.py PORT [RATE [FRAMES]]

Acknowledges SUBSCRIBE and UNSUBSCRIBE, answers pings, and sends ``bookTicker`` frames of the subscribed symbols
in turn: flat out, or RATE a second, FRAMES of them (500) with one write. A frame is made by changing a few digits in a
prepared block, some 0.1 µs each. Serves one connection at a time; symbols must have seven letters, so that
all frames are equally long.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import sys
import threading
import time

import numpy as np
import numpy.typing as npt

BLOCK_FRAMES = 500
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def frame(payload: bytes, opcode: int = 1) -> bytes:
    if len(payload) < 126:
        return bytes([0x80 | opcode, len(payload)]) + payload
    return bytes([0x80 | opcode, 126]) + len(payload).to_bytes(2) + payload


class Block:
    """Frames of equal length as the rows of an array, in which the digits that change are columns."""

    def __init__(self, symbols: list[str]) -> None:
        texts = [
            f'{{"stream":"{symbol.lower()}@bookTicker","data":{{"u":0000000000,"s":"{symbol}",'
            '"b":"10000.00000000","B":"1.25000000","a":"10000.99000000","A":"0.75000000"}}'
            for symbol in symbols
        ]
        rows = [frame(texts[i % len(texts)].encode()) for i in range(BLOCK_FRAMES)]
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"symbols of different length: {symbols}")
        self._rows = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(BLOCK_FRAMES, -1).copy()
        self._update_at = rows[0].index(b'"u":') + 4
        self._cents_at = rows[0].index(b'"b":"10000.') + 11

    def next(self, first_update: int) -> bytes:
        updates = first_update + np.arange(BLOCK_FRAMES)
        self._put(self._update_at, updates, 10)
        self._put(self._cents_at, updates // 16 % 90, 2)
        return self._rows.tobytes()

    def _put(self, at: int, numbers: npt.NDArray[np.int64], digits: int) -> None:
        for place in range(digits):
            self._rows[:, at + digits - 1 - place] = ord("0") + numbers // 10**place % 10


class Connection:
    """One client: a thread reads its requests, another sends ticks."""

    def __init__(self, peer: socket.socket, rate: float, frames_per_write: int) -> None:
        self._peer = peer
        self._rate = rate
        self._per_write = frames_per_write
        self._input = peer.makefile("rb")
        self._sending = threading.Lock()
        self._symbols: list[str] = []
        self._block: Block | None = None

    def serve(self) -> None:
        """Serve until the client is gone."""
        try:
            self._shake_hands()
            threading.Thread(target=self._pump, daemon=True).start()
            while True:
                self._handle(*self._read_frame())
        except (ConnectionError, EOFError):
            pass
        finally:
            self._peer.close()

    def _shake_hands(self) -> None:
        headers = {}
        while (line := self._input.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        if b"sec-websocket-key" not in headers:
            raise EOFError  # not a WebSocket client
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + _GUID).digest())  # noqa: S324
        self._peer.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    def _exactly(self, count: int) -> bytes:
        data = self._input.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def _read_frame(self) -> tuple[int, bytes]:
        first, second = self._exactly(2)
        length = second & 127
        if length > 125:
            length = int.from_bytes(self._exactly(2 if length == 126 else 8))
        mask = self._exactly(4) if second & 128 else bytes(4)
        payload = self._exactly(length)
        return first & 15, bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))

    def _handle(self, opcode: int, payload: bytes) -> None:
        if opcode == 8:
            raise EOFError
        if opcode == 9:
            self._send(frame(payload, 10))
        if opcode != 1:
            return
        request = json.loads(payload)
        names = {name.partition("@")[0].upper() for name in request.get("params", [])}
        if request["method"] == "SUBSCRIBE":
            self._symbols = sorted({*self._symbols, *names})
        elif request["method"] == "UNSUBSCRIBE":
            self._symbols = sorted({*self._symbols} - names)
        self._send(frame(json.dumps({"result": None, "id": request["id"]}).encode()))
        self._block = Block(self._symbols) if self._symbols else None

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._peer.sendall(data)

    def _pump(self) -> None:
        sent, started = 0, time.monotonic()
        try:
            while True:
                block = self._block
                if block is None:
                    time.sleep(0.001)
                    started = time.monotonic() - sent / (self._rate or 1)
                    continue
                data = block.next(1_000_000_000 + sent)
                frame_bytes = len(data) // BLOCK_FRAMES
                for at in range(0, BLOCK_FRAMES, self._per_write):
                    if self._rate and (early := started + (sent + at) / self._rate - time.monotonic()) > 0:
                        time.sleep(early)
                    self._send(data[at * frame_bytes : (at + self._per_write) * frame_bytes])
                sent += BLOCK_FRAMES
        except OSError:
            pass  # the client is gone; the reading thread ends for the same reason


def serve(connection: type[Connection], port: int, rate: float, frames_per_write: int = 1) -> None:
    """Serve each connection with a thread, until the process is ended."""
    with socket.create_server(("127.0.0.1", port), backlog=16) as listener:
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=connection(peer, rate, frames_per_write).serve, daemon=True).start()


def main() -> None:
    port = int(sys.argv[1])
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    frames_per_write = int(sys.argv[3]) if len(sys.argv) > 3 else BLOCK_FRAMES
    serve(Connection, port, rate, frames_per_write)


if __name__ == "__main__":
    main()

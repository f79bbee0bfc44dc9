"""A real S3 server on loopback for the session, and lakes on it or in a folder."""

from __future__ import annotations

import itertools
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

from mdserver.config import LakeConfig

KEY_ID, SECRET = "lake-key-id", "lake-secret-value"
START_S = 120.0

CUT = (200, "")
"""An answer that is broken off."""

_numbers = itertools.count(1)


@contextmanager
def running_s3() -> Iterator[str]:
    """Run moto's server; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                httpx2.get(f"{address}/moto-api/data.json", timeout=20)
                break
            except httpx2.TransportError:
                assert process.poll() is None, "moto's server ended"
                assert time.monotonic() < deadline, "moto's server did not start"
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def new_bucket(address: str) -> LakeConfig:
    """Make a bucket, and return the settings of a lake in it."""
    name = f"bucket-{next(_numbers)}"
    httpx2.put(f"{address}/{name}", timeout=5).raise_for_status()
    return LakeConfig(
        url=f"s3://{name}/md",
        endpoint=address,
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
        timeout_s=10,
        retry_for_s=2,
    )


@contextmanager
def answering(
    answer: Callable[[str, str], tuple[int, str] | None], behind: str | None = None
) -> Iterator[str]:
    """Run an S3 service that answers a (method, path) with a status and a code of S3's; yield its address.

    None: what the service ``behind`` it answers. The status 0 breaks the connection, :data:`CUT` does in the middle
    of such an answer.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = answer(self.command, self.path)
            if found is not None and not found[0]:
                self.reset()
                return
            if found in (None, CUT):
                assert behind is not None
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in ("host", "connection")
                }
                passed = httpx2.request(self.command, behind + self.path, headers=headers, content=body)
                status, content, kept = passed.status_code, passed.content, passed.headers
            else:
                assert found is not None
                status, code = found
                content = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()
                kept = httpx2.Headers()
            self.send_response(status)
            for name in ("ETag", "Last-Modified", "Content-Type", "Content-Range"):
                if name in kept:
                    self.send_header(name, kept[name])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if found == CUT:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.reset()
                return
            self.wfile.write(content)

        def reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()

"""Requests and handshakes with headers in every odd form: an answer, or a problem that says why, and no failure."""

from __future__ import annotations

import contextlib
import json

import trio
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from .conftest import open_stream_server
from .test_access import HANDSHAKE

PATHS = [b"/api/brokers", b"/api/stream?symbols=EURUSD", b"/", b"/stream", b"/udf/config", b"/health/ready"]
NAMES = [
    *(
        b"Host",
        b"Origin",
        b"Authorization",
        b"Accept",
        b"Accept-Encoding",
        b"If-None-Match",
        b"Last-Event-ID",
    ),
    *(
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Upgrade",
        b"Expect",
        b"Range",
        b"Cookie",
        b"Via",
    ),
    *(name.encode() for name in HANDSHAKE),
    *(
        b"Sec-WebSocket-Protocol",
        b"Sec-WebSocket-Extensions",
        b"HTTP2-Settings",
        b"X-Forwarded-For",
        b"X" * 300,
    ),
]
VALUES = [
    *(
        b"",
        b" ",
        b"\t",
        b",",
        b";;;",
        b"*",
        b"null",
        b"localhost",
        b"127.0.0.1",
        b"[::1]:99999",
        b"evil.example",
    ),
    *(
        b"Bearer",
        b"Bearer x",
        b"Basic eDp5",
        b"gzip;q=x, br;q=9",
        b"application/json;q=nan",
        b'W/"x", "y"',
        b'"',
    ),
    *(
        b"websocket",
        b"h2c",
        b"Upgrade",
        b"close",
        b"keep-alive",
        b"100-continue",
        b"bytes=0-1",
        b"chunked",
        b"-1",
    ),
    *(
        b"0",
        b"5",
        b"9" * 400,
        b"13",
        b"mdserver, mdserver.key.x",
        b"permessage-deflate",
        b"a=b; c",
        b"x" * 9_000,
    ),
    *("é币".encode(), b"\xff\xfe", b"\x7f", b"a\x00b", b"5f3a/one:1"),
]
values = st.sampled_from(VALUES) | st.binary(max_size=20).map(lambda text: text.translate(None, b"\r\n"))
headers = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=4)
requests = st.tuples(
    st.sampled_from([b"GET", b"HEAD", b"OPTIONS", b"POST", b"get"]), st.sampled_from(PATHS), headers
)
PLAIN = [(b"Host", b"localhost")]
UPGRADE = [*PLAIN, *((name.encode(), value.encode()) for name, value in HANDSHAKE.items())]


async def answer(port: int, request: bytes) -> bytes:
    """Send a request and what may be its body; return the beginning of the answer."""
    data = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(request)
            if b"Sec-WebSocket-Key" not in request:
                await stream.send_all(b"5\r\nhello\r\n0\r\n\r\n")
            while b"\r\n\r\n" not in data:
                part = await stream.receive_some()
                if not part:
                    break
                data += part
            head = data.partition(b"\r\n\r\n")[0].lower()
            while b"problem+json" in head and not data.endswith(b"}") and not request.startswith(b"HEAD"):
                part = await stream.receive_some()
                if not part:
                    break
                data += part
    return data


async def ask(several: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]]) -> None:
    with capture_logs() as logs:
        async with open_stream_server() as server:
            for method, path, odd in several:
                for usual in (PLAIN, UPGRADE):
                    kept = [one for one in usual if one[0] not in {name for name, _ in odd}]
                    lines = [b"%b %b HTTP/1.1" % (method, path), *(b"%b: %b" % one for one in [*kept, *odd])]
                    request = b"\r\n".join([*lines, b"", b""])
                    data = await answer(server.port, request)
                    assert data.startswith(b"HTTP/1.1 "), (request, data)
                    head, _, body = data.partition(b"\r\n\r\n")
                    status = int(head.split()[1])
                    assert status not in (500, 502), (request, data)
                    if status >= 400 and not path.startswith(b"/udf/"):
                        assert b"application/problem+json" in head.lower(), (request, data)
                        assert method == b"HEAD" or json.loads(body)["detail"], (request, data)
            assert server.value("connections_dropped_total") == 0
    assert [log for log in logs if log["log_level"] in ("error", "critical")] == []


def test_odd_headers_get_an_answer(*, long: bool) -> None:
    @seed(1)
    @settings(
        max_examples=60 if long else 4,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @example(
        [(b"GET", b"/api/brokers", [(name, value)]) for name in (b"Host", b"Upgrade") for value in VALUES]
    )
    @given(st.lists(requests, min_size=25, max_size=25))
    def run(several: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]]) -> None:
        trio.run(ask, several)

    run()

"""The HTTP clients against servers that behave, and servers that do not, over real sockets."""

from __future__ import annotations

import gzip
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mdserver.errors import Rejected, Unavailable
from mdserver.net import AnswerTooLarge, HttpRefused, fetch, open_http, open_http_stream
from mdserver.testing.http_venue import (
    ConnectLimit,
    FakeExchange,
    FakeHttpVenue,
    HttpAnswer,
    HttpFault,
    open_fake_http,
)

CERTIFICATE = Path(__file__).parent / "tls" / "localhost.pem"
"""Self-signed, for localhost, made for these tests."""


async def endless(exchange: FakeExchange) -> None:
    await exchange.start_stream()
    await exchange.wait_gone()


@pytest.fixture
async def venue() -> AsyncIterator[FakeHttpVenue]:
    with trio.fail_after(30):
        async with open_fake_http({"/data": {"a": 1}, "/stream/{name}": endless}) as venue:
            yield venue


@asynccontextmanager
async def listening(answer: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that reads once, sends these bytes and closes; yields its port."""

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            async with stream:
                await stream.receive_some()
                await stream.send_all(answer)
        except trio.BrokenResourceError:
            return  # a client that does not trust us

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        secured = [trio.SSLListener(each, context) for each in listeners] if context else listeners
        nursery.start_soon(trio.serve_listeners, serve, secured)
        yield port
        nursery.cancel_scope.cancel()


async def test_connections_are_kept_and_used_again(venue: FakeHttpVenue) -> None:
    venue.limit = ConnectLimit(1, 60.0)
    async with open_http(headers={"X-Own": "yes"}) as http:
        for _ in range(3):
            answer = await http.get(f"{venue.url}/data", params={"symbols": "A,B"}, headers={"X-More": "1"})
            assert (answer.status, answer.body, answer.headers["Content-Type"]) == (
                200,
                b'{"a":1}',
                "application/json",
            )
    assert venue.limit.refused == 0
    request = venue.requests[-1]
    assert request.query == {"symbols": "A,B"}
    assert (request.headers["x-own"], request.headers["x-more"]) == ("yes", "1")


async def test_get_returns_any_status_and_fetch_raises(venue: FakeHttpVenue) -> None:
    venue.route("/refused", HttpAnswer(418, {"why": "no"}, {"Retry-After": "7"}))
    async with open_http() as http:
        assert (await http.get(f"{venue.url}/refused")).status == 418
        with pytest.raises(Unavailable, match=r'HTTP 418: \{"why":"no"\}') as busy:
            await http.fetch(f"{venue.url}/refused")
        assert busy.value.retry_after_s == 7
        with pytest.raises(HttpRefused, match="HTTP 404") as missing:
            await http.fetch(f"{venue.url}/nothing")
        assert (missing.value.status, missing.value.body) == (404, '{"errorMessage":"not found"}')


async def test_a_compressed_answer_is_unpacked(venue: FakeHttpVenue) -> None:
    venue.route("/zipped", HttpAnswer(content=gzip.compress(b"text"), headers={"Content-Encoding": "gzip"}))
    assert await fetch(f"{venue.url}/zipped") == b"text"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (HttpFault("hang"), "no complete answer within 0.3 s"),
        (HttpFault("stall"), "no complete answer within 0.3 s"),
        (HttpFault("slow", pause_s=0.1), "no complete answer within 0.3 s"),
        (HttpFault("reset"), "connection lost|broke the HTTP protocol"),
        (HttpFault("cut"), "broke the HTTP protocol"),
        (HttpFault("garbage"), "broke the HTTP protocol"),
        (HttpFault("html"), "a web page titled 'Access denied' came in place of data, as from a proxy"),
        (HttpFault("status", 502, b"<title>A &amp; B</title>"), "HTTP 502 with a web page titled 'A & B'"),
    ],
    ids=lambda value: value.kind if isinstance(value, HttpFault) else "",
)  # fmt: skip
async def test_a_fault_is_one_plain_sentence_with_the_address(
    venue: FakeHttpVenue, fault: HttpFault, message: str
) -> None:
    venue.fail(fault)
    with pytest.raises(Unavailable, match=message) as caught:
        await fetch(f"{venue.url}/data", timeout_s=0.3)
    assert str(caught.value).startswith(f"{venue.url}/data: ")
    assert "\n" not in str(caught.value)


async def test_a_redirect_names_its_target(venue: FakeHttpVenue) -> None:
    venue.route("/old", HttpAnswer(301, b"", {"Location": "https://elsewhere.example/new"}))
    with pytest.raises(HttpRefused, match=r"HTTP 301, a redirect to https://elsewhere\.example/new"):
        await fetch(f"{venue.url}/old")


async def test_more_than_wanted_is_not_read(venue: FakeHttpVenue) -> None:
    venue.route("/large", HttpAnswer(content=bytes(100_000)))
    async with open_http(max_bytes=10_000) as http:
        with pytest.raises(AnswerTooLarge, match="larger than 10000 bytes"):
            await http.get(f"{venue.url}/large")
        assert (await http.get(f"{venue.url}/data")).body == b'{"a":1}'


async def test_a_name_that_does_not_exist() -> None:
    with trio.fail_after(30), pytest.raises(Unavailable, match=r"the name no\.such\.host\.invalid cannot be"):
        await fetch("https://no.such.host.invalid/x")


@pytest.mark.parametrize("url", ["ftp://example.com/", "http://", "no url"])
async def test_an_unusable_url_is_final(url: str) -> None:
    with pytest.raises(Rejected, match="not a usable URL"):
        await fetch(url, timeout_s=2)
    with pytest.raises(Rejected, match="not a usable URL"):
        async with open_http_stream(url, connect_timeout_s=2):
            pass


async def test_a_header_that_cannot_be_sent_is_not_shown(venue: FakeHttpVenue) -> None:
    with pytest.raises(Rejected) as caught:
        await fetch(f"{venue.url}/data", headers={"Authorization": "s3cret\n"})
    assert "s3cret" not in str(caught.value)


async def test_nobody_listening() -> None:
    async with listening(b"") as port:
        pass
    with pytest.raises(Unavailable, match=f"^http://127.0.0.1:{port}/: cannot connect: Connection refused"):
        await fetch(f"http://127.0.0.1:{port}/")


async def test_an_untrusted_certificate() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    async with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", context) as port:
        with (
            trio.fail_after(30),
            pytest.raises(Unavailable, match="certificate of localhost is not trusted: self"),
        ):
            await fetch(f"https://localhost:{port}/")
        trusting = ssl.create_default_context(cafile=CERTIFICATE)
        async with open_http(ssl_context=trusting) as http:
            assert await http.fetch(f"https://localhost:{port}/") == b"ok"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_tls_where_none_is_spoken(answer: bytes) -> None:
    async with listening(answer) as port:
        with pytest.raises(
            Unavailable, match=r"TLS handshake with 127\.0\.0\.1 failed: .*should it be http://\?"
        ):
            await fetch(f"https://127.0.0.1:{port}/")


async def test_a_stream_hands_over_lines_however_they_are_cut(venue: FakeHttpVenue) -> None:
    text = '{"note":"€"}\n\r\n{"n":2}\r\n \n{"n":3}\n'.encode()
    async with open_http_stream(f"{venue.url}/stream/x", params={"q": "1"}) as stream:
        [exchange] = await venue.wait_streams(1)
        assert exchange.params == {"name": "x"}
        assert exchange.request.query == {"q": "1"}
        before_us = time.time_ns() // 1000
        lines: list[bytes] = []
        for size in (1, 2, 3, 5, 8, len(text)):
            for at in range(0, len(text), size):
                await exchange.send(text[at : at + size])
            while len(lines) < 3:
                lines += await stream.receive_lines()
            assert lines == ['{"note":"€"}'.encode(), b'{"n":2}', b'{"n":3}']
            lines.clear()
        assert before_us <= stream.received_us <= time.time_ns() // 1000
    await venue.wait_streams(0)


async def test_several_lines_of_one_read_come_together(venue: FakeHttpVenue) -> None:
    async with open_http_stream(f"{venue.url}/stream/x") as stream:
        await venue.wait_streams(1)
        assert await venue.push(b"a\nb\nc") == 1
        assert await stream.receive_lines() == [b"a", b"b"]
        await venue.push(b"d\n")
        assert await stream.receive_lines() == [b"cd"]


async def test_silence_ends_a_stream_and_any_byte_counts(venue: FakeHttpVenue) -> None:
    async with open_http_stream(f"{venue.url}/stream/x", silence_s=0.3) as stream:
        [exchange] = await venue.wait_streams(1)
        for _ in range(4):
            await trio.sleep(0.15)
            await exchange.send(b"\n")
            assert await stream.receive_lines() == []
        with pytest.raises(Unavailable, match=r"nothing received for 0\.3 s"):
            await stream.receive()


async def test_the_ends_of_a_stream(venue: FakeHttpVenue) -> None:
    async with open_http_stream(f"{venue.url}/stream/x") as stream:
        [exchange] = await venue.wait_streams(1)
        await exchange.send(b"half a li")
        await exchange.end()
        assert await stream.receive_lines() == []
        with pytest.raises(Unavailable, match="the server ended the stream"):
            await stream.receive_lines()
    async with open_http_stream(f"{venue.url}/stream/x") as stream:
        [exchange] = await venue.wait_streams(1)
        await exchange.reset()
        with pytest.raises(Unavailable, match="connection lost"):
            await stream.receive_lines()
    async with open_http_stream(f"{venue.url}/stream/x") as stream:
        [exchange] = await venue.wait_streams(1)
        await exchange.send_raw(b"no chunk size\r\n")
        with pytest.raises(Unavailable, match="broke the HTTP protocol"):
            await stream.receive_lines()


async def test_a_line_without_end_is_given_up(venue: FakeHttpVenue) -> None:
    async with open_http_stream(f"{venue.url}/stream/x", max_line_bytes=1000) as stream:
        await venue.wait_streams(1)
        await venue.push(b"x" * 600)
        assert await stream.receive_lines() == []
        await venue.push(b"x" * 600)
        with pytest.raises(Unavailable, match="a line of more than 1000 bytes"):
            await stream.receive_lines()


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (HttpFault("status", 429, b"", {"Retry-After": "3"}), Unavailable, "HTTP 429"),
        (HttpFault("status", 500), Unavailable, "HTTP 500: try later"),
        (HttpFault("status", 401, {"errorMessage": "no"}), HttpRefused, "HTTP 401"),
        (HttpFault("html"), Unavailable, "a web page titled 'Access denied' came in place of data"),
        (HttpFault("hang"), Unavailable, r"no stream within 0\.3 s"),
        (HttpFault("garbage"), Unavailable, "broke the HTTP protocol"),
    ],
    ids=lambda value: f"{value.kind} {value.status}" if isinstance(value, HttpFault) else "",
)
async def test_a_stream_that_is_not_given(
    venue: FakeHttpVenue, fault: HttpFault, error: type[Exception], message: str
) -> None:
    venue.fail(fault)
    with pytest.raises(error, match=message) as caught:
        async with open_http_stream(f"{venue.url}/stream/x", connect_timeout_s=0.3):
            pass
    if fault.status == 429:
        assert isinstance(caught.value, Unavailable)
        assert caught.value.retry_after_s == 3


async def test_leaving_a_stream_tells_the_server_also_when_cancelled(venue: FakeHttpVenue) -> None:
    async def listen() -> None:
        async with open_http_stream(f"{venue.url}/stream/x") as stream:
            while True:
                await stream.receive_lines()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await venue.wait_streams(1)
        await venue.push(b"a\n")
        nursery.cancel_scope.cancel()
    await venue.wait_streams(0)


async def test_a_request_of_any_method_carries_bytes_or_json() -> None:
    async def echo(exchange: FakeExchange) -> object:
        request = exchange.request
        return [request.method, request.headers.get("content-type", ""), request.body.decode()]

    async with open_fake_http() as venue, open_http() as http:
        for method in ("POST", "PUT", "DELETE"):
            venue.route("/beat", echo, method=method)
        url = f"{venue.url}/beat"
        assert await http.fetch(url, method="POST") == b'["POST","",""]'
        assert (
            await http.fetch(url, method="PUT", body={"a": 1}) == b'["PUT","application/json","{\\"a\\":1}"]'
        )
        answer = await http.request("DELETE", url, body=b"x", headers={"Content-Type": "text/plain"})
        assert answer.body == b'["DELETE","text/plain","x"]'
        with pytest.raises(HttpRefused, match=r"HTTP 405.*GET is not allowed here, only DELETE, POST, PUT"):
            await http.fetch(url)

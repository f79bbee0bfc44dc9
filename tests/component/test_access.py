"""Keys, limits, hosts and origins, over real sockets."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, connect_websocket_url

from mdserver.config import AuthConfig, KeyEntry
from mdserver.feed.broker_state import State
from mdserver.keys import new_key
from mdserver.model import US_PER_S, Tick
from mdserver.store.series import SeriesInfo
from mdserver.web.stream import gate

from .conftest import Client, StreamServer, http_get, open_client, open_stream_server

KEY, HASH = new_key()
OTHER_KEY, OTHER_HASH = new_key()
BEARER = f"Bearer {KEY}"


def keys(**rights: Any) -> AuthConfig:
    return AuthConfig(keys=(KeyEntry("desk", HASH, **rights),))


@asynccontextmanager
async def client_with(server: StreamServer, subprotocols: tuple = (), **headers: str) -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        with trio.fail_after(30):
            connection = await connect_websocket_url(
                nursery, server.url, extra_headers=named, subprotocols=list(subprotocols)
            )
        client = Client(connection)
        assert (await client.get())["type"] == "status"
        yield client
        with trio.move_on_after(1):
            await connection.aclose()
        await trio.aclose_forcefully(connection._stream)
        nursery.cancel_scope.cancel()


async def closed_with(client: Client) -> int:
    with trio.fail_after(30):
        while not client.connection.closed:
            with contextlib.suppress(ConnectionClosed):
                await client.connection.get_message()
    return int(client.connection.closed.code)


async def test_http_asks_for_the_key() -> None:
    async with open_stream_server(auth=keys()) as server:
        for path in ("/api/metadata", "/api/brokers", "/metrics", "/nowhere"):
            refused = await http_get(server.port, path)
            assert (refused.status, refused.json()["code"]) == (401, "unauthorized"), path
            assert refused.headers["www-authenticate"].startswith("Bearer")
        for path in ("/health/live", "/health/ready", "/", "/api/openapi.json"):
            assert (await http_get(server.port, path)).status == 200, path
        for path in ("/api/brokers", "/metrics"):
            assert (await http_get(server.port, path, Authorization=BEARER)).status == 200
        assert (await http_get(server.port, "/api/brokers", Authorization=f"bearer   {KEY}")).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",  "Basic eDp5", KEY, f"Bearer {KEY} x", f"Bearer {KEY[:-1]}", f"Bearer {OTHER_KEY}",
        "Bearer " + "x" * 8_000, "Bearer \xff\xfe", f"Bearer,{KEY}", f"Bearer {KEY.upper()}", f"Bearer {KEY}=",
    ],
    ids=range(11),
)  # fmt: skip
async def test_every_odd_form_of_a_key_is_401(header: str) -> None:
    async with open_stream_server(auth=keys()) as server:
        answer = await http_get(server.port, "/api/brokers", Authorization=header.encode("latin-1"))  # type: ignore[arg-type]
        assert (answer.status, answer.json()["code"]) == (401, "unauthorized")


async def test_a_stream_without_a_key_is_told_401_and_goes_on_with_one() -> None:
    async with open_stream_server(auth=keys()) as server, open_client(server.url) as client:
        assert (await client.subscribe("EURUSD", id=7)) == {
            "type": "error", "id": 7, "code": 401,
            "message": 'not authenticated: send {"action": "auth", "key": …} first',
        }  # fmt: skip
        assert (await client.ask({"action": "auth", "key": KEY, "id": 8}))["action"] == "auth"
        assert (await client.subscribe("EURUSD"))["results"][0]["status"] in ("active", "pending")


@pytest.mark.parametrize("key", ["x" * 40, "", OTHER_KEY, "x" * 60_000, KEY + "\n", "\u0000é"], ids=range(6))
async def test_a_wrong_key_is_402_and_closes_with_1008(key: str) -> None:
    async with open_stream_server(auth=keys()) as server, open_client(server.url) as client:
        assert (await client.ask({"action": "auth", "key": key}))["code"] == 402
        assert await closed_with(client) == 1008
        assert server.value("access_refused_total", reason="wrong_key") == 1


async def test_a_key_of_a_megabyte_is_too_long_a_message() -> None:
    async with open_stream_server(auth=keys()) as server, open_client(server.url) as client:
        await client.send({"action": "auth", "key": "x" * 1_000_000})
        assert await closed_with(client) == 1009


async def test_the_key_comes_with_the_handshake() -> None:
    async with open_stream_server(auth=keys()) as server:
        async with client_with(server, Authorization=BEARER) as client:
            assert (await client.ask({"action": "ping"}))["type"] == "pong"
        offered = (f"mdserver.key.{KEY}",)
        async with client_with(server, offered) as client:
            assert client.connection.subprotocol == offered[0]  # browsers want one of theirs
            assert (await client.ask({"action": "ping"}))["type"] == "pong"
        async with client_with(server, ("mdserver", *offered)) as client:
            assert client.connection.subprotocol == "mdserver"
            assert (await client.ask({"action": "ping"}))["type"] == "pong"
        async with client_with(server, Authorization="Bearer wrong") as client:
            assert (await client.get())["code"] == 402
            assert await closed_with(client) == 1008


async def test_whoever_brings_no_key_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdserver.web.stream.session.AUTH_WITHIN_S", 0.05)
    assert gate.AUTH_WITHIN_S == 10
    async with open_stream_server(auth=keys()) as server, open_client(server.url) as client:
        assert (await client.get())["code"] == 404
        assert await closed_with(client) == 1008


async def test_what_a_key_may_see_and_do() -> None:
    rights = keys(scopes=("stream",), brokers=("one",), symbols=("EURUSD",), max_symbols=1)
    async with open_stream_server(("one", "two"), auth=rights) as server:
        async with client_with(server, Authorization=BEARER) as client:
            answer = await client.subscribe("EURUSD")
            assert {result["broker"] for result in answer["results"]} == {"one"}
            if answer["results"][0]["status"] == "pending":
                assert (await client.get())["results"][0]["status"] == "active"
            refused = [
                (await client.subscribe("EURUSD", broker="two"))["results"][0],
                (await client.subscribe("USDJPY", broker="one"))
            ]  # fmt: skip
            assert refused[0]["code"] == 409
            assert refused[1]["code"] == 405
            assert (await client.subscribe("EURUSD", since=1.0))["code"] == 409
        for path, status in (("/api/candles?symbol=EURUSD&from=1&to=2", 403), ("/api/brokers", 200)):
            answered = await http_get(server.port, path, Authorization=BEARER)
            assert answered.status == status
        assert [one["broker"] for one in answered.json()["brokers"]] == ["one"]


async def test_http_keeps_to_the_symbols_and_brokers_of_a_key() -> None:
    async with open_stream_server(auth=keys(brokers=("one",), symbols=("EURUSD",))) as server:
        for query in (
            "symbol=USDJPY",
            "symbol=usd/jpy",
            "symbol=EURUSD&broker=two",
            "symbol=EURUSD&symbol=USDJPY",
        ):
            answer = await http_get(server.port, f"/api/candles?from=1&to=2&{query}", Authorization=BEARER)
            assert (answer.status, answer.json()["code"]) == (403, "forbidden"), query
        path = await http_get(server.port, "/api/candles/USDJPY/1h?from=1&to=2", Authorization=BEARER)
        assert path.status == 403


async def test_connections_of_a_key_are_bounded() -> None:
    async with open_stream_server(auth=keys(max_connections=1)) as server:
        async with client_with(server, Authorization=BEARER):
            async with client_with(server, Authorization=BEARER) as second:
                assert (await second.get())["code"] == 406
                assert await closed_with(second) == 1013
        with trio.fail_after(30):
            while server.clients.sessions:
                await trio.sleep(0.01)
        async with client_with(server, Authorization=BEARER) as again:
            assert (await again.ask({"action": "ping"}))["type"] == "pong"


async def test_wrong_keys_slow_their_address_down_but_not_a_key_that_is_known() -> None:
    async with open_stream_server(auth=keys()) as server:
        assert (await http_get(server.port, "/api/brokers", Authorization=BEARER)).status == 200
        answers = [
            await http_get(server.port, "/api/brokers", Authorization="Bearer wrong") for _ in range(12)
        ]
        assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert (await http_get(server.port, "/api/brokers", Authorization=BEARER)).status == 200
        assert server.value("access_refused_total", reason="slowed") == 2


async def test_a_thousand_wrong_keys_hold_nobody_up() -> None:
    async with open_stream_server(auth=keys()) as server, client_with(server, Authorization=BEARER) as client:
        await client.subscribe("EURUSD", broker="one")
        longest = 0.0
        async with trio.open_nursery() as nursery:

            async def guess() -> None:
                for number in range(100):
                    answer = await http_get(server.port, "/api/brokers", Authorization=f"Bearer {number}")
                    assert answer.status in (401, 429)

            for _ in range(5):
                nursery.start_soon(guess)
            for number in range(20):
                began = trio.current_time()
                server.brokers["one"].publish(Tick("EURUSD", 1_700_000_000_000_000 + number, 1.0, 1.1))
                while (await client.get())["type"] != "tick":
                    pass
                longest = max(longest, trio.current_time() - began)
        assert longest < 1.0


async def test_requests_are_limited_by_address_and_by_key() -> None:
    async with open_stream_server(auth=keys(requests_per_minute=5), requests_per_minute=3) as server:
        with_key = [await http_get(server.port, "/api/brokers", Authorization=BEARER) for _ in range(6)]
        assert [answer.status for answer in with_key] == [200] * 5 + [429]
        assert with_key[-1].json()["code"] == "rate_limited"
        assert int(with_key[-1].headers["retry-after"]) >= 1
        pages = [await http_get(server.port, "/") for _ in range(4)]
        assert [page.status for page in pages] == [200] * 3 + [429]
        assert (await http_get(server.port, "/health/live")).status == 200


async def test_a_stream_that_asks_too_often_is_told_429_and_closed_if_it_goes_on() -> None:
    async with open_stream_server(requests_per_minute=3) as server, open_client(server.url) as client:
        codes = [(await client.ask({"action": "ping"})).get("code") for _ in range(3)]
        assert codes == [None, None, 429]  # the handshake was one
        for _ in range(19):
            await client.send({"action": "ping"})
        assert await closed_with(client) == 1008


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "LOCALHOST."}, 200),
        ({"Host": "mdserver:8080"}, 200),
        ({"Host": "data.example"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[evil]:80"}, 403),
        ({"Host": "x" * 64}, 403),
        ({"Host": "a..b"}, 403),
        ({"Host": "."}, 403),
        ({"Host": "9" * 400}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "http://localhost:80"}, 200),
        ({"Origin": "https://charts.example"}, 200),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
    ],
)  # fmt: skip
async def test_only_our_names_and_allowed_pages(headers: dict[str, str], status: int) -> None:
    async with open_stream_server(
        allowed_origins=("https://charts.example",), allowed_hosts=("data.example",)
    ) as server:
        lines = {"Host": "localhost", "Connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        first = await _raw(server.port, f"GET /api/brokers HTTP/1.1\r\n{head}\r\n")
        assert int(first.split()[1]) == status
        upgrade = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        head = head.replace("Connection: close\r\n", upgrade)
        first = await _raw(server.port, f"GET / HTTP/1.1\r\n{head}\r\n")
        assert int(first.split()[1]) == (101 if status == 200 else 403)
        assert (await http_get(server.port, "/health/live", Origin="https://evil.example")).status == 200


async def _raw(port: int, request: str) -> str:
    with trio.fail_after(30):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request.encode())
            return (await stream.receive_some(4096)).decode("latin-1")


async def test_a_header_does_not_pretend_another_address() -> None:
    async with open_stream_server(requests_per_minute=1) as server:
        first = await http_get(
            server.port, "/api/brokers", Remote_Addr="10.0.0.1", X_Forwarded_For="10.0.0.1"
        )
        second = await http_get(
            server.port, "/api/brokers", Remote_Addr="10.0.0.2", X_Forwarded_For="10.0.0.2"
        )
        assert (first.status, second.status) == (200, 429)


async def test_a_reload_takes_keys_over_and_closes_whose_key_is_gone() -> None:
    async with open_stream_server(auth=keys()) as server, client_with(server, Authorization=BEARER) as client:
        server.take(auth=AuthConfig(keys=(KeyEntry("desk", HASH), KeyEntry("other", OTHER_HASH))))
        assert (await client.ask({"action": "ping"}))["type"] == "pong"
        other = f"Bearer {OTHER_KEY}"
        assert (await http_get(server.port, "/api/brokers", Authorization=other)).status == 200
        server.take(auth=AuthConfig(keys=(KeyEntry("other", OTHER_HASH),)))
        assert (await client.get())["code"] == 402
        assert await closed_with(client) == 1008
        assert (await http_get(server.port, "/api/brokers", Authorization=BEARER)).status == 401


@pytest.mark.parametrize("how", ["reload", "auth"])
async def test_subscriptions_that_a_key_may_not_have_any_more_end_with_a_reason(how: str) -> None:
    narrow: dict[str, Any] = {"symbols": ("GBPUSD",)} if how == "reload" else {"scopes": ("history",)}
    both = (KeyEntry("desk", HASH), KeyEntry("other", OTHER_HASH, **narrow))
    async with (
        open_stream_server(auth=AuthConfig(keys=both)) as server,
        client_with(server, Authorization=BEARER) as client,
    ):
        await client.subscribe("EURUSD", "GBPUSD", types=["tick", "trade"])
        while (await client.ask({"action": "list", "id": 1})).get("id") != 1:
            pass
        if how == "reload":
            server.take(
                auth=AuthConfig(keys=(KeyEntry("desk", HASH, **narrow), KeyEntry("other", OTHER_HASH)))
            )
        else:
            await client.send({"action": "auth", "key": OTHER_KEY, "id": 2})
        while (ended := await client.get()).get("action") != "subscribe" or "id" in ended:
            pass
        assert {one["code"] for one in ended["results"]} == {409}
        left = [] if how == "auth" else ["GBPUSD", "GBPUSD"]
        assert [one["symbol"] for one in ended["subscriptions"]] == left
        server.brokers["one"].publish(Tick("EURUSD", 1_710_918_000 * US_PER_S, 1.0, 2.0))
        assert (await client.ask({"action": "ping"}))["type"] == "pong"


async def test_with_keys_no_answer_with_data_is_kept_for_others() -> None:
    async with open_stream_server(auth=keys()) as server:
        answer = await http_get(server.port, "/api/brokers", Authorization=BEARER)
        assert answer.headers["cache-control"] == "private, no-cache"


def test_no_key_is_shown_by_the_objects_that_hold_it() -> None:
    assert HASH.rpartition(":")[2] not in repr(keys())
    assert json.dumps(KEY) not in repr(keys())


async def test_no_answer_names_a_broker_that_the_key_may_not_see() -> None:
    async with open_stream_server(("one", "two", "secret"), auth=keys(brokers=("two",))) as server:
        server.supervisor.brokers["one"].demand.set_instruments([])
        async with client_with(server, Authorization=BEARER) as client:
            for action in ("subscribe", "unsubscribe"):  # what is hidden and what is not there are told alike
                told = [
                    json.dumps(await client.ask({"action": action, "symbols": ["EURUSD"], "broker": name}))
                    for name in ("secret", "nobody")
                ]
                assert told[0].replace("secret", "nobody") == told[1]
            assert (await client.subscribe("EURUSD", broker="nobody"))["results"][0]["code"] == 409
            named = {"action": "authenticate", "credentials": {}}
            told = [json.dumps(await client.ask({**named, "broker": name})) for name in ("secret", "nobody")]
            assert told[0].replace("secret", "nobody") == told[1]
            for kind in ("orderbook", "candle"):
                (refused,) = (await client.subscribe("EURUSD", types=[kind]))["results"]
                assert refused["status"] == "error"
                assert "one" not in refused["message"].replace("none", "")
                assert "secret" not in refused["message"]
        answer = await http_get(
            server.port, "/api/stream?symbols=EURUSD&types=orderbook", Authorization=BEARER
        )
        assert (answer.status, "secret" in answer.json()["detail"]) == (404, False)


class StoredElsewhere:
    """A store with records of one symbol by each of two brokers, and gaps of both."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    async def series(self, symbol: str | None = None) -> list[SeriesInfo]:
        return [
            SeriesInfo(
                number, broker, "EURUSD", "tick",
                earliest_us=10**15, latest_us=10**15, row_count=1, last_seq=1, live_v=1, hist_v=1,
            )
            for number, broker in ((1, "two"), (2, "Secret"))
        ]  # fmt: skip

    async def newest_prices(self, series: Sequence[SeriesInfo]) -> dict[int, list[float]]:
        return {}

    async def gaps(self, first_us: int, last_us: int, **chosen: Any) -> list[Any]:
        self.asked = chosen
        return []

    async def lasting_gaps(self, last_us: int, **chosen: Any) -> list[Any]:
        assert chosen["brokers"] == self.asked["brokers"]
        return []


async def test_no_route_shows_a_limited_key_what_it_may_not_see() -> None:
    rights = keys(brokers=("two",), symbols=("EURUSD",))
    store = StoredElsewhere()
    async with open_stream_server(("two", "Secret"), auth=rights, services={"store": store}) as server:

        async def ask(path: str) -> Any:
            return await http_get(server.port, path, Authorization=BEARER)

        config = (await ask("/udf/config")).json()
        assert [one["value"] for one in config["exchanges"]] == ["", "two"]
        for path in ("/udf/symbols?symbol=", "/udf/quotes?symbols="):
            hidden, none = [
                (await ask(f"{path}{name}:EURUSD")).body.decode() for name in ("secret", "nobody")
            ]
            assert hidden.replace("secret", "nobody").replace("SECRET", "NOBODY") == none, path
        metrics = await ask("/metrics")
        assert (metrics.status, b"Secret" in metrics.body) == (403, False)
        assert (await ask("/api/gaps?limit=1")).json() == {"gaps": [], "more": False}
        assert (set(store.asked["brokers"]), set(store.asked["symbols"])) == ({"two"}, {"EURUSD"})


async def test_a_websocket_in_the_wrong_place_is_told_the_right_one() -> None:
    async with open_stream_server() as server:
        for path in ("/api/stream?symbols=EURUSD", "/health/live"):
            answer = await http_get(
                server.port, path, Upgrade="websocket", Connection="Upgrade",
                Sec_WebSocket_Version="13", Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==",
            )  # fmt: skip
            assert (answer.status, answer.json()["code"]) == (400, "invalid_request")
            assert "the WebSocket is at / and at /stream" in answer.json()["detail"]


async def test_readiness_names_no_broker_where_a_key_is_asked_for() -> None:
    async with open_stream_server(("one", "secret"), auth=keys()) as server:
        for state, status in (("backoff", 200), ("failed", 503)):
            for broker in server.supervisor.brokers.values():
                broker._history.state = State(state)
            answer = await http_get(server.port, "/health/ready")
            assert (answer.status, b"secret" in answer.body) == (status, False), answer.body
        assert answer.json()["reasons"] == ["every broker has failed"]
        server.supervisor.brokers["one"]._history.state = State.LIVE
        answer = await http_get(server.port, "/health/ready")
        assert answer.json() == {"status": "degraded", "reasons": ["1 of 2 brokers are not live"]}


@pytest.mark.parametrize(
    ("request_line", "status", "says"),
    [
        ("GET /api/candles/币安人生USDT/1h HTTP/1.1", 400, "percent-encoded"),
        ("GET /api/candles?symbol=Ünü HTTP/1.1", 400, "percent-encoded"),
        ("nonsense", 400, "no HTTP/1.1 request"),
        ("GET /" + "x" * 70_000 + " HTTP/1.1", 431, "too long"),
        ("GET / HTTP/1.1\r\nno header", 400, "a header line"),
        ("GET / HTTP/1.1\r\nX: \0", 400, "a header line"),
        ("GET / HTTP/1.1\r\nHost: other", 400, "Host is given more than once"),
        ("GET / HTTP/1.1\r\nContent-Length: five", 400, "Content-Length: expected a number"),
        ("GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6", 400, "Content-Length: given twice"),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip", 501, "expected chunked"),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip", 501, "expected chunked"),
    ],
)
async def test_what_is_no_request_is_a_problem_with_a_body(request_line: str, status: int, says: str) -> None:
    async with open_stream_server() as server:
        head, problem = await _problem_of(server, f"{request_line}\r\nHost: localhost\r\n\r\n".encode())
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert (problem["status"], problem["code"]) == (status, "invalid_request")
        assert says in problem["detail"]
        assert ("percent-encoded" in problem["detail"]) == (
            says == "percent-encoded" or "nonsense" in request_line
        )


async def test_a_request_without_a_host_is_told_so() -> None:
    async with open_stream_server() as server:
        _, problem = await _problem_of(server, b"GET / HTTP/1.1\r\n\r\n")
        assert problem["detail"] == "the header Host is missing"


async def _problem_of(server: StreamServer, request: bytes) -> tuple[bytes, dict[str, Any]]:
    """Send bytes; return the head of the answer and the problem in it. The server ends the connection."""
    answer = b""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(request)
        with trio.fail_after(30), contextlib.suppress(trio.BrokenResourceError):
            while part := await stream.receive_some():
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower(), answer
    return head, json.loads(body)


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Sec-WebSocket-Protocol": "mdserver, ключ"}, 400, "Sec-WebSocket-Protocol: expected ASCII"),
        ({"Sec-WebSocket-Extensions": "é"}, 400, "Sec-WebSocket-Extensions: expected ASCII"),
        ({"Connection": "Upgrade, é"}, 400, "Connection: expected ASCII"),
        ({"Sec-WebSocket-Version": "8"}, 426, "Sec-WebSocket-Version: expected 13"),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400, "Sec-WebSocket-Key: expected 16 bytes"),
        ({"Sec-WebSocket-Key": "é"}, 400, "Sec-WebSocket-Key: expected"),
        ({"Sec-WebSocket-Key": ""}, 400, "Sec-WebSocket-Key: expected 16 bytes"),
    ],
)
@pytest.mark.parametrize("cleartext_http2", [False, True])
async def test_a_broken_handshake_is_told_why(
    headers: dict[str, str], status: int, says: str, *, cleartext_http2: bool
) -> None:
    async with (
        open_stream_server(cleartext_http2=cleartext_http2) as server,
        open_client(server.url) as other,
    ):
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**HANDSHAKE, **headers}.items())
        request = f"GET / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()
        head, problem = await _problem_of(server, request)
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert problem["detail"].startswith(says)
        assert (b"Sec-WebSocket-Version: 13" in head) == (status == 426)
        assert server.value("connections_dropped_total") == 0
        assert (await other.ask({"action": "ping"}))["type"] == "pong"

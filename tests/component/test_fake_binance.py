"""The fake venue does what is known of the real one."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.net import WebSocket, WebSocketClosed, open_http, open_websocket
from mdserver.testing.binance import BinanceRules, FakeBinance, open_fake_binance
from mdserver.testing.recorded import Frame

AGG_TRADE = {"e": "aggTrade", "E": 1672515782136, "s": "BNBBTC", "a": 1, "T": 1672515782136}


async def ask(websocket: WebSocket, request: object) -> object:
    await websocket.send(request if isinstance(request, str) else json.dumps(request))
    (reply,) = await websocket.receive()
    return json.loads(reply)


async def test_subscribe_list_unsubscribe() -> None:
    async with open_fake_binance() as venue, open_websocket(f"{venue.url}/ws/a@trade/b@trade") as websocket:
        assert await ask(websocket, {"method": "SUBSCRIBE", "params": ["c@trade"], "id": 1}) == {
            "result": None,
            "id": 1,
        }
        await ask(websocket, {"method": "UNSUBSCRIBE", "params": ["a@trade"], "id": "x"})
        assert await ask(websocket, {"method": "LIST_SUBSCRIPTIONS", "id": None}) == {
            "result": ["b@trade", "c@trade"],
            "id": None,
        }


async def drain(websocket: WebSocket, into: list[bytes]) -> None:
    """Receive until the connection ends."""
    while True:
        into += await websocket.receive()


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ("{", {"code": 3}),
        ({"id": 1}, {"code": 2}),
        ({"method": "X", "id": 1}, {"code": 2, "id": 1}),
        ({"method": "SUBSCRIBE", "params": [], "id": 1.5}, {"code": 2}),
        ({"method": "SET_PROPERTY", "params": ["combined", 7], "id": 1}, {"code": 1, "id": 1}),
        ({"method": "SET_PROPERTY", "params": [7], "id": 1}, {"code": 2, "id": 1}),
        ({"method": "GET_PROPERTY", "params": ["colour"], "id": 1}, {"code": 0, "id": 1}),
    ],
)
async def test_flat_errors_leave_the_connection_open(request_: object, error: dict[str, object]) -> None:
    async with open_fake_binance() as venue, open_websocket(f"{venue.url}/ws") as websocket:
        reply = await ask(websocket, request_)
        assert isinstance(reply, dict)
        assert {key: value for key, value in reply.items() if key != "msg"} == error
        assert await ask(websocket, {"method": "GET_PROPERTY", "params": ["combined"], "id": 2}) == {
            "result": False,
            "id": 2,
        }


async def test_a_malformed_stream_gets_a_nested_error_and_a_close() -> None:
    async with open_fake_binance() as venue, open_websocket(f"{venue.url}/stream") as websocket:
        await websocket.send('{"method":"SUBSCRIBE","params":["no good"],"id":5}')
        received: list[bytes] = []
        with pytest.raises(WebSocketClosed):
            await drain(websocket, received)
        assert json.loads(received[0])["error"]["code"] == 2


async def test_too_many_streams() -> None:
    async with open_fake_binance(BinanceRules(max_streams=1)) as venue:
        async with open_websocket(f"{venue.url}/stream") as websocket:
            reply = await ask(websocket, {"method": "SUBSCRIBE", "params": ["a@trade", "b@trade"], "id": 1})
            assert reply == {"error": {"code": 4, "msg": "Too many subscriptions"}, "id": 1}
            assert not venue.streams


async def test_the_sixth_message_in_a_second_costs_the_connection() -> None:
    async with open_fake_binance() as venue, open_websocket(f"{venue.url}/ws") as websocket:
        for _ in range(5):
            await ask(websocket, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
        await websocket.ping()
        with pytest.raises(WebSocketClosed, match="1008 Too many requests"):
            await drain(websocket, [])


async def test_no_pong_costs_the_connection() -> None:
    rules = BinanceRules(ping_interval_s=0.02, pong_timeout_s=0.05)
    async with open_fake_binance(rules) as venue, open_websocket(f"{venue.url}/ws"):
        with trio.fail_after(30):  # the client is not reading, so it does not answer
            await venue.wait_until(lambda: bool(venue.past))
        assert venue.past[0].closed_by == (1008, "Pong timeout")


async def test_too_many_connection_attempts() -> None:
    async with open_fake_binance(BinanceRules(max_connects=1)) as venue:
        async with open_websocket(f"{venue.url}/ws"):
            with pytest.raises(Unavailable, match="HTTP 429") as caught:
                async with open_websocket(f"{venue.url}/ws"):
                    pass
            assert caught.value.retry_after_s == 300


@pytest.mark.parametrize(
    ("path", "combined", "time"),
    [
        ("/ws/bnbbtc@aggTrade", False, 1672515782136),
        ("/stream?streams=bnbbtc@aggTrade", True, 1672515782136),
        ("/stream?streams=bnbbtc@aggTrade&timeUnit=MICROSECOND", True, 1672515782136000),
    ],
)
async def test_raw_and_combined_in_either_unit(path: str, combined: bool, time: int) -> None:
    async with open_fake_binance() as venue, open_websocket(venue.url + path) as websocket:
        await venue.push("bnbbtc@aggTrade", AGG_TRADE)
        (message,) = await websocket.receive()
        payload = json.loads(message)
        if combined:
            assert payload.pop("stream") == "bnbbtc@aggTrade"
            payload = payload["data"]
        assert payload == AGG_TRADE | {"E": time, "T": time}


async def test_a_misspelt_stream_is_accepted_and_silent() -> None:
    async with open_fake_binance() as venue, open_websocket(f"{venue.url}/ws/a@tradee") as websocket:
        assert await venue.push("a@trade", AGG_TRADE) == 0
        assert await ask(websocket, {"method": "LIST_SUBSCRIPTIONS", "id": 1}) == {
            "result": ["a@tradee"],
            "id": 1,
        }


async def test_replay_keeps_the_recorded_pauses_scaled_and_the_text() -> None:
    text = '{"stream":"a@trade","data":{"b":"0.10000000","a":[]}}'
    frames = [Frame(100.0, "a@trade", text), Frame(101.0, "b@trade", text), Frame(102.0, "a@trade", text)]
    async with (
        open_fake_binance() as venue,
        open_websocket(f"{venue.url}/stream?streams=a@trade") as websocket,
    ):
        before = trio.current_time()
        assert await venue.replay(frames, speed=20.0) == 2
        assert trio.current_time() - before > 0.09
        assert (await websocket.receive())[0].decode() == text


async def rest(venue: FakeBinance, path: str, **params: str) -> Any:
    async with open_http() as http:
        return json.loads(await http.fetch(f"{venue.rest_url}/api/v3/{path}", params=params))


async def gather(websocket: WebSocket, until: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    got: list[dict[str, Any]] = []
    with trio.fail_after(30):
        while not until(got):
            got += map(json.loads, await websocket.receive())
    return got


async def test_made_up_markets_move_at_once_and_agree_with_each_other() -> None:
    """Changes of the book, joined to a snapshot by the venue's rule, give its partial books and best prices."""
    streams = "/".join(
        f"btcusdt@{kind}" for kind in ("depth@100ms", "depth5@100ms", "bookTicker", "aggTrade")
    )
    async with (
        open_fake_binance(BinanceRules(pace_s=0.005)) as venue,
        open_websocket(f"{venue.url}/stream?streams={streams}") as websocket,
    ):
        snapshot = await rest(venue, "depth", symbol="BTCUSDT", limit="1000")
        got = await gather(
            websocket, lambda got: len(got) > 200 and {m["stream"] for m in got} == set(streams.split("/"))
        )
    book = {side: dict(snapshot[side]) for side in ("bids", "asks")}
    last, compared = snapshot["lastUpdateId"], 0
    for message in got:
        data = message["data"]
        if data.get("e") == "depthUpdate" and data["u"] > last:
            assert data["U"] <= last + 1
            last = data["u"]
            for side, levels in (("bids", data["b"]), ("asks", data["a"])):
                book[side].update(levels)
        elif data.get("lastUpdateId") == last:
            compared += 1
            for side, best in (("bids", max), ("asks", min)):
                left = [price for price, size in book[side].items() if float(size)]
                assert data[side][0][0] == best(left, key=float)
    assert compared > 20


async def test_nothing_moves_that_a_test_moves_by_hand() -> None:
    async with open_fake_binance(BinanceRules(pace_s=0.005)) as venue:
        venue.instruments = {"BTCUSDT": ("TRADING", "BTC", "USDT")}
        async with open_websocket(f"{venue.url}/stream?streams=btcusdt@bookTicker") as websocket:
            await venue.wait_subscribed("btcusdt@bookTicker")
            with trio.move_on_after(0.1):
                await websocket.receive()
                raise AssertionError("something moved")
            await venue.push("btcusdt@bookTicker", {"u": 1})
            assert json.loads((await websocket.receive())[0])["data"] == {"u": 1}
        assert [row["symbol"] for row in (await rest(venue, "exchangeInfo"))["symbols"]] == ["BTCUSDT"]


async def test_trades_of_the_past_by_number_and_time() -> None:
    async with open_fake_binance(BinanceRules(pace_s=math.inf)) as venue:
        (made,) = await venue.trade("BTCUSDT", skip_ids=7)
        newest = await rest(venue, "trades", symbol="BTCUSDT", limit="2")
        assert newest[1]["id"] == newest[0]["id"] + 8 == made.number
        first = newest[0]["id"] - 5
        past = await rest(venue, "historicalTrades", symbol="BTCUSDT", fromId=str(first), limit="3")
        assert [row["id"] for row in past] == [first, first + 1, first + 2]
        aggregates = await rest(venue, "aggTrades", symbol="BTCUSDT", startTime=str(made.time_ms))
        assert (aggregates[-1]["f"], aggregates[-1]["l"]) == (made.number, made.number)
        again = await rest(venue, "aggTrades", symbol="BTCUSDT", fromId=str(aggregates[-1]["a"]))
        assert again == aggregates[-1:]
        candles = await rest(venue, "klines", symbol="BTCUSDT", interval="1m", limit="2")
        assert [len(row) for row in candles] == [12, 12]
        async with open_http(headers={"X-MBX-TIME-UNIT": "MICROSECOND"}) as http:
            body = await http.fetch(
                f"{venue.rest_url}/api/v3/trades", params={"symbol": "BTCUSDT", "limit": "1"}
            )
        assert json.loads(body)[0]["time"] == made.time_ms * 1000


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("depth", {"symbol": "NOSUCH"}, -1121),
        ("depth", {}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "1x"}, -1120),
        ("aggTrades", {"symbol": "BTCUSDT", "fromId": "x"}, -1100),
    ],
)
async def test_errors_of_rest(path: str, params: dict[str, str], code: int) -> None:
    async with open_fake_binance() as venue, open_http() as http:
        answer = await http.get(f"{venue.rest_url}/api/v3/{path}", params=params)
    assert (answer.status, json.loads(answer.body)["code"]) == (400, code)


async def test_weights_a_warning_and_a_ban() -> None:
    statuses = []
    async with (
        open_fake_binance(BinanceRules(weight_per_minute=60, warnings=1)) as venue,
        open_http() as http,
    ):
        url = f"{venue.rest_url}/api/v3/depth"
        for limit in ("1000", "100", "100", "100", "100"):
            answer = await http.get(url, params={"symbol": "BTCUSDT", "limit": limit})
            statuses.append(
                (answer.status, answer.headers["X-MBX-USED-WEIGHT-1M"], "Retry-After" in answer.headers)
            )
    assert statuses == [
        (200, "50", False),
        (200, "55", False),
        (200, "60", False),
        (429, "65", True),
        (418, "70", True),
    ]


async def test_a_script_of_faults() -> None:
    script = [
        (1.5, FakeBinance.garbage),  # by then the client is connected
        (1.55, FakeBinance.announce_shutdown),
        (1.6, FakeBinance.reset_in_frame),
    ]
    async with (
        open_fake_binance(BinanceRules(pace_s=math.inf), script=script) as venue,
        open_websocket(f"{venue.url}/stream") as websocket,
    ):
        received: list[bytes] = []
        with pytest.raises(Unavailable, match="connection lost"):
            await drain(websocket, received)
    assert received[0] == b'{"this is": not JSON'
    assert json.loads(received[1])["stream"] == "!serverShutdown"


async def test_late_replies_come_in_any_order() -> None:
    async with open_fake_binance(BinanceRules(ack_delay_s=0.2, max_messages_per_s=100)) as venue:
        async with open_websocket(f"{venue.url}/ws") as websocket:
            for number in range(20):
                await websocket.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
            got = await gather(websocket, lambda got: len(got) == 20)
    numbers = [reply["id"] for reply in got]
    assert sorted(numbers) == list(range(20))
    assert numbers != list(range(20))


async def test_the_venues_clock_may_be_wrong() -> None:
    async with open_fake_binance(BinanceRules(skew_s=-100.0)) as venue:
        assert (await rest(venue, "time"))["serverTime"] / 1000 - time.time() == pytest.approx(-100, abs=5)

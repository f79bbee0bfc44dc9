"""The fake venue does what is known of the real one."""

import json

import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.net import WebSocket, WebSocketClosed, open_websocket
from mdserver.testing.binance import BinanceRules, open_fake_binance
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
        with trio.fail_after(5):  # the client is not reading, so it does not answer
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
        assert 0.09 < trio.current_time() - before < 1
        assert (await websocket.receive())[0].decode() == text

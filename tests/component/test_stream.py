"""The WebSocket contract, over real sockets."""

from __future__ import annotations

import json
from time import time_ns

import pytest
import trio
from trio_websocket import ConnectionClosed

from mdserver.model import Feed, Tick, Trade

from .conftest import EPOCH, open_client, open_stream_server

T0 = 1_710_918_000_123_456


def tick(symbol: str = "EURUSD", n: int = 0) -> Tick:
    return Tick(symbol, T0 + n, 1.08703, 1.08705, 1_000_000.0, 500_000.0)


def trade(symbol: str = "BTCUSDT", n: int = 0) -> Trade:
    return Trade(symbol, T0 + n, 67123.4, 0.002, "buy", str(n))


async def test_hello_names_protocol_and_server() -> None:
    async with open_stream_server() as server, trio.open_nursery() as nursery:
        from trio_websocket import connect_websocket_url

        for path in ("", "stream"):
            connection = await connect_websocket_url(nursery, server.url + path)
            hello = json.loads(await connection.get_message())
            assert hello["message"] == "Connected to Market Data Server"
            assert hello["protocol"] == 1
            assert hello["server"].startswith("mdserver/")
            assert hello["epoch"] == EPOCH
            await connection.aclose()


async def test_a_tick_arrives_as_the_contract_shows_it() -> None:
    async with open_stream_server(["oanda"]) as server, open_client(server.url) as client:
        ack = await client.subscribe("eur/usd", id="a1")
        assert ack == {
            "type": "ack",
            "id": "a1",
            "action": "subscribe",
            "results": [{"broker": "oanda", "symbol": "EURUSD", "type": "tick", "status": "pending"}],
            "subscriptions": [{"broker": "oanda", "symbol": "EURUSD", "type": "tick"}],
        }
        confirmed = await client.get()
        assert confirmed["id"] == "a1"
        assert confirmed["results"][0]["status"] == "active"
        server.brokers["oanda"].publish(tick())
        raw = await client.connection.get_message()
        assert raw == (
            '{"type":"tick","broker":"oanda","symbol":"EURUSD","seq":1,"time":1710918000.123456,'
            '"bid":1.08703,"ask":1.08705,"bid_size":1000000,"ask_size":500000}'
        )


async def test_a_trade_arrives_as_the_contract_shows_it() -> None:
    async with open_stream_server(["binance"]) as server, open_client(server.url) as client:
        await client.subscribe("BTCUSDT", types=["trade"])
        await client.get()
        server.brokers["binance"].publish(trade(n=7))
        assert await client.get() == {
            "type": "trade",
            "broker": "binance",
            "symbol": "BTCUSDT",
            "seq": 1,
            "time": 1710918000.123463,
            "price": 67123.4,
            "size": 0.002,
            "side": "buy",
            "trade_id": "7",
        }


async def test_seq_is_contiguous_and_order_is_kept() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        await client.subscribe("EURUSD", types=["trade"])
        await client.get()
        for start in range(0, 1000, 10):
            server.brokers["one"].publish(*[trade("EURUSD", n=start + i) for i in range(10)])
        seqs = [(await client.get())["seq"] for _ in range(1000)]
        assert seqs == list(range(1, 1001))


async def test_a_window_loses_nothing() -> None:
    async with open_stream_server(window_s=0.002) as server, open_client(server.url) as client:
        await client.subscribe("EURUSD")
        await client.get()
        for n in range(100):
            server.brokers["one"].publish(tick(n=n))
            if n % 10 == 0:
                await trio.sleep(0.001)
        assert [(await client.get())["seq"] for _ in range(100)] == list(range(1, 101))


async def test_one_bad_symbol_spoils_no_other() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        server.brokers["one"].refuses["NOPE"] = "no such pair"
        await client.subscribe("EURUSD", "NOPE", id=1)
        answers = [await client.get(), await client.get()]
        by_symbol = {answer["results"][0]["symbol"]: answer for answer in answers}
        assert by_symbol["EURUSD"]["results"][0]["status"] == "active"
        refused = by_symbol["NOPE"]["results"][0]
        assert (refused["status"], refused["code"], refused["message"]) == ("error", 408, "no such pair")
        listing = await client.ask({"action": "list"})
        assert [s["symbol"] for s in listing["subscriptions"]] == ["EURUSD"]


async def test_the_next_broker_is_tried_in_config_order() -> None:
    async with open_stream_server(["first", "second"]) as server, open_client(server.url) as client:
        server.brokers["first"].refuses["XAUUSD"] = "not here"
        ack = await client.subscribe("XAUUSD")
        assert ack["results"][0]["broker"] == "first"
        final = await client.get()
        assert final["results"][0] == {
            "broker": "second",
            "symbol": "XAUUSD",
            "type": "tick",
            "status": "active",
        }
        server.brokers["second"].publish(tick("XAUUSD"))
        assert (await client.get())["broker"] == "second"


async def test_a_thousand_symbols_are_answered_in_a_few_messages() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        symbols = [f"SYM{n:03}" for n in range(1000)]
        first = await client.subscribe(*symbols, id=1)
        assert {result["status"] for result in first["results"]} == {"pending"}
        server.brokers["one"].publish(tick("SYM999"))
        settled: list[str] = []
        acks = 0
        while (message := await client.get())["type"] == "ack":
            settled += [result["symbol"] for result in message["results"] if result["status"] == "active"]
            acks += 1
            if len(settled) == 1000:
                break
        assert sorted(settled) == symbols
        assert acks <= 10


async def test_a_feed_that_is_refused_after_it_was_active_is_told() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        await client.subscribe("EURUSD", "GBPUSD", id=1)
        assert [result["status"] for result in (await client.get())["results"]] == ["active", "active"]
        server.brokers["one"].host.refuse([Feed("EURUSD", "tick")], "delisted")
        told = await client.get()
        assert "id" not in told
        assert told["results"] == [
            {
                "broker": "one",
                "symbol": "EURUSD",
                "type": "tick",
                "status": "error",
                "code": 408,
                "message": "delisted",
            }
        ]
        assert [s["symbol"] for s in told["subscriptions"]] == ["GBPUSD"]
        again = await client.subscribe("EURUSD", id=2)  # asked for once more
        assert again["results"][0]["status"] == "pending"
        assert (await client.get())["results"][0]["status"] == "active"


async def test_each_request_that_waits_is_answered() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        server.brokers["one"].silent.add("EURUSD")
        for number in (1, 2):
            ack = await client.subscribe("EURUSD", id=number)
            assert (ack["id"], ack["results"][0]["status"]) == (number, "pending")
        server.brokers["one"].host.confirm([Feed("EURUSD", "tick")])
        answers = [await client.get(), await client.get()]
        assert [(a["id"], a["results"][0]["status"]) for a in answers] == [(1, "active"), (2, "active")]


async def test_a_request_repeated_while_it_waits_is_answered_once_for_each_feed() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        server.brokers["one"].silent.add("EURUSD")
        for _ in range(2):
            await client.subscribe("EURUSD", id=1)
        server.brokers["one"].host.confirm([Feed("EURUSD", "tick")])
        assert [result["status"] for result in (await client.get())["results"]] == ["active"]


async def test_falling_back_to_a_broker_held_already_holds_it_once() -> None:
    async with open_stream_server(["first", "second"]) as server:
        async with open_client(server.url) as client:
            server.brokers["first"].silent.add("X")
            await client.subscribe("X", id=1)
            await client.subscribe("X", broker="second", id=2)
            assert (await client.get())["results"][0]["status"] == "active"
            server.brokers["first"].host.refuse([Feed("X", "tick")], "not here")
            told = await client.get()
            assert (told["id"], told["results"][0]["broker"], told["results"][0]["status"]) == (
                1,
                "second",
                "active",
            )
            assert len(told["subscriptions"]) == 1
        with trio.fail_after(30):
            while server.clients.sessions:
                await trio.sleep(0.01)
        assert server.supervisor.brokers["second"].demand.current() == frozenset()


async def test_a_broker_that_failed_meanwhile_is_not_waited_for() -> None:
    async with open_stream_server(["first", "second"]) as server, open_client(server.url) as client:
        server.brokers["first"].silent.add("X")
        await client.subscribe("X", id=1)
        server.supervisor.brokers["second"].give_up("bad key")
        server.brokers["first"].host.refuse([Feed("X", "tick")], "not here")
        told = await client.get()
        assert (told["id"], told["results"][0]["status"], told["results"][0]["message"]) == (
            1,
            "error",
            "not here",
        )
        assert told["subscriptions"] == []


async def test_nothing_is_active_while_its_broker_is_away() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        await client.subscribe("EURUSD")
        await client.get()
        server.brokers["one"].end.set()
        assert (await client.get())["state"] == "backoff"
        async with open_client(server.url) as other:
            assert (await other.subscribe("EURUSD", id=1))["results"][0]["status"] == "pending"
            with trio.fail_after(30):
                while (told := await other.get())["type"] != "ack":
                    pass
            assert (told["id"], told["results"][0]["status"]) == (1, "active")


async def test_one_client_leaving_never_cuts_another() -> None:
    async with open_stream_server() as server, open_client(server.url) as stays:
        await stays.subscribe("EURUSD")
        await stays.get()
        async with open_client(server.url) as leaves:
            ack = await leaves.subscribe("EURUSD")
            assert ack["results"][0]["status"] == "active"
        while len(server.clients.sessions) > 1:
            await trio.sleep(0.01)
        assert server.brokers["one"].host.demand.current()
        server.brokers["one"].publish(tick())
        assert (await stays.get())["type"] == "tick"
        await stays.ask({"action": "unsubscribe"})
        assert not server.brokers["one"].host.demand.current()


async def test_unsubscribe_selects_by_symbol_type_and_broker() -> None:
    async with open_stream_server(["a", "b"]) as server, open_client(server.url) as client:
        await client.subscribe("X", "Y", types=["tick", "trade"], broker="a")
        await client.get()
        ack = await client.ask({"action": "unsubscribe", "symbols": ["X"], "types": ["tick"]})
        assert ack["results"] == [{"broker": "a", "symbol": "X", "type": "tick", "status": "removed"}]
        assert len(ack["subscriptions"]) == 3
        ack = await client.ask({"action": "unsubscribe", "symbols": ["ZZZ"]})
        assert ack["results"][0]["status"] == "error"
        ack = await client.ask({"action": "unsubscribe", "broker": "a"})
        assert ack["subscriptions"] == []
        assert len(ack["results"]) == 3


async def test_ping_and_list() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        assert (await client.ask({"action": "ping", "id": 9}))["type"] == "pong"
        assert (await client.ask({"action": "list", "id": 9}))["subscriptions"] == []


DEEP = '{"action":' + "[" * 20_000 + "]" * 20_000 + "}"


@pytest.mark.parametrize(
    ("frame", "code", "says"),
    [
        ("nonsense", 400, "not JSON"),
        ('{"action":"ping","id":18446744073709551616}', 400, "at most 64 bits"),
        ('{"action":"ping","id":-9223372036854775809}', 400, "at most 64 bits"),
        (b"\x00\x01", 400, "binary"),
        (b"", 400, "binary"),
        ("[1,2]", 400, "expected a JSON object, got a list"),
        (DEEP, 400, "nested too deeply"),
        ("{}", 400, "action: expected one of subscribe"),
        ('{"action":"explode","id":5}', 400, '"explode"'),
        ('{"action":"subscribe"}', 400, "symbols: expected a list of strings, got nothing"),
        ('{"action":"subscribe","symbols":"EURUSD"}', 400, "got a string"),
        ('{"action":"subscribe","symbols":[]}', 400, "at least one"),
        ('{"action":"subscribe","symbols":["E"],"tpyes":["tick"]}', 400, '"tpyes"'),
        ('{"action":"subscribe","symbols":["E"],"broker":"x"}', 408, "there are: one"),
        ('{"action":"subscribe","symbols":["E"],"id":{}}', 400, "id: expected"),
        ('{"action":"subscribe","symbols":["E"],"since":"yesterday"}', 400, "since"),
    ],
)
async def test_bad_requests_get_their_code_and_nothing_stops(
    frame: str | bytes, code: int, says: str
) -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        error = await client.ask(frame)
        assert (error["type"], error["code"]) == ("error", code)
        assert says in error["message"]
        assert (await client.ask({"action": "ping"}))["type"] == "pong"


async def test_too_many_symbols_change_nothing() -> None:
    async with open_stream_server(max_symbols=3) as server, open_client(server.url) as client:
        await client.subscribe("A", "B")
        await client.get()
        error = await client.ask({"action": "subscribe", "symbols": ["C", "D"], "id": 7})
        assert (error["code"], error["id"]) == (405, 7)
        assert len((await client.ask({"action": "list"}))["subscriptions"]) == 2


async def test_twenty_bad_requests_in_a_row_close_with_1008() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        for _ in range(20):
            assert (await client.ask("?"))["code"] == 400
        with pytest.raises(ConnectionClosed) as closed:
            await client.get()
        assert closed.value.reason.code == 1008


async def test_a_good_request_between_bad_ones_ends_the_row() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        for _ in range(2):
            for _ in range(19):
                assert (await client.ask("?"))["code"] == 400
            assert (await client.ask({"action": "ping"}))["type"] == "pong"


async def test_a_message_over_64_kib_closes_with_1009() -> None:
    async with open_stream_server() as server:
        async with open_client(server.url) as client:
            symbols = [f"SYM{n}" for n in range(100_000)]
            with pytest.raises(ConnectionClosed) as closed:
                await client.subscribe(*symbols)
            assert closed.value.reason.code == 1009
        async with open_client(server.url) as other:
            assert (await other.ask({"action": "ping"}))["type"] == "pong"


async def test_too_many_connections_get_406_and_1013() -> None:
    async with open_stream_server(max_clients=1) as server, open_client(server.url) as first:
        async with open_client(server.url) as second:
            assert (await second.get())["code"] == 406
            with pytest.raises(ConnectionClosed) as closed:
                await second.get()
            assert closed.value.reason.code == 1013
        assert (await first.ask({"action": "ping"}))["type"] == "pong"


async def test_shutdown_closes_with_1012() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        server.clients.close_all()
        with pytest.raises(ConnectionClosed) as closed:
            await client.get()
        assert closed.value.reason.code == 1012


async def test_brokers_state_is_told_to_its_subscribers_only() -> None:
    async with open_stream_server(["a", "b"]) as server:
        async with open_client(server.url) as ours, open_client(server.url) as other:
            await ours.subscribe("X", broker="a")
            await ours.get()
            await other.subscribe("X", broker="b")
            await other.get()
            broker = server.supervisor.brokers["a"]
            server.clients.on_broker_state(broker, "backoff", "next attempt in 3 s")
            assert await ours.get() == {
                "type": "status",
                "broker": "a",
                "state": "backoff",
                "message": "next attempt in 3 s",
            }
            assert (await other.ask({"action": "ping"}))["type"] == "pong"


async def test_who_has_left_a_broker_hears_no_more_of_it() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        await client.subscribe("EURUSD")
        await client.get()
        await client.ask({"action": "unsubscribe", "symbols": ["EURUSD"]})
        for listener in server.supervisor.brokers["one"].listeners:
            listener(server.supervisor.brokers["one"], "backoff", "made up")
        assert (await client.ask({"action": "ping"}))["type"] == "pong"


async def test_a_hole_is_announced_before_the_record_that_ends_it() -> None:
    async with open_stream_server(["a"]) as server, open_client(server.url) as client:
        await client.subscribe("X", types=["tick", "trade"])
        while server.brokers["a"].host.demand.current() and server.supervisor.brokers["a"].demand.count() < 2:
            await trio.sleep(0.01)
        await client.get()
        server.brokers["a"].publish(tick("X", 0))
        assert (await client.get())["type"] in ("ack", "tick")
        server.supervisor.brokers["a"].host.gap("disconnected")
        server.brokers["a"].publish(tick("X", 2_000_000), tick("X", 3_000_000), trade("X", 9))
        messages = []
        while len(messages) < 4:
            message = await client.get()
            if message["type"] in ("gap", "trade") or message.get("seq", 0) > 1:
                messages.append(message)
        assert messages[0] == {
            "type": "gap",
            "broker": "a",
            "symbol": "X",
            "record_type": "tick",
            "from": 1710918000.123456,
            "to": 1710918002.123456,
            "cause": "disconnected",
            "state": "open",
        }
        assert [(m["type"], m["seq"]) for m in messages[1:]] == [("tick", 2), ("tick", 3), ("trade", 1)]
        assert server.value("gaps_total", broker="a", cause="disconnected") == 1


async def test_a_symbol_outside_of_ascii_from_the_broker_to_the_client() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        ack = await client.subscribe("币安人生/usdt")
        assert (ack["results"][0]["symbol"], ack["results"][0]["status"]) == ("币安人生USDT", "pending")
        assert (await client.get())["results"][0]["status"] == "active"
        server.brokers["one"].publish(Tick("币安人生USDT", time_ns() // 1000, 1.0, 2.0))
        assert (await client.get())["symbol"] == "币安人生USDT"


async def test_who_subscribes_is_told_of_the_hole_that_the_topic_is_in() -> None:
    async with (
        open_stream_server() as server,
        open_client(server.url) as first,
        open_client(server.url) as late,
    ):
        await first.subscribe("X")
        await first.get()
        server.brokers["one"].publish(tick("X", 0))
        assert (await first.get())["seq"] == 1
        server.supervisor.brokers["one"].host.gap("disconnected", size=7)
        assert (await late.subscribe("X"))["type"] == "ack"
        hole = await late.get()
        assert hole == {
            "type": "gap",
            "broker": "one",
            "symbol": "X",
            "record_type": "tick",
            "from": 1710918000.123456,
            "cause": "disconnected",
            "size": 7,
            "state": "open",
        }
        server.brokers["one"].publish(tick("X", 2_000_000))
        ended = await late.get()
        assert ended == {**hole, "to": 1710918002.123456}
        assert (await late.get())["seq"] == 2
        assert (await late.subscribe("X"))["type"] == "ack"
        assert (await late.ask({"action": "ping"}))["type"] == "pong", "there is no hole any more"

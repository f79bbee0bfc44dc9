"""The clients that we ship against a server that misbehaves: Python on trio and asyncio, JavaScript in Node."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mdserver.testing.websocket_venue import (
    FakeClient,
    HttpAnswer,
    HttpRequest,
    open_fake_venue,
)

from .misbehaving_server import (
    HTML,
    T0,
    FakeServer,
    Outcome,
    Run,
    Turn,
    acknowledged,
    fails,
    gap,
    node,
    quick,
    run,
    says,
    says_and_resets,
    tick,
)

__all__ = ["node", "quick", "run"]  # fixtures


async def test_a_lost_connection_is_resumed_behind_the_last_record(run: Run) -> None:
    first = says_and_resets(tick(1), tick(2), tick(3))
    server = FakeServer(first, says(tick(3), tick(4), tick(5), recovered=True))
    async with open_fake_venue(server):
        outcome = await run(server, 5)
    assert outcome == Outcome([tick(n) for n in range(1, 6)], None)
    assert server.asked[0]["symbols"] == ["EURUSD"]
    assert server.asked[1]["since"] == {"epoch": "a", "seqs": [["one", "EURUSD", "tick", 3]]}
    assert "symbols" not in server.asked[1]


async def test_another_epoch_is_a_gap_and_goes_on_by_time(run: Run) -> None:
    again = says(tick(1, time=T0 + 2), tick(2, time=T0 + 7), recovered=True)
    server = FakeServer(says_and_resets(tick(1), tick(2)), again, epochs=("a", "b"))
    async with open_fake_venue(server):
        outcome = await run(server, 4)
    assert outcome.records == [tick(1), tick(2), gap(T0 + 2, T0 + 7, "epoch"), tick(2, time=T0 + 7)]
    assert server.asked[1]["since"] == T0 + 2


async def test_what_is_stored_no_more_is_a_gap(run: Run) -> None:
    again = says(tick(9), recovered=False, message="not stored")
    server = FakeServer(says_and_resets(tick(1)), again)
    async with open_fake_venue(server):
        outcome = await run(server, 3)
    assert outcome.records == [tick(1), gap(T0 + 1, T0 + 9, "not_stored"), tick(9)]


async def test_history_that_is_not_there_yet_is_asked_for_again(run: Run) -> None:
    """What is live meanwhile comes again with the replay: it is not handed over twice."""

    def away(client: FakeClient, request: dict[str, Any]) -> None:
        says()(client, request)
        fails(410, "the database is away")(client, request)
        client.send(tick(7))

    back = says(*(tick(n) for n in range(2, 9)), recovered=True)
    server = FakeServer(says_and_resets(tick(1)), away, back)
    async with open_fake_venue(server):
        outcome = await run(server, 8)
    assert outcome.records == [tick(n) for n in range(1, 9)]
    assert server.asked[1]["since"] == server.asked[2]["since"]


async def test_nobody_waits_for_the_history_of_a_server_that_stores_nothing(run: Run) -> None:
    def without(client: FakeClient, request: dict[str, Any]) -> None:
        says(recovered=False, code=410, message="this server stores nothing")(client, request)
        fails(410, "since: this server stores nothing")(client, request)
        client.send(tick(7))

    server = FakeServer(says_and_resets(tick(1)), without)
    async with open_fake_venue(server):
        began = trio.current_time()
        outcome = await run(server, 3)
        waited_s = trio.current_time() - began
    assert outcome.records == [tick(1), gap(T0 + 1, T0 + 7, "not_stored"), tick(7)]
    assert len(server.asked) == 2
    assert waited_s < 15


async def test_a_key_without_history_goes_on_live(run: Run) -> None:
    server = FakeServer(says_and_resets(tick(1)), fails(409, "no scope history"), says(tick(5)))
    async with open_fake_venue(server):
        outcome = await run(server, 3)
    assert outcome.records[0] == tick(1)
    assert outcome.records[1]["type"] == "gap"
    assert outcome.records[2] == tick(5)
    assert "since" not in server.asked[2]


async def test_jumps_are_gaps_unless_they_are_explained(run: Run) -> None:
    told = gap(T0 + 6, T0 + 9, "restart")
    messages = [tick(1), tick(4, conflated=2), tick(6), told, told, tick(9), tick(9), tick(12)]
    server = FakeServer(says(*messages))
    async with open_fake_venue(server):
        outcome = await run(server, 8)
    missed = [gap(T0 + 4, T0 + 6, "missed", size=1), gap(T0 + 9, T0 + 12, "missed", size=2)]
    kept = [tick(1), tick(4, conflated=2), missed[0], tick(6), told, tick(9), missed[1], tick(12)]
    assert outcome.records == kept


async def test_candles_that_may_have_been_missed_are_a_gap(run: Run) -> None:
    def candle(minute: int, *, closed: bool) -> dict[str, Any]:
        prices = dict.fromkeys(("open", "high", "low", "close", "volume", "count"), 1)
        record = {
            "type": "candle",
            "broker": "one",
            "symbol": "EURUSD",
            "interval": "1m",
            "time": T0 + 60 * minute,
        }
        return record | prices | ({"closed": True} if closed else {"closed": False})

    def turn(*messages: dict[str, Any], end: bool) -> Turn:
        def act(client: FakeClient, request: dict[str, Any]) -> None:
            acknowledged(client, request, type="candle", interval="1m")
            for message in messages:
                client.send(message)
            if end:
                client.hang_up()

        return act

    server = FakeServer(
        turn(candle(0, closed=True), end=True),
        turn(candle(1, closed=True), end=True),
        turn(candle(3, closed=True), end=False),
    )
    async with open_fake_venue(server):
        outcome = await run(server, 4, types=["candle"], interval="1m")
    assert [record["type"] for record in outcome.records] == ["candle", "candle", "gap", "candle"]
    assert outcome.records[2]["cause"] == "disconnected"
    assert all(asked["interval"] == "1m" and "since" not in asked for asked in server.asked)


async def test_garbage_is_survived_but_not_for_ever(run: Run) -> None:
    def garbage(client: FakeClient, request: dict[str, Any]) -> None:
        client.send("<html>" if len(server.asked) % 2 else '[{"no": "type"}]')

    server = FakeServer(says_and_resets(tick(1)), garbage, says(tick(2), recovered=True), says())
    async with open_fake_venue(server):
        assert await run(server, 2) == Outcome([tick(1), tick(2)], None)
        server.turns[:] = [garbage] * 5
        outcome = await run(server, 1)
    assert outcome.error is not None
    assert outcome.error["name"] == "ProtocolViolation"


async def test_messages_of_a_newer_server_are_left_out_and_arrays_are_taken(run: Run) -> None:
    def turn(client: FakeClient, request: dict[str, Any]) -> None:
        says()(client, request)
        client.send([tick(1), {"type": "news", "text": "of tomorrow"}, tick(2, colour="red")])

    server = FakeServer(turn)
    async with open_fake_venue(server):
        outcome = await run(server, 2)
    assert [record["seq"] for record in outcome.records] == [1, 2]


async def test_all_symbols_of_a_broker_go_on_as_such(run: Run) -> None:
    server = FakeServer(
        says_and_resets(tick(1), symbol="*"),
        says(tick(3), symbol="*"),
        says(tick(2), tick(3), tick(1, symbol="GBPUSD"), recovered=True),
    )
    async with open_fake_venue(server):
        outcome = await run(server, 4, symbols=["*"], broker="one")
    assert outcome == Outcome([tick(1), tick(2), tick(3), tick(1, symbol="GBPUSD")], None)
    assert (server.asked[1]["symbols"], server.asked[1]["broker"]) == (["*"], "one")
    assert "since" not in server.asked[1]
    assert server.asked[2]["since"]["seqs"] == [["one", "EURUSD", "tick", 1]]


@pytest.mark.parametrize(
    ("turn", "name", "code"),
    [
        (says(status="error", code=408, message="no such symbol"), "Refused", 408),
        (fails(400, "interval: expected one of …"), "Refused", 400),
        (fails(402, "authentication failed", close=1008), "NotAuthenticated", 402),
    ],
)
async def test_what_does_not_pass_is_one_typed_error(run: Run, turn: Turn, name: str, code: int) -> None:
    server = FakeServer(turn)
    async with open_fake_venue(server):
        outcome = await run(server, 1, key="secret")
    assert outcome.error is not None
    assert (outcome.error["name"], outcome.error["code"]) == (name, code)
    assert "secret" not in outcome.error["message"]
    assert not server.turns


async def test_a_proxy_that_answers_for_the_server(run: Run) -> None:
    """At first that is an error; once there was a server it will be back."""
    server = FakeServer(says_and_resets(tick(1)), says(tick(2), recovered=True))
    server.refusal = server.answer = HTML
    async with open_fake_venue(server):
        outcome = await run(server, 1)
        assert outcome.error is not None
        assert outcome.error["name"] == "ConnectionFailed"
        assert "text/html" in outcome.error["message"]
        server.admit()

        async def be_away_once(request: HttpRequest) -> HttpAnswer | None:
            return HTML if server.attempts == 3 else None

        server.on_attempt = be_away_once  # type: ignore[method-assign]
        assert await run(server, 2) == Outcome([tick(1), tick(2)], None)
    assert server.attempts == 4


async def test_no_server(run: Run) -> None:
    server = FakeServer()
    server.rest_url = "http://127.0.0.1:9"
    outcome = await run(server, 1)
    assert outcome.error is not None
    assert outcome.error["name"] == "ConnectionFailed"
    assert "127.0.0.1:9" in outcome.error["message"]

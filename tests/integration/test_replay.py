"""``since``: from any point of the past into live, over real sockets and from a real database."""

from __future__ import annotations

import json
import random
import subprocess
from functools import partial
from pathlib import Path
from time import time
from typing import Any

import pytest
import trio
from wsproto.frame_protocol import Opcode

from mdserver.errors import StoreUnavailable
from mdserver.model import Tick
from mdserver.protocol.server_frames import CloseCode
from mdserver.store.connection.database import Database
from mdserver.store.seq_times import BLOCK
from mdserver.store.store import Store
from mdserver.stream import replay as replay_module
from mdserver.stream import shared_pages
from tests.component.conftest import EPOCH, open_stream_server
from tests.component.event_source import open_events
from tests.component.test_slow_clients import open_raw
from tests.component.test_stream_forms import open_form

from .storing_server import T0_S, StoringServer, open_client, open_storing_server, record, seqs_until
from .test_clients_of_others import program


async def ended(server: StoringServer) -> None:
    """Wait until no replay is under way."""
    with trio.fail_after(60):
        while server.stream.value("replays"):  # noqa: ASYNC110 - a gauge has no event
            await trio.sleep(0.005)


@pytest.mark.parametrize("window_s", [0.0, 0.005])
async def test_nothing_is_missing_and_nothing_twice_while_live_goes_on(
    database: Database, tmp_path: Path, window_s: float
) -> None:
    async with open_storing_server(database, tmp_path, window_s=window_s) as server:
        server.publish(20_000)
        async with trio.open_nursery() as nursery, open_client(server.stream.url) as client:
            nursery.start_soon(server.publish_on, 5_000)
            ack = await client.subscribe("EURUSD", since={"seq": 7}, broker="one", id=5)
            (result,) = ack["results"]
            assert (result["status"], result["recovered"], ack["id"]) == ("active", True, 5)
            seqs = []
            while "seq" in (complete := await client.get()):
                seqs.append(complete["seq"])
            seqs += (await seqs_until(client, seqs[-1] + 500))[0]
            assert seqs == list(range(8, seqs[-1] + 1))
            assert (complete["type"], complete["message"], complete["id"]) == ("status", "replay complete", 5)
            ((*topic, last),) = complete["seqs"]
            assert topic == ["one", "EURUSD", "tick"]
            assert 20_000 <= last < seqs[-1]
            nursery.cancel_scope.cancel()
    assert server.stream.value("records_replayed_total") >= 19_993


async def test_what_is_replayed_has_the_form_of_what_is_live(database: Database, tmp_path: Path) -> None:
    async with (
        open_storing_server(database, tmp_path) as server,
        open_form(server.stream, "format=msgpack&times=us") as client,
    ):
        server.publish(300)
        for request in ({"since": 0, "received": True}, {"rate_ms": 60_000}):
            await client.send({"action": "subscribe", "symbols": ["EURUSD"], **request})
        replayed = [await client.next_of("tick") for _ in range(300)]
        assert [one["seq"] for one in replayed] == list(range(1, 301))
        assert (await client.next_of("status"))["message"] == "replay complete"
        await client.send({"action": "subscribe", "symbols": ["EURUSD"], "received": True})
        await client.next_of("ack")
        server.publish(1)
        live = await client.next_of("tick")
        assert [(key, type(value)) for key, value in live.items()] == [
            (key, type(value)) for key, value in replayed[0].items()
        ]
        assert live["time"] > replayed[-1]["time"] > T0_S * 1_000_000 - 1


async def test_the_newest_records_are_not_in_the_future_though_the_clock_was_set_back(
    database: Database, tmp_path: Path
) -> None:
    async with open_storing_server(database, tmp_path) as server, open_client(server.stream.url) as client:
        ahead_s = int(time()) + 3_600
        server.publish(1)
        server.stream.brokers["one"].publish(Tick("EURUSD", ahead_s * 1_000_000, 1.0, 1.1))
        ack = await client.subscribe("EURUSD", since=ahead_s)
        assert ack["results"][0]["recovered"] is True
        assert (await client.get())["time"] == ahead_s
        assert (await client.get())["message"] == "replay complete"
        assert (await client.subscribe("EURUSD", since=ahead_s + 1))["code"] == 400


async def test_by_time_it_begins_with_the_first_record_of_that_time(
    database: Database, tmp_path: Path
) -> None:
    async with open_storing_server(database, tmp_path) as server, open_client(server.stream.url) as client:
        server.publish(100)
        for since, first in ((T0_S + 0.05, 50), (T0_S + 0.0501, 51), (0, 1), (T0_S + 0.1, 100)):
            ack = await client.subscribe("EURUSD", since=since)  # again and again on one connection
            assert ack["results"][0]["recovered"] is True
            seqs, _ = await seqs_until(client, 100)
            assert seqs == list(range(first, 101))
            assert (await client.get())["message"] == "replay complete"
        ack = await client.subscribe("EURUSD", since=T0_S + 1)  # nothing is so new
        assert ack["results"][0]["recovered"] is True
        assert (await client.get())["message"] == "replay complete"
        server.publish(1)
        assert (await client.get())["seq"] == 101


async def test_many_topics_are_resumed_by_one_request(database: Database, tmp_path: Path) -> None:
    async with open_storing_server(database, tmp_path) as server, open_client(server.stream.url) as client:
        symbols = [f"S{n}" for n in range(40)]
        for number, symbol in enumerate(symbols):
            server.publish(10 + number, symbol)
        server.publish(10, "S3", "trade")
        rows = [["one", symbol, "tick", 5] for symbol in symbols]
        rows += [
            ["one", "S3", "trade", 10],
            ["two", "S3", "tick", 1],
            ["one", "S3", "x", 1],
            ["one", "", "tick", 1],
        ]
        ack = await client.ask({"action": "subscribe", "since": {"epoch": EPOCH, "seqs": rows}})
        by_topic = {(r["broker"], r["symbol"], r["type"]): r for r in ack["results"]}
        assert len(by_topic) == 44
        assert all(by_topic["one", symbol, "tick"]["recovered"] for symbol in symbols)
        assert by_topic["one", "S3", "trade"]["recovered"] is True
        for broker, symbol, kind in (("two", "S3", "tick"), ("one", "S3", "x"), ("one", "", "tick")):
            assert by_topic[broker, symbol, kind]["code"] == 408
        assert len(ack["subscriptions"]) == 41
        got: dict[tuple[str, str], list[int]] = {}
        while (message := await client.get())["type"] != "status":
            got.setdefault((message["symbol"], message["type"]), []).append(message["seq"])
        assert got == {(s, "tick"): list(range(6, 11 + n)) for n, s in enumerate(symbols)}
        assert sorted(message["seqs"])[3] == ["one", "S11", "tick", 21]
        server.publish(1, "S3", "trade")
        assert (await client.get())["seq"] == 11


async def test_a_hole_comes_in_its_place_also_at_the_seam_and_once(
    database: Database, tmp_path: Path
) -> None:
    async with open_storing_server(database, tmp_path) as server, open_client(server.stream.url) as client:
        host = server.stream.brokers["one"]
        server.publish(10)
        assert host.host is not None
        host.host.gap("disconnected")
        server.publish(10)
        host.host.gap("missed", size=3)
        for since, last in ((5, 21), (10, 22), (20, 23)):
            # the hole behind 20 ends while the seam is near: it comes from the database or live, not from both
            await client.subscribe("EURUSD", broker="one", since={"seq": since})
            server.publish(1)
            read = [await client.get()]
            while read[-1].get("seq") != last:
                read.append(await client.get())
            # a hole that still lasts has no end, and is told besides when a topic becomes live
            shown = [one.get("seq") or one["cause"] for one in read if "seq" in one or "to" in one]
            assert shown == [
                *range(since + 1, 11),
                *(["disconnected"] if since <= 10 else []),
                *range(max(since, 10) + 1, 21),
                "missed",
                *range(21, last + 1),
            ]
            await client.ask({"action": "unsubscribe"})


async def test_numbers_of_another_epoch_mean_nothing(database: Database, tmp_path: Path) -> None:
    async with open_storing_server(database, tmp_path) as server, open_client(server.stream.url) as client:
        server.publish(10)
        since = {"epoch": "other", "seqs": [["one", "EURUSD", "tick", 1_000]]}
        ack = await client.subscribe("EURUSD", since=since)
        (result,) = ack["results"]
        assert (result["status"], result["recovered"]) == ("active", False)
        assert "another epoch" in result["message"]
        assert (await seqs_until(client, 10))[0] == list(range(1, 11))


async def test_what_cannot_be_recovered_is_said(database: Database, tmp_path: Path) -> None:
    async with (
        open_storing_server(database, tmp_path, types=("tick", "orderbook")) as server,
        open_client(server.stream.url) as client,
    ):
        server.publish(10)
        ack = await client.subscribe("EURUSD", broker="one", since={"seq": 11})
        assert ack["results"][0]["recovered"] is False
        assert "11 is above 10" in ack["results"][0]["message"]
        assert (await client.get())["message"] == "replay complete"
        server.publish(2)
        assert [(await client.get())["seq"] for _ in range(2)] == [11, 12]
        await database.run(lambda conn: conn.execute("delete from ticks where seq < 5"))
        ack = await client.subscribe("EURUSD", broker="one", since={"seq": 2})
        assert ack["results"][0]["message"] == "the records 3 to 4 are not stored: from the oldest there is"
        assert (await seqs_until(client, 12))[0] == list(range(5, 13))
        await client.get()
        ack = await client.subscribe("EURUSD", types=["orderbook"], since=0)
        assert ack["results"][0]["recovered"] is False
        assert "not stored" in ack["results"][0]["message"]


BAD = [
    (-1, "from 0 on, got -1"),
    (1_710_918_000_000, "milliseconds"),
    (10**300, "milliseconds"),
    (99_999_999_999, "in the future"),
    ("yesterday", "expected Unix seconds"),
    (True, "expected Unix seconds"),
    ([], "expected Unix seconds"),
    ({}, "an empty object"),
    ({"seq": "7"}, "since.seq: expected a whole number"),
    ({"seq": -1}, "since.seq: expected a whole number"),
    ({"seq": 1.5}, "since.seq: expected a whole number"),
    ({"seq": 2**63}, "since.seq: expected a whole number"),
    ({"seq": 1, "epoch": "x"}, "found epoch, seq"),
    ({"epoch": 5, "seqs": [["one", "EURUSD", "tick", 1]]}, "since.epoch: expected a string"),
    ({"epoch": "x", "seqs": []}, "since.seqs: expected a list"),
    ({"epoch": "x", "seqs": [["one", "EURUSD", "tick"]]}, "since.seqs[0]: expected [broker"),
    ({"epoch": "x", "seqs": [["one", "EURUSD", "tick", None]]}, "since.seqs[0]: expected a whole number"),
    (
        {"epoch": "x", "seqs": [["one", "EURUSD", "tick", 1]] * 2},
        "since.seqs[1]: one EURUSD tick is there twice",
    ),
]


@pytest.mark.parametrize(("since", "message"), BAD, ids=[text for _, text in BAD])
async def test_a_since_that_cannot_be_is_named(since: Any, message: str) -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        answer = await client.ask(
            {"action": "subscribe", "symbols": ["EURUSD"], "since": since, "id": 3, "broker": "one"}
        )
        assert (answer["type"], answer["code"], answer["id"]) == ("error", 400, 3)
        assert message in answer["message"]
        assert (await client.ask({"action": "list"}))["subscriptions"] == []


async def test_a_number_is_of_one_topic(database: Database, tmp_path: Path) -> None:
    async with open_stream_server(["one", "two"]) as server, open_client(server.url) as client:
        for fields in (
            {"symbols": ["A1", "B1"], "broker": "one"},
            {"symbols": ["A1"], "types": ["tick", "trade"], "broker": "one"},
            {"symbols": ["A1"]},  # of which broker?
        ):
            answer = await client.ask({"action": "subscribe", "since": {"seq": 1}, **fields})
            assert (answer["code"], "needs exactly one symbol" in answer["message"]) == (400, True)


async def test_more_topics_than_a_client_may_have(database: Database, tmp_path: Path) -> None:
    async with open_stream_server(max_symbols=10) as server, open_client(server.url) as client:
        rows = [["one", f"S{n}", "tick", 1] for n in range(11)]
        answer = await client.ask({"action": "subscribe", "since": {"epoch": EPOCH, "seqs": rows}})
        assert answer["code"] == 405


async def test_a_server_that_stores_nothing_says_so_and_streams() -> None:
    async with open_stream_server() as server, open_client(server.url) as client:
        ack = await client.subscribe("EURUSD", since=0, id=1)
        assert (ack["results"][0]["recovered"], ack["results"][0]["code"]) == (False, 410)
        error = await client.get()
        assert (error["code"], error["id"], "stores nothing" in error["message"]) == (410, 1, True)
        server.brokers["one"].publish(record("EURUSD", "tick", 1))
        while "seq" not in (message := await client.get()):
            assert message["type"] == "ack"  # now active
        assert message["seq"] == 1


async def test_while_the_database_is_away_live_goes_on(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_storing_server(database, tmp_path, flush_s=0.01) as server:
        server.publish(5_000)
        await server.drain.store_now()
        gone = False

        async def away(*args: Any, **kwargs: Any) -> None:
            raise StoreUnavailable("gone fishing")

        read = Store.replay_page

        async def page(store: Store, series: Any, after: int, limit: int, **more: Any) -> Any:
            if after > 1_000:
                raise StoreUnavailable("gone fishing")
            return await read(store, series, after, limit, **more)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "replay_page", page)
            async with open_client(server.stream.url) as client:  # in the middle of a replay
                assert (await client.subscribe("EURUSD", since=0, id=2))["results"][0]["recovered"]
                seqs = []
                while (message := await client.get())["type"] == "tick":
                    seqs.append(message["seq"])
                assert seqs == list(range(1, len(seqs) + 1))
                assert (message["code"], message["id"]) == (410, 2)
                assert "gone fishing" in message["message"]
                server.publish(1)
                assert (await client.get())["seq"] == 5_001
        assert not gone
        with monkeypatch.context() as patch:
            patch.setattr(Store, "write", away)
            patch.setattr(Store, "replay_begins", away)
            server.publish(1)
            async with open_client(server.stream.url) as client:  # from the beginning
                ack = await client.subscribe("EURUSD", since=0, id=3)
                assert (ack["results"][0]["status"], "recovered" in ack["results"][0]) == ("active", False)
                message = await client.get()
                assert (message["code"], message["id"]) == (410, 3)
                server.publish(1)
                assert (await client.get())["seq"] == 5_003
        async with open_client(server.stream.url) as client:  # and back
            with trio.fail_after(60):
                while server.drain.away is not None:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            assert (await client.subscribe("EURUSD", since=0))["results"][0]["recovered"]
            assert (await seqs_until(client, 5_003))[0] == list(range(1, 5_004))


async def test_a_seam_at_which_too_much_comes_is_tried_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "TAIL_BYTES", 20_000)
    async with open_storing_server(database, tmp_path) as server, open_client(server.stream.url) as client:
        seams = []

        class Past:
            """Publishes much at the first seams, between the tail's beginning and what is stored then."""

            def __init__(self, past: Any) -> None:
                self.past = past

            def __getattr__(self, name: str) -> Any:
                return getattr(self.past, name)

            async def caught_up(self) -> None:
                seams.append(len(seams))
                server.publish(1_000 if len(seams) < 4 else 40)
                await self.past.caught_up()
                server.publish(1_000 if len(seams) < 4 else 40)

        (session,) = server.stream.clients.sessions
        shared = session._resuming._replays
        shared._past = Past(shared._past)
        server.publish(10)
        await client.subscribe("EURUSD", since=0)
        seqs = []
        while "seq" in (message := await client.get()):
            seqs.append(message["seq"])
        assert message["message"] == "replay complete"
        assert seqs == list(range(1, server.sent["EURUSD", "tick"] + 1))
        assert len(seams) == 4
        server.publish(1)
        assert (await client.get())["seq"] == seqs[-1] + 1
        assert server.stream.router.topics_of(session.sink)


async def test_a_client_that_reads_slowly_costs_little_and_misses_nothing(
    database: Database, tmp_path: Path
) -> None:
    async with open_storing_server(database, tmp_path, flush_s=0.05) as server:
        server.publish(60_000, kind="trade", batch=1_000)
        async with open_raw(server.stream.port) as slow, open_client(server.stream.url) as quick:
            await slow.send_text(
                '{"action":"subscribe","symbols":["EURUSD"],"types":["trade"],"broker":"one","since":{"seq":0}}'
            )
            server.publish(1, "GBPUSD")
            await quick.subscribe("GBPUSD")
            sink = next(iter(server.stream.clients.sessions)).sink
            for number in range(200):  # while it stalls live goes on, for it and for the others
                server.publish(100, kind="trade")
                server.publish(1, "GBPUSD")
                assert (await quick.get())["seq"] == number + 2
                assert sink._backlog.size + len(sink._in_flight) < 200_000
            frames = await slow.frames_until_end(30, most=80_000, of=b'"seq"')
            records = [json.loads(payload) for opcode, payload in frames if opcode == Opcode.TEXT]
            seqs = [one["seq"] for one in records if one["type"] == "trade"]
            assert [n for n, seq in enumerate(seqs, 1) if seq != n][:1] == []
            assert len(seqs) == 80_000


async def test_replays_of_the_same_past_read_it_once_and_each_client_has_it_whole(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []
    read_page = Store.replay_page

    async def count(store: Store, series: Any, after: int, limit: int, **options: Any) -> Any:
        pages.append(after)
        return await read_page(store, series, after, limit, **options)

    monkeypatch.setattr(Store, "replay_page", count)
    monkeypatch.setattr(
        replay_module, "FIRST_RECORDS", BLOCK
    )  # pages of one size, however slowly they are read
    monkeypatch.setattr(shared_pages, "KEPT_S", 60.0)
    monkeypatch.setattr(shared_pages.SharedPages, "clear", lambda pages: None)
    last = 3 * BLOCK
    async with open_storing_server(database, tmp_path) as server:
        server.publish(last, batch=1_000)
        got: dict[int, list[int]] = {}

        async def resume(first: int) -> None:
            async with open_client(server.stream.url) as client:
                await client.subscribe("EURUSD", since={"seq": first}, broker="one")
                got[first], _ = await seqs_until(client, last + 100)

        async with trio.open_nursery() as nursery:
            for first in (BLOCK - 3_000, BLOCK - 200, BLOCK - 1):
                nursery.start_soon(resume, first)
            server.publish(100)
    assert got == {first: list(range(first + 1, last + 101)) for first in got}
    assert len(got) == 3
    # at the end of a block all three are at one place
    assert [pages.count(BLOCK - 1), pages.count(2 * BLOCK - 1)] == [1, 1]


async def test_what_is_unsubscribed_is_replayed_no_more(database: Database, tmp_path: Path) -> None:
    async with open_storing_server(database, tmp_path) as server:
        server.publish(60_000, kind="trade", batch=1_000)
        async with open_client(server.stream.url) as client:
            await client.subscribe("EURUSD", types=["trade"], since=0)
            await client.ws.send('{"action":"unsubscribe"}')
            last = 0
            while (message := await client.get())["type"] == "trade":
                assert message["seq"] == last + 1
                last = message["seq"]
            assert message["action"] == "unsubscribe"
            assert last < 60_000
            await ended(server)
            server.publish(10, kind="trade")
            assert (await client.ask({"action": "ping"}))["type"] == "pong"  # not one record more


async def test_asked_for_anew_in_the_middle_it_begins_anew(database: Database, tmp_path: Path) -> None:
    async with open_storing_server(database, tmp_path) as server, open_client(server.stream.url) as client:
        server.publish(60_000, kind="trade", batch=1_000)
        await client.subscribe("EURUSD", types=["trade"], since=0, id=1)
        fields = {
            "symbols": ["EURUSD"],
            "types": ["trade"],
            "broker": "one",
            "since": {"seq": 59_000},
            "id": 2,
        }
        await client.ws.send(json.dumps({"action": "subscribe", **fields}))
        while (message := await client.get())["type"] == "trade":
            pass
        assert (message["type"], message["id"]) == ("ack", 2)
        seqs, _ = await seqs_until(client, 60_000)
        assert seqs == list(range(59_001, 60_001))
        message = await client.get()
        assert (message["message"], message["id"]) == ("replay complete", 2)
        await ended(server)


async def test_a_client_that_leaves_stops_its_replay(database: Database, tmp_path: Path) -> None:
    async with open_storing_server(database, tmp_path) as server:
        server.publish(60_000, kind="trade", batch=1_000)
        for _ in range(3):
            async with open_raw(server.stream.port) as client:
                await client.send_text(
                    '{"action":"subscribe","symbols":["EURUSD"],"types":["trade"],"since":0,"broker":"one"}'
                )
                await client.take(1_000)
            await ended(server)
        replayed = server.stream.value("records_replayed_total")
        await trio.sleep(0.05)
        assert server.stream.value("records_replayed_total") == replayed
        assert server.stream.router._group_of == {}


async def test_records_carry_their_receipt_where_that_is_asked_for(
    database: Database, tmp_path: Path
) -> None:
    async with open_storing_server(database, tmp_path) as server, open_client(server.stream.url) as client:
        server.publish(3)
        await client.subscribe("EURUSD", since=0, received=True)
        records = [await client.get() for _ in range(3)]
        assert all(one["received"] > T0_S - 10**9 for one in records)
        await client.get()
        server.publish(1)
        assert list(await client.get()) == list(records[0])


async def test_events_go_on_behind_the_last_one_in_all_topics(database: Database, tmp_path: Path) -> None:
    """A client of server-sent events that is cut at any event misses nothing and gets nothing twice."""
    rng = random.Random(3)  # noqa: S311
    kinds = [(symbol, kind) for symbol in ("EURUSD", "GBPUSD") for kind in ("tick", "trade")]
    query = "symbols=EURUSD,GBPUSD&types=tick,trade&since=0"
    got: dict[tuple[str, str], list[int]] = {key: [] for key in kinds}
    async with open_storing_server(database, tmp_path, flush_s=0.05) as server:
        for symbol, kind in kinds:
            server.publish(2_000, symbol, kind)
        last, rounds = {}, 0
        while any(seqs[-1:] != [server.sent[key]] for key, seqs in got.items()):
            rounds += 1
            async with open_events(server.stream.port, query, **last) as events:
                for _ in range(rng.choice((1, 3, 900, 2_500))):
                    if (event := await events.get()).get("seq"):
                        got[event["symbol"], event["type"]].append(event["seq"])
                        if all(seqs[-1:] == [server.sent[key]] for key, seqs in got.items()):
                            break
                last = {"Last_Event_ID": events.last_id}
            if rounds < 12:  # while nobody listens
                for symbol, kind in kinds:
                    server.publish(rng.randrange(300), symbol, kind)
    assert rounds > 5
    assert {key: len(seqs) for key, seqs in got.items()} == server.sent
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in got.values())


EVENT_SOURCE = """
const source = new EventSource(process.argv[1]);
source.onmessage = (event) => {
  const message = JSON.parse(event.data);
  if (message.seq) console.log(message.seq);
  if (message.seq >= 30) process.exit(0);
};
setInterval(() => {}, 1000); // its wait for the next try does not keep Node alive
"""


async def test_an_event_source_goes_on_by_itself_after_a_shutdown(database: Database, tmp_path: Path) -> None:
    """Node's ``EventSource`` comes back when it was told to, with the id of its last event."""
    node = program("node")
    script = [node, "--experimental-eventsource", "--no-warnings", "-e", EVENT_SOURCE]
    if (await trio.run_process([*script[:2], "-e", ""], check=False, capture_stderr=True)).returncode:
        pytest.skip("this Node has no EventSource")
    async with open_storing_server(database, tmp_path) as server, trio.open_nursery() as nursery:
        url = f"http://127.0.0.1:{server.stream.port}/api/stream?symbols=EURUSD"
        run = partial(trio.run_process, [*script, url], stdout=subprocess.PIPE)
        process = await nursery.start(run)
        printed = ""

        async def read_until(seq: int) -> None:
            nonlocal printed
            while not printed.endswith(f"{seq}\n"):
                printed += (await process.stdout.receive_some()).decode()

        clients, router = server.stream.clients, server.stream.router
        with trio.fail_after(60):
            while not any(router.topics_of(session.sink) for session in clients.sessions):
                await trio.sleep(0.01)
            server.publish(10)
            await read_until(10)
            for session in tuple(clients.sessions):
                session.close(CloseCode.RESTART, "server shutdown")
            await clients.gone()
            server.publish(10)  # while it is away
            while not clients.sessions:
                await trio.sleep(0.01)
            server.publish(10)
            await read_until(30)
        assert list(map(int, printed.split())) == list(range(1, 31))

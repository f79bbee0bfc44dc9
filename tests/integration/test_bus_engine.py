"""What the bus relies on, over Redis and over the engine in memory."""

from __future__ import annotations

import gc
import signal
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from click.testing import CliRunner
from coredis import PureToken

from mdserver.bus import redis_engine
from mdserver.bus.engine import START, BusEngine, BusMisused, BusUnavailable, Deposed, Entry, Position, Size
from mdserver.bus.memory_engine import MemoryEngine
from mdserver.bus.names import answers_key, lease_key, presence_prefix, stream_key
from mdserver.bus.redis_engine import open_redis
from mdserver.bus.shipper import Shipper
from mdserver.bus.status import Presence, clock_ahead_s, digest, encode_presence, read_status, try_out
from mdserver.commands import bus as bus_command
from mdserver.config import BusConfig, Config, DatabaseConfig
from mdserver.errors import ConfigError, Rejected
from mdserver.metrics import Metrics
from mdserver.model import Feed, Published, Tick, Topic

from .redis import RedisServer, free_port, running_redis

BROKEN_CONNECTIONS = pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")
"""The client leaves some of its own open."""

TLS = Path(__file__).parents[1] / "component" / "tls"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def closed_by_the_collector() -> Iterator[None]:
    """Collect what the client leaves open where its connection broke, here and not in a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(params=["redis", "memory"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[BusEngine]:
    if request.param == "memory":
        yield MemoryEngine()
        return
    server: RedisServer = request.getfixturevalue("redis")
    async with open_redis(server.url) as engine:
        await engine._client.flushall()
        yield engine


async def test_entries_come_back_in_order(engine: BusEngine) -> None:
    await engine.append("s:a", Position(1, 0), [b"one", b"two"])
    await engine.append("s:a", Position(1, 2), [b"three"])
    await engine.append("s:b", Position(7, 0), [b"\xc1\x00other"])
    found = await engine.read({"s:a": START, "s:b": START, "s:c": START}, most=10, wait_s=1)
    assert found == {
        "s:a": [
            Entry(Position(1, 0), b"one"),
            Entry(Position(1, 1), b"two"),
            Entry(Position(1, 2), b"three"),
        ],
        "s:b": [Entry(Position(7, 0), b"\xc1\x00other")],
    }
    assert (await engine.read({"s:a": Position(1, 0)}, most=1, wait_s=1))["s:a"][0].frame == b"two"
    assert await engine.edges("s:a") == (Position(1, 0), Position(1, 2))
    assert await engine.edges("s:c") is None


async def test_a_reader_is_woken(engine: BusEngine) -> None:
    await engine.append("s", Position(1, 0), [b"old"])
    assert await engine.read({"s": Position(1, 0)}, most=10, wait_s=0.05) == {}
    async with trio.open_nursery() as nursery:

        async def late() -> None:
            await trio.sleep(0.05)
            await engine.append("s", Position(1, 1), [b"new"])

        nursery.start_soon(late)
        found = await engine.read({"s": Position(1, 0)}, most=10, wait_s=5)
    assert found == {"s": [Entry(Position(1, 1), b"new")]}


async def test_who_was_replaced_cannot_write_and_nothing_comes_twice(engine: BusEngine) -> None:
    await engine.append("s", Position(1, 0), [b"a"])
    await engine.append("s", Position(2, 0), [b"b"])
    for position in (Position(1, 1), Position(2, 0), Position(1, 999)):
        with pytest.raises(Deposed):
            await engine.append("s", position, [b"x"])
    found = await engine.read({"s": START}, most=10, wait_s=1)
    assert [entry.frame for entry in found["s"]] == [b"a", b"b"]


async def test_one_holds_the_lease_and_the_next_has_a_higher_fence(engine: BusEngine) -> None:
    assert await engine.acquire("lease", "one", 5, "s") == 1
    assert await engine.acquire("lease", "two", 5, "s") is None
    assert not await engine.renew("lease", "two", 5)
    await engine.release("lease", "two")
    assert await engine.renew("lease", "one", 0.05)
    await trio.sleep(0.1)
    assert not await engine.renew("lease", "one", 5)
    assert await engine.acquire("lease", "two", 5, "s") == 2
    await engine.release("lease", "two")
    await engine.append("s", Position(40, 0), [b"from an engine that was restored"])
    assert await engine.acquire("lease", "one", 5, "s") == 41
    await engine.release("lease", "one")
    assert await engine.acquire("lease", "one", 5, "s") == 42


async def test_keys_expire(engine: BusEngine) -> None:
    await engine.put_in("d:", "a", b"1", 5)
    await engine.put_in("d:", "b", b"2", 0.05)
    assert await engine.get_all("d:") == {"a": b"1", "b": b"2"}
    await trio.sleep(0.1)
    assert await engine.get_all("d:") == {"a": b"1"}
    await engine.forget("d:a")
    assert await engine.get_all("d:") == {}


async def test_what_is_old_is_forgotten(engine: BusEngine) -> None:
    frames = [bytes(100)] * 1000
    await engine.append("s", Position(3, 0), frames)
    await engine.trim("s", Position(3, 900))
    edges = await engine.edges("s")
    assert edges is not None
    assert edges[0].number > 700  # Redis forgets whole blocks
    assert edges[1] == Position(3, 999)


async def test_a_stream_in_redis_needs_about_as_much_as_it_may(redis: RedisServer) -> None:
    keep_bytes, metrics, topic = 1 << 18, Metrics(), Topic("sea", "EURUSD", "tick")
    async with open_redis(redis.url) as engine, trio.open_nursery() as nursery:
        await engine._client.flushall()

        shipper = Shipper(engine, metrics, max_bytes=1 << 30, keep_s=60, keep_bytes=keep_bytes)
        shipper.lead("sea", 1, lambda: None)
        await nursery.start(shipper.run)
        for size, count in (1, 4_000), (40, 200):
            for number in range(count):
                shipper.offer([Published(topic, number, Tick("EURUSD", number, 1.0, 1.1))] * size)
            await shipper.shipped("sea")
            used = await engine._client.memory_usage(stream_key("sea"), samples=0)  # all of them
            assert used is not None
            assert 0.8 * keep_bytes < used < 1.2 * keep_bytes
        assert keep_bytes * 0.5 < metrics.bus_stream_bytes.labels("sea")._value.get() <= keep_bytes
        nursery.cancel_scope.cancel()


async def test_a_redis_that_gets_full_takes_all_of_an_append_or_nothing(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with open_redis(server.url) as engine:
            await engine.append("s", Position(1, 0), [b"x"])
            used = (await engine._client.info("memory"))["used_memory"]
            await engine._client.config_set({"maxmemory": str(int(used) + 200_000)})
            number, why = 1, ""
            while not why:
                try:
                    await engine.append("s", Position(1, number), [bytes(1_000)] * 50)
                except BusUnavailable as error:
                    why = str(error)
                else:
                    number += 50
            assert "memory is full" in why
            edges = await engine.edges("s")
            assert edges is not None
            assert edges[1] == Position(1, number - 1)


async def test_nothing_is_appended_behind_what_is_refused(engine: BusEngine) -> None:
    await engine.append("s", Position(1, 0), [b"a", b"b"])
    with pytest.raises(Deposed):
        await engine.append("s", Position(1, 1), [b"b", b"c"])
    edges = await engine.edges("s")
    assert edges is not None
    assert edges[1] == Position(1, 1)


async def test_a_redis_that_is_full_is_said_and_takes_records_again_once_old_ones_are_cut(
    tmp_path: Path,
) -> None:
    with running_redis(tmp_path, "--maxmemory", "4mb") as server:
        async with open_redis(server.url) as engine, trio.open_nursery() as nursery:
            shipper = Shipper(engine, Metrics(), max_bytes=1 << 30, keep_s=0.5, keep_bytes=1 << 30)
            shipper.lead("sea", 1, lambda: None)
            await nursery.start(shipper.run)
            topic = Topic("sea", "EURUSD", "tick")
            ticks = [Published(topic, one, Tick("EURUSD", one, 1.0, 1.1)) for one in range(100)]
            for _ in range(1_000):
                shipper.offer(ticks)
            with trio.fail_after(10):
                while shipper.away is None:
                    await trio.sleep(0.01)
            assert "memory is full; it needs a maxmemory above bus.keep_bytes" in shipper.away
            with trio.fail_after(20):
                while shipper.bytes:
                    await shipper.trim("sea")
                    await trio.sleep(0.05)
            edges = await engine.edges(stream_key("sea"))
            assert edges is not None
            assert edges[1] == Position(1, 1_000)
            nursery.cancel_scope.cancel()


async def test_redis_goes_and_comes_back_empty(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with open_redis(server.url) as engine:
            await engine.append("s", Position(1, 0), [b"a"])
            server.kill()
            with pytest.raises(BusUnavailable, match=r"127\.0\.0\.1:\d+ cannot be reached"):
                await engine.append("s", Position(1, 1), [b"b"])
            server.start()
            assert await engine.read({"s": START}, most=10, wait_s=0.01) == {}
            await engine.append("s", Position(1, 1), [b"b"])


async def test_redis_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_engine, "CALL_S", 0.3)
    with running_redis(tmp_path) as server:
        async with open_redis(server.url) as engine:
            await engine.put("a", b"1", 60)
            server.send(signal.SIGSTOP)
            with pytest.raises(BusUnavailable, match="did not answer within"):
                await engine.put("a", b"2", 60)
            server.send(signal.SIGCONT)
            await engine.put("a", b"3", 60)
            assert await engine.get("a") == b"3"


async def test_what_redis_refuses_is_said_without_the_data(tmp_path: Path) -> None:
    rights = "on >secret-word ~* -@all +get +ping +hello +client"
    options = ["--maxmemory", "2mb", "--user", "reader", *rights.split()]
    with running_redis(tmp_path, *options) as server:
        async with open_redis(server.url) as engine:
            await engine.put("text", b"1", 60)
            with pytest.raises(BusMisused, match="append to text: a key of that name holds something else"):
                await engine.append("text", Position(1, 0), [b"the data"])
            with pytest.raises(BusUnavailable, match="memory is full; it needs a maxmemory above") as caught:
                await engine.append("s", Position(1, 0), [b"the data" * 10_000] * 100)
            assert "the data" not in str(caught.value)
            await engine._client.config_set({"maxmemory": "100mb"})
            arrived = await engine.edges("s")
            await engine.append("s", Position(1, arrived[1].number + 1 if arrived else 0), [b"the data"])
        async with open_redis(server.url.replace("//", "//reader:secret-word@")) as engine:
            with pytest.raises(BusMisused, match="refuses to append to s"):
                await engine.append("s", Position(1, 0), [b"the data"])
        async with open_redis(server.url.replace("//", "//reader:wrong-word@")) as engine:
            with pytest.raises(BusMisused) as refused:
                await engine.put("s", b"1", 60)
            assert "wrong-word" not in str(refused.value)


async def test_a_lease_shows_its_holder_and_a_stream_its_size(engine: BusEngine) -> None:
    assert await engine.lease("l") is None
    assert await engine.size("s") == Size(0, 0)
    assert await engine.get("k") is None
    await engine.acquire("l", "me", 5, "s")
    held = await engine.lease("l")
    assert held is not None
    assert held.holder == "me"
    assert 0 < held.left_s <= 5
    await engine.append("s", Position(1, 0), [b"x" * 100, b"y" * 100])
    size = await engine.size("s")
    assert size.entries == 2
    assert size.bytes >= 200
    await engine.put("k", b"v", 5)
    assert await engine.get("k") == b"v"


async def test_the_status_names_processes_leaders_and_streams(engine: BusEngine) -> None:
    presence = Presence("ingest", "here", 7, "1", ["sea"], {"lake": 0.25}, 60.0)
    await engine.put_in(presence_prefix(), "a", encode_presence(presence), 5)
    await engine.put_in(presence_prefix(), "b", b"of another version", 5)
    await engine.acquire(lease_key("sea"), "a", 5, stream_key("sea"))
    await engine.append(stream_key("sea"), Position(1, 0), [b"x"])
    await engine.put(answers_key("sea"), b"nonsense", 5)
    found = await read_status(engine, ["sea", "lake"])
    assert found["processes"] == [
        {"process": "a", "role": "ingest", "host": "here", "pid": 7, "version": "1", "leads": ["sea"]}
        | {"lag": {"lake": 0.25}, "clock_s": 60.0, "named": {}},
        {"process": "b", "error": "what it says is of another version"},
    ]
    sea, lake = found["brokers"]
    assert (sea["leader"], sea["entries"], sea["fence"]) == ("a", 1, None)
    assert (lake["leader"], lake["entries"], lake["lease_left_s"]) == (None, 0, None)


def test_the_command_says_who_leads_nothing(redis: RedisServer, folder: Path) -> None:
    config = Config(
        bus=BusConfig(url=redis.url),
        database=DatabaseConfig(url="postgresql:///x"),
        brokers=(),
        data_dir=folder,
    )
    done = CliRunner().invoke(bus_command.bus_, ["status"], obj=SimpleNamespace(config=config))
    assert done.exit_code == 0, done.output
    assert done.output.startswith("process")
    done = CliRunner().invoke(
        bus_command.bus_, ["status"], obj=SimpleNamespace(config=Config(data_dir=folder))
    )
    assert isinstance(done.exception, Rejected)
    assert "bus.url" in str(done.exception)


async def test_the_status_says_that_configs_name_different_symbols(redis: RedisServer, folder: Path) -> None:
    async with open_redis(redis.url) as engine:
        await engine._client.flushall()
        for process, symbols in ("a", "EURUSD"), ("b", "GBPUSD"), ("c", "EURUSD"):
            named = {"sea": digest([Feed(symbols, "tick")]), "lake": digest([])}
            presence = Presence("ingest", "here", 7, "1", [], {}, 0.1, named)
            await engine.put_in(presence_prefix(), process, encode_presence(presence), 60)
    config = Config(
        bus=BusConfig(url=redis.url),
        database=DatabaseConfig(url="postgresql:///x"),
        data_dir=folder,
    )
    context = SimpleNamespace(config=config)
    done = await trio.to_thread.run_sync(
        lambda: CliRunner().invoke(bus_command.bus_, ["status"], obj=context)
    )
    assert done.exit_code == 0, done.output
    assert "The configs of b and c name different symbols or types of sea" in done.output
    assert "lake" not in done.output


async def test_the_rights_that_the_documentation_names_are_enough(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "howto" / "scale.md").read_text(encoding="utf-8")
    rights = text.partition("A user needs `")[2].partition("`")[0]
    with running_redis(tmp_path, "--user", "md", "on", ">word", "-@all", *rights.split()) as server:
        async with open_redis(server.url.replace("//", "//md:word@")) as engine:
            stream, lease = stream_key("sea"), lease_key("sea")
            assert await engine.acquire(lease, "me", 5, stream) == 1
            await engine.append(stream, Position(1, 0), [b"x"])
            await engine.read({stream: START}, most=1, wait_s=0.1)
            await engine.edges(stream)
            await engine.trim(stream, Position(1, 0))
            assert await engine.renew(lease, "me", 5)
            await engine.put(answers_key("sea"), b"x", 5)
            await engine.put_in(presence_prefix(), "me", b"x", 5)
            assert (await read_status(engine, ["sea"]))["brokers"][0]["entries"] == 1
            await engine.forget(answers_key("sea"))
            await engine.release(lease, "me")
            await try_out(engine)
            assert await clock_ahead_s(engine) == pytest.approx(0, abs=0.001)  # it is the same clock
            assert not [key async for key in engine._client.scan_iter() if b".doctor" in key]


@contextmanager
def redis_with_tls(folder: Path, clients: str = "no") -> Iterator[RedisServer]:
    """Run a Redis whose URL is for TLS; without TLS it serves nothing."""
    pem, port = str(TLS / "localhost.pem"), str(free_port())
    files = ["--tls-cert-file", pem, "--tls-key-file", pem, "--tls-ca-cert-file", pem]
    with running_redis(folder, "--tls-port", port, *files, "--tls-auth-clients", clients) as server:
        server.url = f"rediss://localhost:{port}"
        yield server


@BROKEN_CONNECTIONS
async def test_tls_with_an_authority_of_our_own(tmp_path: Path) -> None:
    with redis_with_tls(tmp_path) as server:
        async with open_redis(server.url, ca_file=TLS / "localhost.pem") as engine:
            await engine.append("s", Position(1, 0), [b"secret"])
            assert (await engine.read({"s": START}, most=1, wait_s=1))["s"][0].frame == b"secret"
        for stranger in TLS / "renewed.pem", None:
            async with open_redis(server.url, ca_file=stranger) as engine:
                with pytest.raises(
                    BusMisused, match=r"not trusted: self-signed certificate; .* bus\.ca_file"
                ):
                    await engine.put("a", b"1", 60)
        async with open_redis(server.url.replace("rediss", "redis")) as engine:
            with pytest.raises(BusUnavailable, match=r"TLS is where bus\.url has none"):
                await engine.put("a", b"1", 60)
    for missing in tmp_path / "none.pem", tmp_path:
        with pytest.raises(ConfigError, match=r"bus\.ca_file: found .*, expected certificates"):
            async with open_redis(server.url, ca_file=missing):
                pass


@BROKEN_CONNECTIONS
async def test_a_certificate_of_ours_that_redis_wants_is_said(tmp_path: Path) -> None:
    with redis_with_tls(tmp_path, clients="yes") as server:
        async with open_redis(server.url, ca_file=TLS / "localhost.pem") as engine:
            with pytest.raises(BusUnavailable, match=r"certificate required|closed without an answer"):
                await engine.put("a", b"1", 60)


async def test_tls_where_there_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_engine, "CALL_S", 0.5)
    with running_redis(tmp_path) as server:
        async with open_redis(server.url.replace("redis:", "rediss:")) as engine:
            with pytest.raises(BusUnavailable, match=r"127\.0\.0\.1:\d+ \(TLS\) (cannot be|did not answer)"):
                await engine.put("a", b"1", 60)


@BROKEN_CONNECTIONS
async def test_a_port_that_speaks_http_is_said() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for scheme, why in ("redis", "closed without an answer"), ("rediss", "by TLS"):
            async with open_redis(f"{scheme}://127.0.0.1:{server.server_port}") as engine:
                with pytest.raises(BusUnavailable, match=why):
                    await engine.put("a", b"1", 60)
                with pytest.raises(BusUnavailable, match=r"not Redis|by TLS"):
                    await engine.append("s", Position(1, 0), [b"x"])
        server.shutdown()


async def test_an_idle_connection_that_redis_closed_costs_no_call(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with open_redis(server.url) as engine, open_redis(server.url) as other:
            for number in range(3):
                await engine.append("s", Position(1, number), [b"x"])
                await other._client.client_kill(type_=PureToken.NORMAL, skipme=True)
                with trio.fail_after(5):  # until it has arrived
                    while any(connection.is_usable for connection in engine._idle):
                        await trio.sleep(0.001)
            assert await engine.edges("s") == (Position(1, 0), Position(1, 2))


async def test_the_answer_to_a_read_that_was_cancelled_is_nobody_elses(redis: RedisServer) -> None:
    async with open_redis(redis.url) as engine, trio.open_nursery() as nursery:
        await engine._client.flushall()
        cancelled = trio.CancelScope()

        async def read_in_vain() -> None:
            with cancelled:
                await engine.read({"a": START}, most=1, wait_s=5)

        nursery.start_soon(read_in_vain)
        while not any(one["cmd"] == "xread" for one in await engine._client.client_list()):
            await trio.sleep(0.001)
        cancelled.cancel()
        await engine.append("a", Position(1, 0), [b"of a"])
        await engine.append("b", Position(1, 0), [b"of b"])
        for stream, frame in ("b", b"of b"), ("a", b"of a"):
            found = await engine.read({stream: START}, most=1, wait_s=5)
            assert found == {stream: [Entry(Position(1, 0), frame)]}


async def test_a_refusal_leaves_nothing_behind_for_the_next_call(redis: RedisServer) -> None:
    async with open_redis(redis.url) as engine:
        await engine._client.flushall()
        await engine.append("s", Position(2, 0), [b"x"])
        with pytest.raises(Deposed):
            await engine.append("s", Position(1, 0), [b"y"] * 3)
        frames = [bytes([one % 256]) * 1000 for one in range(2_000)]  # more than one look at the socket
        await engine.append("s", Position(2, 1), frames)
        found = await engine.read({"s": Position(2, 0)}, most=5_000, wait_s=1)
        assert [entry.frame for entry in found["s"]] == frames


async def test_an_entry_of_a_stranger_is_handed_on_empty(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with open_redis(server.url) as engine:
            await engine._client.xadd("s", field_values={b"other": b"1"}, identifier="1-0")
            assert await engine.read({"s": START}, most=1, wait_s=0.1) == {"s": [Entry(Position(1, 0), b"")]}


async def test_a_group_is_found_without_a_look_at_the_other_keys(redis: RedisServer) -> None:
    async with open_redis(redis.url) as engine:
        client = engine._client
        await client.flushall()
        for number in range(100):
            await engine.put_in("d:", f"edge{number}", b"x", 0.05 if number else 60)
        await trio.sleep(0.1)
        await client.config_resetstat()
        assert await engine.get_all("d:") == {"edge0": b"x"}
        assert await engine.get_all("d:") == {"edge0": b"x"}
        assert await client.scard("d:") == 1
        called = await client.info("commandstats")
        assert not {"cmdstat_scan", "cmdstat_keys"} & set(called)
        assert called["cmdstat_get"]["calls"] == 100 + 1  # those that have expired are looked up once

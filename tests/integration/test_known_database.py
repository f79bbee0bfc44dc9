"""A server whose database is away at the start: it streams with new numbers and stores when the database comes."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import psycopg.conninfo
import pytest
import trio

from mdserver.config import DatabaseConfig
from mdserver.daemon.known_database import KnownDatabase
from mdserver.daemon.storage import DatabasePart
from mdserver.errors import ConfigError, StoreUnavailable
from mdserver.model import Gap, LastRecord, Published, Tick, Topic
from mdserver.net import open_websocket
from mdserver.store.connection.database import Opened

from .daemon import open_daemon, open_stream, write_config

TOPIC = Topic("mock", "EURUSD", "tick")

HASTY = "import mdserver.daemon.storage as module; module.KNOWN_WAIT_S = 0.3"
"""A known database that does not answer is waited for three seconds otherwise."""


class Proxy:
    """A TCP address in front of the database of the tests, which can be closed and opened again."""

    def __init__(self, database_url: str) -> None:
        params = psycopg.conninfo.conninfo_to_dict(database_url)
        self._socket = f"{params['host']}/.s.PGSQL.{params['port']}"
        self._account = f"{params['user']}@127.0.0.1"
        self._name = params["dbname"]
        self.port = 0
        self.most: int | None = None
        """How many more connections are let through; None: all."""

    @property
    def url(self) -> str:
        return f"postgresql://{self._account}:{self.port}/{self._name}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._forward, [listener])
            yield
            nursery.cancel_scope.cancel()

    async def _forward(self, client: trio.SocketStream) -> None:
        if self.most is not None:
            self.most -= 1
            if self.most < 0:
                await client.aclose()
                return
        async with (
            client,
            await trio.open_unix_socket(self._socket) as server,
            trio.open_nursery() as nursery,
        ):
            for source, target in ((client, server), (server, client)):
                nursery.start_soon(self._pump, source, target, nursery.cancel_scope)

    @staticmethod
    async def _pump(source: trio.SocketStream, target: trio.SocketStream, both: trio.CancelScope) -> None:
        try:
            async for data in source:
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other end has gone
        both.cancel()


@pytest.fixture
def rows(database_url: str) -> Iterator[Any]:
    """Return a function that returns the stored numbers of EURUSD, in order."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield lambda: [row[0] for row in conn.execute("select seq from ticks order by seq").fetchall()]


async def stream(url: str, count: int) -> list[int]:
    """Return the numbers of so many ticks."""
    seqs: list[int] = []
    async with open_stream(url, "EURUSD") as receive:
        with trio.fail_after(60):
            while len(seqs) < count:
                seqs += [tick["seq"] for tick in await receive()]
    return seqs


async def epoch_of(url: str) -> str:
    """Return what the first message names the numbering."""
    async with open_websocket(url) as ws:
        epoch: str = json.loads((await ws.receive())[0])["epoch"]
        return epoch


@pytest.mark.slow
async def test_a_start_without_the_database_streams_and_stores_later(
    folder: Path, database_url: str, rows: Any
) -> None:
    proxy = Proxy(database_url)
    async with proxy.open():
        config = write_config(folder, database={"url": proxy.url, "connect_for_s": 60})
        async with open_daemon(config) as daemon:
            before = await stream(daemon.ws, 300)
            epoch = await epoch_of(daemon.ws)
            assert await daemon.stop() == 0
    seen = before
    # twice: the numbers of the first run without a database must not come again either
    for ending in (signal.SIGKILL, signal.SIGTERM):
        with trio.fail_after(60):
            async with open_daemon(config, before=HASTY) as daemon:
                await daemon.wait_log("the database is unavailable: streaming starts without it")
                seqs = await stream(daemon.ws, 300)
                assert seqs[0] > seen[-1]
                assert await epoch_of(daemon.ws) == epoch
                seen = [*seen, *seqs]
                answer = await daemon.get("/health/ready")
                assert (answer.status_code, "the database is unavailable" in answer.text) == (503, True)
                assert (await daemon.get("/api/metadata", symbol="EURUSD")).status_code == 503
                daemon.process.send_signal(ending)
                await daemon.process.wait()
                if ending is signal.SIGTERM:
                    await daemon.wait_log("some records are not stored yet: they wait in the journal")
    async with open_daemon(config, before=HASTY) as daemon:
        last = (await stream(daemon.ws, 100))[-1]
        async with proxy.open():
            with trio.fail_after(60):
                while not (stored := rows()) or stored[-1] < last:
                    await trio.sleep(0.1)
                while (await daemon.get("/health/ready")).status_code != 200:
                    await trio.sleep(0.1)
            assert set(seen) <= set(rows())
            assert await daemon.stop() == 0
    numbers = rows()
    assert len(numbers) == len(set(numbers))
    with psycopg.connect(database_url) as conn:
        gaps = conn.execute("""select g.cause, prior.seq, behind.seq, g.seq,
                (select count(*) from ticks t where t.time > g.from_time and t.time < g.to_time)
            from gaps g join series s on s.id = g.series_id and s.type = 'tick'
                left join ticks prior on prior.time = g.from_time left join ticks behind on behind.time = g.to_time
            order by g.from_time""").fetchall()
    jumps = [(one, other) for one, other in pairwise(numbers) if other > one + 1]
    assert jumps
    assert len(gaps) == 3, "one of each start without the database"
    assert {(one, other) for _, one, other, _, _ in gaps} >= set(jumps), "no number is left out unnamed"
    assert {(cause, behind - seq, inside) for cause, _, behind, seq, inside in gaps} == {("restart", 1, 0)}


async def test_a_database_that_takes_one_connection_and_no_other_is_away(
    folder: Path, database_url: str
) -> None:
    """As one does that has no room for more: the server starts without it, and uses it once it can."""
    proxy = Proxy(database_url)
    async with proxy.open():
        for most in (None, 1):
            proxy.most = most
            part = DatabasePart(DatabaseConfig(url=proxy.url), folder)
            async with trio.open_nursery() as nursery:
                await nursery.start(part.run)
                assert (part.away is None) is (most is None)
                proxy.most = None
                with trio.fail_after(30):
                    while part.away is not None:  # noqa: ASYNC110 - an attribute has no event
                        await trio.sleep(0.05)
                    while (await part.store.last_records()) != {}:
                        pass
                nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_another_database_at_the_address_is_not_written_to(
    folder: Path, database_url: str, rows: Any
) -> None:
    proxy = Proxy(database_url)
    async with proxy.open():
        config = write_config(folder, database={"url": proxy.url})
        async with open_daemon(config) as daemon:
            await stream(daemon.ws, 10)
    stored = rows()
    path = folder / "data" / "known_database" / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "identity": "7/another"}))
    async with open_daemon(config, before=HASTY) as daemon, proxy.open():
        line = await daemon.wait_log("the database is still unavailable")
        while "another database answers" not in line["error"]:
            line = await daemon.wait_log(
                "the database is still unavailable", after=daemon.lines.index(line) + 1
            )
        assert rows() == stored
        await stream(daemon.ws, 10)


def opened(identity: str | None, epoch: str = "e1") -> Opened:
    return Opened("plain", 150_000, (), identity, epoch)


def test_what_is_known_outlives_the_process(tmp_path: Path) -> None:
    with KnownDatabase(tmp_path / "known") as known:
        assert not known.is_at("u@h:1/d")
        known.remember("u@h:1/d", opened("1/d"), {TOPIC: LastRecord(7, 0)})
    with KnownDatabase(tmp_path / "known") as known:
        assert known.is_at("u@h:1/d")
        assert known.epoch == "e1"
        assert not known.is_at("u@h:2/d")
        assert known.seqs[TOPIC] > 7
        known.check(opened("1/d"))
        with pytest.raises(StoreUnavailable, match="another database answers at u@h:1/d"):
            known.check(opened("2/d"))
        with pytest.raises(StoreUnavailable, match="another database answers at u@h:1/d"):
            known.check(opened("1/d", "e2"))  # made anew under the same name
        far = known.seqs[TOPIC] + 1
        batch = [Published(TOPIC, far, Tick("EURUSD", 1, 1.0, 1.1))]
        assert known.is_behind(batch)
        known.cover(batch)
        assert not known.is_behind(batch)
    with KnownDatabase(tmp_path / "known") as known:
        assert known.seqs[TOPIC] > far
        known.remember("u@h:1/d", opened(None), {})  # a server that does not say who it is
        assert not known.is_at("u@h:1/d")


def test_where_topics_ended_outlives_the_process_and_is_of_one_database(tmp_path: Path) -> None:
    last = {
        TOPIC: LastRecord(7, 5, Gap(TOPIC, 5, None, "silence", 2)),
        TOPIC._replace(symbol="Ü"): LastRecord(1, 9),
    }
    with KnownDatabase(tmp_path) as known:
        assert known.last_records == {}
        known.remember("u@h:1/d", opened("1/d"), last)
        known.note_last(last)
    with KnownDatabase(tmp_path) as known:
        assert known.last_records == last
        known.remember("u@h:1/d", opened("1/d"), last)
        assert known.last_records == last
        known.remember("u@h:1/d", opened("1/d", "e2"), {})
    with KnownDatabase(tmp_path) as known:
        assert known.last_records == {}
    for content in (b"[", b'[[["x","EUR\xff","tick",""],[1,1,null]]]'):
        (tmp_path / "last_records.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"last_records\.json is damaged"):
            KnownDatabase(tmp_path)


def test_a_database_whose_epoch_is_not_known_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text(
        '{"where":"u@h:1/d","identity":"1/d"}'
    )  # as versions before wrote it
    with KnownDatabase(tmp_path) as known:
        assert not known.is_at("u@h:1/d")


def test_a_damaged_identity_is_said(tmp_path: Path) -> None:
    for content in (b"{", b'{"where":"\xff","identity":"1/d"}'):
        (tmp_path / "identity.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"identity\.json is damaged"):
            KnownDatabase(tmp_path)

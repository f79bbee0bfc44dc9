"""The daemon as its operators know it: started, killed, stopped, misconfigured, with its database pulled away."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import psycopg
import psycopg.conninfo
import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.store.tables.partitions import ensure_partitions

from .daemon import Daemon, open_daemon, open_stream, run_to_end, write_config


async def stored_ticks(daemon: Daemon, symbol: str = "EURUSD") -> dict[int, dict[str, Any]]:
    """Return all stored ticks by seq."""
    out: dict[int, dict[str, Any]] = {}
    query: dict[str, Any] = {"symbol": symbol, "from": 0, "to": 4_000_000_000, "limit": 10_000}
    while True:
        answer = (await daemon.get("/api/ticks", **query)).json()
        for tick in answer["ticks"]:
            assert tick["seq"] not in out
            out[tick["seq"]] = tick
        if answer["next_cursor"] is None:
            return out
        query["cursor"] = answer["next_cursor"]


async def test_kill_9_loses_nothing_that_a_client_saw(folder: Path) -> None:
    config = write_config(folder)
    seen: dict[int, dict[str, Any]] = {}
    async with open_daemon(config) as daemon:
        async with open_stream(daemon.ws, "EURUSD") as receive:
            while len(seen) < 300:
                for tick in await receive():
                    seen[tick["seq"]] = tick
            daemon.process.send_signal(signal.SIGKILL)
            with contextlib.suppress(Unavailable):  # the connection's end
                while True:  # what was on its way counts as seen
                    for tick in await receive():
                        seen[tick["seq"]] = tick
        await daemon.process.wait()
    last = max(seen)
    async with open_daemon(config) as daemon:
        async with open_stream(daemon.ws, "EURUSD") as receive:
            records: list[dict[str, Any]] = []
            while not records:  # answers come before the first record
                records = await receive()
            assert records[0]["seq"] > last
        with trio.fail_after(60):
            while not set(seen) <= set(stored := await stored_ticks(daemon)):
                await trio.sleep(0.1)
        for seq, tick in seen.items():
            for field in ("time", "bid", "ask", "bid_size", "ask_size"):
                assert stored[seq][field] == tick[field]
        assert sorted(stored) == list(range(1, max(stored) + 1))
        metadata = (await daemon.get("/api/metadata", symbol="EURUSD")).json()
        assert metadata["tick_count"] >= len(stored)
        with trio.fail_after(60):
            gaps: list[dict[str, Any]] = []
            while not gaps:
                found = (await daemon.get("/api/gaps", symbol="EURUSD")).json()["gaps"]
                gaps = [gap for gap in found if gap["record_type"] == "tick" and gap["to"] is not None]
                await trio.sleep(0.1)
        assert [(gap["cause"], gap["state"], gap["size"]) for gap in gaps] == [("restart", "open", None)]
        assert gaps[0]["from"] >= seen[last]["time"]
        assert gaps[0]["to"] <= records[0]["time"]


async def test_sigterm_flushes_everything_within_ten_seconds(folder: Path) -> None:
    config = write_config(folder)
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD") as receive:
        last = 0
        while last < 200:
            last = max([last, *(tick["seq"] for tick in await receive())])
        with trio.fail_after(60), contextlib.suppress(Unavailable):
            daemon.process.send_signal(signal.SIGTERM)
            while True:  # a client that reads to the end
                last = max([last, *(tick["seq"] for tick in await receive())])
        assert await daemon.process.wait() == 0
    assert not list(folder.glob("data/postgres/cluster/postmaster.pid"))
    async with open_daemon(config) as daemon:
        stored = await stored_ticks(daemon)
        assert set(range(1, last + 1)) <= set(stored)


async def test_clients_are_closed_with_1012_at_shutdown(folder: Path) -> None:
    from trio_websocket import ConnectionClosed, open_websocket_url

    config = write_config(folder, database={"store": False})
    async with open_daemon(config) as daemon:
        async with open_websocket_url(daemon.ws) as ws:
            await ws.get_message()
            daemon.process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionClosed) as closed:
                await ws.get_message()
            assert closed.value.reason.code == 1012
            await trio.aclose_forcefully(ws._stream)  # the library leaves it to the garbage collector
        assert await daemon.process.wait() == 0


async def test_a_second_server_on_the_same_data_says_so_and_exits_2(folder: Path) -> None:
    config = write_config(folder, database={"store": False})
    async with open_daemon(config):
        second = await run_to_end(config)
        assert second.returncode == 2
        assert "used by another server" in second.stderr
        assert "Traceback" not in second.stderr


@pytest.mark.parametrize("store", [True, False])
async def test_a_data_folder_that_cannot_be_made_exits_2_and_names_it(folder: Path, store: bool) -> None:
    (folder / "file").write_text("")
    config = write_config(folder, database={"store": store}, data_dir=str(folder / "file" / "x"))
    done = await run_to_end(config)
    assert done.returncode == 2
    assert f"data_dir {folder / 'file' / 'x'} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_port_in_use_exits_2_and_names_it(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await run_to_end(write_config(folder, server={"port": port}, database={"store": False}))
    assert done.returncode == 2
    assert f"127.0.0.1:{port} is already in use" in done.stderr


async def test_a_database_that_cannot_be_reached_is_retried_then_exits_1(folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    url = f"postgresql://someone:hidden-word@127.0.0.1:{port}/nothing"
    config = write_config(folder, database={"url": url, "connect_for_s": 2})
    done = await run_to_end(config)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "hidden-word" not in done.stderr + done.stdout
    assert str(port) in done.stderr


async def test_bad_config_exits_2_with_every_error_and_its_line(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text("server: {port: eighty}\nbrokers:\n  - {name: mock, rate: -5}\n  - {name: nowhere}\n")
    done = await run_to_end(path)
    assert done.returncode == 2
    assert "config.yaml:1: server.port" in done.stderr
    assert "config.yaml:3: brokers[0].rate" in done.stderr
    assert "config.yaml:4: brokers[1]" in done.stderr


async def test_streaming_goes_on_without_the_database_and_nothing_is_lost(folder: Path) -> None:
    config = write_config(folder)
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD") as receive:
        last = 0
        while last < 100:
            last = max([last, *(tick["seq"] for tick in await receive())])
        os.kill(daemon.postgres_pid(), signal.SIGKILL)
        goal = last + 500
        while last < goal:  # a second of records with no database
            last = max([last, *(tick["seq"] for tick in await receive())])
        await daemon.wait_log("PostgreSQL has ended by itself")
        stored = {}
        with trio.fail_after(60):
            while last not in stored:
                await trio.sleep(0.3)
                stored = await stored_ticks(daemon)
        assert set(range(1, last + 1)) <= set(stored)
        assert (await daemon.get("/health/ready")).status_code == 200


async def test_a_journal_at_its_bound_is_said_and_the_server_is_not_ready(folder: Path) -> None:
    brokers = [{"name": "mock", "rate": 4_000, "symbols": ["EURUSD"]}]
    config = write_config(folder, brokers=brokers, journal={"max_bytes": 1 << 20})
    async with open_daemon(config) as daemon:
        database = psutil.Process(daemon.postgres_pid())
        await daemon.wait_stored("EURUSD", 1)
        frozen = [database, *database.children()]
        for process in frozen:
            process.suspend()
        try:
            with trio.fail_after(60):
                while (answer := await daemon.get("/health/ready")).status_code == 200:
                    await trio.sleep(0.2)
            assert "records are not stored" in answer.text
            async with open_stream(daemon.ws, "EURUSD") as receive:  # streaming goes on
                while not await receive():
                    pass
        finally:
            for process in frozen:
                process.resume()
        with trio.fail_after(120):
            while (await daemon.get("/health/ready")).status_code != 200:
                await trio.sleep(0.2)


async def test_numbers_of_records_that_were_not_stored_are_not_given_out_again(folder: Path) -> None:
    brokers = [{"name": "mock", "rate": 8_000, "symbols": ["EURUSD"]}]
    config = write_config(folder, brokers=brokers, journal={"max_bytes": 1 << 20})
    last = 0
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD") as receive:
        database = psutil.Process(daemon.postgres_pid())
        for process in [database, *database.children()]:
            process.suspend()
        refused = False
        with trio.fail_after(60):
            while not refused:
                last = max([last, *(tick["seq"] for tick in await receive())])
                refused = "are not stored" in (await daemon.get("/health/ready")).text
        goal = last + 2000  # these are nowhere but with the client
        while last < goal:
            last = max([last, *(tick["seq"] for tick in await receive())])
        daemon.process.kill()
        with contextlib.suppress(Unavailable):
            while True:
                last = max([last, *(tick["seq"] for tick in await receive())])
        for process in [*database.children(), database]:
            process.kill()
        await daemon.process.wait()
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD") as receive:
        with trio.fail_after(60):
            while not (ticks := await receive()):
                pass
        assert ticks[0]["seq"] > last


async def test_files_may_be_open_for_as_many_clients_as_are_allowed(folder: Path) -> None:
    config = write_config(folder, server={"max_clients": 700}, database={"store": False})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with open_daemon(config, fork=False) as daemon:  # it inherits the limit
            limits = psutil.Process(daemon.process.pid).rlimit(psutil.RLIMIT_NOFILE)
        assert limits[0] > 700
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_a_free_descriptor_clients_and_streams_go_on(folder: Path) -> None:
    """400 connections where there is room for a few: none of our own tasks needs a new descriptor, nothing fails."""
    config = write_config(folder, database={"store": False})
    async with AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(open_daemon(config))
        receive = await stack.enter_async_context(open_stream(daemon.ws, "EURUSD"))
        server = psutil.Process(daemon.process.pid)
        server.rlimit(psutil.RLIMIT_NOFILE, (server.num_fds() + 20,) * 2)
        for _ in range(400):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", int(daemon.base.rpartition(":")[2])))
        await daemon.wait_log("new connections wait, because the process has no free file descriptor")
        with trio.fail_after(60):
            seen: set[int] = set()
            while len(seen) < 20:
                seen |= {tick["seq"] for tick in await receive()}
        await trio.sleep(2.5)  # more than the period of what looks at files once a second
        assert [line for line in daemon.lines if "failed" in str(line.get("event"))] == []


async def test_a_signal_while_it_waits_for_a_database_ends_the_start(folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"postgresql://127.0.0.1:{unused.getsockname()[1]}/nothing"
        config = write_config(folder, database={"url": url, "connect_for_s": 60})
        async with open_daemon(config, wait_ready=False) as daemon:
            await daemon.wait_log("waiting for the database")
            with trio.fail_after(60):
                assert await daemon.stop(signal.SIGTERM) == 0
            assert not daemon.base


async def test_a_signal_while_the_first_start_makes_the_database_ends_it(folder: Path) -> None:
    config = write_config(folder, first_start=True)
    async with open_daemon(config, wait_ready=False) as daemon:
        await daemon.wait_log("creating the database folder")
        assert await daemon.stop(signal.SIGTERM) == 0
        assert not daemon.base
    assert not list(folder.glob("data/postgres/cluster/postmaster.pid"))
    async with open_daemon(config) as daemon:
        assert (await daemon.get("/health/live")).status_code == 200


def broken_distribution(folder: Path, name: str, code: str) -> Path:
    """Lay out an installed distribution with one broker plugin; return the folder to put on PYTHONPATH."""
    site = folder / "site"
    info = site / f"broken_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: broken-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mdserver.brokers]\n{name} = broken_{name}:plugin\n")
    (site / f"broken_{name}.py").write_text(code)
    return site


STUBBORN = """
import attrs, trio, mdserver.plugin as p
@attrs.frozen
class C: pass
class Stubborn:
    async def run(self, host, *, task_status):
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
plugin = p.BrokerPlugin('stubborn', '', C, lambda config: Stubborn(), silence_s=None)
"""


@pytest.fixture
def stubborn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of a server with a plugin that does not let itself be cancelled."""
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "stubborn", STUBBORN)))
    return write_config(folder, brokers=[{"name": "stubborn"}], database={"store": False})


HASTY = """import mdserver.daemon.daemon as module
assert module.SHUTDOWN_S == 10.0
module.SHUTDOWN_S = 2.0"""
"""The server's whole shutdown in two seconds instead of ten."""


async def test_a_plugin_that_will_not_stop_cannot_hold_up_the_end(stubborn: Path) -> None:
    async with open_daemon(stubborn, before=HASTY) as daemon:
        with trio.fail_after(60):
            assert await daemon.stop(signal.SIGTERM) == 1
        assert any("did not stop in time" in line["event"] for line in daemon.lines)


async def test_a_second_signal_ends_at_once(stubborn: Path) -> None:
    async with open_daemon(stubborn) as daemon:
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.wait_log("stopping")
        with trio.fail_after(60):  # the plugin would hold it up for ten
            assert await daemon.stop(signal.SIGINT) == 130


BROKEN = {
    "noimport": "import nothing_of_this_name",
    "oldapi": (
        "import mdserver.plugin as p\n"
        "plugin = p.BrokerPlugin('oldapi', '', type(None), lambda c: None, api_version=99)"
    ),
    "raises": (
        "import attrs, mdserver.plugin as p\n@attrs.frozen\nclass C: pass\n"
        "def make(config): raise RuntimeError('cannot start')\n"
        "plugin = p.BrokerPlugin('raises', '', C, make)"
    ),
}


@pytest.mark.parametrize(
    ("name", "says"),
    [("noimport", "nothing_of_this_name"), ("oldapi", "99"), ("raises", "cannot start")],
)
async def test_a_broken_plugin_is_reported_by_name_and_the_rest_run(
    folder: Path, name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, name, BROKEN[name])))
    brokers = [{"name": "odd", "plugin": name}, {"name": "mock", "rate": 200, "symbols": ["EURUSD"]}]
    config = write_config(folder, brokers=brokers, database={"store": False})
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD", broker="mock") as receive:
        with trio.fail_after(60):
            while not await receive():
                pass
        states = {b["broker"]: b for b in (await daemon.get("/api/brokers")).json()["brokers"]}
        assert states["mock"]["state"] == "live"
        assert states["odd"]["state"] in ("failed", "backoff")
        assert says in states["odd"]["last_error"]


async def test_the_daemon_drops_what_retention_says(folder: Path, database_url: str) -> None:
    old = 1_577_836_800_000_000  # 2020-01-01
    with psycopg.connect(database_url, autocommit=True) as conn:
        ensure_partitions(conn, "ticks", old, old)
        row = conn.execute(
            "insert into series (broker, symbol, type, last_seq, row_count, earliest, latest)"
            " values ('mock', 'OLD', 'tick', 1, 1, '2020-01-01', '2020-01-01') returning id"
        ).fetchone()
        assert row is not None
        conn.execute(
            "insert into ticks (time, seq, bid, ask, series_id) values ('2020-01-01', 1, 1, 2, %s)", row
        )
        params = psycopg.conninfo.conninfo_to_dict(database_url)
        url = f"postgresql://{params['user']}@/{params['dbname']}?host={params['host']}&port={params['port']}"
        config = write_config(folder, database={"url": url, "retention_days": 30})
        async with open_daemon(config):
            with trio.fail_after(60):
                while conn.execute("select count(*) from ticks where time < '2021-01-01'").fetchone() != (0,):
                    await trio.sleep(0.1)
            assert conn.execute("select row_count from series where symbol = 'OLD'").fetchone() == (0,)

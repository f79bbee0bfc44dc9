"""Plugins that will not stop, that exit and that block; housekeeping that the database refuses: streaming goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import psycopg
import psycopg.conninfo
import pytest
import trio

from mdserver.store.tables.partitions import ensure_partitions

from .daemon import open_daemon, open_stream, write_config
from .test_daemon import STUBBORN, broken_distribution

CODE = """
import attrs, sys, time, trio, mdserver.plugin as p
@attrs.frozen
class C: pass
class Odd:
    async def run(self, host, *, task_status):
        task_status.started()
        {body}
plugin = p.BrokerPlugin('odd', '', C, lambda config: Odd(), silence_s=None)
"""
MOCK = {"name": "mock", "rate": 500, "symbols": ["EURUSD"]}


def with_odd(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "odd", CODE.replace("{body}", body))))
    return write_config(folder, brokers=[{"name": "odd"}, MOCK], database={"store": False})


async def test_a_plugin_that_will_not_stop_leaves_the_database_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "stubborn", STUBBORN)))
    config = write_config(folder, brokers=[MOCK, {"name": "stubborn"}])
    async with open_daemon(config) as daemon:
        database = psutil.Process(daemon.postgres_pid())
        with trio.fail_after(60):
            assert await daemon.stop(signal.SIGTERM) == 1
        assert (await daemon.wait_log("a part of the server does not stop in time"))["part"] == "brokers"
        assert not database.is_running()
    assert not list(folder.glob("data/postgres/cluster/postmaster.pid"))


async def test_a_plugin_that_exits_ends_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_odd(folder, monkeypatch, "sys.exit(3)")
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD", broker="mock") as receive:
        await daemon.wait_log("broker crashed")
        last = 0
        with trio.fail_after(60):
            while last < 500:
                last = max([last, *(tick["seq"] for tick in await receive())])
        assert await daemon.stop(signal.SIGTERM) == 0


async def test_a_plugin_that_blocks_is_named_while_it_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_odd(folder, monkeypatch, "await trio.sleep(1); time.sleep(1.5); await trio.sleep_forever()")
    async with open_daemon(config) as daemon:
        line = await daemon.wait_log("a plugin blocks the event loop")
        assert line["plugin"] == "odd"
        assert line["at"].startswith("broken_odd.py:")
        assert 'mdserver_loop_held_total{by="odd"} 1.0' in (await daemon.get("/metrics")).text
        assert await daemon.stop(signal.SIGTERM) == 0


async def test_housekeeping_that_the_database_refuses_stops_nothing(folder: Path, database_url: str) -> None:
    old = 1_577_836_800_000_000  # 2020-01-01
    with psycopg.connect(database_url, autocommit=True) as conn:
        ensure_partitions(conn, "ticks", old, old)
        rows = conn.execute(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'ticks'::regclass"
        ).fetchall()
        (partition,) = (name for (name,) in rows if "2020" in name)
        conn.execute(f"create view of_ours as select * from {partition}")
    params = psycopg.conninfo.conninfo_to_dict(database_url)
    url = f"postgresql://{params['user']}@/{params['dbname']}?host={params['host']}&port={params['port']}"
    config = write_config(folder, database={"url": url, "retention_days": 30})
    async with open_daemon(config) as daemon, open_stream(daemon.ws, "EURUSD") as receive:
        last = 0
        with trio.fail_after(60):
            while last < 500:
                last = max([last, *(tick["seq"] for tick in await receive())])
            while not any("of_ours" in str(line) for line in daemon.lines):  # it is told
                await trio.sleep(0.05)
        assert (await daemon.get("/health/ready")).status_code == 200
        assert await daemon.stop(signal.SIGTERM) == 0

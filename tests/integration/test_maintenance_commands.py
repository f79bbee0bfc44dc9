"""The commands that look after the database, as an operator runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
import trio

from mdserver.cli import main
from mdserver.model import Published, Tick, Topic
from mdserver.store.open_database import open_database
from mdserver.store.store import Store

START_US = 1_710_918_000_000_000
TOPIC = Topic("mock", "EURUSD", "tick")

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def url(database_url: str) -> str:
    """A database with a day of ticks and an index of the operator's."""

    async def fill() -> None:
        async with open_database(database_url, retry_for_s=0, log=structlog.get_logger()) as database:
            ticks = [
                Published(TOPIC, n, Tick("EURUSD", START_US + n * 600_000_000, 1.0, 1.1, 0.1))
                for n in range(1, 100)
            ]
            await Store(database).write(ticks)

    trio.run(fill)
    with psycopg.connect(database_url) as conn:
        conn.execute("create index by_bid on ticks (bid)")
    return database_url


@pytest.fixture
def run(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on it; return the exit code and what it printed, JSON decoded."""
    parts = psycopg.conninfo.conninfo_to_dict(url)
    config = tmp_path / "config.yaml"
    target = f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}&port={parts['port']}"
    config.write_text(
        json.dumps({"database": {"url": target, "connect_for_s": 0}, "data_dir": str(tmp_path)})
    )

    def call(*arguments: str) -> tuple[int, Any]:
        code = main(["run", *arguments, "--config", str(config)])
        out = capsys.readouterr().out
        return code, json.loads(out) if "--json" in arguments else out

    return call


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute(statement)


def test_indexes(run: Run) -> None:
    code, text = run("indexes", "status")
    assert code == 0
    assert "by_bid" in text
    assert "dropped" not in text
    code, text = run("indexes", "drop")
    assert code == 0
    assert "dropped by_bid of ticks" in text
    assert "2 to 1 for each row of ticks" in text
    _, text = run("indexes", "status")
    assert "mdserver run indexes recreate" in text
    _, found = run("indexes", "status", "--json")
    assert [(one["name"], one["body"]) for one in found["dropped"]] == [("by_bid", "USING btree (bid)")]
    code, text = run("indexes", "recreate")
    assert code == 0
    assert "built by_bid of ticks" in text
    assert run("indexes", "drop", "--json")[1]["dropped"][0]["name"] == "by_bid"
    assert run("indexes", "recreate", "--json")[1]["indexes"][0]["name"] == "by_bid"
    assert "nothing was dropped" in run("indexes", "recreate")[1]


def test_check(run: Run, url: str) -> None:
    code, text = run("check")
    assert code == 0
    assert "mock EURUSD tick: 99 rows, market fx" in text
    assert "2024-03" in text
    assert text.endswith("no faults found\n")
    assert run("check", "--symbol", "eur/usd", "--json")[1]["ok"]
    assert "nothing is stored of GBPUSD" in run("check", "--symbol", "GBPUSD")[1]
    execute(url, "update candles set high = 7 where timeframe = 300")
    code, text = run("check")
    assert code == 1
    assert "! candles in 2024-03: 99 × 5m candles" in text
    assert "remedy: mdserver run refresh" in text
    code, found = run("check", "--json")
    assert code == 1
    assert not found["ok"]
    assert found["series"][0]["findings"][0]["at"][0] == "2024-03-20T07:10:00Z"
    assert run("check", "--symbol", "?")[0] == 2


def test_refresh(run: Run, url: str) -> None:
    execute(url, "delete from candles where timeframe = 60")
    code, found = run("refresh", "--from", "2024-03-20", "--to", "2024-03-20", "--json")
    assert code == 0
    assert (found["series"][0]["days"], found["series"][0]["candles"]) == (1, 99)
    assert "EURUSD" in run("refresh")[1]
    assert run("refresh", "--from", "2024-03-21", "--to", "2024-03-20")[0] == 2


def test_cleanup(run: Run, url: str) -> None:
    assert "no duplicate" in run("cleanup")[1]
    execute(url, "alter table ticks drop constraint ticks_pkey; insert into ticks select * from ticks")
    assert run("check")[0] == 1
    code, text = run("cleanup")
    assert code == 0
    assert "removed 99 rows" in text
    assert run("check")[0] == 0


def test_what_the_database_refuses_is_one_line(
    run: Run, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(url, "alter table candles rename to other")
    assert run("check")[0] == 1


def test_migrate_meets_the_daemons_embedded_database(
    reachable_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = reachable_path / "config.yaml"
    config.write_text(json.dumps({"data_dir": str(reachable_path / "data")}))
    (reachable_path / "data").mkdir(mode=0o755)
    assert main(["run", "migrate", "--config", str(config), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["applied"]) > 5
    assert [path.name for path in (reachable_path / "data").iterdir() if path.is_dir()] == ["postgres"]
    assert main(["run", "check", "--config", str(config)]) == 0
    assert "nothing is stored" in capsys.readouterr().out

"""A command that a third party installed: listed, explained and run like one of ours, with public names alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import psycopg.conninfo
import pytest
import yaml

from mdserver.model import Published, Tick, Topic
from mdserver.store.connection.database import Database
from mdserver.store.store import Store

from .test_tutorial import DOCS, python_blocks

PUBLIC = {"mdserver.plugin", "mdserver.model", "mdserver.errors", "mdserver.net", "mdserver.testing"}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def code() -> str:
    (block,) = python_blocks(DOCS / "howto" / "write-a-command.md")
    return block


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Path:
    params = psycopg.conninfo.conninfo_to_dict(database_url)
    url = f"postgresql://{params['user']}@/{params['dbname']}?host={params['host']}&port={params['port']}"
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data_dir": "my-data", "database": {"url": url}}))
    return path


def install(folder: Path, name: str, code: str) -> Path:
    """Lay out an installed distribution with one command; return the folder for ``PYTHONPATH``."""
    site = folder / "site"
    info = site / f"mdserver_{name}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mdserver-{name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[mdserver.commands]\n{name} = mdserver_{name}:plugin\n")
    (site / f"mdserver_{name}.py").write_text(code)
    return site


def mdserver(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mdserver", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


async def test_the_command_of_the_how_to(tmp_path: Path, config: Path, code: str, database: Database) -> None:
    ticks = [Tick("EURUSD", 1_700_000_000_000_000 + n, 1.0, 1.1, None, None) for n in range(3)]
    await Store(database).write(
        [Published(Topic("mine", "EURUSD", "tick"), 1 + n, tick) for n, tick in enumerate(ticks)]
    )
    site = install(tmp_path, "hello", code)
    done = mdserver(site, "run", "hello", "--config", config)
    assert (done.returncode, done.stdout) == (0, "hello from my-data: 1 series, 3 rows\n"), done.stderr
    assert done.stderr == ""
    done = mdserver(site, "--config", config, "run", "hello", "--symbol", "GBPUSD")
    assert done.stdout == "hello from my-data: 0 series, 0 rows\n"
    assert "Count the series that are stored." in mdserver(site, "run", "--help").stdout
    assert "mdserver-hello" in mdserver(site, "plugins").stdout


def test_it_needs_nothing_private(code: str) -> None:
    imported = {node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.startswith("mdserver")} <= PUBLIC


WRITER = """
import click
from mdserver.plugin import CommandPlugin

@click.command("writer")
@click.argument("mode")
@click.pass_obj
def command(context, mode):
    async def work():
        async with context.open_database(write=mode == "write") as database:
            await database.execute("create table mine (n int)")
            return await database.execute("insert into mine values (%s), (2)", [1])
    async def sneak():
        async with context.open_database(write=True) as database:
            return await database.query("insert into series (broker) values ('x') returning id")
    click.echo(context.run(sneak if mode == "sneak" else work))

plugin = CommandPlugin("writer", "Write", command)
"""


@pytest.mark.parametrize(
    ("mode", "code_", "says"),
    [
        ("write", 0, "2"),
        ("read", 1, "the database was opened for reading"),
        ("sneak", 1, "cannot execute INSERT in a read-only transaction"),
    ],
)
def test_a_command_writes_only_where_it_says_so(
    tmp_path: Path, config: Path, mode: str, code_: int, says: str
) -> None:
    done = mdserver(install(tmp_path, "writer", WRITER), "run", "writer", mode, "--config", config)
    assert done.returncode == code_
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ending", ["sys.exit(3)", "trio.run(exit_in_a_nursery)"])
def test_a_command_may_end_itself(tmp_path: Path, ending: str) -> None:
    code = f"""
import sys, click, trio
from mdserver.plugin import CommandPlugin

async def exit_in_a_nursery():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 9)
        sys.exit(3)

@click.command("ender")
def command():
    {ending}

plugin = CommandPlugin("ender", "End", command)
"""
    done = mdserver(install(tmp_path, "ender", code), "run", "ender")
    assert (done.returncode, done.stderr) == (3, "")

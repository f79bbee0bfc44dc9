"""The how-tos about the database: moving to a PostgreSQL of one's own, looking into it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from .daemon import clean_environment, open_daemon, write_config

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own-postgresql.md"


PSQL = PAGE.with_name("psql.md")


def commands() -> str:
    (block,) = re.findall(
        r"<!-- tested -->\n   ```bash\n(.*?)   ```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    return "set -e\n" + re.sub("^   ", "", block, flags=re.MULTILINE)


@pytest.mark.slow
async def test_what_was_stored_goes_along_and_numbers_go_on(
    reachable_path: Path, empty_database_url: str
) -> None:
    if not all(map(shutil.which, ("pg_dump", "pg_restore", "psql"))):
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL's client programs are not installed")
        pytest.skip("PostgreSQL's client programs are not installed")
    folder = reachable_path
    async with open_daemon(write_config(folder)) as daemon:
        await daemon.wait_stored("EURUSD", 100)
    given = conninfo_to_dict(empty_database_url)
    target = f"postgresql://{given['user']}@/{given['dbname']}?host={given['host']}&port={given['port']}"
    async with open_daemon(write_config(folder, brokers=[])) as daemon:
        before = (await daemon.get("/api/metadata", symbol="EURUSD")).json()
        done = await trio.run_process(
            ["bash", "-c", commands()],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=folder,
            env=clean_environment() | {"SOCKET": str(folder / "data/postgres/run"), "TARGET": target},
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b"EURUSD" in done.stdout
    async with open_daemon(write_config(folder, database={"url": target})) as daemon:
        await daemon.wait_stored("EURUSD", before["tick_count"] + 100)
        assert (await daemon.get("/api/metadata", symbol="EURUSD")).json()["earliest"] == before["earliest"]
    with psycopg.connect(empty_database_url) as conn:
        (missing,) = conn.execute("select max(seq) - count(*) from ticks").fetchone() or (None,)
    assert missing == 0


def test_the_questions_of_the_psql_how_to_have_answers(database_url: str) -> None:
    blocks = re.findall(r"```sql\n(.*?)```", PSQL.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    with psycopg.connect(database_url) as conn:
        for question in "".join(blocks).split(";"):
            if question.strip():
                assert conn.execute(question).fetchall() == []

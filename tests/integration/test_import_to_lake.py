"""``run import --to lake``: the same objects as an import into the database and a push, without a database."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog
import yaml

from mdserver import cli, registry
from mdserver.commands.database_access import DatabaseAccess
from mdserver.commands.importing.command import Options, run_import
from mdserver.commands.importing.plan import Dates
from mdserver.config import LakeConfig, load_config
from mdserver.errors import Rejected
from mdserver.model import Published, Tick, Topic
from mdserver.plugin import LAKE_GROUP
from mdserver.registry import load_history
from mdserver.store.connection.database import Database
from mdserver.store.store import Store
from mdserver.testing.bi5 import ticks_path
from mdserver.testing.dukascopy import FakeDukascopy, Fault
from mdserver_lake.bucket import open_bucket
from mdserver_lake.codec import decode_header
from mdserver_lake.contents import list_places
from mdserver_lake.layout import day_start_us
from mdserver_lake.selection import Selection
from tests.integration.importing import CODE, HOURS, JETTA_CODE, Importer, as_url, made_up, source_settings
from tests.integration.test_lake import pull_all, push_all, tables
from tests.lakes import answering, new_bucket

DATES = Dates(date(2024, 3, 8), date(2024, 3, 11))
NOBODY = "postgresql://nobody@127.0.0.1:9/none"


@attrs.define
class Imports:
    """Runs imports from ``feed`` into ``lake``; no database answers."""

    feed: FakeDukascopy
    folder: Path
    lake: LakeConfig

    async def run(self, *, database: str = NOBODY, **options: Any) -> dict[str, Any]:
        """Return the summary as ``--json`` prints it, on one level."""
        plugins = load_history()[0]
        config = load_config(
            self.write(database),
            environ={},
            brokers={},
            history={name: plugin.config for name, plugin in plugins.items()},
        )
        chosen = Options((CODE,), DATES, to_lake=database == NOBODY, chunk_days=1, **options)
        summary = await run_import(config, config.history[0], plugins["dukascopy"], chosen)
        found = summary.as_json()
        (symbol,) = found["symbols"]
        return {**found, **symbol, **symbol["hours"], "causes": symbol["failed"], "denied": symbol["denied"]}

    def write(self, database: str = NOBODY) -> Path:
        """Write the config and return its path."""
        config = {
            "data_dir": str(self.folder / "data"),
            "brokers": [],
            "history": [source_settings(self.feed)],
            "database": {"url": database, "connect_for_s": 0},
            "lake": {name: value for name, value in attrs.asdict(self.lake).items() if value is not None},
        }
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def objects(self) -> dict[str, bytes]:
        return objects(self.folder / "lake")


@pytest.fixture
def imports(tmp_path: Path, feed: FakeDukascopy) -> Imports:
    return Imports(feed, tmp_path, LakeConfig(url=f"file://{tmp_path}/lake"))


def objects(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


async def test_it_writes_what_an_import_and_a_push_write(
    imports: Imports,
    database_url: str,
    database: Database,
    feed: FakeDukascopy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    feed.put_hour(CODE, JETTA_CODE, HOURS[3], [], decimals=5)
    planned = await imports.run(dry_run=True)
    assert (planned["not_tried"], feed.count(), imports.objects()) == (len(HOURS), 0, {})
    done = await imports.run()
    assert (done["ok"], done["added"], done["empty"]) == (True, len(HOURS) - 1, 1)
    assert f"of {len(HOURS)} hours" in capsys.readouterr().err  # the progress
    (tmp_path / "data/history").rename(
        tmp_path / "fetched"
    )  # so that it is fetched again, from the same addresses
    assert (await imports.run(database=as_url(database_url)))["added"] == len(HOURS) - 1
    access, bucket = (
        DatabaseAccess(database, write=True),
        open_bucket(LakeConfig(url=f"file://{tmp_path}/pushed")),
    )
    assert (await push_all(access, bucket)).ok
    ours, theirs = imports.objects(), objects(tmp_path / "pushed")
    assert sorted(ours) == sorted(theirs)
    assert len(ours) == 6  # ticks and candles of three days: Saturday is closed
    assert [name for name, data in ours.items() if data != theirs[name]] == []  # byte for byte
    asked = feed.count()
    again = await imports.run()
    assert (again["skipped"], again["added"], feed.count()) == (len(HOURS), 0, asked)
    # it comes into a database as if it had been imported there, so that an import skips it
    before = await tables(database)
    await database.run(
        lambda conn: conn.execute("truncate ticks, candles, import_ledger, series, pushed_days cascade")
    )
    assert (await pull_all(access, open_bucket(imports.lake))).ok
    assert await tables(database) == before


async def test_missing_hours_are_added_and_revised_ones_replaced(
    imports: Imports, feed: FakeDukascopy
) -> None:
    feed.fail(Fault("status", status=503), path=ticks_path(CODE, HOURS[5]))
    content = feed.files.pop(ticks_path(CODE, HOURS[7]))
    done = await imports.run()
    assert (done["ok"], len(done["causes"]), done["denied"]) == (False, 1, ["2024-03-08T07:00Z"])
    feed.heal()
    feed.files[ticks_path(CODE, HOURS[7])] = content
    done = await imports.run()
    assert (done["ok"], done["added"], done["skipped"]) == (True, 2, len(HOURS) - 2)
    first = imports.objects()
    same = await imports.run(replace=True)
    assert (same["unchanged"], same["replaced"], imports.objects()) == (len(HOURS), 0, first)
    feed.put_hour(CODE, JETTA_CODE, HOURS[5], made_up(HOURS[5], seed=1), decimals=5)
    revised = await imports.run(replace=True)
    assert (revised["replaced"], revised["unchanged"]) == (1, len(HOURS) - 1)
    changed = {name for name, data in imports.objects().items() if data != first[name]}
    assert {name.partition("/")[0] for name in changed} == {"kind=tick", "kind=candle"}
    assert all("date=2024-03-08" in name for name in changed)
    # a wrong scale is refused, also where the price before it lies in another day
    for path in (imports.folder / "lake").rglob("date=2024-03-11/*.parquet"):
        path.unlink()
    monday = next(hour for hour in HOURS if hour >= day_start_us(date(2024, 3, 11)))
    wrong = [tick._replace(ask=tick.ask * 100, bid=tick.bid * 100) for tick in made_up(monday)]
    feed.put_hour(CODE, JETTA_CODE, monday, wrong, decimals=5)
    refused = await imports.run(replace=True)
    assert "differs by more than a factor of 50" in refused["causes"][0]["cause"]


async def test_damaged_days_and_live_records_are_not_written_over(
    imports: Imports, feed: FakeDukascopy, database: Database
) -> None:
    await imports.run()
    path = imports.folder / "lake" / min(name for name in imports.objects() if name.startswith("kind=tick"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    done = await imports.run()
    assert done["causes"][0]["cause"].endswith("--replace writes the day anew")
    assert path.read_bytes() == whole[:-50]
    assert (await imports.run(replace=True))["ok"]
    header = decode_header(path.read_bytes())
    assert header.content_sha256 == decode_header(whole).content_sha256
    path.unlink()
    live = Published(Topic("dukascopy", CODE, "tick"), 1, Tick(CODE, HOURS[0], 1.1, 1.2))
    await Store(database).write([live])
    await push_all(DatabaseAccess(database, write=True), open_bucket(imports.lake))
    with pytest.raises(Rejected, match="holds live records of dukascopy EURUSD"):
        await imports.run()


async def test_it_is_continued_after_an_interruption(
    imports: Imports, feed: FakeDukascopy, long: bool
) -> None:
    """Ctrl-C stores what was fetched and ends with 130; a kill leaves whole objects."""
    importer = Importer(imports.write())
    command = importer.command("--to", "lake")
    assert command[0] == sys.executable
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9))[: 2 if long else 1]:
        feed.fail(Fault("hang"), path=ticks_path(CODE, HOURS[30]))  # so that it does not end by itself
        asked = feed.count()
        async with importer.running(command=command) as running:
            await feed.wait_requests(asked + 20)
            assert await running.end(number) == code
        feed.heal()
        assert all(data[-4:] == b"PAR1" for data in imports.objects().values())
    assert sum(decode_header(one).rows for name, one in imports.objects().items() if "kind=tick" in name)
    assert (await imports.run())["ok"]
    contents = {name: decode_header(data).content_sha256 for name, data in imports.objects().items()}
    for path in (imports.folder / "lake").rglob("*.parquet"):
        path.unlink()
    await imports.run()
    assert {name: decode_header(data).content_sha256 for name, data in imports.objects().items()} == contents


async def test_a_bucket_that_fails_stops_it_with_a_sentence(imports: Imports, s3_address: str) -> None:
    settings, down = new_bucket(s3_address), True

    def answer(method: str, path: str) -> tuple[int, str] | None:
        return (503, "SlowDown") if down and method == "PUT" else None

    with answering(answer, s3_address) as address:
        imports.lake = attrs.evolve(settings, endpoint=address, retry_for_s=0)
        done = await imports.run()
        assert (done["ok"], done["added"]) == (False, 0)
        assert "the service answers 503 again and again" in done["stopped"]
        down = False
        assert (await imports.run())["ok"]
    assert len(await list_places(open_bucket(settings), Selection())) == 6


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str]]]:
    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main(["run", "import", *arguments])
        return code, " ".join("".join(capsys.readouterr()).split())

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_the_options_that_it_takes(
    command: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"data_dir: {tmp_path}\nlake: {{url: file://{tmp_path}/lake}}\nhistory: [{{name: dukascopy}}]\n"
    )
    config = ("--config", str(path), "--from", "2024-03-08", "--to", "2024-03-11", "--to", "lake")
    symbols = tmp_path / "symbols.txt"
    symbols.write_text("# majors\neur/usd\n\nGBPUSD  # cable\n")
    code, said = command(*config, "--symbols-file", str(symbols), "--symbol", "USDJPY", "--dry-run")
    assert (code, [word for word in said.split() if word.endswith(":")]) == (
        0,
        ["USDJPY:", "EURUSD:", "GBPUSD:"],
    )
    assert list((tmp_path / "lake").rglob("*.parquet")) == []
    symbols.write_text("EURUSD\n???\n")
    for wrong, words in (
        (("--symbols-file", str(symbols)), "symbols.txt: line 2: '???' is not a symbol"),
        ((), "expected --symbol or --symbols-file"),
        (("--symbol", "EURUSD", "--to", "lake"), "found --to twice"),
        (("--symbol", "EURUSD", "--manage-indexes"), "--manage-indexes is about the database"),
    ):
        code, said = command(*config, *wrong)
        assert (code, words in said) == (2, True), said
    points = registry._points
    monkeypatch.setattr(
        registry, "_points", lambda group, folders: [] if group == LAKE_GROUP else points(group, folders)
    )
    code, said = command(*config, "--symbol", "EURUSD")
    assert (code, "which is not installed: pip install mdserver-lake" in said) == (1, True)
    path.write_text(f"data_dir: {tmp_path}\nhistory: [{{name: dukascopy}}]\n")
    code, said = command(*config, "--symbol", "EURUSD")
    assert (code, "lake.url: missing" in said) == (2, True)

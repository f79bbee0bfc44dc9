"""The command line: where the config comes from, exit codes, and messages instead of tracebacks."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import structlog

from mdserver import __version__, cli
from mdserver.commands import context as context_module
from mdserver.commands import migrate as migrate_module
from mdserver.commands.context import Overrides
from mdserver.config import Config, LogConfig
from mdserver.errors import ConfigError, DataFolderInUse, MdserverError, Rejected, StoreUnavailable
from mdserver.log import get_logger, set_up_logging
from mdserver.plugin import CommandContext, CommandPlugin
from mdserver.registry import PluginProblem


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MDSERVER_CONFIG", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> list[CommandContext]:
    """Install the command plugin ``probe``; return the contexts that it was called with."""
    called: list[CommandContext] = []

    @click.command("probe")
    @click.argument("failure", default="")
    @click.pass_obj
    def probe(context: CommandContext, failure: str) -> None:
        """Do nothing, or fail as asked."""
        called.append(context)
        if failure:
            raise FAILURES[failure]

    plugins = {
        "probe": CommandPlugin("probe", "Probe", probe),
        "broken": PluginProblem("broken", "some-dist", "cannot be imported"),
    }
    names, load = cli.command_names, cli.load_command
    monkeypatch.setattr(cli, "command_names", lambda folders: sorted([*names(folders), *plugins]))
    monkeypatch.setattr(cli, "load_command", lambda name, folders: plugins.get(name) or load(name, folders))
    return called


FAILURES: dict[str, BaseException] = {
    "known": MdserverError("it went wrong"),
    "config": ConfigError(["config.yaml:1: a: bad", "config.yaml:2: b: bad"]),
    "in-use": ExceptionGroup("nursery", [DataFolderInUse("folder X is in use")]),
    "store": ExceptionGroup("outer", [ExceptionGroup("inner", [StoreUnavailable("no database")])]),
    "several": ExceptionGroup("nursery", [Rejected("no login"), DataFolderInUse("in use")]),
    "interrupt": BaseExceptionGroup("nursery", [KeyboardInterrupt()]),
    "own-exit": BaseExceptionGroup("nursery", [SystemExit(3)]),
    "own-words": BaseExceptionGroup("nursery", [SystemExit("bye")]),
    "bug": ExceptionGroup("nursery", [ValueError("a bug"), Rejected("no")]),
    "plain-bug": ValueError("a bug"),
}


@pytest.mark.parametrize(
    ("failure", "code", "lines"),
    [
        ("known", 1, ["mdserver: it went wrong"]),
        ("config", 2, ["config.yaml:1: a: bad", "config.yaml:2: b: bad"]),
        ("in-use", 2, ["mdserver: folder X is in use"]),
        ("store", 1, ["mdserver: no database"]),
        ("several", 2, ["mdserver: no login", "mdserver: in use"]),
        ("interrupt", 130, []),
        ("own-exit", 3, []),
        ("own-words", 1, []),
    ],
)
def test_known_errors_are_messages(
    command: list[CommandContext],
    capsys: pytest.CaptureFixture[str],
    failure: str,
    code: int,
    lines: list[str],
) -> None:
    assert cli.main(["run", "probe", failure]) == code
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("failure", ["bug", "plain-bug"])
def test_a_bug_is_not_hidden(
    command: list[CommandContext], capsys: pytest.CaptureFixture[str], failure: str
) -> None:
    assert cli.main(["run", "probe", failure]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "ValueError: a bug" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["--nope"],
        ["run", "nope"],
        ["run", "probe", "--nope"],
        ["config"],
        ["run", "--config"],
        ["run", "watch"],
        ["run", "watch", "?"],
        ["run", "watch", "EURUSD", "--count", "0"],
    ],
)
def test_wrong_usage(
    command: list[CommandContext], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "Usage:" in error or "requires an argument" in error


def test_a_command_plugin_that_cannot_be_used_says_why(
    command: list[CommandContext], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "broken"]) == 1
    assert "plugin broken of some-dist: cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    "template",
    [
        "--config A run probe",
        "run --config A probe",
        "run probe --config A",
        "--config B run probe --config A",
    ],
)
def test_config_may_stand_anywhere(command: list[CommandContext], tmp_path: Path, template: str) -> None:
    good, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    good.write_text("server: {port: 1234}")
    other.write_text("server: {port: 99}")
    files = {"A": str(good), "B": str(other)}
    assert cli.main([files.get(word, word) for word in template.split()]) == 0
    assert command[0].config.server.port == 1234


def test_config_from_the_environment(
    command: list[CommandContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("server: {port: 1234}")
    monkeypatch.setenv("MDSERVER_CONFIG", str(path))
    assert cli.main(["run", "probe"]) == 0
    assert command[0].config.server.port == 1234


def test_a_command_that_needs_no_config_is_not_stopped_by_a_bad_one(command: list[CommandContext]) -> None:
    assert cli.main(["--config", "/does/not/exist.yaml", "run", "probe"]) == 0


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["run", "--help"], ["run", "migrate", "--help"]):
        assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert __version__ in output
    assert "migrate" in output


def test_each_command_has_a_whole_sentence_in_the_help(
    command: list[CommandContext], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--help"], ["config", "--help"], ["run", "--help"]):
        assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert "..." not in output.replace("[ARGS]...", "")
    words = " ".join(output.split())
    assert "Let TimescaleDB compress ticks during imports: faster, but without a primary key." in words
    assert "probe Probe. " in words
    assert "(Cannot be used: cannot be imported)" in words


def test_only_the_command_that_runs_is_imported() -> None:
    code = "import sys; from mdserver.cli import main; main(['run', 'watch', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "mdserver.commands.watch" in loaded
    assert not {"mdserver.commands.check", "mdserver.store", "psycopg", "quart"} & set(loaded)


def test_config_yaml_of_the_current_folder_is_found(
    command: list[CommandContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "probe"]) == 0
    assert command[0].config.server.port == 8080
    (tmp_path / "config.yaml").write_text("server: {port: 1234}")
    other = tmp_path / "other.yaml"
    other.write_text("server: {port: 99}")
    assert cli.main(["run", "probe"]) == 0
    assert command[1].config.server.port == 1234
    monkeypatch.setenv("MDSERVER_CONFIG", str(other))
    assert cli.main(["run", "probe"]) == 0
    assert command[2].config.server.port == 99


def test_options_win_over_the_file(command: list[CommandContext], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("server: {host: 10.0.0.1, port: 1234, max_clients: 5}\ndata_dir: here\n")
    options = ["--host", "::1", "--port", "0", "--data-dir", str(tmp_path / "there")]
    assert cli.main(["run", "--config", str(path), *options, "probe"]) == 0
    config = command[0].config
    assert (config.server.host, config.server.port, config.server.max_clients) == ("::1", 0, 5)
    assert config.data_dir == tmp_path / "there"
    assert cli.main(["run", "--config", str(path), "probe"]) == 0
    assert (command[1].config.server.port, command[1].config.data_dir) == (1234, tmp_path / "here")


def test_a_host_that_is_none_is_refused(
    command: list[CommandContext], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--host: expected an address or a name without spaces"):
        Overrides(host="two words").apply(Config(data_dir=tmp_path))
    assert cli.main(["run", "--port", "70000", "probe"]) == 2


def test_database_url_counts_where_there_is_no_file(
    command: list[CommandContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@db/name")
    assert cli.main(["run", "probe"]) == 0
    assert command[0].config.database.url == "postgresql://u:hunter2@db/name"
    (tmp_path / "config.yaml").write_text("log: {level: info}")
    assert cli.main(["run", "probe"]) == 0
    assert command[1].config.database.url == "embedded"  # the file decides


@pytest.mark.parametrize("command", ["import --symbol EURUSD", "delete --broker mock", "refresh"])
@pytest.mark.parametrize("option", ["--from", "--to"])
def test_a_wrong_day_is_answered_by_an_example(
    capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    assert cli.main(["run", *command.split(), option, "01.03.2024"]) == 2
    assert f"'{option}': found '01.03.2024', expected a day such as 2024-03-01" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "meant"),
    [("run imprt", "import"), ("rn", "run"), ("doctor", "run doctor"), ("keys nwe", "new")],
)
def test_a_misspelt_command_is_answered_by_the_one_meant(
    capsys: pytest.CaptureFixture[str], given: str, meant: str
) -> None:
    assert cli.main(given.split()) == 2
    assert f"No such command '{given.split()[-1]}'. Did you mean '{meant}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("api_key: ${NO_SUCH_VARIABLE}", "environment variable NO_SUCH_VARIABLE is not set, expected text"),
        ("account_id: a", "api_key: missing, expected text"),
        ("api_key: [hunter2]", "found a value (hidden), expected text"),
        ("account_id: a\n    api_key: b\n    api_key: c", "found the key twice, the first is in line 4"),
        ("api_keys: hunter2", 'unknown key, did you mean "api_key"?'),
        ("token: hunter2", "unknown key, expected one of "),
    ],
)
def test_an_error_about_a_secret_is_a_whole_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, problem: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"brokers:\n  - name: oanda\n    {line}\n", encoding="utf-8")
    assert cli.main(["config", "check", str(path)]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert "hunter2" not in error


def test_a_bad_database_url_is_refused_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "mysql://u:hunter2@db/name")
    assert cli.main(["config", "check"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("DATABASE_URL: ")
    assert "hunter2" not in error


@pytest.mark.parametrize(
    "arguments", ["plugins --config F", "config schema --config F", "--config F plugins"]
)
def test_every_command_takes_a_config(
    arguments: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("server: {port: 1}")
    assert cli.main([str(path) if word == "F" else word for word in arguments.split()]) == 0


def test_config_check_takes_the_file_as_an_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("brokers: [{name: mock}]")
    assert cli.main(["config", "check", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    assert cli.main(["config", "check", str(tmp_path / "none.yaml")]) == 2


def test_config_check_knows_whether_plugins_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = PluginProblem("odd", "odd-dist", "cannot be imported")
    monkeypatch.setattr(context_module, "load_brokers", lambda folders: ({}, [problem]))
    path = tmp_path / "a.yaml"
    path.write_text(
        "brokers:\n  - {name: first, plugin: odd}\n  - {name: off, plugin: odd, enabled: false}\n"
    )
    assert cli.main(["config", "check", str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{path}:2: brokers[0]: plugin odd of odd-dist: cannot be imported"
    ]


def test_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("server: {prot: 1}\nlog: {level: x}")
    assert cli.main(["config", "check", "--config", str(path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f'{path}:1: server.prot: unknown key, did you mean "port"?'
    assert second.startswith(f"{path}:2: log.level: ")
    assert cli.main(["--config", str(path), "config", "check", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"ok": False, "problems": [first, second]}
    path.write_text("brokers: [{name: mock}]")
    assert cli.main(["--config", str(path), "config", "check"]) == 0
    assert "brokers mock" in capsys.readouterr().out
    assert cli.main(["--config", str(path), "config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["brokers"] == ["mock"]


def test_config_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "mock" in schema["properties"]["brokers"]["items"]["properties"]["plugin"]["enum"]


def test_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["plugins"]}
    assert rows["mock"]["kind"] == "broker"
    assert rows["migrate"] == {
        "name": "migrate",
        "kind": "command",
        "distribution": "mdserver",
        "version": __version__,
        "summary": "Bring the tables of the database up to date",
        "problem": None,
    }
    assert cli.main(["plugins"]) == 0
    assert "mdserver-mock" in capsys.readouterr().out


def test_migrate_prints_what_it_applied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["0001_a.sql"]

    async def apply(_: Any) -> list[str]:
        return names

    monkeypatch.setattr(migrate_module, "apply_migrations", apply)
    assert cli.main(["run", "migrate"]) == 0
    assert cli.main(["run", "migrate", "--json"]) == 0
    names.clear()
    assert cli.main(["run", "migrate"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "applied 0001_a.sql",
        '{"applied": ["0001_a.sql"]}',
        "nothing to apply: the tables are up to date",
    ]


def test_as_a_module_without_a_database(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("database: {url: 'postgresql://u:hunter2@127.0.0.1:1/x', connect_for_s: 0}\n")
    result = subprocess.run(
        [sys.executable, "-m", "mdserver", "run", "migrate", "--config", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "MDSERVER_DATA_DIR": str(tmp_path)},
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr
    assert "mdserver: " in result.stderr


# -- logging ---------------------------------------------------------------------------------------------------------


def logged(config: LogConfig) -> tuple[io.StringIO, structlog.stdlib.BoundLogger]:
    stream = io.StringIO()
    set_up_logging(config, stream)
    return stream, get_logger("mdserver")


def test_json_lines() -> None:
    stream, log = logged(LogConfig(format="json"))
    log.debug("hidden")
    log.info("said", broker="mock", count=3)
    logging.getLogger("psycopg.pool").info("a step")
    logging.getLogger("psycopg.pool").warning("lost %s", "it")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["broker"], first["count"], first["level"]) == ("said", "mock", 3, "info")
    assert first["logger"] == "mdserver"
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"], second["logger"]) == ("lost it", "warning", "psycopg.pool")


def test_text_without_a_terminal_has_no_colours() -> None:
    stream, log = logged(LogConfig(format="text", level="debug"))
    log.debug("said", broker="mock")
    assert "said" in stream.getvalue()
    assert "broker=mock" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_auto_is_json_without_a_terminal() -> None:
    stream, log = logged(LogConfig())
    log.info("said")
    assert json.loads(stream.getvalue())["event"] == "said"


@pytest.mark.parametrize("format_", ["json", "text"])
def test_no_secret_is_logged(format_: Any) -> None:
    stream, log = logged(LogConfig(format=format_))
    log.info("connects", api_key="hunter2", settings={"token": "hunter2"}, url="postgresql://u:hunter2@h/d")
    logging.getLogger("other").warning('he said "password=hunter2" and {"token": "hunter2\\"hunter2"}')
    local = "hunter2"
    try:
        raise ValueError("no login at https://u:hunter2@host/" + local[:0])
    except ValueError:
        log.exception("failed")
    assert "hunter2" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    if format_ == "json":
        assert [json.loads(line) for line in stream.getvalue().splitlines()]


def test_module_level_loggers_follow_a_later_set_up() -> None:
    early = structlog.get_logger("mdserver")
    stream, _ = logged(LogConfig(format="json"))
    early.info("said")
    assert json.loads(stream.getvalue())["event"] == "said"


def test_a_line_for_people_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    set_up_logging(LogConfig(), stream)
    get_logger("mdserver").warning("the disk is slow", folder="/a b", ms=12)
    (line,) = re.sub(r"\x1b\[\d+m", "", stream.getvalue()).splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning the disk is slow  folder='/a b'  ms=12", line)


def test_text_elsewhere_has_the_date_and_utc() -> None:
    stream, log = logged(LogConfig(format="text"))
    try:
        raise ValueError("it broke")
    except ValueError:
        log.exception("cannot do it", part="x")
    first, *more = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ error   cannot do it  part=x", first)
    assert more[-1] == "ValueError: it broke"


def test_a_command_logs_only_what_went_wrong_in_plain_lines(
    command: list[CommandContext], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("log: {level: info}")
    assert cli.main(["run", "--config", str(path), "probe"]) == 0
    assert command[0].config
    command[0].log.info("a step")
    command[0].log.error("it went wrong")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("error   it went wrong")
    path.write_text("log: {level: debug, format: json}")
    assert cli.main(["run", "--config", str(path), "probe"]) == 0
    assert command[1].config
    command[1].log.debug("a step")
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["event"] == "a step"


@pytest.mark.parametrize("error", ["BrokenPipeError()", "ExceptionGroup('', [BrokenPipeError()])"])
def test_whoever_reads_the_output_may_go(error: str) -> None:
    code = (
        "import sys, click\nfrom mdserver import cli\nfrom mdserver.plugin import CommandPlugin\n"
        f"@click.command('x')\ndef x():\n    raise {error}\n"
        "cli.load_command = lambda name, folders: CommandPlugin('x', '', x)\nsys.exit(cli.main(['run', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")

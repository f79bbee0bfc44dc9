"""``mdserver run doctor``: whether this machine, the config and what it names are fit for the server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
import click
import trio

from ..config import Config
from ..errors import ConfigError
from ..log import get_logger
from ..plugin import CommandContext, CommandPlugin
from ..redact import redact
from .context import ConfigFile
from .doctoring.database import check_database
from .doctoring.finding import EXIT_CODES, Finding, State, green, red, worst
from .doctoring.machine import (
    check_data_folder,
    check_open_files,
    check_running_server,
    check_time_zones,
    running_process,
)
from .doctoring.parts import check_address, check_bus, check_lake, check_plugins

__all__ = ["diagnose", "plugin"]

SUMMARY = "Check config, machine, database and all that the config names, with a remedy for each fault"

_COLOURS: dict[State, str] = {"green": "green", "yellow": "yellow", "red": "red"}
_CONFIG_REMEDY = (
    "correct the line; `mdserver config check` lists all errors, docs/reference/configuration.md all keys"
)


@click.command("doctor", short_help=SUMMARY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def _command(context: CommandContext, as_json: bool) -> None:
    """Check config, plugins, data folder, disk, address, open files, time zones, database, clock, bus and lake.

    Each line is green, yellow (works, but see the remedy) or red (does not work, or can lose data). The exit code is
    0, 1 or 2 for the worst of them. A running server is asked whether it is ready, and is not disturbed.
    """
    file: ConfigFile | None = getattr(context, "config_file", None)
    try:
        config: Config | None = context.config
        findings = [green("config", _where(file))]
    except ConfigError as error:
        config = None
        findings = [red("config", problem, _CONFIG_REMEDY) for problem in error.problems]
    findings += context.run(diagnose, config, None if file is None else file.path)
    state = worst(findings)
    if as_json:
        rows = [{**attrs.asdict(one), "text": redact(one.text)} for one in findings]
        click.echo(json.dumps({"state": state, "findings": rows}))
    else:
        for one in findings:
            click.echo(_line(one))
        counts = {name: sum(one.state == name for one in findings) for name in EXIT_CODES}
        click.echo(f"\n{counts['green']} green, {counts['yellow']} yellow, {counts['red']} red")
    raise click.exceptions.Exit(EXIT_CODES[state])


async def diagnose(config: Config | None, config_file: Path | None) -> list[Finding]:
    """Return what every check finds; without a config, what can be checked without one."""
    folders = () if config is None else config.plugin_folders
    findings = await trio.to_thread.run_sync(lambda: list(check_plugins(config, folders)))
    findings.append(check_time_zones())
    if config is None:
        return findings
    findings += await trio.to_thread.run_sync(lambda: list(check_data_folder(config)))
    usable = all(one.state != "red" for one in findings if one.check == "data folder")
    pid = await trio.to_thread.run_sync(running_process, config.data_dir)
    findings += await check_address(config, running=pid is not None)
    if pid is not None:
        findings.append(await trio.to_thread.run_sync(check_running_server, config.server, pid))
    findings.append(check_open_files(config.server))
    if usable or config.database.url != "embedded":
        findings += await check_database(config, get_logger("mdserver"))
    findings += await check_bus(config)
    findings += await check_lake(config, config_file)
    return findings


def _where(file: ConfigFile | None) -> str:
    if file is not None:
        return f"{file.path} is valid ({file.named_by})"
    return "there is no config file: the defaults apply" + (
        ", with the database of DATABASE_URL" if os.environ.get("DATABASE_URL") else ""
    )


def _line(one: Finding) -> str:
    mark = click.style(f"{one.state:<6}", fg=_COLOURS[one.state])
    remedy = "" if one.remedy is None else f"\n        {one.remedy}"
    return f"{mark}  {one.check}: {redact(one.text)}{remedy}"


plugin = CommandPlugin("doctor", SUMMARY, _command)

"""The command line: ``mdserver run`` is the daemon, ``mdserver run NAME`` a command, the rest tells and checks.

Exit codes: 0 done, 1 failed, 2 wrong usage or config.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from copy import copy
from functools import partial
from importlib import import_module
from pathlib import Path
from time import time

import attrs
import click
import trio

from . import __version__
from .commands.context import CommandContext
from .config import LogConfig, json_schema
from .errors import ConfigError, DataFolderInUse, MdserverError, leaves
from .log import set_up_logging
from .plugin import CommandPlugin
from .redact import redact
from .registry import InstalledPlugin, PluginProblem, installed_plugins, load_commands

__all__ = ["EXIT_FAILED", "EXIT_USAGE", "cli", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_CONFIG_KEY = "mdserver.config"

_BUILT_IN = {
    "check": "mdserver.commands.check",
    "cleanup": "mdserver.commands.cleanup",
    "direct-compress": "mdserver.commands.direct_compress",
    "import": "mdserver.commands.importing",
    "indexes": "mdserver.commands.indexes",
    "migrate": "mdserver.commands.migrate",
    "refresh": "mdserver.commands.refresh",
    "watch": "mdserver.commands.watch",
}
"""Imported only when asked for: the store takes its time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Known errors are a message, never a traceback."""
    try:
        result = cli.main(arguments, prog_name="mdserver", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the end of the line: Python would show a traceback with secrets
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    """Print known errors, a line each, unknown ones with their traceback, without secrets; return the exit code."""
    plain = list(leaves(error))
    known = [leaf for leaf in plain if isinstance(leaf, MdserverError)]
    if len(known) + sum(isinstance(leaf, KeyboardInterrupt) for leaf in plain) < len(plain):
        click.echo(redact("".join(traceback.format_exception(error))), err=True, nl=False)
        return EXIT_FAILED
    for leaf in known:
        lines = leaf.problems if isinstance(leaf, ConfigError) else [f"mdserver: {leaf}"]
        click.echo(redact("\n".join(lines)), err=True)
    if any(isinstance(leaf, ConfigError | DataFolderInUse) for leaf in known):
        return EXIT_USAGE
    return EXIT_FAILED if known else EXIT_INTERRUPTED


def _keep_config(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    """Remember ``--config`` wherever it stands; the one nearest to the end wins."""
    if value is not None:
        context.meta[_CONFIG_KEY] = value


def _config_option(environment: str | None = None) -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=environment,
        show_envvar=environment is not None,
        expose_value=False,
        callback=_keep_config,
        help="The config file.",
    )


class _Run(click.Group):
    """``run``: its subcommands are the command plugins, the built-in ones and those of entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_BUILT_IN, *load_commands()[0]})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _BUILT_IN:
            return _with_config(import_module(_BUILT_IN[cmd_name]).plugin)
        plugins, problems = load_commands()
        if cmd_name in plugins:
            return _with_config(plugins[cmd_name])
        for problem in problems:
            if problem.name == cmd_name:
                raise click.ClickException(str(problem))
        return None


def _with_config(plugin: CommandPlugin) -> click.Command:
    """Return a plugin's command that also takes ``--config``, after its name and those of its subcommands."""
    return _taking_config(plugin.command)


def _taking_config(original: click.Command) -> click.Command:
    command = copy(original)
    if not any("--config" in option.opts for option in command.params):
        command.params = [*command.params, _config_option()]
    if isinstance(command, click.Group):
        command.commands = {name: _taking_config(inner) for name, inner in command.commands.items()}
    return command


@click.group(params=[_config_option("MDSERVER_CONFIG")])
@click.version_option(__version__, prog_name="mdserver")
@click.pass_context
def cli(context: click.Context) -> None:
    """A self-hosted market data server."""
    context.obj = CommandContext(lambda: context.meta.get(_CONFIG_KEY))
    set_up_logging(LogConfig())


@cli.group("run", cls=_Run, invoke_without_command=True, params=[_config_option()])
@click.pass_context
def run_(context: click.Context) -> None:
    """Run the server; with a NAME, run that command."""
    if context.invoked_subcommand is None:
        _serve(context.find_object(CommandContext) or CommandContext())


def _serve(context: CommandContext) -> None:
    config = context.config
    if not any(entry.enabled for entry in config.brokers):
        context.log.warning("no broker is switched on: nothing will be streamed")
    from .daemon.daemon import serve  # late: only the daemon needs the whole server

    trio.run(partial(serve, config, context.brokers_for_serving, task_status=_Announcement()))


class _Announcement:
    """Tells a person where the server is, once it serves; logs are for the rest."""

    def started(self, value: str | None = None) -> None:
        if value is None:
            return
        again = f"{Path(sys.argv[0])} run watch"
        now = int(time())
        click.echo(
            f"\nmdserver {__version__} is ready\n\n"
            f"  candles  {value}/api/candles?symbol=EURUSD&timeframe=1m&from={now - 3600}&to={now + 86_400}\n"
            f"  symbols  {value}/api/metadata\n"
            f"  brokers  {value}/api/brokers\n"
            f"  stream   {value.replace('http', 'ws', 1)}/\n\n"
            f"Paste this into another terminal to see live ticks:\n\n"
            f"  {again} EURUSD --url {value.replace('http', 'ws', 1)}/\n\n"
            "Ctrl-C stops the server.\n"
        )


@cli.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins_(as_json: bool) -> None:
    """Show what is installed, from where, and what cannot be used."""
    found = [*(_built_in(name) for name in sorted(_BUILT_IN)), *installed_plugins()]
    if as_json:
        click.echo(json.dumps({"plugins": [attrs.asdict(plugin) for plugin in found]}, indent=2))
        return
    rows = [("NAME", "KIND", "VERSION", "DISTRIBUTION", "SUMMARY")]
    rows += [
        (p.name, p.kind, p.version, p.distribution, p.summary if p.problem is None else "-") for p in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        click.echo(
            "  ".join(text.ljust(width) for text, width in zip(row, (*widths, 0), strict=True)).rstrip()
        )
    for broken in found:
        if broken.problem is not None:
            click.echo(str(PluginProblem(broken.name, broken.distribution, broken.problem)), err=True)


def _built_in(name: str) -> InstalledPlugin:
    plugin = import_module(_BUILT_IN[name]).plugin
    return InstalledPlugin(name, "command", "mdserver", __version__, plugin.summary)


@cli.group("config")
def config_() -> None:
    """Check a config file, or describe what one may hold."""


@config_.command("check", params=[_config_option()])
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check(context: CommandContext, as_json: bool) -> None:
    """Check the config file: every error at once, exit code 2 if there is one."""
    try:
        config = context.config
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"ok": False, "problems": error.problems}))
        raise click.exceptions.Exit(EXIT_USAGE) from None
    names = [entry.name for entry in config.brokers if entry.enabled]
    if as_json:
        click.echo(
            json.dumps({"ok": True, "problems": [], "brokers": names, "data_dir": str(config.data_dir)})
        )
    else:
        click.echo(f"the config is good: brokers {', '.join(names) or 'none'}; data in {config.data_dir}")


@config_.command("schema")
@click.pass_obj
def schema(context: CommandContext) -> None:
    """Print the JSON Schema of the config file, installed plugins included."""
    classes = {name: plugin.config for name, plugin in context.brokers.items()}
    sources = {name: plugin.config for name, plugin in context.history.items()}
    click.echo(json.dumps(json_schema(classes, sources), indent=2))

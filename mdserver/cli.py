"""The command line: ``mdserver run`` is the daemon, ``mdserver run NAME`` a command; the others list and check.

Exit codes: 0 done, 1 failed, 2 wrong usage or config.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from copy import copy
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import click
import trio
from click.core import ParameterSource

from . import __version__
from .commands.context import ConfigFile, Invocation, Overrides
from .config import KEY_NAME, LogConfig, check_exposure, json_schema
from .daemon.banner import Banner, close_stdout
from .errors import ConfigError, DataFolderInUse, MdserverError, leaves
from .keys import new_key
from .kit.commands import new_plugin, test_plugin
from .log import set_up_logging
from .os_errors import explain, is_for_the_operator
from .plugin import CommandPlugin
from .redact import redact
from .registry import PluginProblem, command_names, installed_plugins, load_command, plugin_code

__all__ = ["EXIT_FAILED", "EXIT_USAGE", "cli", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

WATCH = "watch"

_CONFIG_KEY = "mdserver.config"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. A known error prints its message, never a traceback."""
    try:
        result = cli.main(arguments, prog_name="mdserver", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - Python's own traceback would show secrets
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    """Print known errors as a line each, unknown ones with their traceback, secrets hidden; return the exit code."""
    known: list[MdserverError] = []
    exit_code: int | None = None
    for leaf in leaves(error):
        match leaf:
            case MdserverError():
                known.append(leaf)
            case KeyboardInterrupt():
                exit_code = EXIT_INTERRUPTED
            case BrokenPipeError():  # the reader of our output has ended, such as head
                close_stdout()
                exit_code = EXIT_FAILED
            case SystemExit():  # a command's own way to end
                exit_code = leaf.code if isinstance(leaf.code, int) else EXIT_FAILED
            case OSError() if is_for_the_operator(leaf):
                known.append(MdserverError(explain(leaf)))
            case _:
                click.echo(redact("".join(traceback.format_exception(error))), err=True, nl=False)
                return EXIT_FAILED
    for one in known:
        lines = one.problems if isinstance(one, ConfigError) else [f"mdserver: {one}"]
        click.echo(redact("\n".join(lines)), err=True)
    if any(isinstance(one, ConfigError | DataFolderInUse) for one in known):
        return EXIT_USAGE
    return EXIT_FAILED if known or exit_code is None else exit_code


def _keep_config(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """Remember ``--config``, wherever on the line it is given; the last one wins."""
    if value is not None:
        source = context.get_parameter_source(parameter.name or "")
        named_by = "MDSERVER_CONFIG" if source is ParameterSource.ENVIRONMENT else "--config"
        context.meta[_CONFIG_KEY] = ConfigFile(value, named_by)  # type: ignore[arg-type]


def _config_option(environment: str | None = None) -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=environment,
        show_envvar=environment is not None,
        expose_value=False,
        callback=_keep_config,
        help="Read this config file; default: config.yaml in the current folder, if it exists.",
    )


class _Group(click.Group):
    """A group whose help shows the whole first sentence of each command, and which knows what a misspelt one meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See :class:`click.Group`, which suggests no command that is a plugin."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            meant = self.meant(ctx, args[0])
            if meant is None:
                raise
            message = f"No such command {args[0]!r}. Did you mean {meant!r}?"
            raise click.UsageError(message, ctx) from None

    def meant(self, ctx: click.Context, name: str) -> str | None:
        """Return the command that is most like ``name``, if any is."""
        return next(iter(get_close_matches(name, self.list_commands(ctx), n=1)), None)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.summary(ctx, name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def summary(self, ctx: click.Context, name: str) -> str:
        """Return the line about a command in the group's help."""
        command = self.get_command(ctx, name)
        text = "" if command is None else command.short_help or command.help or ""
        sentence = " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
        return f"{sentence}."


class _Run(_Group):
    """``run``: its subcommands are the command plugins, ours and third parties', each imported only when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return command_names(_plugin_folders(ctx))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = load_command(cmd_name, _plugin_folders(ctx))
        if isinstance(found, PluginProblem):
            raise click.ClickException(str(found))
        return None if found is None else _with_config(found)

    def summary(self, ctx: click.Context, name: str) -> str:
        found = load_command(name, _plugin_folders(ctx))
        if isinstance(found, CommandPlugin):
            return found.summary.rstrip(".") + "."
        return f"(Cannot be used: {found.message})" if found is not None else ""


def _plugin_folders(context: click.Context) -> tuple[Path, ...]:
    invocation = context.find_object(Invocation)
    return () if invocation is None else invocation.find_plugin_folders()


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


class _Top(_Group):
    """The top level: its own commands, and ``watch``, a command plugin that is used too often for ``run``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), WATCH])

    def meant(self, ctx: click.Context, name: str) -> str | None:
        """See :class:`_Group`; ``mdserver doctor`` means ``mdserver run doctor``."""
        return f"run {name}" if name in command_names(()) else super().meant(ctx, name)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != WATCH:
            return super().get_command(ctx, cmd_name)
        found = load_command(WATCH, ())
        return _with_config(found) if isinstance(found, CommandPlugin) else None

    def summary(self, ctx: click.Context, name: str) -> str:
        found = load_command(WATCH, ()) if name == WATCH else None
        return f"{found.summary}." if isinstance(found, CommandPlugin) else super().summary(ctx, name)


@click.group(cls=_Top, params=[_config_option("MDSERVER_CONFIG")])
@click.version_option(__version__, prog_name="mdserver")
@click.pass_context
def cli(context: click.Context) -> None:
    """A self-hosted market data server."""
    context.obj = Invocation(lambda: context.meta.get(_CONFIG_KEY))
    context.obj.is_command = context.invoked_subcommand == WATCH
    set_up_logging(LogConfig())


@cli.group("run", cls=_Run, invoke_without_command=True, params=[_config_option()])
@click.option("--host", metavar="ADDRESS", help="Listen on this address instead of that of the config.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port; 0 chooses a free one.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep the embedded database and the journal in this folder.",
)
@click.option(
    "--allow-anonymous/--no-allow-anonymous",
    default=None,
    envvar="MDSERVER_ALLOW_ANONYMOUS",
    show_envvar=True,
    help="Let clients in without a key, on every address.",
)
@click.option(
    "--role",
    type=click.Choice(["ingest", "edge", "all"]),
    help="What this process does on the bus: ingest runs brokers, edge serves clients.",
)
@click.option(
    "--reload",
    is_flag=True,
    help="For development: take over each change of the config file, and restart when the code of a plugin changes.",
)
@click.pass_context
def run_(
    context: click.Context,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    allow_anonymous: bool | None,
    role: Literal["ingest", "edge", "all"] | None,
    *,
    reload: bool,
) -> None:
    """Run the server, or the command NAME."""
    invocation: Invocation = context.obj
    invocation.overrides = Overrides(host, port, data_dir, allow_anonymous, role)
    invocation.is_command = context.invoked_subcommand is not None
    if context.invoked_subcommand is None:
        _serve(invocation, reload=reload)


def _serve(invocation: Invocation, *, reload: bool) -> None:
    config = invocation.config
    if not any(entry.enabled for entry in config.brokers):
        invocation.log.warning("no broker is enabled in the config: nothing will be streamed")
    from .daemon.daemon import serve  # imported here, since only the daemon needs the whole server
    from .daemon.file_watch import FileWatch

    plugins = invocation.brokers_for_serving
    watch: FileWatch | None = None
    if reload:
        file = invocation.config_file
        files = () if file is None else (file.path, file.path.parent / ".env")
        watch = FileWatch(files, plugin_code(invocation.plugin_folders))
    banner = Banner(config, plugins)
    named = invocation.config_file
    trio.run(
        partial(
            serve,
            config,
            plugins,
            load=invocation.load,
            watch=watch,
            config_file=None if named is None else named.path,
            task_status=banner,
        )
    )
    if watch is not None and watch.restart:
        # A module cannot be unloaded, so the process begins anew, under the same id.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves


@cli.group("plugins", cls=_Group, invoke_without_command=True, params=[_config_option()])
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def plugins_(context: click.Context, as_json: bool) -> None:
    """List the installed plugins, where each comes from, and why one cannot be used."""
    if context.invoked_subcommand is not None:
        return
    invocation: Invocation = context.obj
    found = installed_plugins(invocation.plugin_folders)
    if as_json:
        click.echo(json.dumps({"plugins": [attrs.asdict(plugin) for plugin in found]}, indent=2))
        return
    rows = [("NAME", "KIND", "VERSION", "FROM", "SUMMARY")]
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


plugins_.add_command(new_plugin)
plugins_.add_command(test_plugin)


@cli.group("keys", cls=_Group)
def keys_() -> None:
    """Make the keys by which clients are known."""


@keys_.command("new", params=[_config_option()])
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def new(name: str, as_json: bool) -> None:
    """Make a key for the client NAME: it is shown this once, and its hash goes into the config."""
    if not re.fullmatch(KEY_NAME, name):
        raise click.BadParameter("expected letters, digits, _ . - and at most 64 of them", param_hint="NAME")
    key, hash_ = new_key()
    if as_json:
        click.echo(json.dumps({"name": name, "key": key, "hash": hash_}))
        return
    click.echo(
        f"{key}\n\nThis is the client's key: it is not kept anywhere. For the config, under server.auth.keys:\n\n"
        f"  - {{name: {name}, hash: '{hash_}'}}\n"
    )


@cli.group("config", cls=_Group)
def config_() -> None:
    """Check a config file, or print its schema."""


@config_.command("check", params=[_config_option()])
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(context: click.Context, file: Path | None, as_json: bool) -> None:
    """Check the config FILE and report all errors at once; the exit code is 2 if there is one.

    A broker or source whose plugin cannot be loaded is an error here, although the server would start without it.
    """
    if file is not None:
        context.meta[_CONFIG_KEY] = ConfigFile(file, "--config")
    invocation: Invocation = context.obj
    try:
        config = invocation.load(strict=True)
        check_exposure(config.server)
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"ok": False, "problems": error.problems}))
        raise click.exceptions.Exit(EXIT_USAGE) from None
    names = [entry.name for entry in config.brokers if entry.enabled]
    path = None if invocation.config_file is None else str(invocation.config_file.path)
    if as_json:
        facts = {"ok": True, "problems": [], "file": path, "brokers": names, "data_dir": str(config.data_dir)}
        click.echo(json.dumps(facts))
        return
    what = "no config file; the defaults are:" if path is None else f"{path} is valid:"
    click.echo(f"{what} brokers {', '.join(names) or 'none'}; data in {config.data_dir}")


@config_.command("schema", params=[_config_option()])
@click.pass_obj
def schema(invocation: Invocation) -> None:
    """Print the JSON Schema of the config file, installed plugins included."""
    classes = {name: plugin.config for name, plugin in invocation.brokers.items()}
    sources = {name: plugin.config for name, plugin in invocation.history.items()}
    click.echo(json.dumps(json_schema(classes, sources), indent=2))

"""``mdserver plugins new`` and ``mdserver plugins test``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from ..commands.context import Invocation
from ..errors import PluginError
from ..plugin import BROKER_GROUP, COMMAND_GROUP, HISTORY_GROUP
from ..registry import installed_names
from .scaffold import KINDS, write_project

if TYPE_CHECKING:
    from ..testing.conformance import Row

__all__ = ["new_plugin", "test_plugin"]

_GROUPS = {"broker": BROKER_GROUP, "history": HISTORY_GROUP, "command": COMMAND_GROUP}
_MARKS = {"ok": "ok", "failed": "FAILED", "not applicable": "-"}


@click.command("new")
@click.argument("kind", metavar="[broker|history|command]", required=False)
@click.argument("name", required=False)
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Create this folder; the default is a folder with the plugin's name in the current one.",
)
@click.option(
    "--polled", is_flag=True, help="A broker that polls its venue over HTTP, in place of a WebSocket."
)
@click.pass_context
def new_plugin(
    context: click.Context, kind: str | None, name: str | None, into: Path | None, *, polled: bool
) -> None:
    """Generate a working plugin project; without a kind, `mdserver plugins new NAME` generates a broker.

    The project has a package with config, codec and the plugin itself, a fake venue, tests that need no network, among
    them the conformance suite, and a README with the next steps.
    """
    if kind is not None and name is None:
        kind, name = "broker", kind
    if kind is None or name is None:
        raise click.UsageError("expected a NAME, preceded by broker, history or command (default: broker)")
    known = next((one for one in KINDS if one == kind), None)
    if known is None:
        raise click.UsageError(f"found the kind {kind!r}, expected one of {', '.join(KINDS)}")
    invocation = context.find_object(Invocation)
    if name in installed_names(_GROUPS[known], [] if invocation is None else invocation.plugin_folders):
        raise click.UsageError(
            f"found the name {name!r}, which a {known} plugin has that is installed (mdserver plugins lists them); "
            "expected another one"
        )
    folder = Path(name) if into is None else into
    try:
        written = write_project(known, name, folder, polled=polled)
    except PluginError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"A {known} plugin {name} in {folder}:")
    for path in written:
        click.echo(f"  {path}")
    click.echo(
        f"Next: cd {folder} && pip install pytest pytest-trio && python -m pytest; pip install -e . lets the server "
        f"see it, and mdserver plugins test {name} prints its scorecard. README.md has the next steps."
    )


@click.command("test")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def test_plugin(context: click.Context, name: str, *, as_json: bool) -> None:
    """Run the conformance suite on the installed plugin NAME and print its scorecard. Exit code 1 if a check failed.

    The plugin runs against its own fake venue, over real sockets on this machine, under the server's supervisor. Its
    module `conformance` defines, as `case`, how to open that venue.
    """
    from ..testing.conformance import find_case, run_suite  # late: no other command needs the fakes

    invocation = context.find_object(Invocation)
    try:
        case = find_case(name, [] if invocation is None else invocation.plugin_folders)
    except PluginError as error:
        raise click.UsageError(str(error)) from None

    def tell(row: Row) -> None:
        if not as_json:
            click.echo(f"  {_MARKS[row.outcome]:<6}  {row.check:<20}  {row.text}")

    if not as_json:
        click.echo(name)
    card = run_suite(case, told=tell)
    if as_json:
        rows = [attrs.asdict(row) for row in card.rows]
        click.echo(
            json.dumps({"plugin": card.plugin, "kind": card.kind, "passed": card.passed, "checks": rows})
        )
    else:
        click.echo(card.lines()[-1])
    if not card.passed:
        raise click.exceptions.Exit(1)

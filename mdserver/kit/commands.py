"""``mdserver plugins test NAME``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
import click

from ..errors import PluginError

if TYPE_CHECKING:
    from ..testing.conformance import Row

__all__ = ["test_plugin"]

_MARKS = {"ok": "ok", "failed": "FAILED", "not applicable": "-"}


@click.command("test")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test_plugin(name: str, *, as_json: bool) -> None:
    """Run the conformance suite on the installed plugin NAME and print its scorecard. Exit code 1 if a check failed.

    The plugin is tried on its own fake venue, over real sockets on this machine, under the server's supervisor. It says
    how to open that in its module `conformance`, as `case`.
    """
    from ..testing.conformance import find_case, run_suite  # late: no other command needs the fakes

    try:
        case = find_case(name)
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

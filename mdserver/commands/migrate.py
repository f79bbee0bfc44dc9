"""``mdserver run migrate``: bring the tables of the configured database up to date."""

from __future__ import annotations

import json

import click

from ..config import Config
from ..log import get_logger
from ..plugin import CommandContext, CommandPlugin
from ..store.open_database import open_configured

__all__ = ["apply_migrations", "plugin"]

SUMMARY = "Bring the tables of the database up to date"


@click.command("migrate", short_help=SUMMARY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def _command(context: CommandContext, as_json: bool) -> None:
    """Bring the tables of the database up to date.

    The server does the same when it starts, unless database.migrate is off. Running it again changes nothing.
    """
    names = context.run(apply_migrations, context.config)
    if as_json:
        click.echo(json.dumps({"applied": names}))
    elif names:
        click.echo("\n".join(f"applied {name}" for name in names))
    else:
        click.echo("nothing to apply: the tables are up to date")


async def apply_migrations(config: Config) -> list[str]:
    """Apply pending migrations to the configured database; return the names of their files.

    If a running server has the embedded database, this uses that one. Raises StoreUnavailable, Rejected.
    """
    async with open_configured(
        config.database, config.data_dir, migrate=True, statement_timeout_s=0, log=get_logger("mdserver")
    ) as database:
        return [] if database.opened is None else list(database.opened.applied)


plugin = CommandPlugin("migrate", SUMMARY, _command)

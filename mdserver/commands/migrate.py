"""``mdserver run migrate``: bring the tables of the configured database up to date."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack

import click

from ..config import Config
from ..lock import lock_data_folder
from ..log import get_logger
from ..plugin import CommandPlugin
from ..store.database import open_database
from ..store.embedded import open_embedded
from ..store.migrations import migrate
from .context import CommandContext

__all__ = ["apply_migrations", "plugin"]

SUMMARY = "Bring the tables of the database up to date"


@click.command("migrate", short_help=SUMMARY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def _command(context: CommandContext, as_json: bool) -> None:
    """Bring the tables of the database up to date.

    The daemon does the same at start, unless database.migrate is off. Running it again changes nothing.
    """
    names = context.run(apply_migrations, context.config)
    if as_json:
        click.echo(json.dumps({"applied": names}))
    elif names:
        click.echo("\n".join(f"applied {name}" for name in names))
    else:
        click.echo("nothing to apply: the tables are up to date")


async def apply_migrations(config: Config) -> list[str]:
    """Apply what is pending to the configured database and return the names of the files.

    Raises DataFolderInUse if the embedded database belongs to a running server, StoreUnavailable, Rejected.
    """
    log = get_logger("mdserver")
    async with AsyncExitStack() as stack:
        url = config.database.url
        if url == "embedded":
            stack.enter_context(lock_data_folder(config.data_dir))
            url = await stack.enter_async_context(
                open_embedded(config.data_dir / "postgresql", binaries=config.database.binaries, log=log)
            )
        database = await stack.enter_async_context(
            open_database(url, retry_for_s=config.database.connect_for_s, migrate=False, log=log)
        )
        return await database.run(migrate)


plugin = CommandPlugin("migrate", SUMMARY, _command)

"""``mdserver run migrate``: bring the tables of the configured database up to date."""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack

import click
import structlog
from structlog.typing import EventDict

from ..config import Config
from ..plugin import CommandPlugin
from ..store.embedded.server import attach_embedded
from ..store.open_database import open_database
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

    The embedded database of a running server is reached through that. Raises StoreUnavailable, Rejected.
    """
    names: list[str] = []
    log = _log_that_keeps(names)
    async with AsyncExitStack() as stack:
        url = config.database.url
        if url == "embedded":
            url = await stack.enter_async_context(
                attach_embedded(config.data_dir, binaries=config.database.binaries, log=log)
            )
        await stack.enter_async_context(
            open_database(url, retry_for_s=config.database.connect_for_s, migrate=True, log=log)
        )
    return names


def _log_that_keeps(names: list[str]) -> structlog.stdlib.BoundLogger:
    """Return the server's logger, which also puts into ``names`` what the database says it applied.

    Opening a database migrates it and logs that; there is no other way to learn it.
    """

    def keep(_logger: object, _method: str, event: EventDict) -> EventDict:
        if event.get("event") == "database migrated":
            names.extend(event["applied"])
        return event

    log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger("mdserver"),
        processors=[keep, *structlog.get_config()["processors"]],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return log


plugin = CommandPlugin("migrate", SUMMARY, _command)

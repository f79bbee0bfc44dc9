"""The configured database for commands, which may run beside the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from ..config import Config
from ..store.connection.database import Database
from ..store.embedded.server import attach_embedded
from ..store.open_database import open_database

__all__ = ["open_command_database"]


@asynccontextmanager
async def open_command_database(
    config: Config, *, statement_timeout_s: float, log: structlog.stdlib.BoundLogger
) -> AsyncIterator[Database]:
    """Open the configured database: where it is the embedded one and the daemon runs, that of the daemon.

    Raises as :func:`~mdserver.store.connection.database.open_database` and
    :func:`~mdserver.store.embedded.server.attach_embedded`.
    """
    settings = config.database
    async with AsyncExitStack() as stack:
        url = settings.url
        if url == "embedded":
            url = await stack.enter_async_context(
                attach_embedded(config.data_dir, binaries=settings.binaries, log=log)
            )
        yield await stack.enter_async_context(
            open_database(
                url,
                retry_for_s=settings.connect_for_s,
                migrate=settings.migrate,
                statement_timeout_s=statement_timeout_s,
                log=log,
            )
        )

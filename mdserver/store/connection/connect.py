"""Making a connection: what may be said of a URL, patience at the start, the settings of a session."""

from __future__ import annotations

import re
import threading
from typing import Any, TypeAlias

import psycopg
import structlog
import trio
from attrs import define, field
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from ...backoff import Backoff
from ...errors import ConfigError, Rejected, StoreUnavailable
from .thread_transaction import error_text

__all__ = ["Connection", "configure_session", "connect_patiently", "connection_parameters", "describe"]

Connection: TypeAlias = psycopg.Connection[Any]

CONNECT_S = 10
"""How long one attempt to connect may take."""

BACKOFF_S = (0.25, 5.0)
"""The first and the longest pause between attempts to connect at the start."""

# A dead peer is noticed within 10 + 3 × 5 s, and unacknowledged data after 20 s (Linux).
KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

# libpq has no SQLSTATE for a refused login. A server in another language is tried again until the time is up.
_FINAL = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|is not permitted to log in"
    r"|(?:role|user|database) \"[^\"]*\" does not exist|permission denied for database"
    r"|is not currently accepting connections|does not support SSL|certificate|requires a password"
)

_BAD_URL = (
    "database.url is not a PostgreSQL URL: expected postgresql://user:password@host:port/name, with special "
    "characters of the password percent-encoded"
)


def describe(url: str) -> str:
    """Return ``user@host:port/name`` of a URL or conninfo: what may be logged. Raises :class:`ConfigError`."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message quotes parts of the URL, maybe of the password
        raise ConfigError([_BAD_URL]) from None
    defaults = {
        option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()
    }
    keys = ("user", "host", "port", "dbname")
    user, host, port, name = (str(given.get(key) or defaults[key]) for key in keys)
    if not re.fullmatch(r"[\d,]*", port) or "@" in host + name:
        # a "#", "/" or "@" in the password has moved a part of it here
        raise ConfigError([_BAD_URL])
    return f"{user}@{host or 'localhost'}:{port}/{name or user}"


async def connect_patiently(
    url: str, where: str, retry_for_s: float, log: structlog.stdlib.BoundLogger
) -> Connection:
    """Return a first connection, trying again with growing pauses while nobody answers."""
    deadline = trio.current_time() + retry_for_s
    backoff = Backoff(*BACKOFF_S)
    while True:
        try:
            return await _Attempt(url).connect()
        except psycopg.OperationalError as error:
            text = error_text(error)
        if _FINAL.search(text):
            raise Rejected(f"the database refuses {where}: {text}")
        left = deadline - trio.current_time()
        if left <= 0:
            raise StoreUnavailable(f"no connection to {where} for {retry_for_s:.0f} s: {text}")
        pause_s = min(backoff.next_s(), left)
        log.warning("waiting for the database", database=where, error=text, give_up_in_s=round(left))
        await trio.sleep(pause_s)


@define(eq=False)
class _Attempt:
    """One attempt to connect, left to its thread if cancelled: a silent host must not hold up the shutdown."""

    url: str
    _lock: threading.Lock = field(factory=threading.Lock)
    _left: bool = False

    async def connect(self) -> Connection:
        try:
            return await trio.to_thread.run_sync(self._connect, abandon_on_cancel=True)
        except trio.Cancelled:
            with self._lock:
                self._left = True
            raise

    def _connect(self) -> Connection:
        connection: Connection = psycopg.connect(self.url, **connection_parameters(self.url))
        with self._lock:
            if self._left:
                connection.close()
        return connection


def connection_parameters(url: str) -> dict[str, Any]:
    """Parameters that the URL does not set itself."""
    ours = {"application_name": "mdserver", "connect_timeout": CONNECT_S, **KEEPALIVE}
    return {name: value for name, value in ours.items() if name not in conninfo_to_dict(url)}


def configure_session(conn: Connection, statement_timeout_s: float) -> None:
    """Set up a session by statements: a pooler in between would refuse them as startup options."""
    conn.execute(
        "select set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false)",
        [f"{round(statement_timeout_s * 1000)}ms"],
    )
    conn.commit()

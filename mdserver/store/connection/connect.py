"""Connect to PostgreSQL: the part of a URL that may be logged, retries at the start, our connection parameters."""

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
from .database_errors import error_text

__all__ = ["Connection", "connect_patiently", "connection_parameters", "describe"]

Connection: TypeAlias = psycopg.Connection[Any]

CONNECT_S = 10
"""How long one attempt to connect may take."""

ATTEMPT_S = 2 * CONNECT_S
"""How long one attempt may take including the first query: the server may have frozen."""

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

# libpq reports no SQLSTATE for a refused login, and servers translate the text. Where none of these matches, only the
# shortcut is lost: we retry until the time is up, and our error quotes the server's text.
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
    """Return ``user@host:port/name`` of a URL or conninfo, which is safe to log. Raises :class:`ConfigError`."""
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
        # an unencoded "#", "/" or "@" in the password has put a part of the password into these fields
        raise ConfigError([_BAD_URL])
    return f"{user}@{host or 'localhost'}:{port}/{name or user}"


async def connect_patiently(
    url: str, where: str, retry_for_s: float, log: structlog.stdlib.BoundLogger
) -> Connection:
    """Return the first connection; retry with growing pauses while nobody answers or the server takes no writes."""
    deadline = trio.current_time() + retry_for_s
    backoff = Backoff(*BACKOFF_S)
    while True:
        text = f"no answer within {ATTEMPT_S} s"
        try:
            with trio.move_on_after(ATTEMPT_S):
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
    """One attempt to connect. If cancelled, its thread is abandoned: a silent host must not delay the shutdown."""

    url: str
    _lock: threading.Lock = field(factory=threading.Lock)
    _abandoned: bool = False

    async def connect(self) -> Connection:
        try:
            return await trio.to_thread.run_sync(self._connect, abandon_on_cancel=True)
        except trio.Cancelled:
            with self._lock:
                self._abandoned = True
            raise

    def _connect(self) -> Connection:
        connection: Connection = psycopg.connect(self.url, **connection_parameters(self.url))
        try:
            _check_writable(connection)
        except psycopg.Error:
            connection.close()
            raise
        with self._lock:
            if self._abandoned:  # nobody will take it
                connection.close()
        return connection


def connection_parameters(url: str) -> dict[str, Any]:
    """Return our parameters of a connection: those that the URL does not set itself, and the encoding."""
    given = conninfo_to_dict(url)
    ours: dict[str, Any] = {"application_name": "mdserver", "connect_timeout": CONNECT_S, **KEEPALIVE}
    if "," in str(given.get("host") or given.get("hostaddr") or ""):
        ours["target_session_attrs"] = "read-write"  # among several hosts, choose the one that takes writes
    # exchange texts as UTF-8, also where the database has no encoding (SQL_ASCII)
    return {name: value for name, value in ours.items() if name not in given} | {"client_encoding": "UTF8"}


def _check_writable(conn: Connection) -> None:
    """Raise psycopg.OperationalError if the server takes no writes. That may change (fail-over), so it is retried."""
    conn.autocommit = True
    row = conn.execute("select current_setting('transaction_read_only'), pg_is_in_recovery()").fetchone()
    conn.autocommit = False
    if row is not None and row[0] == "on":
        raise psycopg.OperationalError(
            "it is a standby, which takes no writes"
            if row[1]
            else "it is read-only: default_transaction_read_only is on for this server, database or role"
        )

"""The session settings that our transactions rely on, whatever the role, the database or postgresql.conf set."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import psycopg
from attrs import define, field

__all__ = ["Pooler", "Session"]

Pooler: TypeAlias = Literal["auto", "none", "transaction"]
"""Whether a pooler shares the server's sessions between transactions; ``auto`` finds out."""

_SETTINGS = {
    "bytea_output": "hex",
    "datestyle": "ISO, YMD",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": "0",
    "intervalstyle": "postgres",
    "lock_timeout": "0",
    "standard_conforming_strings": "on",
    "timezone": "UTC",
}
"""Some times and numbers are read as text and must be exact; our waits have their own bounds.

``default_transaction_read_only`` and ``search_path`` stay as the operator set them: whether and where to store.
"""

TRANSACTION_TIMEOUT_SINCE = 170_000

# A pooler answers the client's startup itself, with a process number that is not the server process's.
_INSPECT = """select pg_backend_pid(), current_setting('search_path'),
    (select quote_ident(n.nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace
     where e.extname = 'timescaledb' and not n.nspname = any(current_schemas(true))),
    current_setting('synchronous_commit')"""


@define(eq=False)
class Session:
    """Sets up connections, and each transaction where a pooler gives it another session.

    ``pooled`` is what was found at the last connection, or what the config says.
    """

    statement_timeout_s: float
    pooler: Pooler = "auto"
    pooled: bool = False
    _values: dict[str, str] = field(factory=dict)

    @property
    def statement_timeout(self) -> str:
        """The statement timeout in PostgreSQL's notation."""
        return f"{round(self.statement_timeout_s * 1000)}ms"

    def configure(self, conn: psycopg.Connection[Any]) -> None:
        """Set up a new connection. By statements, since a pooler refuses startup options. Blocking."""
        conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        conn.autocommit = True  # the operator may have a timeout for transactions that are idle in between
        row = conn.execute(_INSPECT).fetchone()
        if row is None:  # pragma: no cover - a select without "from" has one row
            raise AssertionError("no row")
        pid, path, timescaledb, commit = row
        differs = pid != conn.info.backend_pid
        self.pooled = self.pooler == "transaction" or (self.pooler == "auto" and differs)
        self._values = {**_SETTINGS, "statement_timeout": self.statement_timeout}
        if conn.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            self._values["transaction_timeout"] = "0"
        if (
            commit == "off"
        ):  # the journal deletes a segment after the commit: by then its records must be on disk
            self._values["synchronous_commit"] = "on"
        if timescaledb is not None:  # the extension's functions are in a schema outside of the search path
            self._values["search_path"] = f"{path}, {timescaledb}" if path else timescaledb
        if self.pooled:
            conn.prepare_threshold = (
                None  # the next transaction may get a session without the prepared statement
            )
        else:
            self._set(conn, local=False)
        conn.autocommit = False

    def begin(self, conn: psycopg.Connection[Any]) -> None:
        """Apply the settings at the begin of a transaction, where a pooler may have given it any session."""
        if self.pooled:
            self._set(conn, local=True)

    def _set(self, conn: psycopg.Connection[Any], *, local: bool) -> None:
        one = "set_config(%s, %s, {})".format("true" if local else "false")
        pairs = [text for pair in self._values.items() for text in pair]
        conn.execute(f"select {', '.join([one] * len(self._values))}".encode(), pairs)

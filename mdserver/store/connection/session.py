"""What each transaction of ours relies on, whatever the role, the database or the operator's files say."""

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
"""Times and numbers are read as text here and there, exactly; waits have bounds of our own.

``default_transaction_read_only`` and ``search_path`` are the operator's: where to store and whether.
"""

TRANSACTION_TIMEOUT_SINCE = 170_000

# A pooler answers the client's start itself, with a number that is not the server process's.
_LOOK = """select pg_backend_pid(), current_setting('search_path'),
    (select quote_ident(n.nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace
     where e.extname = 'timescaledb' and not n.nspname = any(current_schemas(true))),
    current_setting('synchronous_commit')"""


@define(eq=False)
class Session:
    """Prepares connections, and transactions where a pooler gives each another session.

    ``pooled`` is what was found of the last connection, or what the config says.
    """

    statement_timeout_s: float
    pooler: Pooler = "auto"
    pooled: bool = False
    _values: dict[str, str] = field(factory=dict)

    @property
    def statement_timeout(self) -> str:
        """The bound of a statement as PostgreSQL takes it."""
        return f"{round(self.statement_timeout_s * 1000)}ms"

    def configure(self, conn: psycopg.Connection[Any]) -> None:
        """Set up a new connection. By statements: a pooler refuses startup options. Blocking."""
        conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        conn.autocommit = True  # an operator may end transactions that are idle between two statements
        row = conn.execute(_LOOK).fetchone()
        if row is None:  # pragma: no cover - a select without "from" has one row
            raise AssertionError("no row")
        pid, path, timescaledb, commit = row
        differs = pid != conn.info.backend_pid
        self.pooled = self.pooler == "transaction" or (self.pooler == "auto" and differs)
        self._values = {**_SETTINGS, "statement_timeout": self.statement_timeout}
        if conn.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            self._values["transaction_timeout"] = "0"
        if commit == "off":  # a segment of the journal goes once its records are on the database's disk
            self._values["synchronous_commit"] = "on"
        if timescaledb is not None:  # its functions, where the extension has a schema of its own
            self._values["search_path"] = f"{path}, {timescaledb}" if path else timescaledb
        if self.pooled:
            conn.prepare_threshold = None
        else:
            self._set(conn, local=False)
        conn.autocommit = False

    def begin(self, conn: psycopg.Connection[Any]) -> None:
        """Begin a transaction: its settings, where a pooler may have given it a session of another's."""
        if self.pooled:
            self._set(conn, local=True)

    def _set(self, conn: psycopg.Connection[Any], *, local: bool) -> None:
        one = "set_config(%s, %s, {})".format("true" if local else "false")
        pairs = [text for pair in self._values.items() for text in pair]
        conn.execute(f"select {', '.join([one] * len(self._values))}".encode(), pairs)

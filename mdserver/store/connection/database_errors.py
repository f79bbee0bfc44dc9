"""Classify errors of PostgreSQL, in this one place and by SQLSTATE alone: servers translate the texts."""

from __future__ import annotations

import psycopg

from ...errors import MdserverError, StoreUnavailable

__all__ = [
    "DataRefused",
    "PartitionGone",
    "StatementRefused",
    "error_text",
    "is_data_fault",
    "mapped",
    "spoils_connection",
]


class DataRefused(MdserverError):
    """PostgreSQL refuses the content of rows: a retry cannot help."""


class StatementRefused(StoreUnavailable):
    """PostgreSQL refuses a statement: a privilege, a table or disk space is missing, which its operator can provide."""


class PartitionGone(StoreUnavailable):
    """The partition of a row was dropped by somebody. The next try creates it again."""


_DATA_CLASSES = ("22", "23", "54")
"""Data exception, integrity constraint violation, program limit exceeded (a text too long for an index)."""

_SPOILING = ("08", "25006", "28", "42501", "55000", "57P", "58")
"""Prefixes of SQLSTATEs after which a new connection may reach another server or have other privileges.

Connection exceptions, a read-only transaction, a lost login or privilege, a server in recovery, a shutdown or
"cannot connect now", a system error.
"""


def error_text(error: psycopg.Error) -> str:
    """Return the text of an error on one line. For a well-formed URL libpq puts no password into its errors."""
    return " ".join(str(error).split()) or type(error).__name__


def is_data_fault(error: psycopg.Error) -> bool:
    """Return whether the rows are to blame, not the database or its operator."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)  # psycopg's own: a NUL in a text
    return error.sqlstate.startswith(_DATA_CLASSES) and not _has_no_partition(error)


def spoils_connection(error: psycopg.Error) -> bool:
    """Return whether the connection must not be used again: after a fail-over it leads to the wrong server."""
    return error.sqlstate is not None and error.sqlstate.startswith(_SPOILING)


def mapped(error: psycopg.Error, where: str, *, broken: bool) -> MdserverError:
    """Return the error to raise in place of psycopg's; ``broken`` means that the connection is lost.

    :class:`DataRefused` where the rows are to blame, else :class:`~mdserver.errors.StoreUnavailable`: a retry helps
    once the database is back, or once its operator has provided what is missing (a privilege, space, a table).
    """
    text = error_text(error)
    if is_data_fault(error) and not broken:
        return DataRefused(f"the database refuses: {text}")
    if _has_no_partition(error):
        return PartitionGone(f"a partition was dropped: {text}")
    if broken or error.sqlstate is None or isinstance(error, psycopg.OperationalError):
        return StoreUnavailable(f"{where}: {text}")
    return StatementRefused(f"the database refuses: {text}")


def _has_no_partition(error: psycopg.Error) -> bool:
    """PostgreSQL reports a row without a partition as a check violation that names no constraint."""
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None

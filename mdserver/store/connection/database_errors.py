"""What an error of PostgreSQL means: the one place that sorts them, by SQLSTATE alone. Texts are translated."""

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
    """PostgreSQL refuses rows for what they hold: trying them again changes nothing."""


class StatementRefused(StoreUnavailable):
    """PostgreSQL refuses a statement: a right, a table, space is missing. Its operator can give that."""


class PartitionGone(StoreUnavailable):
    """A row found no partition though there was one: somebody dropped it. It is made again by another try."""


_DATA_CLASSES = ("22", "23", "54")
"""Data exception, integrity constraint violation, program limit exceeded (a text too long for an index)."""

_SPOILING = ("08", "25006", "28", "42501", "55000", "57P", "58")
"""Beginnings of SQLSTATEs after which another connection may lead to another server, or to other rights.

Connection exceptions, a read-only transaction, a login or a right that is gone, a server in recovery, a shutdown or
"cannot connect now", a system error.
"""


def error_text(error: psycopg.Error) -> str:
    """Return an error on one line. libpq does not put passwords into errors of a well-formed URL."""
    return " ".join(str(error).split()) or type(error).__name__


def is_data_fault(error: psycopg.Error) -> bool:
    """Tell whether the rows are to blame, not the database or its operator."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)  # psycopg's own: a NUL in a text
    return error.sqlstate.startswith(_DATA_CLASSES) and not _has_no_partition(error)


def spoils_connection(error: psycopg.Error) -> bool:
    """Tell whether the connection must not be used again: after a fail-over it leads to the wrong server."""
    return error.sqlstate is not None and error.sqlstate.startswith(_SPOILING)


def mapped(error: psycopg.Error, where: str, *, broken: bool) -> MdserverError:
    """Return what to raise in the place of an error: ``broken`` says that its connection is gone.

    :class:`DataRefused` where the rows are to blame, else :class:`~mdserver.errors.StoreUnavailable`: trying again
    helps once the database is back, or once its operator has given what is missing (a right, space, a table).
    """
    text = error_text(error)
    if is_data_fault(error) and not broken:
        return DataRefused(f"the database refuses: {text}")
    if _has_no_partition(error):
        return PartitionGone(f"a partition is gone: {text}")
    if broken or error.sqlstate is None or isinstance(error, psycopg.OperationalError):
        return StoreUnavailable(f"{where}: {text}")
    return StatementRefused(f"the database refuses: {text}")


def _has_no_partition(error: psycopg.Error) -> bool:
    """PostgreSQL reports a row without a partition as a violated check, but names no constraint."""
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None

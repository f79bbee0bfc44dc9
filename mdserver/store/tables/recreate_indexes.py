"""Recreate the indexes that :mod:`.secondary_indexes` dropped, without locking writers out.

``create index concurrently`` does not work on a partitioned table. So the parent's index is created empty and invalid;
then each partition's index is built concurrently and attached, and with the last one the parent's becomes valid.
TimescaleDB has no concurrent build for hypertables: there writers wait (live records wait in the journal), readers do
not. Each step checks what exists already, so that a run continues where an earlier one was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import sql

from ...errors import Rejected
from ..connection.database import Database, Engine
from .secondary_indexes import (
    TABLES,
    DroppedIndex,
    SecondaryIndex,
    dropped,
    need_session,
    part_name,
    secondary,
)

__all__ = ["Recreated", "Report", "recreate"]

LOCK_KEY = 0x6D64696E64657865
"""The advisory lock for recreating indexes: "mdindexe" in ASCII."""

_VALID = """select x.indisvalid from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join pg_index x on x.indexrelid = c.oid where n.nspname = %s and c.relname = %s"""

_PARTITIONS = """select n.nspname, c.relname, c.relkind = 'p' from pg_inherits i
    join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
    where i.inhparent = %s::regclass
      and not exists (select from pg_index x join pg_inherits j on j.inhrelid = x.indexrelid
                      where x.indrelid = c.oid and j.inhparent = %s::regclass)
    order by c.relname"""


class Recreated(Struct, frozen=True):
    """One recreated index; ``lost`` is why it could not be, else None. ``before_bytes`` is its size when dropped."""

    table: str
    name: str
    seconds: float
    size_bytes: int
    before_bytes: int
    lost: str | None = None


class Report(Struct, frozen=True):
    """What was recreated, and how long the ANALYZE afterwards took."""

    indexes: list[Recreated]
    analyze_s: float


async def recreate(
    database: Database, *, announce: Callable[[DroppedIndex], None] = lambda index: None
) -> Report:
    """Recreate all recorded indexes, then ANALYZE. Writers are not blocked, except with TimescaleDB.

    ``announce`` is called in a worker thread before each index. If this is cancelled or fails, unfinished indexes stay
    recorded and the next call continues. Raises :class:`Rejected` if another command recreates indexes at the same
    time, or behind a pooler.
    """

    def work(conn: psycopg.Connection[Any]) -> Report:
        row = conn.execute("select pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone()
        if row is None or not row[0]:
            raise Rejected("another command is recreating the indexes now")
        try:
            done = []
            for index in dropped(conn):
                announce(index)
                done.append(_recreate(conn, database.engine, index))
            return Report(done, _analyze(conn) if done else 0.0)
        finally:
            if not conn.closed:
                conn.execute("select pg_advisory_unlock(%s)", [LOCK_KEY])

    need_session(database)
    return await database.run_autocommit(work)


def _recreate(conn: psycopg.Connection[Any], engine: Engine, index: DroppedIndex) -> Recreated:
    began = time.monotonic()
    exists = conn.execute("select to_regclass(%s)", [_text(index.schema, index.table, conn)]).fetchone()
    size, lost = 0, None
    if exists is None or exists[0] is None:
        lost = f"its table {index.table} is gone"
    else:
        conn.execute("select set_config('default_tablespace', %s, false)", [index.tablespace or ""])
        try:
            _build(conn, engine, index)
        finally:
            if not conn.closed:
                conn.execute("select set_config('default_tablespace', '', false)")
        if index.comment is not None:
            statement = sql.SQL("comment on index {} is {}")
            conn.execute(
                statement.format(sql.Identifier(index.schema, index.name), sql.Literal(index.comment))
            )
        size = next((i.size_bytes for i in secondary(conn, engine) if i.valid and _same(i, index)), -1)
        if size < 0:
            raise Rejected(
                f"index {index.name} is still invalid, because a partition was added or dropped meanwhile; run the "
                "command again"
            )
    conn.execute(
        "delete from dropped_indexes where schema_name = %s and table_name = %s and index_name = %s",
        [index.schema, index.table, index.name],
    )
    return Recreated(index.table, index.name, time.monotonic() - began, size, index.size_bytes, lost)


def _build(conn: psycopg.Connection[Any], engine: Engine, index: DroppedIndex) -> None:
    if engine == "timescaledb":
        _build_hypertable(conn, index)
    elif index.partitioned:
        _build_partitioned(conn, index)
    else:
        _build_one(conn, index.schema, index.table, index.name, index.body)


def _build_one(conn: psycopg.Connection[Any], schema: str, table: str, name: str, body: str) -> None:
    """Build the index of one table concurrently, unless a valid one exists."""
    valid = _valid(conn, schema, name)
    if valid is False:  # left behind by an interrupted build
        conn.execute(sql.SQL("drop index concurrently {}").format(sql.Identifier(schema, name)))
    if not valid:
        statement = sql.SQL("create index concurrently {} on {} {}")
        conn.execute(statement.format(sql.Identifier(name), sql.Identifier(schema, table), _raw(body)))


def _build_partitioned(conn: psycopg.Connection[Any], index: DroppedIndex) -> None:
    whole = sql.Identifier(index.schema, index.name)
    if _valid(conn, index.schema, index.name) is None:
        statement = sql.SQL("create index {} on only {} {}")
        table = sql.Identifier(index.schema, index.table)
        conn.execute(statement.format(sql.Identifier(index.name), table, _raw(index.body)))
    names = [_text(index.schema, name, conn) for name in (index.table, index.name)]
    for schema, partition, partitioned in conn.execute(_PARTITIONS, names).fetchall():
        if partitioned:
            raise Rejected(f"{partition} is partitioned once more: recreate index {index.name} there by hand")
        name = part_name(index.name, partition)
        _build_one(conn, schema, partition, name, index.body)
        conn.execute(
            sql.SQL("alter index {} attach partition {}").format(whole, sql.Identifier(schema, name))
        )


def _build_hypertable(conn: psycopg.Connection[Any], index: DroppedIndex) -> None:
    if _valid(conn, index.schema, index.name) is None:  # built in one transaction, so never half there
        statement = sql.SQL("create index {} on {} {}")
        table = sql.Identifier(index.schema, index.table)
        conn.execute(statement.format(sql.Identifier(index.name), table, _raw(index.body)))


def _valid(conn: psycopg.Connection[Any], schema: str, name: str) -> bool | None:
    """Return whether an index is valid, None if it does not exist."""
    row = conn.execute(_VALID, [schema, name]).fetchone()
    return None if row is None else bool(row[0])


def _same(index: SecondaryIndex, recorded: DroppedIndex) -> bool:
    return (index.schema, index.name) == (recorded.schema, recorded.name)


def _analyze(conn: psycopg.Connection[Any]) -> float:
    began = time.monotonic()
    for table in TABLES:
        conn.execute(sql.SQL("analyze {}").format(sql.Identifier(table)))
    return time.monotonic() - began


def _raw(body: str) -> sql.SQL:
    """Return a definition, printed by PostgreSQL itself, as SQL."""
    return sql.SQL(body.replace("{", "{{").replace("}", "}}"))


def _text(schema: str, name: str, conn: psycopg.Connection[Any]) -> str:
    return sql.Identifier(schema, name).as_string(conn)

"""The secondary indexes of ticks and trades: dropped before a large import, recreated after it.

mdserver itself creates none; they are the operator's. A dropped index is recorded in ``dropped_indexes`` in the same
transaction, so :func:`~.recreate_indexes.recreate` restores it whatever happens in between. Primary keys, unique
indexes and those of constraints are never dropped: without them wrong rows could get in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from msgspec import Struct
from psycopg import sql
from psycopg.rows import args_row

from ...errors import Rejected, StoreUnavailable
from ..connection.database import Database, Engine
from . import compressed_loading as direct_compress

__all__ = [
    "DroppedIndex",
    "SecondaryIndex",
    "Status",
    "drop_secondary",
    "dropped",
    "need_session",
    "part_name",
    "secondary",
    "status",
]

TABLES: tuple[LiteralString, ...] = ("ticks", "trades")

MAX_NAME_BYTES = 63
"""PostgreSQL's limit for identifiers."""

LOCK_WAIT = "10s"
"""How long dropping waits for a lock on the tables; everybody else queues behind it meanwhile."""


class SecondaryIndex(Struct, frozen=True):
    """An index that :func:`drop_secondary` may drop, or must keep: ``kept`` is the reason, else None.

    ``size_bytes`` includes its parts on partitions or chunks. ``body`` is its definition from ``USING`` on.
    """

    schema: str
    table: str
    name: str
    partitioned: bool
    size_bytes: int
    body: str
    tablespace: str | None
    comment: str | None
    valid: bool
    kept: str | None


class DroppedIndex(Struct, frozen=True):
    """A recorded index that was dropped; ``size_bytes`` is its size at that time."""

    schema: str
    table: str
    name: str
    partitioned: bool
    size_bytes: int
    body: str
    tablespace: str | None
    comment: str | None


class Status(Struct, frozen=True):
    """The indexes and their sizes; ``primary_bytes`` is that of the primary keys, ``table_bytes`` that of the rows."""

    indexes: list[SecondaryIndex]
    dropped: list[DroppedIndex]
    primary_bytes: int
    table_bytes: int


# The tables with their partitions or TimescaleDB's chunks: both use inheritance. An index is the root of its tree if it
# is not attached to another one; the indexes of chunks belong to the hypertable's, but without inheritance.
_TREE = """with recursive tree (root, relation) as (
    select c.oid, c.oid from unnest(%(tables)s::text[]) as name join pg_class c on c.oid = name::regclass
    union all
    select tree.root, i.inhrelid from tree join pg_inherits i on i.inhparent = tree.relation
)"""

_SIZES = """select
    coalesce(sum(pg_relation_size(x.indexrelid)) filter (where x.indisprimary), 0)::bigint,
    coalesce((select sum(pg_table_size(relation)) from tree), 0)::bigint
    from tree left join pg_index x on x.indrelid = tree.relation"""

# A chunk's index is recognised by its definition: TimescaleDB's catalog has changed between versions.
_SECONDARY = """select n.nspname, t.relname, c.relname, c.relkind = 'I',
    (select coalesce(sum(pg_relation_size(part.relid)), 0)::bigint from (
        select relid from pg_partition_tree(c.oid) where c.relkind = 'I'
        union all select c.oid where c.relkind = 'i'
        union all select y.indexrelid
        from tree below join pg_index y on y.indrelid = below.relation
        where c.relkind = 'i' and %(timescaledb)s and t.oid = below.root and t.oid <> below.relation
          and y.indkey = x.indkey and y.indclass = x.indclass and y.indoption = x.indoption
          and not y.indisprimary and pg_get_expr(y.indpred, y.indrelid) is not distinct from
              pg_get_expr(x.indpred, x.indrelid)
    ) as part),
    substr(pg_get_indexdef(c.oid), length(format('CREATE %%sINDEX %%I ON %%s%%I.%%I ',
        case when x.indisunique then 'UNIQUE ' else '' end, c.relname,
        case when c.relkind = 'I' then 'ONLY ' else '' end, n.nspname, t.relname)) + 1),
    s.spcname, obj_description(c.oid, 'pg_class'), x.indisvalid,
    case when exists (select from pg_constraint k where k.conindid = c.oid) then 'it belongs to a constraint'
         when x.indisunique then 'it is unique'
         when c.relname = %(stand_in)s then 'it stands in for the primary key'
         when x.indisreplident then 'replication needs it' end
    from tree join pg_index x on x.indrelid = tree.relation
    join pg_class c on c.oid = x.indexrelid
    join pg_class t on t.oid = x.indrelid
    join pg_namespace n on n.oid = t.relnamespace
    left join pg_tablespace s on s.oid = c.reltablespace
    where not x.indisprimary and not exists (select from pg_inherits i where i.inhrelid = c.oid)
      and (not %(timescaledb)s or tree.root = tree.relation)
    order by tree.root, t.relname, c.relname"""

_RECORD = """insert into dropped_indexes as known
    (schema_name, table_name, index_name, partitioned, size_bytes, body, tablespace, comment)
    values (%s, %s, %s, %s, %s, %s, %s, %s)
    on conflict (schema_name, table_name, index_name) do update set
        partitioned = excluded.partitioned, size_bytes = greatest(known.size_bytes, excluded.size_bytes),
        body = excluded.body, tablespace = excluded.tablespace, comment = excluded.comment, dropped_at = now()"""

_RECORDED = """select schema_name, table_name, index_name, partitioned, size_bytes, body, tablespace, comment
    from dropped_indexes order by schema_name, table_name, index_name"""


async def status(database: Database) -> Status:
    """Return which indexes exist and which are recorded as dropped."""

    def work(conn: psycopg.Connection[Any]) -> Status:
        row = conn.execute(sql.SQL(_TREE + _SIZES), {"tables": list(TABLES)}).fetchone()
        primary_bytes, table_bytes = row or (0, 0)
        return Status(secondary(conn, database.engine), dropped(conn), primary_bytes, table_bytes)

    return await database.run(work)


async def drop_secondary(database: Database) -> list[SecondaryIndex]:
    """Record the secondary indexes of ticks and trades, drop them and return them: all or none, in one transaction.

    Raises :class:`StoreUnavailable` if the tables are in use for longer than ``LOCK_WAIT``, :class:`Rejected` where
    a pooler would keep :func:`~.recreate_indexes.recreate` from working.
    """
    need_session(database)
    return await database.run(lambda conn: _drop(conn, database.engine))


def need_session(database: Database) -> None:
    """Raise :class:`Rejected` behind a pooler: a lock and settings must outlast a transaction."""
    if database.pooled:
        raise Rejected(
            "dropping and recreating indexes needs a database session of its own, which the pooler does not provide: "
            "use the database server's own address in database.url for this command"
        )


def _drop(conn: psycopg.Connection[Any], engine: Engine) -> list[SecondaryIndex]:
    conn.execute("select set_config('lock_timeout', %s, true)", [LOCK_WAIT])
    try:
        # so that nobody creates an index between the query and the drop
        for table in TABLES:
            conn.execute(
                sql.SQL("lock table {} in share update exclusive mode").format(sql.Identifier(table))
            )
        found = [index for index in secondary(conn, engine) if index.kept is None]
        recorded = [index.name for index in dropped(conn) if index.partitioned]
        # indexes of partitions that an interrupted recreate built but did not attach belong to a recorded index
        parts = {
            part_name(name, index.table) for name in recorded for index in found if not index.partitioned
        }
        _record(conn, [index for index in found if index.name not in parts])
        for index in found:
            conn.execute(sql.SQL("drop index {}").format(sql.Identifier(index.schema, index.name)))
    except psycopg.errors.LockNotAvailable as error:
        raise StoreUnavailable(
            f"the tables were in use for more than {LOCK_WAIT}: no index was dropped; try again"
        ) from error
    return found


def secondary(conn: psycopg.Connection[Any], engine: Engine) -> list[SecondaryIndex]:
    """Return the indexes of ticks and trades other than the primary keys: of the tables, and of single partitions."""
    with conn.cursor(row_factory=args_row(SecondaryIndex)) as cursor:
        parameters = {
            "tables": list(TABLES),
            "timescaledb": engine == "timescaledb",
            "stand_in": direct_compress.INDEX,
        }
        return cursor.execute(sql.SQL(_TREE + _SECONDARY), parameters).fetchall()


def dropped(conn: psycopg.Connection[Any]) -> list[DroppedIndex]:
    """Return the recorded indexes that were not recreated yet."""
    with conn.cursor(row_factory=args_row(DroppedIndex)) as cursor:
        return cursor.execute(_RECORDED).fetchall()


def part_name(index: str, partition: str) -> str:
    """Return the name of a partition's index: always the same for a recreated index, so that a later run finds it."""
    name = f"{partition}_{index}"
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: MAX_NAME_BYTES - 9].decode(errors='ignore')}_{digest}"


def _record(conn: psycopg.Connection[Any], indexes: Sequence[SecondaryIndex]) -> None:
    for one in indexes:
        conn.execute(
            _RECORD,
            [
                one.schema,
                one.table,
                one.name,
                one.partitioned,
                one.size_bytes,
                one.body,
                one.tablespace,
                one.comment,
            ],
        )

"""Apply numbered SQL files, each once, in one transaction, by one server at a time.

A file is named ``NNNN_name.sql`` (every engine), ``NNNN_name.plain.sql`` or ``NNNN_name.timescaledb.sql``. The table
``schema_migrations`` records the applied files with their SHA-256. So an edited file, or a database that is newer than
the code, is noticed before anything is written.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import psycopg
from attrs import frozen

from ...errors import Rejected
from ..connection.database import Engine

__all__ = ["APACHE", "Migration", "applied_engine", "engine_note", "load_migrations", "migrate", "pending"]

TIMESCALEDB_MINIMUM = (2, 18, 1)
"""The oldest supported version; with an older one plain tables are used."""

ENGINES: tuple[Engine, ...] = ("plain", "timescaledb")

LOCK_KEY = 0x6D64736572766572
"""The advisory lock of a migrating server: "mdserver" in ASCII."""

APACHE = "apache"
"""The ``timescaledb.license`` of builds without compression, which some providers run."""

_EXTENSION = """select extversion, current_setting('timescaledb.license', true) from pg_extension
    where extname = 'timescaledb'"""

_FILE = re.compile(r"(?P<number>\d{4})_(?P<title>[a-z0-9_]+)(?:\.(?P<engine>plain|timescaledb))?\.sql")

_CREATES = re.compile(r"^create (?:table|view) (\w+)", re.MULTILINE)

_KINDS = {
    "f": "foreign table",
    "m": "materialized view",
    "p": "table",
    "r": "table",
    "S": "sequence",
    "v": "view",
}

_TAKEN = """select c.relkind::text, c.relname::text from pg_class c
    where c.relnamespace = (select oid from pg_namespace where nspname = current_schema())
      and c.relname = any(%s) order by c.relname"""

_WAY_OUT = (
    "give mdserver a schema of its own: create schema mdserver; and add ?options=-csearch_path%3Dmdserver to "
    "database.url (or: alter role … set search_path = mdserver), or use a database of its own"
)

_TABLE = """
create table if not exists schema_migrations (
    number     integer primary key,
    name       text not null,
    sha256     text not null,
    applied_at timestamptz not null default now()
)
"""


@frozen
class Migration:
    """One file; ``engine`` is None if it is for every engine."""

    number: int
    name: str
    engine: Engine | None
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_migrations(engine: Engine) -> list[Migration]:
    """Read the files for one engine, in order of their numbers.

    Raises ValueError if a file is misnamed or a number is missing or used twice: a mistake in this package.
    """
    found: list[Migration] = []
    for file in _folder().iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise ValueError(f"migration {file.name}: expected NNNN_name[.plain|.timescaledb].sql")
        if match["engine"] in (None, engine):
            # a checkout with CRLF line ends must have the same hash
            text = file.read_bytes().decode().replace("\r\n", "\n")
            own: Engine | None = None if match["engine"] is None else engine
            found.append(Migration(int(match["number"]), file.name, own, text))
    found.sort(key=lambda migration: migration.number)
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations for {engine}: numbers must be 1, 2, 3 …, found {numbers}")
    return found


def _folder() -> Traversable:
    """Return the folder of the files: in the installed package, else beside the package, in a checkout."""
    package = resources.files("mdserver")
    installed = package / "sql"
    return installed if installed.is_dir() else Path(str(package)).parent / "sql"


def migrate(conn: psycopg.Connection[Any]) -> list[str]:
    """Bring the database up to date; return the names of the files applied now.

    One transaction: all pending files or none. Servers that start at the same time wait for each other. Blocking.

    Raises :class:`Rejected` for an edited file, a database newer than the code, a name in use or missing privileges;
    other errors of psycopg are raised unchanged.
    """
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
        # a query first: "create table if not exists" needs the privilege to create even where the table exists
        done = _applied(conn)
        try:
            if done is None:
                _check_names(conn)
                conn.execute(_TABLE)
                done = {}
            names = _apply(conn, _recorded_engine(done), done)
        except psycopg.errors.InsufficientPrivilege as error:
            raise Rejected(
                f"the database user {conn.info.user} may not create the tables in database {conn.info.dbname}: "
                f"{error.diag.message_primary}; make it the owner of the database"
            ) from error
        except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject) as error:
            raise Rejected(
                f"database {conn.info.dbname}: {error.diag.message_primary}, a name that mdserver needs: {_WAY_OUT}"
            ) from error
    return names


def _apply(
    conn: psycopg.Connection[Any], engine: Engine | None, done: dict[int, tuple[str, str]]
) -> list[str]:
    if engine is None and _choose_engine(conn) == "timescaledb":
        try:
            with conn.transaction():
                return _apply(conn, "timescaledb", done)
        except psycopg.errors.FeatureNotSupported:
            pass  # the Apache edition: without compression a hypertable has no advantage over partitions
    names = []
    for migration in _check(load_migrations(engine or "plain"), done):
        conn.execute(migration.text.encode())
        conn.execute(
            "insert into schema_migrations (number, name, sha256) values (%s, %s, %s)",
            [migration.number, migration.name, migration.sha256],
        )
        names.append(migration.name)
    return names


def pending(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the names of the files that :func:`migrate` would apply; change nothing. Raises as it does."""
    done = _applied(conn)
    if done is None:
        _check_names(conn)
        done = {}
    engine = _recorded_engine(done) or "plain"
    return [migration.name for migration in _check(load_migrations(engine), done)]


def applied_engine(conn: psycopg.Connection[Any]) -> Engine | None:
    """Return the engine that the tables were created for, None before the first migration."""
    return _recorded_engine(_applied(conn) or {})


def _applied(conn: psycopg.Connection[Any]) -> dict[int, tuple[str, str]] | None:
    """Return the recorded migrations by number; None if the database was never migrated."""
    row = conn.execute("select to_regclass('schema_migrations')").fetchone()
    if row is None or row[0] is None:
        return None
    try:
        rows = conn.execute("select number, name, sha256 from schema_migrations").fetchall()
    except psycopg.errors.UndefinedColumn as error:
        raise Rejected(
            f"the table schema_migrations of database {conn.info.dbname} belongs to another program: {_WAY_OUT}"
        ) from error
    return {number: (name, sha256) for number, name, sha256 in rows}


def _check_names(conn: psycopg.Connection[Any]) -> None:
    """Raise :class:`Rejected` if a name that we need is in use, or if there is no schema to create tables in."""
    row = conn.execute("select current_schema(), current_setting('search_path')").fetchone()
    if row is None or row[0] is None:
        raise Rejected(
            f"the search_path of {conn.info.user} in database {conn.info.dbname} names no schema that exists "
            f"({row[1] if row else ''}): create the schema"
        )
    ours = {
        name for engine in ENGINES for one in load_migrations(engine) for name in _CREATES.findall(one.text)
    }
    if taken := conn.execute(_TAKEN, [sorted(ours)]).fetchall():
        found = ", ".join(f"the {_KINDS.get(kind, 'relation')} {name}" for kind, name in taken)
        raise Rejected(
            f"schema {row[0]} of database {conn.info.dbname} already has {found}, which mdserver did not create and "
            f"whose name it needs: {_WAY_OUT}"
        )


def _recorded_engine(done: dict[int, tuple[str, str]]) -> Engine | None:
    """Return the engine that the first migration chose. It never changes: no migration turns one's tables into the
    other's.
    """
    for name, _ in done.values():
        match = _FILE.fullmatch(name)
        if match is not None and match["engine"] is not None:
            return "timescaledb" if match["engine"] == "timescaledb" else "plain"
    return None


def _check(known: list[Migration], done: dict[int, tuple[str, str]]) -> list[Migration]:
    """Return the files to apply. Raises :class:`Rejected` if the applied ones differ from the files."""
    newer = sorted(done.keys() - {migration.number for migration in known})
    if newer:
        raise Rejected(
            f"the database has migration {done[newer[-1]][0]}, newer than any that this version of mdserver knows "
            f"(up to {known[-1].name}): install the newer mdserver, or use another database"
        )
    for migration in known:
        if migration.number in done:
            name, sha256 = done[migration.number]
            if sha256 != migration.sha256:
                raise Rejected(
                    f"migration {migration.name} was changed after it was applied (as {name}): its SHA-256 is "
                    f"{migration.sha256[:12]}…, the database has {sha256[:12]}…; restore the file"
                )
    return [migration for migration in known if migration.number not in done]


def engine_note(conn: psycopg.Connection[Any], engine: Engine) -> str | None:
    """Return why TimescaleDB, though installed, is not used or not used in full; None if it is."""
    row = conn.execute(_EXTENSION).fetchone()
    if row is None:
        return None
    version, license_ = row
    if engine == "timescaledb":
        if license_ != APACHE:
            return None
        return "TimescaleDB now runs under the apache license, which has no compression: new ticks stay uncompressed"
    if _version(version) < TIMESCALEDB_MINIMUM:
        least = ".".join(str(part) for part in TIMESCALEDB_MINIMUM)
        why = f"is older than {least}"
    else:
        why = "cannot compress (Apache edition), or was installed after the tables were created"
    return f"TimescaleDB {version} {why}: ticks are stored in monthly partitions of PostgreSQL"


def _choose_engine(conn: psycopg.Connection[Any]) -> Engine:
    """Choose TimescaleDB if it is installed, or preloaded and ours to install; else plain. Runs in the transaction."""
    row = conn.execute(_EXTENSION).fetchone()
    if row is not None:
        usable = _version(row[0]) >= TIMESCALEDB_MINIMUM and row[1] != APACHE
        return "timescaledb" if usable else "plain"
    row = conn.execute(
        # The setting exists only if the library is preloaded; otherwise "create extension" is a FATAL error.
        """select default_version from pg_available_extensions where name = 'timescaledb'
           and exists (select from pg_settings where name = 'timescaledb.max_background_workers')"""
    ).fetchone()
    if row is None or _version(row[0]) < TIMESCALEDB_MINIMUM:
        return "plain"
    try:
        with conn.transaction():
            conn.execute("create extension timescaledb")
    except psycopg.errors.InsufficientPrivilege:
        return "plain"
    return "timescaledb"


def _version(text: str) -> tuple[int, ...]:
    """``2.18.1-dev`` -> (2, 18, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])

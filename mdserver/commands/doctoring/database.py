"""Checks of the configured database: reachable, of a version that we support, set up to keep what it is given."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import structlog
import trio

from ...clocks import least_ahead_s
from ...config import Config
from ...errors import MdserverError
from ...store.connection.connect import Connection, connect_patiently, describe
from ...store.connection.database_errors import error_text
from ...store.embedded.data_folder import prepare_place
from ...store.embedded.programs import choose_binaries
from ...store.open_database import OLDEST_SERVER, configured_url
from ...store.tables.migrations import applied_engine, engine_note, pending
from .finding import Finding, green, red, yellow

__all__ = ["check_clock", "check_database", "check_settings"]

DATABASE = "database"
CONNECT_FOR_S = 1.0
POOL = 20
"""Connections that the server and a command beside it may need."""
CLOCKS_APART_S = (1.0, 30.0)
"""Yellow and red from these differences on: candles close by our clock, retention drops months by the database's."""

_REQUIRED_ON = {
    "fsync": "a crash of the machine can destroy the database",
    "full_page_writes": "a crash of the machine can leave torn pages, which nothing repairs",
}


async def check_database(config: Config, log: structlog.stdlib.BoundLogger) -> list[Finding]:
    """Look at the database; an embedded one that exists is started for it where no server runs."""
    settings = config.database
    if not settings.store:
        return [
            yellow(DATABASE, "database.store is false: nothing is stored", "set it to true to keep records")
        ]
    try:
        if settings.url == "embedded" and (
            first := await trio.to_thread.run_sync(_before_first_start, config)
        ):
            return [first]
        async with configured_url(settings, config.data_dir, embedded="shared", log=log) as url:
            connection = await connect_patiently(url, describe(url), CONNECT_FOR_S, log)
            try:
                return await trio.to_thread.run_sync(lambda: list(_look(connection, config)))
            finally:
                connection.close()
    except MdserverError as error:
        return [red(DATABASE, str(error), _remedy(str(error), embedded=settings.url == "embedded"))]
    except psycopg.Error as error:
        remedy = "see the log of the database, and that its user may read settings"
        return [red(DATABASE, f"the connection was lost while it was looked at: {error_text(error)}", remedy)]


def _before_first_start(config: Config) -> Finding | None:
    """Return what is known of an embedded database that does not exist yet; None if it exists."""
    if (config.data_dir / "postgres" / "cluster").exists():
        return None
    # In a folder of our own: the data folder may get another owner than the one who asks.
    with tempfile.TemporaryDirectory(prefix="mdserver-doctor-") as name:
        Path(name).chmod(0o711)
        place = prepare_place(Path(name))
        found = choose_binaries(
            config.database.binaries, account=place.account, copies=place.copies, cluster_major=None
        )
    return green(
        DATABASE,
        f"an embedded PostgreSQL {found.text} is created at the first start ({found.origin}'s programs)",
    )


def _remedy(text: str, *, embedded: bool) -> str:
    if embedded:
        return "read postgres/server.log in the data folder; docs/howto/troubleshooting.md, The database"
    if "authentication" in text or "password" in text:
        return "correct user and password in database.url; special characters are percent-encoded"
    if "does not exist" in text:
        return "create it (createdb NAME, createuser NAME), or correct database.url"
    if "pg_hba.conf" in text:
        return "allow this machine in the database's pg_hba.conf, or add ?sslmode=require to database.url"
    if "no connection" in text:
        return "start the database, or correct host and port in database.url; a firewall may be in between"
    return "docs/howto/troubleshooting.md, The database"


def _look(conn: Connection, config: Config) -> Iterator[Finding]:
    conn.autocommit = True
    conn.execute("set statement_timeout = '10s'")
    conn.execute("set lock_timeout = '2s'")
    version = conn.info.server_version
    shown = f"{version // 10_000}.{version % 10_000}"
    if version < OLDEST_SERVER:
        yield red(
            DATABASE, f"it is PostgreSQL {shown}, expected 14 or newer", "upgrade it: pg_upgrade, or pg_dump"
        )
        return
    yield green(
        DATABASE,
        f"the embedded PostgreSQL {shown} answers"
        if _is_embedded(config)
        else f"PostgreSQL {shown} answers at {describe(config.database.url)}",
    )
    yield check_clock(_ours_minus_theirs(conn))
    yield from _check_tables(conn, config)
    yield from check_settings(dict(conn.execute("select name, setting from pg_settings").fetchall()))
    yield _check_connections(conn)
    row = conn.execute("select pg_size_pretty(pg_database_size(current_database()))").fetchone()
    yield green(
        "database size",
        f"{row[0] if row else 'unknown'}"
        + ("" if _is_embedded(config) else "; how much its disk has left only its own machine can tell"),
    )


def _is_embedded(config: Config) -> bool:
    return config.database.url == "embedded"


def _check_tables(conn: Connection, config: Config) -> Iterator[Finding]:
    try:
        names = pending(conn)
        engine = applied_engine(conn)
        note = None if engine is None else engine_note(conn, engine)
    except MdserverError as error:
        yield red("tables", str(error), "docs/howto/troubleshooting.md, The database")
        return
    available = conn.execute(
        "select installed_version from pg_available_extensions where name = 'timescaledb'"
    ).fetchone()
    extension = "no TimescaleDB" if not available else f"TimescaleDB {available[0] or 'not created in it'}"
    if note is not None:
        yield yellow("tables", f"{note} ({extension})", "docs/howto/troubleshooting.md, The database")
    may_create = conn.execute("select has_schema_privilege(current_schema(), 'create')").fetchone()
    if names and not config.database.migrate:
        yield red("tables", f"migrations are missing: {', '.join(names)}", "mdserver run migrate")
    elif names and not (may_create and may_create[0]):
        yield red(
            "tables",
            f"migrations are missing and {conn.info.user} may not create tables: {', '.join(names)}",
            f"make {conn.info.user} the owner of the database, or run `mdserver run migrate` as its owner",
        )
    elif names:
        yield green("tables", f"the next start applies {len(names)} migrations ({extension})")
    elif note is None:
        yield green("tables", f"up to date, for {engine} ({extension})")


def check_settings(settings: dict[str, str]) -> Iterator[Finding]:
    """Check what makes a database lose records, or refuse them."""
    bad = [name for name in _REQUIRED_ON if settings.get(name) == "off"]
    for name in bad:
        yield red(
            "database settings",
            f"{name} is off: {_REQUIRED_ON[name]}",
            f"alter system set {name} = on; select pg_reload_conf()",
        )
    if settings.get("server_encoding") not in ("UTF8", "SQL_ASCII"):
        bad.append("server_encoding")
        yield yellow(
            "database settings",
            f"the encoding is {settings.get('server_encoding')}, expected UTF8",
            "create the database anew with encoding 'UTF8'",
        )
    pages = int(settings.get("shared_buffers", "0"))
    if pages * 8_192 < 128 << 20:
        bad.append("shared_buffers")
        yield yellow(
            "database settings",
            f"shared_buffers is {pages * 8 >> 10} MiB",
            "set it to a quarter of the machine's memory, and restart the database",
        )
    if not bad:
        yield green("database settings", "nothing in them loses records or slows the server down")


def _check_connections(conn: Connection) -> Finding:
    row = conn.execute(
        "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " - (select count(*) from pg_stat_activity where backend_type = 'client backend')"
    ).fetchone()
    free = int(row[0]) if row else 0
    if free < POOL:
        return yellow(
            "database connections",
            f"{free} are free; the server and a command take up to {POOL}",
            "raise max_connections of the database, or put a pooler in front",
        )
    return green("database connections", f"{free} are free")


def _ours_minus_theirs(conn: Connection) -> float:
    before_s = time.time()
    row = conn.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    return least_ahead_s(before_s, float(row[0]) if row else 0.0, time.time())


def check_clock(apart_s: float) -> Finding:
    """Judge how far our clock is ahead of the database's, in seconds."""
    text = f"our clock and the database's differ by {abs(apart_s):.1f} s"
    yellow_s, red_s = CLOCKS_APART_S
    if abs(apart_s) < yellow_s:
        return green("clock", text)
    remedy = "set both by NTP: timedatectl set-ntp true (chrony, systemd-timesyncd); see which one is off with date -u"
    return red("clock", text, remedy) if abs(apart_s) >= red_s else yellow("clock", text, remedy)

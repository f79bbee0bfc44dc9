"""Checks of the machine: data folder, free space, open files, ports, the running server, time zone data. Blocking."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import resource
import shutil
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ...config import Config, ServerConfig
from .finding import Finding, green, red, yellow

__all__ = [
    "SPARE_FILES",
    "check_data_folder",
    "check_open_files",
    "check_running_server",
    "check_time_zones",
    "running_process",
]

SPARE_FILES = 512
"""Descriptors that the server needs besides those of its clients."""
LEAST_FREE_BYTES = 1 << 30
"""With less than this on the disk of the data folder, journal and database may fill it within hours."""
ANSWER_S = 5.0

GIB = 1 << 30


def check_data_folder(config: Config) -> Iterator[Finding]:
    """Check that the data folder can be written to, has space, and holds no records that the database refused."""
    folder = config.data_dir
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        yield red(
            "data folder", f"{there} is not a folder, and data_dir is {folder}", "set data_dir to a folder"
        )
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield red(
            "data folder",
            f"{there} cannot be written to by user {os.geteuid()}",
            f"run the server as the folder's owner, or give it the folder: chown -R {os.geteuid()} {there}",
        )
        return
    made = "" if there == folder else "; it is created at the first start"
    yield green("data folder", f"{folder} can be written to{made}")
    yield _free_space(there, config)
    rejected = folder / "journal" / "rejected.jsonl"
    if rejected.exists() and rejected.stat().st_size:
        yield yellow(
            "data folder",
            f"{rejected} holds records that the database refused",
            "see why in each line's cause; move the file away once they are dealt with",
        )


def _free_space(folder: Path, config: Config) -> Finding:
    free = shutil.disk_usage(folder).free
    wanted = LEAST_FREE_BYTES + config.journal.max_bytes
    text = f"{free / GIB:.1f} GiB are free on the disk of {folder}"
    if free < LEAST_FREE_BYTES:
        return red("free space", text, "free some space, or move data_dir to a larger disk")
    if free < wanted:
        return yellow(
            "free space",
            f"{text}; the journal alone may take {config.journal.max_bytes / GIB:.1f} GiB",
            f"have {wanted / GIB:.1f} GiB free, or lower journal.max_bytes",
        )
    return green("free space", text)


def check_open_files(server: ServerConfig) -> Finding:
    """Compare the hard limit of open files, which the server raises its own to, with its connections."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = server.max_connections + SPARE_FILES
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return green("open files", f"enough descriptors for {server.max_connections} connections")
    return yellow(
        "open files",
        f"the hard limit is {hard} descriptors; server.max_connections {server.max_connections} needs {wanted}",
        f"raise it (ulimit -Hn {wanted}; LimitNOFILE={wanted} in a systemd unit), or lower server.max_connections",
    )


def check_time_zones() -> Finding:
    """Check that New York's time is known, which decides when the days of currencies begin."""
    try:
        offset = datetime(2026, 7, 1, tzinfo=UTC).astimezone(ZoneInfo("America/New_York")).utcoffset()
    except (ZoneInfoNotFoundError, OSError) as error:
        return red("time zones", f"there are no time zone data: {error}", "pip install tzdata")
    if offset != timedelta(hours=-4):
        return red(
            "time zones",
            f"New York is at UTC{offset} in July, expected -4 h",
            "install the system's tzdata, or pip install -U tzdata and unset PYTHONTZPATH",
        )
    return green("time zones", "New York's daylight saving time is known")


def running_process(data_dir: Path) -> str | None:
    """Return the process id of the server that uses a data folder; None if there is none."""
    try:
        descriptor = os.open(data_dir / "mdserver.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no server has ever run here, or the check of the folder reports it
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(descriptor)
    return None


def check_running_server(server: ServerConfig, pid: str) -> Finding:
    """Ask a running server whether it is ready."""
    host = next((one for one in server.hosts if one not in ("*", "0.0.0.0", "::")), "127.0.0.1")  # noqa: S104
    where = f"{host}:{server.port}"
    if server.port == 0:
        return green("server", f"runs as process {pid}, on a port that it chose itself")
    try:
        status, body = _ask(host, server)
    except (OSError, http.client.HTTPException) as error:
        return red(
            "server",
            f"runs as process {pid} and does not answer at {where}: {error}",
            "if it has only just started, ask again; else read its log, and restart it",
        )
    facts = json.loads(body) if body.startswith(b"{") else {}
    ready = status == http.client.OK
    text = f"runs as process {pid} at {where}: {facts.get('status') if ready else 'not ready'}"
    if ready and facts.get("status") == "ready":
        return green("server", text)
    text += "".join(f"; {why}" for why in facts.get("reasons", ()))
    remedy = "see /api/brokers and the log for the reason; `mdserver run broker list` shows each broker"
    return yellow("server", text, remedy) if ready else red("server", text, remedy)


def _ask(host: str, server: ServerConfig) -> tuple[int, bytes]:
    if server.tls is None:
        connection = http.client.HTTPConnection(host, server.port, timeout=ANSWER_S)
    else:
        # The certificate names the server's public name, not the address by which we reach it from here.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 - only whether it is ready is read
        connection = http.client.HTTPSConnection(host, server.port, timeout=ANSWER_S, context=context)
    try:
        connection.request("GET", "/health/ready", headers={"Host": "localhost"})
        answer = connection.getresponse()
        return answer.status, answer.read(65_536)
    except socket.gaierror as error:
        raise OSError(f"the name {host} is not known: {error}") from error
    finally:
        connection.close()

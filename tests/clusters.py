"""A PostgreSQL cluster that is made once and copied: ``initdb`` takes seconds, a copy a tenth of one.

It lies in the temporary folder, one for each version of PostgreSQL, account, settings and schema, and is shared by
all test runs: whoever makes it holds a lock and renames it when it is whole, whoever copies it only reads.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import structlog
import trio

from mdserver.store import embedded
from mdserver.store.embedded.data_folder import Place, prepare_place
from mdserver.store.embedded.programs import Binaries, Choice, choose_binaries
from mdserver.store.embedded.server import open_embedded
from mdserver.store.tables.migrations import load_migrations, migrate
from tests.leftovers import PREFIX, TOKEN, end_servers

__all__ = ["put_cluster", "reachable_folder", "running_postgres"]

START_S = 120.0
KEPT_S = 3 * 86_400.0

# No test pulls the plug of the machine, and what is killed loses nothing that the kernel has.
SETTINGS = "\n# Settings of the tests.\nfsync = off\nfull_page_writes = off\n"


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that the database's account can enter when we are root: pytest's ``tmp_path`` is not."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{TOKEN}-"))
    try:
        if os.geteuid() == 0:
            folder.chmod(0o711)
        yield folder
    finally:
        end_servers(folder)
        shutil.rmtree(folder)


@contextmanager
def running_postgres(binaries: Choice) -> Iterator[str]:
    """Run an embedded PostgreSQL on a copy of the cluster, in a trio and a thread of its own; yield its conninfo.

    The database that it names is migrated.
    """
    with reachable_folder() as folder:
        put_cluster(folder, binaries)
        with _embedded_in_thread(folder, binaries) as url:
            yield url


def put_cluster(data_dir: Path, binaries: Choice = "auto") -> Place:
    """Put a migrated cluster into a data folder that has none, as a server would have left it there."""
    place = prepare_place(data_dir)
    template = _template(place, binaries)
    # keeps the owner, which is another account where we are root
    subprocess.run(["cp", "-a", template / "cluster", place.cluster], check=True)
    copies = template.parent / "binaries"
    if copies.exists():
        place.copies.symlink_to(copies)
    return place


def _template(place: Place, binaries: Choice) -> Path:
    """Return the folder with the cluster, made now if there is none."""
    shared = Path(tempfile.gettempdir()) / f"mdserver-test-clusters-{os.geteuid()}"
    shared.mkdir(mode=0o711, exist_ok=True)
    assert shared.lstat().st_uid == os.geteuid(), f"{shared} belongs to someone else"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = choose_binaries(
            binaries, account=place.account, copies=shared / "binaries", cluster_major=None
        )
        template = shared / _digest(found, place)
        if template.exists():
            os.utime(template)
        else:
            _forget_old(shared)
            with reachable_folder() as folder:
                _make(folder, binaries)
                unfinished = shared / "unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(mode=0o700)
                subprocess.run(["cp", "-a", folder / "postgres/cluster", unfinished / "cluster"], check=True)
                unfinished.rename(template)
        return template


def _forget_old(shared: Path) -> None:
    """Remove the clusters that nobody has used for days."""
    for template in shared.iterdir():
        if (template / "cluster").is_dir() and time.time() - template.stat().st_mtime > KEPT_S:
            shutil.rmtree(template)


def _digest(found: Binaries, place: Place) -> str:
    """Return what names the cluster: all that its contents depend on."""
    digest = hashlib.sha256(f"{found}\0{place.account}\0{SETTINGS}".encode())
    for source in sorted(Path(embedded.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    for migration in load_migrations("plain"):
        digest.update(migration.sha256.encode())
    return digest.hexdigest()[:16]


def _make(folder: Path, binaries: Choice) -> None:
    with _embedded_in_thread(folder, binaries) as url, psycopg.connect(url) as conn:
        migrate(conn)
    with (folder / "postgres/cluster/postgresql.conf").open("a") as file:
        file.write(SETTINGS)


@contextmanager
def _embedded_in_thread(folder: Path, binaries: Choice) -> Iterator[str]:
    log = structlog.get_logger()
    ready = threading.Event()
    state: dict[str, Any] = {}

    async def main() -> None:
        async with open_embedded(folder, binaries=binaries, log=log) as url:
            stop = trio.Event()
            state.update(url=url, token=trio.lowlevel.current_trio_token(), stop=stop)
            ready.set()
            await stop.wait()

    def target() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            state["error"] = error
        finally:
            ready.set()

    thread = threading.Thread(target=target, name="postgres for tests")
    thread.start()
    try:
        assert ready.wait(START_S), "PostgreSQL did not start in time"
        if "error" in state:
            raise state["error"]
        yield state["url"]
    finally:
        if "stop" in state:
            with contextlib.suppress(trio.RunFinishedError):
                state["token"].run_sync_soon(state["stop"].set)
        thread.join(START_S)

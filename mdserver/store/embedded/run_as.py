"""The account that the embedded database runs as: PostgreSQL refuses to run as root, so root chooses another."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

from attrs import frozen

from ...errors import ConfigError

__all__ = ["Account", "account_without_name", "check_enterable", "choose_account"]

CANDIDATES = ("postgres", "nobody")
"""Accounts that a system has anyway, in order of preference. None is ever created."""


@frozen
class Account:
    """Another account to run a program as, or our own where ``uid`` is None."""

    uid: int | None = None
    gid: int | None = None

    def __str__(self) -> str:
        uid = os.geteuid() if self.uid is None else self.uid
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"uid {uid}"

    @property
    def is_other(self) -> bool:
        return self.uid is not None

    @property
    def spawn(self) -> dict[str, Any]:
        """Keyword arguments for Popen and trio: the account, and of our environment the search paths only.

        No PG* variable of the operator and no secret of ours reaches the database's process.
        """
        kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
        env = {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}
        arguments: dict[str, Any] = {"cwd": "/", "env": env, "stdin": subprocess.DEVNULL}
        if self.uid is not None:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return arguments

    def own(self, path: Path) -> None:
        """Make the account the owner of a file or folder of ours."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_without_name(folder: Path) -> dict[str, str]:
    """Return variables that name our user id for one program if the system has no name for it; files in ``folder``.

    ``initdb`` refuses to run without one, and a container may run under any id (OpenShift, ``--user``). nss_wrapper,
    which the image has, answers the look-up; without it the variables cause one more line on standard error.
    """
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        users, groups = folder / "passwd", folder / "group"
        users.write_text(f"mdserver:x:{os.geteuid()}:{os.getegid()}::/:/bin/sh\n", encoding="ascii")
        groups.write_text(f"mdserver:x:{os.getegid()}:\n", encoding="ascii")
        return {
            "LD_PRELOAD": "libnss_wrapper.so",
            "NSS_WRAPPER_PASSWD": str(users),
            "NSS_WRAPPER_GROUP": str(groups),
        }
    return {}


def choose_account(cluster: Path) -> Account:
    """Return who runs the database in ``cluster``: its owner if it exists, else the account to create it with.

    Raises :class:`ConfigError` if the cluster belongs to an account that we cannot switch to.
    """
    ours = os.geteuid()
    try:
        status = cluster.stat()
    except FileNotFoundError:
        return Account() if ours != 0 else _unprivileged()
    if status.st_uid == ours and ours != 0:
        return Account()
    if status.st_uid == 0:  # as after a copy that root made without the owners
        owner = Account() if ours != 0 else _unprivileged()
        problem = (
            f"the database folder {cluster} belongs to root, and PostgreSQL does not run as root: give the folder to "
            f"{owner} (chown -R {owner} {cluster}), or choose another data_dir"
        )
        raise ConfigError([problem])
    if ours != 0:
        problem = (
            f"the database folder {cluster} belongs to {Account(status.st_uid)}, not to {Account(ours)}: start "
            "mdserver as that user, or choose another data_dir"
        )
        raise ConfigError([problem])
    return Account(status.st_uid, status.st_gid)


def _unprivileged() -> Account:
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid)
    problem = (
        f"PostgreSQL does not run as root, and this system has none of the users {', '.join(CANDIDATES)} to run it "
        "as: start mdserver as an ordinary user, or set database.url"
    )
    raise ConfigError([problem])


def check_enterable(folder: Path, account: Account) -> None:
    """Raise :class:`ConfigError`, naming the folder in the way, if ``account`` cannot reach ``folder``. Blocking."""
    if not account.is_other or _can_enter(folder, account):
        return
    way = [path for path in reversed([folder, *folder.parents]) if not _can_enter(path, account)]
    problem = (
        f"the database runs as {account} (PostgreSQL refuses root), and {account} cannot enter {way[0]} on the way "
        f"to {folder}: set data_dir to a folder that it can reach, such as /var/lib/mdserver, or allow it to pass "
        f"with chmod o+x {way[0]}"
    )
    raise ConfigError([problem])


def _can_enter(folder: Path, account: Account) -> bool:
    """Try it as the account: the mode bits alone would miss access lists and mount options."""
    command: list[str | Path] = ["/usr/bin/env", "test", "-x", folder]
    return subprocess.run(command, check=False, **account.spawn).returncode == 0  # noqa: S603

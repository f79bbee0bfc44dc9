"""Who may connect to the embedded database; if the server runs as root, then root alone. Blocking.

The socket's folder is open to the account that PostgreSQL runs as. For a server started as root that is an account
which other programs of the system use too. So there PostgreSQL asks the kernel who connects (``peer``) and accepts
root as its superuser, nobody else.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from .data_folder import Place

__all__ = ["restrict_access"]

MARK = "# Written by mdserver, as long as this line is here."

_TRUST = f"""{MARK} The socket's folder lets only its owner in.
local all all trust
"""

_PEER = f"""{MARK} Root is the database's user mdserver (see pg_ident.conf).
local all all peer map=mdserver
"""

MAX_BYTES = 1 << 20


def restrict_access(place: Place) -> bool:
    """Bring ``pg_hba.conf`` in line with who runs the server; return False if the operator has edited it: it stays.

    Run it before the server starts. Data folders of earlier versions are restricted too.
    """
    wanted, users = _TRUST, ""
    if place.account.is_other:
        wanted, users = _PEER, f"{MARK}\nmdserver {pwd.getpwuid(os.geteuid()).pw_name} mdserver\n"
    rules = place.cluster / "pg_hba.conf"
    found = _read(rules)
    if found == wanted:
        return True
    if MARK not in found and not _is_as_made(found):
        return False
    if wanted == _TRUST and MARK not in found:
        return True
    # the map before the rule that refers to it: a crash in between must not leave a rule that lets nobody in
    _write(place.cluster / "pg_ident.conf", users or f"{MARK}\n")
    _write(rules, wanted)
    return True


def _is_as_made(rules: str) -> bool:
    """Return whether rules are those of ``initdb -A trust``: everybody who can reach the socket is trusted."""
    lines = [line.split("#")[0].split() for line in rules.splitlines()]
    return all(words[2] == "all" and words[-1] == "trust" for words in lines if len(words) >= 4)


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a plain file")
        return file.read(MAX_BYTES).decode(errors="replace")


def _write(path: Path, text: str) -> None:
    """Replace the contents in place, so that the file keeps its owner. Links are not followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor, not a path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a plain file")
        file.truncate()
        file.write(text)
        file.flush()
        os.fsync(descriptor)

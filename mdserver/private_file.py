"""Open files of our own state: without following links, and only if they are plain files that we own."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["open_private"]


def open_private(path: Path, *, create: bool = False, exclusive: bool = False) -> int:
    """Open a file for reading and writing, mode 0600 where it is made; return its descriptor.

    ``exclusive``: it must not be there yet. Raises :class:`OSError`, also for what is no plain file of this user's:
    a link, a folder, a pipe, another user's file. State that others can write is no state.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    flags |= os.O_CREAT if create or exclusive else 0
    flags |= os.O_EXCL if exclusive else 0
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link; expected a plain file", str(path)) from error
        raise
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        return fd
    os.close(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is no plain file", str(path))
    raise OSError(
        errno.EPERM,
        f"belongs to user {found.st_uid}; expected {os.geteuid()}, who runs the server",
        str(path),
    )

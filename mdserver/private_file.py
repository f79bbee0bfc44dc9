"""Opens files with the server's own state: without following links, and only plain files that its user owns."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["open_private"]


def open_private(path: Path, *, create: bool = False, exclusive: bool = False) -> int:
    """Open a file for reading and writing, with mode 0600 if it is created; return its descriptor.

    ``exclusive``: it must not exist yet. Raises :class:`OSError`, also for a link, a folder, a pipe or a file of
    another user, because the server cannot trust state that others can write.
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
        raise OSError(errno.EINVAL, "is not a plain file", str(path))
    raise OSError(
        errno.EPERM,
        f"belongs to user {found.st_uid}; expected {os.geteuid()}, who runs the server",
        str(path),
    )

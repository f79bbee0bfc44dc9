"""Say what an error of the operating system means for the operator, in place of ``[Errno 13] Permission denied``."""

from __future__ import annotations

import errno
import os
import pwd
import resource
from pathlib import Path

__all__ = ["explain", "is_for_the_operator", "user_name"]

_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))
_REFUSED = frozenset((errno.EACCES, errno.EPERM))
_NO_FILES = frozenset((errno.EMFILE, errno.ENFILE))
_OTHERS = frozenset((errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ENAMETOOLONG))


def is_for_the_operator(error: OSError) -> bool:
    """Return whether the error is about a file, the disk or a limit, which an operator can change."""
    if error.errno in _NO_SPACE | _NO_FILES:
        return True
    return error.filename is not None and error.errno in _REFUSED | _OTHERS


def explain(error: OSError) -> str:
    """Return a sentence that names the file or folder in the way, and what helps. Blocks for a ``stat`` or two."""
    path = None if error.filename is None else Path(os.fsdecode(error.filename))
    if error.errno in _NO_FILES:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"no file descriptor is left (the limit is {soft}): raise it with ulimit -n"
    if error.errno is None or error.strerror != os.strerror(error.errno):
        return str(error) if path is None or error.errno is None else f"{path} {error.strerror}"
    if error.errno in _NO_SPACE:
        where = "" if path is None else f" for {path}"
        return f"the disk is full: no space is left{where}"
    if path is None:
        return error.strerror[:1].lower() + error.strerror[1:]
    return _about_path(error.errno, error.strerror, path)


def _about_path(number: int, text: str, path: Path) -> str:
    place = _reachable(path)
    if number in _REFUSED:
        return (
            f"user {user_name()} may not use {place}, which belongs to {user_name(place)}: change its owner or mode "
            "(chown, chmod)"
        )
    if number == errno.EROFS:
        return f"{place} is on a read-only file system"
    if number in (errno.EEXIST, errno.ENOTDIR) and not place.is_dir():
        return f"{place} is a file; expected a folder"
    if number == errno.EISDIR:
        return f"{path} is a folder; expected a file"
    return f"{path}: {text[:1].lower()}{text[1:]}"


def _reachable(path: Path) -> Path:
    """Return the path, or the last folder on its way that we can see: it is the one that keeps us out."""
    for place in (path, *path.parents):
        try:
            place.lstat()
        except OSError:
            continue
        return place
    return path


def user_name(owner_of: Path | None = None) -> str:
    """Return the name of the user that this process runs as, or of the owner of a file."""
    uid = os.geteuid() if owner_of is None else owner_of.lstat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"

"""The lock that allows only one server per data folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError, DataFolderInUse
from .os_errors import explain
from .private_file import open_private

__all__ = ["lock_data_folder"]


@contextmanager
def lock_data_folder(folder: Path) -> Iterator[None]:
    """Lock a data folder for the length of the block; it is created if it does not exist.

    The kernel releases the lock when the process ends, in any way. Raises :class:`DataFolderInUse`, and
    :class:`ConfigError` if the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "mdserver.lock"
        descriptor = open_private(path, create=True)
    except OSError as error:
        raise ConfigError(
            [f"data_dir {folder} cannot be used: {explain(error)}; or set another data_dir"]
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            raise DataFolderInUse(
                f"the data folder {folder} is used by another server (process {owner}); "
                "stop it, or set another data_dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)

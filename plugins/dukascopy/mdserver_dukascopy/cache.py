"""Raw files on the local disk. Blocking: call it from a worker thread."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mdserver.errors import Unavailable

__all__ = ["Cache", "load"]


def load(path: Path) -> bytes | None:
    """Return a file's content, None where there is no such file; Unavailable where it cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unavailable(f"{path}: cannot be read: {error.strerror}") from error


class Cache:
    """A folder of complete, checked files in their service's own layout; a file of 0 bytes is an empty hour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, service: str, name: str) -> Path:
        """Return where a file of a service is kept."""
        return self.folder / service / name

    def store(self, path: Path, body: bytes) -> None:
        """Keep a file: whole or not at all, also across a power failure. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            try:
                file.write(body)
                file.flush()
                # Without this a crash may leave the new name with no content, which would mean an empty hour.
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

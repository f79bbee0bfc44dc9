"""Every error that the server raises on purpose, sorted by who is to blame.

A message names the thing, the value found and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "BadMessage",
    "ConfigError",
    "DataFolderInUse",
    "JournalCorrupt",
    "JournalFull",
    "MdserverError",
    "PluginError",
    "Rejected",
    "Silent",
    "StoreUnavailable",
    "Unavailable",
    "leaves",
]


class MdserverError(Exception):
    """Base of all errors below."""


class ConfigError(MdserverError):
    """The operator's config is wrong. ``problems`` holds one line per error, each with file, line and path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataFolderInUse(MdserverError):
    """Another server owns this data folder."""


class PluginError(MdserverError):
    """A plugin cannot be used: it does not import, has the wrong API version or the wrong shape."""


class BadMessage(MdserverError):
    """The remote side violated its own protocol. The message is skipped."""


class Unavailable(MdserverError):
    """The remote side cannot be reached, or the connection was lost; trying again later may help.

    ``retry_after_s`` is the pause that the remote side requested, if any.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Silent(Unavailable):
    """The remote side is connected, and has sent nothing for too long."""


class Rejected(MdserverError):
    """The remote side refuses for a reason that trying again cannot change (credentials, location)."""


class StoreUnavailable(Unavailable):
    """The database cannot be reached."""


class JournalFull(MdserverError):
    """The journal has reached its configured bound on disk."""


class JournalCorrupt(MdserverError):
    """A journal segment (``path``) has bytes from ``offset`` on that the server did not write.

    ``torn``: a frame of the server begins there and the file ends within it.
    """

    def __init__(self, path: Path, offset: int, reason: str, *, torn: bool = False) -> None:
        super().__init__(f"{path}: damaged at byte {offset}: {reason}")
        self.torn = torn
        self.path = path
        self.offset = offset


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the single errors in a group, in order, at any depth; an error that is not a group is its own leaf.

    A nursery wraps even a single error in a group.
    """
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error

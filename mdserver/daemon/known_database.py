"""The data folder's memory of its database, so that a start need not wait for an unavailable one.

A server can stream without its database if it knows two things: that the database at this address was its own, and
which sequence numbers are used. The first is the database's identity. The second is a floor for each topic. It is
written ahead of the stored records, always before the journal may delete them; the journal has the numbers since then.

It also keeps where each topic ended, so that such a start can announce the gap behind it. That is written now and then
and may be older than what is stored: then the gap begins a little too early, never too late.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ..errors import ConfigError, StoreUnavailable
from ..journal.seq_floor import SeqFloor
from ..model import LastRecord, Published, Topic
from ..store.connection.database import Opened

__all__ = ["KnownDatabase"]

FILE_NAME = "identity.json"
LAST_NAME = "last_records.json"

_decode_last = msgspec.json.Decoder(list[tuple[Topic, LastRecord]]).decode


class _Identity(msgspec.Struct, frozen=True):
    """The database's address without password, its unique identifier, and the epoch of its numbers."""

    where: str
    identity: str
    epoch: str = ""


class KnownDatabase:
    """The identity of a database and the floors of its numbers, in a folder of their own. Blocking.

    Raises :class:`OSError` if the folder cannot be used, and :class:`ConfigError` if its content is damaged.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / FILE_NAME
        self._known: _Identity | None = None
        if self._path.exists():
            try:
                self._known = msgspec.json.decode(self._path.read_bytes(), type=_Identity)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ConfigError([f"{self._path} is damaged ({error}): remove it"]) from error
        self._last_path = folder / LAST_NAME
        self._last: Mapping[Topic, LastRecord] = _read_last(self._last_path)
        self._floor = SeqFloor(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._floor.close()

    @property
    def seqs(self) -> Mapping[Topic, int]:
        """The floor of each topic: no stored record has a higher number."""
        return self._floor.seqs

    @property
    def last_records(self) -> Mapping[Topic, LastRecord]:
        """The end of each topic, as :meth:`note_last` was last given it."""
        return self._last

    @property
    def epoch(self) -> str:
        """The epoch of the numbers in it; empty if unknown."""
        return "" if self._known is None else self._known.epoch

    def is_at(self, where: str) -> bool:
        """Return whether the database at this address was this server's, and its epoch is known."""
        return self._known is not None and self._known.where == where and self._known.epoch != ""

    def check(self, opened: Opened) -> None:
        """Raise :class:`StoreUnavailable` if another database answers at the address."""
        known = self._known
        if known is not None and (opened.identity, opened.epoch) != (known.identity, known.epoch):
            raise StoreUnavailable(
                f"another database answers at {known.where}: its sequence numbers are unknown; restart the "
                "server to use it"
            )

    def remember(self, where: str, opened: Opened, last_records: Mapping[Topic, LastRecord]) -> None:
        """Record that this database is ours. If it has no identity, the next start waits for it, like the first one."""
        self._floor.raise_above({topic: last.seq for topic, last in last_records.items()})
        self._floor.sync()
        known = None if opened.identity is None else _Identity(where, opened.identity, opened.epoch)
        if known == self._known:
            return
        self._last_path.unlink(missing_ok=True)  # of another database
        self._last = {}
        self._known = known
        if known is None:
            self._path.unlink(missing_ok=True)
            return
        _replace(self._path, msgspec.json.encode(known))

    def note_last(self, last_records: Mapping[Topic, LastRecord]) -> None:
        """Keep where each topic ends in the database. Raises OSError if it cannot be written."""
        if last_records != self._last:
            _replace(self._last_path, msgspec.json.encode(list(last_records.items())))
            self._last = dict(last_records)

    def is_behind(self, batch: Sequence[Published]) -> bool:
        """Return whether :meth:`cover` has anything to write for a batch."""
        seqs = self.seqs
        return any(p.seq > seqs.get(p.topic, 0) for p in batch)

    def cover(self, batch: Sequence[Published]) -> None:
        """Raise the floors well above the numbers of a batch and flush them to the disk."""
        self._floor.cover(batch)
        self._floor.sync()


def _read_last(path: Path) -> dict[Topic, LastRecord]:
    if not path.exists():
        return {}  # a version before this one left the folder
    try:
        return dict(_decode_last(path.read_bytes()))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is damaged ({error}): remove it"]) from error


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves it whole, the old one or the new one."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)

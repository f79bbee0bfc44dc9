"""The floor of the sequence numbers, on disk: a restarted server must not use a number for a second time.

While the journal is at its bound or the disk is full, records still go out to clients, each with its ``seq``. Their
numbers are then recorded here, some way ahead, so that not every record costs a write.

The file has two slots of equal size, written in turn: while one is written the other stays complete, so a crash or a
power failure in between loses only the newest numbers. Its blocks are allocated when it is created, while there is
space, so that writes succeed on a full disk. (A file system that never overwrites a block in place, such as btrfs, may
still refuse them; the caller then gets :class:`OSError`.)

A slot: :data:`MAGIC`, generation (8 bytes), length of the payload and its CRC-32 (4 bytes each, all little-endian),
then the payload, ``[[topic, seq], …]`` as JSON. The slot of the higher generation is valid.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import msgspec

from ..errors import ConfigError
from ..model import Published, Topic
from ..private_file import open_private

__all__ = ["AHEAD", "FILE_NAME", "SeqFloor"]

AHEAD = 10_000
"""How many numbers of a topic are reserved at once. At a restart ``seq`` may jump by that much."""

FILE_NAME = "seq_floor"
OLD_FILE_NAME = "reserved.json"
"""The file of versions up to 0.1; read once, then removed."""

MAGIC = b"mdsf"
SLOT_BYTES = 64 * 1024
"""The smallest slot: about a thousand topics."""

_HEADER = struct.Struct("<4sQII")
_decoder = msgspec.json.Decoder(list[tuple[Topic, int]])


class SeqFloor:
    """Keeps ``seqs``: for each topic the highest number that may have been used without being journalled.

    An entry is never removed; once the store has a higher number it no longer matters. Methods block for a small write,
    :meth:`sync` for the disk.

    Raises :class:`OSError` if the file cannot be read or made, :class:`ConfigError` if it is damaged or not ours.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._generation = 0
        self._slot_bytes = SLOT_BYTES
        self.dirty = False
        self.seqs: dict[Topic, int] = {}
        self._fd = open_private(self._path, create=True)
        try:
            self._load()
            self._take_over(folder / OLD_FILE_NAME)
            self._allocate()
        except BaseException:
            os.close(self._fd)
            raise

    def cover(self, batch: Sequence[Published]) -> None:
        """Record that these numbers are used. That survives the process at once, a power failure after a sync.

        Raises OSError if it cannot be written; then the previous state stays.
        """
        self.raise_above({p.topic: p.seq for p in batch})

    def raise_above(self, given: Mapping[Topic, int]) -> None:
        """Raise the floor of each topic some way above the given number, unless it is. Raises as :meth:`cover`."""
        beyond = {topic: seq + AHEAD for topic, seq in given.items() if seq > self.seqs.get(topic, 0)}
        if beyond:
            seqs = self.seqs | beyond
            self._write(seqs)
            self.seqs = seqs

    def sync(self) -> None:
        """Force everything written to the disk. Blocking, for a worker thread. Raises OSError."""
        if self.dirty:
            self.dirty = False
            try:
                os.fdatasync(self._fd)
            except OSError:
                self.dirty = True
                raise

    def close(self) -> None:
        """Sync and close. Whoever writes afterwards gets OSError, and does not write into what has the number next."""
        try:
            self.sync()
        finally:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _write(self, seqs: Mapping[Topic, int]) -> None:
        payload = msgspec.json.encode(list(seqs.items()))
        if _HEADER.size + len(payload) > self._slot_bytes:
            self._grow(_HEADER.size + len(payload))
        generation = self._generation + 1
        data = _HEADER.pack(MAGIC, generation, len(payload), crc32(payload)) + payload
        written = os.pwrite(self._fd, data, generation % 2 * self._slot_bytes)
        if written != len(data):
            raise OSError(f"{self._path}: {written} of {len(data)} bytes written")
        self._generation = generation
        self.dirty = True

    def _grow(self, needed: int) -> None:
        """Replace the file by a larger one, written under another name first: a crash leaves one of them complete."""
        size = max(2 * self._slot_bytes, 2 * needed)
        new = self._path.with_suffix(".new")
        with suppress(FileNotFoundError):
            new.unlink()
        fd = open_private(new, create=True)
        try:
            os.posix_fallocate(fd, 0, 2 * size)
            old = os.pread(self._fd, self._slot_bytes, self._generation % 2 * self._slot_bytes)
            os.pwrite(fd, old, self._generation % 2 * size)
            os.fsync(fd)
            new.replace(self._path)
            _sync_folder(self._path.parent)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._slot_bytes = fd, size

    def _allocate(self) -> None:
        size = os.fstat(self._fd).st_size
        if size < 2 * self._slot_bytes:
            with suppress(OSError):  # the disk is full already: each write allocates what it needs, or raises
                os.posix_fallocate(self._fd, 0, 2 * self._slot_bytes)
                os.fsync(self._fd)
                _sync_folder(self._path.parent)

    def _load(self) -> None:
        """Read the newer one of the complete slots."""
        size = os.fstat(self._fd).st_size
        self._slot_bytes = max(SLOT_BYTES, size // 2)
        slots = [os.pread(self._fd, self._slot_bytes, n * self._slot_bytes) for n in range(2)]
        found = [slot for slot in map(_read_slot, slots) if slot is not None]
        if found:
            self._generation, self.seqs = max(found, key=lambda slot: slot[0])
        elif any(slot.strip(b"\0") for slot in slots):
            raise ConfigError(
                [f"{self._path} is damaged: without it sequence numbers may be used a second time"]
            )

    def _take_over(self, old: Path) -> None:
        try:
            content = old.read_bytes()
        except FileNotFoundError:
            return
        try:
            seqs = dict(_decoder.decode(content))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                [f"{old} is damaged ({error}): without it sequence numbers may be used a second time"]
            ) from error
        self.seqs |= {topic: max(seq, self.seqs.get(topic, 0)) for topic, seq in seqs.items()}
        self._write(self.seqs)
        self.sync()
        old.unlink()


def _read_slot(slot: bytes) -> tuple[int, dict[Topic, int]] | None:
    """Return generation and content of a slot; None if it is empty or torn."""
    if len(slot) < _HEADER.size:
        return None
    magic, generation, length, checksum = _HEADER.unpack_from(slot)
    payload = slot[_HEADER.size : _HEADER.size + length]
    if magic != MAGIC or len(payload) != length or crc32(payload) != checksum:
        return None
    try:
        return generation, dict(_decoder.decode(payload))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

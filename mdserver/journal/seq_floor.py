"""Numbers that were given out without being journalled, on disk: a restarted server must not give them out again.

While the journal is at its bound, records go out to clients all the same, each with its ``seq``. Where the numbering
stands is then written here, some way ahead, so that a file need not be written with each record.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import ConfigError
from ..model import Published, Topic

__all__ = ["AHEAD", "SeqFloor"]

AHEAD = 10_000
"""How many numbers of a topic are reserved at once: as far may ``seq`` jump at a restart."""

_decoder = msgspec.json.Decoder(list[tuple[Topic, int]])


class SeqFloor:
    """The highest number of each topic that may have been given out; ``seqs`` is what it knows.

    An entry stays for good: once the store is beyond it, it says nothing any more.

    Raises :class:`OSError` if the file cannot be read, :class:`ConfigError` if it is not ours.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seqs: dict[Topic, int] = {}
        if path.exists():
            try:
                self.seqs = dict(_decoder.decode(path.read_bytes()))
            except msgspec.DecodeError as error:
                raise ConfigError(
                    [f"{path} is damaged ({error}): without it numbers may be given out again"]
                ) from error

    def cover(self, batch: Sequence[Published]) -> None:
        """Note that these numbers are given out. Blocking, for the time of a small file; OSError if that fails."""
        beyond = {p.topic: p.seq + AHEAD for p in batch if p.seq > self.seqs.get(p.topic, 0)}
        if beyond:
            seqs = self.seqs | beyond
            new = self._path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(list(seqs.items())))
            new.replace(self._path)
            self.seqs = seqs

"""A disk that is really full: a small file system in memory, filled to its last block."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdserver.errors import JournalFull
from mdserver.journal.journal import Journal, open_journal
from mdserver.journal.seq_floor import AHEAD
from mdserver.metrics import Metrics
from mdserver.model import Published, Tick, Topic
from mdserver.stream.publish import Publisher

TOPIC = Topic("x", "EURUSD", "tick")
MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def batch(first: int, count: int) -> list[Published]:
    return [
        Published(TOPIC, seq, Tick("EURUSD", seq, 1.0, 2.0, 3.0, 4.0)) for seq in range(first, first + count)
    ]


def append_forever(journal: Journal) -> None:
    for first in range(21, 10_000, 1_000):
        journal.append(batch(first, 1_000))


def fill(folder: Path) -> None:
    """Take every block that is left."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def test_a_full_disk_and_a_restart_use_no_number_twice(small_disk: Path) -> None:
    metrics, seen = Metrics(), 0
    with open_journal(small_disk, max_bytes=64 * MIB) as journal:
        publisher = Publisher(journal, lambda _: None, metrics)
        publisher(batch(1, 20))
        fill(small_disk)
        with pytest.raises(JournalFull):
            append_forever(journal)
        for first in range(10_021, 40_000, 100):
            publisher(batch(first, 100))
            seen = first + 99
        assert publisher.refusal() is not None
        refused = metrics.registry.get_sample_value("mdserver_journal_refused_total") or 0
        assert refused > 2 * AHEAD
    assert os.statvfs(small_disk).f_bavail == 0
    with open_journal(small_disk, max_bytes=64 * MIB) as journal:
        assert journal.floor.seqs[TOPIC] >= seen

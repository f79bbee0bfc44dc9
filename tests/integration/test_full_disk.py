"""A disk that is really full: a small file system in memory, filled to its last block."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from mdserver.errors import JournalFull, StoreUnavailable
from mdserver.journal.journal import Journal, open_journal
from mdserver.journal.seq_floor import AHEAD
from mdserver.metrics import Metrics
from mdserver.model import Published, Tick, Topic
from mdserver.store.embedded.server import open_embedded
from mdserver.stream.publish import Publisher

TOPIC = Topic("x", "EURUSD", "tick")
MIB = 1 << 20


@pytest.fixture
def small_disk(reachable_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = reachable_path / "disk"
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


def test_a_disk_that_the_journal_filled_has_room_once_its_records_are_stored(small_disk: Path) -> None:
    with open_journal(small_disk, max_bytes=64 * MIB) as journal:
        for first in range(1, 3_001, 100):
            journal.append(batch(first, 100))
        fill(small_disk)  # no room for another file either
        with pytest.raises(JournalFull):
            append_forever(journal)
        before = journal.end
        records, position = journal.read(1)
        journal.commit(position)
        assert len(records) == 100
        with pytest.raises(JournalFull):  # the others are still to be stored
            append_forever(journal)
        while journal.pending_bytes:
            _, position = journal.read(1_000)
            journal.commit(position)
        journal.append(batch(90_001, 100))
        assert journal.end > before
        assert journal.size_bytes == journal.pending_bytes
        done = journal.barrier()
        assert not done()
        records, position = journal.read(1_000)
        assert [one.seq for one in records] == list(range(90_001, 90_101))
    with open_journal(small_disk, max_bytes=64 * MIB) as journal:  # as after a crash: not committed
        assert journal.read(1_000)[0] == records
        journal.append(batch(90_101, 100))
        assert len(journal.read(1_000)[0]) == 200


async def test_a_disk_too_small_for_the_first_start_is_named_and_nothing_is_left(small_disk: Path) -> None:
    small_disk.chmod(0o755)
    with pytest.raises(StoreUnavailable) as caught:
        async with open_embedded(small_disk, log=structlog.get_logger()):
            pass
    assert f"the disk of {small_disk / 'postgres'} is full" in str(caught.value)
    assert "make room, or set another data_dir" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (small_disk / "postgres").iterdir()] == ["mdserver.lock"]

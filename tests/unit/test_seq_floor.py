"""Numbers given out without being journalled."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from mdserver.errors import ConfigError
from mdserver.journal.seq_floor import AHEAD, FILE_NAME, SLOT_BYTES, SeqFloor
from mdserver.model import Published, Tick, Topic

EURUSD, GBPUSD = Topic("x", "EURUSD", "tick"), Topic("x", "GBPUSD", "tick")


def published(topic: Topic, seq: int) -> Published:
    return Published(topic, seq, Tick(topic.symbol, 1, 1.0, 2.0))


def stored(folder: Path) -> dict[Topic, int]:
    floor = SeqFloor(folder)
    floor.close()
    return floor.seqs


def test_a_restart_knows_a_number_above_all_that_were_given_out(tmp_path: Path) -> None:
    floor = SeqFloor(tmp_path)
    assert floor.seqs == {}
    for seq in range(1, 3 * AHEAD):
        floor.cover([published(EURUSD, seq)])
        if seq % 1000 == 1:
            assert stored(tmp_path)[EURUSD] >= seq
    floor.cover([published(EURUSD, 5), published(GBPUSD, 7)])  # lower numbers change nothing
    after = stored(tmp_path)
    assert 3 * AHEAD <= after[EURUSD] <= 4 * AHEAD
    assert after[GBPUSD] == 7 + AHEAD


def test_the_file_is_written_once_for_many_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floor = SeqFloor(tmp_path)
    writes = []
    write = os.pwrite

    def counted(fd: int, data: bytes, offset: int) -> int:
        writes.append(offset)
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    for seq in range(1, AHEAD):
        floor.cover([published(EURUSD, seq)])
    assert len(writes) == 1
    floor.close()


def test_one_that_is_closed_writes_nowhere(tmp_path: Path) -> None:
    floor = SeqFloor(tmp_path)
    floor.close()
    with (tmp_path / "another").open("w+b") as other:  # has the descriptor that the floor had
        with pytest.raises(OSError, match="Bad file descriptor"):
            floor.cover([published(EURUSD, 1)])
        assert other.read() == b""


def test_its_blocks_are_there_before_they_are_needed(tmp_path: Path) -> None:
    SeqFloor(tmp_path).close()
    found = (tmp_path / FILE_NAME).stat()
    assert found.st_size == 2 * SLOT_BYTES
    assert found.st_blocks * 512 >= 2 * SLOT_BYTES
    assert found.st_mode & 0o777 == 0o600


@pytest.mark.parametrize("torn_at", [0, 3, 8, 30, 40])
def test_a_write_that_was_torn_costs_only_itself(tmp_path: Path, torn_at: int) -> None:
    floor = SeqFloor(tmp_path)
    floor.cover([published(EURUSD, 1)])
    before = bytes((tmp_path / FILE_NAME).read_bytes())
    floor.cover([published(EURUSD, 2 * AHEAD)])
    floor.close()
    after = (tmp_path / FILE_NAME).read_bytes()
    newer = 0 if before[:SLOT_BYTES] != after[:SLOT_BYTES] else SLOT_BYTES
    torn = after[: newer + torn_at] + before[newer + torn_at :]
    (tmp_path / FILE_NAME).write_bytes(torn)
    assert stored(tmp_path) == {EURUSD: 1 + AHEAD}


def test_a_full_disk_keeps_what_was_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floor = SeqFloor(tmp_path)
    floor.cover([published(GBPUSD, 1)])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                floor.cover([published(EURUSD, 1)])
    assert floor.seqs == {GBPUSD: 1 + AHEAD}
    floor.cover([published(EURUSD, 1)])
    floor.close()
    assert stored(tmp_path) == {GBPUSD: 1 + AHEAD, EURUSD: 1 + AHEAD}


def test_it_grows_with_the_topics(tmp_path: Path) -> None:
    floor = SeqFloor(tmp_path)
    many = [published(Topic("x", f"SYMBOL{n}", "tick"), n) for n in range(1, 5_001)]
    floor.cover(many)
    floor.cover([published(EURUSD, 3)])
    floor.close()
    after = stored(tmp_path)
    assert len(after) == 5_001
    assert after[EURUSD] == 3 + AHEAD
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_file_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "reserved.json").write_bytes(msgspec.json.encode([(("x", "EURUSD", "tick"), 77)]))
    assert stored(tmp_path) == {EURUSD: 77}
    assert stored(tmp_path) == {EURUSD: 77}
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("content", [b'{"a": 1}', b'[[["x","EUR\xff","tick",""],1]]'])
@pytest.mark.parametrize("name", ["reserved.json", FILE_NAME])
def test_a_damaged_file_is_said(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name} is damaged"):
        SeqFloor(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link"):
        SeqFloor(tmp_path)

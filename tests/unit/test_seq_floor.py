"""Numbers given out without being journalled."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdserver.errors import ConfigError
from mdserver.journal.seq_floor import AHEAD, SeqFloor
from mdserver.model import Published, Tick, Topic

EURUSD, GBPUSD = Topic("x", "EURUSD", "tick"), Topic("x", "GBPUSD", "tick")


def published(topic: Topic, seq: int) -> Published:
    return Published(topic, seq, Tick(topic.symbol, 1, 1.0, 2.0))


def test_a_restart_knows_a_number_above_all_that_were_given_out(tmp_path: Path) -> None:
    path = tmp_path / "reserved.json"
    reserve = SeqFloor(path)
    assert reserve.seqs == {}
    for seq in range(1, 3 * AHEAD):
        reserve.cover([published(EURUSD, seq)])
        if seq % 1000 == 1:
            assert SeqFloor(path).seqs[EURUSD] >= seq
    reserve.cover([published(EURUSD, 5), published(GBPUSD, 7)])  # lower numbers change nothing
    after = SeqFloor(path).seqs
    assert 3 * AHEAD <= after[EURUSD] <= 4 * AHEAD
    assert after[GBPUSD] == 7 + AHEAD


def test_the_file_is_written_once_for_many_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = SeqFloor(tmp_path / "reserved.json")
    writes = []
    monkeypatch.setattr(Path, "replace", lambda self, target: writes.append(target))
    for seq in range(1, AHEAD):
        reserve.cover([published(EURUSD, seq)])
    assert len(writes) == 1


def test_a_file_that_cannot_be_written_keeps_what_was_known(tmp_path: Path) -> None:
    reserve = SeqFloor(tmp_path / "gone" / "reserved.json")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            reserve.cover([published(EURUSD, 1)])
    assert reserve.seqs == {}


def test_another_file_is_no_reserve(tmp_path: Path) -> None:
    path = tmp_path / "reserved.json"
    path.write_text('{"a": 1}')
    with pytest.raises(ConfigError, match=r"reserved\.json is damaged"):
        SeqFloor(path)

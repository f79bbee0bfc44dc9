"""What becomes of a batch when it cannot be journalled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from mdserver.config import DatabaseConfig, JournalConfig
from mdserver.daemon.storage import DatabasePart, JournalPart
from mdserver.errors import JournalFull
from mdserver.journal.journal import Journal, open_journal
from mdserver.metrics import Metrics
from mdserver.model import Gap, Published, Tick, Topic
from mdserver.stream import publish as emit_module
from mdserver.stream.publish import Publisher

TOPIC = Topic("x", "EURUSD", "tick")


def batch(seq: int) -> list[Published]:
    return [Published(TOPIC, seq, Tick("EURUSD", 1, 1.0, 2.0))]


def refused(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("mdserver_journal_refused_total") or 0.0


def test_a_batch_is_journalled_before_it_is_shown(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=1 << 20) as journal:
        seen: list[int] = []
        emit = Publisher(journal, lambda _: seen.append(journal.appended), Metrics())
        emit(batch(1))
        assert seen == [1]
        assert emit.refusal() is None
        assert journal.floor.seqs == {}


@pytest.mark.parametrize("numbers_are_kept", [True, False])
def test_what_cannot_be_journalled_goes_out_and_is_counted_and_said(
    tmp_path: Path, numbers_are_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "append", full)
    with open_journal(tmp_path, max_bytes=1 << 20) as journal, capture_logs() as logs:
        metrics, seen = Metrics(), []
        if not numbers_are_kept:
            monkeypatch.setattr(os, "pwrite", full)
        emit = Publisher(journal, seen.append, metrics)
        for seq in (1, 2):
            emit(batch(seq))
        assert seen == [batch(1), batch(2)]
        assert refused(metrics) == 2
        assert "the disk is full" in str(emit.refusal())
        assert (TOPIC in journal.floor.seqs) is numbers_are_kept
        events = [line["event"] for line in logs]
        assert sum("not stored, because" in event for event in events) == 1
        assert sum("sequence numbers cannot be saved" in event for event in events) == (
            0 if numbers_are_kept else 1
        )
        monkeypatch.setattr(emit_module, "NOT_STORING_S", 0.0)
        assert emit.refusal() is None


def test_a_full_journal_is_not_tried_with_each_batch_while_many_gaps_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try encodes all of them: with thousands of topics the stream would stand still for a full disk."""
    tried: list[int] = []
    append = Journal.append

    def counted(journal: Journal, batch: list[Published]) -> None:
        tried.append(len(batch))
        append(journal, batch)

    monkeypatch.setattr(Journal, "append", counted)
    with open_journal(tmp_path, max_bytes=4_096) as journal:
        emit = Publisher(journal, lambda _: None, Metrics())
        topics = [Topic("x", f"S{n}", "tick") for n in range(500)]
        for seq in range(1, 11):
            for topic in topics:
                emit([Published(topic, seq, Tick(topic.symbol, 1, 1.0, 2.0))])
        assert sum(tried) < 50_000, "of ten million"
        _, position = journal.read(1 << 30)
        journal.commit(position)
        journal.max_bytes = 1 << 20
        monkeypatch.setattr(emit_module, "AGAIN_S", 0.0)
        emit([Published(topics[0], 11, Tick("S0", 1, 1.0, 2.0))])
        emit([Published(topics[0], 12, Tick("S0", 1, 1.0, 2.0))])
        stored, _ = journal.read(1 << 30)
        assert sum(isinstance(one.record, Gap) for one in stored) >= 450, "all are told in the end"


def test_what_was_streamed_and_not_stored_is_a_gap_once_the_journal_takes_records_again(
    tmp_path: Path,
) -> None:
    """The hole is that of the ledger alone: clients have had these records."""
    other = Topic("x", "GBPUSD", "tick")
    with open_journal(tmp_path, max_bytes=4_096) as journal:
        shown: list[Published] = []
        emit = Publisher(journal, shown.extend, Metrics())
        seq = 0
        while emit.refusal() is None:
            seq += 1
            emit([Published(TOPIC, seq, Tick("EURUSD", seq * 10, 1.0, 2.0))])
        lost_from = seq
        restart = Published(other, 4, Gap(other, 1, 2, "restart"))
        emit([Published(TOPIC, seq + 1, Tick("EURUSD", (seq + 1) * 10, 1.0, 2.0)), restart])
        stored, position = journal.read(1 << 30)
        assert [one.seq for one in stored] == list(range(1, lost_from))
        journal.commit(position)
        emit([Published(TOPIC, seq + 2, Tick("EURUSD", (seq + 2) * 10, 1.0, 2.0))])
        then, _ = journal.read(1 << 30)
        gap = Gap(TOPIC, lost_from * 10, (lost_from + 1) * 10, "journal_full", 2)
        assert then == [restart, Published(TOPIC, seq + 1, gap), shown[-1]]
        assert [one.record.cause for one in shown if isinstance(one.record, Gap)] == ["restart"]
        emit([Published(TOPIC, seq + 3, Tick("EURUSD", (seq + 3) * 10, 1.0, 2.0))])
        assert len(journal.read(1 << 30)[0]) == 4, "it is told once"


def test_a_hole_is_noted_without_another_record_once_nothing_is_refused_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_journal(tmp_path, max_bytes=4_096) as journal:
        emit = Publisher(journal, lambda batch: None, Metrics())
        seq = 0
        while emit.refusal() is None:
            seq += 1
            emit([Published(TOPIC, seq, Tick("EURUSD", seq * 10, 1.0, 2.0))])
        emit.note_holes(after_s=0.0)  # no room yet
        _, position = journal.read(1 << 30)
        journal.commit(position)
        emit.note_holes(after_s=60.0)  # the next record may be near, and brings it along
        assert not journal.pending_bytes
        for _ in range(2):
            emit.note_holes(after_s=0.0)
        assert journal.read(1 << 30)[0] == [
            Published(TOPIC, seq, Gap(TOPIC, seq * 10, seq * 10, "journal_full", 1))
        ]


async def test_what_the_journal_refused_last_is_named_in_it_when_the_server_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise JournalFull("full")

    database = DatabasePart(DatabaseConfig(), tmp_path)
    part = JournalPart(JournalConfig(), tmp_path, database, lambda: lambda _: None, Metrics())
    async with trio.open_nursery() as nursery:
        await nursery.start(part.run)
        part.publish(batch(1))
        with monkeypatch.context() as patches:
            patches.setattr(part.publish, "_append", full)
            part.publish(batch(2))
        nursery.cancel_scope.cancel()
    with open_journal(tmp_path / "journal", max_bytes=1 << 20) as journal:
        gap = Gap(TOPIC, 1, 1, "journal_full", 1)
        assert journal.read(10)[0] == [*batch(1), Published(TOPIC, 2, gap)]

"""The journal: what was appended is read back whatever happened in between."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mdserver.errors import JournalCorrupt, JournalFull
from mdserver.journal import journal as journal_module
from mdserver.journal.format import HEADER_BYTES, MAGIC
from mdserver.journal.journal import Journal, open_journal
from mdserver.journal.segment_reader import read_frames
from mdserver.model import Gap, LastRecord, Published, Tick, Topic, Trade

MIB = 1 << 20
TICKS = Topic("mock", "EURUSD", "tick")
OLD_US = 1_710_918_000_123_456
TRADES = Topic("mock", "BTCUSDT", "trade")


def batch(*seqs: int) -> list[Published]:
    return [Published(TICKS, seq, Tick("EURUSD", seq, 1.1, 1.2, None, 3.0)) for seq in seqs]


def seqs(records: Iterable[Published]) -> list[int]:
    return [published.seq for published in records]


def append_each(journal: Journal, numbers: Iterable[int]) -> None:
    for seq in numbers:
        journal.append(batch(seq))


def read_all(journal: Journal) -> list[int]:
    records, position = journal.read(1 << 30)
    journal.commit(position)
    return seqs(records)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.journal"))


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.journal")
    return path


def test_frames_of_the_version_before_are_read(tmp_path: Path) -> None:
    """The bytes were made by the code before records had a time of receipt and topics a variant."""
    old = (Path(__file__).parent / "data" / "journal_2026_11.bin").read_bytes()
    (tmp_path / "000000000001.journal").write_bytes(old)
    eurusd, btcusdt, start_us = Topic("oanda", "EURUSD", "tick"), Topic("binance", "BTCUSDT", "trade"), OLD_US
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        newer = Published(eurusd, 4, Tick("EURUSD", start_us + 5, 1.0, 1.1), start_us + 6)
        journal.append([newer])
        records, _ = journal.read(100)
        assert records == [
            Published(eurusd, 1, Tick("EURUSD", start_us, 1.08703, 1.08705, 1e6, 5e5)),
            Published(eurusd, 2, Tick("EURUSD", start_us + 1, 1.08704, 1.08706)),
            Published(btcusdt, 7, Trade("BTCUSDT", start_us + 2, 67123.4, 0.002, "buy", "3512345678")),
            Published(btcusdt, 8, Trade("BTCUSDT", start_us + 3, 67123.5, 1.0)),
            Published(eurusd, 3, Tick("EURUSD", start_us + 4, 1.0, 1.1, 0.0, None)),
            newer,
        ]
        assert journal.last_records()[btcusdt] == LastRecord(8, start_us + 3)


def test_reads_back_what_was_appended_also_after_a_restart(tmp_path: Path) -> None:
    trade = Published(TRADES, 9, Trade("BTCUSDT", 5, 1.5, 2.5, "sell", "id"))
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append([*batch(1, 2), trade])
        assert journal.read(10)[0] == [*batch(1, 2), trade]
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        assert {t: last.seq for t, last in journal.last_records().items()} == {TICKS: 2, TRADES: 9}
        assert journal.last_records()[TRADES].time_us == 5
        journal.append(batch(3))
        assert journal.read(10)[0] == [*batch(1, 2), trade, *batch(3)]


def test_without_a_new_segment_the_last_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No free descriptors, say: the disk has room, so nothing is refused."""
    with open_journal(tmp_path, max_bytes=MIB, segment_bytes=200) as journal:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, "too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(journal_module, "new_segment", refuse)
            for seq in range(1, 51):
                journal.append(batch(seq))
            assert only_file(tmp_path).stat().st_size > 1000
            records, position = journal.read(1000)
            journal.commit(position)
        assert [published.seq for published in records] == list(range(1, 51))
        journal.append(batch(51))
        assert len(list(tmp_path.glob("*.journal"))) == 2
        assert [published.seq for published in journal.read(1000)[0]] == [51]


def test_a_sync_that_fails_keeps_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(batch(1))
        before = len(list(Path("/proc/self/fd").iterdir()))

        def refuse(*_: object, **__: object) -> int:
            raise OSError(errno.EMFILE, "too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refuse)
            with pytest.raises(OSError, match="too many"):
                journal.sync()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_reading_does_not_commit_and_stops_at_a_whole_batch(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        for first in range(1, 10, 3):
            journal.append(batch(*range(first, first + 3)))
        records, position = journal.read(4)
        assert seqs(records) == [1, 2, 3, 4, 5, 6]
        assert seqs(journal.read(4)[0]) == [1, 2, 3, 4, 5, 6]
        journal.commit(position)
        assert journal.pending_bytes > 0
        assert read_all(journal) == [7, 8, 9]
        assert journal.pending_bytes == 0
        assert journal.read(4)[0] == []


def test_nothing_stays_on_disk_once_everything_is_committed(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=MIB, segment_bytes=200) as journal:
        for seq in range(1, 40):
            journal.append(batch(seq))
        assert len(files(tmp_path)) > 5
        assert journal.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.journal"))
        assert read_all(journal) == list(range(1, 40))
        assert journal.size_bytes <= 200
        assert len(files(tmp_path)) == 1
        journal.append(batch(40))
        assert read_all(journal) == [40]
    assert files(tmp_path) == []


def test_segments_go_as_the_writer_passes_them(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=MIB, segment_bytes=200) as journal:
        for seq in range(1, 40):
            journal.append(batch(seq))
        before = len(files(tmp_path))
        journal.commit(journal.read(20)[1])
        assert len(files(tmp_path)) < before
        assert journal.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.journal"))
        assert read_all(journal) == list(range(21, 40))


def test_the_bound_refuses_a_batch_whole_and_takes_it_when_there_is_room(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=2000) as journal:
        with pytest.raises(JournalFull, match="of 2000 bytes"):
            append_each(journal, range(1, 1000))
        stored = journal.appended
        assert journal.size_bytes <= 2000
        assert read_all(journal) == list(range(1, stored + 1))
        journal.append(batch(1000))
        assert read_all(journal) == [1000]


@given(
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    cut=st.integers(0, 2000),
    junk=st.binary(max_size=40),
    segment_bytes=st.sampled_from([150, 10_000]),
)
@settings(deadline=None, max_examples=60)
def test_a_torn_tail_costs_only_itself(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], cut: int, junk: bytes, segment_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    with open_journal(folder, max_bytes=MIB, segment_bytes=segment_bytes) as journal:
        seq = 0
        for size in batches:
            journal.append(batch(*range(seq + 1, seq + size + 1)))
            seq += size
    newest = max(folder.glob("*.journal"))
    content = newest.read_bytes()
    kept = max(0, len(content) - cut)
    newest.write_bytes(content[:kept] + junk)
    with capture_logs() as logs, open_journal(folder, max_bytes=MIB) as journal:
        survived = seqs(journal.read(1 << 30)[0])
        journal.append(batch(99_999))
        assert seqs(journal.read(1 << 30)[0]) == [*survived, 99_999]
    assert survived == list(range(1, len(survived) + 1))
    if not cut and not junk:
        assert len(survived) == seq
        assert logs == []
    kept = list(folder.glob("*.corrupt"))
    if not junk:
        assert not kept, "a torn frame is no damage"
    for path in kept:
        assert junk in path.read_bytes()


@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
@settings(deadline=None, max_examples=80)
def test_a_flipped_byte_costs_one_batch_and_the_segment_is_kept(
    tmp_path_factory: pytest.TempPathFactory, where: float, value: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    with open_journal(folder, max_bytes=MIB) as journal:
        for seq in range(1, 21):
            journal.append(batch(seq))
        last_frame = journal.read(19)[1].offset
    path = only_file(folder)
    content = bytearray(path.read_bytes())
    at = int(where * last_frame)
    content[at] ^= value
    path.write_bytes(content)
    with capture_logs() as logs, open_journal(folder, max_bytes=MIB) as journal:
        survived = read_all(journal)
    assert len(survived) == 19
    assert survived[-1] == 20
    assert [log["log_level"] for log in logs] == ["error"]
    assert f"{path}: damaged at byte" in logs[0]["error"]
    (kept,) = path.parent.glob("*.corrupt")
    assert kept.read_bytes() == content


def test_a_damaged_newest_segment_is_kept_as_it_was(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        append_each(journal, range(1, 6))
    path = only_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with capture_logs() as logs, open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(batch(7))
        assert read_all(journal) == [1, 2, 3, 4, 7]
    (kept,) = tmp_path.glob("*.corrupt")
    assert kept.read_bytes() == content
    assert [log["log_level"] for log in logs] == ["error"]


def test_copies_of_segments_with_one_number_do_not_take_each_others_place(tmp_path: Path) -> None:
    contents = []
    for life in (1, 2):
        with open_journal(tmp_path, max_bytes=MIB) as journal:
            append_each(journal, range(life, life + 3))
        path = only_file(tmp_path)
        content = bytearray(path.read_bytes())
        content[20] ^= 1
        path.write_bytes(content)
        contents.append(bytes(content))
        with capture_logs(), open_journal(tmp_path, max_bytes=MIB) as journal:
            read_all(journal)
        for segment in tmp_path.glob("*.journal"):
            segment.unlink()
    assert sorted(kept.read_bytes() for kept in tmp_path.glob("*.corrupt")) == sorted(contents)


def test_what_is_no_segment_stops_no_start(tmp_path: Path) -> None:
    (tmp_path / "000000000001.journal").mkdir()
    (tmp_path / "000000000002.journal").symlink_to("/etc/passwd")
    (tmp_path / "\u0661\u0662.journal").write_bytes(b"other digits")
    (tmp_path / "3.journal").write_bytes(b"short name")
    os.mkfifo(tmp_path / "000000000003.journal")
    with capture_logs() as logs, open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(batch(1))
        assert seqs(journal.read(10)[0]) == [1]
        assert (tmp_path / "000000000004.journal").stat().st_size > 0
    assert len(logs) == 5
    assert (tmp_path / "3.journal").read_bytes() == b"short name"


def test_a_journal_of_another_user_is_not_read(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(batch(1))
    os.chown(only_file(tmp_path), 65534, 65534)
    with capture_logs() as logs, open_journal(tmp_path, max_bytes=MIB) as journal:
        assert read_all(journal) == []
    assert "belongs to user 65534" in logs[0]["error"]


def test_damage_names_file_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(MAGIC + b"\x01\0\0\0" + b"\0\0\0\0" + b"a")
    with path.open("rb") as file, pytest.raises(JournalCorrupt, match="byte 0: the checksum") as caught:
        list(read_frames(file.fileno(), path, 0, HEADER_BYTES + 1))
    assert (caught.value.path, caught.value.offset) == (path, 0)


def test_a_whole_frame_of_another_shape_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(batch(1))
        journal.append([1, 2])  # type: ignore[list-item]
        journal.append(batch(2))
        with capture_logs() as logs:
            assert read_all(journal) == [1, 2]
        assert len(logs) == 1


def test_a_batch_larger_than_the_read_size(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=64 * MIB) as journal:
        journal.append(batch(1))
        journal.append(batch(*range(2, 60_000)))
        journal.append(batch(60_000))
        assert read_all(journal) == list(range(1, 60_001))


class Disk:
    """Stands for ``os.pwrite`` of a disk with so much space left."""

    def __init__(self, space: int, monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
        self.space = space
        self._write = os.pwrite
        self._number = number
        monkeypatch.setattr(os, "pwrite", self.write)

    def write(self, fd: int, data: Sequence[int], offset: int) -> int:
        if not self.space:
            raise OSError(self._number, os.strerror(self._number))
        written = self._write(fd, bytes(data[: self.space]), offset)
        self.space -= written
        return written


@pytest.mark.parametrize("space", [0, 1, HEADER_BYTES, 40])
@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, JournalFull), (errno.EIO, OSError)])
def test_a_failed_write_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: int, number: int, expected: type[Exception]
) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(batch(1))
        disk = Disk(space, monkeypatch, number)
        with pytest.raises(expected):
            journal.append(batch(2, 3))
        disk.space = MIB
        journal.append(batch(4))
        assert seqs(journal.read(10)[0]) == [1, 4]
        disk.space = 0
        with pytest.raises(expected):
            journal.append(batch(5, 6))
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        assert read_all(journal) == [1, 4]


def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        disk = Disk(MIB, monkeypatch)
        write = disk.write
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:7], at))
        journal.append(batch(1, 2))
        assert read_all(journal) == [1, 2]


def test_what_a_failed_repair_leaves_is_cut_off_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "no")

    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append(batch(1))
        with monkeypatch.context() as broken:
            Disk(30, broken)
            broken.setattr(os, "ftruncate", refuse)
            with pytest.raises(JournalFull):
                journal.append(batch(2, 3))
    with capture_logs() as logs, open_journal(tmp_path, max_bytes=MIB) as journal:
        assert read_all(journal) == [1]
    assert logs[0]["bytes"] == 30


async def test_a_waiting_writer_is_woken_by_the_count(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        with trio.move_on_after(1) as scope:
            await journal.wait_appended(2)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.wait_appended, 2)
            await trio.testing.wait_all_tasks_blocked()
            journal.append(batch(1))
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            journal.append(batch(2))
        await journal.wait_appended(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.wait_appended, 100)
            await trio.testing.wait_all_tasks_blocked()
            journal.wake()


async def until(condition: Callable[[], bool]) -> None:
    """Poll what another thread changes."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def test_syncs_on_a_timer_and_goes_on_when_the_disk_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    broken = True

    def fsync(fd: int) -> None:
        calls.append(fd)
        if broken:
            raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(os, "fsync", fsync)
    with open_journal(tmp_path, max_bytes=MIB) as journal, capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.sync_forever, 0.001)
            await until(lambda: len(calls) >= 3)
            broken = False
            await until(lambda: len(logs) >= 2)
            seen = len(calls)
            await trio.sleep(0.02)
            assert len(calls) == seen  # nothing new, no sync
            nursery.cancel_scope.cancel()
    assert [log["log_level"] for log in logs] == ["error", "info"]


async def test_reading_in_a_thread_while_the_loop_appends(tmp_path: Path) -> None:
    got: list[int] = []
    with open_journal(tmp_path, max_bytes=MIB, segment_bytes=2000) as journal:

        async def drain() -> None:
            while len(got) < 2000:
                records, position = await trio.to_thread.run_sync(journal.read, 50)
                await trio.to_thread.run_sync(journal.commit, position)
                got.extend(seqs(records))
                await trio.to_thread.run_sync(journal.sync)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                for seq in range(1, 2001, 2):
                    journal.append(batch(seq, seq + 1))
                    if seq % 20 == 1:
                        await trio.lowlevel.checkpoint()
        assert got == list(range(1, 2001))
        assert journal.pending_bytes == 0


def test_what_is_read_at_once_is_bounded_in_bytes(tmp_path: Path) -> None:
    with open_journal(tmp_path, max_bytes=64 << 20) as journal:
        for seq in range(1, 11):
            trade = Trade("EURUSD", 1_710_918_000_000_000, 1.0, 1.0, None, "x" * 100_000)
            journal.append([Published(Topic("mock", "EURUSD", "trade"), seq, trade)])
        found: list[int] = []
        while journal.pending_bytes:
            records, position = journal.read(50_000, 250_000)
            assert len(records) <= 3
            found += [one.seq for one in records]
            journal.commit(position)
        assert found == list(range(1, 11))


def test_gaps_are_journalled_with_the_records_and_do_not_move_the_numbering(tmp_path: Path) -> None:
    gap = Published(TICKS, 2, Gap(TICKS, 2, 9_000, "restart", 3))
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        journal.append([gap])
        assert journal.last_records() == {}
        journal.append([*batch(1, 2), gap])
    with open_journal(tmp_path, max_bytes=MIB) as journal:
        assert journal.read(100)[0] == [gap, *batch(1, 2), gap]
        assert journal.last_records() == {TICKS: LastRecord(2, 2)}

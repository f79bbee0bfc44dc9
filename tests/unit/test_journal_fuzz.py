"""The journal's reader on files that are not as they were written: nothing invented, nothing twice, no failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from struct import pack
from zlib import crc32

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mdserver.journal.format import MAGIC
from mdserver.journal.journal import Journal, open_journal
from mdserver.model import Gap, OrderBook, Published, Tick, Topic, Trade

TICKS = Topic("mock", "EURUSD", "tick")
TRADES = Topic("mock", "BTCUSDT", "trade")
BOOKS = Topic("mock", "EURUSD", "orderbook", "25")
BATCHES = 12
ROOM = 1 << 20


def batch(number: int) -> list[Published]:
    """Return a batch of all kinds, with numbers of its own."""
    seq = 3 * number + 1
    return [
        Published(TICKS, seq, Tick("EURUSD", 1_000 + seq, 1.1, 1.2, None, 3.0), 2_000 + seq),
        Published(TRADES, seq, Trade("BTCUSDT", 1_000 + seq, 5.0, 1.0, "buy", f"id {seq}")),
        Published(BOOKS, seq, OrderBook("EURUSD", 1_000 + seq, ((1.0, 2.0),), (), "snapshot", "25")),
        Published(TICKS, seq, Gap(TICKS, 1_000 + seq, None, "restart", None)),
    ]


def flip(content: bytes, at: int, junk: bytes) -> bytes:
    return (
        content[:at] + bytes([content[at] ^ (1 + len(junk))]) + content[at + 1 :]
        if at < len(content)
        else content
    )


def insert(content: bytes, at: int, junk: bytes) -> bytes:
    return content[:at] + junk + content[at:]


def overwrite(content: bytes, at: int, junk: bytes) -> bytes:
    return content[:at] + junk + content[at + len(junk) :]


def delete(content: bytes, at: int, junk: bytes) -> bytes:
    return content[:at] + content[at + 1 + len(junk) :]


def cut_off(content: bytes, at: int, junk: bytes) -> bytes:
    return content[:at]


def zeros(content: bytes, at: int, junk: bytes) -> bytes:
    """What some file systems leave behind a crash: the length, but not the bytes."""
    return content[:at] + bytes(len(content) - at)


def long_frame(content: bytes, at: int, junk: bytes) -> bytes:
    """A header that promises more than there is."""
    return content[:at] + MAGIC + pack("<II", 0xFFFF_FFFF, 0) + content[at:]


Damage = Callable[[bytes, int, bytes], bytes]
DAMAGES: Sequence[Damage] = (flip, insert, overwrite, delete, cut_off, zeros, long_frame)
junks = st.binary(max_size=30) | st.sampled_from([MAGIC, MAGIC * 3, MAGIC + bytes(8), MAGIC[:2]])
damages = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(DAMAGES), st.floats(0, 1, exclude_max=True), junks),
    min_size=1,
    max_size=4,
)


def read_all(journal: Journal) -> list[Published]:
    """Read as the drain does: a few at a time, each committed."""
    found: list[Published] = []
    while True:
        records, position = journal.read(5)
        journal.commit(position)
        if not records and not journal.pending_bytes:
            return found
        found += records


def sweep(*, long: bool) -> settings:
    return settings(
        deadline=None,
        max_examples=2_000 if long else 30,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


def check_goes_on(folder: Path, journal: Journal) -> None:
    """The journal takes what is new, and gives it back after a restart too."""
    journal.append(batch(1_000))
    assert read_all(journal) == batch(1_000)
    journal.append(batch(1_001))


def test_damaged_files_cost_what_is_damaged_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, *, long: bool
) -> None:
    written = [published for number in range(BATCHES) for published in batch(number)]

    @sweep(long=long)
    @given(damages, st.sampled_from([300, 1_000, 100_000]))
    def run(several: list[tuple[int, Damage, float, bytes]], segment_bytes: int) -> None:
        folder = tmp_path_factory.mktemp("journal")
        with open_journal(folder, max_bytes=ROOM, segment_bytes=segment_bytes) as journal:
            for number in range(BATCHES):
                journal.append(batch(number))
        segments = sorted(folder.glob("*.journal"))
        for place, damage, where, junk in several:
            path = segments[place % len(segments)]
            content = path.read_bytes()
            path.write_bytes(damage(content, int(where * len(content)), junk))
        with capture_logs(), open_journal(folder, max_bytes=ROOM) as journal:
            last = journal.last_records()
            found = read_all(journal)
            places = [written.index(one) for one in found]  # nothing invented
            assert places == sorted(set(places)), "in order, nothing twice"
            assert all(one.seq <= last[one.topic].seq for one in found if not isinstance(one.record, Gap))
            check_goes_on(folder, journal)
        with capture_logs(), open_journal(folder, max_bytes=ROOM) as journal:
            assert read_all(journal)[-4:] == batch(1_001)  # what was read before may come again

    run()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """What a checksum says is ours: a batch with some bytes changed, or something else."""
    if draw(st.booleans()):
        return msgspec.msgpack.encode(draw(values))
    content = msgspec.msgpack.encode(batch(draw(st.integers(0, 3))))
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from(DAMAGES))(content, draw(st.integers(0, len(content))), draw(junks))
    return content


def test_what_a_checksum_vouches_for_but_is_not_ours_stops_nothing(
    tmp_path_factory: pytest.TempPathFactory, *, long: bool
) -> None:
    @sweep(long=long)
    @given(st.lists(payloads(), min_size=1, max_size=3))
    def run(several: list[bytes]) -> None:
        folder = tmp_path_factory.mktemp("journal")
        with open_journal(folder, max_bytes=ROOM) as journal:
            journal.append(batch(1))
        (path,) = folder.glob("*.journal")
        frames = b"".join(MAGIC + pack("<II", len(one), crc32(one)) + one for one in several)
        path.write_bytes(path.read_bytes() + frames)
        with capture_logs(), open_journal(folder, max_bytes=ROOM) as journal:
            journal.last_records()
            found = read_all(journal)
            assert found[: len(batch(1))] == batch(1)
            check_goes_on(folder, journal)

    run()

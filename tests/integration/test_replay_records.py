"""Stored records by number, as a replay reads them: in order, none twice, none missing, equal to the live ones."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from mdserver.candles import MAX_SIZE
from mdserver.model import Gap, Published, Tick, Topic, Trade
from mdserver.protocol.encoding import PLAIN_WIRE, encoding
from mdserver.protocol.server_frames import text_payloads
from mdserver.store.connection.database import Database
from mdserver.store.seq_times import BLOCK
from mdserver.store.store import Store
from mdserver.stream.stored_past import After, Begin, FromTime, GapKey

pytestmark = pytest.mark.both_engines

START_US = 1_710_918_000_000_000
HOUR_US = 3_600_000_000
EURUSD = Topic("mock", "EURUSD", "tick")
BTCUSDT = Topic("mock", "BTCUSDT", "trade")


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def tick(
    seq: int, time_us: int, topic: Topic = EURUSD, received_us: int | None = None, **sizes: float
) -> Published:
    return Published(topic, seq, Tick(topic.symbol, time_us, 1.1, 1.2, **sizes), received_us)


async def replay(
    store: Store, topic: Topic, after: int, *, limit: int = 4096, received: bool = False
) -> list[dict[str, Any]]:
    """Return all records of a topic behind a number, read page by page."""
    series, _ = (await store.replay_series([topic]))[topic]
    records: list[dict[str, Any]] = []
    told: frozenset[GapKey] = frozenset()
    while True:
        page = await store.replay_page(series, after, limit, received=received, told=told)
        read = [json.loads(text) for piece in page.pieces for text in text_payloads(piece)]
        assert sum("seq" in one for one in read) == page.records <= limit
        records += read
        assert page.last_seq > after or not page.more
        after, told = page.last_seq, page.told
        if not page.more:
            return records


def live(batch: Sequence[Published], *, received: bool = False) -> list[dict[str, Any]]:
    return [json.loads(encoding(PLAIN_WIRE, received=received).payload(one)) for one in batch]


async def test_all_there_is_comes_in_order_whatever_its_times(store: Store) -> None:
    rng = random.Random(7)  # noqa: S311
    batch, time_us = [], START_US
    for seq in range(1, 3 * BLOCK):
        time_us += rng.randrange(2_000_000)
        late_us = rng.choice((0, 0, 0, 0, 0, 0, 0, 5_000_000, HOUR_US, 30 * HOUR_US))
        batch.append(tick(seq, time_us - late_us))
    for at in range(0, len(batch), 1_000):
        await store.write(batch[at : at + 1_000])
    for after, limit in (
        (0, 4096),
        (0, 1_000),
        (5, 4096),
        (BLOCK - 1, 4096),
        (BLOCK, 999),
        (3 * BLOCK - 2, 10),
    ):
        assert await replay(store, EURUSD, after, limit=limit) == live(batch[after:])


async def test_numbers_may_jump_and_other_series_do_not_matter(store: Store) -> None:
    other = Topic("mock", "GBPUSD", "tick")
    seqs = [1, 2, BLOCK - 1, BLOCK, 10 * BLOCK, 10 * BLOCK + 7]
    batch = [tick(seq, START_US + seq) for seq in seqs]
    await store.write([*batch, *(tick(seq, START_US + seq, other) for seq in range(1, 50))])
    for one, behind in ((2, BLOCK - 1), (BLOCK, 10 * BLOCK), (10 * BLOCK, 10 * BLOCK + 7)):
        batch.insert(batch.index(tick(behind, START_US + behind)), gap(behind - 1, one, behind, "lost"))
    for after in (0, 2, 3, BLOCK, BLOCK + 1, 10 * BLOCK):
        expected = live([one for one in batch if one.seq > after])
        assert await replay(store, EURUSD, after) == expected
        assert await replay(store, EURUSD, after, limit=1) == expected


def gap(
    seq: int, from_us: int, to_us: int, cause: str = "disconnected", size: int | None = None
) -> Published:
    return Published(EURUSD, seq, Gap(EURUSD, START_US + from_us, START_US + to_us, cause, size))


async def test_gaps_come_in_their_place_and_each_once_however_pages_fall(store: Store) -> None:
    batch = [gap(0, 0, 1, "before the first")]
    for seq in range(1, BLOCK + 5):
        # late records: by their times the gaps would lie elsewhere
        batch.append(tick(seq, START_US + seq - (HOUR_US if seq % 3 == 0 else 0)))
        if seq in (1, 3, 4, BLOCK - 1, BLOCK, BLOCK + 4):
            batch.append(gap(seq, seq, seq + 1))
    batch.insert(-1, gap(BLOCK + 4, BLOCK + 4, BLOCK + 4, "unsubscribed", 7))
    batch.append(gap(BLOCK + 9, BLOCK + 5, BLOCK + 9, "journal_full", 5))  # its records are not stored
    for at in range(0, len(batch), 1_000):
        await store.write(batch[at : at + 1_000])
    for after in (0, 1, 2, 3, BLOCK - 1, BLOCK, BLOCK + 4):
        owed = live(
            [one for one in batch if one.seq > after or (one.seq == after and type(one.record) is Gap)]
        )
        for limit in (1, 2, 4096) if after > 3 else (97, 4096):
            assert await replay(store, EURUSD, after, limit=limit) == owed
    assert (await store.replay_series([EURUSD]))[EURUSD][1] == BLOCK + 9


async def test_gaps_that_share_a_row_are_told_once_wherever_a_replay_begins(store: Store) -> None:
    batch: list[Published] = []
    for seq in range(1, 21):
        batch += [tick(seq, START_US + seq), gap(seq, seq, seq + 1, "rejected", 1)]
    await store.write(batch)
    for after in (0, 1, 5, 19, 20):
        for limit in (3, 4096):
            told = [one for one in await replay(store, EURUSD, after, limit=limit) if one["type"] == "gap"]
            exact = [(number, number + 1, 1) for number in (1, 2) if number >= after]
            shown = [
                (round(one["from"] * 1e6) - START_US, round(one["to"] * 1e6) - START_US, one["size"])
                for one in told
            ]
            assert shown == [*exact, (3, 21, 18)], (after, limit)


async def test_a_sparse_series_is_read_from_few_intervals(store: Store) -> None:
    batch = [tick(seq, START_US + seq * 3 * HOUR_US) for seq in range(1, 400)]
    await store.write(batch)
    assert await replay(store, EURUSD, 0) == live(batch)


async def test_a_record_that_was_stored_twice_comes_once(store: Store) -> None:
    batch = [tick(seq, START_US + seq) for seq in range(1, 20)]
    await store.write(batch[:10])
    await store.write(batch)
    assert await replay(store, EURUSD, 0) == live(batch)


ODD = (1e-9, 0.1 + 0.2, 1.0, 67123.4, 1e15, 1e16, 123456789012345.6, 5e-324, 999999999999.0)
SIZES = tuple(size for size in ODD if size <= MAX_SIZE)
TEXTS = (None, "1", 'a"b', "\\", "line\nbreak\ttab", "币安", "\x7f\x01", "</script>", "%s{}", "'")


async def test_the_database_writes_what_live_clients_get(store: Store) -> None:
    rng = random.Random(11)  # noqa: S311
    symbol = '币安"\\'
    ticks_topic, trades_topic = Topic("b", symbol, "tick"), Topic("b", symbol, "trade")
    batch = []
    for seq in range(1, 300):
        time_us = rng.choice(
            (START_US, START_US + rng.randrange(10**9), seq * 1_000_000, 4_102_444_799_999_999)
        )
        received_us = rng.choice((None, START_US, START_US + rng.randrange(10**7)))
        bid, ask, size = rng.choice(ODD), rng.uniform(0, 1e6), rng.choice((None, 0.0, rng.random(), *SIZES))
        batch.append(
            Published(ticks_topic, seq, Tick(symbol, time_us, bid, ask, size, rng.choice(SIZES)), received_us)
        )
        side = rng.choice((None, "buy", "sell"))
        trade = Trade(symbol, time_us, bid, rng.choice(SIZES), side, rng.choice(TEXTS))
        batch.append(Published(trades_topic, seq, trade, received_us))
    assert not (await store.write(batch)).rejected
    for topic in (ticks_topic, trades_topic):
        mine = [one for one in batch if one.topic == topic]
        for received in (False, True):
            found = await replay(store, topic, 0, received=received)
            assert found == live(mine, received=received)
            assert [list(one) for one in found] == [list(one) for one in live(mine, received=received)]


async def begin(store: Store, start: After | FromTime) -> Begin:
    return (await store.replay_begins({EURUSD: start}))[EURUSD]


async def test_numbers_that_a_change_of_leaders_left_out_are_not_missing(
    store: Store, database: Database
) -> None:
    def second(seq: int, at: int) -> Published:
        return tick(seq, START_US + at * 1_000_000)

    hole = Gap(EURUSD, START_US + 4_000_000, START_US + 9_000_000, "failover")
    await store.write([second(seq, seq) for seq in range(1, 5)])
    await store.write([Published(EURUSD, 1_000_004, hole), second(1_000_005, 9)])
    assert await begin(store, After(4)) == Begin(4)
    again = Gap(EURUSD, START_US + 9_000_000, START_US + 12_000_000, "failover")
    await store.write([Published(EURUSD, 3_000_005, again), second(3_000_006, 12)])
    assert await begin(store, After(1_000_005)) == Begin(1_000_005)
    await database.run(lambda conn: conn.execute("delete from ticks where seq in (4, 1000005)"))
    assert (await begin(store, After(3))).missing == (
        "the records 4 to 3000005 are not stored: from the oldest there is"
    )


async def test_where_a_replay_begins(store: Store, database: Database) -> None:
    assert await begin(store, After(0)) == Begin(0)
    assert await begin(store, FromTime(0)) == Begin(0)
    assert (await begin(store, After(5))).missing == "5 is above 0, the last number that is stored: live only"
    await store.write([tick(seq, START_US + seq * 1_000_000) for seq in range(1, 11)])
    await store.write([tick(11, START_US + 2_500_000), tick(20, START_US + 20_000_000)])  # one is late
    assert await begin(store, After(0)) == Begin(0)
    assert await begin(store, After(10)) == Begin(10)
    assert await begin(store, After(20)) == Begin(20)
    assert await begin(store, After(11)) == Begin(
        19, "the records 12 to 19 are not stored: from the oldest there is"
    )
    assert await begin(store, FromTime(START_US + 3_000_000)) == Begin(2)
    assert await begin(store, FromTime(START_US + 3_000_001)) == Begin(3)
    assert await begin(store, FromTime(0)) == Begin(0)
    assert await begin(store, FromTime(START_US + 20_000_001)) == Begin(20)
    assert (await begin(store, FromTime(START_US + 15_000_000))).after == 19
    await database.run(lambda conn: conn.execute("delete from ticks where seq < 5"))  # what a retention does
    assert await begin(store, After(3)) == Begin(
        4, "the records 4 to 4 are not stored: from the oldest there is"
    )
    assert await begin(store, FromTime(START_US)) == Begin(
        4, "the records before 5 are not stored: from the oldest there is"
    )
    assert await begin(store, FromTime(START_US + 6_000_000)) == Begin(5)
    await database.run(lambda conn: conn.execute("delete from ticks"))
    assert await begin(store, After(3)) == Begin(20, "the records 4 to 20 are not stored: live only")
    assert await begin(store, FromTime(0)) == Begin(20)

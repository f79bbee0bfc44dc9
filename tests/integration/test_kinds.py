"""A kind that only this test knows: from a broker to a client and into a table, by its row alone."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import Any

import pytest
import structlog
import trio
from msgspec import Struct

from mdserver.feed.broker_host import Host
from mdserver.feed.demand import BrokerDemand
from mdserver.journal.journal import open_journal
from mdserver.kinds import BY_NAME, KINDS, Kind, StoredAs, StoredColumn
from mdserver.metrics import Metrics
from mdserver.model import Candle, Feed, Gap, LastRecord, OrderBook, Published, Tick, Topic
from mdserver.record_wire import Received
from mdserver.store.connection.database import Database
from mdserver.store.live.journal_drain import JournalDrain
from mdserver.store.store import Store
from mdserver.stream.publish import Publisher
from tests.component.conftest import open_client, open_stream_server

pytestmark = pytest.mark.both_engines


class Funding(Struct, frozen=True, gc=False, array_like=True, tag="test-funding"):
    """What holding a perpetual costs."""

    symbol: str
    time_us: int
    rate: float
    note: str | None = None


class FundingWire(Struct, tag_field="type", tag="funding"):
    broker: str
    symbol: str
    seq: int
    rate: float
    received: Received


class FundingCheck:
    def fault(self, record: Any) -> str | None:
        return None if -1 < record.rate < 1 else "rate"


ROW = Kind(
    "funding",
    Funding,
    check=FundingCheck,
    wire=lambda published, funding, received: FundingWire(
        published.topic.broker, funding.symbol, published.seq, funding.rate, received
    ),
    latest_wins=lambda _: False,
    stored=StoredAs("fundings", (StoredColumn("rate", "price"), StoredColumn("note", "text"))),
)


async def test_a_kind_that_only_a_test_knows(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_table(conn: Any) -> None:
        conn.execute(
            """create table fundings (time timestamptz not null, seq bigint not null, rate float8 not null,
               series_id integer not null, note text, received timestamptz, primary key (series_id, time, seq))"""
        )

    await database.run(make_table)
    monkeypatch.setitem(KINDS, Funding, ROW)
    monkeypatch.setitem(BY_NAME, "funding", ROW)
    try:
        await _from_a_broker_into_the_table(database, tmp_path)
    finally:
        await database.run(lambda conn: conn.execute("drop table fundings") and None)


async def _from_a_broker_into_the_table(database: Database, folder: Path) -> None:
    store, metrics, now_us = Store(database), Metrics(), int(time() * 1e6)
    async with open_stream_server(types=("funding",)) as server:
        with open_journal(folder / "journal", max_bytes=1 << 20) as journal:
            server.brokers["one"].host._emit = Publisher(journal, server.router.publish, metrics)
            async with open_client(server.url) as client:
                ack = await client.subscribe("BTCUSD", types=["funding"], received=True)
                assert [result["status"] for result in ack["results"]] == ["pending"]
                assert (await client.get())["results"][0]["status"] == "active"
                server.brokers["one"].host.publish(
                    [
                        Funding("BTCUSD", now_us, 0.0001, "8 h"),
                        Funding("BTCUSD", now_us, 7.0),
                        Funding("BTCUSD", now_us + 1, -0.0002),
                    ],
                    received_us=now_us + 5,
                )
                assert await client.get() == {
                    "type": "funding", "broker": "one", "symbol": "BTCUSD", "seq": 1, "rate": 0.0001,
                    "received": (now_us + 5) / 1e6,
                }  # fmt: skip
                gap = await client.get()
                assert (gap["type"], gap["cause"], gap["size"]) == ("gap", "rejected", 1)
                assert (await client.get())["seq"] == 2
        assert server.value("records_rejected_total", broker="one", reason="rate") == 1
    with open_journal(folder / "journal", max_bytes=1 << 20) as journal:  # after a crash, from the file
        drain = JournalDrain(
            journal, store, flush_s=0.01, flush_rows=1, metrics=metrics, log=structlog.get_logger()
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain.run)
            with trio.fail_after(60):
                await drain.drain()
        assert journal.pending_bytes == 0
    (series,) = await store.series("BTCUSD")
    assert (series.topic, series.last_seq, series.row_count) == (Topic("one", "BTCUSD", "funding"), 2, 2)
    page = await store.records(series.id, "funding", now_us, now_us + 1, limit=10)
    assert page.columns == {"rate": [0.0001, -0.0002], "note": ["8 h", None]}
    assert page.received_us == [now_us + 5, now_us + 5]
    assert metrics.registry.get_sample_value("mdserver_records_stored_total", {"type": "funding"}) == 2


async def test_of_a_kind_that_is_not_stored_the_numbers_go_on(database: Database) -> None:
    """Each interval and each depth counts by itself, and a restarted server goes on behind the last number."""
    store, batch, now_us = Store(database), [], int(time() * 1e6)
    feeds = [
        Feed("EURUSD", "candle", "1m"),
        Feed("EURUSD", "candle", "1h"),
        Feed("EURUSD", "orderbook", "10"),
    ]
    host = Host(
        "one",
        BrokerDemand(feeds),
        emit=batch.extend,
        last_records={Topic("one", "EURUSD", "candle", "1h"): LastRecord(41, 1)},
        metrics=Metrics(),
        log=structlog.get_logger(),
    )
    hour_us = now_us // 3_600_000_000 * 3_600_000_000

    def candle(interval: str) -> Candle:
        return Candle("EURUSD", hour_us, interval, 1.0, 1.2, 0.9, 1.1, 3.0, 2, False)

    book = OrderBook("EURUSD", now_us, ((1.1, 5.0), (1.0, 2.0)), ((1.2, 4.0),), depth="10")
    host.publish([candle("1m"), candle("1h"), book, candle("1m")])
    seqs = [(p.topic.variant, p.seq) for p in batch if not isinstance(p.record, Gap)]
    assert seqs == [("1m", 1), ("1h", 42), ("10", 1), ("1m", 2)]
    written = await store.write(batch)
    assert (written.stored, written.rejected) == ({}, [])
    assert (await store.write(batch)).skipped == 4
    assert await store.series("EURUSD") == []
    last = {topic.variant: last for topic, last in (await store.last_records()).items()}
    assert last == {  # with the times: what follows a restart follows a gap
        "1m": LastRecord(2, hour_us),
        "1h": LastRecord(42, hour_us),
        "10": LastRecord(1, now_us),
    }


async def test_when_a_record_was_received_is_stored_unless_it_shall_not_be(database: Database) -> None:
    now_us = int(time() * 1e6)
    topic = Topic("mock", "EURUSD", "tick")
    batch = [
        Published(topic, 1, Tick("EURUSD", now_us, 1.0, 1.1, 5.0), now_us + 7),
        Published(topic, 2, Tick("EURUSD", now_us, 1.0, 1.1, None, 2.0)),
    ]
    await Store(database).write(batch)
    more = [Published(topic, 3, Tick("EURUSD", now_us + 1, 1.0, 1.1), now_us + 9)]
    await Store(database, store_received=False).write(more)
    (series,) = await Store(database).series("EURUSD")
    page = await Store(database).records(series.id, "tick", 0, now_us + 1, limit=9)
    assert (page.seq, page.received_us) == ([1, 2, 3], [now_us + 7, None, None])
    assert page.columns["ask_size"] == [None, 2.0, None]

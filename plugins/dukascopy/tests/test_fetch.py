"""Fetching over real sockets: faults of every kind, the other service, the cache, files on disk."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path

import pytest
import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.plugin import RawHour
from mdserver.testing import bi5
from mdserver.testing.dukascopy import FakeDukascopy, FakeTick, Fault
from mdserver_dukascopy import DukascopySource, codec, jetta

from .conftest import Open

HOUR_US = 1_549_238_400_000_000
NEXT_US = HOUR_US + 3_600_000_000
PATH = "EURUSD/2019/01/04/00h_ticks.bi5"
ROWS = [FakeTick(ms, 114_545 + ms % 7, 114_543, 1.5, 2.06) for ms in range(0, 3_000_000, 1_013)]


@pytest.fixture
def feed(feed: FakeDukascopy) -> FakeDukascopy:
    """The services, with an hour of ticks and an empty one."""
    feed.put_hour("EURUSD", "EUR-USD", HOUR_US, ROWS, decimals=5)
    feed.put_hour("EURUSD", "EUR-USD", NEXT_US, [], decimals=5)
    return feed


def assert_right(source: DukascopySource, raw: RawHour) -> None:
    ticks = source.decode(raw)
    assert (ticks.time_us - HOUR_US).tolist() == [row.ms * 1_000 for row in ROWS]
    assert ticks.ask.tolist() == [row.ask / 1e5 for row in ROWS]
    assert ticks.bid_size[0] == 2_060_000


async def test_an_hour_comes_with_its_address_and_checksum(feed: FakeDukascopy, open_it: Open) -> None:
    async with open_it() as source:
        raw = await source.fetch("EURUSD", HOUR_US)
        assert (raw.kind, raw.service, raw.origin, raw.settled) == ("data", "datafeed", feed.url + PATH, True)
        assert len(raw.checksum()) == 64
        assert "bytes>" in repr(raw)
        assert_right(source, raw)
    [request] = feed.requests
    assert request.headers["user-agent"].startswith("Mozilla/")
    assert "dukascopy" in request.headers["referer"]


async def test_zero_bytes_are_an_empty_hour_and_404_a_missing_one(open_it: Open) -> None:
    async with open_it() as source:
        empty = await source.fetch("EURUSD", NEXT_US)
        missing = await source.fetch("EURUSD", NEXT_US + 3_600_000_000)
        assert (empty.kind, missing.kind) == ("empty", "missing")
        for raw in (empty, missing):
            assert len(source.decode(raw).time_us) == 0


MENDED = [
    Fault("status", 503),
    Fault("status", 429),
    Fault("status", 500),
    Fault("html"),
    Fault("cut"),
    Fault("broken off"),
    Fault("short"),
    Fault("garbage"),
    Fault("hang"),
    Fault("stall"),
    Fault("reset"),
    Fault("status", 202),
]


@pytest.mark.parametrize("fault", MENDED, ids=lambda fault: f"{fault.kind} {fault.status}")
@pytest.mark.parametrize("service", ["datafeed", "jetta"])
async def test_a_fault_that_passes_costs_a_retry_and_nothing_else(
    feed: FakeDukascopy, open_it: Open, fault: Fault, service: str
) -> None:
    feed.fail(fault, times=2)
    async with open_it(services=(service,)) as source:
        assert_right(source, await source.fetch("EURUSD", HOUR_US))
    assert len(feed.requests) == 3


@pytest.mark.parametrize("fault", MENDED, ids=lambda fault: f"{fault.kind} {fault.status}")
@pytest.mark.parametrize("service", ["datafeed", "jetta"])
async def test_a_fault_that_stays_is_an_error_with_the_address_after_finite_attempts(
    feed: FakeDukascopy, open_it: Open, fault: Fault, service: str
) -> None:
    feed.fail(fault)
    error = BadMessage if fault.kind in ("cut", "short", "garbage") else Unavailable
    async with open_it(services=(service,), attempts=3, timeout_s=1.0) as source:
        with pytest.raises(error, match=feed.url if service == "datafeed" else feed.jetta_url):
            await source.fetch("EURUSD", HOUR_US)
    assert len(feed.requests) == 3


async def test_nobody_listening_is_an_outage(open_it: Open) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    async with open_it(url=f"http://127.0.0.1:{port}", services=("datafeed",), attempts=2) as source:
        with pytest.raises(Unavailable, match=str(port)):
            await source.fetch("EURUSD", HOUR_US)


async def test_a_refusal_is_not_repeated(feed: FakeDukascopy, open_it: Open) -> None:
    feed.fail(Fault("status", 403))
    async with open_it(services=("datafeed",)) as source:
        with pytest.raises(Rejected, match="HTTP 403"):
            await source.fetch("EURUSD", HOUR_US)
    assert len(feed.requests) == 1


async def test_retry_after_holds_back_everybody(feed: FakeDukascopy, open_it: Open) -> None:
    feed.fail(Fault("status", 429, retry_after="1"), times=1)
    async with open_it(services=("datafeed",)) as source, trio.open_nursery() as nursery:
        nursery.start_soon(source.fetch, "EURUSD", HOUR_US)
        await feed.wait_requests(1)
        await trio.sleep(0.1)
        nursery.start_soon(source.fetch, "EURUSD", NEXT_US)
    times = [request.time for request in feed.requests]
    assert times[1] - times[0] >= 0.9


async def test_a_retry_after_beyond_our_patience_ends_it_at_once(feed: FakeDukascopy, open_it: Open) -> None:
    feed.fail(Fault("status", 503, retry_after="7200"))
    async with open_it(services=("datafeed",), give_up_s=5) as source:
        with pytest.raises(Unavailable) as caught:
            await source.fetch("EURUSD", HOUR_US)
    assert caught.value.retry_after_s == 7200
    assert len(feed.requests) == 1


async def test_a_retry_after_of_one_service_does_not_hold_back_the_other(
    feed: FakeDukascopy, open_it: Open
) -> None:
    feed.fail(Fault("status", 429, retry_after="7200"), path="/datafeed/")
    async with open_it() as source:
        with trio.fail_after(30):
            assert (await source.fetch("EURUSD", HOUR_US)).service == "jetta"
            assert (await source.fetch("EURUSD", NEXT_US)).service == "jetta"
    assert feed.count("bi5") == 1


async def test_the_pool_is_polite(feed: FakeDukascopy, open_it: Open) -> None:
    async with open_it(concurrency=2, pause_s=0.05) as source, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(source.fetch, "EURUSD", HOUR_US)
    times = [request.time for request in feed.requests]
    assert feed.most_at_once <= 2
    assert times[-1] - times[0] >= 7 * 0.05 - 0.03


async def test_an_outage_moves_on_to_the_other_service_and_says_so_once(
    feed: FakeDukascopy, open_it: Open, notices: list[str]
) -> None:
    feed.fail(Fault("hang"), path="/datafeed/")
    async with open_it(attempts=2, timeout_s=0.2) as source:
        for _ in range(3):
            raw = await source.fetch("EURUSD", HOUR_US)
            assert (raw.service, raw.origin) == ("jetta", feed.jetta_url + "ticks/EUR-USD/2019/2/4/0")
            assert_right(source, raw)
    assert feed.count("bi5") == 2, "while it is down, the first service is left alone"
    [notice] = notices
    assert feed.url in notice
    assert "no complete answer within 0.2 s" in notice
    assert f"going on with {feed.jetta_url}" in notice


async def test_many_hours_at_once_do_not_each_wait_for_a_dead_service(
    feed: FakeDukascopy, open_it: Open, notices: list[str]
) -> None:
    feed.fail(Fault("hang"), path="/datafeed/")
    async with open_it(attempts=2, timeout_s=0.3, concurrency=4) as source, trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(source.fetch, "EURUSD", HOUR_US)
    assert feed.count("bi5") <= 8
    assert feed.count("ticks/") == 40
    assert len(notices) == 1


async def test_a_service_that_is_back_is_used_again(
    feed: FakeDukascopy, open_it: Open, notices: list[str]
) -> None:
    feed.fail(Fault("status", 503), path="/datafeed/", times=2)
    async with open_it(attempts=2, down_s=0.2) as source:
        assert (await source.fetch("EURUSD", HOUR_US)).service == "jetta"
        await trio.sleep(0.25)
        assert (await source.fetch("EURUSD", HOUR_US)).service == "datafeed"
    assert notices[-1] == f"{feed.url} answers again"


async def test_the_order_of_the_services_can_be_set(feed: FakeDukascopy, open_it: Open) -> None:
    async with open_it(services=("jetta", "datafeed")) as source:
        assert (await source.fetch("EURUSD", HOUR_US)).service == "jetta"
        assert (await source.fetch("EURUSD", NEXT_US)).kind == "empty"
    assert feed.count("bi5") == 0


async def test_one_damaged_file_is_taken_from_the_other_service(
    feed: FakeDukascopy, open_it: Open, notices: list[str]
) -> None:
    feed.fail(Fault("cut"), path="00h_ticks.bi5")
    async with open_it(attempts=2) as source:
        assert (await source.fetch("EURUSD", HOUR_US)).service == "jetta"
        assert (await source.fetch("EURUSD", NEXT_US)).service == "datafeed"
    assert notices == []


async def test_all_services_down_is_one_error_that_names_both(
    feed: FakeDukascopy, open_it: Open, notices: list[str]
) -> None:
    feed.fail(Fault("status", 503, retry_after="0"))
    async with open_it(attempts=2) as source:
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await source.fetch("EURUSD", HOUR_US)
            assert feed.url in str(caught.value)
            assert feed.jetta_url in str(caught.value)
        feed.heal()
        assert_right(source, await source.fetch("EURUSD", HOUR_US))
    assert len(notices) == 3


async def test_without_internet_each_hour_fails_soon_with_the_same_sentence(
    open_it: Open, notices: list[str]
) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    datafeed, jetta = f"http://127.0.0.1:{port}/a/", f"http://127.0.0.1:{port}/b/"
    causes = []
    async with open_it(url=datafeed, jetta_url=jetta, attempts=3) as source:
        for hour in range(3):
            with pytest.raises(Unavailable) as caught:
                await source.fetch("EURUSD", HOUR_US + hour * (NEXT_US - HOUR_US))
            causes.append(str(caught.value))
    refused = "cannot connect: Connection refused"
    assert set(causes) == {
        f"no service answers: {datafeed}: {refused}; {jetta}: {refused}; is this machine connected to the internet?"
    }
    assert notices == [
        f"{datafeed} does not serve us: {refused}; going on with {jetta}",
        f"{jetta} does not serve us: {refused}",
    ]


async def test_an_hour_that_is_not_over_is_not_asked_for(feed: FakeDukascopy, open_it: Open) -> None:
    now_us = int(time.time()) // 3_600 * 3_600_000_000
    async with open_it() as source:
        with pytest.raises(Unavailable, match="is not over") as caught:
            await source.fetch("EURUSD", now_us)
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 3_600
    assert feed.requests == []


async def test_a_recent_hour_proves_nothing_and_is_not_kept(
    feed: FakeDukascopy, open_it: Open, tmp_path: Path
) -> None:
    recent_us = (int(time.time()) // 3_600 - 1) * 3_600_000_000
    feed.put_hour("EURUSD", "EUR-USD", recent_us, [], decimals=5)
    async with open_it(tmp_path) as source:
        first = await source.fetch("EURUSD", recent_us)
        feed.put_hour("EURUSD", "EUR-USD", recent_us, ROWS, decimals=5)
        second = await source.fetch("EURUSD", recent_us)
    assert (first.kind, first.settled) == ("empty", False)
    assert (second.kind, second.settled) == ("data", False)
    assert list(tmp_path.rglob("*.bi5")) == []


async def test_400_of_the_json_api_is_an_hour_that_is_not_served(feed: FakeDukascopy, open_it: Open) -> None:
    feed.answers["ticks/EUR-USD/2019/2/4/0"] = (400, b'{"message":"no"}')
    async with open_it(services=("jetta",)) as source:
        with pytest.raises(Unavailable, match="HTTP 400, the hour is not served"):
            await source.fetch("EURUSD", HOUR_US)
    assert len(feed.requests) == 1


async def test_nothing_is_fetched_twice(feed: FakeDukascopy, open_it: Open, tmp_path: Path) -> None:
    async with open_it(tmp_path) as source:
        first = await source.fetch("EURUSD", HOUR_US)
        await source.fetch("EURUSD", NEXT_US)
    feed.fail(Fault("status", 503))
    async with open_it(tmp_path) as source:
        again = await source.fetch("EURUSD", HOUR_US)
        empty = await source.fetch("EURUSD", NEXT_US)
        assert_right(source, again)
    assert again.cached
    assert again.checksum() == first.checksum()
    assert (empty.kind, empty.cached) == ("empty", True)
    assert len(feed.requests) == 2
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        f"datafeed/{PATH}",
        "datafeed/EURUSD/2019/01/04/01h_ticks.bi5",
    ]


async def test_fresh_fetches_revised_history_and_keeps_it(
    feed: FakeDukascopy, open_it: Open, tmp_path: Path
) -> None:
    async with open_it(tmp_path) as source:
        old = await source.fetch("EURUSD", HOUR_US)
        feed.put_hour("EURUSD", "EUR-USD", HOUR_US, ROWS[:-1], decimals=5)
        assert (await source.fetch("EURUSD", HOUR_US)).checksum() == old.checksum()
        new = await source.fetch("EURUSD", HOUR_US, fresh=True)
        assert len(source.decode(new).time_us) == len(ROWS) - 1
        assert (await source.fetch("EURUSD", HOUR_US)).checksum() == new.checksum()


@pytest.mark.parametrize("fault", [Fault("cut"), Fault("html"), Fault("garbage"), Fault("status", 404)])
async def test_no_bad_answer_gets_into_the_cache(
    feed: FakeDukascopy, open_it: Open, tmp_path: Path, fault: Fault
) -> None:
    feed.fail(fault, times=1)
    async with open_it(tmp_path, attempts=1, services=("datafeed",)) as source:
        if fault.kind == "status":
            assert (await source.fetch("EURUSD", HOUR_US)).kind == "missing"
        else:
            with pytest.raises((Unavailable, BadMessage)):
                await source.fetch("EURUSD", HOUR_US)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        assert_right(source, await source.fetch("EURUSD", HOUR_US))


async def test_a_file_that_was_damaged_on_disk_is_named_and_fetched_again(
    feed: FakeDukascopy, open_it: Open, tmp_path: Path
) -> None:
    async with open_it(tmp_path) as source:
        await source.fetch("EURUSD", HOUR_US)
        kept = tmp_path / "datafeed" / PATH
        kept.write_bytes(kept.read_bytes()[:-100])
        with pytest.raises(BadMessage, match=str(kept)):
            source.decode(await source.fetch("EURUSD", HOUR_US))
        assert_right(source, await source.fetch("EURUSD", HOUR_US))
    assert len(feed.requests) == 2


async def test_a_cache_that_cannot_be_written_spoils_nothing(open_it: Open, tmp_path: Path) -> None:
    (tmp_path / "datafeed").write_text("a file where a folder should be")
    async with open_it(tmp_path) as source:
        assert_right(source, await source.fetch("EURUSD", HOUR_US))


async def test_files_on_disk_are_read_in_the_datafeeds_layout(
    feed: FakeDukascopy, open_it: Open, tmp_path: Path
) -> None:
    (tmp_path / PATH).parent.mkdir(parents=True)
    (tmp_path / PATH).write_bytes(bi5.encode_ticks(ROWS))
    (tmp_path / PATH.replace("00h", "01h")).write_bytes(b"")
    async with open_it(source_dir=tmp_path, services=("jetta",)) as source:
        raw = await source.fetch("EURUSD", HOUR_US)
        assert (raw.origin, raw.settled, raw.cached) == (str(tmp_path / PATH), True, False)
        assert_right(source, raw)
        assert (await source.fetch("EURUSD", NEXT_US)).kind == "empty"
        absent = await source.fetch("EURUSD", NEXT_US + 3_600_000_000)
        assert (absent.kind, absent.settled) == ("missing", False)
        with pytest.raises(Rejected, match="no folder GBPUSD"):
            await source.fetch("GBPUSD", HOUR_US)
        (tmp_path / PATH).write_bytes(b"<html>")
        with pytest.raises(BadMessage, match=str(tmp_path / PATH)):
            source.decode(await source.fetch("EURUSD", HOUR_US))
    assert (tmp_path / PATH).exists(), "files of others are never removed"
    assert feed.requests == []


async def test_a_wrong_symbol_or_hour_is_refused_before_any_request(
    feed: FakeDukascopy, open_it: Open
) -> None:
    async with open_it() as source:
        with pytest.raises(Rejected, match="EURUSD"):
            await source.fetch("EURUSDT", HOUR_US)
        with pytest.raises(ValueError, match="not the start of an hour"):
            await source.fetch("EURUSD", HOUR_US + 1)
        assert source.instrument("EURUSD").market == "fx"
    assert feed.requests == []


async def test_cancelling_leaves_the_source_usable(feed: FakeDukascopy, open_it: Open) -> None:
    feed.fail(Fault("hang"), times=3)
    async with open_it(concurrency=1, timeout_s=5) as source:
        for _ in range(3):
            with trio.move_on_after(0.1) as scope:
                await source.fetch("EURUSD", HOUR_US)
            assert scope.cancelled_caught
        assert_right(source, await source.fetch("EURUSD", HOUR_US))


async def test_many_hours_in_flight_all_arrive(feed: FakeDukascopy, open_it: Open) -> None:
    done: list[RawHour] = []

    async def one(source: DukascopySource, hour_us: int) -> None:
        done.append(await source.fetch("EURUSD", hour_us))

    feed.fail(Fault("status", 503), times=5)
    async with open_it(services=("datafeed",), concurrency=8) as source, trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(functools.partial(one, source, HOUR_US - number * 3_600_000_000))
    assert len(done) == 200
    assert feed.most_at_once <= 8


async def test_a_denied_hour_is_asked_of_the_other_service(feed: FakeDukascopy, open_it: Open) -> None:
    feed.fail(Fault("status", 404), path="datafeed/EURUSD")
    async with open_it() as source:
        raw = await source.fetch("EURUSD", HOUR_US)
        assert (raw.kind, raw.service) == ("data", "jetta")
        assert_right(source, raw)
        assert (await source.fetch("EURUSD", NEXT_US)).kind == "empty"


@pytest.mark.parametrize("service", ["datafeed", "jetta"])
async def test_the_days_candles_tell_an_empty_hour_from_a_denied_one(
    feed: FakeDukascopy, open_it: Open, service: str
) -> None:
    day_us = HOUR_US // 86_400_000_000 * 86_400_000_000
    busy = (HOUR_US - day_us) // 60_000_000
    rows = [(minute * 60, 114545, 114545, 114545, 114545, float(minute == busy)) for minute in range(1440)]
    feed.files[codec.candles_path("EURUSD", "BID", "min_1", day_us)] = bi5.encode_candles(rows)
    candles = {
        "timestamp": day_us // 1000, "multiplier": 1e-05, "open": 1.1, "high": 1.1, "low": 1.1, "close": 1.1,
        "shift": 60_000, "times": [busy], "opens": [0], "highs": [0], "lows": [0], "closes": [0], "volumes": [1.0],
    }  # fmt: skip
    feed.answers[jetta.candles_path("EUR-USD", "BID", "minute", day_us)] = (200, json.dumps(candles).encode())
    feed.fail(Fault("status", 404), path="h_ticks.bi5")
    feed.fail(Fault("status", 404), path="ticks/EUR-USD")
    async with open_it(services=(service,)) as source:
        for _ in range(2):
            quiet = await source.fetch("EURUSD", NEXT_US)
            assert (quiet.kind, quiet.settled) == ("empty", True)
        with pytest.raises(Unavailable, match="HTTP 404, but the day's candles have a volume in this hour"):
            await source.fetch("EURUSD", HOUR_US)
    assert feed.count("andles") == 1


async def test_no_file_is_decompressed_twice(
    feed: FakeDukascopy, open_it: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = 0
    decompress = codec.decompress

    def counted(body: bytes, origin: str) -> bytes:
        nonlocal times
        times += 1
        return decompress(body, origin)

    monkeypatch.setattr(codec, "decompress", counted)
    async with open_it(services=("datafeed",)) as source:
        assert_right(source, await source.fetch("EURUSD", HOUR_US))
        assert times == 1


async def test_each_hour_of_an_outage_has_its_cause(feed: FakeDukascopy, open_it: Open) -> None:
    feed.fail(Fault("status", 503))
    errors: list[str] = []

    async def one(source: DukascopySource, hour_us: int) -> None:
        try:
            await source.fetch("EURUSD", hour_us)
        except Unavailable as error:
            errors.append(str(error))

    async with open_it(concurrency=2, attempts=2) as source, trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(one, source, HOUR_US - number * 3_600_000_000)
    assert len(errors) == 8
    assert all("HTTP 503" in error for error in errors)


async def test_a_folder_without_the_symbol_is_one_error_before_anything_is_read(
    open_it: Open, tmp_path: Path
) -> None:
    async with open_it(source_dir=tmp_path) as source:
        with pytest.raises(Rejected, match="no folder EURUSD: expected files such as"):
            source.instrument("EURUSD")

"""``mdserver run import`` as a process, against a fake datafeed over real sockets and a real PostgreSQL."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

import trio

from mdserver.testing.bi5 import FakeTick, ticks_path
from mdserver.testing.dukascopy import FakeDukascopy, Fault
from tests.integration.daemon import open_daemon, write_config
from tests.integration.importing import (
    CODE,
    DEADLINE_S,
    FIRST,
    HOURS,
    JETTA_CODE,
    Importer,
    made_up,
    make_importer,
    us,
)


async def test_it_imports_then_skips_then_compares(importer: Importer, feed: FakeDukascopy) -> None:
    empty = HOURS[3]
    feed.put_hour(CODE, JETTA_CODE, empty, [], decimals=5)
    done = await importer.run()
    assert (done["ok"], done["added"], done["empty"], done["closed"]) == (
        True,
        len(HOURS) - 1,
        1,
        96 - len(HOURS),
    )
    assert done["empty_open_hours"] == ["2024-03-08T03:00Z"]
    assert done["ticks"] == sum(len(made_up(hour)) for hour in HOURS if hour != empty)
    before, asked = importer.tables(), feed.count()
    assert asked == len(HOURS)
    again = await importer.run()
    assert (again["skipped"], again["added"], feed.count()) == (len(HOURS), 0, asked)
    same = await importer.run("--replace")
    assert (same["unchanged"], same["empty"], same["replaced"]) == (len(HOURS), 0, 0)
    assert importer.tables() == before
    feed.put_hour(CODE, JETTA_CODE, HOURS[5], made_up(HOURS[5], seed=1), decimals=5)
    revised = await importer.run("--replace")
    assert (revised["replaced"], revised["unchanged"]) == (1, len(HOURS) - 1)
    after = importer.tables()
    assert after["ledger"] != before["ledger"]
    assert after["series"][0][3] == len(after["ticks"])


async def test_a_dry_run_asks_and_writes_nothing(importer: Importer, feed: FakeDukascopy) -> None:
    done = await importer.run("--dry-run")
    assert (done["not_tried"], feed.count(), importer.tables()["series"]) == (len(HOURS), 0, [])


FAULTS = {
    HOURS[5]: Fault("status", status=503),
    HOURS[10]: Fault("html"),
    HOURS[15]: Fault("cut"),
    HOURS[20]: Fault("broken off"),
    HOURS[25]: Fault("garbage"),
    HOURS[30]: Fault("hang"),
    HOURS[35]: Fault("reset"),
}


async def test_what_a_fault_spoils_is_failed_and_mended_by_the_next_run(
    importer: Importer, feed: FakeDukascopy
) -> None:
    for hour, fault in FAULTS.items():
        feed.fail(fault, path=ticks_path(CODE, hour))
    done = await importer.run(code=1)
    assert done["added"] == len(HOURS) - len(FAULTS)
    assert [us(failed["hour"].removesuffix("Z")) for failed in done["causes"]] == list(FAULTS)
    for failed, hour in zip(done["causes"], FAULTS, strict=True):
        assert ticks_path(CODE, hour) in failed["cause"]
    feed.heal()
    mended = await importer.run()
    assert (mended["added"], mended["skipped"]) == (len(FAULTS), len(HOURS) - len(FAULTS))
    assert len(importer.tables()["ticks"]) == sum(len(made_up(hour)) for hour in HOURS)


def times_ten(hour_us: int) -> list[FakeTick]:
    *others, last = made_up(hour_us)
    return [*others, last._replace(ask=last.ask * 10, bid=last.bid * 10)]


def times_hundred(hour_us: int) -> list[FakeTick]:
    return [tick._replace(ask=tick.ask * 100, bid=tick.bid * 100) for tick in made_up(hour_us)]


async def test_prices_that_cannot_be_true_are_failed(importer: Importer, feed: FakeDukascopy) -> None:
    bad = [us("2024-03-11 12:00"), us("2024-03-11 15:00")]
    for hour_us, spoil in zip(bad, (times_ten, times_hundred), strict=True):
        feed.put_hour(CODE, JETTA_CODE, hour_us, spoil(hour_us), decimals=5)
    for added in (len(HOURS) - 2, 0):  # the second run has only the database to compare with
        done = await importer.run(code=1)
        assert done["added"] == added
        one, other = done["causes"]
        assert (one["hour"], other["hour"]) == ("2024-03-11T12:00Z", "2024-03-11T15:00Z")
        assert re.search(
            r"12h_ticks\.bi5: the ask 11\.\d+ is more than 5 times the lowest bid of the hour, 1\.1\d+$",
            one["cause"],
        )
        assert re.search(
            r"15h_ticks\.bi5: the bid 11\d\.\d+ differs by more than a factor of 50 from the one that is stored, "
            r"1\.1\d+ at 2024-03-11T14:\d\d:\d\dZ$",
            other["cause"],
        )
    assert len(importer.tables()["ticks"]) == sum(len(made_up(hour)) for hour in HOURS if hour not in bad)
    for hour_us in bad:
        feed.put_hour(CODE, JETTA_CODE, hour_us, made_up(hour_us), decimals=5)
    assert (await importer.run("--replace"))["added"] == 2
    assert len(importer.tables()["ticks"]) == sum(len(made_up(hour)) for hour in HOURS)


async def test_a_404_in_market_hours_is_asked_again_until_it_is_confirmed(
    importer: Importer, feed: FakeDukascopy, tmp_path: Path
) -> None:
    denied = ticks_path(CODE, HOURS[2])
    content = feed.files.pop(denied)
    for _ in range(2):
        done = await importer.run(code=1)
        assert (done["denied"], done["empty"], done["failed"]) == (1, 0, 0)
    checked = await importer.check()
    (finding,) = [one for one in checked["series"][0]["findings"] if one["kind"] == "denied_hours"]
    assert finding["count"] == 1
    assert finding["remedy"].startswith("mdserver run import --source dukascopy --symbol EURUSD --from 2024-")
    done = await importer.run("--accept-empty")
    assert (done["denied"], done["empty"]) == (0, 1)
    assert (await importer.check())["ok"]
    feed.files[denied] = content
    assert (await importer.run("--replace"))["added"] == 1
    assert len(importer.tables()["ticks"]) == sum(len(made_up(hour)) for hour in HOURS)


async def test_a_day_of_404s_is_no_empty_day(importer: Importer, feed: FakeDukascopy, tmp_path: Path) -> None:
    kept, feed.files = feed.files, {}
    for hour_us in HOURS[:3]:
        feed.files[ticks_path(CODE, hour_us)] = kept[ticks_path(CODE, hour_us)]
    done = await importer.run(code=1)
    # a chunk that is stored before the symbol is known says failed; either way it is asked again
    assert (done["added"], done["empty"], done["denied"] + len(done["causes"])) == (3, 0, len(HOURS) - 3)
    feed.files = kept
    assert (await importer.run())["added"] == len(HOURS) - 3


async def test_404s_of_a_symbol_of_which_nothing_is_known(
    importer: Importer, feed: FakeDukascopy, tmp_path: Path
) -> None:
    feed.files.clear()
    importer.empty()
    new = make_importer(tmp_path / "new", importer.url, feed)  # with an empty cache
    done = await new.run(code=1)
    assert (done["empty"], len(done["causes"])) == (0, len(HOURS))


async def test_it_gives_up_on_a_source_that_is_away(importer: Importer, feed: FakeDukascopy) -> None:
    feed.fail(Fault("status", status=503))
    done = await importer.run("--from", "2024-02-01", code=1)
    assert "in a row" in done["stopped"]
    assert 24 <= len(done["causes"]) < 100 < done["not_tried"]
    feed.heal()
    await importer.run()


async def test_interrupted_and_killed_it_ends_in_the_same_table(
    importer: Importer, feed: FakeDukascopy, tmp_path: Path, database_url: str, long: bool
) -> None:
    await importer.run()
    expected = importer.tables()
    importer.empty()
    random_ = random.Random(7)  # noqa: S311
    codes = []
    slow = make_importer(tmp_path / "slow", database_url, feed, pause_s=0.06)  # with a cache of its own
    for number in range(10 if long else 4):
        until = feed.count() + random_.randint(1, 6 if long else 15)
        async with slow.running() as run:
            with trio.fail_after(DEADLINE_S):
                await feed.wait_requests(until)
            codes.append(await run.end(signal.SIGINT if number % 2 else signal.SIGKILL))
    assert codes == [-signal.SIGKILL, 130] * (len(codes) // 2)
    await importer.run()
    assert importer.tables() == expected


async def test_beside_a_running_server(folder: Path, feed: FakeDukascopy) -> None:
    source = {"name": "dukascopy", "url": feed.url, "services": ["datafeed"], "pause_s": 0}
    config = write_config(folder, history=[source])
    query = {"symbol": "EURUSD", "broker": "dukascopy", "timeframe": "1h", "from": us(FIRST) // 10**6}
    async with open_daemon(config) as daemon:
        importer = Importer(config)
        etags = []
        for seed in (0, 1):
            feed.put_hour(CODE, JETTA_CODE, HOURS[0], made_up(HOURS[0], seed), decimals=5)
            assert (await importer.run("--replace"))["ok"]
            answer = await daemon.get("/api/candles", **query, to=us("2024-03-12") // 10**6)
            assert len(answer.json()) == len(HOURS)
            etags.append(answer.headers["etag"])
        assert etags[0] != etags[1]
    alone = await importer.run()
    assert alone["skipped"] == len(HOURS)

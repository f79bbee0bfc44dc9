"""Pages that several replays want: read once while they are fresh, never the last one twice from memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mdserver.errors import StoreUnavailable
from mdserver.model import Topic
from mdserver.stream import shared_pages
from mdserver.stream.shared_pages import PageKey, SharedPages
from mdserver.stream.stored_past import Page

TOPIC = Topic("one", "EURUSD", "tick")


def key(after: int) -> PageKey:
    return PageKey(TOPIC, after, 10, False, frozenset())


class Past:
    """Pages of 10 records of 100 bytes up to record 100; a read ends once it is let."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.let = trio.Event()
        self.let.set()
        self.away = False

    async def read(self, wanted: PageKey) -> Page:
        self.reads.append(wanted.after)
        await self.let.wait()
        await trio.lowlevel.checkpoint()
        if self.away:
            raise StoreUnavailable("away")
        return Page([b"x" * 1_000], 10, wanted.after + 10, more=wanted.after < 90)


async def test_a_page_is_read_once_for_those_who_want_it_at_the_same_time() -> None:
    past = Past()
    pages, got = SharedPages(past.read), []
    past.let = trio.Event()

    async def want() -> None:
        got.append(await pages.page(key(20)))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(want)
        await trio.testing.wait_all_tasks_blocked()
        past.let.set()
    assert past.reads == [20]
    assert [one.last_seq for one in got] == [30] * 5
    assert await pages.page(key(20)) is got[0]
    await pages.page(key(30))
    assert past.reads == [20, 30]


async def test_the_last_page_is_read_anew_each_time() -> None:
    """More may have been stored since."""
    past = Past()
    pages = SharedPages(past.read)
    past.let = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(pages.page, key(90))
        await trio.testing.wait_all_tasks_blocked()
        past.let.set()
    await pages.page(key(90))
    assert past.reads == [90] * 4


async def test_a_reader_that_leaves_or_fails_costs_the_others_nothing() -> None:
    past = Past()
    pages, got = SharedPages(past.read), []
    past.let = trio.Event()

    async def want() -> None:
        got.append(await pages.page(key(20)))

    async with trio.open_nursery() as nursery, trio.open_nursery() as leaving:
        leaving.start_soon(pages.page, key(20))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(want)
        await trio.testing.wait_all_tasks_blocked()
        leaving.cancel_scope.cancel()
        past.let.set()
    assert (len(got), past.reads) == (1, [20, 20])

    past.away = True
    with pytest.raises(StoreUnavailable):
        await pages.page(key(40))
    past.away = False
    assert (await pages.page(key(40))).last_seq == 50


async def test_pages_are_kept_for_a_moment_and_few_of_them(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_pages, "KEPT_BYTES", 3_000)
    past = Past()
    pages = SharedPages(past.read)
    for after in (0, 10, 20, 30):
        await pages.page(key(after))
    await pages.page(key(10))
    assert past.reads == [0, 10, 20, 30]
    await pages.page(key(0))  # gave way to the fourth
    assert past.reads[4:] == [0]
    await trio.sleep(shared_pages.KEPT_S + 0.1)
    await pages.page(key(30))
    assert past.reads[5:] == [30]
    pages.clear()
    await pages.page(key(30))
    assert past.reads[6:] == [30]

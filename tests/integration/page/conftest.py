"""One Chromium for all tests of the pages, and databases with candles to look at."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
import psycopg
import pytest
import trio
from playwright.sync_api import Browser, Page, Response, sync_playwright
from psycopg.conninfo import conninfo_to_dict

T = TypeVar("T")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 60_000


def chromium() -> str:
    """Return the browser's path; without one, skip, but fail where CI must have it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail("chromium is not installed")
    pytest.skip("chromium is not installed")


@attrs.frozen
class Window:
    """A page, and what must stay empty: complaints of the browser, requests to other places."""

    page: Page
    complaints: list[str]
    outside: list[str]

    def until(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true.

        Playwright's own way evaluates a text within the page, which the page's policy forbids.
        """
        deadline = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"still not so: {expression}\n{self.shown()}"
            self.page.wait_for_timeout(20)

    def shown(self) -> str:
        """Return what tells why, for a failed test."""
        ids = ("connection", "notices", "chart-message", "prices-message", "key-reason")
        texts = self.page.evaluate("ids => ids.map(id => document.getElementById(id)?.textContent)", ids)
        return "\n".join([f"{id_}: {text}" for id_, text in zip(ids, texts, strict=True)] + self.complaints)


def _note(text: str, complaints: list[str]) -> None:
    """Note what the browser says; not that a stream was given up before it was connected: another is wanted now."""
    if "closed before the connection is established" not in text:
        complaints.append(text)


def _refused(response: Response) -> str:
    return f"{response.status} of {response.url}"


@attrs.frozen
class Chromium:
    """The browser, which lives in a thread of its own: its driver knows no trio."""

    browser: Browser
    thread: ThreadPoolExecutor

    async def look(self, url: str, work: Callable[[Window], T], *, script: str = "", **context: Any) -> T:
        """Open a page of its own, after ``script``, and do the work on it, in the browser's thread."""

        def run() -> T:
            with self._open(url, script, context) as window:
                return work(window)

        return await trio.to_thread.run_sync(lambda: self.thread.submit(run).result())

    @contextmanager
    def _open(self, url: str, script: str, context: dict[str, Any]) -> Iterator[Window]:
        opened = self.browser.new_context(**context)
        try:
            page = opened.new_page()
            page.set_default_timeout(WAIT_MS)
            if script:
                page.add_init_script(script)
            window = Window(page, [], [])
            page.on("console", lambda message: _note(message.text, window.complaints))
            page.on("response", lambda one: one.status < 400 or window.complaints.append(_refused(one)))
            page.on("pageerror", lambda error: window.complaints.append(str(error)))
            base = "/".join(url.split("/")[:3])
            near = (base, base.replace("http", "ws", 1), "data:", "blob:" + base)
            page.on("request", lambda one: one.url.startswith(near) or window.outside.append(one.url))
            page.goto(url)
            yield window
        finally:
            opened.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """Chromium, started once."""
    path = chromium()
    with ThreadPoolExecutor(1) as thread:
        driver = thread.submit(lambda: sync_playwright().start()).result()
        started = thread.submit(lambda: driver.chromium.launch(executable_path=path, args=ARGUMENTS)).result()
        try:
            yield Chromium(started, thread)
        finally:
            thread.submit(started.close).result()
            thread.submit(driver.stop).result()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def as_address(conninfo: str) -> str:
    """Return a conninfo in the form that a config takes."""
    given = conninfo_to_dict(conninfo)
    return f"postgresql://{given['user']}@/{given['dbname']}?host={given['host']}&port={given['port']}"


def put_candles(url: str, minutes: int, *, broker: str = "mock", symbol: str = "EURUSD", end: int) -> int:
    """Store candles of a minute and an hour up to ``end``, without their ticks; return the series.

    Their prices are a walk that ends at 1.085, where the mock's begins.
    """
    steps = np.random.default_rng(7).normal(0, 9e-5, minutes)
    closes = np.round(1.085 - np.cumsum(steps)[::-1] + steps[0], 5)
    opens = np.concatenate([[closes[0]], closes[:-1]])
    wicks = np.abs(np.random.default_rng(8).normal(0, 6e-5, (2, minutes)))
    highs = np.round(np.maximum(opens, closes) + wicks[0], 5)
    lows = np.round(np.minimum(opens, closes) - wicks[1], 5)
    times = end - 60 * np.arange(minutes, 0, -1)
    with psycopg.connect(url) as conn:
        (series,) = conn.execute(  # type: ignore[misc]
            """insert into series (broker, symbol, type, row_count, earliest, latest, hist_v)
               values (%s, %s, 'tick', %s, to_timestamp(%s), to_timestamp(%s), 1) returning id""",
            [broker, symbol, minutes, int(times[0]), int(times[-1])],
        ).fetchone()
        columns = [column.tolist() for column in (times, opens, highs, lows, closes)]
        conn.execute(
            """insert into candles (time, open, high, low, close, row_count, series_id, timeframe, volume)
               select to_timestamp(t), o, h, l, c, 50, %s, 60, 5
               from unnest(%s::bigint[], %s::float8[], %s::float8[], %s::float8[], %s::float8[]) as m(t, o, h, l, c)""",
            [series, *columns],
        )
        for seconds in (300, 900, 1_800, 3_600, 14_400, 43_200, 86_400):
            conn.execute(
                """insert into candles (time, open, high, low, close, row_count, series_id, timeframe, volume)
                   select to_timestamp(bucket * %(s)s), (array_agg(open order by time))[1], max(high), min(low),
                          (array_agg(close order by time desc))[1], sum(row_count), %(series)s, %(s)s, sum(volume)
                   from (select *, floor(extract(epoch from time) / %(s)s)::bigint as bucket from candles
                         where series_id = %(series)s and timeframe = 60) as minutes group by bucket""",
                {"s": seconds, "series": series},
            )
        return int(series)


def put_gap(url: str, series: int, from_s: int, to_s: int) -> None:
    """Record a gap."""
    with psycopg.connect(url) as conn:
        conn.execute(
            """insert into gaps (series_id, from_time, to_time, cause)
               values (%s, to_timestamp(%s), to_timestamp(%s), 'disconnected')""",
            [series, from_s, to_s],
        )

"""The page in Chromium: how soon the first candle shows with a year stored, how even frames are with 60 busy symbols.

Chromium is that of the system; the driver is Playwright's, from the test dependencies.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import psycopg
import yaml
from harness import data_folder, free_port, machine, mdserver_command, process, spread, table, wait_until_up
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

MINUTES = 365 * 1_440
SYMBOLS = 60
RATE = 20
WAIT_S = 20.0
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FRAMES = """seconds => new Promise(resolve => {
    const gaps = [];
    let last = performance.now();
    const end = last + seconds * 1000;
    const frame = now => {
        gaps.push(now - last);
        last = now;
        now < end ? requestAnimationFrame(frame) : resolve(gaps);
    };
    requestAnimationFrame(frame);
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("no Chromium is installed")
    names = [f"SYM{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(SYMBOLS)]
    brokers = [{"name": "mock", "rate": SYMBOLS * RATE, "burst": 1, "symbols": names}]
    print(machine())
    with data_folder() as folder, sync_playwright() as driver, ExitStack() as stack:
        port = free_port()
        config = {"data_dir": str(folder / "data"), "server": {"port": port}, "brokers": brokers}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        run = [mdserver_command(), "run", "--config", str(folder / "config.yaml")]
        log = folder / "log"
        ready = f"http://127.0.0.1:{port}/health/ready"
        with process(run, log=log) as child:
            wait_until_up(child, ready, log)
            put_year(folder / "data" / "postgres" / "run", names[0])
        child = stack.enter_context(
            process(run, log=log)
        )  # a server reads at its start how far a series goes back
        wait_until_up(child, ready, log)
        check_year(port, names[0])
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        url = f"http://127.0.0.1:{port}/?symbol={names[0]}"
        opened = [first_candle(browser, url) for _ in range(options.rounds + 1)][1:]
        gaps, busy_s = frames_of(browser, url, options.seconds)
        browser.close()
    frames = sorted(gaps)
    late = sum(gap > 50 for gap in frames)
    rows = [
        [
            "first candle on screen, ms since the navigation began",
            spread([one[0] for one in opened], 0),
            "< 500",
        ],
        ["of that CPU time of the page's thread, ms", spread([one[1] for one in opened], 0), "-"],
        [f"frames over 50 ms, of {len(frames)} in {options.seconds:g} s", str(late), "0"],
        ["frame, p50 and p99 ms", f"{quantile(frames, 0.5):.1f}, {quantile(frames, 0.99):.1f}", "-"],
        ["longest frame, ms", f"{frames[-1]:.1f}", "< 50"],
        ["CPU time of the page's thread, of a core", f"{busy_s / options.seconds:.1%}", "-"],
    ]
    print(table(["what", "measured", "goal"], rows))


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cpu_s(session: CDPSession) -> float:
    """Return the CPU time that the tasks of the page's thread have taken."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


def watched(page: Page) -> CDPSession:
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    return session


def first_candle(browser: Browser, url: str) -> tuple[float, float]:
    """Return when the first candle was drawn, with nothing in the browser's cache, and the CPU time until then."""
    page = browser.new_context().new_page()
    session = watched(page)
    page.goto(url)
    deadline = time.monotonic() + WAIT_S
    while True:
        marks = page.evaluate("performance.getEntriesByName('first candle').map(one => one.startTime)")
        if marks:
            busy_ms = cpu_s(session) * 1_000
            page.context.close()
            return float(marks[0]), busy_ms
        if time.monotonic() > deadline:
            raise SystemExit(
                f"no candle within {WAIT_S:.0f} s: {page.locator('#chart-message').inner_text()}"
            )
        page.wait_for_timeout(20)


def frames_of(browser: Browser, url: str, seconds: float) -> tuple[list[float], float]:
    """Return the times between frames while all rows move, and the CPU time of the page's thread."""
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.goto(url)
    deadline = time.monotonic() + WAIT_S
    while page.evaluate("document.querySelectorAll('#prices tbody tr').length") < SYMBOLS:
        if time.monotonic() > deadline:
            raise SystemExit("the table of prices is not complete")
        page.wait_for_timeout(50)
    page.wait_for_timeout(2_000)
    session = watched(page)
    before = cpu_s(session)
    gaps = [float(gap) for gap in page.evaluate(FRAMES, seconds)]
    return gaps, cpu_s(session) - before


def put_year(socket: Path, symbol: str) -> None:
    """Store a year of minutes in front of the live records, once the server has stored the first of them."""
    until = time.monotonic() + WAIT_S
    with psycopg.connect(
        host=str(socket), port=5432, user="mdserver", dbname="mdserver", autocommit=True
    ) as conn:
        series = "select id from series where symbol = %s and type = 'tick' and row_count > 0"
        while (found := conn.execute(series, [symbol]).fetchone()) is None:
            if time.monotonic() > until:
                raise SystemExit(f"the server has stored nothing of {symbol} within {WAIT_S:.0f} s")
            time.sleep(0.05)
        conn.execute(
            """insert into candles (time, open, high, low, close, row_count, series_id, timeframe, volume)
               select to_timestamp(t), o, greatest(o, c) + 0.0001, least(o, c) - 0.0001, c, 20, %(series)s, 60, 5
               from (select t, round((1.1 + sin(t / 7e4) / 50)::numeric, 5)::float8 as o,
                            round((1.1 + sin((t + 60) / 7e4) / 50)::numeric, 5)::float8 as c
                     from generate_series(
                         (extract(epoch from now())::bigint / 60 - %(minutes)s) * 60,
                         (extract(epoch from now())::bigint / 60 - 5) * 60, 60) as t) as walk
               on conflict do nothing""",
            {"series": found[0], "minutes": MINUTES},
        )
        for seconds in (300, 900, 1_800, 3_600, 14_400, 43_200, 86_400):
            conn.execute(
                """insert into candles (time, open, high, low, close, row_count, series_id, timeframe, volume)
                   select to_timestamp(bucket * %(s)s), (array_agg(open order by time))[1], max(high), min(low),
                          (array_agg(close order by time desc))[1], sum(row_count), %(series)s, %(s)s, sum(volume)
                   from (select *, floor(extract(epoch from time) / %(s)s)::bigint as bucket from candles
                         where series_id = %(series)s and timeframe = 60) as minutes group by bucket
                   on conflict do nothing""",
                {"s": seconds, "series": found[0]},
            )
        conn.execute(
            "update series set earliest = (select min(time) from candles where series_id = %s) where id = %s",
            [found[0], found[0]],
        )
        conn.execute("analyze candles")


def check_year(port: int, symbol: str) -> None:
    """End unless the server answers with the oldest of the year's minutes."""
    query = f"symbol={symbol}&timeframe=1m&from=0&to=4102444800&limit=1"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/candles?{query}", timeout=WAIT_S) as answer:
        first = json.load(answer)
    age_days = (time.time() - first[0]["time"]) / 86_400 if first else 0.0
    if age_days < MINUTES / 1_440 - 1:
        raise SystemExit(f"the year is not there: the oldest candle is {age_days:.1f} days old")


if __name__ == "__main__":
    main()

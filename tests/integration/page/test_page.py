"""The page at ``/`` in a real browser, before a real server."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import trio
import yaml
from axe_playwright_python.sync_playwright import Axe

from mdserver.keys import new_key

from ..daemon import open_daemon, write_config
from .conftest import Chromium, Window, as_address, put_candles, put_gap

pytestmark = pytest.mark.serial  # several processes and a browser: they need the machine

PICTURE = Path(__file__).parents[3] / "docs" / "images" / "page.png"
HAS_CANDLES = "document.querySelector('#chart').dataset.last > 0"
IS_LIVE = "document.querySelector('#connection').dataset.state === 'live'"
MOVES = "document.querySelector('#chart').dataset.close !== {}"
MOCK = {"name": "mock", "rate": 60, "symbols": ["EURUSD", "GBPUSD", "USDJPY", "BTCUSDT"]}
LISTENING = """
const Real = WebSocket;
window.sockets = [];
window.WebSocket = class extends Real {
    constructor(...given) { super(...given); sockets.push(this); }
    send(text) { this.asked = text; super.send(text); }
};
"""
"""Keeps the page's sockets where a test can make them receive something."""
SHIFTED_CLOCK = "const real = Date.now; window.shift = {}; Date.now = () => real() + window.shift * 1000;"


def whole_minute() -> int:
    return int(time.time()) // 60 * 60


def waits_for_a_move(window: Window) -> None:
    close = window.page.locator("#chart").get_attribute("data-close")
    window.until(MOVES.format(repr(close)))


def notices(window: Window) -> str:
    return window.page.locator("#notices").inner_text()


async def test_the_chart_is_live_and_history_is_behind_it(
    browser: Chromium, folder: Path, database_url: str
) -> None:
    end = whole_minute() - 120
    series = put_candles(database_url, 40 * 1_440, end=end)
    put_candles(database_url, 100, broker="dukascopy", symbol="USDJPY", end=end - 86_400)
    put_gap(database_url, series, end - 4_000, end - 3_000)
    config = write_config(folder, database={"url": as_address(database_url)}, brokers=[MOCK])

    def look(window: Window) -> None:
        page = window.page
        window.until(HAS_CANDLES)
        window.until(IS_LIVE)
        waits_for_a_move(window)
        window.until("document.querySelectorAll('#prices tbody tr').length === 4")
        window.until("document.querySelector('#brokers tbody').textContent.includes('live')")
        window.until("document.querySelectorAll('#coverage .day').length > 30")
        window.until("document.querySelector('#gaps tbody').textContent.includes('disconnected')")
        window.until("document.querySelector('#chart').dataset.shaded >= 17")
        asks_first_for_candles_and_once(window)
        take_picture(window)
        reads_with_keys(window)
        loads_what_lies_before(window)
        corrects_a_revised_candle(window)
        changes_what_is_shown(window)
        filters_the_prices(window)
        joins_no_made_up_prices(window)
        fits(window)
        everybody_can_use(window)
        page.goto(page.url.split("?")[0] + "docs")
        tries_a_request(window)
        assert page.locator(".opblock").count() >= 12
        assert window.complaints == [], "\n".join(window.complaints)
        assert window.outside == []

    async with open_daemon(config) as daemon:
        url = daemon.base + "/?symbol=EURUSD"
        await browser.look(url, look, script=LISTENING, viewport={"width": 1280, "height": 860})


def asks_first_for_candles_and_once(window: Window) -> None:
    """The question goes out beside the page's modules, and the page takes that answer."""
    asked = window.page.evaluate(
        """performance.getEntriesByType('resource').map(one => [one.name, one.startTime])
            .filter(([name]) => name.includes('sort=desc') || name.endsWith('/page.js'))"""
    )
    first = [name for name, _ in sorted(asked, key=lambda one: one[1]) if "/api/candles" in name]
    assert len(first) == 1, first
    assert min(asked, key=lambda one: one[1])[0] == first[0]


def everybody_can_use(window: Window) -> None:
    violations = Axe().run(window.page).response["violations"]
    assert [(one["id"], [node["html"][:90] for node in one["nodes"]]) for one in violations] == []


def take_picture(window: Window) -> None:
    """Make the README's picture anew where it is asked for or missing."""
    if os.environ.get("MDSERVER_PICTURES") or not PICTURE.exists():
        window.page.screenshot(path=PICTURE)
    assert PICTURE.stat().st_size < 200_000


def reads_with_keys(window: Window) -> None:
    page = window.page
    page.locator("#chart").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    said = page.locator("#chart-said").inner_text()
    assert "UTC" in said
    assert "close 1.08" in said
    page.keyboard.press("ArrowLeft")
    assert page.locator("#chart-said").inner_text() != said
    page.locator("#as-table summary").press("Enter")
    window.until("document.querySelectorAll('#as-table tbody tr').length === 30")
    page.locator("#as-table summary").press("Enter")


def loads_what_lies_before(window: Window) -> None:
    keys = window.page.keyboard
    window.page.locator("#chart").focus()
    keys.press("Home")
    first = window.page.locator("#chart-said").inner_text()
    press = "document.querySelector('#chart').dispatchEvent(new KeyboardEvent('keydown', {key: 'Home'}))"
    window.until(f"{press}, document.querySelector('#chart-said').textContent < {first!r}")


def corrects_a_revised_candle(window: Window) -> None:
    """A late record changes a candle of some minutes ago, and the server sends it again."""
    page = window.page
    page.locator("#as-table summary").press("Enter")
    window.until("document.querySelectorAll('#as-table tbody tr').length === 30")
    opens = page.locator("#as-table tbody tr >> nth=9 >> td >> nth=0").inner_text()
    revise = """opens => {
        const candle = {type: 'candle', broker: 'mock', symbol: 'EURUSD', interval: '1m', closed: true, revised: true,
            time: Date.parse(opens.replace(' ', 'T') + 'Z') / 1000,
            open: 1.081, high: 1.0829, low: 1.0801, close: 1.08234, volume: 5, count: 9};
        const streams = sockets.filter(one => one.readyState === WebSocket.OPEN && one.asked.includes('"candle"'));
        for (const one of streams) one.onmessage({data: JSON.stringify(candle)});
    }"""
    page.evaluate(revise, opens)
    row = f"[...document.querySelectorAll('#as-table tbody tr')].find(one => one.textContent.includes('{opens}'))"
    window.until(f"{row}.textContent.includes('1.08234')")
    page.locator("#as-table summary").press("Enter")


def changes_what_is_shown(window: Window) -> None:
    page = window.page
    page.locator("#timeframe").select_option("1h")
    window.until("document.querySelector('#chart').dataset.last % 3600 === 0")
    page.locator("#align").select_option("ny17")
    page.locator("#timeframe").select_option("3m")
    window.until("document.querySelector('#chart').dataset.last % 180 === 0")
    waits_for_a_move(window)
    page.locator("#align").select_option("")
    page.locator("#price").select_option("bid")
    window.until("document.querySelector('#chart').dataset.last > 0")
    page.locator("#price").select_option("")
    page.locator("#symbol").fill("gbp/usd")
    page.locator("#symbol").press("Enter")
    window.until("document.title.startsWith('GBPUSD')")
    window.until("document.querySelector('#chart').dataset.close.startsWith('1.2')")
    assert "symbol=GBPUSD" in page.url
    page.locator("#prices button", has_text="EURUSD").click()
    window.until("document.querySelector('#chart').dataset.close.startsWith('1.0')")


def filters_the_prices(window: Window) -> None:
    page, rows = window.page, "document.querySelectorAll('#prices tbody tr').length"
    page.locator("#prices-filter").fill("usd/j")
    window.until(f"{rows} === 1 && document.querySelector('#prices tbody').textContent.includes('USDJPY')")
    page.locator("#prices-filter").fill("xyz")
    window.until("document.querySelector('#prices-message').textContent.startsWith('None of the 4 symbols')")
    page.locator("#prices-filter").fill("")
    window.until(f"{rows} === 4")


def joins_no_made_up_prices(window: Window) -> None:
    """Imported USDJPY is about 1.08 here, the mock's 151."""
    page = window.page
    page.locator("#timeframe").select_option("1m")
    page.locator("#prices button", has_text="USDJPY").click()
    window.until(
        "document.querySelector('#chart-message').textContent.includes('come from mock, which is no part')"
    )
    assert str(page.locator("#chart").get_attribute("data-close")).startswith("1.08")
    page.locator("#source").select_option("mock")
    window.until("document.querySelector('#chart').dataset.close > 100")
    waits_for_a_move(window)
    page.locator("#prices button", has_text="EURUSD").click()
    window.until("document.querySelector('#chart').dataset.close < 2")


def fits(window: Window) -> None:
    for width in (1280, 768, 360):
        window.page.set_viewport_size({"width": width, "height": 800})
        wide = window.page.evaluate("document.documentElement.scrollWidth")
        if folder := os.environ.get("MDSERVER_ARTEFACTS"):
            window.page.screenshot(path=Path(folder) / f"page-{width}.png", full_page=True)
        assert wide <= width, f"{wide} pixels at a width of {width}"


async def test_it_outlives_the_server_a_sleep_and_a_symbol(
    browser: Chromium, folder: Path, database_url: str
) -> None:
    config = write_config(folder, database={"url": as_address(database_url)}, brokers=[MOCK])
    steps = Steps()

    def look(window: Window) -> None:
        window.until(IS_LIVE)
        window.until(HAS_CANDLES)
        window.until("document.querySelector('#notices').textContent.includes('1 h ahead of')")
        steps.reach("live")
        window.until("document.querySelector('#connection').dataset.state === 'lost'")
        steps.reach("lost")
        window.until(IS_LIVE)
        waits_for_a_move(window)
        window.page.evaluate(
            "window.shift += 8 * 3600; document.dispatchEvent(new Event('visibilitychange'))"
        )
        assert "slept for 8 h" in notices(window)
        window.until("!document.querySelector('#notices').textContent.includes('slept')")
        waits_for_a_move(window)
        steps.reach("slept")
        window.until(
            "document.querySelector('#prices-message').textContent.includes('Not streamed any more: BTCUSDT, EURUSD')"
        )
        window.until(
            "document.querySelector('#chart-message').textContent.includes('No live candles of EURUSD')"
        )
        steps.reach("gone")

    async with trio.open_nursery() as nursery:
        async with open_daemon(config) as first:
            port = first.base.rsplit(":", 1)[1]
            script = SHIFTED_CLOCK.format(3_600)
            url = first.base + "/?symbol=EURUSD"
            nursery.start_soon(partial(browser.look, url, look, script=script))
            await steps.reached("live")
            await first.stop(signal.SIGKILL)
        await steps.reached("lost")
        async with open_daemon(config, options=["--port", port]) as second:
            await steps.reached("slept")
            settings = yaml.safe_load(config.read_text())
            settings["brokers"][0]["enabled"] = False
            config.write_text(yaml.safe_dump(settings))
            second.process.send_signal(signal.SIGHUP)
            await steps.reached("gone")


async def test_a_stranger_s_address_is_text_and_a_thousand_symbols_fit(
    browser: Chromium, folder: Path, database_url: str
) -> None:
    """At a phone's width, in the dark and in another time zone; one broker is down."""
    end = whole_minute() - 120
    series = put_candles(database_url, 200, symbol="SYM0000", end=end)
    put_gap(database_url, series, end - 600, end)
    names = [f"SYM{n:04}" for n in range(1_000)]
    away = {
        "name": "binance",
        "symbols": ["BTCUSDT"],
        "url": "ws://127.0.0.1:9",
        "rest_url": "http://127.0.0.1:9",
    }
    brokers = [{"name": "mock", "rate": 200, "symbols": names}, away]
    config = write_config(folder, database={"url": as_address(database_url)}, brokers=brokers)

    def look(window: Window) -> None:
        page = window.page
        window.until("document.querySelector('#chart-message').textContent.length > 0")
        assert page.evaluate(
            "[window.hit, document.images.length, document.querySelectorAll('b').length]"
        ) == [None, 0, 0]
        window.until(IS_LIVE)
        page.locator("#symbol").fill("sym0000")
        page.locator("#symbol").press("Enter")
        window.until("document.querySelector('#chart').dataset.close > 0")
        window.until("document.querySelector('#chart').dataset.shaded >= 10")
        window.until("document.querySelector('#gaps tbody').textContent.includes('10 min')")
        window.until("document.querySelector('#prices-message').textContent.includes('200 of 1')")
        window.until("document.querySelector('#brokers tbody').textContent.includes('binance')")
        window.until("/backoff|failed|starting/.test(document.querySelector('#brokers tbody').textContent)")
        waits_for_a_move(window)
        last = int(str(page.locator("#chart").get_attribute("data-last")))
        near = {time.strftime("%Y-%m-%d %H:%M:00 UTC", time.gmtime(last + 60 * n)) for n in (-1, 0, 1)}
        assert page.locator("#legend").inner_text()[:23] in near
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        everybody_can_use(window)

    async with open_daemon(config) as daemon:
        url = daemon.base + "/?symbol=%3Cimg%20src%3Dx%20onerror%3D%22hit%3D1%22%3E%3Cb%3E&timeframe=1m"
        context = {
            "color_scheme": "dark",
            "timezone_id": "Asia/Kolkata",
            "viewport": {"width": 390, "height": 800},
        }
        await browser.look(url, look, **context)


class Steps:
    """How far the page's thread has come, for the task that acts on the server."""

    def __init__(self) -> None:
        self._reached: set[str] = set()

    def reach(self, name: str) -> None:
        self._reached.add(name)

    async def reached(self, name: str) -> None:
        with trio.fail_after(60):
            while name not in self._reached:
                await trio.sleep(0.02)


async def test_a_key_is_asked_for_once_and_kept_for_the_tab(browser: Chromium, folder: Path) -> None:
    key, hash_ = new_key()
    auth = {"keys": [{"name": "desk", "hash": hash_}], "allow_anonymous": False}
    config = write_config(folder, server={"auth": auth}, database={"store": False}, brokers=[MOCK])

    def look(window: Window) -> None:
        page = window.page
        page.locator("#key-value").fill("wrong")
        page.locator("#key-value").press("Enter")
        window.until("document.querySelector('#key-reason').textContent.includes('not valid')")
        page.locator("#key-value").fill(key)
        page.locator("#key-value").press("Enter")
        window.until(IS_LIVE)
        window.until("document.querySelectorAll('#prices tbody tr').length === 1")
        window.until("document.querySelector('#chart-message').textContent.includes('database.store')")
        everybody_can_use(window)
        page.reload()
        window.until(IS_LIVE)
        assert not page.locator("#key").is_visible()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]

    async with open_daemon(config) as daemon:
        url = daemon.base + "/?symbol=EURUSD"
        await browser.look(url, look, color_scheme="dark", viewport={"width": 360, "height": 700})


def tries_a_request(window: Window) -> None:
    """Ask for the brokers on ``/docs``; the answer shows."""
    route = window.page.locator(".opblock", has_text="/api/brokers")
    route.locator(".opblock-summary-control").click()
    route.locator(".execute").click()
    status = route.locator(".live-responses-table .response-col_status").nth(1)
    status.wait_for()
    assert status.inner_text().strip() == "200"

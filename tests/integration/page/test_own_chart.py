"""The page of the tutorial, as it stands there, from another origin."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ..daemon import open_daemon, write_config
from .conftest import Chromium, Window, as_address, put_candles
from .test_page import MOCK, whole_minute

pytestmark = pytest.mark.serial  # a browser: it needs the machine

TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorial" / "own-chart.md"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_the_page_of_the_tutorial_draws_live_candles(
    browser: Chromium, folder: Path, database_url: str
) -> None:
    (text,) = re.findall(
        r"<!-- tested -->\n```html\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL
    )
    (folder / "site").mkdir()
    (folder / "site" / "chart.html").write_text(text, encoding="utf-8")
    put_candles(database_url, 300, end=whole_minute())

    def look(window: Window) -> None:
        last = "document.querySelector('#last').textContent"
        window.until(f"{last}.includes('1.0')")
        before = window.page.evaluate(last)
        window.until(f"{last} !== {before!r}")
        window.until("document.querySelector('#tv-attr-logo') !== null")
        assert [one for one in window.complaints if "favicon" not in one and "404 (" not in one] == []

    with served(folder / "site") as site:
        server = {"allowed_origins": [site]}
        config = write_config(
            folder, server=server, database={"url": as_address(database_url)}, brokers=[MOCK]
        )
        async with open_daemon(config) as daemon:
            await browser.look(f"{site}/chart.html?server={daemon.base}", look)

"""The example clients, run as their users would: Node with the package ws, and a page in a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio
from playwright.sync_api import sync_playwright

from .daemon import Daemon, open_daemon, write_config

EXAMPLES = Path(__file__).parents[2] / "examples"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def program(*names: str) -> str:
    """Return the path of the first that is installed; without any, skip, but fail where CI must have it."""
    for name in names:
        if found := shutil.which(name):
            return found
    message = f"{names[0]} is not installed"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example and the package ws from the npm registry."""
    npm = program("npm")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(EXAMPLES / "node-client.mjs", folder)
    subprocess.run([npm, "install", "--prefix", folder, "--no-save", "ws@8"], check=True, timeout=120)
    return folder


async def test_the_node_client_prints_ticks_and_misses_none(node_folder: Path, folder: Path) -> None:
    node = program("node")
    config = write_config(folder, database={"store": False})
    async with open_daemon(config) as daemon:
        done = await trio.run_process(
            [node, node_folder / "node-client.mjs", "EURUSD", "200", daemon.ws],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        lines = done.stdout.decode().splitlines()
        assert len(lines) == 200
        seqs = [int(line.rsplit("#", 1)[1]) for line in lines]
        assert seqs == list(range(seqs[0], seqs[0] + 200))
        wrong = await trio.run_process(
            [node, node_folder / "node-client.mjs", "EURUSD", "1", "ws://127.0.0.1:1/"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert wrong.returncode == 1
        assert b"cannot reach" in wrong.stderr


def look(daemon: Daemon, chromium: str) -> list[list[str]]:
    """Open the page, wait until its table moves, and return the table's cells."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page()
        page.goto(f"{(EXAMPLES / 'browser.html').as_uri()}?symbols=EURUSD,GBPUSD&url={daemon.ws}")
        page.wait_for_function("document.querySelectorAll('#ticks tr').length === 2")
        first = page.locator("#ticks tr >> nth=0 >> td >> nth=4").inner_text()
        page.wait_for_function(
            f"document.querySelector('#ticks tr td:nth-child(5)').textContent !== '{first}'"
        )
        rows = page.locator("#ticks tr")
        cells = [rows.nth(i).locator("td").all_inner_texts() for i in range(2)]
        state = page.locator("#state").inner_text()
        browser.close()
    assert state == f"connected to {daemon.ws}"
    return cells


async def test_a_page_in_a_browser_shows_live_ticks(folder: Path) -> None:
    chromium = program("chromium", "chromium-browser", "google-chrome")
    brokers = [{"name": "mock", "rate": 100}]
    # What a browser sends for a page from the disk.
    server = {"allowed_origins": ["null", "file://"]}
    config = write_config(folder, database={"store": False}, brokers=brokers, server=server)
    async with open_daemon(config) as daemon:
        cells = await trio.to_thread.run_sync(partial(look, daemon, chromium))
    assert sorted(row[0] for row in cells) == ["EURUSD", "GBPUSD"]
    for row in cells:
        assert 0 < float(row[1]) <= float(row[2])

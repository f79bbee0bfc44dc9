"""``mdserver watch`` before a real server."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from mdserver.keys import new_key
from tests.mdserver_process import MdserverProcess, open_mdserver

from .daemon import clean_environment, open_daemon, write_config


@asynccontextmanager
async def watching(*arguments: str, **environment: str) -> AsyncIterator[MdserverProcess]:
    process = await open_mdserver(["watch", *arguments], clean_environment() | environment)
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


class Reader:
    """Reads lines of JSON."""

    def __init__(self, process: MdserverProcess) -> None:
        self._process = process
        self._rest = b""

    async def records(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with trio.fail_after(60):
            while len(found) < count:
                line, newline, rest = self._rest.partition(b"\n")
                if newline:
                    self._rest = rest
                    found.append(json.loads(line))
                else:
                    self._rest += await self._process.stdout.receive_some()
        return found


async def ended(process: MdserverProcess) -> tuple[int, str]:
    text = b""
    with trio.fail_after(60):
        async for chunk in process.stderr:
            text += chunk
        return await process.wait(), text.decode()


async def test_lines_go_on_behind_the_last_record_of_a_killed_server(folder: Path) -> None:
    config = write_config(folder)
    async with open_daemon(config) as first:
        url = first.base
        async with watching("mock:EURUSD", "--json", "--url", url) as process:
            reader = Reader(process)
            records = await reader.records(200)
            await first.stop(signal.SIGKILL)
            async with open_daemon(config, options=["--port", url.rsplit(":", 1)[1]]):
                records += await reader.records(1_000)
            seqs = [record["seq"] for record in records]
            assert seqs == list(range(seqs[0], seqs[0] + 1_200))


async def test_the_key_is_sent_and_a_lack_of_it_is_an_error(folder: Path) -> None:
    key, hash_ = new_key()
    auth = {"keys": [{"name": "desk", "hash": hash_}], "allow_anonymous": False}
    config = write_config(folder, server={"auth": auth}, database={"store": False})
    async with open_daemon(config) as daemon:
        arguments = ("EURUSD", "--count", "2", "--url", daemon.ws)
        async with watching(*arguments, MDSERVER_KEY=key) as process:
            assert (await ended(process))[0] == 0
        async with watching(*arguments, "--key", key) as process:
            assert (await ended(process))[0] == 0
        async with watching(*arguments) as process:
            code, text = await ended(process)
            assert (code, text.startswith("mdserver: error 401")) == (1, True), text
        async with watching(*arguments, "--key", "wrong") as process:
            code, text = await ended(process)
            assert (code, text.startswith("mdserver: error 402")) == (1, True), text


async def test_a_server_that_is_not_there_and_a_broker_that_is_not_there_end_it(folder: Path) -> None:
    async with watching("EURUSD", "--url", "ws://127.0.0.1:1/") as process:
        code, text = await ended(process)
        assert (code, "cannot connect" in text) == (1, True)
    async with open_daemon(write_config(folder, database={"store": False})) as daemon:
        async with watching("EURUSD", "nowhere:GBPUSD", "--url", daemon.ws) as process:
            code, text = await ended(process)
            assert (code, 'unknown broker "nowhere"' in text) == (1, True)


async def test_a_terminal_gets_a_table(folder: Path) -> None:
    async with open_daemon(write_config(folder, database={"store": False})) as daemon:
        ours, theirs = pty.openpty()
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "mdserver", "watch", "EURUSD", "--url", daemon.ws],
            stdout=theirs,
            stderr=theirs,
            env=clean_environment() | {"TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        shown = b""
        with trio.fail_after(60):
            while not (b"spread" in shown and b"live" in shown and b"1.0" in shown):
                shown += await trio.to_thread.run_sync(os.read, ours, 4_096)
        process.send_signal(signal.SIGINT)
        with trio.fail_after(60):
            assert await process.wait() == 130
        os.close(ours)

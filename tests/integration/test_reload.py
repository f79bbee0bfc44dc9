"""SIGHUP: a changed config is taken over by a real server while a client of it goes on."""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.keys import new_key
from mdserver.net import open_websocket

from .daemon import Daemon, open_daemon, write_config
from .test_daemon import broken_distribution

CERTIFICATES = Path(__file__).parents[1] / "component" / "tls"
MOCK = {"name": "mock", "rate": 200, "symbols": ["EURUSD"]}

KEYED = """
import attrs, trio, mdserver.plugin as p
from mdserver.errors import Rejected
@attrs.frozen
class C:
    api_key: str = ""
class Keyed:
    def __init__(self, config): self.config = config
    async def run(self, host, *, task_status):
        if self.config.api_key != 'the-right-key':
            raise Rejected(f'the venue refuses the key {self.config.api_key}')
        task_status.started()
        await trio.sleep_forever()
plugin = p.BrokerPlugin('keyed', '', C, Keyed, silence_s=None)
"""


def config_of(folder: Path, *brokers: Any, **sections: Any) -> Path:
    return write_config(folder, brokers=list(brokers), database={"store": False}, **sections)


async def reload(daemon: Daemon, event: str = "the config was reloaded") -> dict[str, Any]:
    """Have the config read again; return the line that tells its end."""
    after = len(daemon.lines)
    daemon.process.send_signal(signal.SIGHUP)
    return await daemon.wait_log(event, after=after)


async def brokers_of(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {one["broker"]: one for one in (await daemon.get("/api/brokers")).json()["brokers"]}


async def broker_in(daemon: Daemon, name: str, state: str) -> dict[str, Any]:
    with trio.fail_after(60):
        while (found := (await brokers_of(daemon))[name])["state"] != state:
            await trio.sleep(0.05)
    return found


class Watching:
    """A client of one connection."""

    def __init__(self, ws: Any) -> None:
        self._ws = ws
        self._early: list[dict[str, Any]] = []

    async def until(self, met: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Return all messages up to the first that meets a condition."""
        seen: list[dict[str, Any]] = []
        with trio.fail_after(60):
            while True:
                messages, self._early = self._early or list(map(json.loads, await self._ws.receive())), []
                for place, message in enumerate(messages):
                    seen.append(message)
                    if met(message):
                        self._early = messages[place + 1 :]
                        return seen

    async def subscribe(self, symbol: str, **fields: Any) -> dict[str, Any]:
        request = {"action": "subscribe", "symbols": [symbol], "id": symbol, **fields}
        await self._ws.send(json.dumps(request))
        return (await self.until(lambda m: m.get("id") == symbol))[-1]


def tick(message: dict[str, Any]) -> bool:
    return message["type"] == "tick"


async def test_brokers_come_go_and_change_while_a_client_of_another_goes_on(folder: Path) -> None:
    other = {"name": "other", "plugin": "mock", "rate": 10, "symbols": ["GBPUSD"]}
    config = config_of(folder, MOCK, other)
    async with open_daemon(config) as daemon, open_websocket(daemon.ws) as ws:
        client = Watching(ws)
        assert (await client.subscribe("EURUSD", broker="mock"))["results"][0]["broker"] == "mock"
        first = (await client.until(tick))[-1]["seq"]
        began = (await brokers_of(daemon))["mock"]["since"]

        third = {"name": "third", "plugin": "mock", "rate": 10, "symbols": ["USDJPY"]}
        config_of(folder, third, MOCK, {**other, "seed": 7})
        assert (await reload(daemon))["changed"] == ["brokers"]
        await broker_in(daemon, "third", "live")
        changed = await broker_in(daemon, "other", "live")
        assert any("its config has changed" in change["message"] for change in changed["changes"])
        assert list(await brokers_of(daemon)) == ["third", "mock", "other"]
        assert (await client.subscribe("USDJPY", broker="third"))["results"][0]["broker"] == "third"

        config_of(folder, MOCK, {**other, "enabled": False})
        await reload(daemon)
        assert list(await brokers_of(daemon)) == ["mock"]
        seen = await client.until(lambda m: "third was stopped" in json.dumps(m))
        assert (await brokers_of(daemon))["mock"]["since"] == began
        ticks = [m for m in seen + await client.until(tick) if tick(m) and m["broker"] == "mock"]
        assert [m["seq"] for m in ticks] == list(range(ticks[0]["seq"], ticks[-1]["seq"] + 1))
        assert ticks[-1]["seq"] > first
        assert await daemon.stop() == 0


async def test_a_change_of_settings_keeps_the_brokers_own_subscribers(folder: Path) -> None:
    config = config_of(folder, MOCK)
    async with open_daemon(config) as daemon, open_websocket(daemon.ws) as ws:
        client = Watching(ws)
        await client.subscribe("EURUSD")
        config_of(folder, {**MOCK, "seed": 2})
        seen = await client.until(tick)
        await reload(daemon)
        seen += await client.until(lambda m: m["type"] == "gap" and "to" in m)
        before = [m["seq"] for m in seen if tick(m)][-1]
        assert seen[-1]["cause"] == "restart"
        assert [m["state"] for m in seen if m.get("broker") == "mock" and "state" in m] == [
            "open",
            "starting",
            "starting",
            "live",
            "open",
        ]
        assert (await client.until(tick))[-1]["seq"] == before + 1
        assert await daemon.stop() == 0


async def test_symbols_change_without_a_new_session(folder: Path) -> None:
    config = config_of(folder, MOCK)
    async with open_daemon(config) as daemon:
        began = (await broker_in(daemon, "mock", "live"))["since"]
        config_of(folder, {**MOCK, "symbols": ["GBPUSD", "USDJPY"]})
        await reload(daemon)
        with trio.fail_after(60):
            while (found := (await brokers_of(daemon))["mock"])["active"] != 4:  # of ticks and trades
                await trio.sleep(0.05)
        assert (found["feeds"], found["since"]) == (4, began)
        assert await daemon.stop() == 0


async def test_a_bad_file_changes_nothing_and_the_log_says_why(folder: Path) -> None:
    config = config_of(folder, MOCK)
    async with open_daemon(config) as daemon:
        before = await broker_in(daemon, "mock", "live")
        for text, reason in (
            ("brokers: [{name: mock, rate: fast}]", 'found "fast", expected a number'),
            ("brokers: [", "expected"),
            ("", "is empty"),  # an editor or a copy that has begun
            ("brokers: [{name: nobody}]", 'there is no broker plugin "nobody"'),
        ):
            config.write_text(text)
            line = await reload(daemon, "the config was not reloaded")
            assert line["level"] == "error"
            assert any(reason in problem for problem in line["problems"]), line
        assert (await brokers_of(daemon))["mock"]["since"] == before["since"]
        assert await daemon.stop() == 0


async def test_what_only_a_restart_takes_over_is_named(folder: Path) -> None:
    config = config_of(folder, MOCK)
    async with open_daemon(config) as daemon:
        write_config(
            folder,
            brokers=[MOCK],
            data_dir=str(folder / "elsewhere"),
            database={"store": False, "url": "postgresql://me:hunter2hunter2@db/x"},
            log={"format": "json", "level": "debug"},
        )
        line = await reload(daemon, "these settings need a restart")
        assert (line["level"], line["settings"]) == ("warning", ["data_dir", "database.url"])
        assert not (folder / "elsewhere").exists()
        assert "hunter2" not in json.dumps(daemon.lines)
        assert await daemon.stop() == 0


async def test_a_changed_key_revives_what_was_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "keyed", KEYED)))
    config = config_of(folder, MOCK, {"name": "keyed", "api_key": "wrong-key-1"})
    async with open_daemon(config) as daemon:
        failed = await broker_in(daemon, "keyed", "failed")
        assert failed["last_error"] == "the venue refuses the key ***"
        config_of(folder, MOCK, {"name": "keyed", "api_key": "wrong-key-2"})
        await reload(daemon)
        with trio.fail_after(60):
            while len((await brokers_of(daemon))["keyed"]["errors"]) < 2:
                await trio.sleep(0.05)
        config_of(folder, MOCK, {"name": "keyed", "api_key": "the-right-key"})
        await reload(daemon)
        assert (await broker_in(daemon, "keyed", "live"))["attempt"] >= 3
        assert "wrong-key" not in json.dumps(daemon.lines)
        assert "the-right-key" not in json.dumps(daemon.lines)
        assert await daemon.stop() == 0


async def test_sighup_alone_revives_what_had_failed_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "keyed", KEYED)))
    config = config_of(folder, MOCK, {"name": "keyed", "api_key": "wrong-key-1"})
    async with open_daemon(config) as daemon:
        await broker_in(daemon, "keyed", "failed")
        began = (await broker_in(daemon, "mock", "live"))["since"]
        await reload(daemon)
        with trio.fail_after(60):
            while len((await brokers_of(daemon))["keyed"]["errors"]) < 2:
                await trio.sleep(0.05)
        assert (await brokers_of(daemon))["mock"]["since"] == began
        assert await daemon.stop() == 0


async def test_keys_are_taken_over_and_a_server_is_never_opened_by_mistake(folder: Path) -> None:
    config = config_of(folder, MOCK)
    async with open_daemon(config) as daemon:
        assert (await daemon.get("/api/brokers")).status_code == 200
        made = await trio.run_process(
            [sys.executable, "-m", "mdserver", "keys", "new", "desk", "--json"], capture_stdout=True
        )
        key = json.loads(made.stdout)
        config_of(folder, MOCK, server={"auth": {"keys": [{"name": "desk", "hash": key["hash"]}]}})
        assert (await reload(daemon))["changed"] == ["server.auth"]
        assert (await daemon.get("/api/brokers")).status_code == 401
        async with httpx2.AsyncClient(base_url=daemon.base) as http:
            headers = {"Authorization": f"Bearer {key['key']}"}
            assert (await http.get("/api/brokers", headers=headers)).status_code == 200
        config_of(folder, MOCK, server={"host": "0.0.0.0"})
        line = await reload(daemon, "the config was not reloaded")
        assert "allow_anonymous" in str(line["problems"])
        assert (await daemon.get("/api/brokers")).status_code == 401
        assert await daemon.stop() == 0


async def test_keys_limits_origins_and_a_brokers_key_change_at_once_and_who_may_stay_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "keyed", KEYED)))
    desk, other, new = [
        dict(zip(("key", "hash", "name"), (*new_key(), name), strict=True))
        for name in ("desk", "other", "new")
    ]

    def write(*names: dict[str, str], api_key: str, origin: str, per_minute: int) -> Path:
        keys = [{"name": key["name"], "hash": key["hash"]} for key in names]
        server = {"auth": {"keys": keys}, "allowed_origins": [origin], "requests_per_minute": per_minute}
        return config_of(folder, MOCK, {"name": "keyed", "api_key": api_key}, server=server)

    config = write(desk, other, api_key="wrong-key-1", origin="https://a.example", per_minute=10_000)
    async with (
        open_daemon(config) as daemon,
        open_websocket(daemon.ws, headers=[("Authorization", f"Bearer {desk['key']}")]) as stays,
        open_websocket(daemon.ws, headers=[("Authorization", f"Bearer {other['key']}")]) as goes,
        httpx2.AsyncClient(base_url=daemon.base) as http,
    ):

        async def status(key: dict[str, str], origin: str = "") -> int:
            headers = {"Authorization": f"Bearer {key['key']}"} | ({"Origin": origin} if origin else {})
            return (await http.get("/api/brokers", headers=headers)).status_code

        async def broker(name: str, state: str) -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {desk['key']}"}
            with trio.fail_after(60):
                while True:
                    brokers = (await http.get("/api/brokers", headers=headers)).json()["brokers"]
                    found: dict[str, Any] = next(one for one in brokers if one["broker"] == name)
                    if found["state"] == state:
                        return found
                    await trio.sleep(0.05)

        client = Watching(stays)
        await client.subscribe("EURUSD", broker="mock")
        seen = await client.until(tick)
        since = (await broker("mock", "live"))["since"]
        await broker("keyed", "failed")
        assert [await status(key) for key in (desk, other, new)] == [200, 200, 401]
        assert [await status(desk, f"https://{name}.example") for name in "ab"] == [200, 403]

        write(desk, new, api_key="the-right-key", origin="https://b.example", per_minute=10_000)
        line = await reload(daemon)
        assert line["changed"] == ["brokers", "server.allowed_origins", "server.auth"]
        assert [await status(key) for key in (desk, other, new)] == [200, 401, 200]
        assert [await status(desk, f"https://{name}.example") for name in "ab"] == [403, 200]
        await broker("keyed", "live")
        assert (await broker("mock", "live"))["since"] == since
        with trio.fail_after(60), contextlib.suppress(Unavailable):  # its key is gone
            while True:
                await goes.receive()

        write(desk, new, api_key="the-right-key", origin="https://b.example", per_minute=3)
        assert (await reload(daemon))["changed"] == ["server.requests_per_minute"]
        assert 429 in [await status(new) for _ in range(10)]
        with trio.fail_after(60):
            while sum(map(tick, seen)) < 300:
                seen += await client.until(tick)
        numbers = [m["seq"] for m in seen if tick(m)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert not any(m["type"] == "gap" for m in seen)
        assert await daemon.stop() == 0


async def test_a_server_in_development_follows_its_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_distribution(folder, "keyed", KEYED)))
    (code,) = folder.rglob("broken_keyed.py")
    config = config_of(folder, MOCK, {"name": "keyed", "api_key": "new-key-1"})
    async with open_daemon(config, options=["--reload"]) as daemon:
        await broker_in(daemon, "keyed", "failed")
        await daemon.wait_log("watching the config and the plugins")
        config_of(folder, MOCK, {"name": "keyed", "api_key": "the-right-key"})
        await broker_in(daemon, "keyed", "live")
        process = daemon.process.pid
        before, daemon.stdout = daemon.stdout, ""
        code.write_text(KEYED.replace("the-right-key", "another-key"))
        with trio.fail_after(60):
            while "/api/metadata" not in daemon.stdout:
                await trio.sleep(0.05)
        assert "/api/metadata" in before
        await broker_in(daemon, "keyed", "failed")
        assert daemon.process.pid == process
        assert await daemon.stop() == 0


async def served_certificate(daemon: Daemon) -> str:
    """Return which certificate new connections get."""
    host, port = daemon.base.removeprefix("https://").rsplit(":", 1)
    return await trio.to_thread.run_sync(ssl.get_server_certificate, (host, int(port)))


async def test_a_renewed_certificate_is_taken_over_and_a_bad_one_is_not(folder: Path) -> None:
    first, renewed = ((CERTIFICATES / f"{name}.pem").read_text() for name in ("localhost", "renewed"))
    files = folder / "cert.pem"
    files.write_text(first)
    config = config_of(folder, MOCK, server={"tls": {"certificate": str(files), "key": str(files)}})
    trusting = ssl.create_default_context(cafile=files)
    async with (
        open_daemon(config) as daemon,
        open_websocket(daemon.ws.replace("127.0.0.1", "localhost"), ssl_context=trusting) as ws,
    ):
        client = Watching(ws)
        await client.subscribe("EURUSD")
        seq = (await client.until(tick))[-1]["seq"]
        before = await served_certificate(daemon)
        assert before.strip() in first
        files.write_text(renewed)
        await reload(daemon)
        after = await served_certificate(daemon)
        assert after.strip() in renewed
        files.write_text("nonsense")
        line = await reload(daemon, "the config was not reloaded")
        assert "no certificate and its key" in str(line["problems"])
        assert await served_certificate(daemon) == after
        await ws.send('{"action":"ping"}')  # the client that came before goes on, through both reloads
        seen = [*await client.until(lambda m: m["type"] == "pong"), *await client.until(tick)]
        seqs = [m["seq"] for m in seen if tick(m)]
        assert seqs == list(range(seq + 1, seq + len(seqs) + 1))
        config_of(folder, MOCK)
        line = await reload(daemon, "these settings need a restart")
        assert line["settings"] == ["server.tls"]
        assert await served_certificate(daemon) == after
        assert await daemon.stop() == 0

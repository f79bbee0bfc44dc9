"""Checks of what the config names besides the database: brokers and their plugins, the address, the lake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import trio

from ...bus.status import CLOCKS_APART_S, clock_ahead_s, try_out
from ...config import Config, check_exposure
from ...errors import ConfigError, MdserverError, leaves
from ...redact import redact
from ...registry import command_names, installed_plugins
from ...web.server.tcp_server import open_listeners
from .finding import Finding, green, red, yellow

__all__ = ["check_address", "check_bus", "check_lake", "check_plugins"]

BUS_S = 10.0

LAKE_S = 60.0
"""How long the lake may take to answer; its own retries are within it."""
_SHOWN = 300
_OURSELVES = (sys.executable, "-m", "mdserver")


def check_plugins(config: Config | None, folders: tuple[Path, ...]) -> Iterator[Finding]:
    """Check that installed plugins load. One that the config names is needed. Blocking."""
    used = (
        set()
        if config is None
        else ({entry.plugin for entry in config.brokers} | {entry.plugin for entry in config.history})
    )
    found = installed_plugins(folders)
    broken = [plugin for plugin in found if plugin.problem is not None]
    for plugin in broken:
        text = f"{plugin.kind} {plugin.name} of {plugin.distribution} cannot be used: {plugin.problem}"
        if plugin.name in used:
            yield red("plugins", text, "repair or reinstall it, or take it out of the config")
        else:
            yield yellow("plugins", text, f"repair it, or pip uninstall {plugin.distribution}")
    if not broken:
        kinds = ("broker", "history", "command", "lake")
        counts = ", ".join(f"{sum(plugin.kind == kind for plugin in found)} {kind}" for kind in kinds)
        yield green("plugins", f"all load: {counts}")
    if config is not None and not any(entry.enabled for entry in config.brokers):
        yield yellow(
            "brokers",
            "none is enabled: nothing will be streamed",
            "add one under brokers, or set its enabled: true",
        )


async def check_address(config: Config, *, running: bool) -> list[Finding]:
    """Check who may connect, and that the port is free unless our server has it."""
    try:
        check_exposure(config.server)
        if not running:
            for listener in await open_listeners(config.server.hosts, config.server.port):
                await listener.aclose()
    except ConfigError as error:
        return [
            red("address", one, "see server in docs/reference/configuration.md") for one in error.problems
        ]
    where = " and ".join(f"{host}:{config.server.port}" for host in config.server.hosts)
    return [green("address", f"{where} is used by the running server" if running else f"{where} is free")]


async def check_bus(config: Config) -> list[Finding]:
    """Ask the bus one question."""
    if config.bus.url is None:
        return []
    try:
        from ...bus.redis_engine import (
            open_redis,
        )  # imported here: a library that a single server does not need
    except ImportError as error:
        return [
            red("bus", f"bus.url is set and its library is missing: {error}", "pip install 'mdserver[bus]'")
        ]
    parts = urlsplit(config.bus.url)
    where = f"{parts.hostname}:{parts.port or 6379}"
    try:
        # First alone: the client's own error names neither the address nor the reason.
        with trio.fail_after(BUS_S):
            await (await trio.open_tcp_stream(parts.hostname or "localhost", parts.port or 6379)).aclose()
    except (OSError, trio.TooSlowError) as error:
        why = str(error) or f"no answer within {BUS_S:.0f} s"
        return [red("bus", f"nobody answers at {where}: {why}", "start Redis or Valkey, or correct bus.url")]
    try:
        with trio.fail_after(BUS_S):
            async with open_redis(
                config.bus.url, name="mdserver-doctor", ca_file=config.bus.ca_file
            ) as engine:
                await try_out(engine)
                ahead_s = await clock_ahead_s(engine)
        text = f"{where} answers and lets us do all that is needed; this process is {config.bus.role}"
        return [green("bus", text), _judge_clock(ahead_s)]
    except* ConfigError as group:
        found = [red("bus", str(leaf), "correct bus.ca_file") for leaf in leaves(group)]
    except* (MdserverError, trio.TooSlowError) as group:
        why = "; ".join(str(leaf) or f"no answer within {BUS_S:.0f} s" for leaf in leaves(group))
        remedy = (
            "correct bus.url or what the text names; docs/howto/scale.md has the rights that the user needs"
        )
        found = [red("bus", redact(why), remedy)]
    return found


def _judge_clock(ahead_s: float) -> Finding:
    text = f"our clock and that of the bus differ by {abs(ahead_s):.1f} s"
    yellow_s, red_s = CLOCKS_APART_S
    if abs(ahead_s) < yellow_s:
        return green("bus clock", text)
    remedy = "set both by NTP: timedatectl set-ntp true (chrony, systemd-timesyncd); see which one is off with date -u"
    return (red if abs(ahead_s) >= red_s else yellow)("bus clock", text, remedy)


async def check_lake(config: Config, config_file: Path | None) -> list[Finding]:
    """Ask the lake's own command whether it can be read; it is a plugin that we do not import."""
    if config.lake.url is None:
        return []
    if "lake" not in command_names(config.plugin_folders):
        remedy = "pip install mdserver-lake, or take lake.url out of the config"
        return [red("lake", "lake.url is set and the plugin mdserver-lake is not installed", remedy)]
    file = [] if config_file is None else ["--config", str(config_file)]
    with trio.move_on_after(LAKE_S):
        ran = await trio.run_process(
            [*_OURSELVES, "run", "--data-dir", str(config.data_dir), "lake", "status", "--json", *file],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        return [_judge_lake(ran, config.lake.address or "")]
    return [
        red(
            "lake",
            f"{config.lake.address} did not answer within {LAKE_S:.0f} s",
            "see the network, and lake.endpoint",
        )
    ]


def _judge_lake(ran: subprocess.CompletedProcess[bytes], address: str) -> Finding:
    if ran.returncode == 0:
        return green("lake", f"{address} can be read")
    why = ran.stderr.decode(errors="replace").strip()
    if not why and ran.stdout.startswith(b"{"):
        why = str(json.loads(ran.stdout).get("stopped") or "it gave no reason")
    remedy = "docs/howto/data-lake.md; `mdserver run lake status` shows the same"
    return red("lake", redact(why[-_SHOWN:]), remedy)

"""What systemd is told over the socket ``NOTIFY_SOCKET``: ready, reloading, stopping, alive (``man sd_notify``)."""

from __future__ import annotations

import os
import socket
from time import monotonic_ns

import structlog

from ..log import RarelyLogged

__all__ = ["alive_every_s", "tell_alive", "tell_ready", "tell_reloading", "tell_stopping"]

_rarely = RarelyLogged(structlog.get_logger("mdserver"))


def tell_ready() -> None:
    """Tell that clients are served, or that a reload is done."""
    _tell("READY=1")


def tell_reloading() -> None:
    """Tell that the config is being read again; :func:`tell_ready` ends it."""
    _tell(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1_000}")


def tell_stopping() -> None:
    """Tell that the server stops in order."""
    _tell("STOPPING=1")


def tell_alive() -> None:
    """Tell that the event loop runs; systemd restarts a service that does not for ``WatchdogSec``."""
    _tell("WATCHDOG=1")


def alive_every_s() -> float | None:
    """Return how often systemd wants to be told, a third of its patience; None if it does not ask us."""
    patience_us = os.environ.get("WATCHDOG_USEC", "")
    if not patience_us.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(patience_us) / 3e6


def _tell(state: str) -> None:
    """Send a message to the service manager, if there is one; never blocks."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # a name without a file
        address = "\0" + address[1:]
    try:
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        ) as one:
            one.sendto(state.encode(), address)
    except OSError as error:
        _rarely.warning(
            "the service manager cannot be told the state", state=state.split("\n")[0], error=str(error)
        )

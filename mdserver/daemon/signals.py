"""Signals: the first one stops the server in order, the second one at once; SIGHUP reloads the config.

SIGHUP has two senders. An operator (``kill -HUP``, ``systemctl reload``) wants a reload. The kernel and the shell send
it when the terminal of a server in the foreground is closed; the server must then stop in order, or the embedded
database would be left running. The signals are equal, but in the second case the terminal no longer exists. A server
that was started under nohup goes on without its terminal.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import structlog
import trio

__all__ = ["watch_signals"]

CHECK_EVERY_S = 5.0
"""A terminal that disappeared longer ago is not the reason for a SIGHUP."""

_log = structlog.get_logger("mdserver")


async def watch_signals(
    stop: Callable[[], None], is_stopping: Callable[[], bool], reload: Callable[[], None]
) -> None:
    """Handle signals until cancelled. The second SIGINT or SIGTERM ends the process with exit code 130."""
    outlives_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    had_terminal = _has_terminal()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        while True:
            number = 0
            with trio.move_on_after(CHECK_EVERY_S):
                number = await anext(signals)
            has_terminal = _has_terminal()
            terminal_closed, had_terminal = had_terminal and not has_terminal, has_terminal
            if number == signal.SIGHUP and not terminal_closed:
                reload()
            elif number == signal.SIGHUP and outlives_terminal:
                _log.info("the terminal was closed: the server goes on, because it was started under nohup")
            elif number and is_stopping():
                _log.warning("second signal: the server ends at once", signal=number)
                os._exit(130)
            elif number:
                _log.info(
                    "the terminal was closed: stopping" if terminal_closed else "stopping",
                    signal=signal.Signals(number).name,
                )
                stop()


def _has_terminal() -> bool:
    """Return whether this process has a terminal that still exists."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False
    return True

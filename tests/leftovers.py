"""Ends what tests have left running: PostgreSQL in a folder, and all of a test process that was itself killed.

Run beside each test process as ``python leftovers.py TOKEN``: once its standard input is closed, which a killed process
cannot avoid, it ends what has the token in its environment and removes the folders that are named for it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

VARIABLE = "TESTS_TOKEN"
TOKEN = secrets.token_hex(4)
"""Names this test process."""
PREFIX = "mdserver-test-"
END_S = 20.0


def watch_over() -> Callable[[], None]:
    """Have what this process leaves behind ended when it ends; return what ends the watch."""
    os.environ[VARIABLE] = TOKEN
    command = [sys.executable, __file__, TOKEN]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def end() -> None:
        process.communicate(timeout=END_S)

    return end


def end_servers(folder: Path) -> None:
    """End the PostgreSQL servers whose clusters lie in a folder, frozen ones too."""
    import psutil

    for file in folder.rglob("postmaster.pid"):
        with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
            server = psutil.Process(int(file.read_text().split("\n")[0]))
            if str(file.parent) not in server.cmdline():
                continue  # the number is another's by now
            children = server.children()
            server.send_signal(signal.SIGQUIT)
            for process in (server, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
            try:
                server.wait(END_S)
            except psutil.TimeoutExpired:
                server.kill()


def main() -> None:
    """Wait for the end of the test process, then end what it has left behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the tests
    (token,) = sys.argv[1:]
    sys.stdin.read()
    import psutil  # imported here: only what is left behind needs it

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            theirs = process.pid != os.getpid() and process.environ().get(VARIABLE) == token
            if theirs and process.name() != "postgres":  # which is ended in order below
                process.kill()
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}{token}-*"):
        end_servers(folder)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

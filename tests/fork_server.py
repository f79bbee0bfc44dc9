"""Has imported mdserver, and forks a process of it for each request that comes over a socket.

Run by :mod:`tests.mdserver_process` as ``python fork_server.py DESCRIPTOR``. A fork is a process like any other, with
its own id, arguments, environment, folder and pipes, and ends as the command does. When the socket is closed, which is
when the tests end or are killed, what still runs is killed too.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from typing import Any

PRELOADED = (
    "mdserver.cli",
    "mdserver.daemon.daemon",
    "mdserver.daemon.file_watch",
    "mdserver.commands.context",
    "mdserver.commands.database_access",
    "mdserver.commands.importing.command",
    "mdserver.commands.watching.table",
    "mdserver_binance.broker",
    "mdserver_dukascopy.source",
    "mdserver_kraken.broker",
    "mdserver_mock.broker",
    "mdserver_oanda.broker",
)
"""What nearly every process of mdserver imports; the rest it imports itself, as the command does."""

REQUEST_BYTES = 1 << 20


class ForkServer:
    """Forks on request; ``children`` are those that run, each with the socket that is told its end."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._ended, ended = socket.socketpair()
        ended.setblocking(False)
        signal.set_wakeup_fd(ended.fileno(), warn_on_full_buffer=False)
        self._wakeup = ended
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the tests, which end us
        self.children: dict[int, socket.socket] = {}

    def serve(self) -> dict[str, Any] | None:
        """Serve requests; return in each fork, with its request, and once in this process, with None, at the end."""
        while True:
            ready, _, _ = select.select([self._requests, self._ended], [], [])
            if self._ended in ready:
                self._ended.recv(4096)
                self._reap()
            if self._requests in ready:
                message, descriptors, _, _ = socket.recv_fds(self._requests, REQUEST_BYTES, 4)
                if not message:
                    return None
                request: dict[str, Any] = json.loads(message)
                if self._fork(descriptors):
                    return request

    def _fork(self, descriptors: list[int]) -> bool:
        """Fork; return True in the new process, which has the first three of the descriptors as its own."""
        *standard, told = descriptors
        pid = os.fork()
        if pid:
            for descriptor in standard:
                os.close(descriptor)
            self.children[pid] = socket.socket(fileno=told)
            self._tell(self.children[pid], pid)
            return False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for wanted, descriptor in enumerate(standard):
            os.dup2(descriptor, wanted)
        for descriptor in descriptors:
            os.close(descriptor)
        for mine in (self._requests, self._ended, self._wakeup, *self.children.values()):
            mine.close()
        self.children.clear()
        return True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                with self.children.pop(pid) as told:
                    self._tell(told, os.waitstatus_to_exitcode(status))

    @staticmethod
    def _tell(told: socket.socket, number: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody wants to know any more
            told.sendall(number.to_bytes(4, "big", signed=True))


def become(request: dict[str, Any], import_path: list[str]) -> int:
    """Be what ``python -m mdserver`` is with the request's arguments; return the exit code."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    more = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:] = [request["folder"], *more, *import_path]
    importlib.invalidate_caches()
    from mdserver import __main__ as program

    sys.argv = [str(program.__file__), *request["arguments"]]
    sys.orig_argv = [sys.executable, "-m", "mdserver", *request["arguments"]]
    return program.main()


def main() -> int:
    """Serve until the socket is closed; in a fork, run it."""
    del sys.path[0]  # the folder of this file
    import_path = list(sys.path)
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    request = server.serve()
    if request is not None:
        return become(request, import_path)
    for pid in server.children:
        os.kill(pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())

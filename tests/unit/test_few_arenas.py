"""Threads of a command share their memory: asked of the C library itself, in a process of its own."""

import platform
import subprocess
import sys

import pytest

CODE = """
import ctypes, threading
from mdserver.commands.context import Invocation

async def work():
    together = threading.Barrier(6)
    def allocate():
        held = bytearray(50_000)
        together.wait(30)
    threads = [threading.Thread(target=allocate) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

invocation = Invocation()
invocation.is_command = True
invocation.run(work)
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such setting")
@pytest.mark.parametrize(("environment", "arenas"), [({}, 2), ({"MALLOC_ARENA_MAX": "4"}, 4)])
def test_the_threads_of_a_command_share_two_arenas(environment: dict[str, str], arenas: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.stdout.count("<heap nr=") == arenas

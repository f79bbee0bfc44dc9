"""A private socket in the data folder, over which commands reach the server that runs there.

Whoever can open the socket (mode 0600: the server's user, and root) may use every request; there are no keys. A
connection carries one request and one answer, each a line of JSON. The answer has either ``result`` or ``error``.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from .errors import Rejected, Unavailable

__all__ = ["FILE_NAME", "MAX_BYTES", "NoServer", "ask_server", "open_control_listener", "receive_line"]

FILE_NAME = "control.sock"
MAX_BYTES = 16 * 1024 * 1024
"""The longest answer; a request takes far less."""

_LONGEST_PATH = 100
"""The most bytes of a socket's path; the kernel allows 107."""


class NoServer(Unavailable):
    """No server runs with this data folder."""


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """Yield a path of the socket that is short enough; a long folder is addressed by its descriptor."""
    path = str(folder / FILE_NAME)
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield path
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{FILE_NAME}"
    finally:
        os.close(descriptor)


async def open_control_listener(folder: Path) -> trio.SocketListener:
    """Return the listener of a server that owns its data folder; the socket of a killed server is replaced.

    Raises OSError if the socket cannot be made, or if something else has its name.
    """
    path = folder / FILE_NAME
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} is not a socket, expected the server's control socket or nothing")
        path.unlink()
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(
            sock.fileno(), 0o600
        )  # before it has a name, so that no other user can connect, not even for a moment
        with _address(folder) as address:
            await sock.bind(address)
        path.chmod(0o600)
        sock.listen(16)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(sock)


async def receive_line(stream: trio.abc.ReceiveStream, most_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes up to a line feed or the end. Raises ValueError if they are too many."""
    received = bytearray()
    while not received.endswith(b"\n"):
        chunk = await stream.receive_some(65_536)
        if not chunk:
            break
        received += chunk
        if len(received) > most_bytes:
            raise ValueError(f"found more than {most_bytes} bytes, expected a line of JSON")
    return bytes(received)


async def ask_server(folder: Path, request: dict[str, Any], *, wait_s: float) -> Any:
    """Return the result of a request to the server that runs with a data folder.

    If this is cancelled or times out, the server stops its work on the request too. Raises NoServer if no server runs
    there, Unavailable if it does not answer within ``wait_s``, and Rejected with its message if it refuses.
    """
    try:
        with trio.fail_after(wait_s), _address(folder) as address:
            async with await trio.open_unix_socket(address) as stream:
                await stream.send_all(msgspec.json.encode(request) + b"\n")
                line = await receive_line(stream)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoServer(f"no server runs with the data folder {folder}") from None
    except PermissionError:
        raise Unavailable(
            f"the server with the data folder {folder} belongs to another user: run the command as that user"
        ) from None
    except trio.TooSlowError:
        raise Unavailable(f"the server did not answer within {wait_s:g} s") from None
    except OSError as error:
        raise Unavailable(f"the server cannot be reached: {error}") from error
    if not line:
        raise Unavailable("the server ended before it had answered")
    answer = msgspec.json.decode(line)
    if "error" in answer:
        raise Rejected(answer["error"])
    return answer["result"]

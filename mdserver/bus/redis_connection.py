"""A connection to Redis for what is on the path of every record: a few commands at once, with as few steps as can be.

A client of Redis that can do all else takes longer over one call than everything that is left to do with a record.
Here the protocol is hiredis', Redis' own parser; the handshake is three commands, and nothing is tried twice.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
import trio

__all__ = ["Command", "RedisConnection", "RedisRefusal", "RedisUrl", "connect"]

Command = tuple[str | bytes | int, ...]

RECEIVED_BYTES = 1 << 18
"""Read at once."""

CLOSED = "Connection lost"
"""What the error says of a connection that was closed without an answer."""


class RedisRefusal(Exception):
    """Redis answered a command with an error; its text begins with the error's code."""


class RedisUrl(NamedTuple):
    """Where Redis is and who connects; ``tls``: None without."""

    host: str
    port: int
    database: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None
    name: str
    """Shows in the engine's list of clients."""

    def handshake(self) -> list[Command]:
        """Return what has to be said first."""
        commands: list[Command] = []
        if self.password is not None:
            commands.append(("AUTH", *([self.username] if self.username else []), self.password))
        commands.append(("CLIENT", "SETNAME", self.name))
        if self.database:
            commands.append(("SELECT", self.database))
        return commands


async def connect(url: RedisUrl) -> RedisConnection:
    """Connect and introduce ourselves. Raises OSError, or RedisRefusal of the credentials."""
    connection = RedisConnection(await trio.open_tcp_stream(url.host, url.port), url)
    try:
        await connection.ask(url.handshake())
    except BaseException:
        connection.close()
        raise
    return connection


class RedisConnection:
    """One connection, for one caller at a time. After an error or a cancellation it is of no use: :meth:`close` it."""

    def __init__(self, stream: trio.SocketStream, url: RedisUrl) -> None:
        self._socket = stream.socket
        self._stream: trio.abc.Stream = stream
        if url.tls is not None:
            self._stream = trio.SSLStream(stream, url.tls, server_hostname=url.host, https_compatible=True)
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)

    @property
    def is_usable(self) -> bool:
        """Whether an idle connection is open and silent: what Redis says unasked would be taken for an answer."""
        return not self._reader.has_data() and not self._poll.poll(0)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once and return the answer to each: bytes, an int, None or a list of these.

        Raises RedisRefusal of the first one that Redis refuses, once all are answered or the connection breaks: Redis
        may say why it closes it. Raises OSError where it breaks, or the other side does not speak Redis' protocol.
        """
        answers: list[Any] = []
        try:
            await self._stream.send_all(b"".join(map(_pack, commands)))
            while len(answers) < len(commands):
                answer = self._reader.gets()
                if answer is not _INCOMPLETE:
                    answers.append(answer)
                    continue
                received = await self._stream.receive_some(RECEIVED_BYTES)
                if not received:
                    _refuse(answers)
                    raise ConnectionError(CLOSED)
                self._reader.feed(bytes(received))
        except trio.BrokenResourceError as error:
            _refuse(answers)
            # not its cause itself, which would then be a cause of its own; an error of TLS is an OSError
            why = str(error.__cause__) if isinstance(error.__cause__, OSError) else CLOSED
            raise ConnectionError(why) from error
        except hiredis.ProtocolError as error:
            raise ConnectionError(f"what answers there is not Redis: {error}") from error
        _refuse(answers)
        return answers

    def close(self) -> None:
        """Close the connection at once."""
        self._socket.close()


def _refuse(answers: Sequence[Any]) -> None:
    for answer in answers:
        if isinstance(answer, hiredis.ReplyError):
            raise RedisRefusal(str(answer))


def _pack(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # annotated as a tuple of one
    return packed


_INCOMPLETE = object()

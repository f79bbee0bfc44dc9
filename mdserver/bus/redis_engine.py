"""The bus over Redis or Valkey: streams for batches, keys that expire for leases and demand.

coredis does what is done now and then. What is done for each batch, appending and reading, has connections of its own:
a call of coredis costs several times what an edge otherwise does with a record.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import coredis
import trio
from coredis import PureToken
from coredis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    RedisError,
    ResponseError,
)
from coredis.exceptions import ConnectionError as CoredisConnectionError

from ..errors import leaves
from .authorities import trusting
from .engine import BusMisused, BusUnavailable, Deposed, Entry, Held, Position, Size
from .redis_connection import CLOSED, Command, RedisConnection, RedisRefusal, RedisUrl, connect

__all__ = ["RedisEngine", "open_redis"]

CALL_S = 3.0
"""Bound on one call, besides what it waits for on purpose."""

_FRAME = b"f"

_TROUBLE = (RedisError, RedisRefusal, OSError)
_CREDENTIALS = ("NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH", "ERR ACL failure in script")

_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"

_APPEND = """
for at = 3, #ARGV do
  redis.call('xadd', KEYS[1], ARGV[1] .. '-' .. (ARGV[2] + at - 3), 'f', ARGV[at])
end
"""
"""All or nothing where memory ends, and nothing behind what is refused. With a command for each frame, Redis takes
frames again as soon as another client has freed memory, and those between are missing.
"""

_GET_ALL = """
local found = {}
for _, name in ipairs(redis.call('smembers', KEYS[1])) do
  local value = redis.call('get', KEYS[1] .. name)
  if value then
    found[#found + 1] = name
    found[#found + 1] = value
  else
    redis.call('srem', KEYS[1], name)
  end
end
return found
"""
"""Forgets the names whose keys have expired; at once with reading, so that none is lost that is set meanwhile."""


@asynccontextmanager
async def open_redis(
    url: str, *, name: str = "mdserver", ca_file: Path | None = None
) -> AsyncIterator[RedisEngine]:
    """Open an engine at ``redis://[user:password@]host[:port][/db]`` or ``rediss://`` (TLS). Connects when it is used.

    ``name`` shows in the engine's list of clients. ``ca_file`` holds the only authorities whose certificates are
    trusted, None: those of the machine. Raises ConfigError where it cannot be read.
    """
    parts = urlsplit(url)
    given = RedisUrl(
        parts.hostname or "localhost",
        parts.port or 6379,
        int(parts.path.strip("/") or 0),
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        trusting(ca_file) if parts.scheme == "rediss" else None,
        name,
    )
    client = coredis.Redis(
        given.host,
        given.port,
        given.database,
        username=given.username,
        password=given.password,
        ssl_context=given.tls,
        connect_timeout=CALL_S,
        stream_timeout=None,
        client_name=name,
        retry_policy=coredis.retry.NoRetryPolicy(),
        verify_version=False,
    )
    async with client:
        engine = RedisEngine(client, given)
        try:
            yield engine
        finally:
            engine.close()


class RedisEngine:
    """A :class:`.engine.BusEngine`; made by :func:`open_redis`. ``where`` names it in messages, without secrets."""

    def __init__(self, client: coredis.Redis[bytes], url: RedisUrl) -> None:
        self.where = f"{url.host}:{url.port}{'' if url.tls is None else ' (TLS)'}"
        self._client = client
        self._url = url
        self._idle: list[RedisConnection] = []
        self._is_closed = False

    def close(self) -> None:
        """Close the connections that nobody uses now, and each other one after its use."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def append(self, stream: str, first: Position, frames: Sequence[bytes]) -> None:
        """See :meth:`.engine.BusEngine.append`."""
        command: Command
        if len(frames) == 1:
            command = ("XADD", stream, str(first), _FRAME, frames[0])
        else:
            command = ("EVAL", _APPEND, 1, stream, first.fence, first.number, *frames)
        with self._plain(f"append to {stream}"):
            await self._ask(command)

    async def read(
        self, positions: Mapping[str, Position], *, most: int, wait_s: float
    ) -> dict[str, list[Entry]]:
        """See :meth:`.engine.BusEngine.read`."""
        command: Command = (
            *("XREAD", "COUNT", most, "BLOCK", max(1, int(wait_s * 1000)), "STREAMS"),
            *positions,
            *(str(after) for after in positions.values()),
        )
        with self._plain("read", wait_s):
            found = await self._ask(command)
        return {
            stream.decode(): [Entry(_position(identifier), _frame(fields)) for identifier, fields in entries]
            for stream, entries in found or ()
        }

    async def _ask(self, command: Command) -> Any:
        """Have a command answered on a connection of our own, a new one where none is idle."""
        connection = None
        while self._idle and connection is None:
            connection = self._idle.pop()
            if not connection.is_usable:
                connection.close()
                connection = None
        if connection is None:
            connection = await connect(self._url)
        try:
            (answer,) = await connection.ask([command])
        except BaseException:  # an answer may still come that the next caller would take for its own
            connection.close()
            raise
        if self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)
        return answer

    async def edges(self, stream: str) -> tuple[Position, Position] | None:
        """See :meth:`.engine.BusEngine.edges`."""
        with self._plain(f"read {stream}"):
            oldest = await self._client.xrange(stream, count=1)
            newest = await self._client.xrevrange(stream, count=1)
        if not oldest or not newest:
            return None
        return _position(oldest[0].identifier), _position(newest[0].identifier)

    async def trim(self, stream: str, before: Position) -> None:
        """See :meth:`.engine.BusEngine.trim`."""
        with self._plain(f"trim {stream}"):
            await self._client.xtrim(
                stream,
                PureToken.MINID,
                trim_operator=PureToken.APPROXIMATELY,
                threshold=str(before),  # type: ignore[arg-type] # an id, which its annotation forgets
            )

    async def acquire(self, lease: str, holder: str, ttl_s: float, stream: str) -> int | None:
        """See :meth:`.engine.BusEngine.acquire`."""
        with self._plain(f"take the lease {lease}"):
            if not await self._client.set(lease, holder, condition=PureToken.NX, px=int(ttl_s * 1000)):
                return None
            fence = await self._client.incr(f"{lease}:fence")
        newest = await self.edges(stream)
        if newest is not None and newest[1].fence >= fence:  # the engine has lost its keys, or a part of them
            fence = newest[1].fence + 1
            with self._plain(f"take the lease {lease}"):
                await self._client.set(f"{lease}:fence", str(fence))
        return fence

    async def renew(self, lease: str, holder: str, ttl_s: float) -> bool:
        """See :meth:`.engine.BusEngine.renew`."""
        with self._plain(f"renew the lease {lease}"):
            return bool(await self._client.eval(_RENEW, keys=[lease], args=[holder, int(ttl_s * 1000)]))

    async def release(self, lease: str, holder: str) -> None:
        """See :meth:`.engine.BusEngine.release`."""
        with self._plain(f"release the lease {lease}"):
            await self._client.eval(_RELEASE, keys=[lease], args=[holder])

    async def lease(self, lease: str) -> Held | None:
        """See :meth:`.engine.BusEngine.lease`."""
        with self._plain(f"read the lease {lease}"):
            holder = await self._client.get(lease)
            left_ms = await self._client.pttl(lease)
        return None if holder is None else Held(holder.decode(), max(0.0, left_ms / 1000))

    async def size(self, stream: str) -> Size:
        """See :meth:`.engine.BusEngine.size`."""
        with self._plain(f"read the size of {stream}"):
            entries = await self._client.xlen(stream)
            used = await self._client.memory_usage(stream)
        return Size(entries, used or 0)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """See :meth:`.engine.BusEngine.put`."""
        with self._plain(f"set {key}"):
            await self._client.set(key, value, px=int(ttl_s * 1000))

    async def get(self, key: str) -> bytes | None:
        """See :meth:`.engine.BusEngine.get`."""
        with self._plain(f"read {key}"):
            return await self._client.get(key)

    async def put_in(self, group: str, name: str, value: bytes, ttl_s: float) -> None:
        """See :meth:`.engine.BusEngine.put_in`. The names are in a set, whose key is the group's."""
        with self._plain(f"set {group}{name}"):
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.set(group + name, value, px=int(ttl_s * 1000))
                pipe.sadd(group, [name])

    async def get_all(self, group: str) -> dict[str, bytes]:
        """See :meth:`.engine.BusEngine.get_all`."""
        with self._plain(f"read {group}"):
            found = cast("list[bytes]", await self._client.eval(_GET_ALL, keys=[group]))
        return {name.decode(): value for name, value in zip(found[::2], found[1::2], strict=True)}

    async def forget(self, key: str) -> None:
        """See :meth:`.engine.BusEngine.forget`."""
        with self._plain(f"delete {key}"):
            await self._client.delete([key])

    async def clock_s(self) -> float:
        """See :meth:`.engine.BusEngine.clock_s`."""
        with self._plain("read its clock"):  # not coredis' time(), which is wrong by up to a second
            seconds, us = cast("list[bytes]", await self._client.eval("return redis.call('time')"))
            return int(seconds) + int(us) / 1_000_000

    @contextmanager
    def _plain(self, doing: str, wait_s: float = 0.0) -> Iterator[None]:
        """Bound a call, and turn the client's errors into ours."""
        with trio.move_on_after(wait_s + CALL_S) as bound:
            try:
                yield
            except BaseExceptionGroup as group:
                errors = list(leaves(group))
                if not all(isinstance(error, _TROUBLE) for error in errors):
                    raise
                raise self._error(doing, errors[0]) from group
            except _TROUBLE as error:
                raise self._error(doing, error) from error
        if bound.cancelled_caught:
            raise BusUnavailable(
                f"Redis at {self.where} did not answer within {wait_s + CALL_S:.0f} s: {doing}"
            )

    def _error(self, doing: str, error: BaseException) -> Exception:
        text = str(error)
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return BusMisused(
                    f"the certificate of Redis at {self.where} is not trusted: {cause.verify_message}; the authority "
                    "that signed it belongs into bus.ca_file"
                )
            if isinstance(cause, ssl.SSLError):
                return BusUnavailable(f"Redis at {self.where} cannot be reached by TLS: {cause}")
        if "of pipeline caused error: " in text:  # what stands before it repeats the data
            text = text.rpartition("of pipeline caused error: ")[2]
        if "equal or smaller than the target stream top item" in text:
            return Deposed(f"{doing}: another process leads")
        if "wrong kind of value" in text:
            return BusMisused(
                f"Redis at {self.where} cannot {doing}: a key of that name holds something else; delete it, or give "
                "the bus a database number of its own"
            )
        if isinstance(error, AuthenticationError | AuthorizationError) or text.startswith(_CREDENTIALS):
            return BusMisused(f"Redis at {self.where} refuses to {doing}: {text}")
        if "OOM" in text:
            return BusUnavailable(
                f"Redis at {self.where} cannot {doing}: its memory is full; it needs a maxmemory above bus.keep_bytes "
                "of all brokers"
            )
        if CLOSED in text:
            return BusUnavailable(
                f"Redis at {self.where} cannot be reached: the connection was closed without an answer; if that goes "
                "on, something else listens there, or TLS is where bus.url has none"
            )
        if isinstance(error, CoredisConnectionError | OSError):
            why = [str(cause) for cause in _causes(error) if isinstance(cause, OSError) and str(cause)]
            return BusUnavailable(f"Redis at {self.where} cannot be reached: {(why or [text])[-1]}")
        if isinstance(error, ResponseError | RedisRefusal) and "LOADING" not in text:
            return BusUnavailable(f"Redis at {self.where} cannot {doing}: {text}")
        return BusUnavailable(f"Redis at {self.where} cannot {doing} now: {text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, each once: they may go round in a circle."""
    cause: BaseException | None = error
    seen: set[BaseException] = set()
    while cause is not None and cause not in seen:
        yield cause
        seen.add(cause)
        cause = cause.__cause__ or cause.__context__
        if isinstance(cause, BaseExceptionGroup):  # of several addresses
            cause = next(leaves(cause))


def _position(identifier: str | bytes) -> Position:
    fence, number = identifier.split("-") if isinstance(identifier, str) else identifier.split(b"-")
    return Position(int(fence), int(number))


def _frame(fields: Sequence[bytes]) -> bytes:
    """Return the frame of an entry; what is not ours may have none."""
    if fields[0] == _FRAME:
        return fields[1]
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(_FRAME, b"")

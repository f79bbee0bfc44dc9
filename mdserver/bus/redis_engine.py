"""The bus over Redis or Valkey, through coredis: streams for batches, keys that expire for leases and demand."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast
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

__all__ = ["RedisEngine", "open_redis"]

CALL_S = 3.0
"""Bound on one call, besides what it waits for on purpose."""

_FRAME = b"f"

_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"

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
    where = f"{parts.hostname}:{parts.port or 6379}"
    client = coredis.Redis(
        parts.hostname or "localhost",
        parts.port or 6379,
        int(parts.path.strip("/") or 0),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ssl_context=trusting(ca_file) if parts.scheme == "rediss" else None,
        connect_timeout=CALL_S,
        stream_timeout=None,
        client_name=name,
        retry_policy=coredis.retry.NoRetryPolicy(),
        verify_version=False,
    )
    async with client:
        yield RedisEngine(client, f"{where} (TLS)" if parts.scheme == "rediss" else where)


class RedisEngine:
    """A :class:`.engine.BusEngine`; made by :func:`open_redis`. ``where`` names it in messages, without secrets."""

    def __init__(self, client: coredis.Redis[bytes], where: str) -> None:
        self.where = where
        self._client = client

    async def append(self, stream: str, first: Position, frames: Sequence[bytes]) -> None:
        """See :meth:`.engine.BusEngine.append`."""
        with self._plain(f"append to {stream}"):
            async with self._client.pipeline(transaction=False) as pipe:
                for offset, frame in enumerate(frames):
                    pipe.xadd(
                        stream,
                        field_values={_FRAME: bytes(frame)},
                        identifier=f"{first.fence}-{first.number + offset}",
                    )

    async def read(
        self, positions: Mapping[str, Position], *, most: int, wait_s: float
    ) -> dict[str, list[Entry]]:
        """See :meth:`.engine.BusEngine.read`."""
        asked: dict[str | bytes, str | bytes] = {stream: str(after) for stream, after in positions.items()}
        with self._plain("read", wait_s):
            found = await self._client.xread(asked, count=most, block=max(1, int(wait_s * 1000)))
        return {
            stream.decode(): [
                Entry(_position(one.identifier), _bytes(one.field_values.get(_FRAME, b""))) for one in entries
            ]
            for stream, entries in (found or {}).items()
        }

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
                if not all(isinstance(error, RedisError | OSError) for error in errors):
                    raise
                raise self._error(doing, errors[0]) from group
            except (RedisError, OSError) as error:
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
        if isinstance(error, AuthenticationError | AuthorizationError) or "NOPERM" in text:
            return BusMisused(f"Redis at {self.where} refuses to {doing}: {text}")
        if "OOM" in text:
            return BusUnavailable(
                f"Redis at {self.where} cannot {doing}: its memory is full; it needs a maxmemory above bus.keep_bytes "
                "of all brokers"
            )
        if "Connection lost" in text:
            return BusUnavailable(
                f"Redis at {self.where} cannot be reached: the connection was closed without an answer; if that goes "
                "on, something else listens there, or TLS is where bus.url has none"
            )
        if isinstance(error, CoredisConnectionError | OSError):
            why = [str(cause) for cause in _causes(error) if isinstance(cause, OSError) and str(cause)]
            return BusUnavailable(f"Redis at {self.where} cannot be reached: {(why or [text])[-1]}")
        if isinstance(error, ResponseError) and "LOADING" not in text:
            return BusUnavailable(f"Redis at {self.where} cannot {doing}: {text}")
        return BusUnavailable(f"Redis at {self.where} cannot {doing} now: {text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _position(identifier: str | bytes) -> Position:
    text = identifier if isinstance(identifier, str) else identifier.decode()
    fence, number = text.split("-")
    return Position(int(fence), int(number))


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value

"""An engine within one process, for tests. It keeps what Redis would keep."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from time import time

import attrs
import trio

from .engine import BusUnavailable, Deposed, Entry, Held, Position, Size

__all__ = ["MemoryEngine"]


@attrs.define
class _Expiring:
    value: bytes
    until: float


class MemoryEngine:
    """A :class:`.engine.BusEngine`. ``away``: every call fails while it is set."""

    def __init__(self) -> None:
        self.away = False
        self.streams: dict[str, list[Entry]] = {}
        self._fences: dict[str, int] = {}
        self._keys: dict[str, _Expiring] = {}
        self._appended = trio.Event()

    async def append(self, stream: str, first: Position, frames: Sequence[bytes]) -> None:
        """See :meth:`.engine.BusEngine.append`."""
        await self._check()
        entries = self.streams.setdefault(stream, [])
        for offset, frame in enumerate(frames):
            position = Position(first.fence, first.number + offset)
            if entries and entries[-1].position >= position:
                raise Deposed(f"{stream}: {position} is not above {entries[-1].position}")
            entries.append(Entry(position, bytes(frame)))
        self._appended.set()
        self._appended = trio.Event()

    async def read(
        self, positions: Mapping[str, Position], *, most: int, wait_s: float
    ) -> dict[str, list[Entry]]:
        """See :meth:`.engine.BusEngine.read`."""
        await self._check()
        with trio.move_on_after(wait_s):
            while True:
                found = {
                    stream: entries[at : at + most]
                    for stream, after in positions.items()
                    if (entries := self.streams.get(stream, []))
                    and (at := bisect_right([entry.position for entry in entries], after)) < len(entries)
                }
                if found:
                    return found
                await self._appended.wait()
        return {}

    async def edges(self, stream: str) -> tuple[Position, Position] | None:
        """See :meth:`.engine.BusEngine.edges`."""
        await self._check()
        entries = self.streams.get(stream)
        return (entries[0].position, entries[-1].position) if entries else None

    async def trim(self, stream: str, before: Position) -> None:
        """See :meth:`.engine.BusEngine.trim`."""
        await self._check()
        entries = self.streams.get(stream, [])
        entries[:] = [entry for entry in entries if entry.position >= before]

    async def acquire(self, lease: str, holder: str, ttl_s: float, stream: str) -> int | None:
        """See :meth:`.engine.BusEngine.acquire`."""
        await self._check()
        if self._get(lease) is not None:
            return None
        newest = await self.edges(stream)
        fence = max(self._fences.get(lease, 0), newest[1].fence if newest else 0) + 1
        self._fences[lease] = fence
        self._keys[lease] = _Expiring(holder.encode(), trio.current_time() + ttl_s)
        return fence

    async def renew(self, lease: str, holder: str, ttl_s: float) -> bool:
        """See :meth:`.engine.BusEngine.renew`."""
        await self._check()
        if self._get(lease) != holder.encode():
            return False
        self._keys[lease] = _Expiring(holder.encode(), trio.current_time() + ttl_s)
        return True

    async def release(self, lease: str, holder: str) -> None:
        """See :meth:`.engine.BusEngine.release`."""
        await self._check()
        if self._get(lease) == holder.encode():
            del self._keys[lease]

    async def lease(self, lease: str) -> Held | None:
        """See :meth:`.engine.BusEngine.lease`."""
        await self._check()
        holder = self._get(lease)
        return (
            None if holder is None else Held(holder.decode(), self._keys[lease].until - trio.current_time())
        )

    async def size(self, stream: str) -> Size:
        """See :meth:`.engine.BusEngine.size`."""
        await self._check()
        entries = self.streams.get(stream, [])
        return Size(len(entries), sum(len(entry.frame) for entry in entries))

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """See :meth:`.engine.BusEngine.put`."""
        await self._check()
        self._keys[key] = _Expiring(value, trio.current_time() + ttl_s)

    async def get(self, key: str) -> bytes | None:
        """See :meth:`.engine.BusEngine.get`."""
        await self._check()
        return self._get(key)

    async def put_in(self, group: str, name: str, value: bytes, ttl_s: float) -> None:
        """See :meth:`.engine.BusEngine.put_in`."""
        await self.put(group + name, value, ttl_s)

    async def get_all(self, group: str) -> dict[str, bytes]:
        """See :meth:`.engine.BusEngine.get_all`."""
        await self._check()
        found = {key: self._get(key) for key in list(self._keys) if key.startswith(group)}
        return {key.removeprefix(group): value for key, value in found.items() if value is not None}

    async def forget(self, key: str) -> None:
        """See :meth:`.engine.BusEngine.forget`."""
        await self._check()
        self._keys.pop(key, None)

    async def clock_s(self) -> float:
        """See :meth:`.engine.BusEngine.clock_s`."""
        await self._check()
        return time()

    def _get(self, key: str) -> bytes | None:
        kept = self._keys.get(key)
        return None if kept is None or kept.until <= trio.current_time() else kept.value

    async def _check(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise BusUnavailable("the bus in memory is away")

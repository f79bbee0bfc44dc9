"""What the processes of a bus say of themselves, and the view of all of it for operators."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import time
from typing import Any
from zlib import crc32

import msgspec

from ..clocks import least_ahead_s
from ..model import Feed
from .answers import decode_answers
from .engine import BusEngine, Position
from .names import answers_key, lease_key, presence_prefix, stream_key

__all__ = [
    "CLOCKS_APART_S",
    "PRESENCE_S",
    "Presence",
    "clock_ahead_s",
    "digest",
    "encode_presence",
    "read_status",
    "try_out",
]

CLOCKS_APART_S = (1.0, 30.0)
"""From the first on the times of two processes differ by more than is usual, from the second on candles are wrong."""

TRIED = ".doctor"
"""In the place of a broker's name, which cannot begin with a dot."""

PRESENCE_S = 5.0
"""A process that has said nothing for so long is not listed."""


class Presence(msgspec.Struct, frozen=True):
    """What a process says of itself.

    ``lag``: how old the newest record of each broker was when it came, in seconds. ``clock_s``: how far its clock is
    ahead of the engine's. ``named``: of each broker a digest of the feeds that its config names.
    """

    role: str
    host: str
    pid: int
    version: str
    leads: list[str]
    lag: dict[str, float | None]
    clock_s: float | None = None
    named: dict[str, str] = {}


_decode_presence = msgspec.msgpack.Decoder(Presence).decode
_encode_feeds = msgspec.msgpack.Encoder().encode
encode_presence = msgspec.msgpack.Encoder().encode


def digest(feeds: Iterable[Feed]) -> str:
    """Return what tells whether two processes name the same feeds."""
    return f"{crc32(_encode_feeds(sorted(feeds))):08x}"


async def read_status(engine: BusEngine, brokers: Sequence[str]) -> dict[str, Any]:
    """Return the processes on the bus, and of each broker its leader, lease and stream. Raises the engine's errors."""
    processes = []
    for name, value in sorted((await engine.get_all(presence_prefix())).items()):
        try:
            processes.append({"process": name} | msgspec.to_builtins(_decode_presence(value)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            processes.append({"process": name, "error": "what it says is of another version"})
    return {"processes": processes, "brokers": [await _broker(engine, name) for name in brokers]}


async def clock_ahead_s(engine: BusEngine) -> float:
    """Return how far our clock is ahead of the engine's, at least. Raises the engine's errors."""
    before_s = time()
    theirs_s = await engine.clock_s()
    return least_ahead_s(before_s, theirs_s, time())


async def try_out(engine: BusEngine) -> None:
    """Do once what a process does on the bus, on keys of no broker. Raises what the engine refuses."""
    stream, lease, group = stream_key(TRIED), lease_key(TRIED), presence_prefix() + TRIED
    holder = secrets.token_hex(6)
    fence = await engine.acquire(lease, holder, PRESENCE_S, stream)
    if fence is not None:
        await engine.append(stream, Position(fence, 0), [b""])
        await engine.renew(lease, holder, PRESENCE_S)
        await engine.release(lease, holder)
    await engine.lease(lease)
    await engine.edges(stream)
    await engine.read({stream: Position(0, 0)}, most=1, wait_s=0.001)
    await engine.size(stream)
    await engine.trim(stream, Position(fence or 0, 0))
    await engine.put_in(group, holder, b"", PRESENCE_S)
    await engine.get_all(group)
    await engine.get(group + holder)
    for key in (stream, f"{lease}:fence", group, group + holder):
        await engine.forget(key)


async def _broker(engine: BusEngine, name: str) -> dict[str, Any]:
    lease = await engine.lease(lease_key(name))
    stream = await engine.size(stream_key(name))
    said = await engine.get(answers_key(name))
    answers = None
    if said is not None:
        with suppress(
            msgspec.DecodeError, UnicodeDecodeError
        ):  # of another version: its lease shows all the same who leads
            answers = decode_answers(said)
    return {
        "broker": name,
        "leader": None if lease is None else lease.holder,
        "lease_left_s": None if lease is None else lease.left_s,
        "fence": None if answers is None else answers.fence,
        "state": None if answers is None else answers.state,
        "entries": stream.entries,
        "bytes": stream.bytes,
    }

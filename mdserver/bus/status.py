"""What the processes of a bus say of themselves, and the view of all of it for operators."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from .engine import BusEngine
from .names import answers_key, lease_key, presence_prefix, stream_key
from .shared_broker import decode_answers

__all__ = ["PRESENCE_S", "Presence", "encode_presence", "read_status"]

PRESENCE_S = 5.0
"""A process that has said nothing for so long is not listed."""


class Presence(msgspec.Struct, frozen=True):
    """What a process says of itself. ``lag``: how old the newest record of each broker was when it came, in seconds."""

    role: str
    host: str
    pid: int
    version: str
    leads: list[str]
    lag: dict[str, float | None]


_decode_presence = msgspec.msgpack.Decoder(Presence).decode
encode_presence = msgspec.msgpack.Encoder().encode


async def read_status(engine: BusEngine, brokers: Sequence[str]) -> dict[str, Any]:
    """Return the processes on the bus, and of each broker its leader, lease and stream. Raises the engine's errors."""
    processes = []
    for name, value in sorted((await engine.get_all(presence_prefix())).items()):
        try:
            processes.append({"process": name} | msgspec.to_builtins(_decode_presence(value)))
        except msgspec.DecodeError:
            processes.append({"process": name, "error": "what it says is of another version"})
    return {"processes": processes, "brokers": [await _broker(engine, name) for name in brokers]}


async def _broker(engine: BusEngine, name: str) -> dict[str, Any]:
    lease = await engine.lease(lease_key(name))
    stream = await engine.size(stream_key(name))
    said = await engine.get(answers_key(name))
    answers = None
    if said is not None:
        with suppress(msgspec.DecodeError):  # of another version: its lease shows all the same who leads
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

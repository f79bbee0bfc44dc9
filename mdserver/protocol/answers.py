"""What the server says besides records: acknowledgements, errors, status."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from ..model import RecordType, Topic
from .encoding import Wire, array_head
from .requests import RequestId
from .times import ShownTime

__all__ = [
    "PROTOCOL_VERSION",
    "Outcome",
    "Subscription",
    "ack",
    "ack_pieces",
    "error",
    "heartbeat",
    "hello",
    "notice",
    "pong",
    "replay_complete",
    "status",
]

PROTOCOL_VERSION = 1

PIECE = 500
"""Results or subscriptions in one piece of a long acknowledgement."""


class Outcome(Struct, frozen=True, omit_defaults=True):
    """What became of one symbol and type of a request; a name that cannot be served is as the client wrote it.

    ``recovered``: whether a ``since`` is served from just where it asked; else ``message`` says why not.
    """

    broker: str | None
    symbol: str
    type: str
    status: Literal["active", "pending", "error", "removed"]
    code: int | None = None
    message: str | None = None
    interval: str | None = None
    recovered: bool | None = None
    depth: int | str | None = None


class Subscription(Struct, frozen=True, omit_defaults=True):
    """What a client is subscribed to, as it is listed."""

    broker: str
    symbol: str
    type: RecordType
    interval: str | None = None
    depth: int | str | None = None


class _AckHead(Struct, frozen=True, tag_field="type", tag="ack"):
    id: RequestId | UnsetType
    action: str


class _Pong(Struct, frozen=True, tag_field="type", tag="pong"):
    id: RequestId | UnsetType
    time: ShownTime


class _Error(Struct, frozen=True, tag_field="type", tag="error"):
    id: RequestId | UnsetType
    code: int
    message: str


class _Hello(Struct, frozen=True, tag_field="type", tag="status"):
    message: str
    protocol: int
    server: str
    epoch: str
    time: ShownTime


class _Status(Struct, frozen=True, tag_field="type", tag="status"):
    broker: str
    state: str
    message: str


class _Heartbeat(Struct, frozen=True, tag_field="type", tag="heartbeat"):
    n: int
    time: ShownTime
    seqs: list[tuple[str | int, ...]]


class _Notice(Struct, frozen=True, tag_field="type", tag="status"):
    state: str
    message: str


class _ReplayComplete(Struct, frozen=True, tag_field="type", tag="status"):
    id: RequestId | UnsetType
    message: str
    seqs: list[tuple[str, str, RecordType, int]]
    time: ShownTime


def _id(request_id: RequestId) -> RequestId | UnsetType:
    return UNSET if request_id is None else request_id


def hello(wire: Wire, server_version: str, epoch: str, time_us: int) -> bytes:
    """Frame the first message of every connection.

    ``epoch`` names the numbering of records; ``time_us`` is the server's clock.
    """
    server = f"mdserver/{server_version}"
    return wire.message(
        _Hello("Connected to Market Data Server", PROTOCOL_VERSION, server, epoch, wire.show(time_us))
    )


def ack(
    wire: Wire,
    request_id: RequestId,
    action: str,
    results: Sequence[Outcome],
    subscriptions: Sequence[Subscription],
) -> bytes:
    """Frame an acknowledgement with the complete list of subscriptions as it is now."""
    return wire.frame(b"".join(ack_pieces(wire, request_id, action, results, subscriptions)))


def ack_pieces(
    wire: Wire,
    request_id: RequestId,
    action: str,
    results: Sequence[Outcome],
    subscriptions: Sequence[Subscription],
) -> Iterator[bytes]:
    """Yield the payload of an acknowledgement in pieces that take a millisecond or two each."""
    head = wire.encode(_AckHead(_id(request_id), action))
    if wire.format == "json":
        yield head[:-1] + b',"results":['
        yield from _items(wire, results)
        yield b'],"subscriptions":['
        yield from _items(wire, subscriptions)
        yield b"]}"
        return
    yield bytes((head[0] + 2,)) + head[1:]  # a map of two fields more
    for name, items in (("results", results), ("subscriptions", subscriptions)):
        yield wire.encode(name) + array_head(len(items))
        yield from _items(wire, items)


def _items(wire: Wire, items: Sequence[Struct]) -> Iterator[bytes]:
    is_json = wire.format == "json"
    for start in range(0, len(items), PIECE):
        piece = items[start : start + PIECE]
        encoded = wire.encode(piece)
        if is_json:
            yield (b"," if start else b"") + encoded[1:-1]
        else:
            yield encoded[len(array_head(len(piece))) :]


def pong(wire: Wire, request_id: RequestId, time_us: int) -> bytes:
    """Frame the answer to the action ``ping``; ``time_us`` is the server's clock."""
    return wire.message(_Pong(_id(request_id), wire.show(time_us)))


def error(wire: Wire, request_id: RequestId, code: int, message: str) -> bytes:
    """Frame an error."""
    return wire.message(_Error(_id(request_id), code, message))


def heartbeat(
    wire: Wire,
    number: int,
    time_us: int,
    seqs: Mapping[Topic, int],
    variant_of: Callable[[Topic], str | int | None],
) -> bytes:
    """Frame a client's heartbeat; ``seqs``: the last number of each of its topics that changed since the one before.

    ``variant_of``: the depth or interval of a topic as the client names it, which tells its feeds of one symbol and
    type apart; None for a topic that has no other.
    """
    rows: list[tuple[str | int, ...]] = []
    for topic, seq in seqs.items():
        variant = variant_of(topic) if topic.variant else None
        rows.append((*topic[:3], seq) if variant is None else (*topic[:3], seq, variant))
    return wire.message(_Heartbeat(number, wire.show(time_us), rows))


def notice(wire: Wire, state: str, message: str) -> bytes:
    """Frame what concerns no single broker."""
    return wire.message(_Notice(state, message))


def status(wire: Wire, broker: str, state: str, message: str) -> bytes:
    """Frame a change of a broker's state."""
    return wire.message(_Status(broker, state, message))


def replay_complete(wire: Wire, request_id: RequestId, seqs: Mapping[Topic, int], time_us: int) -> bytes:
    """Frame the seam between a replay and what is live; ``seqs``: the last number of each topic that was replayed."""
    rows = [(*topic[:3], seq) for topic, seq in seqs.items()]
    return wire.message(_ReplayComplete(_id(request_id), "replay complete", rows, wire.show(time_us)))

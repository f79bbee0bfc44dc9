"""What the server says besides records: acknowledgements, errors, status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import Encoder

from ..model import RecordType, Topic
from .requests import RequestId
from .server_frames import text_frame

__all__ = [
    "PROTOCOL_VERSION",
    "Outcome",
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

_encode = Encoder().encode


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


class _Subscription(Struct, frozen=True, omit_defaults=True):
    broker: str
    symbol: str
    type: RecordType
    interval: str | None = None


class _AckHead(Struct, frozen=True, tag_field="type", tag="ack"):
    id: RequestId | UnsetType
    action: str


class _Pong(Struct, frozen=True, tag_field="type", tag="pong"):
    id: RequestId | UnsetType
    time: float


class _Error(Struct, frozen=True, tag_field="type", tag="error"):
    id: RequestId | UnsetType
    code: int
    message: str


class _Hello(Struct, frozen=True, tag_field="type", tag="status"):
    message: str
    protocol: int
    server: str
    epoch: str
    time: float


class _Status(Struct, frozen=True, tag_field="type", tag="status"):
    broker: str
    state: str
    message: str


class _Heartbeat(Struct, frozen=True, tag_field="type", tag="heartbeat"):
    n: int
    time: float
    seqs: list[tuple[str, str, RecordType, int]]


class _Notice(Struct, frozen=True, tag_field="type", tag="status"):
    state: str
    message: str


class _ReplayComplete(Struct, frozen=True, tag_field="type", tag="status"):
    id: RequestId | UnsetType
    message: str
    seqs: list[tuple[str, str, RecordType, int]]
    time: float


def _id(request_id: RequestId) -> RequestId | UnsetType:
    return UNSET if request_id is None else request_id


def hello(server_version: str, epoch: str, time_s: float) -> bytes:
    """Frame the first message of every connection.

    ``epoch`` names the numbering of records; ``time_s`` is the server's clock in Unix seconds.
    """
    server = f"mdserver/{server_version}"
    hello = _Hello("Connected to Market Data Server", PROTOCOL_VERSION, server, epoch, time_s)
    return text_frame(_encode(hello))


def ack(
    request_id: RequestId, action: str, results: Sequence[Outcome], subscriptions: Iterable[Topic]
) -> bytes:
    """Frame an acknowledgement with the complete list of subscriptions as it is now."""
    return text_frame(b"".join(ack_pieces(request_id, action, results, tuple(subscriptions))))


def ack_pieces(
    request_id: RequestId, action: str, results: Sequence[Outcome], subscriptions: Sequence[Topic]
) -> Iterator[bytes]:
    """Yield the text of an acknowledgement in pieces that take a millisecond or two each."""
    head = _encode(_AckHead(_id(request_id), action))[:-1]
    yield from _listed(head + b',"results":[', results)
    lists = (
        [_Subscription(*topic[:3], topic.variant or None) for topic in subscriptions[start : start + PIECE]]
        for start in range(0, len(subscriptions), PIECE)
    )
    lead = b'],"subscriptions":['
    for part in lists:
        yield lead + _encode(part)[1:-1]
        lead = b","
    yield (b"" if lead == b"," else lead) + b"]}"


def _listed(lead: bytes, items: Sequence[Struct]) -> Iterator[bytes]:
    if not items:
        yield lead
    for start in range(0, len(items), PIECE):
        yield lead + _encode(items[start : start + PIECE])[1:-1]
        lead = b","


def pong(request_id: RequestId, time_s: float) -> bytes:
    """Frame the answer to the action ``ping``; ``time_s`` is the server's clock in Unix seconds."""
    return text_frame(_encode(_Pong(_id(request_id), time_s)))


def error(request_id: RequestId, code: int, message: str) -> bytes:
    """Frame an error."""
    return text_frame(_encode(_Error(_id(request_id), code, message)))


def heartbeat(number: int, time_s: float, seqs: Mapping[Topic, int]) -> bytes:
    """Frame a client's heartbeat; ``seqs``: the last number of each of its topics that changed since the one before."""
    rows = [(*topic[:3], seq) for topic, seq in seqs.items()]
    return text_frame(_encode(_Heartbeat(number, time_s, rows)))


def notice(state: str, message: str) -> bytes:
    """Frame what concerns no single broker."""
    return text_frame(_encode(_Notice(state, message)))


def status(broker: str, state: str, message: str) -> bytes:
    """Frame a change of a broker's state."""
    return text_frame(_encode(_Status(broker, state, message)))


def replay_complete(request_id: RequestId, seqs: Mapping[Topic, int], time_s: float) -> bytes:
    """Frame the seam between a replay and what is live; ``seqs``: the last number of each topic that was replayed."""
    rows = [(*topic[:3], seq) for topic, seq in seqs.items()]
    return text_frame(_encode(_ReplayComplete(_id(request_id), "replay complete", rows, time_s)))

"""What the server sends, decoded. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from .errors import ProtocolViolation
from .records import Candle, Gap, OrderBook, Tick, Trade

__all__ = ["Ack", "Message", "RefusedResult", "Result", "ServerError", "Status", "decode_messages"]


class Result(Struct, frozen=True):
    """What became of one symbol and type of a request.

    ``recovered``: whether ``since`` is served from just where it asked.
    """

    broker: str | None
    symbol: str
    type: str
    status: str
    code: int | None = None
    message: str | None = None
    recovered: bool | None = None


RefusedResult: TypeAlias = Result


class Ack(Struct, frozen=True, tag_field="type", tag="ack"):
    """The answer to a request."""

    action: str
    id: int | str | None = None
    results: list[Result] = []


class ServerError(Struct, frozen=True, tag_field="type", tag="error"):
    """An error."""

    code: int
    message: str
    id: int | str | None = None


class Status(Struct, frozen=True, tag_field="type", tag="status"):
    """A change of the connection (``connected``, ``disconnected``; no ``broker``) or of a broker's state.

    The server's first message is one too, with its ``epoch``, the name of its numbering.
    """

    message: str
    state: str | None = None
    broker: str | None = None
    epoch: str | None = None
    time: float | None = None
    server: str | None = None


class _Heartbeat(Struct, frozen=True, tag_field="type", tag="heartbeat"):
    n: int


class _Pong(Struct, frozen=True, tag_field="type", tag="pong"):
    time: float


Message: TypeAlias = Tick | Trade | Candle | OrderBook | Gap | Ack | ServerError | Status | _Heartbeat | _Pong

_one = msgspec.json.Decoder(Message)
_many = msgspec.json.Decoder(list[Message])
_any = msgspec.json.Decoder()
_KNOWN = {"tick", "trade", "candle", "orderbook", "gap", "ack", "error", "status", "heartbeat", "pong"}


def decode_messages(payloads: Sequence[bytes]) -> list[Message]:
    """Decode text frames, each with a message or an array of them. What a newer server says besides is left out.

    Raises :class:`ProtocolViolation` for what is no message.
    """
    # All in one call: the decoder is many times as fast as a loop around it.
    inner = [payload[1:-1] if payload[:1] == b"[" else payload for payload in payloads]
    try:
        return _many.decode(b"[%b]" % b",".join(filter(None, inner)))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [message for payload in payloads for message in _decode_carefully(payload)]


def _decode_carefully(payload: bytes) -> list[Message]:
    try:
        found = _any.decode(payload)
        objects = found if isinstance(found, list) else [found]
        return [msgspec.convert(one, Message) for one in objects if _type_of(one) in _KNOWN]
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        shown = payload[:80].decode(errors="replace")
        raise ProtocolViolation(f"no message of mdserver: {shown!r}: {error}") from None


def _type_of(value: Any) -> str:
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str):
        raise msgspec.ValidationError("expected an object with a type")
    return name

"""What a client asked: JSON text in, a typed request or a :class:`RequestError` out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from ..kinds import BY_NAME, FULL_BOOK
from ..model import TIMEFRAMES
from ..symbols import canonical
from .encoding import Format
from .since import Since, SinceSeqs, parse_since

__all__ = [
    "EVERY",
    "HEARTBEAT",
    "Auth",
    "Authenticate",
    "Depth",
    "Fault",
    "ListSubscriptions",
    "Ping",
    "Request",
    "RequestError",
    "RequestId",
    "Selection",
    "Subscribe",
    "Unsubscribe",
    "parse_request",
]

RequestId: TypeAlias = str | int | None


Depth: TypeAlias = int | str
"""Levels of an order book a side, or ``full``."""

DEFAULT_INTERVAL = "1m"
DEFAULT_DEPTH = 10
MOST_LEVELS = 25
MOST_RATE_MS = 60_000

EVERY = "*"
"""The symbol that stands for all symbols of a broker."""

HEARTBEAT = "heartbeat"
"""A type of its own: it comes by the clock and belongs to no symbol."""


class Fault(NamedTuple):
    """Why one symbol or one type of a request cannot be served; the others are."""

    code: int
    message: str


Selection: TypeAlias = Mapping[str, Fault | None]
"""The names of one list of a request, in its order, each once; those that cannot be served with their faults."""


class Subscribe(Struct, frozen=True):
    """Start streams. ``broker`` None: each broker that has the symbol is tried in config order.

    ``received``: records carry when the server's socket had them. ``since``: from where in the past; where it names
    the topics itself, ``symbols`` may be empty: then those are meant. ``depth``: levels of order books, or ``full``.
    ``rate_ms``: at most one record in so many milliseconds, 0: all. ``keep_all``: a client that is behind is closed
    rather than told the latest only.
    """

    id: RequestId
    symbols: Selection
    types: Selection
    broker: str | None
    since: Since | None
    received: bool = False
    interval: str = DEFAULT_INTERVAL
    snapshot: bool = False
    depth: Depth = DEFAULT_DEPTH
    rate_ms: int = 0
    keep_all: bool = False


class Unsubscribe(Struct, frozen=True):
    """Stop streams; an empty selection matches everything."""

    id: RequestId
    symbols: Selection
    types: Selection
    broker: str | None
    interval: str | None = None
    depth: Depth | None = None


class ListSubscriptions(Struct, frozen=True):
    """Ask for the current subscriptions."""

    id: RequestId


class Ping(Struct, frozen=True):
    """Ask for an answer, to measure the round trip."""

    id: RequestId


class Auth(Struct, frozen=True):
    """Give a key."""

    id: RequestId
    key: str


class Authenticate(Struct, frozen=True):
    """Open a session of a broker for this client alone, with its credentials."""

    id: RequestId
    broker: str
    credentials: Mapping[str, object]

    def __repr__(self) -> str:
        return f"Authenticate(id={self.id!r}, broker={self.broker!r})"


Request: TypeAlias = Subscribe | Unsubscribe | ListSubscriptions | Ping | Auth | Authenticate


class RequestError(Exception):
    """The request cannot be served. ``code`` is one of the protocol's; ``request_id`` comes back in the answer."""

    def __init__(self, code: int, message: str, request_id: RequestId = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


_FIELDS = {
    "subscribe": {
        *("symbols", "types", "broker", "interval", "depth"),
        *("received", "since", "snapshot", "rate_ms", "slow"),
    },
    "unsubscribe": {"symbols", "types", "broker", "interval", "depth"},
    "list": set(),
    "ping": set(),
    "auth": {"key"},
    "authenticate": {"broker", "credentials"},
}

_ONLY_OF = {
    "interval": ("candle",),
    "depth": ("orderbook",),
    "rate_ms": tuple(name for name, kind in BY_NAME.items() if kind.may_wait),
}
"""Fields that say something about some types only."""

_IDS = range(-(2**63), 2**64)
"""Integers that an answer can repeat."""

MAX_TYPES = 16
"""Types that one request may name: each symbol is answered once for each of them."""
_SHOWN = 64  # characters of a name that is no symbol or type, in its result


def parse_request(raw: str | bytes, format_: Format = "json") -> Request:
    """Parse one client frame: JSON in a text frame; where the format is MessagePack, that in a binary frame too.

    A symbol that cannot be one and a type that does not exist come with their faults and spoil nothing else.
    Raises :class:`RequestError` with code 400 for anything that is not a well-formed request; the message names
    the field and what was expected.
    """
    message = _decoded(raw, format_)
    if not isinstance(message, dict):
        raise RequestError(400, f"expected a JSON object, got {_kind(message)}")
    request_id = message.pop("id", None)
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | None):
        raise RequestError(400, f"id: expected a string or an integer, got {_kind(request_id)}")
    if isinstance(request_id, int) and request_id not in _IDS:
        raise RequestError(400, f"id: expected an integer of at most 64 bits, got {request_id}")
    try:
        return _build(message, request_id)
    except RequestError as error:
        error.request_id = request_id
        raise


def _decoded(raw: str | bytes, format_: Format) -> Any:
    if isinstance(raw, str):
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
            raise RequestError(400, f"not JSON: {_brief(error)}") from None
    if format_ != "msgpack":
        raise RequestError(400, "binary frame: send JSON as a text frame")
    try:
        message = msgspec.msgpack.decode(raw)
        # By way of JSON: bytes, times and keys that only MessagePack has become texts, and are looked at like others.
        return msgspec.json.decode(msgspec.json.encode(message))
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        raise RequestError(400, f"not MessagePack: {_brief(error)}") from None


def _build(message: dict[str, Any], request_id: RequestId) -> Request:
    action = message.pop("action", None)
    fields = _FIELDS.get(action) if isinstance(action, str) else None
    if fields is None:
        raise RequestError(400, f"action: expected one of {', '.join(_FIELDS)}, got {_show(action)}")
    unknown = message.keys() - fields
    if unknown:
        raise RequestError(
            400, f"{_show(min(unknown))}: unknown field of {action}; known: {_listing(fields)}"
        )
    match action:
        case "subscribe":
            return _subscribe(message, request_id)
        case "unsubscribe":
            symbols = _symbols(message) if "symbols" in message else {}
            types = _types(message)
            _check_placed(message, types)
            return Unsubscribe(
                request_id, symbols, types, _broker(message), _interval(message), _depth(message)
            )
        case "list":
            return ListSubscriptions(request_id)
        case "ping":
            return Ping(request_id)
        case "authenticate":
            return _authenticate(message, request_id)
        case _:
            if not isinstance(message.get("key"), str):
                raise RequestError(400, f"key: expected a string, got {_kind(message.get('key'))}")
            return Auth(request_id, message["key"])


def _subscribe(message: dict[str, Any], request_id: RequestId) -> Subscribe:
    types = _types(message) or {"tick": None}
    since = _since(message)
    unnamed = set(types) == {HEARTBEAT} or isinstance(since, SinceSeqs)
    symbols = {} if unnamed and "symbols" not in message else _symbols(message)
    if not symbols and not unnamed:
        raise RequestError(400, "symbols: expected at least one symbol, got an empty list")
    snapshot = _flag(message, "snapshot")
    received = _flag(message, "received")
    if snapshot and since is not None:
        raise RequestError(400, "snapshot: not together with since, which brings the records themselves")
    broker = _broker(message)
    if EVERY in symbols and since is not None:
        raise RequestError(400, f'since: not together with the symbol "{EVERY}": name the symbols')
    if EVERY in symbols and broker is None:
        symbols = {**symbols, EVERY: Fault(400, f'symbols: "{EVERY}" needs a broker, whose symbols it means')}
    _check_placed(message, types)
    return Subscribe(
        request_id,
        symbols,
        types,
        broker,
        since,
        received,
        _interval(message) or DEFAULT_INTERVAL,
        snapshot,
        _depth(message) or DEFAULT_DEPTH,
        _rate_ms(message),
        _keep_all(message),
    )


def _authenticate(message: dict[str, Any], request_id: RequestId) -> Authenticate:
    broker, credentials = message.get("broker"), message.get("credentials")
    if not isinstance(broker, str):
        raise RequestError(400, f"broker: expected a string, got {_kind(broker)}")
    if not isinstance(credentials, dict):
        raise RequestError(400, f"credentials: expected an object, got {_kind(credentials)}")
    return Authenticate(request_id, broker, credentials)


def _since(message: dict[str, Any]) -> Since | None:
    if message.get("since") is None:
        return None
    try:
        return parse_since(message["since"])
    except ValueError as error:
        raise RequestError(400, str(error)) from None


def _symbols(message: dict[str, Any]) -> Selection:
    out: dict[str, Fault | None] = {}
    for item in _list(message, "symbols"):
        if not isinstance(item, str):
            out[_show(item)] = Fault(400, f"symbols: expected strings, found {_kind(item)}")
            continue
        if item == EVERY:
            out[EVERY] = None
            continue
        try:
            out[canonical(item)] = None
        except ValueError as error:
            out.setdefault(item[:_SHOWN], Fault(408, str(error)))
    return out


def _types(message: dict[str, Any]) -> Selection:
    if "types" not in message:
        return {}
    items = _list(message, "types")
    if not items:
        raise RequestError(400, f"types: expected at least one of {', '.join(BY_NAME)}, got an empty list")
    if len(items) > MAX_TYPES:
        raise RequestError(400, f"types: expected at most {MAX_TYPES}, got {len(items)}")
    out: dict[str, Fault | None] = {}
    for item in items:
        if not isinstance(item, str):
            out[_show(item)] = Fault(400, f"types: expected strings, found {_kind(item)}")
        elif item in BY_NAME or item == HEARTBEAT:
            out[item] = None
        else:
            known = ", ".join((*BY_NAME, HEARTBEAT))
            out[item[:_SHOWN]] = Fault(408, f"unknown type {_show(item)}; there are {known}")
    return out


def _check_placed(message: dict[str, Any], types: Selection) -> None:
    """Refuse a field that none of the request's types knows: it would be ignored without a word."""
    for field, only_of in _ONLY_OF.items():
        if field in message and not any(name in types for name in only_of):
            asked = ", ".join(types) or "every type"
            known = " and ".join(only_of)
            raise RequestError(400, f"{field}: belongs to the type {known}, got it with {asked}")


def _broker(message: dict[str, Any]) -> str | None:
    broker = message.get("broker")
    if broker is not None and not isinstance(broker, str):
        raise RequestError(400, f"broker: expected a string, got {_kind(broker)}")
    return broker


def _flag(message: dict[str, Any], field: str) -> bool:
    value = message.get(field, False)
    if not isinstance(value, bool):
        raise RequestError(400, f"{field}: expected true or false, got {_kind(value)}")
    return value


def _interval(message: dict[str, Any]) -> str | None:
    if "interval" not in message:
        return None
    interval = message["interval"]
    if not isinstance(interval, str) or interval not in TIMEFRAMES:
        raise RequestError(400, f"interval: expected one of {', '.join(TIMEFRAMES)}, got {_show(interval)}")
    return interval


def _depth(message: dict[str, Any]) -> Depth | None:
    if "depth" not in message:
        return None
    if message["depth"] == FULL_BOOK:
        return FULL_BOOK
    return _whole(message, "depth", MOST_LEVELS, f' or "{FULL_BOOK}"')


def _rate_ms(message: dict[str, Any]) -> int:
    return _whole(message, "rate_ms", MOST_RATE_MS, least=0) if "rate_ms" in message else 0


def _whole(message: dict[str, Any], field: str, most: int, otherwise: str = "", *, least: int = 1) -> int:
    value = message[field]
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    shown = str(value)[:40] if is_number else _show(value)
    raise RequestError(
        400, f"{field}: expected a whole number from {least} to {most}{otherwise}, got {shown}"
    )


def _keep_all(message: dict[str, Any]) -> bool:
    slow = message.get("slow", "conflate")
    if slow not in ("conflate", "close"):
        raise RequestError(400, f'slow: expected "conflate" or "close", got {_show(slow)}')
    return bool(slow == "close")


def _list(message: dict[str, Any], field: str) -> list[object]:
    value = message.get(field)
    if not isinstance(value, list):
        raise RequestError(400, f"{field}: expected a list of strings, got {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {type(None): "nothing", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _show(value: object) -> str:
    return f'"{value[:40]}"' if isinstance(value, str) else _kind(value)


def _brief(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def _listing(fields: set[str]) -> str:
    return ", ".join(sorted(fields | {"id", "action"}))

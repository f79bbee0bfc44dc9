"""How Binance's stream server answers a control message, without I/O."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs

__all__ = ["Answer", "StreamState", "is_well_formed"]

_WELL_FORMED = re.compile(r"(![\w@]+|[\w.\-]+@[\w@+:]+)\Z")
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_MAX_ID_LETTERS = 36


def is_well_formed(stream: str) -> bool:
    """Return whether a stream name has the right form. A misspelt one of the right form gets no data and no error."""
    return _WELL_FORMED.match(stream) is not None


@attrs.frozen
class Answer:
    """A reply, and the close frame that follows it, if any."""

    text: str
    close: tuple[int, str] | None = None


@attrs.define
class StreamState:
    """The streams and properties of one connection."""

    streams: dict[str, None] = attrs.Factory(dict)
    combined: bool = False
    max_streams: int = 1024
    malformed: frozenset[str] = frozenset()

    def answer(self, text: str) -> Answer:
        """Return the answer to a client's text message."""
        try:
            request = json.loads(text)
        except ValueError as error:
            column = getattr(error, "colno", 1)
            return _flat(3, f"Invalid JSON: expected value at line 1 column {column}")
        if not isinstance(request, dict) or "method" not in request:
            return _flat(2, f"Invalid request: missing field `method` at line 1 column {len(text)}")
        method, params, id_ = request["method"], request.get("params", []), request.get("id")
        if not _is_id(id_):
            return _flat(2, "Invalid request: request ID must be an unsigned integer")
        if method not in _METHODS:
            variants = ", ".join(f"`{name}`" for name in _METHODS)
            return _flat(2, f"Invalid request: unknown variant {method}, expected one of {variants}", id_)
        if method == "LIST_SUBSCRIPTIONS":
            return _result(list(self.streams), id_)
        if not isinstance(params, list):
            return _flat(2, "Invalid request: params must be an array", id_)
        if method in ("SET_PROPERTY", "GET_PROPERTY"):
            return self._property(method, params, id_)
        return self._subscription(method, params, id_)

    def _subscription(self, method: str, params: list[Any], id_: object) -> Answer:
        bad = [
            name
            for name in params
            if not isinstance(name, str) or name in self.malformed or not is_well_formed(name)
        ]
        if bad:
            return _nested(2, "Invalid request: invalid stream", id_, close=(1008, "Invalid request"))
        if method == "UNSUBSCRIBE":
            for name in params:
                self.streams.pop(name, None)
        elif len(self.streams | dict.fromkeys(params)) > self.max_streams:
            return _nested(4, "Too many subscriptions", id_)
        else:
            self.streams.update(dict.fromkeys(params))
        return _result(None, id_)

    def _property(self, method: str, params: list[Any], id_: object) -> Answer:
        expected = 2 if method == "SET_PROPERTY" else 1
        if not params or not isinstance(params[0], str):
            return _flat(2, "Invalid request: property name must be a string", id_)
        if len(params) > expected:
            return _flat(2, "Invalid request: too many parameters", id_)
        if params[0] != "combined":
            return _flat(0, "Unknown property", id_)
        if method == "GET_PROPERTY":
            return _result(self.combined, id_)
        if len(params) < expected or not isinstance(params[1], bool):
            return _flat(1, "Invalid value type: expected Boolean", id_)
        self.combined = params[1]
        return _result(None, id_)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_ID_LETTERS
    if isinstance(value, bool):
        return False
    return value is None or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63)


def _result(value: object, id_: object) -> Answer:
    return Answer(_json({"result": value, "id": id_}))


def _flat(code: int, message: str, id_: object = None) -> Answer:
    error: dict[str, object] = {"code": code, "msg": message}
    return Answer(_json(error if id_ is None else error | {"id": id_}))


def _nested(code: int, message: str, id_: object, close: tuple[int, str] | None = None) -> Answer:
    return Answer(_json({"error": {"code": code, "msg": message}, "id": id_}), close)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

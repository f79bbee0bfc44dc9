"""The parameters of a WebSocket's URL: in which form the client gets what it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import attrs

from ...protocol.encoding import Format, Wire, wire_of
from ...protocol.times import Times, parse_times
from ...stream.audience import Array
from .params import query_of
from .problem import invalid_parameter

__all__ = ["StreamForm", "stream_form", "times_of"]

QUERY = ("format", "times", "batch")

FORMATS: Mapping[str, Format] = {"json": "json", "msgpack": "msgpack"}

ValueT = TypeVar("ValueT")


@attrs.frozen
class StreamForm:
    """How a client gets its messages; ``array`` puts several records into one frame, None: each has its own."""

    wire: Wire
    array: Array = None


def stream_form(items: Iterable[tuple[str, str]]) -> StreamForm:
    """Return what the parameters of a URL ask for. Raises Problem."""
    query = query_of(items, QUERY)
    wire = wire_of(_one_of(query, "format", FORMATS), times_of(query))
    batch = _one_of(query, "batch", {"false": False, "true": True})
    return StreamForm(wire, wire.array if batch else None)


def times_of(query: Mapping[str, str]) -> Times:
    """Return the parameter ``times``; default: seconds. Raises Problem."""
    text = query.get("times", "s")
    try:
        return parse_times(text)
    except ValueError as error:
        raise invalid_parameter("times", text, str(error)) from None


def _one_of(query: Mapping[str, str], name: str, values: Mapping[str, ValueT]) -> ValueT:
    """Return what a parameter stands for; the first is its default."""
    text = query.get(name, next(iter(values)))
    if text not in values:
        raise invalid_parameter(name, text, f"expected {' or '.join(values)}")
    return values[text]

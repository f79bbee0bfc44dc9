"""The field ``since``: from where in the past a subscription is to begin. Pure."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from msgspec import Struct

from ..kinds import BY_NAME
from ..model import US_PER_S, Topic
from ..symbols import canonical

__all__ = ["Since", "SinceSeq", "SinceSeqs", "SinceTime", "parse_since"]

MAX_SEQ = (1 << 63) - 1
_MILLISECONDS = 100_000_000_000
"""Read as Unix seconds, this is in the year 5138: whoever writes it means milliseconds."""
_SHOWN = 64  # characters of a name that cannot be served, in its result

_EXPECTED = 'expected Unix seconds, {"seq": n} or {"epoch": "…", "seqs": [[broker, symbol, type, seq], …]}'


class SinceTime(Struct, frozen=True):
    """From the first record on whose time, in microseconds, is this one or later."""

    time_us: int


class SinceSeq(Struct, frozen=True):
    """Behind the record with this number, the last that the client has; of one symbol, type and broker."""

    seq: int


class SinceSeqs(Struct, frozen=True):
    """Behind the last record that the client has of each topic, in the numbering of ``epoch``.

    ``faults``: rows that cannot be served, with the names as the client wrote them, and why; the others are.
    """

    epoch: str
    seqs: dict[Topic, int]
    faults: dict[Topic, str]


Since: TypeAlias = SinceTime | SinceSeq | SinceSeqs


def parse_since(value: Any) -> Since:
    """Parse the field. Raises ValueError that names what is wrong."""
    if isinstance(value, dict):
        if value.keys() == {"seq"}:
            return SinceSeq(_seq(value["seq"], "since.seq"))
        if value.keys() == {"epoch", "seqs"}:
            return _since_seqs(value["epoch"], value["seqs"])
        found = ", ".join(sorted(map(str, value)))[:60] or "an empty object"
        raise ValueError(f"since: {_EXPECTED}; found {found}")
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not is_number:
        raise ValueError(f"since: {_EXPECTED}, got {_kind(value)}")
    if value < 0:
        raise ValueError(f"since: expected Unix seconds from 0 on, got {_kind(value)}")
    if value >= _MILLISECONDS:
        shown = _kind(value)
        raise ValueError(
            f"since: expected Unix seconds, got {shown}, which looks like milliseconds or microseconds"
        )
    return SinceTime(round(value * US_PER_S))


def _since_seqs(epoch: Any, rows: Any) -> SinceSeqs:
    if not isinstance(epoch, str):
        raise ValueError(f"since.epoch: expected a string, got {_kind(epoch)}")
    if not isinstance(rows, list) or not rows:
        raise ValueError("since.seqs: expected a list of one or more [broker, symbol, type, seq]")
    seqs: dict[Topic, int] = {}
    faults: dict[Topic, str] = {}
    for place, row in enumerate(rows):
        where = f"since.seqs[{place}]"
        if not isinstance(row, list) or len(row) != 4 or not all(isinstance(name, str) for name in row[:3]):
            raise ValueError(f"{where}: expected [broker, symbol, type, seq]")
        broker, symbol, type_, seq = row
        number = _seq(seq, where)
        shown = Topic(*(name[:_SHOWN] for name in row[:3]))
        if type_ not in BY_NAME:
            faults[shown] = f'unknown type "{type_[:40]}"; there are {", ".join(BY_NAME)}'
            continue
        try:
            topic = Topic(broker, canonical(symbol), type_)
        except ValueError as error:
            faults[shown] = str(error)
            continue
        if topic in seqs:
            raise ValueError(f"{where}: {broker[:40]} {topic.symbol} {type_} is there twice")
        seqs[topic] = number
    return SinceSeqs(epoch, seqs, faults)


def _seq(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEQ:
        raise ValueError(f"{where}: expected a whole number from 0 to {MAX_SEQ}, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {type(None): "nothing", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value)) or str(value)[:40]

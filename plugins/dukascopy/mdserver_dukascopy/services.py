"""What differs between the two services: addresses, what an answer means, decoding. No I/O."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from mdserver.errors import BadMessage
from mdserver.model import TickColumns

from . import codec, instruments, jetta
from .config import Service
from .instruments import DukascopyInstrument

__all__ = ["Datafeed", "Format", "Jetta", "Meaning"]

Meaning: TypeAlias = Literal["data", "empty", "missing", "refused"]
"""What an answer says of an hour. ``refused``: not published yet, or not served at all."""


class Format(Protocol):
    """One service."""

    name: Service
    base: str

    def path(self, row: DukascopyInstrument, hour_us: int) -> str:
        """Return the path of an hour below ``base``, also used for the file in the cache."""
        ...

    def meaning(self, status: int, body: bytes, url: str, hour_us: int) -> Meaning:
        """Return what an answer means; the body is checked whole: BadMessage for a damaged one."""
        ...

    def decode(self, body: bytes, origin: str, symbol: str, hour_us: int) -> TickColumns:
        """Return the ticks of a body that means ``data``; BadMessage for a damaged one."""
        ...


class Datafeed:
    """Files in a tree of folders."""

    name: Service = "datafeed"

    def __init__(self, base: str) -> None:
        self.base = base

    def path(self, row: DukascopyInstrument, hour_us: int) -> str:
        """See :class:`Format`."""
        return codec.ticks_path(row.code, hour_us)

    def meaning(self, status: int, body: bytes, url: str, hour_us: int) -> Meaning:
        """See :class:`Format`. A file of 0 bytes is an hour without ticks."""
        if status == 404:
            return "missing"
        if status == 400:
            return "refused"
        return "data" if codec.check(body, url) else "empty"

    def decode(self, body: bytes, origin: str, symbol: str, hour_us: int) -> TickColumns:
        """See :class:`Format`."""
        return codec.decode_ticks(body, origin, hour_us, instruments.find(symbol).decimals)


class Jetta:
    """The JSON API; it says itself what its prices are multiples of."""

    name: Service = "jetta"

    def __init__(self, base: str) -> None:
        self.base = base

    def path(self, row: DukascopyInstrument, hour_us: int) -> str:
        """See :class:`Format`."""
        return jetta.ticks_path(row.jetta_code, hour_us)

    def meaning(self, status: int, body: bytes, url: str, hour_us: int) -> Meaning:
        """See :class:`Format`. An hour without ticks is an answer with empty lists, or status 204."""
        if status == 404:
            return "missing"
        if status == 400:
            return "refused"
        if status == 204:
            return "empty"
        if not body:
            raise BadMessage(f"{url}: HTTP 200 without a body")
        return "data" if jetta.check(body, url, hour_us) else "empty"

    def decode(self, body: bytes, origin: str, symbol: str, hour_us: int) -> TickColumns:
        """See :class:`Format`."""
        return jetta.decode_ticks(body, origin, hour_us)

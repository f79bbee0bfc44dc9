"""What differs between the two services: addresses, what an answer means, decoding. No I/O."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from mdserver.errors import BadMessage
from mdserver.model import TickColumns
from mdserver.plugin import RawHour

from . import codec, jetta
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

    def meaning(self, status: int, body: bytes, url: str, hour_us: int) -> tuple[Meaning, bytes]:
        """Return what an answer means, and its content without compression, so that it is decompressed once.

        The body is checked whole: BadMessage for a damaged one.
        """
        ...

    def decode(self, raw: RawHour, decimals: int, content: bytes | None) -> TickColumns:
        """Return the ticks of an hour that means ``data``; ``content`` is what :meth:`meaning` gave, if it is there.

        BadMessage for a damaged body.
        """
        ...


class Datafeed:
    """Files in a tree of folders."""

    name: Service = "datafeed"

    def __init__(self, base: str) -> None:
        self.base = base

    def path(self, row: DukascopyInstrument, hour_us: int) -> str:
        """See :class:`Format`."""
        return codec.ticks_path(row.code, hour_us)

    def meaning(self, status: int, body: bytes, url: str, hour_us: int) -> tuple[Meaning, bytes]:
        """See :class:`Format`. A file of 0 bytes is an hour without ticks."""
        if status == 404:
            return "missing", b""
        if status == 400:
            return "refused", b""
        content = codec.check(body, url)
        return "data" if content else "empty", content

    def decode(self, raw: RawHour, decimals: int, content: bytes | None) -> TickColumns:
        """See :class:`Format`."""
        if content is not None:
            return codec.decode_content(content, raw.origin, raw.hour_us, decimals)
        return codec.decode_ticks(raw.body, raw.origin, raw.hour_us, decimals)


class Jetta:
    """The JSON API; it says itself what its prices are multiples of."""

    name: Service = "jetta"

    def __init__(self, base: str) -> None:
        self.base = base

    def path(self, row: DukascopyInstrument, hour_us: int) -> str:
        """See :class:`Format`."""
        return jetta.ticks_path(row.jetta_code, hour_us)

    def meaning(self, status: int, body: bytes, url: str, hour_us: int) -> tuple[Meaning, bytes]:
        """See :class:`Format`. An hour without ticks is an answer with empty lists, or status 204."""
        if status == 404:
            return "missing", b""
        if status == 400:
            return "refused", b""
        if status == 204:
            return "empty", b""
        if not body:
            raise BadMessage(f"{url}: HTTP 200 without a body")
        return "data" if jetta.check(body, url, hour_us) else "empty", body

    def decode(self, raw: RawHour, decimals: int, content: bytes | None) -> TickColumns:
        """See :class:`Format`."""
        return jetta.decode_ticks(raw.body, raw.origin, raw.hour_us)

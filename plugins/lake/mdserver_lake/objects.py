"""Objects of a day: written, read back and compared, bytes and values."""

from __future__ import annotations

import trio

from mdserver.errors import BadMessage

from .bucket import Bucket
from .codec import Header, decode_candles, decode_records
from .layout import Kind, Place

__all__ = ["place_of_header", "put_verified"]


def place_of_header(header: Header) -> Place:
    """Return where an object belongs."""
    kind: Kind = "candle" if header.kind == "candle" else "trade" if header.type == "trade" else "tick"
    return Place(kind, header.broker, header.symbol, header.type, header.day)


async def put_verified(bucket: Bucket, data: bytes, header: Header) -> Place:
    """Write an object, read it back and compare; return its place. Raises BadMessage if it is not the same."""
    place = place_of_header(header)
    await bucket.put(place.key, data)
    back = await bucket.get(place.key)
    if back != data:
        found = "nothing" if back is None else f"{len(back)} bytes that differ"
        raise BadMessage(f"{place.key}: reading back found {found}, expected the {len(data)} bytes written")
    decode = decode_candles if place.kind == "candle" else decode_records
    decoded = await trio.to_thread.run_sync(decode, back)
    if decoded[1] != header:
        raise BadMessage(f"{place.key}: reading back found another header")
    return place

"""The lake as the server uses it: days by topic, for an import without a database and for answers of dropped ranges."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, TypeVar

import trio

from mdserver.errors import BadMessage, MdserverError, Rejected, Unavailable
from mdserver.model import CandleRow, LakeDay, LakePage, RecordColumns, Topic
from mdserver.plugin import LakePlugin

from .bucket import Bucket, Denied, LakeSettings, open_bucket
from .codec import (
    Header,
    decode_footer,
    decode_page,
    decode_records,
    encode_candles,
    encode_records,
    footer_bytes,
)
from .layout import Kind, Place, days_between, place_of, prefix
from .objects import put_verified

__all__ = ["DataLake", "plugin"]

T = TypeVar("T")

SUMMARY = "Days of ticks, trades and candles as Parquet in S3, R2 or a folder"

TAIL_BYTES = 16_384
"""Of an object, to read what is written beside its records: enough for the hours of an imported day."""

KEPT_BYTES = 64_000_000
"""Objects whose pages were read last stay in memory, as they lie in the lake."""

MOST_BYTES = 256_000_000
"""A larger object is not read for a page."""


class DataLake:
    """Implements :class:`mdserver.plugin.Lake`."""

    def __init__(self, bucket: Bucket) -> None:
        self.address = bucket.address
        self._bucket = bucket
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    async def days(self, topic: Topic, first: date, last: date) -> Mapping[date, LakeDay]:
        """See :meth:`mdserver.plugin.Lake.days`."""
        places = await self._places(topic, first, last)
        found: dict[date, LakeDay] = {}
        wrong: list[MdserverError] = []

        async def read(place: Place) -> None:
            try:
                header = await self._header(place)
            except BadMessage:
                return  # as the interface says: whoever reads the day is told
            except (Rejected, Unavailable) as error:
                wrong.append(error)
                nursery.cancel_scope.cancel()
                return
            if header is not None:
                found[place.day] = LakeDay(place.day, header.rows, header.numbering, header.hours)

        async with trio.open_nursery() as nursery:  # the bucket bounds the requests at a time
            for place in places:
                nursery.start_soon(read, place)
        if wrong:
            raise wrong[0]
        return found

    async def read_day(self, topic: Topic, day: date) -> RecordColumns | None:
        """See :meth:`mdserver.plugin.Lake.read_day`."""
        place = _place(topic, day)
        data = await self._bucket.get(place.key)
        if data is None:
            return None
        records, header = await _named(place, partial(decode_records, data))
        _check(place, header)
        return records

    async def write_day(
        self,
        topic: Topic,
        day: date,
        records: RecordColumns,
        candles: Sequence[CandleRow],
        known: LakeDay,
    ) -> int:
        """See :meth:`mdserver.plugin.Lake.write_day`."""
        names: dict[str, Any] = {
            "broker": topic.broker,
            "symbol": topic.symbol,
            "type_": topic.type,
            "day": day,
        }
        size = 0
        # The candles first: where the records are, the day is whole.
        if candles or await self._bucket.tail(_candles(topic, day).key, 1) is not None:
            encode = partial(encode_candles, candles, **names)
            data, header = await trio.to_thread.run_sync(encode)
            await put_verified(self._bucket, data, header)
            size += len(data)
        encode_all = partial(encode_records, records, numbering=known.numbering, hours=known.hours, **names)
        data, header = await trio.to_thread.run_sync(encode_all)
        await put_verified(self._bucket, data, header)
        return size + len(data)

    async def read_page(
        self,
        topic: Topic,
        day: date,
        checksum: str,
        span: tuple[int, int],
        after: tuple[int, int] | None,
        limit: int,
    ) -> LakePage | None:
        """See :meth:`mdserver.plugin.Lake.read_page`."""
        place = _place(topic, day)
        data = await self._checked(place, checksum)
        if data is None:
            return None
        records, header = await _named(place, partial(decode_page, data, span, after, limit))
        _check(place, header)
        return LakePage(records, header.numbering)

    async def _checked(self, place: Place, checksum: str) -> bytes | None:
        """Return an object whose bytes have this checksum, or whose values have their own."""
        data = self._kept.get((place.key, checksum))
        if data is not None:
            self._kept.move_to_end((place.key, checksum))
            return data
        data = await self._bucket.get(place.key, most_bytes=MOST_BYTES)
        if data is None:
            return None
        found = await trio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
        if found == checksum:
            self._keep((place.key, checksum), data)
        else:  # it was written anew by another program
            await _named(place, partial(decode_records, data))
        return data

    def _keep(self, name: tuple[str, str], data: bytes) -> None:
        self._kept[name] = data
        while self._kept and sum(map(len, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)

    async def _places(self, topic: Topic, first: date, last: date) -> list[Place]:
        try:
            listed = await self._bucket.objects(prefix(_kind(topic), topic.type, topic.broker, topic.symbol))
        except Denied:  # then each day is asked for by its name
            return [_place(topic, day) for day in days_between(first, last)]
        places = [place for one in listed if (place := place_of(one.key)) is not None]
        return [place for place in places if first <= place.day <= last]

    async def _header(self, place: Place) -> Header | None:
        try:
            tail = await self._bucket.tail(place.key, TAIL_BYTES)
        except Denied:  # a bucket that does not permit listing answers so for what it does not have
            return None
        if tail is None:
            return None
        size = await _named(place, partial(footer_bytes, tail))
        if size > len(tail):
            tail = await self._bucket.tail(place.key, size)
        header = await _named(place, partial(decode_footer, tail or b""))
        _check(place, header)
        return header


def _kind(topic: Topic) -> Kind:
    return "trade" if topic.type == "trade" else "tick"


def _place(topic: Topic, day: date) -> Place:
    return Place(_kind(topic), topic.broker, topic.symbol, topic.type, day)


def _candles(topic: Topic, day: date) -> Place:
    return Place("candle", topic.broker, topic.symbol, topic.type, day)


async def _named(place: Place, decode: Callable[[], T]) -> T:
    """Decode in a thread; an error names the object."""
    try:
        return await trio.to_thread.run_sync(decode)
    except BadMessage as error:
        raise BadMessage(f"{place.key}: {error}") from error


def _check(place: Place, header: Header) -> None:
    found = header.kind, header.broker, header.symbol, header.type, header.day
    if found != tuple(place):
        raise BadMessage(f"{place.key}: it holds {' '.join(map(str, found))}, not what its name says")


def _open(settings: LakeSettings) -> DataLake:
    return DataLake(open_bucket(settings))


plugin = LakePlugin("lake", SUMMARY, _open)

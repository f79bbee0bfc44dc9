"""Hours of ticks from the cache, a local folder or one of the two services."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import attrs
import numpy as np
import trio

from mdserver.errors import BadMessage, MdserverError, Rejected, Unavailable
from mdserver.market_hours import HOUR_US
from mdserver.model import US_PER_S, TickColumns
from mdserver.net import HttpClient
from mdserver.plugin import HistoryHost, HistoryInstrument, RawHour

from . import cache, codec
from .config import DukascopyConfig, Service
from .day_candles import DayCandles
from .instruments import DukascopyInstrument, Instruments, of_config
from .outages import Outages, Turn
from .pool import Answer, Outage, PolitePool, open_client
from .services import Datafeed, Format, Jetta, Meaning

__all__ = ["DukascopySource", "open_source"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_THREADS = 2
"""Files that are checked or written at once."""

_MAX_CONTENTS_BYTES = 64 << 20
"""Three million ticks: what is fetched while the months before are stored."""

_HOUR_S = HOUR_US // US_PER_S


class DukascopySource:
    """See :class:`mdserver.plugin.HistorySource`. ``clock`` gives the time in seconds since the epoch."""

    def __init__(
        self,
        config: DukascopyConfig,
        host: HistoryHost,
        client: HttpClient,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._host = host
        self._clock = clock
        # A local folder is in the datafeed's layout whatever services are configured.
        self._readers: dict[str, Format] = {
            "datafeed": Datafeed(config.url),
            "jetta": Jetta(config.jetta_url),
        }
        self._formats = {name: self._readers[name] for name in config.services}
        self._pools = {name: PolitePool(client, config, host.log) for name in config.services}
        self._cache = cache.Cache(host.cache_dir) if host.cache_dir else None
        self._threads = trio.CapacityLimiter(_THREADS)
        self._contents = _Contents()
        bases = {name: form.base for name, form in self._formats.items()}
        self._day_candles = DayCandles(bases, self._pools, self._threads, host.log)
        self._instruments = Instruments(map(of_config, config.instruments))
        self._outages = Outages(
            {name: form.base for name, form in self._formats.items()},
            attempts=config.attempts,
            down_s=config.down_s,
            notice=host.notice,
        )

    def instrument(self, symbol: str) -> HistoryInstrument:
        """Return the instrument of a canonical symbol. Raises Rejected if it is unknown or has no file on disk."""
        row = self._instruments.find(symbol)
        folder = self._host.source_dir
        if folder is not None and not (folder / row.code).is_dir():
            raise Rejected(
                f"{folder} has no folder {row.code}: expected files such as {row.code}/2024/02/01/00h_ticks.bi5 "
                "(months count from 00)"
            )
        return HistoryInstrument(row.symbol, row.code, row.market, row.start_us)

    async def fetch(self, symbol: str, hour_us: int, *, fresh: bool = False) -> RawHour:
        """See :meth:`mdserver.plugin.HistorySource.fetch`."""
        row = self._instruments.find(symbol)
        codec.hour_of(hour_us)  # raises for what is no hour
        if self._host.source_dir is not None:
            return await self._in_thread(_from_folder, self._host.source_dir, row, hour_us)
        left_s = hour_us / US_PER_S + _HOUR_S - self._clock()
        if left_s > 0:
            hour = f"{codec.hour_of(hour_us):%Y-%m-%d %H:%M}"
            raise Unavailable(f"{symbol}: the hour of {hour} UTC is not over", retry_after_s=left_s)
        if self._cache is not None and not fresh:
            kept = await self._in_thread(self._from_cache, self._cache, row, hour_us)
            if kept is not None:
                return kept
        return await self._from_network(row, hour_us)

    def decode(self, raw: RawHour) -> TickColumns:
        """See :meth:`mdserver.plugin.HistorySource.decode`. A damaged file of the cache is also removed."""
        if raw.kind != "data":
            return TickColumns(np.empty(0, np.int64), *(np.empty(0) for _ in range(4)))
        try:
            decimals = self._instruments.find(raw.symbol).decimals
            return self._readers[raw.service].decode(raw, decimals, self._contents.take(raw))
        except BadMessage:
            if raw.cached:  # or it would be found again each time
                Path(raw.origin).unlink(missing_ok=True)
            raise

    async def _from_network(self, row: DukascopyInstrument, hour_us: int) -> RawHour:
        """Ask one service after the other until one has the hour; a 404 of one proves nothing."""
        errors: list[MdserverError] = []
        denied: RawHour | None = None
        for turn in self._outages.turns():
            form = self._formats[turn.service]
            try:
                raw = await self._ask(form, row, hour_us, turn)
            except (Unavailable, Rejected, BadMessage) as error:
                errors.append(error)
                if isinstance(error, Outage | Rejected):
                    self._outages.failed(turn.service, error)
                continue
            self._outages.answered(turn.service)
            if raw.kind == "missing":
                denied = denied or raw
                continue
            await self._keep(form, row, raw)
            return raw
        if denied is not None:
            return await self._confirmed(denied, row)
        down = all(isinstance(error, Outage | Rejected) for error in errors)
        raise _combined(errors, self._outages.everywhere() if down else None)

    async def _confirmed(self, denied: RawHour, row: DukascopyInstrument) -> RawHour:
        """Check the day's candles: they show whether an hour had no ticks or the service only denies to have it."""
        if not denied.settled:
            return denied
        quiet = await self._day_candles.is_quiet(row, denied.hour_us)
        if quiet is None:
            return denied
        if not quiet:
            raise Unavailable(f"{denied.origin}: HTTP 404, but the day's candles have a volume in this hour")
        return attrs.evolve(denied, kind="empty")

    async def _ask(self, form: Format, row: DukascopyInstrument, hour_us: int, turn: Turn) -> RawHour:
        url = form.base + form.path(row, hour_us)
        settled = self._clock() >= hour_us / US_PER_S + _HOUR_S + self._config.settle_s

        def void() -> str | None:
            return self._outages.outage(form.name) if turn.fails_over else None

        async def judge(answer: Answer) -> tuple[Meaning, bytes, bytes]:
            # Here, so that a damaged download is repeated, and no bad file gets into the cache.
            meaning, content = await self._in_thread(form.meaning, answer.status, answer.body, url, hour_us)
            return meaning, answer.body, content

        meaning, body, content = await self._pools[form.name].get(
            url, judge, attempts=turn.attempts, void=void
        )
        if meaning == "refused":
            state = "is not served" if settled else "is not published yet"
            raise Unavailable(f"{url}: HTTP 400, the hour {state}: {body[:200].decode(errors='replace')}")
        raw = RawHour(
            symbol=row.symbol,
            hour_us=hour_us,
            service=form.name,
            origin=url,
            kind=meaning,
            body=body if meaning == "data" else b"",
            settled=settled,
        )
        self._contents.keep(raw, content)
        return raw

    async def _keep(self, form: Format, row: DukascopyInstrument, raw: RawHour) -> None:
        """Write to the cache what can no longer change; not a 404, which may be a mistake of the server."""
        if self._cache is None or not raw.settled or raw.kind == "missing":
            return
        path = self._cache.path(form.name, form.path(row, raw.hour_us))
        try:
            await self._in_thread(self._cache.store, path, raw.body)
        except OSError as error:  # what was fetched is still good
            self._host.log.warning(
                "a fetched file cannot be written to the cache: it is fetched again next time",
                path=str(path),
                error=str(error),
            )

    def _from_cache(self, kept: cache.Cache, row: DukascopyInstrument, hour_us: int) -> RawHour | None:
        for service, form in self._formats.items():
            path = kept.path(service, form.path(row, hour_us))
            body = cache.load(path)
            if body is not None:
                return _local(row, hour_us, service, path, body, cached=True)
        return None

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await trio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=self._threads)


class _Contents:
    """Decompressed files on their way from the check to the decoder, so that none is decompressed twice.

    Bounded in bytes: what does not fit is decompressed once more. Used by threads, hence single dict operations.
    """

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}
        self._bytes = 0

    def keep(self, raw: RawHour, content: bytes) -> None:
        """Keep the content of a file that was just fetched."""
        if raw.service == "datafeed" and self._bytes + len(content) <= _MAX_CONTENTS_BYTES:
            self._bytes += len(content)
            self._kept[raw.origin] = content

    def take(self, raw: RawHour) -> bytes | None:
        """Return the content of a file, once."""
        content = None if raw.cached else self._kept.pop(raw.origin, None)
        if content is not None:
            self._bytes -= len(content)
        return content


@asynccontextmanager
async def open_source(config: DukascopyConfig, host: HistoryHost) -> AsyncIterator[DukascopySource]:
    """Open the source; its connections are closed at the end of the block."""
    async with open_client(config) as client:
        yield DukascopySource(config, host, client)


def _from_folder(folder: Path, row: DukascopyInstrument, hour_us: int) -> RawHour:
    """Read an hour from a folder in the datafeed's layout. A missing file proves nothing."""
    path = folder / codec.ticks_path(row.code, hour_us)
    body = cache.load(path)
    if body is not None:
        return _local(row, hour_us, "datafeed", path, body, cached=False)
    if not (folder / row.code).is_dir():
        raise Rejected(f"{folder} has no folder {row.code}, expected files like {path}")
    missing = _local(row, hour_us, "datafeed", path, b"", cached=False)
    return attrs.evolve(missing, kind="missing", settled=False)


def _local(
    row: DukascopyInstrument, hour_us: int, service: Service, path: Path, body: bytes, *, cached: bool
) -> RawHour:
    return RawHour(
        symbol=row.symbol,
        hour_us=hour_us,
        service=service,
        origin=str(path),
        kind="data" if body else "empty",
        body=body,
        cached=cached,
    )


def _combined(errors: list[MdserverError], outage: str | None) -> MdserverError:
    """Return what every service said as one error; Unavailable if any of them may be mended by waiting.

    ``outage`` is why none of them works, whatever the hour.
    """
    if len(errors) == 1:
        return errors[0]
    message = outage or "; ".join(str(error) for error in errors)
    if all(isinstance(error, BadMessage) for error in errors):
        return BadMessage(message)
    if all(isinstance(error, Rejected) for error in errors):
        return Rejected(message)
    waits = [error.retry_after_s for error in errors if isinstance(error, Unavailable)]
    return Unavailable(message, retry_after_s=min((wait for wait in waits if wait is not None), default=None))

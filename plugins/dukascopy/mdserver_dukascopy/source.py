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

from . import cache, codec, instruments
from .config import DukascopyConfig, Service
from .instruments import DukascopyInstrument
from .outages import Outages, Turn
from .pool import Answer, Outage, PolitePool, open_client
from .services import Datafeed, Format, Jetta, Meaning

__all__ = ["DukascopySource", "open_source"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_THREADS = 2
"""Files that are checked or written at once."""

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
        self._outages = Outages(
            {name: form.base for name, form in self._formats.items()},
            attempts=config.attempts,
            down_s=config.down_s,
            notice=host.notice,
        )

    def instrument(self, symbol: str) -> HistoryInstrument:
        """Return what the table knows of a canonical symbol; Rejected for one that it does not have."""
        row = instruments.find(symbol)
        return HistoryInstrument(row.symbol, row.code, row.market, row.start_us)

    async def fetch(self, symbol: str, hour_us: int, *, fresh: bool = False) -> RawHour:
        """See :meth:`mdserver.plugin.HistorySource.fetch`."""
        row = instruments.find(symbol)
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
            return self._readers[raw.service].decode(raw.body, raw.origin, raw.symbol, raw.hour_us)
        except BadMessage:
            if raw.cached:  # or it would be found again each time
                Path(raw.origin).unlink(missing_ok=True)
            raise

    async def _from_network(self, row: DukascopyInstrument, hour_us: int) -> RawHour:
        errors: list[MdserverError] = []
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
            await self._keep(form, row, raw)
            return raw
        raise _combined(errors)

    async def _ask(self, form: Format, row: DukascopyInstrument, hour_us: int, turn: Turn) -> RawHour:
        url = form.base + form.path(row, hour_us)
        settled = self._clock() >= hour_us / US_PER_S + _HOUR_S + self._config.settle_s

        def void() -> bool:
            return turn.fails_over and self._outages.is_down(form.name)

        async def judge(answer: Answer) -> tuple[Meaning, bytes]:
            # Here, so that a damaged download is repeated, and no bad file gets into the cache.
            meaning = await self._in_thread(form.meaning, answer.status, answer.body, url, hour_us)
            return meaning, answer.body

        meaning, body = await self._pools[form.name].get(url, judge, attempts=turn.attempts, void=void)
        if meaning == "refused":
            state = "is not served" if settled else "is not published yet"
            raise Unavailable(f"{url}: HTTP 400, the hour {state}: {body[:200].decode(errors='replace')}")
        return RawHour(
            symbol=row.symbol,
            hour_us=hour_us,
            service=form.name,
            origin=url,
            kind=meaning,
            body=body if meaning == "data" else b"",
            settled=settled,
        )

    async def _keep(self, form: Format, row: DukascopyInstrument, raw: RawHour) -> None:
        """Put what cannot change any more into the cache; 404 is left out, it may be a mistake of the server."""
        if self._cache is None or not raw.settled or raw.kind == "missing":
            return
        path = self._cache.path(form.name, form.path(row, raw.hour_us))
        try:
            await self._in_thread(self._cache.store, path, raw.body)
        except OSError as error:  # what was fetched is still good
            self._host.log.warning("cannot keep a file", path=str(path), error=str(error))

    def _from_cache(self, kept: cache.Cache, row: DukascopyInstrument, hour_us: int) -> RawHour | None:
        for service, form in self._formats.items():
            path = kept.path(service, form.path(row, hour_us))
            body = cache.load(path)
            if body is not None:
                return _local(row, hour_us, service, path, body, cached=True)
        return None

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await trio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=self._threads)


@asynccontextmanager
async def open_source(config: DukascopyConfig, host: HistoryHost) -> AsyncIterator[DukascopySource]:
    """Open the source; its connections are closed at the end of the block."""
    async with open_client(config) as client:
        yield DukascopySource(config, host, client)


def _from_folder(folder: Path, row: DukascopyInstrument, hour_us: int) -> RawHour:
    """Read an hour from a folder in the datafeed's layout. A file that is not there proves nothing."""
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


def _combined(errors: list[MdserverError]) -> MdserverError:
    """Return what every service said as one error; Unavailable if any of them may be mended by waiting."""
    if len(errors) == 1:
        return errors[0]
    message = "; ".join(str(error) for error in errors)
    if all(isinstance(error, BadMessage) for error in errors):
        return BadMessage(message)
    if all(isinstance(error, Rejected) for error in errors):
        return Rejected(message)
    waits = [error.retry_after_s for error in errors if isinstance(error, Unavailable)]
    return Unavailable(message, retry_after_s=min((wait for wait in waits if wait is not None), default=None))

"""The venue's list of instruments, fetched beside the stream: prices never wait for it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.net import Backoff
from mdserver.plugin import BrokerHost

from .codec import decode_exchange_info
from .limits import WeightBudget
from .rest import Rest

__all__ = ["SymbolTable"]

_REFRESH_S = 3600.0
_WEIGHT = 20


class SymbolTable:
    """What the venue trades. ``names`` is None until the list was read once.

    A symbol that was trading stays in it while it is listed: trading may pause, and who unsubscribed would miss its
    beginning. The venue allows subscriptions to what is paused.
    """

    def __init__(
        self, rest: Rest, host: BrokerHost, budget: WeightBudget, changed: Callable[[], None]
    ) -> None:
        self.names: frozenset[str] | None = None
        self._rest = rest
        self._host = host
        self._budget = budget
        self._changed = changed

    async def load(self) -> None:
        """Fetch the list and hand it to the host. Raises Unavailable, Rejected or BadMessage."""
        body = await self._rest.get("/api/v3/exchangeInfo", {}, weight=_WEIGHT)
        # A list of 3,000 instruments is 10 MB and more of JSON: too long to hold up the loop.
        info = await trio.to_thread.run_sync(decode_exchange_info, body)
        if info.weight_per_minute is not None:
            self._budget.limit = info.weight_per_minute
        before = self.names or frozenset()
        table = [
            instrument
            for instrument, trading in info.instruments.items()
            if trading or instrument.symbol in before
        ]
        self.names = frozenset(instrument.symbol for instrument in table)
        self._host.instruments(table)
        self._changed()

    async def run(self, *, must: bool) -> None:
        """Keep the list fresh, until cancelled: fetch it now and every hour, sooner while there is none.

        A REST API that is away is reported and stops nothing. Raises Rejected where ``must``, for a first answer that
        no retry changes: then the configured address is wrong, or serves no one here.
        """
        backoff = Backoff(2.0, 60.0)
        while True:
            asked_s: float | None = None
            try:
                await self.load()
            except (Unavailable, BadMessage, Rejected) as error:
                if isinstance(error, Rejected) and must and self.names is None:
                    raise
                asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
                self._host.log.warning(
                    "list of instruments unavailable",
                    symbols_checked=self.names is not None,
                    error=str(error),
                )
            else:
                backoff.reset()
            await trio.sleep(_REFRESH_S if self.names is not None else backoff.next_s(asked_s))

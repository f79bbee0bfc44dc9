"""The venue's list of instruments, fetched where a REST address is configured."""

from __future__ import annotations

import trio

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.net import RETRY_STATUSES, fetch
from mdserver.plugin import BrokerHost

from .codec import decode_exchange_info

__all__ = ["BINANCE_RETRY_STATUSES", "SymbolTable"]

BINANCE_RETRY_STATUSES = RETRY_STATUSES | {403}
"""403 is the venue's web application firewall: a pause after too many requests, not a verdict."""

_REFRESH_S = 3600.0
_RETRY_S = 60.0


class SymbolTable:
    """What the venue trades. ``names`` is None until the list was read once.

    A symbol that was trading stays in it while it is listed: trading may pause, and who unsubscribed would miss its
    beginning. The venue allows subscriptions to what is paused.
    """

    def __init__(self, rest_url: str, host: BrokerHost) -> None:
        self.names: frozenset[str] | None = None
        self._url = f"{rest_url.rstrip('/')}/api/v3/exchangeInfo"
        self._host = host

    async def load(self) -> None:
        """Fetch the list and hand it to the host. Raises Unavailable, Rejected or BadMessage."""
        body = await fetch(self._url, retry_statuses=BINANCE_RETRY_STATUSES)
        # A list of 3,000 instruments is 10 MB and more of JSON: too long to hold up the loop.
        listed = await trio.to_thread.run_sync(decode_exchange_info, body)
        before = self.names or frozenset()
        table = [
            instrument for instrument, trading in listed.items() if trading or instrument.symbol in before
        ]
        self.names = frozenset(instrument.symbol for instrument in table)
        self._host.instruments(table)

    async def load_if_possible(self) -> None:
        """Fetch the list; on a passing trouble say so and leave things as they were.

        Prices matter more than the check of symbols, so a REST API that is down stops nothing. Raises
        Rejected for an answer that no retry changes: the configured address is wrong, or serves no one here.
        """
        try:
            await self.load()
        except (Unavailable, BadMessage) as error:
            self._host.log.warning("instrument list unavailable, symbols go unchecked", error=str(error))

    async def keep_fresh(self) -> None:
        """Fetch the list every hour, sooner while there is none; runs until cancelled."""
        while True:
            await trio.sleep(_RETRY_S if self.names is None else _REFRESH_S)
            try:
                await self.load_if_possible()
            except Rejected as error:
                # It worked before, or prices flow without it: not worth the stream.
                self._host.log.warning("instrument list refused", error=str(error))

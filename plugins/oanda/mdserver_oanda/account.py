"""What is asked of OANDA's REST API: the account's instruments, one price, candles."""

from __future__ import annotations

from collections.abc import Mapping

from mdserver.errors import BadMessage, Rejected, Unavailable
from mdserver.model import Instrument
from mdserver.net import HttpClient, HttpRefused

from .codec import Candle, decode_candles, decode_instruments, encode_time, error_text
from .config import OandaConfig

__all__ = ["MAX_CANDLES", "Account", "auth_headers", "plain_refusal"]

MAX_CANDLES = 5000
"""Candles that the venue gives in one answer."""

_CHECK = {
    400: "check account_id, which has a form like 101-004-1234567-001, and symbols",
    401: "check api_key, and that url and rest_url name its environment, practice or live",
    403: "check that api_key may use account_id, and that the account may stream prices",
    404: "check url, rest_url and account_id",
}


def auth_headers(config: OandaConfig) -> dict[str, str]:
    """Return what each request carries: the key, and which form of times we want."""
    return {"Authorization": f"Bearer {config.api_key}", "Accept-Datetime-Format": "RFC3339"}


def plain_refusal(error: HttpRefused) -> Rejected:
    """Return a refusal as one sentence that says what OANDA said and what to check."""
    where = str(error).partition(": ")[0]
    said = error_text(error.body).rstrip(".")
    told = f"{where}: OANDA refuses with HTTP {error.status}: {said}" if said else str(error)
    hint = _CHECK.get(error.status, "check url and rest_url")
    return Rejected(f"{told}; {hint}")


class Account:
    """The account of a config. Errors of all methods: Unavailable, or Rejected with what to check.

    Limits of the venue: 120 requests per second and address; here one is asked after the other.
    """

    def __init__(self, http: HttpClient, config: OandaConfig) -> None:
        self._http = http
        self._base = f"{config.rest_url.rstrip('/')}/v3"
        self._account = f"{self._base}/accounts/{config.account_id}"

    async def instruments(self) -> list[Instrument]:
        """Fetch what the account can deal in."""
        url = f"{self._account}/instruments"
        body = await self._fetch(url, {})
        try:
            return decode_instruments(body)
        except BadMessage as error:
            raise Unavailable(f"{url}: {error}") from error

    async def refusal_of(self, name: str) -> str | None:
        """Ask for the price of one instrument; return why the venue has none, or None if it has one."""
        try:
            await self._http.fetch(f"{self._account}/pricing", params={"instruments": name})
        except HttpRefused as error:
            if error.status == 400:
                return f"refused by OANDA: {error_text(error.body) or error}"
            raise plain_refusal(error) from error
        return None

    async def candles(
        self,
        name: str,
        granularity: str,
        start_ns: int,
        end_ns: int,
        *,
        price: str = "MBA",
        page: int = MAX_CANDLES,
    ) -> list[Candle]:
        """Fetch the candles that open in [start_ns, end_ns), in order; periods without prices have none.

        ``granularity`` is the venue's name (``S5`` to ``M``), ``price`` any of M, B and A. The last one may be
        incomplete, when it is the current one. Raises BadMessage for an answer that does not go on where the one
        before ended.
        """
        found: list[Candle] = []
        after_ns, first = start_ns, "true"
        while True:
            asked = {"from": encode_time(after_ns), "count": str(page), "includeFirst": first}
            candles = await self._page(name, {"granularity": granularity, "price": price, **asked})
            if candles and found and candles[0].time_ns <= after_ns:
                raise BadMessage(f"candles of {name} after {encode_time(after_ns)}: found an earlier one")
            # The venue's first one contains `from`, so it may open before.
            found += [candle for candle in candles if start_ns <= candle.time_ns < end_ns]
            if len(candles) < page or candles[-1].time_ns >= end_ns:
                return found
            after_ns, first = candles[-1].time_ns, "false"

    async def _page(self, name: str, params: Mapping[str, str]) -> list[Candle]:
        body = await self._fetch(f"{self._base}/instruments/{name}/candles", params)
        return decode_candles(body).candles

    async def _fetch(self, url: str, params: Mapping[str, str]) -> bytes:
        try:
            return await self._http.fetch(url, params=params)
        except HttpRefused as error:
            raise plain_refusal(error) from error

"""Requests to the venue's REST API, within the weight that it allows."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from mdserver.errors import Unavailable
from mdserver.net import HttpClient, is_web_page, status_error

from .limits import WeightBudget
from .refusals import BINANCE_RETRY_STATUSES, explained

__all__ = ["HEADERS", "Rest"]

HEADERS = {"X-MBX-TIME-UNIT": "MICROSECOND"}
"""Asks for times in microseconds."""

_USED = "x-mbx-used-weight-1m"
_PAUSES_S = {429: 60.0, 418: 120.0}
_QUOTED_BYTES = 4096


class Rest:
    """The API at ``base``, over ``http``; ``budget`` outlives both."""

    def __init__(self, base: str, http: HttpClient, budget: WeightBudget) -> None:
        self._base = base
        self._http = http
        self._budget = budget

    async def get(self, path: str, params: Mapping[str, str], *, weight: int, share: float = 0.9) -> bytes:
        """Return the body of an answer with status 200.

        Waits until ``weight`` fits into ``share`` of the weight of a minute, and until a pause that the venue asked
        for is over. Raises Unavailable or Rejected (HttpRefused, with the venue's status), in plain words.
        """
        budget = self._budget
        while (wait_s := budget.wait_s(trio.current_time(), weight, share)) > 0:  # noqa: ASYNC110 - no event
            await trio.sleep(wait_s)
        budget.spend(trio.current_time(), weight)
        url = self._base + path
        status, headers, body = await self._http.get(url, params=params)
        now = trio.current_time()
        if (used := headers.get(_USED, "")).isdecimal():
            budget.note_used(now, int(used))
        if status != 200:
            text = body[:_QUOTED_BYTES].decode(errors="replace")
            error = status_error(url, status, headers, text, BINANCE_RETRY_STATUSES)
            if status in _PAUSES_S:
                asked = error.retry_after_s if isinstance(error, Unavailable) else None
                budget.block(now, _PAUSES_S[status] if asked is None else asked)
            raise explained(error)
        if is_web_page(headers.get("content-type", ""), body[:_QUOTED_BYTES]):
            raise Unavailable(f"{url}: received a web page in place of data, as from a proxy or a block page")
        return body

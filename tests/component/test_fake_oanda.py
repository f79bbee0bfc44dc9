"""The fake OANDA does what is known of the real one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from mdserver.errors import Unavailable
from mdserver.net import HttpClient, HttpRefused, HttpStream, open_http, open_http_stream
from mdserver.testing.oanda import FakeOanda, FakeQuote, OandaRules, open_fake_oanda

STREAM = "/v3/accounts/{}/pricing/stream"


@pytest.fixture
async def venue() -> AsyncIterator[FakeOanda]:
    with trio.fail_after(30):
        async with open_fake_oanda(OandaRules(0.05, None, max_connects=100)) as venue:
            yield venue


def headers(venue: FakeOanda, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {venue.api_key}", **more}


def opened(venue: FakeOanda, names: str, **more: str) -> Any:
    url = venue.url + STREAM.format(venue.account_id)
    return open_http_stream(url, params={"instruments": names}, headers=headers(venue, **more), silence_s=1)


async def read(stream: HttpStream, count: int, kind: str = "PRICE") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        lines = [json.loads(line) for line in await stream.receive_lines()]
        found += [line for line in lines if line["type"] == kind]
    return found


async def test_it_serves_at_once_and_without_a_script() -> None:
    with trio.fail_after(30):
        async with (
            open_fake_oanda(OandaRules(heartbeat_s=0.2)) as venue,
            opened(venue, "EUR_USD,USD_JPY") as stream,
        ):
            snapshot = await read(stream, 2)
            assert [line["instrument"] for line in snapshot] == ["EUR_USD", "USD_JPY"]
            await read(stream, 1, "HEARTBEAT")
            moved = await read(stream, 4)
            prices = [
                line["bids"][0]["price"] for line in snapshot + moved if line["instrument"] == "EUR_USD"
            ]
            assert len(set(prices)) > 1
            assert snapshot[0]["time"] < moved[-1]["time"]
            assert len(snapshot[0]["time"]) == len("2016-10-05T05:28:16.729643492Z")


async def test_a_snapshot_is_the_last_price_with_its_time(venue: FakeOanda) -> None:
    await venue.push("EUR_USD", FakeQuote([("1.5", 1)], [("1.6", 1)]))
    async with opened(venue, "EUR_USD") as first, opened(venue, "EUR_USD") as second:
        assert await read(first, 1) == await read(second, 1)


async def test_a_third_connection_within_a_second_is_reset() -> None:
    with trio.fail_after(30):
        async with open_fake_oanda() as venue:
            async with opened(venue, "EUR_USD"), opened(venue, "EUR_USD"):
                with pytest.raises(Unavailable, match=r"connection lost|broke the HTTP protocol"):
                    async with opened(venue, "EUR_USD"):
                        pass
                assert venue.limit.refused == 1
                await trio.sleep(1.05)
                async with opened(venue, "EUR_USD"):
                    assert len(venue.streams) == 3


async def test_more_streams_than_allowed(venue: FakeOanda) -> None:
    venue.rules.max_streams = 1
    async with opened(venue, "EUR_USD"):
        with pytest.raises(Unavailable, match="HTTP 429"):
            async with opened(venue, "EUR_USD"):
                pass


async def test_times_in_both_forms(venue: FakeOanda) -> None:
    async with opened(venue, "EUR_USD", **{"Accept-Datetime-Format": "UNIX"}) as stream:
        [line] = await read(stream, 1)
    seconds, _, fraction = line["time"].partition(".")
    assert seconds.isdecimal()
    assert len(fraction) == 9


async def test_what_a_stream_is_told_to_do(venue: FakeOanda) -> None:
    async with opened(venue, "EUR_USD") as stream:
        [ours] = await venue.wait_streams(1)
        await read(stream, 1)
        ours.silence_prices()
        await venue.push("EUR_USD")
        await read(stream, 2, "HEARTBEAT")
        ours.unmute()
        await venue.push("EUR_USD", FakeQuote([("1.5", 1)], [], extra={"note": "€"}))
        [line] = await read(stream, 1)
        assert (line["asks"], line["note"]) == ([], "€")
        ours.mute()
        with pytest.raises(Unavailable, match="nothing received for 1 s"):
            await read(stream, 1)


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/v3/accounts", "", 401),
        ("/v3/accounts/101-004-1-001/instruments", None, 403),
        ("/v3/accounts/me/instruments", None, 400),
        ("/v3/nothing", None, 404),
        ("/v3/accounts/{}/pricing?instruments=NO_SUCH", None, 400),
        ("/v3/accounts/{}/instruments?instruments=NO_SUCH", None, 400),
        ("/v3/instruments/NO_SUCH/candles", None, 400),
        ("/v3/instruments/EUR_USD/candles?granularity=X", None, 400),
        ("/v3/instruments/EUR_USD/candles?count=5001", None, 400),
        ("/v3/instruments/EUR_USD/candles?to=9999999999", None, 400),
        ("/v3/instruments/EUR_USD/candles?from=1700000000&to=1700100000", None, 400),
    ],
)
async def test_refusals(venue: FakeOanda, path: str, key: str | None, status: int) -> None:
    auth = headers(venue) if key is None else {"Authorization": key}
    async with open_http(headers=auth) as http:
        with pytest.raises(HttpRefused) as caught:
            await http.fetch(venue.rest_url + path.format(venue.account_id))
        assert caught.value.status == status
        assert "errorMessage" in caught.value.body
        answer = await http.get(venue.rest_url + path.format(venue.account_id))
        assert answer.headers["RequestID"]


async def test_a_stream_is_refused_as_a_whole_for_one_wrong_name(venue: FakeOanda) -> None:
    for names in ("EUR_USD,NO_SUCH", ""):
        with pytest.raises(HttpRefused, match=r"HTTP 400: .*'instruments'"):
            async with opened(venue, names):
                pass


async def test_candles(venue: FakeOanda) -> None:
    now_ns = 1_700_000_050_000_000_000
    venue.clock_ns = lambda: now_ns

    async def times(http: HttpClient, **query: str) -> list[str]:
        body = await http.fetch(f"{venue.rest_url}/v3/instruments/EUR_USD/candles", params=query)
        return [row["time"] for row in json.loads(body)["candles"]]

    async with open_http(headers=headers(venue, **{"Accept-Datetime-Format": "UNIX"})) as http:
        assert len(await times(http)) == 500
        newest = await times(http, granularity="M1", count="3")
        assert newest[-1] == "1700000040.000000000", "the forming one"
        since = await times(http, granularity="M1", count="3", **{"from": "1699990005"})
        assert since[0] == "1699989960.000000000" or float(since[0]) > 1699990005, "the one that contains it"
        after = await times(
            http, granularity="M1", **{"from": since[0], "includeFirst": "false", "count": "2"}
        )
        assert after == since[1:]
        both = await times(http, granularity="M1", **{"from": "1699990020", "to": "1699990320"})
        assert 4 <= len(both) <= 5, "periods without prices are absent"
        rfc = "2023-11-14T22:12:00.000000000Z"
        assert await times(http, granularity="M1", **{"from": rfc}) == await times(
            http, granularity="M1", **{"from": "1699999920"}
        )

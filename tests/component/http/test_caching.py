"""ETags, Cache-Control, compression."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest

T0 = 1_710_892_800
HOUR = 3_600
DAY = 86_400
IMMUTABLE = "public, max-age=31536000, immutable"
FORMING = f"/api/candles?symbol=EURUSD&timeframe=1h&from={T0}&to={T0 + 10 * DAY}"


async def test_same_data_is_not_sent_again(site: Any, hours: str) -> None:
    first = await site.get(hours)
    status, headers, body = await site.raw("GET", hours, If_None_Match=first.headers["ETag"])
    assert (status, body) == (304, b"")
    for name in ("ETag", "Cache-Control", "Vary"):
        assert headers[name] == first.headers[name]
    assert "Content-Type" not in headers
    assert "Content-Length" not in headers


async def test_304_costs_one_read_of_the_series_and_no_candles(site: Any, hours: str) -> None:
    tag = (await site.get(hours)).headers["ETag"]
    site.store.reads.clear()
    assert (await site.get(hours, If_None_Match=f'"other", W/{tag}')).status_code == 304
    assert site.store.reads == ["series"]


async def test_etag_is_strong_and_survives_a_restart(make_site: Callable[..., Any], hours: str) -> None:
    tag = (await make_site().get(hours)).headers["ETag"]
    assert tag.startswith('"')
    assert (await make_site().get(hours, If_None_Match=tag)).status_code == 304


async def test_import_that_changes_the_body_changes_the_etag(site: Any, rows: Any, hours: str) -> None:
    first = await site.get(hours)
    site.store.shift, rows[2].hist_v = 0.5, rows[2].hist_v + 1
    changed = await site.get(hours, If_None_Match=first.headers["ETag"])
    assert changed.status_code == 200
    assert changed.headers["ETag"] != first.headers["ETag"]


async def test_import_that_leaves_the_body_alone_is_a_304(site: Any, rows: Any, hours: str) -> None:
    first = await site.get(hours)
    rows[2].hist_v += 1
    assert (await site.get(hours, If_None_Match=first.headers["ETag"])).status_code == 304


async def test_live_flush_does_not_touch_a_closed_range(site: Any, rows: Any, hours: str) -> None:
    tag = (await site.get(hours)).headers["ETag"]
    rows[2].live_v += 1
    site.store.reads.clear()
    assert (await site.get(hours, If_None_Match=tag)).status_code == 304
    assert site.store.reads == ["series"]


async def test_live_flush_shows_in_a_range_with_the_forming_candle(site: Any, rows: Any) -> None:
    first = await site.get(FORMING)
    site.store.shift, rows[2].live_v = 0.5, rows[2].live_v + 1
    second = await site.get(FORMING, If_None_Match=first.headers["ETag"])
    assert second.status_code == 200
    assert second.headers["ETag"] != first.headers["ETag"]
    third = await site.get(FORMING, If_None_Match=second.headers["ETag"])
    assert third.status_code == 304


async def test_equal_ranges_share_what_is_known(site: Any) -> None:
    """Different words for the same candles: the second one is a 304 without a read of candles."""
    first = await site.get(f"/api/candles/EURUSD/1h?from={T0 - 1}&to={T0 + HOUR}")
    site.store.reads.clear()
    again = await site.get(
        f"/api/candles?timeframe=1h&symbol=eur-usd&from={T0}.0&to={T0 + HOUR + 59}",
        If_None_Match=first.headers["ETag"],
    )
    assert again.status_code == 304
    assert site.store.reads == ["series"]


async def test_each_format_and_encoding_has_its_own_etag(site: Any, hours: str) -> None:
    kinds: list[dict[str, str]] = [{}, {"Accept": "text/csv"}, {"Accept_Encoding": "gzip"}]
    kinds.append(kinds[1] | {"Accept_Encoding": "gzip"})
    long = hours.replace(str(T0 + 9 * HOUR), str(T0 + 23 * HOUR))
    answers = [await site.get(long, **kind) for kind in kinds]
    assert len({answer.headers["ETag"] for answer in answers}) == 4
    for kind in kinds:
        for answer in answers:
            same = answer is answers[kinds.index(kind)]
            status = (await site.get(long, If_None_Match=answer.headers["ETag"], **kind)).status_code
            assert status == (304 if same else 200)


async def test_gzip_is_the_same_body(site: Any, hours: str) -> None:
    long = hours.replace(str(T0 + 9 * HOUR), str(T0 + 23 * HOUR))
    plain = await site.get(long)
    packed = await site.get(long, Accept_Encoding="br, gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    data = await packed.get_data()
    assert int(packed.headers["Content-Length"]) == len(data)
    assert gzip.decompress(data) == await plain.get_data()
    assert "Accept-Encoding" in plain.vary
    assert "Accept-Encoding" in packed.vary


@pytest.mark.parametrize("accept", ["identity", "gzip;q=0", "br", "gzip;q=0.5, identity"])
async def test_gzip_only_where_it_is_wanted(site: Any, hours: str, accept: str) -> None:
    long = hours.replace(str(T0 + 9 * HOUR), str(T0 + 23 * HOUR))
    assert "Content-Encoding" not in (await site.get(long, Accept_Encoding=accept)).headers


async def test_small_bodies_are_not_compressed(site: Any) -> None:
    response = await site.get(f"/api/candles/EURUSD/1h?from={T0}&to={T0}", Accept_Encoding="gzip")
    assert "Content-Encoding" not in response.headers
    assert not response.headers["ETag"].endswith('-gz"')


async def test_large_bodies_are_compressed_in_a_thread(site: Any, rows: Any) -> None:
    rows[2].latest_us = (T0 + 3_000 * 60) * 1_000_000
    path = f"/api/candles/EURUSD/1m?from={T0}&to={T0 + 3_000 * 60}"
    plain = await (await site.get(path)).get_data()
    assert len(plain) > 65_536
    assert gzip.decompress(await (await site.get(path, Accept_Encoding="gzip")).get_data()) == plain


async def test_closed_and_settled_range_is_immutable(site: Any, hours: str) -> None:
    assert (await site.get(hours + "&broker=oanda")).headers["Cache-Control"] == IMMUTABLE


async def test_only_a_named_broker_is_immutable(site: Any, hours: str) -> None:
    """The config, or an import of another source, may give the range to another one."""
    assert (await site.get(hours)).headers["Cache-Control"] == "no-cache"


async def test_a_hole_that_an_import_may_fill_is_not_immutable(site: Any, hours: str) -> None:
    for first, last in ((T0, T0 + 9 * HOUR), (T0 + 9 * HOUR + 1, T0 + 10 * HOUR - 1)):
        site.store.holes = [(first * 10**6, last * 10**6)]
        assert (await site.get(hours + "&broker=oanda")).headers["Cache-Control"] == "no-cache"
    site.store.holes = [((T0 + 10 * HOUR) * 10**6, (T0 + 11 * HOUR) * 10**6)]
    assert (await site.get(hours + "&broker=oanda")).headers["Cache-Control"] == IMMUTABLE


async def test_range_is_immutable_only_once_settled(site: Any, hours: str) -> None:
    hours += "&broker=oanda"
    closed_s = T0 + 10 * HOUR
    site.now_s = closed_s + DAY - 1
    assert (await site.get(hours)).headers["Cache-Control"] == "no-cache"
    site.now_s = closed_s + DAY
    assert (await site.get(hours)).headers["Cache-Control"] == IMMUTABLE


@pytest.mark.parametrize(
    ("first", "last"), [(T0 - HOUR, T0), (T0, T0 + DAY), (T0, T0 + 2 * DAY), (T0 + 1, T0 + 2)]
)
async def test_range_that_an_import_may_extend_is_not_immutable(site: Any, first: int, last: int) -> None:
    response = await site.get(f"/api/candles/EURUSD/1h?broker=oanda&from={first}&to={last}")
    assert response.headers["Cache-Control"] == "no-cache"


async def test_forming_candle_is_reused_no_longer_than_it_is_fresh(make_site: Callable[..., Any]) -> None:
    assert (await make_site(flush_s=0.25).get(FORMING)).headers["Cache-Control"] == "no-cache"
    assert (await make_site(flush_s=5.9).get(FORMING)).headers["Cache-Control"] == "public, max-age=5"


async def test_digest_memory_is_bounded() -> None:
    from mdserver.web.api.caching import Digest, DigestMemory

    memory = DigestMemory(most=2)
    for key in ("a", "b"):
        memory.put(key, Digest(key, 1))
    assert memory.get("a") is not None  # used last, so b goes first
    memory.put("c", Digest("c", 1))
    assert memory.get("b") is None
    assert memory.get("a") == Digest("a", 1)

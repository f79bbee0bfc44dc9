"""The pages and their files, as a browser asks for them."""

from __future__ import annotations

import gzip
import posixpath
import re
from typing import Any

import pytest

from mdserver.web.api.client_module import client_module
from mdserver.web.page.assets import asset_names
from mdserver.web.page.first_question import TIMEFRAMES

PAGES = ("/", "/docs")


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_loads_only_what_there_is_here(site: Any, path: str) -> None:
    page = await site.get(path)
    assert page.status_code == 200
    assert page.content_type == "text/html; charset=utf-8"
    text = (await page.get_data()).decode()
    assert text.startswith("<!doctype html>\n<html lang")
    assert "http:" not in text
    assert not re.search(r"<style|<script(?![^>]* src=)| style=| on\w+=", text), (
        "the policy forbids what is inline"
    )
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    links = [link for link in loaded if not link.startswith(("#", "https://www.tradingview.com/"))]
    assert len(links) >= 5
    assert "<!--" not in text
    assert not [link for link in links if link.startswith("/")], "else it does not work behind a path prefix"
    for link in links:
        answer = await site.get("/" + link.removeprefix("./"))
        assert answer.status_code == 200, link
        if link.startswith("page/"):
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable", link


async def test_a_page_names_all_modules_that_it_begins_with(site: Any) -> None:
    """As a browser finds them: from the page's script, by what each imports."""
    text = (await (await site.get("/")).get_data()).decode()
    links = set(re.findall(r'<link rel="modulepreload" href="([^"]+)">', text))
    (script,) = re.findall(r'<script type="module" src="([^"]+)">', text)
    found, waiting = set(), [script]
    while waiting:
        module = waiting.pop()
        source = (await (await site.get(f"/{module}")).get_data()).decode()
        statements = re.findall(r'^(?:import|export)\s[^;()=]*?"([^"]+)"', source, re.MULTILINE)
        for imported in {
            posixpath.normpath(posixpath.join(posixpath.dirname(module), one)) for one in statements
        }:
            if imported not in found:
                found.add(imported)
                waiting.append(imported)
    assert found == links
    names = {link.split("/", 2)[2] for link in links}
    assert {"candles.js", "chart.js", "vendor/lightweight-charts.js"} <= names
    assert not {"client.js", "below.js"} & names, "the first candle waits for what it does not need"


async def test_files_of_another_version_are_sent_and_not_kept(site: Any) -> None:
    """A page that is open while the server is upgraded asks for them."""
    answer = await site.get("/page/0123456789abcdef/page.js")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-cache")
    assert await answer.get_data() == await (await site.get("/page/page.js")).get_data()
    assert (await site.problem("/page/0123456789abcdef/nothing.js"))["code"] == "not_found"


async def test_the_client_comes_compressed_and_not_twice(site: Any) -> None:
    packed = await site.get("/client.js", Accept_Encoding="gzip")
    data = await packed.get_data()
    assert gzip.decompress(data) == client_module()
    assert len(data) < len(client_module()) / 3
    again = await site.get("/client.js", Accept_Encoding="gzip", If_None_Match=packed.headers["ETag"])
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("symbol=eurusd", "symbol=EURUSD&timeframe=1m"),
        (
            "symbol=EURUSD&timeframe=1h&price=bid&align=ny17&broker=mock",
            "symbol=EURUSD&timeframe=1h&price=bid&align=ny17&broker=mock",
        ),
        ("symbol=EURUSD&timeframe=7x", "symbol=EURUSD&timeframe=1m"),
        ("", ""),
        ("symbol=%3Cb%3E", None),
        ("symbol=EUR%0D%0AX:1", None),
        ("symbol=EURUSD&broker=%22%3E", None),
    ],
)
async def test_the_first_question_is_asked_with_the_page(site: Any, query: str, asked: str | None) -> None:
    answer = await site.get(f"/?{query}")
    if asked is None:
        assert "Link" not in answer.headers
        return
    path = f"api/candles?{asked}&from=0&to=7258118400&sort=desc&limit=500" if asked else "api/metadata"
    assert answer.headers["Link"] == f"<{path}>; rel=preload; as=fetch; crossorigin"


async def test_the_page_and_the_server_know_the_same_timeframes(site: Any) -> None:
    script = (await (await site.get("/page/candles.js")).get_data()).decode()
    (table,) = re.findall(r"SECONDS = \{(.*?)\};", script, re.DOTALL)
    assert tuple(re.findall(r'"(\w+)":', table)) == TIMEFRAMES


@pytest.mark.parametrize("path", [*PAGES, "/page/page.js", "/page/vendor/lightweight-charts.js"])
async def test_the_policy_lets_nothing_in_from_elsewhere(site: Any, path: str) -> None:
    policy = (await site.get(path)).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    for closed in ("base-uri", "form-action", "frame-ancestors"):
        assert f"{closed} 'none'" in policy


@pytest.mark.parametrize("name", sorted(asset_names()))
async def test_a_file_is_sent_whole_or_compressed_and_not_twice(site: Any, name: str) -> None:
    plain = await site.get(f"/page/{name}")
    data = await plain.get_data()
    packed = await site.get(f"/page/{name}", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(await packed.get_data()) == data
    assert plain.headers["ETag"] != packed.headers["ETag"]
    assert plain.headers["Cache-Control"] == "no-cache"
    again = await site.get(f"/page/{name}", Accept_Encoding="gzip", If_None_Match=packed.headers["ETag"])
    assert (again.status_code, await again.get_data()) == (304, b"")
    status, headers, body = await site.raw("HEAD", f"/page/{name}")
    assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")


@pytest.mark.parametrize(
    "name", ["nothing.js", "../routes.py", "vendor/../page.js", "__init__.py", "vendor/README.md"]
)
async def test_nothing_else_is_sent(site: Any, name: str) -> None:
    assert (await site.problem(f"/page/{name}"))["code"] == "not_found"


async def test_each_vendored_file_comes_with_its_licence() -> None:
    for name in ("lightweight-charts", "swagger-ui"):
        assert {f"vendor/{name}.LICENSE.txt", f"vendor/{name}.NOTICE.txt"} <= asset_names()

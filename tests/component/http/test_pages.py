"""The pages and their files, as a browser asks for them."""

from __future__ import annotations

import gzip
import re
from typing import Any

import pytest

from mdserver.web.page.assets import asset_names

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
    assert not [link for link in links if link.startswith("/")], "else it does not work behind a path prefix"
    for link in links:
        assert (await site.get("/" + link.removeprefix("./"))).status_code == 200, link


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

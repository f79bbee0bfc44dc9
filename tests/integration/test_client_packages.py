"""The clients as they are shipped: built, installed alone, and checked by strict type checkers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from .test_clients_of_others import program
from .test_wheel import run

ROOT = Path(__file__).parents[2]
OF_THE_CLIENT = (
    "anyio", "certifi", "h11", "httpcore2", "httpx2", "idna", "msgspec", "outcome", "attr", "attrs", "sniffio",
    "sortedcontainers", "trio", "truststore", "typing_extensions", "websockets",
)  # fmt: skip
"""What its wheel pulls in, and trio."""


@pytest.mark.slow
def test_the_python_wheel_works_without_the_server(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT / "clients/python"])
    (wheel,) = tmp_path.glob("mdserver_client-*.whl")
    run([*pip, "install", "-q", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel])
    here = Path(pytest.__file__).parent.parent
    for name in OF_THE_CLIENT:
        for found in (here / name, here / f"{name}.py", *here.glob(f"{name}-*.dist-info")):
            if found.exists():
                (tmp_path / "site" / found.name).symlink_to(found)
    code = (
        "import sys, asyncio, trio, mdserver_client as m\n"
        "async def main():\n"
        "    async with m.connect('http://127.0.0.1:9') as client:\n"
        "        try: await client.brokers()\n"
        "        except m.ConnectionFailed: pass\n"
        "        try: await anext(client.stream(['EURUSD']))\n"
        "        except m.ConnectionFailed: print('tried')\n"
        "asyncio.run(main()); trio.run(main)\n"
        "assert not {'mdserver', 'numpy', 'psycopg', 'quart', 'polars', 'pandas'} & set(sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    assert run([sys.executable, "-S", "-W", "error", "-c", code], environment).split() == ["tried", "tried"]
    assert (tmp_path / "site/mdserver_client/py.typed").exists()


def test_the_python_client_asks_for_nothing_of_the_server() -> None:
    wanted = [line for line in requires("mdserver-client") or [] if "extra ==" not in line]
    assert sorted(re.split(r"[<>=]", line)[0] for line in wanted) == [
        "anyio",
        "httpx2",
        "msgspec",
        "websockets",
    ]


@pytest.mark.slow
def test_the_npm_package_type_checks_strictly(tmp_path: Path) -> None:
    """Also what the README and the how-tos show."""
    npm = program("npm")
    packed = run([npm, "pack", "--json", "--pack-destination", tmp_path, ROOT / "clients/js"])
    (package,) = json.loads(packed)
    assert {file["path"] for file in package["files"]} == {
        "README.md",
        "mdserver.d.ts",
        "mdserver.js",
        "package.json",
    }
    tools = ["typescript@7", "@types/node@20", tmp_path / package["filename"]]
    (tmp_path / "package.json").write_text('{"type": "module"}')
    run([npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", tmp_path, *tools])
    assert not list((tmp_path / "node_modules/mdserver-client").glob("node_modules"))
    shutil.copy(ROOT / "examples/ticks.ts", tmp_path)
    readme = (ROOT / "clients/js/README.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```js\n(.*?)```", readme, re.DOTALL))
    (tmp_path / "readme.ts").write_text(blocks)
    options = ["--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", "--types", "node"]
    done = subprocess.run(
        [tmp_path / "node_modules/.bin/tsc", *options, "ticks.ts", "readme.ts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout

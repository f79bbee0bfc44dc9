"""What a person reads once the server serves."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mdserver.config import BrokerEntry, Config
from mdserver.daemon.banner import Banner
from mdserver.plugin import BrokerPlugin

URL = "http://127.0.0.1:8080"
PLUGINS = {
    name: BrokerPlugin(name, "", object, lambda _: None, types=types)
    for name, types in (("quotes", ("tick",)), ("exchange", ("trade",)))
}


def shown(capsys: pytest.CaptureFixture[str], *brokers: BrokerEntry) -> str:
    Banner(Config(data_dir=Path("/nowhere"), brokers=brokers), PLUGINS).started(URL)
    return capsys.readouterr().out


def paste_line(text: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if " watch " in line)
    return shlex.split(line)


def test_it_suggests_a_symbol_that_is_streamed(capsys: pytest.CaptureFixture[str]) -> None:
    off = BrokerEntry("off", "quotes", enabled=False, symbols=("EURUSD",))
    text = shown(capsys, off, BrokerEntry("a", "quotes"), BrokerEntry("b", "exchange", symbols=("XRPUSDT",)))
    assert "symbol=XRPUSDT&" in text
    assert "EURUSD" not in text
    assert "to see live trades:" in text
    assert paste_line(text)[-6:] == ["watch", "XRPUSDT", "--url", "ws://127.0.0.1:8080/", "--type", "trade"]


def test_without_a_symbol_it_invents_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert paste_line(shown(capsys, BrokerEntry("a", "quotes")))[-3:] == [
        "SYMBOL",
        "--url",
        "ws://127.0.0.1:8080/",
    ]


@pytest.mark.parametrize("name", ["mdserver", "__main__.py"])
def test_the_line_can_be_pasted_from_a_folder_with_spaces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/home/me/my folder/bin/{name}", "run"])
    monkeypatch.setattr(sys, "executable", "/home/me/my folder/bin/python")
    line = paste_line(shown(capsys, BrokerEntry("a", "quotes", symbols=("EURUSD",))))
    program = ["/home/me/my folder/bin/mdserver"]
    if name == "__main__.py":
        program = ["/home/me/my folder/bin/python", "-m", "mdserver"]
    assert line[: len(program) + 1] == [*program, "watch"]


CLOSED_OUTPUT = """
import os, sys
from pathlib import Path
from mdserver.config import Config, LogConfig
from mdserver.daemon.banner import Banner
from mdserver.log import set_up_logging
set_up_logging(LogConfig())
ours, theirs = os.pipe()
os.close(ours)
os.dup2(theirs, 1)
Banner(Config(data_dir=Path("/nowhere")), {}).started("http://127.0.0.1:8080")
print("more")
"""


def test_a_closed_output_stops_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", CLOSED_OUTPUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "standard output is closed" in done.stderr
    assert "Traceback" not in done.stderr
    assert "BrokenPipeError" not in done.stderr.replace("Broken pipe", "")

"""No secret value of the config leaves the process, whoever wrote the text."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
import structlog

from mdserver import cli
from mdserver import redact as redact_module
from mdserver.config import LogConfig, load_config, secret_values
from mdserver.feed.broker_host import clean_text
from mdserver.log import set_up_logging
from mdserver.redact import MAX_TEXT, hidden, hide_values, redact


@pytest.fixture(autouse=True)
def no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact_module, "_known_values", frozenset())
    monkeypatch.setattr(redact_module, "_hidden_values", None)


@attrs.frozen
class Settings:
    api_key: str = ""
    url: str = ""
    rest: tuple[str, ...] = ()
    pin: str = attrs.field(default="", metadata={"secret": True})


CONFIG = """
database: {url: "postgresql://bob:p%40ss-word@db/md"}
brokers:
  - name: venue
    api_key: sesame-key-1
    url: "wss://user:hunter22@host/"
    rest: ["https://x:other-pw@y"]
    pin: "4711"
"""


def values(tmp_path: Path) -> frozenset[str]:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return secret_values(load_config(path, environ={}, brokers={"venue": Settings}))


def test_every_secret_value_of_a_config_is_known(tmp_path: Path) -> None:
    expected = {"p%40ss-word", "p@ss-word", "sesame-key-1", "hunter22", "other-pw", "4711"}
    assert values(tmp_path) == expected


def test_a_text_that_a_plugin_wrote_shows_none(tmp_path: Path) -> None:
    hide_values(values(tmp_path))
    text = clean_text('the key sesame-key-1 expired; p%40ss-word p@ss-word 4711 \'{"k": "sesame-key-1"}\'')
    assert text == 'the key *** expired; *** *** *** \'{"k": "***"}\''


def test_encoded_forms_and_short_values() -> None:
    hide_values(['a "b"\n/ü', "1"])
    secret = 'a "b"\n/ü'
    assert redact(f"{secret} {json.dumps(secret)} {secret!r} a%20%22b%22%0A%2F%C3%BC 1") == (
        "*** \"***\" '***' *** 1"
    )


@pytest.mark.parametrize("format_", ["json", "text"])
def test_the_log_shows_none(format_: Any) -> None:
    hide_values(["sesame-key-1"])
    stream = io.StringIO()
    set_up_logging(LogConfig(format=format_), stream)
    try:
        try:
            raise RuntimeError("sesame-key-1 in an error")
        except RuntimeError:
            structlog.get_logger("mdserver").exception("failed with sesame-key-1", some=["sesame-key-1"])
    finally:
        set_up_logging(LogConfig())
    assert "***" in stream.getvalue()
    assert "sesame" not in stream.getvalue()


def test_a_traceback_of_a_command_shows_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_values(["sesame-key-1"])

    @click.command("broken")
    def broken() -> None:
        raise RuntimeError("cannot use sesame-key-1")

    monkeypatch.setattr(cli, "cli", broken)
    assert cli.main([]) == 1
    shown = capsys.readouterr().err
    assert "RuntimeError: cannot use ***" in shown
    assert "sesame" not in shown


def test_a_long_text_is_cut_and_says_so() -> None:
    hide_values(["sesame-key-1"])
    text = "x " * (MAX_TEXT // 2 - 54) + "sesame-key-1 " * 10_000
    shown = redact(text)
    assert len(shown) < MAX_TEXT
    assert "sesame" not in shown
    assert shown.endswith(f" … ({len(text) - MAX_TEXT} more characters)")
    assert redact(shown) == shown


def test_a_value_is_hidden_as_long_as_anybody_needs_it() -> None:
    with hidden(["clients-key-1", "short"]):
        with hidden(["clients-key-1", "clients-key-2"]):
            assert redact("clients-key-1 clients-key-2 short") == "*** *** short"
        assert redact("clients-key-1 clients-key-2") == "*** clients-key-2"
    assert redact("clients-key-1") == "clients-key-1"

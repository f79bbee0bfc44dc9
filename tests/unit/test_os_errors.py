"""What an operator reads in place of an errno."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mdserver.cli import EXIT_FAILED, main
from mdserver.commands.context import Invocation
from mdserver.os_errors import explain, user_name
from mdserver.web.server.tcp_server import _why_not


def failed(number: int, path: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *(() if path is None else (str(path),)))


def test_the_folder_in_the_way_is_named_with_its_owner_and_us(tmp_path: Path) -> None:
    us = user_name()
    assert explain(failed(errno.EACCES, tmp_path / "a" / "b")) == (
        f"user {us} may not use {tmp_path}, which belongs to {us}: change its owner or mode (chown, chmod)"
    )


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.touch()
    for inner in (file, file / "x"):
        with pytest.raises(OSError) as caught:
            inner.mkdir()
        assert explain(caught.value) == f"{file} is a file; expected a folder"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full: no space is left for {path}"),
        (errno.EDQUOT, "the disk is full: no space is left for {path}"),
        (errno.EROFS, "{path} is on a read-only file system"),
        (errno.EISDIR, "{path} is a folder; expected a file"),
        (errno.EIO, "{path}: input/output error"),
    ],
)
def test_no_errno_is_left(tmp_path: Path, number: int, sentence: str) -> None:
    assert explain(failed(number, tmp_path)) == sentence.format(path=tmp_path)


def test_an_error_without_a_path_and_one_of_our_own_words() -> None:
    assert explain(failed(errno.ENOSPC)) == "the disk is full: no space is left"
    assert explain(failed(errno.EBADF)) == "bad file descriptor"
    assert "ulimit -n" in explain(failed(errno.EMFILE))
    assert explain(OSError(errno.EPERM, "belongs to user 7; expected 0", "/x")) == (
        "/x belongs to user 7; expected 0"
    )
    assert explain(OSError("half written")) == "half written"


def test_a_port_below_1024_is_explained() -> None:
    assert "CAP_NET_BIND_SERVICE" in _why_not(failed(errno.EACCES))
    assert "no such address" in _why_not(failed(errno.EADDRNOTAVAIL))


def test_a_command_prints_a_sentence_for_what_an_operator_can_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise failed(errno.EROFS, tmp_path)

    monkeypatch.setattr(Invocation, "load", refuse)
    assert main(["config", "check"]) == EXIT_FAILED
    assert capsys.readouterr().err == f"mdserver: {tmp_path} is on a read-only file system\n"

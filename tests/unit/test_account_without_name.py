"""A user id that the system has no name for, as in a container that runs under any."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from mdserver.store.embedded.run_as import account_without_name


def test_an_id_that_has_a_name_needs_nothing(tmp_path: Path) -> None:
    assert account_without_name(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_an_id_without_one_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = 1_234_567
    with pytest.raises(KeyError):
        pwd.getpwuid(nobody)
    monkeypatch.setattr(os, "geteuid", lambda: nobody)
    variables = account_without_name(tmp_path)
    assert variables["LD_PRELOAD"] == "libnss_wrapper.so"
    line = Path(variables["NSS_WRAPPER_PASSWD"]).read_text().rstrip("\n").split(":")
    assert (line[0], line[2], line[3], len(line)) == ("mdserver", str(nobody), str(os.getegid()), 7)
    assert Path(variables["NSS_WRAPPER_GROUP"]).read_text() == f"mdserver:x:{os.getegid()}:\n"

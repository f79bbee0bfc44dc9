"""``mdserver run doctor`` on set-ups that are broken, each in one way, and on one that is not."""

from __future__ import annotations

import http.server
import json
import logging
import os
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
import yaml

from mdserver.cli import main
from mdserver.commands.doctoring.database import check_clock, check_settings
from mdserver.commands.doctoring.machine import check_time_zones
from mdserver.data_folder_lock import lock_data_folder
from tests.clusters import put_cluster, reachable_folder

from .redis import running_redis

Report = dict[str, Any]
Doctor = Callable[..., tuple[int, dict[str, list[dict[str, str]]]]]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Call it with sections of the config; returns the exit code and the findings by check."""

    def run(**sections: Any) -> tuple[int, dict[str, list[dict[str, str]]]]:
        given = {
            "data_dir": str(tmp_path / "data"),
            "server": {"port": 0},
            "database": {"store": False},
            "brokers": [{"name": "mock"}],
        }
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(given | sections))
        code = main(["run", "--config", str(config), "doctor", "--json"])
        findings: dict[str, list[dict[str, str]]] = {}
        for one in json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]:
            findings.setdefault(one["check"], []).append(one)
        return code, findings

    return run


def the_red(found: dict[str, list[dict[str, str]]], check: str) -> dict[str, str]:
    """Return the one red finding, which must be of this check and have a remedy."""
    (one,) = [finding for findings in found.values() for finding in findings if finding["state"] == "red"]
    assert one["check"] == check
    assert one["remedy"]
    return one


def test_a_whole_set_up_is_green(doctor: Doctor) -> None:
    with reachable_folder() as folder:
        place = put_cluster(folder)
        with (place.cluster / "postgresql.conf").open("a") as settings:
            settings.write("fsync = on\nfull_page_writes = on\n")  # which tests have off
        code, found = doctor(data_dir=str(folder), database={})
    states = {name: [one["state"] for one in findings] for name, findings in found.items()}
    assert (code, set(states)) == (
        0,
        {
            "config",
            "plugins",
            "time zones",
            "data folder",
            "free space",
            "address",
            "open files",
            "database",
            "clock",
            "tables",
            "database settings",
            "database connections",
            "database size",
        },
    ), found
    assert {state for several in states.values() for state in several} == {"green"}


def test_before_the_first_start_nothing_is_made(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor(database={})
    assert code == 0, found
    assert "is created at the first start" in found["database"][0]["text"]
    assert not (tmp_path / "data").exists()


def test_config_with_errors(doctor: Doctor) -> None:
    code, found = doctor(server={"port": "many"}, databse={})
    assert code == 2
    assert [one["state"] for one in found["config"]] == ["red", "red"]
    assert "databse" in found["config"][0]["text"] + found["config"][1]["text"]
    assert found["time zones"][0]["state"] == "green"  # what needs no config is checked all the same


def test_open_to_everyone_without_keys(doctor: Doctor) -> None:
    code, found = doctor(server={"host": "*", "port": 0})
    assert code == 2
    assert "open to other machines" in the_red(found, "address")["text"]


def test_port_in_use(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, found = doctor(server={"port": port})
    assert code == 2
    assert f"127.0.0.1:{port} is already in use" in the_red(found, "address")["text"]


def test_data_folder_is_a_file(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, found = doctor(data_dir=str(tmp_path / "file"))
    assert code == 2
    assert "is not a folder" in the_red(found, "data folder")["text"]


def test_records_that_were_set_aside(doctor: Doctor, tmp_path: Path) -> None:
    journal = tmp_path / "data/journal"
    journal.mkdir(parents=True)
    (journal / "rejected.jsonl").write_text("{}\n")
    code, found = doctor()
    assert code == 1
    assert [one["state"] for one in found["data folder"]] == ["green", "yellow"]


def test_plugin_that_cannot_be_imported(doctor: Doctor, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "wrong.py").write_text("import no_such_module\n")
    code, found = doctor(plugin_folders=[str(folder)], brokers=[{"name": "wrong"}])
    assert code == 2
    assert "no_such_module" in the_red(found, "plugins")["text"]


def test_too_few_descriptors(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    code, found = doctor()
    assert code == 1
    assert found["open files"][0]["state"] == "yellow"
    assert "LimitNOFILE=12512" in found["open files"][0]["remedy"]


def test_no_time_zone_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoneinfo

    zoneinfo.ZoneInfo.clear_cache()
    monkeypatch.setitem(__import__("sys").modules, "tzdata", None)
    zoneinfo.reset_tzpath(to=[])
    try:
        assert check_time_zones().state == "red"
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()
    assert check_time_zones().state == "green"


def test_database_that_nobody_serves(doctor: Doctor) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://me:secret-word@127.0.0.1:{nobody.getsockname()[1]}/prices"
        code, found = doctor(database={"url": url})
    assert code == 2
    finding = the_red(found, "database")
    assert "start the database" in finding["remedy"]
    assert "secret-word" not in json.dumps(found)


def test_database_that_does_not_exist(doctor: Doctor, postgres_url: str) -> None:
    code, found = doctor(database={"url": as_url(postgres_url, "no_such_name")})
    assert code == 2
    assert 'database "no_such_name" does not exist' in the_red(found, "database")["text"]


def test_database_without_its_tables(doctor: Doctor, empty_database_url: str) -> None:
    code, found = doctor(database={"url": as_url(empty_database_url), "migrate": False})
    assert code == 2
    assert found["tables"][0]["state"] == "red"
    assert found["tables"][0]["remedy"] == "mdserver run migrate"
    # The tests' own server is not durable, and the doctor says so.
    assert [one["state"] for one in found["database settings"]] == ["red", "red"]
    assert found["clock"][0]["state"] == "green"


def test_database_of_another_program(doctor: Doctor, empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as conn:
        conn.execute("create table series (id int)")
    code, found = doctor(database={"url": as_url(empty_database_url)})
    assert code == 2
    assert "already has the table series" in found["tables"][0]["text"]


def test_bus_that_nobody_serves(doctor: Doctor, database_url: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        bus = {"url": f"redis://me:secret-word@127.0.0.1:{nobody.getsockname()[1]}"}
        code, found = doctor(bus=bus, database={"url": as_url(database_url)})
    assert code == 2
    assert found["bus"][0]["state"] == "red"
    assert "127.0.0.1" in found["bus"][0]["text"]
    assert "secret-word" not in json.dumps(found)


def test_bus_with_a_wrong_password(doctor: Doctor, database_url: str, tmp_path: Path) -> None:
    with running_redis(tmp_path, "--requirepass", "right-redis-word") as redis:
        states = []
        for password in ("right-redis-word", "wrong-redis-word"):
            url = redis.url.replace("//", f"//:{password}@")
            _, found = doctor(bus={"url": url}, database={"url": as_url(database_url)})
            states.append(found["bus"][0]["state"])
    assert states == ["green", "red"]
    assert "password" in found["bus"][0]["text"].lower()


def test_bus_whose_clock_is_off_or_that_lacks_a_right(
    doctor: Doctor, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead_s = 60.0
    monkeypatch.setattr("mdserver.bus.status.time", lambda: time.time() + ahead_s)
    rights = ["on", ">word", "~md:*", "+@read", "+@write", "+@connection", "-eval", "+time"]
    with running_redis(tmp_path, "--user", "md", *rights) as redis:
        bus = {"url": redis.url}
        _, found = doctor(bus=bus, database={"url": as_url(database_url)})
        assert found["bus"][0]["state"] == "green"
        clock = found["bus clock"][0]
        assert clock["state"] == "red"
        assert re.fullmatch(r"our clock and that of the bus differ by (59|60|61)\.\d s", clock["text"])
        assert "NTP" in clock["remedy"]
        ahead_s = -2.0
        _, found = doctor(bus=bus, database={"url": as_url(database_url)})
        assert found["bus clock"][0]["state"] == "yellow"
        bus = {"url": redis.url.replace("//", "//md:word@")}
        _, found = doctor(bus=bus, database={"url": as_url(database_url)})
        assert found["bus"][0]["state"] == "red"
        assert "'eval'" in found["bus"][0]["text"]


def test_lake_that_cannot_be_reached(doctor: Doctor, database_url: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        lake = {
            "url": "s3://prices",
            "endpoint": f"http://127.0.0.1:{nobody.getsockname()[1]}",
            "access_key_id": "me",
            "secret_access_key": "secret-word",
            "retry_for_s": 0,
        }
        code, found = doctor(lake=lake, database={"url": as_url(database_url)})
    assert code == 2
    assert found["lake"][0]["state"] == "red"
    assert "s3://prices" in found["lake"][0]["text"]
    assert "secret-word" not in json.dumps(found)


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, {"status": "ready"}, "green"),
        (200, {"status": "degraded", "reasons": ["broker kraken is backoff"]}, "yellow"),
        (503, {"detail": "not ready", "reasons": ["the database is unavailable"]}, "red"),
    ],
)
def test_running_server(doctor: Doctor, tmp_path: Path, status: int, body: Report, state: str) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server, lock_data_folder(tmp_path / "data"):
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        _, found = doctor(server={"port": server.server_port})
        thread.join()
    (finding,) = found["server"]
    assert finding["state"] == state
    assert f"process {os.getpid()}" in finding["text"]
    assert all(why in finding["text"] for why in body.get("reasons", []))
    assert found["address"][0]["state"] == "green"


def test_server_that_hangs(doctor: Doctor, tmp_path: Path) -> None:
    with socket.socket() as nobody, lock_data_folder(tmp_path / "data"):
        nobody.bind(("127.0.0.1", 0))
        code, found = doctor(server={"port": nobody.getsockname()[1]})
    assert code == 2
    assert "does not answer" in the_red(found, "server")["text"]


def test_clocks_and_settings_are_judged() -> None:
    assert [check_clock(apart).state for apart in (0.2, -2.0, 60.0)] == ["green", "yellow", "red"]
    good = {"fsync": "on", "full_page_writes": "on", "server_encoding": "UTF8", "shared_buffers": "32768"}
    assert [one.state for one in check_settings(good)] == ["green"]
    bad = list(check_settings(good | {"fsync": "off", "server_encoding": "LATIN1", "shared_buffers": "16"}))
    assert [one.state for one in bad] == ["red", "yellow", "yellow"]


def test_lines_for_people(doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor()
    code = main(["run", "--config", str(tmp_path / "config.yaml"), "doctor"])
    out = capsys.readouterr().out
    assert code == 1  # nothing is stored
    assert "yellow  database: database.store is false" in out
    assert out.rstrip().endswith("1 yellow, 0 red")


def as_url(conninfo: str, name: str | None = None) -> str:
    """Return a conninfo as the URL that the config takes."""
    from urllib.parse import quote

    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(conninfo)
    host = quote(str(given["host"]), safe="")
    port = f":{given['port']}" if given.get("port") else ""
    return f"postgresql://{given.get('user', '')}@{host}{port}/{name or given['dbname']}"

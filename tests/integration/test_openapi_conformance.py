"""The HTTP interface against its own OpenAPI document, by schemathesis: what is described comes, and nothing else.

It asks for every boundary of every parameter and for made-up values, valid and not, on a server with records. No answer
may be a failure or have a status, a type of content, a header or a body that the document does not describe, and no
request that the document forbids may be served.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trio
from structlog.testing import capture_logs

from mdserver.model import US_PER_S, Published, Tick, Topic, Trade
from mdserver.store.connection.database import Database
from mdserver.store.store import Store

from .storing_server import open_storing_server

T0_S = 1_710_892_800
"""The time of the document's examples."""
RECORDS = 500
EXAMPLES, LONG_EXAMPLES = 3, 30
"""Made-up requests of each operation, besides the boundaries of its parameters."""

ALIKE = "/api/candles/{symbol}/{timeframe}", "/api/trades", "/udf/marks", "/udf/timescale_marks"
"""Operations that share their code with another one; left out unless the run is a long one."""
BRIEF = "/api/candles", "/api/ticks", "/api/stream"
"""Operations whose parameters are each wrong in every way only in a long run; others check their kinds."""

# What no schema can say (from before to, a symbol that cannot be one) is refused though the document allows it.
# TradingView's protocol answers everything with 200.
CONFIG = f"""
request-timeout = 10
max-stream-events = 1
continue-on-failure = true
warnings = false

[dictionaries]
symbol = {{values = ["EURUSD", "gbp/usd", "one:EURUSD", "NOSUCH"]}}
symbols = {{values = ["EURUSD", "EURUSD,GBPUSD", "NOSUCH,EURUSD"]}}
broker = {{values = ["one"]}}
from = {{values = [{T0_S}]}}
to = {{values = [{T0_S + 3_600}]}}
timeframe = {{values = ["1m", "1h", "7m"]}}
resolution = {{values = ["1", "60", "1D"]}}
fields = {{values = ["time,close", "complete,broker,vwap,count,time"]}}
types = {{values = ["tick,trade", "heartbeat"]}}
since = {{values = ['{{"seq": 5}}', {T0_S}]}}

[parameters]
symbol = {{dictionary = "symbol", probability = 0.9}}
symbols = {{dictionary = "symbols", probability = 0.9}}
broker = {{dictionary = "broker", probability = 0.8}}
from = {{dictionary = "from", probability = 0.9}}
to = {{dictionary = "to", probability = 0.9}}
timeframe = {{dictionary = "timeframe", probability = 0.8}}
resolution = {{dictionary = "resolution", probability = 0.9}}
fields = {{dictionary = "fields", probability = 0.8}}
types = {{dictionary = "types", probability = 0.9}}
since = {{dictionary = "since", probability = 0.8}}

[checks]
positive_data_acceptance.enabled = false

[phases.coverage]
unexpected-methods = ["POST"]

[[operations]]
include-path = "/api/candles"
parameters.symbols = ""

[[operations]]
include-path-regex = "^/udf/"
checks.negative_data_rejection.enabled = false
"""


def made_up(topic: Topic, seq: int) -> Published:
    """Return a record of every tenth second."""
    time_us = (T0_S + 10 * seq) * US_PER_S + 123_456
    if topic.type == "trade":
        return Published(topic, seq, Trade(topic.symbol, time_us, 1.0 + seq / 1_000, 2.5, "buy", f"id {seq}"))
    return Published(topic, seq, Tick(topic.symbol, time_us, 1.0, 1.0 + seq / 1_000, 1e6, None), time_us + 7)


async def schemathesis(port: int, folder: Path, *, long: bool) -> dict[str, Any]:
    """Run it; return its report."""
    short = [f"\n[[operations]]\ninclude-path = {json.dumps(path)}\nenabled = false\n" for path in ALIKE]
    brief = 'phases.coverage.generation.mode = "positive"'
    short += [f"\n[[operations]]\ninclude-path = {json.dumps(path)}\n{brief}\n" for path in BRIEF]
    (folder / "schemathesis.toml").write_text(CONFIG + "".join([] if long else short))
    report = folder / "report.json"
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml"),
            *(
                "run",
                f"http://127.0.0.1:{port}/api/openapi.json",
                "--phases",
                "coverage,fuzzing",
                "--workers",
                "2",
            ),
            *("--max-examples", str(LONG_EXAMPLES if long else EXAMPLES), "--seed", "1", "--no-color"),
            *("--report", "json", "--report-json-path", str(report)),
        ],
        cwd=folder,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    found: dict[str, Any] = json.loads(report.read_text())
    return found


async def test_answers_are_what_the_openapi_document_says(
    database: Database, tmp_path: Path, *, long: bool
) -> None:
    store = Store(database)
    topics = [Topic("one", "EURUSD", "tick"), Topic("one", "GBPUSD", "tick"), Topic("two", "EURUSD", "trade")]
    await store.write([made_up(topic, seq) for topic in topics for seq in range(1, RECORDS + 1)])
    services = {"store": store, "now_us": lambda: time.time_ns() // 1_000}
    with capture_logs() as logs:
        async with open_storing_server(database, tmp_path, names=("one", "two"), services=services) as server:
            report = await schemathesis(server.stream.port, tmp_path, long=long)
    assert report["operations"]["tested"] == report["operations"]["total"] - (0 if long else len(ALIKE))
    for path in ("candles", "ticks", "snapshot", "coverage", "gaps", "symbols", "metadata", "stream"):
        served = report["valid_rates"][f"GET /api/{path}"]["coverage"]["accepted"]
        assert served > 0, f"{path}: only refusals"
    assert [log for log in logs if log["log_level"] in ("error", "critical")] == []

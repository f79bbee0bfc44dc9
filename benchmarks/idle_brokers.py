"""What brokers cost that are configured and idle: CPU of the server, time of its start, of a reload of all.

    python benchmarks/idle_brokers.py [--brokers 100] [--seconds 20]

The brokers are connected, watched for silence, and nobody wants anything of them: what is left is supervision. A server
without brokers is measured in the same run; the difference is what the brokers cost.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

PLUGIN = """
import attrs, trio, mdserver.plugin as p
@attrs.frozen
class Config:
    seed: int = 1
class Idle:
    def __init__(self, config): pass
    async def run(self, host, *, task_status):
        task_status.started()
        await trio.sleep_forever()
plugin = p.BrokerPlugin('idle', 'Connected, and nothing else', Config, Idle, silence_s=30.0)
"""


def write(folder: Path, brokers: int, *, seed: int = 1) -> Path:
    path = folder / "config.yaml"
    entries = [{"name": f"broker{n}", "plugin": "idle", "seed": seed} for n in range(brokers)]
    config = {
        "data_dir": str(folder / "data"),
        "plugin_folders": [str(folder / "plugins")],
        "server": {"port": 0},
        "database": {"store": False},
        "log": {"format": "json"},
        "brokers": entries,
    }
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "plugins" / "idle.py").write_text(PLUGIN)
    path.write_text(yaml.safe_dump(config))
    return path


def measure(brokers: int, seconds: float) -> tuple[float, float, float]:
    """Return seconds to readiness, % of a core while idle, and seconds of a reload that changes every broker."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        log = folder / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "mdserver", "run", "--config", str(write(folder, brokers))],
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            try:
                assert process.stdout is not None
                while b"is ready" not in process.stdout.readline():
                    pass
                ready_s = time.monotonic() - began
                time.sleep(5)  # every first session has begun
                times = psutil.Process(process.pid).cpu_times
                before, start = times(), time.monotonic()
                time.sleep(seconds)
                after, took_s = times(), time.monotonic() - start
                cpu = 100 * (after.user + after.system - before.user - before.system) / took_s
                write(folder, brokers, seed=2)
                began = time.monotonic()
                process.send_signal(signal.SIGHUP)
                while b"the config was reloaded" not in log.read_bytes():
                    time.sleep(0.01)
                return ready_s, cpu, time.monotonic() - began
            finally:
                process.terminate()
                process.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--brokers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    for brokers in (0, options.brokers):
        ready_s, cpu, reload_s = measure(brokers, options.seconds)
        print(
            f"{brokers:4} brokers: ready after {ready_s:.2f} s, idle {cpu:.2f} % of a core, reload {reload_s:.2f} s"
        )


if __name__ == "__main__":
    main()

"""Decoding bi5 files in ticks per second: ours against npm's dukascopy-node 1.46.4, and ours without LZMA.

LZMA is nearly all of our time, so liblzma decides: 5.6 brought a decoder in assembly. To measure with another one
than Python's: LD_PRELOAD=/path/to/liblzma.so.5 python benchmarks/decode.py. It releases the interpreter lock, so the
importer's worker threads gain with each core.
"""

from __future__ import annotations

import _lzma
import argparse
import ctypes
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import harness

from mdserver.model import TickColumns
from mdserver.testing import bi5
from mdserver.testing.recorded import recorded_folder
from mdserver_dukascopy import codec

DECODERS = harness.HERE / "decoders"
SYMBOL, DECIMALS = "EURUSD", 5
PASSES = 10
"""How often a round decodes each file: a day of ticks takes 50 ms, too short to time."""

MADE_UP_HOURS, MADE_UP_TICKS = 24, 5_000
THREADS = 2

SETTLE_S = 0.3
"""Pause before each pass, so that no decoder pays for the garbage collection of the one before."""

HOUR_US = 1_549_238_400_000_000


class Pass(NamedTuple):
    seconds: float
    count: int
    ask_sum: int


def recorded(folder: Path) -> list[Path]:
    """The hours of SYMBOL below a folder in the datafeed's layout."""
    return sorted(folder.glob(f"{SYMBOL}/*/*/*/*h_ticks.bi5"))


def make_up(folder: Path) -> None:
    """Write a day of a random walk, for machines without recorded files."""
    chance = random.Random(1)
    bid = 114_500
    for hour in range(MADE_UP_HOURS):
        rows = []
        for ms in sorted(chance.sample(range(3_600_000), MADE_UP_TICKS)):
            bid += chance.randint(-3, 3)
            sizes = [chance.choice((1.0, 1.12, 1.5, 2.25, 3.37, 4.5)) for _ in range(2)]
            rows.append(bi5.FakeTick(ms, bid + chance.randint(0, 6), bid, *sizes))
        path = folder / bi5.ticks_path(SYMBOL, HOUR_US + hour * 3_600_000_000)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bi5.encode_ticks(rows))


def timed(
    decode: Callable[[bytes], TickColumns], bodies: list[bytes], pool: ThreadPoolExecutor | None = None
) -> Pass:
    """Decode all bodies PASSES times over; the sum shows afterwards that it was the same work."""

    def sums(body: bytes) -> tuple[int, int]:
        ticks = decode(body)
        return len(ticks.ask), int((ticks.ask * 10**DECIMALS).round().sum())

    time.sleep(SETTLE_S)
    start = time.perf_counter()
    done = list((pool.map if pool else map)(sums, bodies * PASSES))
    seconds = time.perf_counter() - start
    return Pass(seconds, sum(count for count, _ in done), sum(ask_sum for _, ask_sum in done))


@contextmanager
def node_decoder(root: Path, paths: list[Path]) -> Iterator[Callable[[], Pass]]:
    """Run dukascopy-node over the same files; the callable makes one pass."""
    names = [str(path.relative_to(root)) for path in paths]
    command = ["node", str(DECODERS / "decode.js"), SYMBOL.lower(), str(root), str(PASSES), *names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def one() -> Pass:
            time.sleep(SETTLE_S)
            print(file=child.stdin, flush=True)
            answer = json.loads(child.stdout.readline())
            return Pass(answer["seconds"], answer["count"], answer["askSum"])

        yield one
        child.stdin.close()


def install() -> None:
    if not (DECODERS / "node_modules" / "dukascopy-node").exists():
        command = ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=DECODERS, check=True)


def decompressed(bodies: list[bytes]) -> Callable[[bytes], TickColumns]:
    """Return our decoder with LZMA taken out: it looks the content up."""
    contents = {body: codec.decompress(body, "") for body in bodies}

    def decode(body: bytes) -> TickColumns:
        return codec.decode_content(contents[body], "", HOUR_US, DECIMALS)

    return decode


def lzma_version() -> str:
    """The version of the library that Python's lzma uses: a preloaded one, else its own."""
    preloaded = ctypes.CDLL(None)
    library = preloaded if hasattr(preloaded, "lzma_version_string") else ctypes.CDLL(_lzma.__file__)
    version = library.lzma_version_string
    version.restype = ctypes.c_char_p
    return bytes(version()).decode()


def measure(root: Path, paths: list[Path], rounds: int) -> dict[str, list[Pass]]:
    bodies = [path.read_bytes() for path in paths]
    without_lzma = decompressed(bodies)
    results: dict[str, list[Pass]] = {"node": [], "ours": [], "threads": [], "decode": []}

    def ours(body: bytes) -> TickColumns:
        return codec.decode_ticks(body, "", HOUR_US, DECIMALS)

    with node_decoder(root, paths) as node, ThreadPoolExecutor(THREADS) as pool:
        for number in range(rounds + 1):
            passes = {
                "node": node(),
                "ours": timed(ours, bodies),
                "threads": timed(ours, bodies, pool),
                "decode": timed(without_lzma, bodies),
            }
            if len({done[1:] for done in passes.values()}) != 1:
                raise SystemExit(f"the decoders differ: {passes}")
            if number:  # the first round warms up
                for name, done in passes.items():
                    results[name].append(done)
                print(f"  {number}/{rounds}", file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="files in the datafeed's layout; default: recorded ones")
    options = parser.parse_args()
    install()
    with harness.data_folder() as made_up:
        root = options.folder
        if root is None and (known := recorded_folder()) is not None:
            root = known / "Leo4815162342+dukascopy-node"
        if root is None:
            make_up(made_up)
            root = made_up
        paths = recorded(root)
        if not paths:
            raise SystemExit(f"{root}: no files like {SYMBOL}/2019/01/04/00h_ticks.bi5")
        results = measure(root, paths, options.rounds)
    count = results["ours"][0].count // PASSES
    kind = "made up" if root == made_up else "recorded"
    print(f"{harness.machine()}; liblzma {lzma_version()}")
    print(
        f"{len(paths)} {kind} hours, {count:,} ticks, each file {PASSES} times a round; {options.rounds} rounds\n"
    )
    rates = {name: [done.count / done.seconds / 1e6 for done in passes] for name, passes in results.items()}
    labels = {
        "node": "dukascopy-node 1.46.4",
        "ours": "ours, one thread",
        "threads": f"ours, {THREADS} threads",
        "decode": "ours, one thread, already decompressed",
    }
    base = harness.median(rates["node"])
    rows = [
        [label, harness.spread(rates[name]), f"{harness.median(rates[name]) / base:.1f}"]
        for name, label in labels.items()
    ]
    print(harness.table(["decoder", "million ticks/s", "times dukascopy-node"], rows))


if __name__ == "__main__":
    main()

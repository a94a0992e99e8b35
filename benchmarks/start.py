"""What a start costs: help, a refused flag, one run, and a sweep with and without new processes."""

from __future__ import annotations

import argparse
import csv
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .ours import machine

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "help": ["train.py", "--help"],
    "refused flag": ["train.py", "--budget", "3"],
    "one epoch of digits": ["train.py", "--epochs", "1", "--device", "cpu"],
}
#: The demo of example_scripts.sh, or its first cells.
DEMO = "--augmentation standard ricap --batch-size 64 --device cpu --method SGD unif-SGD p-SGD"
GRIDS = {
    "small": f"{DEMO} --budget 0.2 --epochs 2",
    "demo": f"{DEMO} c-SGD selective-backprop dro --budget 0.2 0.5 1.0 --seed 1 2 3 --epochs 20",
}
SAME = ("model.pt", "per_class.csv")  # files of a run without a second or a date in them


def timed(checkout: Path, words: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of a command from a checkout, by the clock and of all processors."""
    program, *rest = words
    if "--epochs" in words:
        rest += ["--results-dir", str(folder)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, str(checkout / program), *rest],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(places: dict[str, tuple[Path, list[str]]], turns: int) -> None:
    """Print the median seconds of some commands, made in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
    for _ in range(turns):
        for name, (checkout, words) in places.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(timed(checkout, words, Path(folder)))
    for name, seconds in found.items():
        wall, cpu = (statistics.median(each) for each in zip(*seconds))
        print(f"{name:<40}{wall:8.2f}{cpu:10.2f}", flush=True)


def left_by(run: Path) -> tuple[object, ...]:
    """What a run left, without its seconds and dates."""
    with open(run / "curve.csv", newline="") as file:
        rows = [
            {name: value for name, value in row.items() if not name.endswith("_seconds")}
            for row in csv.DictReader(file)
        ]
    return rows, *((run / name).read_bytes() for name in SAME)


def compare_sweeps(grid: list[str], jobs: list[int]) -> int:
    """Print the seconds of a sweep by forks and by new processes; the runs that differ."""
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        for count in jobs:
            folders = {}
            for name, option in (("forks", []), ("--isolate", ["--isolate"])):
                folders[name] = Path(scratch) / f"{name}{count}"
                words = ["sweep.py", *option, "--jobs", str(count), *grid]
                wall, cpu = timed(ROOT, words, folders[name])
                runs = sum(1 for _ in folders[name].iterdir())
                title = f"{runs} runs, --jobs {count}, {name}"
                print(f"{title:<40}{wall:8.1f}{cpu:10.1f}", flush=True)
            for run in folders["forks"].iterdir():
                different += left_by(run) != left_by(folders["--isolate"] / run.name)
    print(f"runs that differ in a byte: {different}")
    return different


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="of the commands [default: 5]")
    parser.add_argument("--grid", choices=GRIDS, default="demo", help="the sweep [default: demo]")
    parser.add_argument("--jobs", type=int, nargs="+", default=[2], help="of it [default: 2]")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="of an earlier version")
    options = parser.parse_args(arguments)
    print(machine())
    print(f"{'median seconds':<40}{'wall':>8}{'CPU':>10}")
    checkouts = {"": ROOT} | ({", earlier": options.against} if options.against else {})
    for title, words in COMMANDS.items():
        places = {f"{title}{which}": (path, words) for which, path in checkouts.items()}
        compare(places, options.turns)
    return 1 if compare_sweeps(GRIDS[options.grid].split(), options.jobs) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

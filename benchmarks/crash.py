"""Kill real runs at random moments and compare what they leave with runs left alone.

python -m benchmarks.crash --kills 200 --dataset cifar10 --data-dir DIR
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from augmentations import AUGMENTATIONS
from engine.build import load_dataset
from engine.flags import parse
from engine.status import holder, read_status
from engine.sweep.warm import WarmRun, WarmServer
from methods import METHODS

from .ours import machine
from .score_files import noise_flags

ROOT = Path(__file__).resolve().parent.parent
RESUMED = "resuming after step"  # what a run that found a checkpoint says


@dataclass
class Outcome:
    """Outcome of one run that was killed and started again until it ended."""

    kills: int
    resumes: int  # starts that went on from a checkpoint
    mismatches: list[str]  # files that differ from those of the run left alone


class Attempt:
    """A start of a run, in a new process or a fork; `output` is what it prints."""

    def __init__(
        self, words: Sequence[str], results: Path, name: str, server: WarmServer | None = None
    ):
        results.mkdir(parents=True, exist_ok=True)
        words = [*words, "--results-dir", str(results), "--experiment-name", name]
        self.output = results / f"{name}.log"
        self.output.unlink(missing_ok=True)
        self.process: subprocess.Popen[bytes] | WarmRun
        if server:
            self.process = server.start(words, vars(parse(words)[0]), 1, self.output)
        else:
            with open(self.output, "w") as log:
                command = [sys.executable, "train.py", *words]
                self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def wait(self, seconds: float) -> bool:
        """Wait for the end, for so long; return whether it has come."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.process.poll() is not None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        """Wait for it to end well."""
        status = self.process.wait()
        if status:
            raise RuntimeError(f"exit status {status}: {self.output.read_text()}")

    def has_resumed(self) -> bool:
        return RESUMED in self.output.read_text()


def crash(
    words: Sequence[str], kills: int, seed: int, results: Path, server: WarmServer | None
) -> Outcome:
    """Make a run twice, once killed `kills` times by SIGKILL, and compare the two.

    One kill in four falls before the run has taken its folder, in a new process while Python, torch
    and the data are being loaded; the others at any moment of the time that a whole run takes from
    there.
    """
    whole_folder, folder = results / "whole", results / "killed"
    whole = Attempt(words, results, whole_folder.name, server)
    loading = wait_for_running(whole, whole_folder)
    began = time.monotonic()
    whole.finish()
    duration = time.monotonic() - began
    chance, killed, resumes = random.Random(seed), 0, 0
    mismatches: list[str] = []
    while killed < kills or read_status(folder) != "finished":
        if read_status(folder) == "finished":  # before all its kills: once more
            mismatches += differences(whole_folder, folder)
            shutil.rmtree(folder)
        attempt = Attempt(words, results, folder.name, server)
        if killed == kills:
            attempt.finish()
            resumes += attempt.has_resumed()
            continue
        began = time.monotonic()
        if chance.random() < 0.25:
            ended = attempt.wait(chance.uniform(0, loading))
        else:
            wait_for_running(attempt, folder)
            began = time.monotonic()
            ended = attempt.wait(chance.uniform(0, duration))
        elapsed = time.monotonic() - began
        if ended:
            attempt.finish()
        else:
            attempt.kill()
            killed += 1
        resumes += attempt.has_resumed()
        if ended and not attempt.has_resumed():  # faster than the first, which other work slowed
            duration = min(duration, elapsed)
    return Outcome(killed, resumes, mismatches + differences(whole_folder, folder))


def wait_for_running(attempt: Attempt, folder: Path) -> float:
    """Wait until a run holds its folder, or has ended; the seconds that took."""
    began = time.monotonic()
    while not attempt.wait(0.002) and holder(folder) is None:
        pass
    return time.monotonic() - began


def differences(whole: Path, killed: Path) -> list[str]:
    """Names of the files whose contents differ, the curve's seconds apart."""
    curves = [pd.read_csv(run / "curve.csv", dtype=str) for run in (whole, killed)]
    columns = [name for name in curves[0] if not name.endswith("_seconds")]
    weights = [torch.load(run / "model.pt", weights_only=True) for run in (whole, killed)]
    found = []
    if not curves[0][columns].equals(curves[1][columns]):
        found.append("curve.csv")
    if not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]):
        found.append("model.pt")
    return found


def crash_table(
    kills: int,
    jobs: int,
    seed: int,
    dataset: str,
    model: str,
    data_dir: str = "datasets",
    methods: Iterable[str] = METHODS,
    augmentations: Iterable[str] = AUGMENTATIONS,
    server: WarmServer | None = None,
) -> list[Outcome]:
    """Spread kills over methods and augmentations; print a row for each pair, and the sum.

    With a `server`, which one thread may use, runs are its forks; else they are new processes.
    """
    cells = list(itertools.product(methods, augmentations))
    shares = [kills // len(cells) + (number < kills % len(cells)) for number in range(len(cells))]
    # Small epochs and an odd cadence, so that kills fall before, in and between checkpoints.
    common = ["--dataset", dataset, "--data-dir", data_dir, "--model", model]
    common += ["--budget", "0.2" if dataset == "digits" else "0.004", "--epochs", "4"]
    common += ["--batch-size", "16", "--validation", "100", "--checkpoint-every", "5steps"]
    common += ["--num-threads", "1", "--device", "cpu"]

    labels = load_dataset(parse(common)[0]).train_labels

    def one(cell: tuple[str, str], share: int, cell_seed: int) -> Outcome:
        arguments = [*common, "--method", cell[0], "--augmentation", cell[1]]
        if cell[0] == "selective-backprop":
            # Past the 1,024 losses that it keeps whole; a small budget's default beta, 1/b - 1,
            # would score for minutes.
            arguments += ["--epochs", "8", "--sb-beta", "1"]
        with tempfile.TemporaryDirectory() as results:
            file = Path(results) / "scores.npz"
            arguments += noise_flags(cell[0], dataset, labels, file)
            return crash(arguments, share, cell_seed, Path(results), server)

    print(machine())
    print(f"{'method':20}{'augmentation':14}{'kills':>6}{'resumes':>9}{'mismatches':>12}")
    outcomes = []
    with ThreadPoolExecutor(jobs) as pool:
        seeds = range(seed * len(cells), (seed + 1) * len(cells))
        for cell, outcome in zip(cells, pool.map(one, cells, shares, seeds)):
            outcomes.append(outcome)
            print(row(*cell, outcome), *outcome.mismatches, flush=True)
    whole = Outcome(
        sum(outcome.kills for outcome in outcomes),
        sum(outcome.resumes for outcome in outcomes),
        [name for outcome in outcomes for name in outcome.mismatches],
    )
    print(row("all", "", whole))
    return outcomes


def row(method: str, augmentation: str, outcome: Outcome) -> str:
    counts = f"{outcome.kills:6}{outcome.resumes:9}{len(outcome.mismatches):12}"
    return f"{method:20}{augmentation:14}{counts}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crash", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--kills", type=int, default=200, help="in all [default: 200]")
    parser.add_argument("--dataset", default="digits", help="[default: digits]")
    parser.add_argument("--data-dir", default="datasets", help="[default: datasets]")
    parser.add_argument("--model", default="resnet18-w16", help="[default: resnet18-w16]")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once [default: 2]")
    parser.add_argument("--seed", type=int, default=1, help="of the kills' moments [default: 1]")
    outcomes = crash_table(**vars(parser.parse_args()))
    return int(any(outcome.mismatches for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

"""Seconds per budgeted epoch of every method, beside the same training written as usual.

python -m benchmarks.end_to_end --dataset cifar10 --data-dir DIR --model pooled-linear
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from data import Dataset
from engine.build import load_dataset
from engine.flags import HelpFormatter, Parser
from engine.machine import find_device, set_up_torch
from engine.run_folder import TRAINING_SECONDS, RunFolder
from engine.values import number, one_of
from errors import UsageError, exit_status_of

from .ours import (
    PASSED_ON,
    machine,
    make_trainer,
    phase_seconds,
    print_table,
    read_settings,
    run_epoch,
    seconds,
    split,
)
from .plain_loop import PLAIN_LOOPS, NumberedImages

COLOUR = ("cifar10", "cifar100", "svhn", "mini-imagenet")
#: Least ratios aimed at with a network that costs next to nothing, on two cores.
AIMS = {"SGD": "18", "unif-SGD": "18", "p-SGD": "18", "selective-backprop": "30"}
AIMS |= {"dro": "<= 1.3 x SGD"}
HEADS = (
    "method",
    "ours s",
    "plain s",
    "speed-up (min-max)",
    "target",
    "relative to SGD",
    "trained",
    "scored",
    "plain scored",
    "select",
    "data",
    "train",
    "rest",
)


class Contest:
    """A method's two loops, which take turns of a budgeted epoch each."""

    def __init__(
        self,
        settings: argparse.Namespace,
        dataset: Dataset,
        images: NumberedImages,
        workers: int,
        folder: Path,
    ):
        self.method = settings.method
        self.trainer = make_trainer(settings, dataset)
        self.plain = PLAIN_LOOPS[settings.method](
            dataset, images, settings, self.trainer.device, workers
        )
        self.run = RunFolder(folder, settings.method)
        self.run.path.mkdir()
        self.row = dict.fromkeys(("images_trained", "images_scored", *TRAINING_SECONDS), 0)
        self.turns: list[list[float]] = []  # seconds of ours and of the plain loop, then `totals`

    def turn(self) -> None:
        """An epoch of ours, then one of the plain loop."""
        before, device = self.totals(), self.trainer.device
        ours = seconds(self.run_ours, device)
        plain = seconds(partial(self.plain.run_epoch, self.run.path / "plain.csv"), device)
        if self.plain.images_trained != self.row["images_trained"]:
            raise RuntimeError(f"{self.method}: the two loops did not train on as many images")
        self.turns.append([ours, plain, *self.totals() - before])

    def run_ours(self) -> None:
        self.row = run_epoch(self.trainer, self.run)

    def totals(self) -> np.ndarray:
        """Images trained, scored and scored by the plain loop so far; seconds of three phases."""
        trained, scored = self.row["images_trained"], self.row["images_scored"]
        return np.array([trained, scored, self.plain.images_scored, *phase_seconds(self.row)])

    def warm_up(self) -> None:
        self.turn()
        self.turns.clear()


def cells(contest: Contest, sgd: Contest | None, cheap: bool) -> list[str]:
    """A method's line of the table; `sgd` is SGD's contest, where that took part."""
    ours, plain, trained, scored, plain_scored, *phases = np.array(contest.turns).T
    ratios = plain / ours
    aim = AIMS.get(contest.method, "") if cheap else ""
    times_sgd = f"{np.median(ours / np.array(sgd.turns)[:, 0]):.2f}" if sgd else ""
    shares = [*phases, ours - sum(phases)] / ours
    return [
        contest.method,
        f"{np.median(ours):.3f}",
        f"{np.median(plain):.2f}",
        f"{np.median(ratios):.1f} ({ratios.min():.1f}-{ratios.max():.1f})",
        aim,
        times_sgd,
        *(f"{np.median(count):,.0f}" for count in (trained, scored, plain_scored)),
        *(f"{np.median(share):.0%}" for share in shares),
    ]


def faster_workers(settings: argparse.Namespace, dataset: Dataset, images: NumberedImages) -> int:
    """Workers with which an epoch of the plain SGD loop is quickest: none, or two."""
    times, device = {}, find_device(settings.device)
    for workers in (0, 2):
        plain = PLAIN_LOOPS["SGD"](dataset, images, settings, device, workers)
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "plain.csv"
            times[workers] = min(seconds(partial(plain.run_epoch, log), device) for _ in range(2))
    best = min(times, key=times.get)
    measured = ", ".join(f"{each:.2f} s with {workers}" for workers, each in times.items())
    print(f"workers of the plain loop: {best} (an epoch of its SGD takes {measured})", flush=True)
    return best


def check(settings: argparse.Namespace) -> None:
    """Refuse what the plain loops do not do."""
    defaults = read_settings(["--method", settings.method]).method_options
    for name, value in settings.method_options.items():
        if value != defaults[name]:
            raise UsageError(f"--{name.replace('_', '-')}: the plain loop has the default only")
    if settings.compute_budget:
        raise UsageError("--compute-budget: the plain loop has a budget of steps only")
    for name, only in (("augmentation", "standard"), ("schedule", "linear")):
        if getattr(settings, name) != only:
            raise UsageError(f"--{name}: the plain loop has {only} only")


def read(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and the words that train.py would get for every method."""
    parser = Parser(
        prog="python -m benchmarks.end_to_end",
        description=__doc__.splitlines()[0],
        epilog=PASSED_ON,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    positive = number(int, low=1)
    parser.add_argument("--dataset", type=one_of(COLOUR), default="cifar10", metavar="NAME")
    parser.add_argument("--data-dir", default="datasets", metavar="DIR")
    parser.add_argument(
        "--model",
        default="pooled-linear",
        metavar="NAME",
        help="train.py's; or pooled-linear, a linear layer on averaged pixels, which leaves the "
        "suite itself to be timed",
    )
    parser.add_argument("--budget", type=number(float, above=0, high=1), default=0.2, metavar="X")
    parser.add_argument(
        "--methods", type=one_of(PLAIN_LOOPS), nargs="+", default=list(PLAIN_LOOPS), metavar="NAME"
    )
    parser.add_argument(
        "--turns", type=positive, default=5, metavar="N", help="of an epoch, after one to warm up"
    )
    parser.add_argument(
        "--workers",
        type=number(int, low=0),
        metavar="N",
        help="of the plain loop's DataLoader; by default none or two, whichever is faster",
    )
    parser.add_argument(
        "--num-threads", type=positive, default=2, metavar="N", help="of both sides"
    )
    own, words = split(arguments)
    options = parser.parse_args(own)
    ours = ["--dataset", options.dataset, "--data-dir", options.data_dir]
    ours += ["--model", options.model, "--budget", str(options.budget)]
    ours += ["--epochs", str(options.turns + 1), "--num-threads", str(options.num_threads)]
    return options, [*ours, *words]


def compare(arguments: list[str]) -> int:
    options, words = read(arguments)
    settings = [read_settings([*words, "--method", name]) for name in options.methods]
    set_up_torch(settings[0], find_device(settings[0].device))
    for each in settings:
        check(each)
    dataset = load_dataset(settings[0])
    images = NumberedImages(dataset)
    print(f"{machine()}\ntrain.py {' '.join(words)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        workers = options.workers
        if workers is None:
            workers = faster_workers(settings[0], dataset, images)
        contests = [Contest(each, dataset, images, workers, Path(folder)) for each in settings]
        for contest in contests:
            contest.warm_up()
        for _ in range(options.turns):
            for contest in contests:
                contest.turn()
    sgd = next((contest for contest in contests if contest.method == "SGD"), None)
    cheap = settings[0].model == "pooled-linear"
    title = f"medians of {options.turns} turns; ratios and shares of each turn"
    print_table(title, HEADS, [cells(contest, sgd, cheap) for contest in contests])
    return 0


def main(arguments: list[str]) -> int:
    return exit_status_of("python -m benchmarks.end_to_end", lambda: compare(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

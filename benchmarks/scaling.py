"""Images per second of one training run on several processes, beside one process.

python -m benchmarks.scaling --processes 2 -- --dataset cifar10 --data-dir DIR
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from engine.flags import HelpFormatter, Parser
from engine.run_folder import TRAINING_SECONDS
from engine.values import number
from errors import Failed, exit_status_of

from .ours import PASSED_ON, machine, print_table, split

ROOT = Path(__file__).resolve().parent.parent


def run(processes: int, words: Sequence[str], results: Path, name: str) -> float:
    """Images per second of a run of train.py started by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "train.py", *words]
    command += ["--results-dir", str(results), "--experiment-name", name]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        told = [line for line in ended.stderr.splitlines() if line.startswith("train.py:")]
        raise Failed(
            f"{processes} processes: {told[0] if told else ended.stderr.strip() or 'no word'}"
        )
    return images_per_second(pd.read_csv(results / name / "curve.csv"))


def images_per_second(curve: pd.DataFrame) -> float:
    """Trained per second of selection, data and training, after the first epoch, which warms up."""
    spent = curve[list(TRAINING_SECONDS)].sum(axis=1)
    images = curve["images_trained"]
    return (images.iloc[-1] - images.iloc[0]) / (spent.iloc[-1] - spent.iloc[0])


def measure(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.scaling",
        description=__doc__.splitlines()[0],
        epilog=PASSED_ON + "; on a CPU, give --num-threads too, or one process takes all cores",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    whole = number(int, low=1)
    parser.add_argument(
        "--processes",
        type=whole,
        nargs="+",
        default=[2],
        metavar="N",
        help="several make a table, beside one [default: 2]",
    )
    parser.add_argument(
        "--epochs",
        type=number(int, low=2),
        default=3,
        metavar="N",
        help="of each run; the first is not counted",
    )
    parser.add_argument("--turns", type=whole, default=3, metavar="N", help="runs of each")
    own, words = split(arguments)
    options = parser.parse_args(own)
    words = [*words, "--epochs", str(options.epochs), "--eval-every", str(options.epochs)]
    counts = sorted({1, *options.processes})
    print(f"{machine()}\ntrain.py {' '.join(words)}", flush=True)

    rates = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as results:
        for turn in range(options.turns):
            for count in counts:
                name = f"turn{turn}_processes{count}"
                rates[count].append(run(count, words, Path(results), name))
    rows = []
    for count in counts:
        ratio = np.median(np.divide(rates[count], rates[1]))
        rows.append([str(count), f"{np.median(rates[count]):,.0f}"])
        rows[-1] += [f"{ratio:.2f}", f"{ratio / count:.0%}"]
    heads = ["processes", "images/s", "times one process", "per process"]
    print_table(f"medians of {options.turns} turns; ratios of each turn", heads, rows)
    return 0


def main(arguments: list[str]) -> int:
    return exit_status_of("python -m benchmarks.scaling", lambda: measure(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

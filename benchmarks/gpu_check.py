"""Check the suite on a GPU and measure its speed there: one report, in less than ten minutes.

python -m benchmarks.gpu_check --data-dir DIR
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from augmentations import AUGMENTATIONS
from data import Dataset
from engine.build import build, load_dataset
from engine.checkpoint import CURRENT
from engine.flags import HelpFormatter, Parser
from engine.identity import commit
from engine.loader import Loader
from engine.machine import find_device, set_up_torch
from engine.network import choose_precision
from engine.trainer import Trainer
from engine.values import number, one_of
from errors import Failed, UsageError, exit_status_of
from methods import METHODS

from .crash import ROOT, Attempt, differences
from .ours import (
    WARM_UP,
    machine,
    make_steps,
    make_trainer,
    print_table,
    read_settings,
    seconds,
)
from .score_files import noise_flags
from .throughput import count_flops, matrix_rate

REPORTS = ROOT / "benchmarks" / "reports"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """Amount of work of a check."""

    model: str
    matrix: int  # rows of the square matrices whose product is timed
    steps: int  # of each method that are timed
    budget: float  # of the runs that are resumed
    epochs: int  # of the run whose accuracy counts
    train_images: float  # fraction of the training images
    accuracy: float  # in percent, that it has to reach


# Four such runs on an H100 reached 80.2 to 82.7%: the study's learning rate starts high for so few.
FULL = Size("resnet18", 8192, 50, 0.05, 10, 1.0, 78)
# With so few epochs, more than chance is all that can be asked for.
QUICK = Size("resnet10-w8", 512, 5, 0.01, 1, 0.1, 15)


def words(options: argparse.Namespace, *more: object) -> list[str]:
    """A command line of train.py on CIFAR-10 and the GPU."""
    common = ["--dataset", "cifar10", "--data-dir", options.data_dir, "--device", "cuda"]
    return list(map(str, [*common, "--model", options.size.model, *more]))


def best_amp() -> str:
    """The --amp that `auto` stands for on this GPU."""
    return choose_precision("auto", find_device("cuda"), False).option


# --- The checks: each prints what it finds, and raises Failed for a fault ---


def check_tests(options: argparse.Namespace) -> None:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    if options.quick:
        command += ["tests/test_gpu.py"]
    if status := subprocess.run(command, cwd=ROOT).returncode:
        raise Failed(f"{shlex.join(command[1:])} ended with status {status}")


def check_draws(options: argparse.Namespace) -> None:
    """Weights, batches and a loss that the GPU has in common with the CPU.

    Initial weights, labels, targets and owners are the same; of the pixels all but 1% agree to one
    of 256 levels (geometric operations round between two); the first loss to 1%. What methods draw
    is not compared: their generators are of the device.
    """
    settings = read_settings(words(options, "--amp", "off", "--seed", "3"))
    dataset, cuda = load_dataset(settings), find_device("cuda")
    trainers = [build(settings, dataset, device) for device in (CPU, cuda)]
    weights = [trainer.model.state_dict() for trainer in trainers]
    faults = []
    if not all(torch.equal(value, weights[1][name].cpu()) for name, value in weights[0].items()):
        faults.append("the initial weights differ")
    size = settings.batch_size
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(dataset.train_labels)))
    block = order[: 4 * size].view(4, size)
    level = 1 / 255 / torch.tensor(dataset.std).view(1, -1, 1, 1)
    rows = []
    for name, augmentation in AUGMENTATIONS.items():
        streams = [Loader(dataset, augmentation(), device, 3) for device in (CPU, cuda)]
        for stream, device in zip(streams, (CPU, cuda)):
            stream.refill(block.to(device))
        same, apart = True, []
        for _ in block:
            here, there = (stream.next() for stream in streams)
            same &= torch.equal(here.index, there.index.cpu())
            same &= torch.equal(here.labels, there.labels.cpu())
            same &= torch.allclose(here.targets, there.targets.cpu(), atol=1e-6)
            off = (here.images - there.images.cpu()).abs() > 1.01 * level
            apart.append(off.float().mean().item())
        rows.append([name, "same" if same else "DIFFER", f"{np.mean(apart):.4%}"])
        if not same or np.mean(apart) > 0.01:
            faults.append(f"batches of {name} differ")
    print_table("batches", ["augmentation", "labels, targets, owners", "pixels apart"], rows)
    losses = [first_loss(trainer, block[0]) for trainer in trainers]
    print(f"\nfirst loss: {losses[0]:.5f} on the CPU, {losses[1]:.5f} on the GPU")
    if not abs(losses[1] / losses[0] - 1) < 0.01:
        faults.append("the first losses differ by more than 1%")
    if faults:
        raise Failed("; ".join(faults))


def first_loss(trainer: Trainer, index: Tensor) -> float:
    """The mean training loss of the images of `index` [b], in a step."""
    trainer.loader.refill(index[None].to(trainer.device))
    make_steps(trainer, 1)
    return float(trainer.epoch_sums[0]) / len(index)


def check_resume(options: argparse.Namespace) -> None:
    """With --deterministic, a run that is killed and resumed ends with the bytes of one left alone.

    Of the curve (the seconds apart) and of the weights.
    """
    faults = []
    for method, augmentation in (("selective-backprop", "mixup"), ("p-SGD", "randaugment")):
        arguments = words(options, "--method", method, "--augmentation", augmentation)
        arguments += ["--deterministic", "--epochs", "4", "--budget", str(options.size.budget)]
        arguments += ["--sb-beta", "1"] if method == "selective-backprop" else []
        arguments += ["--checkpoint-every", "3steps"]
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder)
            Attempt(arguments, results, "whole").finish()
            killed = Attempt(arguments, results, "killed")
            while not killed.wait(0.01) and not (results / "killed" / CURRENT).exists():
                pass
            killed.kill()
            again = Attempt(arguments, results, "killed")
            again.finish()
            resumed = again.has_resumed()
            differing = differences(results / "whole", results / "killed")
        print(f"{method}, {augmentation}: differing files: {', '.join(differing) or 'none'}")
        if not resumed:
            faults.append(f"{method}: the second start did not resume from a checkpoint")
        if differing:
            faults.append(f"{method}: {' and '.join(differing)} differ")
    if faults:
        raise Failed("; ".join(faults))


def check_compile(options: argparse.Namespace) -> None:
    """A compiled network starts as one that is not compiled, in float32: losses to 2%."""
    losses, rows = {}, []
    for name, more in (("plain", ()), ("compiled", ("--compile",))):
        arguments = words(options, "--amp", "off", "--lr", "0.001", *more)
        settings = read_settings(arguments)
        dataset = load_dataset(settings)
        began = time.perf_counter()
        trainer = make_trainer(settings, dataset)
        ready = time.perf_counter() - began
        sums = []
        for _ in range(WARM_UP):
            make_steps(trainer, 1)
            sums.append(float(trainer.epoch_sums[0]))
        losses[name] = np.diff(sums, prepend=0.0) / settings.batch_size
        took = seconds(lambda t=trainer: make_steps(t, options.size.steps), trainer.device)
        images = options.size.steps * settings.batch_size
        rows.append([name, f"{ready:.1f}", f"{images / took:,.0f}"])
    print_table("float32", ["network", "seconds until ready", "images/s"], rows)
    apart = np.abs(losses["compiled"] / losses["plain"] - 1).max()
    print(f"\nlosses of the first {WARM_UP} steps: at most {apart:.3%} apart")
    if not apart < 0.02:
        raise Failed("losses are more than 2% apart")


def check_methods(options: argparse.Namespace) -> None:
    """Measure every method: images per second, and of the card's rate of matrix products.

    The rate is that of a large product in the precision of the run (TF32 for float32). What a
    method computes is the passes that train and those that only score.
    """
    amp = best_amp()
    dtype = {"off": torch.float32, "bf16": torch.bfloat16}[amp]
    device = find_device("cuda")
    rate = matrix_rate(device, dtype, tf32=amp == "off", size=options.size.matrix)
    print(f"a large matrix product, --amp {amp}: {rate:.1f} TFLOP/s")
    dataset = load_dataset(read_settings(words(options)))
    faults: list[str] = []
    heads = ["method", "ms per step", "relative to SGD", "trained/s", "scored/s"]
    heads += ["TFLOP/s", "of the rate of matrix products", "peak MiB"]
    title = f"{options.size.model}, batches of 128, --amp {amp}"
    print_table(title, heads, method_rows(options, dataset, ["--amp", amp], rate, faults))
    if faults:
        raise Failed("; ".join(faults))


def method_rows(
    options: argparse.Namespace, dataset: Dataset, more: list[str], rate: float, faults: list[str]
) -> Iterator[list[str]]:
    """A row of the table for each method; `faults` gets a line for each that fails."""
    sgd = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            arguments = words(options, *more, "--method", method)
            arguments += ["--budget", "0.3", "--epochs", "1000"]
            file = Path(folder) / f"{method}.npz"
            arguments += noise_flags(method, "cifar10", dataset.train_labels, file)
            try:
                cells, per_step = measure_method(arguments, dataset, options, rate)
            except (RuntimeError, ValueError) as error:
                faults.append(f"{method}: {str(error).splitlines()[0]}")
                continue
            sgd = sgd or per_step  # the first of all
            yield [method, f"{1e3 * per_step:.2f}", f"{per_step / sgd:.2f}", *cells]


def measure_method(
    arguments: list[str], dataset: Dataset, options: argparse.Namespace, rate: float
) -> tuple[list[str], float]:
    """A method's cells of the table, and the seconds of a step."""
    settings, count = read_settings(arguments), options.size.steps
    trainer = make_trainer(settings, dataset)
    make_steps(trainer, WARM_UP)
    device = trainer.device
    torch.cuda.reset_peak_memory_stats(device)
    before = trainer.images_scored
    took = seconds(lambda: make_steps(trainer, count), device)
    scored, trained = trainer.images_scored - before, count * settings.batch_size
    forward, both = (
        count_flops(settings.model, dataset, backward=backward) for backward in (False, True)
    )
    achieved = (trained * both + scored * forward) / took / 1e12
    peak = torch.cuda.max_memory_allocated(device) / 2**20
    if not torch.isfinite(trainer.epoch_sums).all():
        raise ValueError("the loss is NaN or infinite")
    cells = [f"{trained / took:,.0f}", f"{scored / took:,.0f}", f"{achieved:.2f}"]
    return [*cells, f"{achieved / rate:.0%}", f"{peak:,.0f}"], took / count


def check_accuracy(options: argparse.Namespace) -> None:
    """The test accuracy of a short run of plain SGD by train.py itself."""
    size = options.size
    arguments = words(options, "--epochs", size.epochs, "--budget", size.train_images)
    arguments += ["--amp", best_amp()]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        Attempt(arguments, Path(folder), "run").finish()
        curve = pd.read_csv(Path(folder) / "run" / "curve.csv")
    last = curve.iloc[-1]
    print(f"train.py {shlex.join(arguments)}")
    print(
        f"{last['test_accuracy']:.2f}% after {len(curve)} epochs; "
        f"{time.perf_counter() - began:.1f} s in all, of which training {last['train_seconds']:.1f}"
        f", data {last['data_seconds']:.1f}, evaluation {last['eval_seconds']:.1f}"
    )
    if not last["test_accuracy"] >= size.accuracy:
        raise Failed(f"the accuracy is below {size.accuracy}%")


@dataclass(frozen=True)
class Check:
    """A check: its subject, its function, and the seconds that it may take."""

    title: str
    work: Callable[[argparse.Namespace], None]
    limit: int


CHECKS = {
    "tests": Check("tests that need a GPU", check_tests, 120),
    "draws": Check("what the GPU has in common with the CPU", check_draws, 60),
    "resume": Check("killed and resumed runs", check_resume, 120),
    "compile": Check("--compile", check_compile, 90),
    "methods": Check("speed of all methods", check_methods, 120),
    "accuracy": Check("accuracy of plain SGD", check_accuracy, 90),
}


# --- The command ---


def run_check(name: str, options: argparse.Namespace) -> tuple[str, str, float]:
    """Make a check in a process of its own: PASSED or why not, what it printed, the seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--one", name]
    command += ["--data-dir", options.data_dir] + ["--quick"] * options.quick
    limit = CHECKS[name].limit * options.patience
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # whose processes can be ended together
    )
    try:
        printed, _ = process.communicate(timeout=limit)
        status = process.returncode
        verdict = "PASSED" if status == 0 else f"FAILED with status {status}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        verdict = f"FAILED: not done after {limit:.0f} s; see --patience"
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    return verdict, printed.strip(), time.perf_counter() - began


def about(device: torch.device) -> str:
    """The card, the machine and the code."""
    card = torch.cuda.get_device_properties(device)
    return (
        f"{card.name}: {card.total_memory / 2**30:.0f} GiB, compute capability "
        f"{card.major}.{card.minor}, {card.multi_processor_count} multiprocessors; CUDA "
        f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}\n{machine()}\n"
        f"{date.today()}, commit {commit() or 'unknown'}"
    )


def report_path(card: str) -> Path:
    """Return where the report on a card goes by default."""
    return REPORTS / (re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".txt")


def check_all(options: argparse.Namespace) -> int:
    device = find_device("cuda")
    out = options.out or report_path(torch.cuda.get_device_name(device))
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; give a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"python -m benchmarks.gpu_check {shlex.join(options.given)}\n{about(device)}"]
    print(parts[0], flush=True)
    verdicts = {}
    for name in options.checks:
        verdict, printed, took = run_check(name, options)
        verdicts[name] = verdict
        parts.append(f"=== {name}: {CHECKS[name].title}\n{printed}\n--- {verdict}, {took:.0f} s")
        print(f"\n{parts[-1]}", flush=True)
        summary = "\n".join(f"{name:10}{verdict}" for name, verdict in verdicts.items())
        out.write_text("\n\n".join([parts[0], summary, *parts[1:]]) + "\n")  # after each, whole
    failed = [name for name, verdict in verdicts.items() if verdict != "PASSED"]
    print(f"\n{len(verdicts) - len(failed)} of {len(verdicts)} checks passed; report: {out}")
    return 1 if failed else 0


def check_one(name: str, options: argparse.Namespace) -> int:
    set_up_torch(read_settings(words(options)), find_device("cuda"))
    CHECKS[name].work(options)
    return 0


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__.splitlines()[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    names = one_of(CHECKS)
    parser.add_argument("--data-dir", default="datasets", metavar="DIR", help="of CIFAR-10")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the report; default benchmarks/reports/CARD.txt"
    )
    parser.add_argument(
        "--checks", type=names, nargs="+", default=list(CHECKS), metavar="NAME", help="to make"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small network and few steps: whether all works"
    )
    parser.add_argument(
        "--patience",
        type=number(float, above=0),
        default=1.0,
        metavar="X",
        help="multiple of each check's time limit, for slow cards",
    )
    parser.add_argument(
        "--one", type=names, metavar="NAME", help="make this check in this process, unlimited"
    )
    options = parser.parse_args(arguments)
    options.given, options.size = arguments, QUICK if options.quick else FULL
    options.data_dir = str(Path(options.data_dir).resolve())
    return options


def main(arguments: list[str]) -> int:
    def work() -> int:
        options = read_arguments(arguments)
        if not torch.cuda.is_available():
            raise UsageError("no CUDA device is found here; start it on a machine with a GPU")
        return check_one(options.one, options) if options.one else check_all(options)

    return exit_status_of("python -m benchmarks.gpu_check", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Curves of every method with every augmentation, as digests: what refactoring must not change.

python -m tests.curves > tests/curves.json, in the environment of `PORTABLE`, makes them anew, which
is right only where results were meant to change.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch
from torch import nn

from augmentations import AUGMENTATIONS
from engine.flags import main as train_main
from engine.scores import main as make_scores
from engine.signals import Signals
from engine.sweep.estimate import Estimator
from engine.sweep.local import Local
from engine.sweep.progress import Progress
from engine.sweep.runs import list_runs
from engine.sweep.schedule import Schedule
from engine.sweep.warm import WarmServer
from methods import METHODS

#: The same kernels on all x86 processors with AVX2, as far as PyTorch's libraries let one choose.
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
#: Five epochs of three steps, which are more than one pass: each method acts on what it has seen.
COMMON = ["--model=resnet10-w8", "--epochs=5", "--budget=0.3", "--amp=off", "--num-threads=1"]
COMMON += ["--checkpoint-every=1000"]  # no part of a curve
OPTIONS = {
    "dro": ["--dro-importance", "--dro-momentum", "0.5"],
    "coreset": ["--coreset-file", "results/recorded/scores.npz"],
    "rho-loss": ["--rho-file", "losses.npz", "--rho-candidates", "3"],
    "infobatch": ["--infobatch-delta", "1"],
    "grad-norm": ["--gradnorm-tau", "0.01"],
}


def digest_of(folder: Path) -> str:
    """Of a run's curve, all columns but the seconds."""
    with open(folder / "curve.csv", newline="") as file:
        rows = [
            {name: value for name, value in row.items() if not name.endswith("_seconds")}
            for row in csv.DictReader(file)
        ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def make(name: str, *words: str) -> Path:
    with contextlib.redirect_stdout(io.StringIO()):
        status = train_main([*COMMON, "--experiment-name", name, *words])
    if status:
        raise SystemExit(f"{name}: exit status {status}")
    return Path("results") / name


def make_all(lines: list[tuple[str, ...]]) -> None:
    """Make runs as a sweep does: its forks have to make them as this process would."""
    runs, _ = list_runs(lines)
    progress = Progress(len(runs), 0, Estimator([]))
    with WarmServer() as server, contextlib.redirect_stdout(io.StringIO()):
        Schedule(runs, Local(2, server), progress).make(Signals())
    if progress.failures:
        raise SystemExit(f"failed: {progress.failures}")


def probe() -> str:
    """A digest of how this machine rounds: three steps of a small network, by PyTorch alone."""
    torch.manual_seed(1)
    layers = []
    for inputs, outputs in ((1, 8), (8, 16), (16, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(), nn.AvgPool2d(2, 2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    values = []
    for _ in range(3):
        images, labels = torch.randn(128, 1, 8, 8), torch.randint(10, (128,))
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item().hex())
    values += [parameter.double().sum().item().hex() for parameter in model.parameters()]
    return hashlib.sha256(" ".join(values).encode()).hexdigest()[:16]


def main() -> None:
    kernels = {"torch": torch.__version__.partition("+")[0], "probe": probe()}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make("recorded", "--record", "el2n", "--seed", "3")
        held_out = make("held-out", "--validation", "1000", "--seed", "3")
        with contextlib.redirect_stdout(io.StringIO()):
            make_scores([str(held_out), "--score", "irreducible-loss", "--out", "losses.npz"])
        names = {pair: "_".join(pair) for pair in product(METHODS, AUGMENTATIONS)}
        make_all(
            [
                (
                    *(*COMMON, "--experiment-name", name),
                    *("--method", method, "--augmentation", augmentation),
                    *OPTIONS.get(method, ()),
                )
                for (method, augmentation), name in names.items()
            ]
        )
        curves = {" ".join(pair): digest_of(Path("results") / name) for pair, name in names.items()}
    json.dump({"kernels": kernels, "curves": curves}, sys.stdout, indent=2)


if __name__ == "__main__":
    main()

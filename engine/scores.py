"""Make a score file from finished runs: the mean over them of each score, image by image."""

from __future__ import annotations

import os
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from budgetbench import distance_to_median, el2n, entropy, grand, k_center, margin
from data import Dataset, held_out
from errors import UsageError, exit_status_of
from methods.scores import RECORDED, SCORES, ScoreFile, digest
from methods.scores.file import MOST_BYTES

from .build import split
from .config import consequential
from .finished import FinishedRun
from .flags import Parser
from .machine import find_device
from .run_folder import write_whole
from .score_export import export
from .values import several_of

EPILOG = """\
scores:
  forgetting        recorded while training: runs of train.py --record forgetting
  el2n              recorded while training with --record el2n, else computed like grand
  aum, dyn-unc, dual (with dual-mean), tdds-30 to tdds-90 (of --record tdds)
                    recorded while training
  grand, entropy, margin, least-confidence, moderate, k-center
                    one pass of the network that the run ended with over its training images, not
                    augmented; early scores are those of short runs, such as train.py --epochs 10
  irreducible-loss  of the images that a run with --validation held out, by their place in the
                    full training set

python -m engine.scores export FILE ... writes the images of a core-set as a list.

A score is the mean over the runs that scored the image. k-center is an order of the images
(N - 1 for the first chosen, 0 for the last), so it takes one run. Images without a score get
NaN."""


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m engine.scores",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--score",
        type=several_of(SCORES),
        required=True,
        metavar="NAME,...",
        help=f"scores to compute: {', '.join(SCORES)}",
    )
    parser.add_argument(
        "--features",
        action="store_true",
        help="keep what the first RUN's network made of the images too, by which core-sets of d2, "
        "craig, facility-location and grad-match are chosen: 2 bytes for each of an image's "
        "features and classes",
    )
    parser.add_argument(
        "--half", action="store_true", help="write scores with 16 bits; k-center keeps its 32"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write, .npz")
    parser.add_argument("--data-dir", metavar="DIR", help="where data sets lie, if not as in RUN")
    parser.add_argument("--device", default="auto", metavar="NAME", help="as for train.py")
    return parser


def make_file(
    runs: Sequence[FinishedRun], scores: Sequence[str], features: bool = False
) -> tuple[ScoreFile, list[str]]:
    """Return the mean scores of some runs; and for each score a line that says what it is of.

    Args:
        runs: finished ones.
        scores: names of SCORES.
        features: whether to keep the first run's features and errors too.

    Raises:
        UsageError: for scores that a run cannot give, and runs that do not number the same images.
    """
    first, values, lines = (runs[0], scores[0]), {}, []
    folders = [run.folder.resolve() for run in runs]
    if twice := next((each for each in folders if folders.count(each) > 1), None):
        raise UsageError(f"{twice}: given twice; give each RUN once")
    seconds = [0.0 for _ in runs]  # that scoring took
    for score in scores:
        for run in runs:
            if images_of(run, score) != images_of(*first):
                raise UsageError(
                    f"{score} of {run.folder} and {first[1]} of {first[0].folder} are not of the "
                    "same training images; make a file of each"
                )
        if score == "k-center" and len(runs) > 1:
            raise UsageError("k-center is an order, which has no mean over runs; give one RUN")
        ways = [way_of(run, score) for run in runs]
        lengths = {run.settings.record_epochs for run in runs if score in run.recorded}
        if score == "el2n" and len(lengths) > 1:
            raise UsageError(
                f"el2n was recorded for {' and '.join(map(str, sorted(lengths)))} epochs "
                "(--record-epochs); give runs of one"
            )
        if len(set(ways)) > 1:
            other = next(i for i, way in enumerate(ways) if way != ways[0])
            raise UsageError(
                f"{score} is {ways[0]} for {runs[0].folder}, {ways[other]} for "
                f"{runs[other].folder}; give runs of one kind"
            )
        each = []
        for place, run in enumerate(runs):
            start = time.perf_counter()
            each.append(values_of(run, score))
            seconds[place] += time.perf_counter() - start
        values[score] = mean(each)
        scored = np.count_nonzero(~np.isnan(values[score]))
        lines.append(f"{score}: {ways[0]}; {scored} of {len(values[score])} images have a score")
    given, errors = None, None
    if features:
        run, start = runs[0], time.perf_counter()
        if images_of(run, "el2n") != images_of(*first):
            raise UsageError("`features` are of the images trained on, irreducible-loss of others")
        logits, inputs = run.outputs
        error = logits.softmax(1) - one_hot(torch.tensor(run.dataset.train_labels), logits)
        given, errors = inputs.half().numpy(), error.half().numpy()
        if not np.isfinite(given).all():
            raise UsageError(
                f"{run.folder / 'model.pt'}: its features are too large for 16 bits (over "
                f"{torch.finfo(torch.half).max:.0f}); give another run"
            )
        seconds[0] += time.perf_counter() - start
    sources = [
        source_of(run, scores, took, features and run is runs[0])
        for run, took in zip(runs, seconds)
    ]
    file = ScoreFile(
        **images_of(*first),
        values=values,
        sources=sources,
        labels=dataset_of(*first).train_labels,
        features=given,
        errors=errors,
    )
    return file, lines


def source_of(
    run: FinishedRun, scores: Sequence[str], seconds: float, features: bool
) -> dict[str, Any]:
    """Return what a file says of a run that it comes from; scoring took so many seconds."""
    settings = consequential(vars(run.settings)) | {"record_epochs": run.settings.record_epochs}
    return dict(
        run=str(run.folder),
        settings=settings,
        ways={score: way_of(run, score) for score in scores},
        cost=cost_of(run, scores, features),
        seconds=run.seconds + seconds,
    )


def cost_of(run: FinishedRun, scores: Sequence[str], features: bool) -> int | None:
    """Return the cost of a run and its scores, in forward passes; None if it does not say."""
    if run.cost is None:
        return None
    fresh = {score for score in scores if score not in run.recorded}
    of_held_out = (run.settings.validation or 0) if "irreducible-loss" in fresh else 0
    one_pass = features or fresh - {"irreducible-loss"}  # gives all that there is
    return run.cost + of_held_out + (run.num_images if one_pass else 0)


def dataset_of(run: FinishedRun, score: str) -> Dataset:
    """Return the data whose training images a run's score is of."""
    return run.undivided if score == "irreducible-loss" else run.dataset


def images_of(run: FinishedRun, score: str) -> dict[str, Any]:
    """Return which images a run's score is of, as a score file says it."""
    dataset = dataset_of(run, score)
    return dict(
        dataset=run.settings.dataset,
        labels_sha256=digest(dataset.train_labels),
        data_sha256=dataset.sha256,
    )


def way_of(run: FinishedRun, score: str) -> str:
    """Say how a run comes by a score; a UsageError if it cannot."""
    if score in run.recorded:
        return "recorded while training"
    if score not in (*OF_OUTPUTS, "k-center", "irreducible-loss"):
        name = next(name for name in RECORDED if score.startswith(name))
        if name in (run.settings.record or ()):
            raise UsageError(f"{run.folder}: too short a run for {score}; train for more epochs")
        raise UsageError(f"{run.folder}: {score} was not recorded; train with --record {name}")
    if score != "irreducible-loss":
        return "of the network at the end"
    if not run.settings.validation:
        raise UsageError(
            f"{run.folder}: held no images out, and irreducible-loss is of such; train with "
            "--validation"
        )
    return "of the network at the end, for the images held out"


def values_of(run: FinishedRun, score: str) -> np.ndarray:
    """A run's score, float32 [N]; NaN where an image has none."""
    if score in run.recorded:
        return run.recorded[score]
    if score == "irreducible-loss":
        return irreducible_losses(run)
    logits, features = run.outputs
    if score == "k-center":
        try:
            order = k_center(features.numpy())
        except ValueError as error:
            raise UsageError(f"{run.folder / 'model.pt'}: {error}; give another run") from None
        places = np.empty(len(order), dtype=np.float32)
        places[order] = np.arange(len(order))[::-1]
        return places
    labels = torch.tensor(run.dataset.train_labels)
    return OF_OUTPUTS[score](run, logits, features, labels).numpy()


def one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    return torch.eye(logits.shape[1])[labels]


#: Score -> its values [N], of a run and its outputs on its training images and their labels.
OF_OUTPUTS: dict[str, Callable[[FinishedRun, Tensor, Tensor, Tensor], Tensor]] = {
    "el2n": lambda run, logits, features, labels: el2n(logits, one_hot(labels, logits)),
    "grand": lambda run, logits, features, labels: grand(
        logits, one_hot(labels, logits), features, bias=run.classifier.bias is not None
    ),
    "entropy": lambda run, logits, features, labels: entropy(logits),
    "margin": lambda run, logits, features, labels: 1 - margin(logits),
    "least-confidence": lambda run, logits, features, labels: 1 - logits.softmax(1).amax(1),
    "moderate": lambda run, logits, features, labels: distance_to_median(features, labels),
}


def irreducible_losses(run: FinishedRun) -> np.ndarray:
    """Cross-entropy of the images that a run held out, float32 [N] over all of the full set.

    Of the labels that they have after --label-noise, as a run without --validation trains on them.
    """
    logits, _ = run.forward(run.dataset.test_images)
    losses = cross_entropy(logits, torch.tensor(run.dataset.test_labels), reduction="none")
    held = held_out(run.undivided, **split(run.settings))
    values = np.full(len(held), np.nan, dtype=np.float32)
    values[held] = losses.numpy()
    return values


def mean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean over the runs that have a score of an image: float32 [N], NaN if none has."""
    counts = sum(~np.isnan(each) for each in values)
    sums = sum(np.nan_to_num(each.astype(np.float64)) for each in values)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)


def main(arguments: list[str]) -> int:
    """Write the file; return the exit status, 0 or that of the error, which is one line."""

    def work() -> int:
        options = build_parser().parse_args(arguments)
        device = find_device(options.device)
        out = options.out
        if not os.access(out.parent, os.W_OK) or (out.exists() and not out.is_file()):
            raise UsageError(f"--out {out}: cannot be written; give another file")
        runs = [FinishedRun.read(folder, options.data_dir, device) for folder in options.runs]
        file, lines = make_file(runs, options.score, options.features)
        content = file.to_bytes(half=options.half)
        if len(content) > MOST_BYTES:
            raise UsageError(
                f"--out {out}: would have {len(content) / 2**30:.1f} GiB, and is read up to "
                f"{MOST_BYTES / 2**30:.0f}; leave --features out, or give a narrower network's run"
            )
        print(*lines, sep="\n")
        write_whole(out, content)
        return 0

    if arguments[:1] == ["export"]:
        return export(arguments[1:])
    return exit_status_of("python -m engine.scores", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Write the images of a core-set, as `method` coreset would choose them, as a list for others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from errors import UsageError, exit_status_of
from methods import OptionError, Task
from methods.coreset import Coreset
from methods.scores import ScoreFile
from methods.scores.file import HOW

from .build import method_seed
from .flags import Parser, add_options
from .options import options_of
from .run_folder import write_whole
from .values import number

DESCRIPTION = """\
Write which images a core-set has: their places in the training set, from 0 and in ascending order,
one per line in a .txt and as int64 in a .npy beside FILE, named after it and the choice. They are
the images of train.py --method coreset with the same --budget, --seed and options."""


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m engine.scores export", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="of scores, .npz")
    parser.add_argument(
        "--budget",
        type=number(float, above=0, high=1),
        required=True,
        metavar="FRACTION",
        help="fraction of the images that the core-set has",
    )
    parser.add_argument(
        "--seed",
        type=number(int, low=0),
        default=1,
        metavar="N",
        help="of choices at random [default: 1]",
    )
    options = options_of(Coreset)
    del options["coreset_file"]
    add_options(parser, "options of coreset", [options])
    return parser


def export(arguments: list[str]) -> int:
    """Write the lists; return the exit status, 0 or that of the error, which is one line."""

    def work() -> int:
        options = vars(build_parser().parse_args(arguments))
        path, budget, seed = (options.pop(name) for name in ("file", "budget", "seed"))
        options = {name: value for name, value in options.items() if value is not None}
        subset = core_set(path, budget, seed, options)
        words = [options.get("coreset_select", "top"), options.get("coreset_score"), str(budget)]
        stem = "-".join([path.stem, *filter(None, words)])
        binary = io.BytesIO()
        np.save(binary, subset)
        lines = "".join(f"{place}\n" for place in subset)
        for name, content in ((f"{stem}.txt", lines.encode()), (f"{stem}.npy", binary.getvalue())):
            write_whole(path.with_name(name), content)
            print(path.with_name(name))
        return 0

    return exit_status_of("python -m engine.scores export", work)


def core_set(path: Path, budget: float, seed: int, options: dict) -> np.ndarray:
    """Return the images of a core-set by a file of scores, int64 in ascending order."""
    try:
        file = ScoreFile.read(path)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    if file.labels is None:
        raise UsageError(f"{path}: of an older version, without labels; make it again with {HOW}")
    task = Task(
        dataset=file.dataset,
        labels=file.labels,
        num_classes=int(file.labels.max()) + 1,
        batch_size=1,
        budget=budget,
        epochs=1,
        device=torch.device("cpu"),
        seed=method_seed(seed),
        data_sha256=file.data_sha256,
    )
    try:
        method = Coreset(task, coreset_file=str(path), **options)
    except OptionError as error:
        raise UsageError(f"`{error.option}`: {error.reason}") from None
    return np.sort(method.subset.numpy())

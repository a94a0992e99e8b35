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

SEED = 1  # by default, as in training
DESCRIPTION = """\
Write which images a core-set has: their places in the training set, from 0 and in ascending
order, one per line in a .txt and as int64 in a .npy beside FILE, named after it and the choice; of
craig and grad-match also how much the loss of each counts, in a -weights.npy in the same order.
They are the images of train.py --method coreset with the same --budget, --seed and options."""


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m engine.scores export", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="of scores, .npz")
    parser.add_argument(
        "--budget",
        type=number(float, above=0, high=1, percent=True),
        required=True,
        metavar="FRACTION",
        help="fraction of the images that the core-set has",
    )
    parser.add_argument(
        "--seed",
        type=number(int, low=0),
        default=SEED,
        metavar="N",
        help=f"of choices at random [default: {SEED}]",
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
        method = core_set(path, budget, seed, options)
        subset = np.sort(method.subset.numpy())
        stem = "-".join([path.stem, *choice(budget, seed, options)])
        lines = "".join(f"{place}\n" for place in subset)
        files = {f"{stem}.txt": lines.encode(), f"{stem}.npy": of_array(subset)}
        if method.weighted:
            files[f"{stem}-weights.npy"] = of_array(method.weights.numpy()[subset])
        for name, content in files.items():
            write_whole(path.with_name(name), content)
            print(path.with_name(name))
        return 0

    return exit_status_of("python -m engine.scores export", work)


def choice(budget: float, seed: int, options: dict) -> list[str]:
    """Words for a choice, of which no other one has the same."""
    words = [options.get("coreset_select", "top"), options.get("coreset_score"), f"{budget}"]
    if "coreset_drop" in options:
        words.append(f"drop{options['coreset_drop']}")
    if options.get("coreset_per_class"):
        words.append("per-class")
    if seed != SEED:
        words.append(f"seed{seed}")
    return [*filter(None, words)]


def of_array(array: np.ndarray) -> bytes:
    """An array as the content of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def core_set(path: Path, budget: float, seed: int, options: dict) -> Coreset:
    """Return the method that trains on a core-set by a file of scores."""
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
    if not task.subset_size:
        least = f"{1 / task.num_images:.2g}"
        raise UsageError(f"`budget` {budget}: no image of {task.num_images}; give {least} or more")
    try:
        return Coreset(task, coreset_file=str(path), **options)
    except OptionError as error:
        if error.option == "coreset_file":
            raise UsageError(f"{path}: {error.reason}") from None
        raise UsageError(f"`{error.option}`: {error.reason}") from None

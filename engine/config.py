"""The command line: every setting of a run, its default, unit and source."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from augmentations import AUGMENTATIONS
from data import DATASETS
from errors import UsageError
from methods import METHODS
from methods.scores import RECORDED

from . import published
from .cadence import Cadence
from .flags import (
    HelpFormatter,
    Parser,
    add_options,
    number,
    one_of,
    options_of,
    several_of,
    take_options,
    unknown_flag,
)
from .models import RESNETS

STUDY = "Arazo et al. 2021"
GAMMA = 0.1


OPTIMIZER = ("lr", "momentum", "weight-decay", "batch-size", "schedule", "milestones", "gamma")


def tunable_flags() -> list[str]:
    """Flags, without dashes, whose values a method may be tuned by: they leave its task alone."""
    options = {
        name: None
        for cls in (*METHODS.values(), *AUGMENTATIONS.values())
        for name, (kind, _, facts) in options_of(cls).items()
        if kind is not bool and "needed" not in facts
    }
    return [*OPTIMIZER, *(name.replace("_", "-") for name in options)]


def build_parser() -> Parser:
    parser = Parser(
        prog="train.py",
        description="Train a network on images under a budget of iterations and log its accuracy "
        "curve to RESULTS_DIR/EXPERIMENT_NAME/curve.csv. Without arguments: a small network on "
        "scikit-learn's digits, which needs no download.",
        epilog="The flags of the published study's train.py (--epoch, --wd, --num_classes, ...) "
        "are accepted too.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_task_flags(parser)
    add_optimizer_flags(parser)
    add_options(parser, "options of methods", METHODS.values())
    add_options(parser, "options of augmentations", AUGMENTATIONS.values())
    add_run_flags(parser)
    published.add_flags(parser)
    return parser


def add_task_flags(parser: Parser) -> None:
    group = parser.add_argument_group("what is trained")
    choice = dict(metavar="NAME")
    group.add_argument(
        "--method",
        type=one_of(METHODS, published.METHODS),
        default="SGD",
        help=f"how the budget is spent: {', '.join(METHODS)}",
        **choice,
    )
    group.add_argument(
        "--augmentation",
        type=one_of(AUGMENTATIONS, published.AUGMENTATIONS),
        default="standard",
        help=f"{', '.join(AUGMENTATIONS)}; randaugment's and trivialaugment's operations, ranges "
        "and signs are torchvision's",
        **choice,
    )
    group.add_argument(
        "--dataset",
        type=one_of(DATASETS),
        default="digits",
        help=f"{', '.join(DATASETS)}; folder is DATA_DIR/train/CLASS/IMAGE and test/ or val/ alike",
        **choice,
    )
    group.add_argument(
        "--num-classes",
        type=number(int, low=2),
        metavar="N",
        help="classes of the data set; only checked, since the data say it",
    )
    group.add_argument(
        "--image-size",
        type=number(int, low=4, high=4096),
        metavar="PIXELS",
        help="folder: height and width to resize images to; by default they must all have one size",
    )
    group.add_argument(
        "--train-images",
        type=number(int, low=1),
        metavar="N",
        help="train on a random class-balanced subset of N images, fixed by --data-seed and taken "
        "before --imbalance, --label-noise and --validation",
    )
    group.add_argument(
        "--validation",
        type=number(int, low=1),
        nargs="?",
        const=5000,
        metavar="N",
        help="hold out N training images and evaluate on them instead of the test set; 5000 if N "
        f"is left out ({STUDY}). Class-balanced; with --imbalance in the proportions of the "
        "classes, and with --label-noise the labels held out are as noisy as those trained on",
    )
    group.add_argument(
        "--imbalance",
        type=number(float, above=1, high=1_000_000),
        metavar="RATIO",
        help="train on fewer images of each class than of the one before it, in equal proportions, "
        "so that the first class has RATIO times as many as the last (Cui et al. 2019)",
    )
    group.add_argument(
        "--label-noise",
        type=number(float, above=0, below=1),
        metavar="SHARE",
        help="give that share of the training images, in (0, 1), a wrong label, any one equally "
        "likely (Han et al. 2018); after --imbalance, before --validation; not of the test set",
    )
    group.add_argument(
        "--model",
        metavar="NAME",
        help=f"{', '.join(RESNETS)} (w: base width), or any network of timm's; default "
        f"resnet18 ({STUDY}), for digits resnet10-w16",
    )


def add_optimizer_flags(parser: Parser) -> None:
    group = parser.add_argument_group("budget and optimizer (SGD)")
    group.add_argument(
        "--budget",
        type=number(float, above=0, high=1),
        default=1.0,
        metavar="SHARE",
        help="iterations per epoch, as a share of a full pass, in (0, 1]",
    )
    group.add_argument(
        "--compute-budget",
        action="store_true",
        help="count the budget in compute, not in steps: images that are only scored are paid for "
        "too, 1 each where one trained on costs 3, so a method that scores makes fewer steps",
    )
    group.add_argument(
        "--count-scoring-run",
        action="store_true",
        help="with --compute-budget: the runs behind a score file are paid for out of the budget "
        "too; coreset and rho-loss train on what is left",
    )
    group.add_argument(
        "--epochs",
        type=number(int, low=1, high=1_000_000),
        metavar="N",
        help="budgeted epochs, each of floor(floor(budget * images) / batch size) steps; default "
        f"200 ({STUDY}), for digits 50",
    )
    group.add_argument(
        "--batch-size",
        type=number(int, low=2, high=1_000_000),
        default=128,
        metavar="N",
        help=f"images per step, at least the two that batch normalisation needs ({STUDY})",
    )
    group.add_argument(
        "--lr",
        type=number(float, above=0, high=1000),
        default=0.1,
        metavar="X",
        help=f"learning rate of the first step ({STUDY})",
    )
    group.add_argument(
        "--momentum",
        type=number(float, low=0, below=1),
        default=0.9,
        metavar="X",
        help=f"({STUDY})",
    )
    group.add_argument(
        "--weight-decay",
        type=number(float, low=0, high=1000),
        default=1e-4,
        metavar="X",
        help=f"of all parameters ({STUDY})",
    )
    group.add_argument(
        "--schedule",
        type=one_of(["linear", "step"]),
        default="linear",
        metavar="NAME",
        help="of the learning rate: linear, to 1e-6 at the last step (Li et al. 2020), or step, "
        "times gamma at milestones",
    )
    group.add_argument(
        "--milestones",
        type=number(int, low=1),
        nargs="+",
        action="extend",
        metavar="EPOCH",
        help="step schedule: epochs after which the learning rate is multiplied by gamma; by "
        "default at half and at three quarters of the run",
    )
    group.add_argument(
        "--gamma",
        type=number(float, above=0, high=1),
        metavar="X",
        help=f"step schedule: factor of the learning rate at a milestone; default {GAMMA} "
        f"({STUDY})",
    )


def add_run_flags(parser: Parser) -> None:
    group = parser.add_argument_group("where and how it runs")
    seed = number(int, low=0, high=2**32 - 1)
    group.add_argument(
        "--seed",
        type=seed,
        default=1,
        metavar="N",
        help="of the initial weights, draws and augmentations",
    )
    group.add_argument(
        "--data-seed",
        type=seed,
        default=42,
        metavar="N",
        help="of splits: --validation, and train/test of mini-imagenet; of the choices of "
        "--train-images, --imbalance and --label-noise",
    )
    group.add_argument(
        "--data-dir",
        default="datasets",
        metavar="DIR",
        help="where data sets lie, are downloaded to and their decoded images cached",
    )
    group.add_argument(
        "--results-dir", default="results", metavar="DIR", help="parent of the run's folder"
    )
    group.add_argument(
        "--experiment-name",
        metavar="NAME",
        help="the run's folder in RESULTS_DIR; default "
        "DATASET_METHOD_AUGMENTATION_bBUDGET_sSEED, with _nIMAGES, _imbalanceRATIO, _noiseSHARE, "
        "_compute before _b where these are given",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace a finished run of that name"
    )
    group.add_argument(
        "--no-resume",
        dest="resume",
        action="store_false",
        help="do not go on with an unfinished run of that name; with --overwrite, start it afresh",
    )
    group.add_argument(
        "--checkpoint-every",
        type=Cadence,
        default=Cadence("1"),
        metavar="N",
        help="epochs between checkpoints; or, for example, 500steps or 10minutes",
    )
    group.add_argument(
        "--eval-every",
        type=number(int, low=1),
        default=1,
        metavar="N",
        help="epochs between evaluations; the last epoch is always evaluated",
    )
    group.add_argument(
        "--record",
        type=several_of(RECORDED),
        metavar="NAME,...",
        help=f"note what training shows of each image, {' and '.join(RECORDED)} or one of them, in "
        "scores.npz in the run's folder, for --coreset-file; changes nothing else",
    )
    group.add_argument(
        "--record-epochs",
        type=number(int, low=1),
        metavar="N",
        help="--record el2n: mean over the visits of the first N budgeted epochs; default 10",
    )
    group.add_argument(
        "--tuned",
        type=several_of(tunable_flags()),
        metavar="NAME,...",
        help="note that the values of these flags were chosen by trials on held-out images, as "
        "sweep.py --tune does; changes nothing else, and tables say tuned",
    )
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the curve's numbers for TensorBoard too, into the run's folder; needs "
        "requirements-tensorboard.txt",
    )
    group.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, ...; auto is cuda where there is one",
    )
    group.add_argument(
        "--amp",
        type=one_of(["auto", "off", "bf16", "fp16"]),
        default="auto",
        metavar="NAME",
        help="automatic mixed precision: bf16, fp16 (with loss scaling; a step that overflows is "
        "made again with half the scale) or off, which is float32 (TF32 on CUDA); auto is bf16 "
        "where the processor gains from it, a GPU that has it or a CPU with AMX or AVX512-BF16 "
        "(unless --compile is given: a CPU does not take both)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the network with torch.compile first, on CUDA into graphs; config.json says "
        "how long that took, no column of the curve counts it",
    )
    group.add_argument(
        "--sync-batchnorm",
        action="store_true",
        help="CUDA, several processes: normalise over the batch of all, not each process over its "
        "own part",
    )
    group.add_argument(
        "--resident-limit",
        type=number(float, low=0),
        metavar="GIB",
        help="larger sets of images stay in their file, from where a thread reads the next batches "
        "ahead; default: half the memory of the device",
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="CUDA: only deterministic algorithms, so that results repeat to the bit, more slowly",
    )
    group.add_argument(
        "--num-threads",
        type=number(int, low=1, high=4096),
        metavar="N",
        help="CPU threads; default: as many as PyTorch takes, one per core",
    )


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read and check a command line.

    Args:
        arguments: without the program's name; our flags or the published study's.

    Returns:
        The settings, with `method_options` and `augmentation_options` as dictionaries of those
        that the chosen ones take; and notes on flags that have no effect, a line each.

    Raises:
        UsageError: naming the flag and the remedy.
    """
    parser = build_parser()
    settings, unknown = parser.parse_known_args([published.canonical(word) for word in arguments])
    if unknown:
        raise unknown_flag(parser.known_flags(), unknown[0])
    notes = published.drop_without_effect(settings)
    published.take_validation(settings, notes)
    published.take_schedule(settings, notes)
    published.take_warmup(settings, notes)
    settings.method_options = take_options(settings, METHODS, settings.method, notes)
    settings.augmentation_options = take_options(
        settings, AUGMENTATIONS, settings.augmentation, notes
    )
    check_scoring_run(settings, notes)
    if settings.image_size and settings.dataset != "folder":
        raise UsageError(
            f"--image-size: {settings.dataset} has a size of its own; leave the flag out"
        )
    digits = settings.dataset == "digits"
    if settings.model is None:
        settings.model = "resnet10-w16" if digits else "resnet18"
    if settings.epochs is None:
        settings.epochs = 50 if digits else 200
    check_schedule(settings, notes)
    if settings.record_epochs is None:
        settings.record_epochs = 10
    elif "el2n" not in (settings.record or ()):
        notes.append("--record-epochs has no effect without --record el2n")
    if settings.experiment_name is None:
        images = f"_n{settings.train_images}" if settings.train_images else ""
        imbalance = f"_imbalance{settings.imbalance:g}" if settings.imbalance else ""
        noise = f"_noise{settings.label_noise:g}" if settings.label_noise else ""
        compute = "_compute" if settings.compute_budget else ""
        settings.experiment_name = (
            f"{settings.dataset}_{settings.method}_{settings.augmentation}{images}{imbalance}{noise}"
            f"{compute}_b{settings.budget:g}_s{settings.seed}"
        )
    return settings, notes


def check_scoring_run(settings: argparse.Namespace, notes: list[str]) -> None:
    """Leave --count-scoring-run on only where there are runs to count and a budget to pay from."""
    if not settings.count_scoring_run:
        return
    needs_scores = any(
        "needed" in facts for _, _, facts in options_of(METHODS[settings.method]).values()
    )
    if settings.compute_budget and needs_scores:
        return
    settings.count_scoring_run = False
    reason = settings.method if settings.compute_budget else "a budget of steps"
    notes.append(f"--count-scoring-run has no effect with {reason}")


def check_schedule(settings: argparse.Namespace, notes: list[str]) -> None:
    """Leave the milestones of the step schedule in order, and none for the linear one."""
    linear = settings.schedule == "linear"
    if linear:
        if settings.milestones:
            notes.append("--milestones has no effect with --schedule linear")
        settings.milestones = []
    elif settings.milestones is None:
        settings.milestones = sorted({settings.epochs // 2, settings.epochs * 3 // 4} - {0})
    if settings.gamma is None:
        settings.gamma = GAMMA
    elif not settings.milestones:
        reason = "with --schedule linear" if linear else "without milestones"
        notes.append(f"--gamma has no effect {reason}")
        settings.gamma = GAMMA
    if not settings.milestones:
        return
    given = " ".join(map(str, settings.milestones))
    if any(a >= b for a, b in zip(settings.milestones, settings.milestones[1:])):
        raise UsageError(
            f"--milestones {given}: out of order; give each epoch once, smallest first"
        )
    if settings.milestones[-1] > settings.epochs:
        raise UsageError(f"--milestones {given}: the run ends after --epochs {settings.epochs}")

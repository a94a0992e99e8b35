"""The command line of sweep.py: its own options, and train.py's flags with their values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from errors import UsageError

from .. import flags
from ..flags import HelpFormatter, Parser, unknown_flag
from ..published import canonical
from ..values import number

DESCRIPTION = """\
Make every run of a grid: give any flags of train.py (python train.py --help lists them), each
with one or more values, and one run of train.py is made for every combination of the values.

  python sweep.py --jobs 2 --dataset digits --method SGD p-SGD --budget 0.2 0.5 --seed 1 2 3

makes 2 x 2 x 3 = 12 runs, two at a time. All are checked before the first one starts. A run's
folder in RESULTS_DIR is named after its settings: train.py's default name, then every other
setting that differs from its default. Its output goes to log.txt in that folder.

Whatever happened, give the same command again: runs that have finished are kept, interrupted ones
resume, missing and failed ones are run. A grid is extended in the same way. Ctrl-C and SIGTERM
let the runs under way write a checkpoint first; a second Ctrl-C does not wait for them."""

EPILOG = """\
flags of train.py that take several values at once: quote those that belong to one run, as in
  --schedule step --milestones "100 150" "120 160"

grid files: TOML, a table of train.py's flags without dashes; the values of a list are run in turn
  [grid]
  method = ["unif-SGD", "p-SGD"]
  budget = [0.2, 0.5]
  milestones = [[100, 150], [120, 160]]  # a list within the list: values of one run
Several tables, each under [[grid]], are several grids; runs that are in two of them are run once.

Ray: pip install -r requirements-ray.txt. Nodes need the same Python and packages as this machine;
this code is sent to them. No file system is shared: runs read DATA_DIR at the same absolute path
on their own node (or download to it), and their files are brought to RESULTS_DIR here. A run
whose node is lost restarts on another, from its last checkpoint that was brought here.

Slurm: one task of a job array makes one part of the grid, sharing RESULTS_DIR with the others:
  sbatch --array=1-8 --wrap 'python sweep.py --shard $SLURM_ARRAY_TASK_ID/8 --method ...'

exit status: 0 every run has finished, 1 some failed (listed at the end), 2 a wrong flag or file and
nothing was started, 130 stopped by Ctrl-C, 143 by SIGTERM"""


class ParagraphFormatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples as they are."""


def build_parser() -> Parser:
    parser = Parser(
        prog="sweep.py",
        usage="python sweep.py [option ...] --FLAG VALUE [VALUE ...] [--FLAG ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=ParagraphFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="FILE",
        help="read the grid from a TOML file; flags given here replace the file's",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the runs and an estimate of their time"
    )
    parser.add_argument(
        "--tune",
        type=tuned,
        action="append",
        metavar="FLAG=VALUE,...",
        help="try these values of a flag of train.py with the first seed on held-out images, then "
        "run each method's best ones with the other seeds; may be repeated, for other flags",
    )
    parser.add_argument(
        "--trials",
        type=number(int, low=1, high=100_000),
        metavar="N",
        help="--tune: try N of each method's combinations of values, chosen at random; default: "
        "all, which have to be equally many for each method",
    )
    parser.add_argument(
        "--jobs",
        type=number(int, low=1, high=1024),
        metavar="N",
        help="runs at once on this machine, which share its cores evenly, and its GPU if it has "
        "one [default: 1]",
    )
    parser.add_argument(
        "--isolate",
        action="store_true",
        help="start a Python process for every run; else runs are forks of one that has PyTorch "
        "imported and the data loaded, which saves the two seconds that a start takes",
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default="1/1",
        metavar="I/N",
        help="make every N-th run of the grid only, from the I-th on; I is 1, 2, ... N",
    )
    add_ray_options(parser)
    return parser


def completion_parser() -> Parser:
    """Return a parser by which a shell completes: of our flags and of train.py's, with values."""
    parser = build_parser()
    for action in flags.build_parser()._actions:
        if action.dest != "help":
            action.nargs = "+" if action.nargs is None else action.nargs
            parser._add_action(action)
    return parser


def add_ray_options(parser: Parser) -> None:
    group = parser.add_argument_group("on a Ray cluster")
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="make the runs on the cluster at ADDRESS, such as 10.0.0.1:6379; without ADDRESS, on "
        "that which this machine belongs to, or else on this machine and all of its GPUs",
    )
    group.add_argument(
        "--cpus-per-run",
        type=number(float, above=0),
        metavar="X",
        help="cores reserved for a run, and its threads [default: 1]",
    )
    group.add_argument(
        "--gpus-per-run",
        type=number(float, low=0),
        metavar="X",
        help="GPUs reserved for a run: with 0.25, four share one; with 0, it sees none "
        "[default: 0]",
    )


def tuned(text: str) -> tuple[str, list[str]]:
    """A converter for argparse: `FLAG=VALUE,...` as the flag, with its dashes, and the values."""
    name, _, values = text.partition("=")
    if not name or not all(values.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a flag with values, as in lr=0.05,0.1")
    return canonical(f"--{name.lstrip('-')}"), values.split(",")


def shard(text: str) -> tuple[int, int]:
    """A converter for argparse: `I/N` with 1 <= I <= N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/8, 2/8, ... 8/8")
    return int(match[1]), int(match[2])


def read_command_line(
    arguments: Sequence[str],
) -> tuple[argparse.Namespace, dict[str, list[str]]]:
    """The options of sweep.py, checked, and train.py's flags with their values, unchecked."""
    parser = build_parser()
    own, flags = [], {}
    for flag, values in groups(arguments):
        if flag in parser.known_flags():
            own += [flag, *values]
        elif flag in flags:
            raise UsageError(f"{flag}: given twice; give it once, with all its values")
        else:
            flags[flag] = values
    options, unknown = parser.parse_known_args(own)
    if unknown:
        raise unknown_flag(parser.known_flags(), unknown[0])
    options.tune = options.tune or []
    tuned_flags = [flag for flag, _ in options.tune]
    for flag in tuned_flags:
        if flag in flags or tuned_flags.count(flag) > 1:
            raise UsageError(f"--tune {flag[2:]}: {flag} is given twice; give it once")
    check_ray_options(options)
    if options.trials and not options.tune:
        raise UsageError("--trials: only for --tune; add --tune, or leave the flag out")
    if not flags and options.grid is None:
        raise UsageError("nothing to run; give flags of train.py, or --grid FILE (see --help)")
    return options, flags


def groups(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The words of a command line: each flag, in our spelling, with the values that follow it."""
    found: list[tuple[str, list[str]]] = []
    for word in arguments:
        if word.startswith("--") or word == "-h":
            flag, equals, value = canonical(word).partition("=")
            found.append((flag, [value] if equals else []))
        elif found:
            found[-1][1].append(word)
        else:
            raise UsageError(f"{word!r}: unexpected argument (see --help)")
    return found


def check_ray_options(options: argparse.Namespace) -> None:
    if options.ray is None:
        for flag in ("cpus_per_run", "gpus_per_run"):
            if getattr(options, flag) is not None:
                name = flag.replace("_", "-")
                raise UsageError(f"--{name}: only for --ray; add --ray, or leave the flag out")
    elif options.jobs is not None:
        raise UsageError(
            "--jobs: not with --ray, where --cpus-per-run says how many fit; leave it out"
        )
    gpus = options.gpus_per_run or 0
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"--gpus-per-run {gpus}: above one, give a whole number")

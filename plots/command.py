"""Common parts of the commands of this package: their argument, their notes and their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.flags import Parser
from errors import UsageError, exit_status_of, say

from .study import Study, read_study


def run_command(
    name: str, description: str, work: Callable[[Study, Path], None], arguments: Sequence[str]
) -> int:
    """Do some work on the study in a results folder, notes on which go to standard error.

    Returns:
        The exit status: 0, or that of the error, which is one line.
    """
    parser = Parser(prog=f"python -m {name}", description=description, allow_abbrev=False)
    parser.add_argument(
        "results_dir",
        type=Path,
        nargs="?",
        default=Path("results"),
        metavar="RESULTS_DIR",
        help="holds the runs, at any depth; default results",
    )

    def report() -> int:
        results = parser.parse_args(arguments).results_dir
        study = read_study(results)
        for note in study.notes:
            say(f"note: {note}")
        if study.runs.empty:
            raise UsageError(
                f"{results}: no finished run there that can be used; make one with train.py, or "
                "give another folder"
            )
        work(study, results)
        return 0

    return exit_status_of(f"python -m {name}", report)

"""Make the tables and figures of the finished runs in a results folder.

python -m plots [RESULTS_DIR]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from errors import RunError, UsageError

from .figures import KINDS, draw
from .study import Study, read_study, summarise, summarise_differences
from .tables import latex, markdown


def main(arguments: list[str]) -> int:
    """Write all that can be made; the exit status is 0, or that of the error, told in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m plots",
        description="Write RESULTS_DIR/summary.csv, differences.csv, tables.md, tables.tex and "
        "figures/ from the finished runs below RESULTS_DIR.",
    )
    parser.add_argument(
        "results_dir", type=Path, nargs="?", default=Path("results"), metavar="RESULTS_DIR"
    )
    results = parser.parse_args(arguments).results_dir
    try:
        study = read_study(results)
        for note in study.notes:
            print(f"note: {note}", file=sys.stderr)
        if study.runs.empty:
            raise UsageError(
                f"{results}: no finished run there that can be used; make one with "
                "train.py, or give another folder"
            )
        print(write_tables(study, results))
        draw_all(study, results / "figures")
    except RunError as error:
        print(f"python -m plots: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"python -m plots: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def write_tables(study: Study, results: Path) -> str:
    """Write the tables into the results folder; the Markdown, to show."""
    summarise(study).to_csv(results / "summary.csv", index=False)
    summarise_differences(study).to_csv(results / "differences.csv", index=False)
    text = markdown(study)
    (results / "tables.md").write_text(text, encoding="utf-8")
    (results / "tables.tex").write_text(latex(study), encoding="utf-8")
    return text


def draw_all(study: Study, folder: Path) -> None:
    """Draw every figure that there are runs for, telling of the others."""
    count = 0
    for kind in KINDS:
        stems, gaps = draw(study, kind, folder)
        count += len(stems)
        for gap in gaps:
            print(f"note: {gap}", file=sys.stderr)
    print(f"summary.csv, differences.csv, tables.md and tables.tex: {folder.parent}")
    print(f"{count} figures, each as PNG and PDF: {folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Print a table of the runs in a results folder and draw their curves.

python -m plots RESULTS_DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .curves import draw_curves
from .runs import last_rows, read_runs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m plots", description=__doc__.splitlines()[0])
    parser.add_argument("results_dir", type=Path, metavar="RESULTS_DIR")
    results = parser.parse_args().results_dir
    try:
        rows = read_runs(results)
    except FileNotFoundError as error:
        print(f"python -m plots: {error}; make one with train.py", file=sys.stderr)
        return 2
    cells = ["dataset", "model", "augmentation", "epochs"]
    for (dataset, model, augmentation, epochs), part in last_rows(rows).groupby(cells):
        table = part.pivot_table("test_accuracy", "method", "budget", aggfunc="mean", sort=False)
        print(f"\nTest accuracy in percent after the last of {epochs} epochs: {dataset}, {model},")
        print(f"{augmentation}, {part['seed'].nunique()} seed(s); columns are budgets\n")
        print(table.sort_index(axis=1).round(2).to_string())
    figure = results / "curves.png"
    draw_curves(rows, figure)
    print(f"\ncurves: {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""When does choosing images pay? Gain over uniform sampling against training accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from engine.flags import Parser
from errors import UsageError, exit_status_of

from .estimates import LEAST_PAIRS, estimate, seeds_text
from .study import CELL, REFERENCE, Study, is_plain, paired_differences, read_study
from .style import INTERVAL, add_legend, add_title, in_order, line_style, new_figure, save

#: Methods shown: those of the two published works.
METHODS = ("p-SGD", "c-SGD", "selective-backprop", "dro", "random-subset")


def main(arguments: Sequence[str]) -> int:
    """Plot the gain of each method over uniform sampling against training accuracy."""
    parser = Parser(prog="python -m plots gains", description=main.__doc__, allow_abbrev=False)
    parser.add_argument(
        "results_dirs", type=Path, nargs="+", metavar="RESULTS_DIR", help="a study, at any depth"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/gains"),
        metavar="STEM",
        help="to write .png, .pdf and .csv [default: results/gains]",
    )

    def work() -> int:
        options = parser.parse_args(arguments)
        parts = {str(folder): gains(read_study(folder)) for folder in options.results_dirs}
        table = pd.concat(parts, names=["study"]).reset_index("study").reset_index(drop=True)
        if table.empty:
            folders = ", ".join(map(str, options.results_dirs))
            raise UsageError(
                f"{folders}: no method shares {LEAST_PAIRS} seeds with {REFERENCE} on balanced "
                "data; give studies that have it"
            )
        save(plot_gains(table), options.out)
        table.round(4).to_csv(f"{options.out}.csv", index=False)
        setups = table[["study", "setup"]].drop_duplicates()  # one name may be in two studies
        print(f"{len(table)} gains in {len(setups)} setups: {options.out}.png")
        return 0

    return exit_status_of("python -m plots gains", work)


def gains(study: Study) -> pd.DataFrame:
    """One row per cell of `METHODS` with standard augmentation, balanced data and right labels.

    `by_heart` is unif-SGD's training accuracy in percent, in the last epoch and as it trains, of
    the same setup and budget; `mean`, `low` and `high` are the method's gain in points.
    """
    runs = study.runs
    if runs.empty:
        return pd.DataFrame()
    runs = runs[is_plain(runs) & (runs["augmentation"] == "standard")]
    heart = runs[runs["method"] == REFERENCE].groupby(["setup", *CELL])["train_accuracy"].mean()
    rows = []
    pairs = paired_differences(runs)
    pairs = pairs[pairs["method"].isin(METHODS)]
    for key, cell in pairs.groupby(["setup", "method", "method_label", *CELL], sort=False):
        setup, method, label, augmentation, budget = key
        found = estimate(cell["value"])
        if found.n >= LEAST_PAIRS:
            rows.append(
                {
                    "setup": setup,
                    "dataset": cell["dataset"].iloc[0],
                    "num_images": cell["num_images"].iloc[0],
                    "epochs": cell["epochs"].iloc[0],
                    "budget": budget,
                    "method": method,
                    "method_label": label,
                    "by_heart": heart[setup, augmentation, budget],
                    **found._asdict(),
                }
            )
    return pd.DataFrame(rows)


def plot_gains(table: pd.DataFrame) -> Figure:
    """Mean and interval of each gain; uniform sampling is the line at zero."""
    figure, ((axis,),) = new_figure(1, 1, 2.6, wide=True)
    methods = in_order(table)
    axis.axhline(0, color=line_style(REFERENCE, 0)["color"], linewidth=0.8)
    places = [cells for _, cells in table.groupby(["by_heart", "study", "setup", "budget"])]
    for place, cells in enumerate(places):
        for i, (label, method, variant) in enumerate(methods):
            own = cells[cells["method_label"] == label]
            axis.errorbar(
                [place + 0.7 * ((i + 0.5) / len(methods) - 0.5)] * len(own),
                own["mean"],
                own["high"] - own["mean"],
                elinewidth=0.7,
                **line_style(method, variant) | {"linestyle": "none"},
            )
        axis.axvline(place + 0.5, color="black", linewidth=0.2)
    axis.set_xticks(range(len(places)), map(describe, places), fontsize=6)
    axis.set_xlim(-0.5, len(places) - 0.5)
    axis.grid(visible=False, axis="x")
    axis.set_yscale("symlog", linthresh=3)
    ticks = [-30, -10, *range(-3, 4), 10]
    axis.set_yticks(ticks, list(map(str, ticks)))
    axis.set_xlabel("training accuracy under uniform sampling, last epoch; what was trained")
    axis.set_ylabel("gain over unif-SGD (points)")
    add_legend(figure, methods)
    add_title(
        figure,
        "When does choosing images pay?",
        f"Last-epoch test accuracy minus {REFERENCE}'s at equal steps, paired by seed, {INTERVAL}; "
        "from trainings that fit little of their training set to those that memorise it; beyond 3 "
        "points the scale is logarithmic",
    )
    return figure


def describe(cells: pd.DataFrame) -> str:
    """What was trained in one setup and budget, over lines."""
    cell = cells.iloc[0]
    return (
        f"{cell['by_heart']:.0f}%\n{cell['dataset']}\n{cell['num_images'] / 1000:g}k images\n"
        f"{cell['epochs']:g} epochs\nat {cell['budget']:.0%}\n{seeds_text(cells['n'])}"
    )

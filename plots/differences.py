"""Each method's difference to unif-SGD at equal budget, paired by seed."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .estimates import estimate, seeds_text, without_pairing
from .gap import Gap
from .study import REFERENCE, Study, paired_differences
from .style import (
    INTERVAL,
    add_title,
    grid_shape,
    hide_unused,
    in_order,
    line_style,
    need_room,
    new_figure,
)

LINEAR = 10  # percentage points: a wider range is drawn on a scale that is logarithmic beyond
THRESHOLD = 3  # these
TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30)


def plot_differences(study: Study) -> Figure:
    """A panel per budget, a row per method: mean and interval; of one setup and augmentation."""
    pairs = paired_differences(study.runs)
    if pairs.empty:
        raise Gap(f"no method shares budget and seed with {REFERENCE}")
    methods = in_order(pairs)
    budgets = sorted(pairs["budget"].unique())
    rows, columns = grid_shape(len(budgets), 4)
    height = 0.65 + 0.15 * len(methods)
    figure, axes = new_figure(rows, columns, height, need_room(methods), sharex=True, sharey=True)
    panels = hide_unused(axes, len(budgets))
    for axis, budget in zip(panels, budgets):
        counts = plot_panel(axis, pairs[pairs["budget"] == budget], methods)
        axis.set_title(f"budget {100 * budget:g}%\n({seeds_text(counts)})")
    for axis in panels[-columns:]:
        axis.tick_params(labelbottom=True)
    scale = set_scale(panels)
    figure.supxlabel(f"difference in {study.accuracy} accuracy (percentage points)", fontsize=8)
    explanation = f"Last-epoch accuracy minus {REFERENCE}'s at equal budget, paired by seed"
    counts = pairs.groupby(["method_label", "budget"]).size()
    if counts.max() > 1:
        explanation += f"; {INTERVAL} over n common seeds"
        explanation += "; no bar where n = 1" if counts.min() == 1 else ""
    else:
        explanation += "; one common seed, so no interval is known"
    add_title(figure, study.augmented_title, explanation + scale + uncorrelated(pairs))
    return figure


def uncorrelated(pairs: pd.DataFrame) -> str:
    """Words for the title where pairing by seed costs power."""
    cells = [
        without_pairing(cell["test_accuracy"], cell["test_accuracy_theirs"]).correlation
        for _, cell in pairs.groupby(["method_label", "budget"])
    ]
    below = sum(correlation < 0 for correlation in cells)
    return (
        f"; in {below} of {len(cells)} the accuracies of a seed correlate negatively, so pairing "
        "widens the interval: differences.csv has Welch's too"
        if below
        else ""
    )


def plot_panel(axis: Axes, pairs: pd.DataFrame, methods: list[tuple[str, str, int]]) -> list[int]:
    """Draw one cell of the grid; how many seeds stand behind each of its points."""
    counts = []
    axis.axvline(0, color="black", linewidth=0.7)
    for row, (label, method, variant) in enumerate(methods):
        numbers = estimate(pairs.loc[pairs["method_label"] == label, "value"])
        if numbers.n:
            style = line_style(method, variant) | {"linestyle": "none"}
            half = numbers.high - numbers.mean
            axis.errorbar(numbers.mean, row, xerr=half, elinewidth=0.9, **style)
            counts.append(numbers.n)
    axis.set_yticks(range(len(methods)), [label for label, *_ in methods])
    axis.set_ylim(len(methods) - 0.4, -0.6)
    return counts


def set_scale(panels: list[Axes]) -> str:
    """Choose the scale that the panels share; words for the title if it is not linear."""
    low, high = panels[0].get_xlim()
    if max(-low, high) <= LINEAR:
        panels[0].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        return ""
    low, high = min(1.5 * low, -1.5), max(1.5 * high, 1.5)
    for axis in panels:
        axis.set_xscale("symlog", linthresh=THRESHOLD)
        axis.set_xticks([tick for tick in TICKS if low < tick < high])
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.minorticks_off()
        axis.set_xlim(low, high)
    return f"; the scale is logarithmic beyond {THRESHOLD} points"

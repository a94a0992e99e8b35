"""Accuracy curves against epochs, images processed and seconds."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from .estimates import seeds_text
from .study import Study
from .style import add_legend, add_title, line_style, new_figure

AXES = {
    "epoch": "budgeted epochs",
    "images_processed": "images processed,\nscoring included",
    "seconds": "training time (s),\nwithout evaluation",
}
MARKERS = 5  # on each curve


def plot_curves(study: Study) -> Figure:
    """A row per budget with methods to compare, a column per measure of effort; of one setup.

    Lines are means over seeds, at the mean effort of each epoch; bands reach from the lowest seed
    to the highest.
    """
    study = study.compared()
    budgets = study.budgets
    figure, axes = new_figure(len(budgets), len(AXES), 1.7, sharey=True)
    for row, budget in zip(axes, budgets):
        part = study.where("budget", budget)
        counts = part.runs.groupby("method_label").size()
        row[0].set_ylabel(f"{study.accuracy} accuracy (%)")
        row[1].set_title(f"budget {100 * budget:g}% ({seeds_text(counts)})")
        for axis, effort in zip(row, AXES):
            plot_panel(axis, part, study, effort)
    for axis, label in zip(axes[-1], AXES.values()):
        axis.set_xlabel(label)
    explanation = "Mean over n seeds; the band reaches from the lowest seed to the highest"
    if study.runs.groupby(["method_label", "budget"]).size().max() == 1:
        explanation = "One seed each, so no band"
    add_legend(figure, study.methods)
    add_title(figure, study.augmented_title, explanation)
    return figure


def plot_panel(axis: Axes, part: Study, study: Study, effort: str) -> None:
    for i, (label, method, variant) in enumerate(study.methods):
        curves = part.curves[part.curves["method_label"] == label].dropna(subset="test_accuracy")
        if curves.empty:
            continue
        epochs = curves.groupby("epoch")
        x = epochs[effort].mean()
        accuracy = epochs["test_accuracy"].agg(["mean", "min", "max"])
        style = line_style(method, variant)
        # Spaced along the line, and shifted from method to method so that none hides another.
        first = int(len(x) / MARKERS * i / len(study.methods))
        style["markevery"] = (first, int(np.ceil(len(x) / MARKERS)))
        axis.plot(x, accuracy["mean"], **style | {"linewidth": 0.9, "markersize": 3})
        axis.fill_between(
            x, accuracy["min"], accuracy["max"], color=style["color"], alpha=0.15, linewidth=0
        )
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(
        MaxNLocator(4, integer=effort == "epoch", steps=[1, 2, 2.5, 5, 10])
    )
    if effort == "images_processed":
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))

"""Accuracy, of all classes or of the worst one, against budget."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .estimates import estimate, seeds_text
from .gap import Gap
from .study import Study
from .style import (
    INTERVAL,
    add_legend,
    add_title,
    grid_shape,
    hide_unused,
    line_style,
    new_figure,
)

FULL = (0, (6, 3))  # of the line of full training
SPREAD = 0.6  # of the room between two budgets, over which methods stand side by side


def plot_accuracy(study: Study) -> Figure:
    """Last-epoch accuracy in percent against budget, a panel per augmentation."""
    return plot_against_budget(study, "test_accuracy", f"{study.accuracy} accuracy (%)")


def plot_worst_class(study: Study) -> Figure:
    """Likewise, of the class with the lowest accuracy."""
    return plot_worst("class", study)


def plot_worst_group(study: Study) -> Figure:
    """Likewise, of the group of images with the lowest accuracy, where there are groups."""
    return plot_worst("group", study)


def plot_worst(kind: str, study: Study) -> Figure:
    column = f"worst_{kind}_accuracy"
    logged = study.runs[column].notna()
    if not logged.any():
        raise Gap(f"no run logged {column}")
    study = Study(study.runs[logged], study.curves)
    return plot_against_budget(study, column, f"worst {kind}'s {study.accuracy} accuracy (%)")


def plot_against_budget(study: Study, column: str, label: str) -> Figure:
    """A panel per augmentation with a line per method: means, and intervals over seeds.

    Budgets stand at equal distances, whatever their values, so that none are crowded. Full training
    is a line across all panels, and a budget beside the others only where more than that was run.
    """
    full = full_training(study)
    less = [budget for budget in study.budgets if budget < 1]
    if less and len(full) == (study.runs["budget"] == 1).sum():
        study = study.where("budget", *less)
    augmentations = study.augmentations
    rows, columns = grid_shape(len(augmentations), 2)
    height = 1.7 + 0.05 * len(study.methods)
    figure, axes = new_figure(rows, columns, height, sharex=True, sharey=True)
    panels = hide_unused(axes, len(augmentations))
    for axis, augmentation in zip(panels, augmentations):
        part = study.where("augmentation_label", augmentation)
        if len(full):
            axis.axhline(full[column].mean(), color="black", linestyle=FULL, linewidth=0.7)
        plot_panel(axis, part, study, column)
        counts = part.runs.groupby(["method_label", "budget"]).size()
        axis.set_title(f"{augmentation} ({seeds_text(counts)})")
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    for axis in panels[-columns:]:
        axis.set_xlabel(f"budget (% of all {study.budget_unit})")
        axis.tick_params(labelbottom=True)
    add_legend(figure, study.methods)
    add_title(figure, study.title, explain(study, len(full) > 0))
    return figure


def full_training(study: Study) -> pd.DataFrame:
    """The runs that a budget is held against: plain SGD on all of a full budget's iterations."""
    plain = (study.runs["method"] == "SGD") & (study.runs["augmentation"] == "standard")
    return study.runs[plain & (study.runs["budget"] == 1)]


def explain(study: Study, with_line: bool) -> str:
    """Say how to read points and bars, which a single seed has none of."""
    counts = study.runs.groupby(["method_label", "augmentation_label", "budget"]).size()
    text = f"Last epoch; {INTERVAL} over n seeds"
    if counts.max() == 1:
        text = "Last epoch; one seed each, so no interval is known"
    elif counts.min() == 1:
        text += "; no bar where n = 1"
    return text + ("; dashed: SGD, standard, 100%" if with_line else "")


def plot_panel(axis: Axes, part: Study, study: Study, column: str) -> None:
    budgets, methods = study.budgets, study.methods
    for i, (label, method, variant) in enumerate(methods):
        runs = part.runs[part.runs["method_label"] == label]
        if runs.empty:
            continue
        shift = SPREAD * ((i + 0.5) / len(methods) - 0.5)
        found = {budget: estimate(cell[column]) for budget, cell in runs.groupby("budget")}
        places = [budgets.index(budget) + shift for budget in found]
        means = [numbers.mean for numbers in found.values()]
        bars = [numbers.high - numbers.mean for numbers in found.values()]
        axis.errorbar(places, means, bars, elinewidth=0.7, **line_style(method, variant))
    axis.set_xticks(range(len(budgets)), [f"{100 * budget:g}" for budget in budgets])
    axis.set_xlim(-0.5, len(budgets) - 0.5)
    # Bands, within which the methods of a budget stand side by side.
    axis.grid(visible=False, axis="x")
    for i in range(1, len(budgets), 2):
        axis.axvspan(i - 0.5, i + 0.5, color="0.95", zorder=0)

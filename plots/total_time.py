"""Accuracy beside all the time it took, that of the runs behind score files included."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .estimates import estimate, seeds_text
from .study import Study
from .style import INTERVAL, add_title, line_style, new_figure


def plot_total_time(study: Study) -> Figure:
    """A row of panels per budget with methods to compare: accuracy, and seconds; of one setup.

    A method has a line, the most accurate the first. Time is a mean over seeds: of selection, data
    and training, and of the runs that gave a method its scores and of choosing by them; from where
    a method would stand without the latter a thin line leads to its point. Where the time of the
    runs behind scores is not known, the method's name says so.
    """
    study = study.compared()
    budgets = study.budgets
    height = 0.65 + 0.15 * len(study.methods)
    figure, axes = new_figure(len(budgets), 2, height, sharex="col", sharey="row")
    for row, budget in zip(axes, budgets):
        part = study.where("budget", budget)
        plot_row(row, part)
        counts = part.runs.groupby("method_label").size()
        row[0].set_title(f"budget {100 * budget:g}% ({seeds_text(counts)})")
    axes[0, 1].set_xscale("log")
    axes[-1, 0].set_xlabel(f"{study.accuracy} accuracy (%)")
    axes[-1, 1].set_xlabel("seconds in all")
    add_title(
        figure,
        study.augmented_title,
        f"Last-epoch accuracy, {INTERVAL} over n seeds; and all seconds: selection, data, training "
        "and, at the end of a line, the runs that scores come from",
    )
    return figure


def plot_row(row: tuple[Axes, Axes], part: Study) -> None:
    """Draw the methods of one budget, side by side in both panels."""
    groups = part.runs.groupby("method_label")
    means = groups["test_accuracy"].mean()
    methods = sorted(part.methods, key=lambda each: -means[each[0]])
    for place, (label, method, variant) in enumerate(methods):
        runs = groups.get_group(label)
        numbers = estimate(runs["test_accuracy"])
        own = runs["seconds"].mean()
        total = own + runs[["scoring_seconds", "selection_seconds"]].sum(axis=1).mean()
        style = line_style(method, variant) | {"linestyle": "none"}
        half = numbers.high - numbers.mean
        row[0].errorbar(numbers.mean, place, xerr=half, elinewidth=0.9, **style)
        row[1].plot([own, total], [place] * 2, color=style["color"], linewidth=0.9)
        row[1].plot(total, place, **style)
    unknown = groups["unknown_scoring"].any()
    names = [f"{label} (scoring unknown)" if unknown[label] else label for label, *_ in methods]
    row[0].set_yticks(range(len(methods)), names)
    row[0].set_ylim(len(methods) - 0.4, -0.6)

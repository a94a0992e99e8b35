"""Accuracy against all the time it took, that of the runs behind score files included."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .by_budget import plot_by_budget
from .estimates import estimate
from .study import Study
from .style import line_style


def plot_total_time(study: Study) -> Figure:
    """A panel per budget with methods to compare, a point per method; of one augmentation.

    Time is in seconds, a mean over seeds: of selection, data and training, and of the runs that
    gave a method its scores and of choosing by them. From where a method would stand without the
    latter a thin line leads to its point.
    """
    return plot_by_budget(
        study,
        plot_panel,
        "seconds in all",
        "Last-epoch accuracy against all seconds, means over n seeds: selection, data, training "
        "and, at the end of a thin line, the runs that scores come from; bars: 95% confidence "
        "interval of the accuracy",
        most=3,
        row_height=2.8,
        wide=True,  # also with one panel: there are many methods to name
    )


def plot_panel(axis: Axes, part: Study) -> None:
    for label, method, variant in part.methods:
        runs = part.runs[part.runs["method_label"] == label]
        numbers = estimate(runs["test_accuracy"])
        own = runs["seconds"].mean()
        total = own + runs[["scoring_seconds", "selection_seconds"]].sum(axis=1).mean()
        style = line_style(method, variant) | {"linestyle": "none"}
        axis.plot([own, total], [numbers.mean] * 2, color=style["color"], linewidth=0.6)
        axis.errorbar(total, numbers.mean, numbers.high - numbers.mean, elinewidth=0.7, **style)
    axis.set_xscale("log")

"""Sampling entropy, which says how evenly images were used, against accuracy."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .estimates import seeds_text
from .study import Study
from .style import add_legend, add_title, grid_shape, hide_unused, line_style, new_figure


def plot_entropy(study: Study) -> Figure:
    """A panel per budget with methods to compare, a point per run; of one setup and augmentation.

    The entropy H(c) of the images' sample counts c is in nats, after the last epoch; log N, even
    use of all N images, is dotted.
    """
    study = study.compared()
    budgets = study.budgets
    rows, columns = grid_shape(len(budgets), 4)
    figure, axes = new_figure(rows, columns, 1.9)
    panels = hide_unused(axes, len(budgets))
    for axis, budget in zip(panels, budgets):
        part = study.where("budget", budget)
        plot_panel(axis, part)
        counts = part.runs.groupby("method_label").size()
        axis.set_title(f"budget {100 * budget:g}%\n({seeds_text(counts)})")
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{study.accuracy} accuracy (%)")
    for axis in panels[-columns:]:
        axis.set_xlabel("sampling entropy (nats)")
    add_legend(figure, study.methods)
    add_title(
        figure,
        study.augmented_title,
        "Last-epoch accuracy against the entropy H(c) of how often each image was used, a point "
        "per run, n seeds per method; dotted: log N, even use",
    )
    return figure


def plot_panel(axis: Axes, part: Study) -> None:
    for label, method, variant in part.methods:
        runs = part.runs[part.runs["method_label"] == label]
        style = line_style(method, variant) | {"linestyle": "none", "markersize": 3.5}
        axis.plot(runs["count_entropy"], runs["test_accuracy"], **style)
    for num_images in part.runs["num_images"].unique():
        axis.axvline(np.log(num_images), color="black", linestyle=":", linewidth=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))

"""Sampling entropy, which says how evenly images were used, against accuracy."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .by_budget import plot_by_budget
from .study import Study
from .style import line_style


def plot_entropy(study: Study) -> Figure:
    """A panel per budget with methods to compare, a point per run; of one setup and augmentation.

    The entropy H(c) of the images' sample counts c is in nats, after the last epoch; log N, even
    use of all N images, is dotted.
    """
    return plot_by_budget(
        study,
        plot_panel,
        "sampling entropy (nats)",
        "Last-epoch accuracy against the entropy H(c) of how often each image was used, a point "
        "per run, n seeds per method; dotted: log N, even use",
        most=4,
        row_height=1.9,
    )


def plot_panel(axis: Axes, part: Study) -> None:
    for label, method, variant in part.methods:
        runs = part.runs[part.runs["method_label"] == label]
        style = line_style(method, variant) | {"linestyle": "none", "markersize": 3.5}
        axis.plot(runs["count_entropy"], runs["test_accuracy"], **style)
    for num_images in part.runs["num_images"].unique():
        axis.axvline(np.log(num_images), color="black", linestyle=":", linewidth=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))

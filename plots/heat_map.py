"""Mean accuracy of every augmentation with every method, as coloured numbers."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from .estimates import seeds_text
from .study import Study
from .style import add_title, grid_shape, hide_unused, need_room, new_figure

DARK = 0.45  # of the colours' range: on what lies below, white is read better than black


def plot_heat_map(study: Study) -> Figure:
    """A panel per budget with methods to compare; rows are methods, columns augmentations."""
    study = study.compared()
    budgets, methods = study.budgets, study.methods
    rows, columns = grid_shape(len(budgets), 2)
    height, wide = 0.6 + 0.17 * len(methods), need_room(methods)
    figure, axes = new_figure(rows, columns, height, wide, sharex=True, sharey=True)
    panels = hide_unused(axes, len(budgets))
    for axis, budget in zip(panels, budgets):
        part = study.where("budget", budget)
        image = plot_panel(axis, part, study)
        figure.colorbar(image, ax=axis, pad=0.02, aspect=15).ax.grid(False)
        counts = part.runs.groupby(["method_label", "augmentation_label"]).size()
        bracketed = ", in brackets" if counts.nunique() > 1 else ""
        axis.set_title(f"budget {100 * budget:g}% ({seeds_text(counts)}{bracketed})")
    for axis in panels[-columns:]:
        axis.tick_params(labelbottom=True)
    add_title(
        figure,
        study.title,
        f"Last-epoch {study.accuracy} accuracy (%), mean over n seeds; every budget has its own "
        "colours; hatched: no finished run",
    )
    return figure


def plot_panel(axis: Axes, part: Study, study: Study) -> AxesImage:
    labels, augmentations = [label for label, *_ in study.methods], study.augmentations
    table = part.runs.pivot_table("test_accuracy", "method_label", "augmentation_label")
    means = table.reindex(index=labels, columns=augmentations).to_numpy()
    axis.patch.set(hatch="////", edgecolor="0.7", facecolor="white")
    image = axis.imshow(means, "cividis", aspect="auto")
    counts = part.runs.groupby(["method_label", "augmentation_label"]).size()
    for row, column in np.argwhere(~np.isnan(means)):
        text = f"{means[row, column]:.1f}"
        if counts.nunique() > 1:
            text += f" ({counts[labels[row], augmentations[column]]})"
        shade = float(np.asarray(image.norm(means[row, column])))
        colour = "white" if shade < DARK else "black"
        axis.text(column, row, text, color=colour, ha="center", va="center", fontsize=7)
    axis.set_xticks(range(len(augmentations)), augmentations)
    axis.set_yticks(range(len(labels)), labels)
    axis.grid(False)
    return image

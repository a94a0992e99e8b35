"""Figures of one setup and augmentation with a panel for each budget."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .estimates import seeds_text
from .study import Study
from .style import add_legend, add_title, grid_shape, hide_unused, new_figure


def plot_by_budget(
    study: Study,
    plot_panel: Callable[[Axes, Study], None],
    effort: str,
    explanation: str,
    *,
    most: int,
    row_height: float,
    wide: bool = False,
) -> Figure:
    """A panel per budget with methods to compare: last-epoch accuracy against something.

    Args:
        study: of one setup and augmentation.
        plot_panel: draws the part of a budget.
        effort: what accuracy is drawn against, for the axis.
        explanation: how to read it.
        most: panels side by side.
        row_height, wide: as for `new_figure`.
    """
    study = study.compared()
    budgets = study.budgets
    rows, columns = grid_shape(len(budgets), most)
    figure, axes = new_figure(rows, columns, row_height, wide=wide)
    panels = hide_unused(axes, len(budgets))
    for axis, budget in zip(panels, budgets):
        part = study.where("budget", budget)
        plot_panel(axis, part)
        counts = part.runs.groupby("method_label").size()
        axis.set_title(f"budget {100 * budget:g}%\n({seeds_text(counts)})")
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{study.accuracy} accuracy (%)")
    for axis in panels[-columns:]:
        axis.set_xlabel(effort)
    add_legend(figure, study.methods)
    add_title(figure, study.augmented_title, explanation)
    return figure

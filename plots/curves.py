"""Accuracy curves: a panel for each data set, augmentation and budget."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

# Okabe and Ito's colours, told apart by colour-blind readers; one method, one colour.
COLOURS = {
    "SGD": "#000000",
    "unif-SGD": "#0072B2",
    "p-SGD": "#E69F00",
    "c-SGD": "#009E73",
    "selective-backprop": "#CC79A7",
    "dro": "#D55E00",
}


def draw_curves(rows: pd.DataFrame, path: Path) -> None:
    """Draw test accuracy against epochs, the mean over seeds, of `read_runs`'s rows."""
    panels = list(rows.groupby(["dataset", "augmentation", "budget"]))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 2.8), sharey=True, squeeze=False
    )
    for axis, ((dataset, augmentation, budget), panel) in zip(axes[0], panels):
        for method, curves in panel.groupby("method", sort=False):
            mean = curves.groupby("epoch")["test_accuracy"].mean()
            axis.plot(mean.index, mean, label=method, color=COLOURS.get(method), linewidth=1.2)
        seeds = panel["seed"].nunique()
        axis.set_title(f"{dataset}, {augmentation}, budget {budget:g} (n = {seeds})", fontsize=8)
        axis.set_xlabel("budgeted epoch")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[0, -1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=200)
    plt.close(figure)

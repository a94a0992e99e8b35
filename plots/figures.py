"""All the figures of a study, each kind for each setup, as PNG and PDF."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from .budgets import plot_accuracy, plot_worst_class, plot_worst_group
from .curves import plot_curves
from .differences import plot_differences
from .entropy import plot_entropy
from .gap import Gap
from .heat_map import plot_heat_map
from .study import Study
from .style import save
from .total_time import plot_total_time

GROUPS = "worst-group"  # a figure of the setups whose images come in groups
TIME = "time"  # a figure of those with methods whose scores took a run
KINDS: dict[str, Callable[[Study], Figure]] = {
    "accuracy": plot_accuracy,
    "difference": plot_differences,
    "worst-class": plot_worst_class,
    GROUPS: plot_worst_group,
    "heat-map": plot_heat_map,
    "entropy": plot_entropy,
    "curves": plot_curves,
    TIME: plot_total_time,
}
# A file for each augmentation, so that panels stay large.
BY_AUGMENTATION = ("difference", "entropy", "curves", TIME)


def save_figures(study: Study, kind: str, folder: Path) -> tuple[list[Path], list[str]]:
    """Draw one kind of figure for every setup into FOLDER/SETUP_KIND.png and .pdf.

    Returns:
        The files without their endings; and a line on each figure that runs are lacking for.
    """
    stems, gaps = [], []
    for name, part in parts(study, kind):
        stem = folder / re.sub(r"[^A-Za-z0-9.+_-]+", "-", name)
        try:
            save(KINDS[kind](part), stem)
            stems.append(stem)
        except Gap as gap:
            gaps.append(f"{name}: no figure, {gap}")
    return stems, gaps


def parts(study: Study, kind: str) -> Iterator[tuple[str, Study]]:
    """Yield the content of each figure and its name: a setup, or one augmentation of it."""
    for setup, part in study.split("setup"):
        if kind == GROUPS and part.runs["worst_group_accuracy"].isna().all():
            continue
        if kind == TIME and not (part.runs["scoring_seconds"] > 0).any():
            continue
        if kind in BY_AUGMENTATION:
            for augmentation in part.augmentations:
                name = f"{setup}_{kind}_{augmentation}"
                yield name, part.where("augmentation_label", augmentation)
        else:
            yield f"{setup}_{kind}", part

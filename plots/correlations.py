"""Rank correlations of scores: which of them say the same of the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from engine.flags import Parser
from errors import UsageError, exit_status_of
from methods.scores import ScoreFile
from methods.scores.file import LOW_IS_HARD

from .style import add_title, new_figure, save


def main(arguments: Sequence[str]) -> int:
    """Draw the rank correlations of all scores in some files, as PNG, PDF and CSV."""
    parser = Parser(
        prog="python -m plots correlations", description=main.__doc__, allow_abbrev=False
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="of scores, .npz")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="STEM",
        help="to write, without the ending; default correlations beside the first FILE",
    )

    def work() -> int:
        options = parser.parse_args(arguments)
        scores = read_scores(options.files)
        table = rank_correlations(scores)
        stem = options.out or options.files[0].with_name("correlations")
        save(plot_correlations(table, len(scores)), stem)
        table.round(4).to_csv(f"{stem}.csv", index_label="score")
        print(f"{len(table)} scores: {stem}.png, .pdf and .csv")
        return 0

    return exit_status_of("python -m plots correlations", work)


def read_scores(paths: Sequence[Path]) -> pd.DataFrame:
    """All scores of some files of the same images, a column each, turned so that high is hard."""
    columns: dict[str, np.ndarray] = {}
    first: ScoreFile | None = None
    for path in paths:
        try:
            file = ScoreFile.read(path)
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from None
        first = first or file
        if (file.dataset, file.labels_sha256) != (first.dataset, first.labels_sha256):
            raise UsageError(f"{path}: of other images than {paths[0]}; give files of the same")
        for name, values in file.values.items():
            columns[name] = -values if name in LOW_IS_HARD else values
    return pd.DataFrame(columns)


def rank_correlations(scores: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of each two, over images that have both; like scores side by side."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    table = scores.corr("spearman")
    if len(table) < 3:
        return table
    distance = (1 - table).fillna(1).clip(lower=0).to_numpy(copy=True)
    np.fill_diagonal(distance, 0)
    order = leaves_list(linkage(squareform(distance, checks=False), "average"))
    return table.iloc[order, order]


def plot_correlations(table: pd.DataFrame, images: int) -> Figure:
    """The table as coloured numbers."""
    figure, ((axis,),) = new_figure(1, 1, 0.85 + 0.26 * len(table), wide=True)
    image = axis.imshow(table.to_numpy(), "RdBu_r", vmin=-1, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axis, pad=0.02, aspect=30).ax.grid(False)
    for row, column in np.ndindex(*table.shape):
        value = table.iloc[row, column]
        colour = "white" if abs(value) > 0.6 else "black"
        text = f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")
        axis.text(column, row, text, color=colour, ha="center", va="center", fontsize=6)
    axis.set_xticks(range(len(table)), list(table), rotation=90)
    axis.set_yticks(range(len(table)), list(table))
    axis.grid(False)
    add_title(
        figure,
        f"Rank correlations of scores of {images:,} images",
        "Spearman's; of aum and dual-mean with the sign turned, so that in all but moderate and "
        "k-center a hard image has a high score; like ones stand side by side",
    )
    return figure

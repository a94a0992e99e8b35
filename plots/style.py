"""One look for all figures: a method's colour, marker and line, text sizes, file formats."""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from methods import METHODS

from .gap import Gap

COLUMN, PAGE = 3.35, 6.75  # inches: widths of one column and of two
LABEL = 0.25  # inches: height of the label below the panels
INTERVAL = "mean and 95% confidence interval (Student's\N{NO-BREAK SPACE}t)"
matplotlib.rcParams.update(
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7.5,
        "figure.titlesize": 8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.3,
        "grid.linewidth": 0.5,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.1,
        "lines.markersize": 4,
        "errorbar.capsize": 1.5,
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "pdf.fonttype": 42,  # embedded TrueType: text stays text
        "savefig.dpi": 200,
    }
)


class Look(NamedTuple):
    """Look of one method in every figure."""

    colour: str
    marker: str
    line: str | tuple


# Okabe and Ito's colours, then seven far from these and each other for readers of normal sight and
# of each kind of colour blindness (Machado et al. 2009). Grey print has none: hence the markers.
LOOKS = {
    "SGD": Look("#000000", "o", "-"),
    "unif-SGD": Look("#0072B2", "s", "-"),
    "p-SGD": Look("#E69F00", "^", "--"),
    "c-SGD": Look("#009E73", "v", "--"),
    "selective-backprop": Look("#CC79A7", "D", "-."),
    "dro": Look("#D55E00", "X", "-"),
    "random-subset": Look("#66BBFF", "P", ":"),
    "coreset": Look("#772200", "<", ":"),
    "infobatch": Look("#88CC77", ">", "-."),
    "grad-norm": Look("#0000DD", "p", "--"),
    "rho-loss": Look("#8866FF", "*", "-."),
    "obftf": Look("#442255", "h", "--"),
    "cvar": Look("#000077", "d", "-"),
}
LONG = 20  # letters of a name, for which a column has no room beside a panel
MOST_METHODS = 24  # in a legend
ORDER = list(dict.fromkeys([*LOOKS, *METHODS]))  # of methods, in every figure and table
#: Colours of methods that have no look of their own; numbers are their markers.
OTHERS = ("#555555", "#999933", "#AA4499", "#117733")
LINES = ("-", "--", ":", "-.")  # of a method's variants, beginning with its own


def in_order(labels: pd.DataFrame) -> list[tuple[str, str, int]]:
    """The methods of some runs, in the order of every figure and table.

    Args:
        labels: with columns `method` and `method_label`, the latter telling variants apart.

    Returns:
        For each label: label, method, and which variant of the method it is, from 0.
    """
    order = ORDER
    known = labels[["method", "method_label"]].drop_duplicates()
    pairs = sorted(
        known.itertuples(index=False),
        key=lambda pair: (order.index(pair[0]) if pair[0] in order else len(order), *pair),
    )
    seen: dict[str, int] = {}
    ordered = []
    for method, label in pairs:
        seen[method] = seen.get(method, -1) + 1
        ordered.append((label, method, seen[method]))
    return ordered


def look_of(method: str) -> Look:
    """Return how a method looks: its own look, or one by its place in the registry or its name."""
    if method in LOOKS:
        return LOOKS[method]
    others = [name for name in METHODS if name not in LOOKS]
    if method in others:
        place = others.index(method) + 1
        return Look(OTHERS[place % len(OTHERS)], f"${place}$", ":")
    initial = method[0] if method[0].isalnum() else "x"  # of a user's own, the same in every figure
    return Look(OTHERS[zlib.crc32(method.encode()) % len(OTHERS)], f"${initial}$", ":")


def line_style(method: str, variant: int) -> dict:
    """Keywords of `plot` and `errorbar` for a method; its variants are lighter, in other lines.

    From the fifth on, colours and lines begin anew and markers are numbers.
    """
    look = look_of(method)
    colour = 1 - (1 - np.array(to_rgb(look.colour))) * 0.8 ** (variant % len(LINES))
    line = LINES[(LINES.index(look.line) + variant) % len(LINES)] if variant else look.line
    return dict(
        color=tuple(colour),
        marker=look.marker if variant < len(LINES) else f"${variant}$",
        linestyle=line,
        fillstyle="none" if variant % 2 else "full",
        markeredgewidth=0.7,
    )


def new_figure(
    rows: int, columns: int, row_height: float, wide: bool = False, **sharing: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of panels, as wide as a column if it has one column of them, else as a page.

    Args:
        row_height: in inches, of each row of panels with its titles and tick labels.
        wide: whether it is as wide as a page in any case.
        sharing: `sharex` and `sharey` of `Figure.subplots`.

    Returns:
        The figure, and its axes [rows, columns].
    """
    width = PAGE if wide or columns > 1 else COLUMN
    figure = Figure(figsize=(width, rows * row_height + LABEL), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing)


def need_room(methods: Iterable[tuple[str, str, int]]) -> bool:
    """Whether names of methods are too long to stand beside a panel in the width of a column."""
    return max((len(label) for label, *_ in methods), default=0) > LONG


def grid_shape(panels: int, most: int) -> tuple[int, int]:
    """Rows and columns for some panels, at most so many side by side, with few places unused."""
    rows = -(-panels // most)
    return rows, -(-panels // rows)


def add_legend(figure: Figure, methods: Iterable[tuple[str, str, int]]) -> None:
    """Name the methods below the panels; the figure grows by the legend's height.

    Raises:
        Gap: for more methods than eyes can tell apart.
    """
    methods = list(methods)
    if len(methods) > MOST_METHODS:
        raise Gap(
            f"{len(methods)} methods are more than can be told apart by colours and markers; "
            "figures of kinds difference and heat-map have a line for each"
        )
    longest = max(len(label) for label, *_ in methods)
    width, height = figure.get_size_inches()
    columns = max(1, min(len(methods), int((width - 0.1) / (0.5 + 0.057 * longest))))
    rows = -(-len(methods) // columns)
    handles = [
        Line2D([], [], label=label, **line_style(method, variant))
        for label, method, variant in methods
    ]
    figure.set_size_inches(width, height + 0.15 * rows + 0.1)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.2)


def add_title(figure: Figure, title: str, explanation: str) -> None:
    """Say above the panels what runs these are and how to read them; the figure grows by that."""
    width, height = figure.get_size_inches()
    lines = [
        line
        for text in (title, explanation)
        for line in textwrap.wrap(text, int(width * 17), break_on_hyphens=False)
    ]
    figure.set_size_inches(width, height + 0.14 * len(lines))
    figure.suptitle("\n".join(lines))


def hide_unused(axes: np.ndarray, used: int) -> list[Axes]:
    """The first `used` of the axes; the others leave their room empty."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
    return list(axes.flat[:used])


def save(figure: Figure, stem: Path) -> None:
    """Write STEM.png and STEM.pdf, the same bytes every time."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(f"{stem}.png")
    figure.set_layout_engine("none")  # it stays as laid out
    figure.savefig(f"{stem}.pdf", metadata={"CreationDate": None})

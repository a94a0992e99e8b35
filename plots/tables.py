"""Tables of accuracy in Markdown and LaTeX; the best is bold only where that is significant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pandas as pd

from engine.budget import TRAINING_COST

from .estimates import LEAST_PAIRS, LEVEL, estimate, is_higher, seeds_text
from .study import Study

RULE = (
    "Bold: the best of its augmentation and budget, where it is better than every other method by "
    f"a paired t-test over common seeds (two-sided, {LEVEL:.0%} level, {LEAST_PAIRS} or more)."
)
EMPTY = "\N{EN DASH}"  # where there is no finished run
LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", EMPTY: "--"} | {c: f"\\{c}" for c in "&%$#_{}"}


def is_best(cell: pd.DataFrame, label: str) -> bool:
    """Decide whether one method beats every other one of a cell's, significantly.

    Nothing is corrected for: all the tests have to reject, so chance has to strike in each.

    Args:
        cell: runs of one setup, augmentation and budget.
    """
    accuracy = cell.pivot(index="seed", columns="method_label", values="test_accuracy")
    others = [name for name in accuracy if name != label]
    return bool(others) and all(
        is_higher(estimate((accuracy[label] - accuracy[other]).dropna())) for other in others
    )


def cell_texts(part: Study) -> dict[tuple[str, str, float], tuple[str, bool]]:
    """Cells of one setup: (method, augmentation, budget) -> its text, and whether it is in bold."""
    texts = {}
    counts = part.runs.groupby(["method_label", "augmentation_label", "budget"]).size()
    usual = counts.mode()[0]
    for (augmentation, budget), cell in part.runs.groupby(["augmentation_label", "budget"]):
        for label, runs in cell.groupby("method_label"):
            numbers = estimate(runs["test_accuracy"])
            text = f"{numbers.mean:.2f}"
            if numbers.n > 1:
                text += f" ± {numbers.sd:.2f}"
            if numbers.n != usual:
                text += f" (n = {numbers.n})"
            texts[label, augmentation, budget] = text, is_best(cell, label)
    return texts


def compute(runs: pd.DataFrame) -> pd.Series:
    """Cost of each run, in epochs of plain training on all images."""
    cost = runs["images_scored"] + TRAINING_COST * runs["images_trained"]
    return cost / (TRAINING_COST * runs["num_images"])


def scoring_run(runs: pd.DataFrame) -> str:
    """Compute of the runs behind a score file, in the same unit; a dash for none or unknown."""
    epochs = (runs["scoring_cost"] / (TRAINING_COST * runs["num_images"])).mean()
    return f"{epochs:.2f}" if epochs > 0 else EMPTY


def realised(runs: pd.DataFrame) -> str:
    """The fraction of images kept, or of steps scored, of methods that count it."""
    fraction = runs["realised_fraction"].mean()
    return "" if pd.isna(fraction) else f"{fraction:.2f}"


#: Column -> its text for the runs of one cell.
COSTS: dict[str, Callable[[pd.DataFrame], str]] = {
    "images trained": lambda runs: f"{runs['images_trained'].mean():,.0f}",
    "images scored": lambda runs: f"{runs['images_scored'].mean():,.0f}",
    "compute": lambda runs: f"{compute(runs).mean():.2f}",
    "scoring run": scoring_run,
    "realised": realised,
    "seconds": lambda runs: f"{runs['seconds'].mean():.0f}",
    "scoring seconds": lambda runs: in_seconds(runs["scoring_seconds"].mean()),
    "choosing seconds": lambda runs: in_seconds(runs["selection_seconds"].mean()),
}
EXPLAINED = {
    "scoring seconds": "those of the runs behind a score file",
    "choosing seconds": "those of choosing a core-set by it",
}
#: Shown where any run of the setup has them.
OF_CORE_SETS = {"scoring seconds": "scoring_seconds", "choosing seconds": "selection_seconds"}


def in_seconds(mean: float) -> str:
    return f"{mean:.1f}" if mean > 0 else ""


def costs_of(part: Study) -> dict[str, Callable[[pd.DataFrame], str]]:
    """Return the columns of one setup's costs."""
    absent = {name for name, column in OF_CORE_SETS.items() if not (part.runs[column] > 0).any()}
    return {name: show for name, show in COSTS.items() if name not in absent}


def caption(part: Study) -> str:
    counts = part.runs.groupby(["method_label", "augmentation_label", "budget"]).size()
    usual = int(counts.mode()[0])
    shown = "mean ± standard deviation over seeds" if counts.max() > 1 else "no spread is known"
    unless = "" if counts.nunique() == 1 else " unless another n is given"
    return (
        f"{part.title}: {part.accuracy} accuracy in percent after the last epoch, {shown}, "
        f"{seeds_text([usual])}{unless}; columns are budgets. {RULE}"
    )


def rows_of(part: Study, bold: Callable[[str], str]) -> list[list[str]]:
    """The table's rows: augmentation, method, and a text for each budget."""
    texts = cell_texts(part)
    rows = []
    for augmentation in part.augmentations:
        for label, *_ in part.methods:
            row = [augmentation, label]
            for budget in part.budgets:
                text, best = texts.get((label, augmentation, budget), (EMPTY, False))
                row.append(bold(text) if best else text)
            if set(row[2:]) != {EMPTY}:
                rows.append(row)
    return rows


def headings(part: Study) -> list[str]:
    return ["augmentation", "method", *(f"{100 * budget:g}%" for budget in part.budgets)]


def markdown(study: Study) -> str:
    """A table of accuracies per setup."""
    tables = []
    for _, part in study.split("setup"):
        rows = [headings(part), *rows_of(part, lambda text: f"**{text}**")]
        tables.append(f"{caption(part)}\n\n{markdown_table(rows)}")
    return "\n".join(tables)


def markdown_costs(study: Study) -> str:
    """A table per setup of what each accuracy cost."""
    tables = []
    for _, part in study.split("setup"):
        costs = costs_of(part)
        rows = [["augmentation", "method", "budget", f"{part.accuracy} accuracy", *costs]]
        texts = cell_texts(part)
        for augmentation, budget in product(part.augmentations, part.budgets):
            for label, *_ in part.methods:
                if (label, augmentation, budget) in texts:
                    accuracy, _ = texts[label, augmentation, budget]
                    cell = part.where("augmentation_label", augmentation).where("budget", budget)
                    numbers = cell.where("method_label", label).runs
                    row = [augmentation, label, f"{100 * budget:g}%", accuracy]
                    rows.append([*row, *(show(numbers) for show in costs.values())])
        shown = [f"{name} {text}" for name, text in EXPLAINED.items() if name in costs]
        more = f"; {', '.join(shown)}" if shown else ""
        tables.append(
            f"{part.title}: what each accuracy cost, as means over seeds. Compute is the number of "
            "epochs of plain training that cost as much, where an image trained on costs "
            f"{TRAINING_COST} and one that is only scored 1; scoring run is what the runs behind a "
            "score file cost, in the same unit, where that is known. Realised is the fraction of "
            "images that passes kept, or of steps that scored, of methods that decide it as they "
            f"go. Seconds are of selection, data and training{more}.\n\n{markdown_table(rows)}"
        )
    return "\n".join(tables)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under the first of them, aligned so that they read well as plain text too."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [markdown_line(row, widths) for row in rows]
    rule = [f"{'-' * width}{'-' if i < 2 else ':'}" for i, width in enumerate(widths)]
    lines.insert(1, f"|-{'|-'.join(rule)}|")
    return "\n".join(lines) + "\n"


def markdown_line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        text.ljust(width) if i < 2 else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths))
    ]
    return f"| {' | '.join(padded)} |"


def latex(study: Study) -> str:
    r"""A table environment per setup, for \input; needs \usepackage{booktabs}."""
    tables = ["% needs \\usepackage{booktabs}\n"]
    for name, part in study.split("setup"):
        rows = [[escape(text) for text in headings(part)]]
        rows += [[mark_bold(escape(text)) for text in row] for row in rows_of(part, "\a{}".format)]
        lines = [f"{' & '.join(row)} \\\\" for row in rows]
        starts = [i for i in range(2, len(rows)) if rows[i][0] != rows[i - 1][0]]
        for i in reversed([1, *starts]):
            lines.insert(i, r"\midrule")
        tables.append(
            "\\begin{table}\n\\centering\n"
            f"\\caption{{{escape(caption(part))}}}\n\\label{{tab:{name}}}\n"
            f"\\begin{{tabular}}{{ll{'r' * len(part.budgets)}}}\n\\toprule\n"
            + "\n".join(lines)
            + "\n\\bottomrule\n\\end{tabular}\n\\end{table}\n"
        )
    return "\n".join(tables)


def escape(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def mark_bold(text: str) -> str:
    return rf"\textbf{{{text[1:]}}}" if text.startswith("\a") else text

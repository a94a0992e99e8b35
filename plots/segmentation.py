"""The table, figure and claims of the study of segmentation, from the Dice of every case.

python -m plots.segmentation [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from engine.flags import Parser
from errors import UsageError, exit_status_of

from .estimates import LEVEL
from .evidence import CONTRADICTED, SUPPORTED, TOO_FEW, UNDECIDED
from .style import add_title, new_figure, save
from .tables import markdown_table

FILE = "dice.csv"
COLUMNS = ["study", "trainer", "fold", "case", "image", "label", "dice"]
REFERENCE = "default"  # nnU-Net's own trainer
RESAMPLES, SEED = 10_000, 0
LEAST_CASES = 20  # to speak of percentiles
COLOURS = ("#000000", "#66BBFF", "#0072B2", "#D55E00", "#E69F00")
DESCRIPTION = (
    f"Print the table and the claims of the study in FOLDER, which holds {FILE}, and write "
    "summary.csv and figures/."
)


def iqr(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, [25, 75], axis=-1)
    return high - low


#: Statistics of the Dice of cases, along the last axis.
STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda values: values.mean(-1),
    "median": lambda values: np.median(values, axis=-1),
    "p5": lambda values: np.percentile(values, 5, axis=-1),
    "p10": lambda values: np.percentile(values, 10, axis=-1),
    "IQR": iqr,
    "worst": lambda values: values.min(-1),
}


def read(folder: Path) -> pd.DataFrame:
    """Dice in percent of each case and label, and of each case over labels (label `all`)."""
    try:
        table = pd.read_csv(folder / FILE)
    except OSError as error:
        raise UsageError(
            f"{folder / FILE}: {error.strerror}; python -m segmentation.study makes it"
        ) from None
    missing = [name for name in COLUMNS if name not in table]
    if missing or table.empty:
        raise UsageError(f"{folder / FILE}: no column {', '.join(missing) or 'with a row'}")
    if REFERENCE not in set(table["trainer"]):
        raise UsageError(f"{folder / FILE}: no cases of the trainer {REFERENCE}; make its runs too")
    table["dice"] *= 100
    place = ["study", "trainer", "fold", "case", "image"]
    whole = table.groupby(place, sort=False, as_index=False)["dice"].mean()
    return pd.concat([table, whole.assign(label="all")], ignore_index=True)


def groups(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Cases in rows and trainers in columns, for each study, kind of image and label.

    Only cases that the reference has segmented too: they are compared pair by pair.
    """
    for key, part in table.groupby(["study", "image", "label"], sort=False):
        wide = part.pivot(index=["fold", "case"], columns="trainer", values="dice")
        if REFERENCE in wide:
            order = [name for name in table["trainer"].unique() if name in wide]
            yield key, wide[order].dropna(subset=REFERENCE)


def difference(ours: np.ndarray, theirs: np.ndarray, statistic: str) -> dict[str, float]:
    """A statistic of ours minus that of theirs; 95% interval and p by bootstrap over pairs."""
    rng = np.random.default_rng(SEED)
    rows = rng.integers(len(ours), size=(RESAMPLES, len(ours)))
    compute = STATISTICS[statistic]
    drawn = compute(ours[rows]) - compute(theirs[rows])
    low, high = np.percentile(drawn, [2.5, 97.5])
    p = 2 * min(1 + (drawn <= 0).sum(), 1 + (drawn >= 0).sum()) / (1 + RESAMPLES)
    gain = compute(ours) - compute(theirs)
    return {"gain": float(gain), "low": float(low), "high": float(high), "p": min(1.0, float(p))}


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """A row per study, kind of image, label and trainer."""
    rows = []
    for (study, image, label), wide in groups(table):
        for trainer in wide:
            both = wide[wide[trainer].notna()]
            ours, theirs = both[trainer].to_numpy(), both[REFERENCE].to_numpy()
            row = {"study": study, "image": image, "label": label, "trainer": trainer}
            row |= {"n": len(ours)}
            row |= {name: float(of(ours)) for name, of in STATISTICS.items()}
            if trainer != REFERENCE:
                for name in STATISTICS:
                    found = difference(ours, theirs, name)
                    row |= {f"{name}_{number}": value for number, value in found.items()}
                unequal = not np.array_equal(ours, theirs)
                row["wilcoxon_p"] = stats.wilcoxon(ours, theirs).pvalue if unequal else 1.0
                changes = (both[trainer] - both[REFERENCE]).groupby(level="fold").mean()
                row["mean_gain_by_fold"] = " ".join(f"{change:+.2f}" for change in changes)
            rows.append(row)
    return pd.DataFrame(rows)


def markdown(summary: pd.DataFrame) -> str:
    """A table for each study and kind of image: each trainer, over labels."""
    texts = []
    whole = summary[summary["label"] == "all"]
    for (study, image), part in whole.groupby(["study", "image"], sort=False):
        head = ["trainer", "n", *STATISTICS, "mean gain (95% CI)", "p5 gain (95% CI)", "p"]
        head.append("mean gain by fold")
        rows = [head]
        for _, row in part.iterrows():
            cells = [row["trainer"], str(row["n"]), *(f"{row[name]:.2f}" for name in STATISTICS)]
            for name in ("mean", "p5"):
                gain, low, high = (row.get(f"{name}_{end}") for end in ("gain", "low", "high"))
                interval = f" ({low:+.2f} to {high:+.2f})" if row["n"] >= LEAST_CASES else ""
                cells.append("" if pd.isna(gain) else f"{gain:+.2f}{interval}")
            p, by_fold = row.get("wilcoxon_p"), row.get("mean_gain_by_fold")
            cells.append("" if pd.isna(p) else f"{p:.2g}")
            rows.append([*cells, "" if pd.isna(by_fold) else by_fold])
        texts.append(
            f"Training cases {study}; {image} images. Dice in percent, mean over labels. Intervals "
            "(bootstrap) and p (Wilcoxon) are over cases; how far one training of a fold is from "
            "another is not in them, the last column gives an idea of it.\n\n"
        )
        texts.append(markdown_table(rows) + "\n")
    return "".join(texts)


def claims(summary: pd.DataFrame) -> str:
    """The claims of Fidon et al. 2022 on segmentation, each with its verdict."""
    wanted = [
        ("p5", 1, "a better 5th percentile of the cases' Dice"),
        ("p10", 1, "a better 10th percentile of the cases' Dice"),
        ("IQR", -1, "a smaller interquartile range of the cases' Dice"),
    ]
    whole = summary[(summary["label"] == "all") & (summary["trainer"] != REFERENCE)]
    lines = []
    level = LEVEL / max(1, len(whole))  # because any of these rows may be picked
    for name, sign, text in wanted:
        lines.append(
            f"Hardness weighted sampling has {text} than nnU-Net's own (Fidon et al. 2022)"
        )
        for _, row in whole.iterrows():
            gain, low, high, p = (row[f"{name}_{end}"] for end in ("gain", "low", "high", "p"))
            verdict = UNDECIDED
            if row["n"] < LEAST_CASES:
                verdict = TOO_FEW
            elif p < level:
                verdict = SUPPORTED if sign * gain > 0 else CONTRADICTED
            numbers = f" (95% CI {low:+.2f} to {high:+.2f}, p = {p:.2g}, n = {row['n']} cases)"
            lines.append(
                f"  {row['study']}, {row['image']} images, {row['trainer']}: {verdict}: "
                f"{gain:+.2f}{numbers if row['n'] >= LEAST_CASES else ''}"
            )
    lines.append(
        f"Verdicts by bootstrap over pairs of cases at p < {level:.2g} ({LEVEL:g} / {len(whole)} "
        f"comparisons), of {LEAST_CASES} cases or more."
    )
    return "\n".join(lines)


def plot(table: pd.DataFrame) -> Figure:
    """A row per study and kind of image: the cases' Dice in order, and the paired differences."""
    parts = [(key, wide) for key, wide in groups(table) if key[2] == "all"]
    figure, axes = new_figure(len(parts), 2, 2.2)
    colours = dict(zip(table["trainer"].unique(), cycle(COLOURS)))
    for (left, right), ((study, image, _), wide) in zip(axes, parts):
        names = [name for name in wide if name != REFERENCE]
        for name in wide:
            dice = np.sort(wide[name].dropna())
            left.plot(np.linspace(0, 100, len(dice)), dice, color=colours[name], label=name)
        left.set_title(f"training cases {study}; {image} images")
        left.set_xlabel("cases, worst first (%)")
        left.set_ylabel("Dice (%)")
        left.legend(fontsize=6, loc="lower right")
        changes = [(wide[name] - wide[REFERENCE]).dropna() for name in names]
        right.axhline(0, color="black", linewidth=0.7)
        if names:
            boxes = right.boxplot(changes, tick_labels=names, whis=(5, 95), sym=".", widths=0.5)
            for line, name in zip(boxes["medians"], names):
                line.set_color(colours[name])
        counts = sorted({len(change) for change in changes}) or [len(wide)]
        n = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        right.set_title(f"each case against {REFERENCE} (n = {n})")
        right.set_ylabel("change of Dice (points)")
        right.tick_params(axis="x", labelrotation=15)
    add_title(
        figure,
        "Hippocampus, nnU-Net 3d_fullres",
        "validation cases of the folds, mean over labels; boxes: quartiles, whiskers: 5 to 95%",
    )
    return figure


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m plots.segmentation", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/hippocampus"))

    def work() -> int:
        folder = parser.parse_args(arguments).folder
        table = read(folder)
        summary = summarise(table)
        summary.round(4).to_csv(folder / "summary.csv", index=False)
        save(plot(table), folder / "figures" / "dice")
        print(markdown(summary))
        print(claims(summary))
        return 0

    return exit_status_of("python -m plots.segmentation", work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

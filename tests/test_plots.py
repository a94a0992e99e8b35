"""Tables, figures, claims and the notebook, on results whose numbers are known beforehand."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Completed
from scipy import stats
from synthetic_results import IMAGES, VERSIONS, write_run

from methods import METHODS
from plots import __main__ as command
from plots import claims
from plots.budgets import plot_accuracy
from plots.claim_tests import Case, above
from plots.claims import CLAIMS, GROUPED, Claim, check
from plots.curves import plot_curves
from plots.estimates import estimate, without_pairing
from plots.evidence import Pooled, judge
from plots.figures import BY_AUGMENTATION, GROUPS, KINDS, TIME, save_figures
from plots.study import Study, read_study, summarise, summarise_differences
from plots.style import LOOKS, look_of
from plots.tables import is_best, latex, markdown, markdown_costs

TO_COME = ("random-subset", "coreset", "infobatch", "grad-norm", "rho-loss", "obftf", "cvar")
EFFECTS = {"SGD": 0.1, "unif-SGD": 0.0, "p-SGD": -0.3, "dro": -1.0}
AUGMENTATIONS, BUDGETS, SEEDS = ("standard", "ricap"), (0.2, 0.3), (1, 2, 3)


def write_grid(
    root: Path,
    effects: dict[str, float],
    augmentations: Iterable[str] = AUGMENTATIONS,
    budgets: Iterable[float] = BUDGETS,
    seeds: Iterable[int] = SEEDS,
    noise: float = 0.1,
    boost: float = 1.0,
    settings: dict | None = None,
    **curve: float,
) -> dict[tuple[str, str, float, int], float]:
    """A run in every cell, 90 + effect + 5 * budget + boost for all augmentations but standard.

    Returns:
        The last epoch's accuracy in percent, by method, augmentation, budget and seed.
    """
    draws = np.random.default_rng(0)
    accuracies = {}
    for cell in product(effects, augmentations, budgets, seeds):
        method, augmentation, budget, seed = cell
        accuracy = 90 + effects[method] + 5 * budget + boost * (augmentation != "standard")
        accuracies[cell] = accuracy + seed / 10 + noise * draws.standard_normal()
        own = dict(method=method, augmentation=augmentation, budget=budget, seed=seed)
        name = "_".join(map(str, cell))
        write_run(root / name, accuracies[cell], own | (settings or {}), **curve)
    return accuracies


def run(main: Callable, results: Path, capsys: pytest.CaptureFixture) -> Completed:
    capsys.readouterr()
    status = main([str(results)])
    return Completed([], status, *capsys.readouterr())


def one_line_error(outcome: Completed, *fragments: str) -> None:
    assert outcome.returncode == 2, outcome
    line = outcome.stderr.splitlines()[-1]
    assert line.startswith("python -m plots: ")
    for fragment in fragments:
        assert fragment in line


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    results = tmp_path_factory.mktemp("grid")
    accuracies = write_grid(results, EFFECTS)
    shutil.rmtree(results / "dro_ricap_0.2_3")
    del accuracies["dro", "ricap", 0.2, 3]
    return results, accuracies


@pytest.fixture(scope="module")
def made(grid: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m plots` makes of the grid."""
    results = tmp_path_factory.mktemp("made") / "results"
    shutil.copytree(grid[0], results)
    assert command.main([str(results)]) == 0
    return results


# Numbers


def test_summary_has_the_mean_the_spread_and_the_interval_of_every_cell(grid, made):
    summary = pd.read_csv(made / "summary.csv")
    _, accuracies = grid
    assert len(summary) == len({cell[:3] for cell in accuracies})
    for row in summary.itertuples():
        cell = row.method, row.augmentation, row.budget
        values = [accuracies[found] for found in accuracies if found[:3] == cell]
        assert row.n == len(values) == len(row.seeds.split())
        assert row.test_accuracy_mean == pytest.approx(np.mean(values))
        assert row.test_accuracy_sd == pytest.approx(np.std(values, ddof=1))
        low, high = stats.t.interval(0.95, row.n - 1, np.mean(values), stats.sem(values))
        assert (row.test_accuracy_low, row.test_accuracy_high) == pytest.approx((low, high))
        assert row.worst_class_accuracy_mean == pytest.approx(np.mean(values) - 10)
        assert row.class_accuracy_p5_mean == pytest.approx(np.mean(values) - 8)
        curve = pd.read_csv(made / f"{'_'.join(map(str, cell))}_1" / "curve.csv").iloc[-1]
        for name in ("images_scored", "images_trained", "count_entropy"):
            assert getattr(row, name) == pytest.approx(curve[name])
        seconds = curve["select_seconds"] + curve["data_seconds"] + curve["train_seconds"]
        assert row.seconds == pytest.approx(seconds)


def test_the_last_epoch_counts_not_the_best(tmp_path):
    path = write_run(tmp_path / "run", 80) / "curve.csv"
    curve = pd.read_csv(path)
    curve.loc[1, "test_accuracy"] = 99
    curve.to_csv(path, index=False)
    assert summarise(read_study(tmp_path))["test_accuracy_mean"].tolist() == [80]


def test_one_seed_has_no_interval_and_the_figure_says_so(tmp_path):
    write_run(tmp_path / "run", 80)
    study = read_study(tmp_path)
    row = summarise(study).iloc[0]
    assert row["n"] == 1
    assert row[["test_accuracy_sd", "test_accuracy_low", "test_accuracy_high"]].isna().all()
    figure = plot_accuracy(study)
    assert "no interval" in figure.get_suptitle().replace("\n", " ")
    assert "n = 1" in figure.axes[0].get_title()
    assert "no spread is known" in markdown(study)


def test_differences_are_paired_by_seed(grid, made):
    _, accuracies = grid
    differences = pd.read_csv(made / "differences.csv")
    assert set(differences["method_label"]) == {"SGD", "p-SGD", "dro"}
    for row in differences.itertuples():
        cell = row.method_label, row.augmentation_label, row.budget
        seeds = [found[3] for found in accuracies if found[:3] == cell]
        ours = [accuracies[*cell, seed] for seed in seeds]
        theirs = [accuracies["unif-SGD", *cell[1:], seed] for seed in seeds]
        outcome = stats.ttest_rel(ours, theirs)
        assert row.n == len(seeds)
        assert row.mean == pytest.approx(np.mean(ours) - np.mean(theirs))
        assert row.p == pytest.approx(outcome.pvalue) if row.n > 2 else math.isnan(row.p)
        assert (row.low, row.high) == pytest.approx(tuple(outcome.confidence_interval()))


def test_differences_tell_the_correlation_and_welchs_test(grid, made):
    _, accuracies = grid
    for row in pd.read_csv(made / "differences.csv").itertuples():
        cell = row.method_label, row.augmentation_label, row.budget
        seeds = [found[3] for found in accuracies if found[:3] == cell]
        ours = [accuracies[*cell, seed] for seed in seeds]
        theirs = [accuracies["unif-SGD", *cell[1:], seed] for seed in seeds]
        if len(seeds) < 3:  # of two seeds any correlation is 1 or -1
            assert math.isnan(row.correlation)
            assert math.isnan(row.welch_p)
            continue
        outcome = stats.ttest_ind(ours, theirs, equal_var=False)
        assert row.correlation == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
        assert row.welch_p == pytest.approx(outcome.pvalue)
        interval = tuple(outcome.confidence_interval())
        assert (row.welch_low, row.welch_high) == pytest.approx(interval)


@pytest.mark.parametrize("sign", [1, -1])
def test_where_seeds_correlate_negatively_welchs_test_is_shown_and_decides_nothing(
    tmp_path, capsys, sign
):
    for seed, wobble in enumerate((-0.5, 0.1, 0.4), 1):
        for method, value in (("unif-SGD", 80 + wobble), ("p-SGD", 81.3 + sign * wobble)):
            own = dict(method=method, budget=0.2, seed=seed)
            write_run(tmp_path / f"{method}{seed}", value, own)
    study = read_study(tmp_path)
    row = summarise_differences(study).iloc[0]
    assert row["correlation"] == pytest.approx(sign)
    text = run(claims.main, tmp_path, capsys).stdout
    assert f"correlation over seeds {sign:+.2f}" in text
    assert ("Welch's test: " in text) is (sign < 0)
    part = study.where("augmentation_label", "standard")
    title = KINDS["difference"](part).get_suptitle().replace("\n", " ")
    assert ("1 of 1 the accuracies of a seed correlate negatively" in title) is (sign < 0)
    if sign < 0:
        assert row["welch_p"] < 0.05 < row["p"]
        assert verdict_on("no_consistent_advantage", tmp_path) == "undecided"


def test_a_table_without_differences_has_its_columns(grid, tmp_path):
    write_run(tmp_path / "run", 80)
    empty = summarise_differences(read_study(tmp_path))
    assert len(empty) == 0
    assert list(empty) == list(summarise_differences(read_study(grid[0])))


def test_seeds_without_a_counterpart_have_no_part_in_a_difference(tmp_path):
    for method, seeds in (("unif-SGD", (1, 2)), ("dro", (2, 3))):
        for seed in seeds:
            write_run(tmp_path / f"{method}{seed}", 80 + seed, dict(method=method, seed=seed))
    row = summarise_differences(read_study(tmp_path)).iloc[0]
    assert (row["n"], row["mean"]) == (1, pytest.approx(0))
    assert math.isnan(row["low"])


# Tables


def write_accuracies(root: Path, table: dict[str, list[float]]) -> pd.DataFrame:
    for method, accuracies in table.items():
        for seed, accuracy in enumerate(accuracies, 1):
            write_run(root / f"{method}{seed}", accuracy, dict(method=method, seed=seed))
    return read_study(root).runs


@pytest.mark.parametrize(
    "table, bold",
    [
        # Far apart, whatever the seeds have in common.
        ({"SGD": [90, 90.1, 90.2], "unif-SGD": [92.1, 92, 92.2]}, True),
        # Only pairing shows it: seeds differ by more than methods do.
        ({"SGD": [80, 85, 90], "unif-SGD": [80.5, 85.6, 90.4]}, True),
        ({"SGD": [90, 91, 92], "unif-SGD": [91.5, 90.9, 92.3]}, False),
        # Better than one of them for sure, but not than the other.
        (
            {"SGD": [80, 80.1, 80.2], "p-SGD": [91, 90, 93], "unif-SGD": [91.5, 90.9, 92.9]},
            False,
        ),
        # Two seeds that agree show no spread, by accident.
        ({"SGD": [90, 91], "unif-SGD": [92, 93]}, False),
        ({"unif-SGD": [92, 92.1, 92.2]}, False),
    ],
)
def test_the_best_is_bold_only_where_that_is_significant(tmp_path, table, bold):
    runs = write_accuracies(tmp_path, table)
    assert is_best(runs, "unif-SGD") is bold
    study = read_study(tmp_path)
    assert markdown(study).count("**") == 2 * bold
    assert latex(study).count(r"\textbf") == bold
    assert "paired t-test" in latex(study)
    assert r"5\% level" in latex(study)


def test_tables_leave_gaps_where_runs_are_missing(tmp_path):
    write_run(tmp_path / "a", 80, dict(method="SGD", budget=0.2))
    write_run(tmp_path / "b", 82, dict(method="p-SGD", budget=0.5))
    study = read_study(tmp_path)
    assert re.search(r"SGD +\| 80.00 \| +\N{EN DASH} \|", markdown(study))
    assert r"standard & SGD & 80.00 & -- \\" in latex(study)
    assert any("2 of 4 cells" in note for note in study.notes)


def test_costs_are_counted_in_epochs_of_plain_training(tmp_path):
    for seed in (1, 2):
        own = dict(method="selective-backprop", budget=0.5, epochs=10, seed=seed)
        write_run(tmp_path / f"run{seed}", 80, own, scored=3, seconds=2 * seed)
    text = markdown_costs(read_study(tmp_path))
    row = next(line for line in text.splitlines() if "| selective-backprop |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    trained, scored = 0.5 * 10 * IMAGES, 3 * 0.5 * 10 * IMAGES
    seconds = 10 * (0.1 + 0.2 + 0.5 * 2.2 * 3)
    assert cells[:4] == ["standard", "selective-backprop", "50%", "80.00 ± 0.00"]
    unknown = ["\N{EN DASH}", ""]
    assert cells[4:] == [f"{trained:,.0f}", f"{scored:,.0f}", "10.00", *unknown, f"{seconds:.0f}"]


def test_costs_tell_the_scoring_run_and_what_a_method_really_did(tmp_path):
    summary = {"realised_fraction": 0.25}
    write_run(
        tmp_path / "infobatch", 80, dict(method="infobatch"), facts=dict(method_summary=summary)
    )
    facts = {"scoring_cost": 3.0 * IMAGES * 8}
    write_run(tmp_path / "coreset", 80, dict(method="coreset"), facts=facts)
    write_run(tmp_path / "rho-loss", 80, dict(method="rho-loss"))
    write_run(tmp_path / "SGD", 80, facts={"scoring_cost": 0})
    lines = markdown_costs(read_study(tmp_path)).splitlines()
    table = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| ")]
    places = [table[0].index(name) for name in ("method", "scoring run", "realised")]
    assert {tuple(row[place] for place in places) for row in table[1:]} == {
        ("SGD", "\N{EN DASH}", ""),
        ("infobatch", "\N{EN DASH}", "0.25"),
        ("coreset", "8.00", ""),
        ("rho-loss", "\N{EN DASH}", ""),
    }


def test_all_tables_are_written(made):
    study = read_study(made)
    for name, write in (
        ("tables.md", markdown),
        ("tables.tex", latex),
        ("costs.md", markdown_costs),
    ):
        assert (made / name).read_text() == write(study)


def test_time_of_core_sets_is_told_and_drawn(tmp_path):
    """Scoring took a run of 400 s, choosing 3 s; the run itself as long as that of the others."""
    for seed in (1, 2):
        facts = {"scoring_seconds": 400.0, "method_summary": {"selection_seconds": 3.0}}
        own = dict(method="coreset", seed=seed)
        write_run(tmp_path / f"coreset{seed}", 70, own, facts=facts)
        facts = {"scoring_seconds": 0.0}
        write_run(tmp_path / f"unif{seed}", 72, dict(method="unif-SGD", seed=seed), facts=facts)
        facts = {"files_sha256": {"rho_file": "a" * 64}}
        options = {"rho_file": "old.npz"}
        own = dict(method="rho-loss", method_options=options, seed=seed)
        write_run(tmp_path / f"rho{seed}", 65, own, facts=facts)
    study = read_study(tmp_path)
    lines = [line for line in markdown_costs(study).splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert table[0][-2:] == ["scoring seconds", "choosing seconds"]
    assert {row[1]: row[-2:] for row in table[1:]} == {
        "coreset": ["400.0", "3.0"],
        "unif-SGD": ["", ""],
        "rho-loss": ["", ""],
    }
    accuracies, times = KINDS[TIME](study).axes
    seconds = study.runs["seconds"].iloc[0]
    ends = [tuple(line.get_xdata()) for line in times.lines if len(line.get_xdata()) == 2]
    assert (seconds, seconds + 403) in [tuple(pytest.approx(x) for x in pair) for pair in ends]
    assert times.get_xscale() == "log"
    labels = [text.get_text() for text in accuracies.get_yticklabels()]
    assert labels == ["unif-SGD", "coreset", "rho-loss (scoring unknown)"]


def test_no_figure_has_more_methods_than_can_be_told_apart(tmp_path):
    for number in range(26):
        options = {"dro_beta": float(number + 1)}
        write_run(tmp_path / str(number), 70, dict(method="dro", method_options=options))
    study = read_study(tmp_path)
    for kind in ("accuracy", "entropy", "curves"):
        stems, gaps = save_figures(study, kind, tmp_path / "figures")
        assert not stems
        assert "26 methods are more than can be told apart" in gaps[0]
    assert save_figures(study, "heat-map", tmp_path / "figures")[0]


def test_files_are_named_where_nothing_else_tells_runs_apart(tmp_path):
    """By the digest of what is in them."""
    digests = {"a.npz": "a" * 64, "b.npz": "b" * 64}

    def write(folder: Path, file: str, score: str) -> None:
        options = {"coreset_file": file, "coreset_score": score}
        facts = {"files_sha256": {"coreset_file": digests[file]}}
        own = dict(method="coreset", method_options=options)
        write_run(folder / f"{file}-{score}", 70, own, facts=facts)

    def labels(folder: Path) -> set[str]:
        return set(read_study(folder).runs["method_label"])

    write(tmp_path / "apart", "a.npz", "aum")
    write(tmp_path / "apart", "b.npz", "el2n")
    assert labels(tmp_path / "apart") == {"coreset (score aum)", "coreset (score el2n)"}
    write(tmp_path / "alike", "a.npz", "aum")
    write(tmp_path / "alike", "b.npz", "aum")
    assert labels(tmp_path / "alike") == {
        f"coreset (file sha256-{letter * 12}, score aum)" for letter in "ab"
    }


def cells_of(text: str) -> dict[str, list[str]]:
    """The cells of a Markdown table's rows by their first."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in table}


def test_published_numbers_stand_beside_the_same_here(tmp_path, main_here):
    """Differences paired by seed: unif-SGD loses 2.4, 2.6 and 2.8; the subset 3 to 4 more."""
    for seed in (1, 2, 3):
        place = dict(seed=seed)
        write_run(tmp_path / f"full{seed}", 90 + seed, place)
        own = dict(method="unif-SGD", budget=0.2) | place
        write_run(tmp_path / f"unif{seed}", 87.4 + 0.8 * seed, own, entropy=10.8)
        own = dict(method="random-subset", budget=0.2) | place
        write_run(tmp_path / f"subset{seed}", 84.9 + 0.3 * seed, own)
        own = dict(method="p-SGD", budget=0.2) | place
        write_run(tmp_path / f"p{seed}", 87.4 + 0.8 * seed, own, entropy=0.99 * math.log(IMAGES))
        own = dict(method="unif-SGD", budget=0.3, augmentation="ricap") | place
        write_run(tmp_path / f"ricap{seed}", 91 + seed, own)
        # None of these is what was published.
        own |= dict(augmentation_options={"alpha": 1.0})
        write_run(tmp_path / f"variant{seed}", 60 + seed, own)
        own = dict(method="unif-SGD", budget=0.2, compute_budget=True) | place
        write_run(tmp_path / f"compute{seed}", 50, own)
        write_run(tmp_path / f"computed{seed}", 90, dict(compute_budget=True) | place)
    outcome = main_here(command.main, "published", tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    text = (tmp_path / "published.md").read_text()
    assert outcome.stdout.strip() == text.strip()
    rows = cells_of(text)
    low, high = stats.t.interval(0.95, 2, loc=-3, scale=0.2 / math.sqrt(3))
    assert rows["unif-SGD at 20% - full training"] == [
        "-2.6",
        "-3.00",
        f"{low:+.2f} to {high:+.2f}",
        "3",
        "in the interval",
    ]
    assert rows["random-subset - unif-SGD at 20%"][:2] == ["-7.5", "-3.50"]
    assert rows["random-subset - unif-SGD at 20%"][-1] == "ours is higher"
    assert rows["unif-SGD with RICAP at 30% - full training, standard"][:2] == ["about 0", "+1.00"]
    assert rows["H(c) of p-SGD at 20%, of the most"][:2] == ["0.995", "0.990"]
    assert not any("50%" in name for name in rows), "nothing was run there"
    assert text.count("published quantities") == 1


def test_a_scoring_run_that_is_paid_for_makes_a_variant_of_the_method(tmp_path):
    """It stands beside the methods that have none, in one setup."""
    for seed in (1, 2, 3):
        own = dict(compute_budget=True, seed=seed, budget=0.5)
        write_run(tmp_path / f"unif{seed}", 70, own | dict(method="unif-SGD"))
        for paid in (False, True):
            coreset = own | dict(method="coreset", count_scoring_run=paid)
            write_run(tmp_path / f"coreset{paid}{seed}", 65, coreset)
    study = read_study(tmp_path)
    assert study.runs["setup"].nunique() == 1
    table = summarise_differences(study)
    assert table["n"].tolist() == [3, 3]
    assert set(table["method_label"]) == {"coreset", "coreset (scoring run paid)"}


def test_claims_are_not_judged_by_budgets_of_compute(tmp_path):
    for seed, method in product((1, 2, 3), ("unif-SGD", "dro")):
        own = dict(method=method, seed=seed, budget=0.2)
        write_run(tmp_path / f"{method}{seed}", 70 + (method == "dro"), own)
        write_run(tmp_path / f"{method}{seed}c", 60, own | dict(compute_budget=True))
    _, lines = check(CLAIMS[0], read_study(tmp_path))
    assert sum("dro - unif-SGD" in line for line in lines) == 1


def test_gains_stand_over_how_much_is_learnt_by_heart(tmp_path, main_here):
    for epochs, known in ((4, 60.0), (8, 95.0)):
        for seed in (1, 2, 3):
            own = dict(seed=seed, epochs=epochs, budget=0.2)
            folder = tmp_path / f"study{epochs}"
            write_run(folder / f"unif{seed}", known, own | dict(method="unif-SGD"))
            write_run(folder / f"dro{seed}", known + seed, own | dict(method="dro"))
            write_run(folder / f"cvar{seed}", known, own | dict(method="cvar"))
            noisy = own | dict(label_noise=0.2)
            write_run(folder / f"noisy{seed}", known, noisy | dict(method="unif-SGD"))
            write_run(folder / f"noisy-dro{seed}", known, noisy | dict(method="dro"))
    stem = tmp_path / "gains"
    words = (tmp_path / "study4", tmp_path / "study8", "--out", stem)
    outcome = main_here(command.main, "gains", *words)
    assert outcome.returncode == 0, outcome.stderr
    table = pd.read_csv(f"{stem}.csv")
    assert table[["method", "epochs", "by_heart", "mean", "n"]].values.tolist() == [
        ["dro", 4, 60.0, 2.0, 3],
        ["dro", 8, 95.0, 2.0, 3],
    ]
    assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    write_run(tmp_path / "alone" / "dro", 70, dict(method="dro"))
    outcome = main_here(command.main, "gains", tmp_path / "alone")
    assert outcome.returncode == 2
    assert "no method shares 3 seeds with unif-SGD" in outcome.stderr


# Figures


def test_every_figure_is_a_png_and_a_pdf_with_embedded_fonts(made):
    names = [kind for kind in KINDS if kind not in (*BY_AUGMENTATION, GROUPS)]
    kinds = [kind for kind in BY_AUGMENTATION if kind != TIME]
    names += [f"{kind}_{name}" for kind in kinds for name in AUGMENTATIONS]
    figures = made / "figures"
    assert {path.name for path in figures.iterdir()} == {
        f"cifar10_{name}.{ending}" for name in names for ending in ("png", "pdf")
    }
    for name in names:
        picture = (figures / f"cifar10_{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000
        page = (figures / f"cifar10_{name}.pdf").read_bytes()
        assert b"/FontFile2" in page
        assert b"/Type3" not in page


def test_figures_say_how_many_seeds_stand_behind_them(grid):
    study = read_study(grid[0])
    for kind, draw in KINDS.items():
        if kind == GROUPS:  # of which these runs have none
            continue
        part = study.where("augmentation_label", "ricap") if kind in BY_AUGMENTATION else study
        titles = " ".join(axis.get_title() for axis in draw(part).axes)
        assert "n = 2 to 3" in titles, kind


def test_full_training_is_a_line_and_not_a_budget_among_others(tmp_path):
    write_grid(tmp_path, {"SGD": 0.1, "unif-SGD": 0})
    full = write_grid(tmp_path, {"SGD": 0.1}, ["standard"], [1.0])
    study = read_study(tmp_path)
    mean = np.mean(list(full.values()))
    figure = plot_accuracy(study)
    assert "dashed: SGD, standard, 100%" in figure.get_suptitle().replace("\n", " ")
    for panel in figure.axes:
        lines = [line for line in panel.lines if line.get_linestyle() == "--"]
        assert [list(line.get_ydata()) for line in lines] == [[pytest.approx(mean)] * 2]
        assert [label.get_text() for label in panel.get_xticklabels()] == ["20", "30"]
    for kind in ("heat-map", "entropy", "curves"):
        part = study.where("augmentation_label", "standard")
        titles = " ".join(axis.get_title() for axis in KINDS[kind](part).axes)
        assert "budget 20%" in titles
        assert "100%" not in titles, kind

    write_grid(tmp_path, {"unif-SGD": 0.1}, ["ricap"], [1.0])
    ticks = plot_accuracy(read_study(tmp_path)).axes[0].get_xticklabels()
    assert [label.get_text() for label in ticks] == ["20", "30", "100"]


def test_without_full_training_every_budget_is_shown(grid):
    study = read_study(grid[0])
    assert study.budgets == [0.2, 0.3]
    figure = plot_accuracy(study)
    assert "dashed" not in figure.get_suptitle()
    ticks = figure.axes[0].get_xticklabels()
    assert [label.get_text() for label in ticks] == ["20", "30"]


def test_a_legend_has_the_methods_that_are_shown(tmp_path):
    write_grid(tmp_path, {"unif-SGD": 0.1, "dro": 0})
    write_grid(tmp_path, {"SGD": 0.1}, ["standard"], [1.0])
    study = read_study(tmp_path)
    for kind in ("accuracy", "entropy", "curves"):
        part = study.where("augmentation_label", "standard")
        legend = KINDS[kind](part).legends[0]
        assert [text.get_text() for text in legend.get_texts()] == ["unif-SGD", "dro"], kind
    rows = KINDS["heat-map"](study).axes[0].get_yticklabels()
    assert [label.get_text() for label in rows] == ["unif-SGD", "dro"]


def test_each_method_has_a_look_of_its_own():
    assert set(TO_COME) <= set(LOOKS)
    markers = [look_of(name).marker for name in METHODS]
    assert len(set(markers)) == len(markers)
    for part in ("colour", "marker"):
        assert len({getattr(look, part) for look in LOOKS.values()}) == len(LOOKS)


def test_figures_of_runs_that_are_gone_are_told(tmp_path, capsys):
    write_run(tmp_path / "run", 80)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "digits_accuracy.png").touch()
    outcome = run(command.main, tmp_path, capsys)
    assert "1 files are not of these runs, such as digits_accuracy.png" in outcome.stderr


# What is kept apart


def test_runs_of_other_settings_are_kept_apart(tmp_path):
    for seed, rate in ((1, 0.1), (2, 0.1), (3, 0.05)):
        write_run(tmp_path / f"run{seed}", 80, dict(seed=seed, lr=rate))
    study = read_study(tmp_path)
    assert summarise(study)[["setup", "n"]].to_numpy().tolist() == [
        ["cifar10_lr-0.1", 2],
        ["cifar10_lr-0.05", 1],
    ]
    assert any("different settings are kept apart" in note for note in study.notes)


def test_runs_of_other_versions_in_one_cell_are_kept_apart(tmp_path):
    for seed, commit in ((1, "aaa"), (2, "aaa"), (3, "bbb")):
        write_run(tmp_path / f"run{seed}", 80, dict(seed=seed), VERSIONS | {"commit": commit})
    study = read_study(tmp_path)
    assert sorted(summarise(study)["n"]) == [1, 2]
    assert any("kept apart; runs of commit aaa: 2, commit bbb: 1" in note for note in study.notes)


def test_cells_of_different_versions_are_compared_and_that_is_said(tmp_path):
    write_run(tmp_path / "a", 80, dict(method="unif-SGD"), VERSIONS | {"commit": "aaa"})
    write_run(tmp_path / "b", 81, dict(method="dro"), VERSIONS | {"commit": "bbb"})
    study = read_study(tmp_path)
    assert summarise_differences(study)["mean"].tolist() == [pytest.approx(1)]
    assert any("are compared; runs of commit aaa: 1, commit bbb: 1" in note for note in study.notes)


def test_options_of_methods_make_variants(tmp_path):
    for beta in (10.0, 100.0):
        write_run(tmp_path / str(beta), 80, dict(method="dro", method_options={"dro_beta": beta}))
    study = read_study(tmp_path)
    assert [label for label, *_ in study.methods] == ["dro (beta 10)", "dro (beta 100)"]
    assert len(summarise(study)) == 2


def test_a_file_is_told_only_where_there_are_several(tmp_path):
    def labels(**options: str) -> list[str]:
        own = dict(method="coreset", method_options={f"coreset_{k}": v for k, v in options.items()})
        write_run(tmp_path / "_".join(options.values()), 80, own)
        return [label for label, *_ in read_study(tmp_path).methods]

    assert labels(file="a.npz", score="el2n") == ["coreset (score el2n)"]
    expected = ["coreset (score el2n)", "coreset (score grand)"]
    assert labels(file="a.npz", score="grand") == expected
    expected = [f"coreset (file a.npz, score {score})" for score in ("el2n", "grand")]
    assert labels(file="b.npz", score="el2n") == [*expected, "coreset (file b.npz, score el2n)"]


def test_a_setting_that_was_not_given_is_as_one_that_did_not_exist(tmp_path):
    write_run(tmp_path / "new", 80, dict(seed=1))
    path = write_run(tmp_path / "old", 80, dict(seed=2)) / "config.json"
    config = json.loads(path.read_text())
    del config["settings"]["imbalance"], config["settings"]["label_noise"]
    path.write_text(json.dumps(config))
    assert summarise(read_study(tmp_path))["n"].tolist() == [2]


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"precision": "bfloat16"}, "precision bfloat16"),
        ({"device": "cuda:1 (NVIDIA H100)"}, "device cuda"),
        ({"processes": 2}, "processes 2"),
    ],
)
def test_runs_of_another_precision_device_or_process_count_are_kept_apart(tmp_path, facts, words):
    usual = {"precision": "float32", "device": "cpu (x86_64)", "processes": 1}
    for seed in SEEDS:
        for name, own in (("usual", {}), ("other", facts)):
            # --amp auto comes to one or the other by the machine.
            write_run(tmp_path / f"{name}{seed}", 80, dict(seed=seed), facts=usual | own)
    write_run(tmp_path / "old", 80, dict(seed=4))  # before these were written
    study = read_study(tmp_path)
    assert sorted(zip(summarise(study)["n"], study.runs["title"].unique())) == [
        (3, f"cifar10, resnet18, 4 epochs, {words}"),
        (4, f"cifar10, resnet18, 4 epochs, {words.split()[0]} {usual_word(words)}"),
    ]
    assert any("different settings are kept apart" in note for note in study.notes)
    assert markdown(study).count("test accuracy in percent") == 2


def usual_word(words: str) -> str:
    return {"precision": "float32", "device": "cpu", "processes": "1"}[words.split()[0]]


def test_precision_counts_as_it_was_not_as_it_was_asked_for(tmp_path):
    write_run(tmp_path / "auto", 80, dict(seed=1, amp="auto"), facts={"precision": "float32"})
    write_run(tmp_path / "off", 80, dict(seed=2, amp="off"), facts={"precision": "float32"})
    assert summarise(read_study(tmp_path))["n"].tolist() == [2]


def test_what_tuning_chose_for_each_method_is_one_setup_and_tables_say_tuned(tmp_path):
    for method, rate in (("unif-SGD", 0.1), ("dro", 0.05)):
        for seed in SEEDS:
            own = dict(method=method, seed=seed, lr=rate)
            write_run(tmp_path / f"{method}{seed}", 80, own, facts={"tuned": True})
            write_run(tmp_path / f"{method}{seed}plain", 70, own | {"lr": 0.1})
    study = read_study(tmp_path)
    summary = summarise(study).set_index(["method", "test_accuracy_mean"])["tuned"].to_dict()
    assert summary == {
        ("unif-SGD", 80): '{"lr": 0.1}', ("dro", 80): '{"lr": 0.05}',
        ("unif-SGD", 70): "{}", ("dro", 70): "{}",
    }  # fmt: skip
    captions = re.findall("cifar10, resnet18, 4 epochs.*", markdown(study))
    assert [", tuned" in caption for caption in captions].count(True) == 1
    assert len(captions) == 2
    own = dict(method="dro", seed=4, lr=0.02)
    write_run(tmp_path / "other", 80, own, facts={"tuned": True})
    labels = {label for label, *_ in read_study(tmp_path).methods}
    assert labels == {"unif-SGD", "dro", "dro (lr 0.05)", "dro (lr 0.02)"}


# Bad input


def test_a_folder_without_finished_runs_is_an_error(tmp_path, capsys):
    one_line_error(run(command.main, tmp_path / "none", capsys), "no such folder")
    one_line_error(run(command.main, tmp_path, capsys), "no finished run", "train.py")
    write_run(tmp_path / "a", 80, status="running")
    write_run(tmp_path / "b", 80, status="interrupted")
    (write_run(tmp_path / "c", 80) / "status").unlink()
    outcome = run(command.main, tmp_path, capsys)
    assert "1 interrupted, 1 running, 1 without a status" in outcome.stderr
    one_line_error(outcome, "no finished run")


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"settings": {')


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def drop_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["settings"]["method"]
    (folder / "config.json").write_text(json.dumps(config))


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def change_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["budget"] = "half"
    (folder / "config.json").write_text(json.dumps(config))


def drop_curve(folder: Path) -> None:
    (folder / "curve.csv").unlink()


def drop_column(folder: Path) -> None:
    curve = pd.read_csv(folder / "curve.csv").drop(columns="count_entropy")
    curve.to_csv(folder / "curve.csv", index=False)


def drop_row(folder: Path) -> None:
    pd.read_csv(folder / "curve.csv").iloc[:-1].to_csv(folder / "curve.csv", index=False)


def break_number(folder: Path) -> None:
    text = (folder / "curve.csv").read_text().splitlines()
    text[2] = text[2].replace(text[2].split(",")[6], "oops")
    (folder / "curve.csv").write_text("\n".join(text))


def drop_last_result(folder: Path) -> None:
    curve = pd.read_csv(folder / "curve.csv")
    curve.loc[len(curve) - 1, "test_accuracy"] = np.nan
    curve.to_csv(folder / "curve.csv", index=False)


def empty_curve(folder: Path) -> None:
    (folder / "curve.csv").write_text("")


def curve_with(column: str, row: int, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        curve = pd.read_csv(folder / "curve.csv").astype(object)
        curve.loc[row, column] = value
        curve.to_csv(folder / "curve.csv", index=False)

    return damage


def repeat_column(folder: Path) -> None:
    curve = pd.read_csv(folder / "curve.csv")
    pd.concat([curve, curve[["test_accuracy"]] / 2], axis=1).to_csv(
        folder / "curve.csv", index=False
    )


def lengthen_rows(folder: Path) -> None:
    lines = (folder / "curve.csv").read_text().splitlines()
    (folder / "curve.csv").write_text("\n".join([lines[0], *(f"{line},1" for line in lines[1:])]))


def make_folder(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def binary_curve(folder: Path) -> None:
    (folder / "curve.csv").write_bytes(bytes(range(256)))


@pytest.mark.parametrize(
    "damage, fragments",
    [
        (break_config, ["config.json", "not what train.py writes"]),
        (drop_config, ["config.json", "No such file"]),
        (drop_setting, ["config.json", "method is missing"]),
        (list_config, ["config.json", "not what train.py writes"]),
        (change_setting, ["config.json", "budget: 'half' is not a number above 0"]),
        (drop_curve, ["curve.csv", "No such file"]),
        (drop_column, ["curve.csv", "no column count_entropy"]),
        (drop_row, ["curve.csv", "3 rows, not one for each of 4 epochs"]),
        (break_number, ["curve.csv", "'oops' for test_accuracy in line 3"]),
        (drop_last_result, ["curve.csv", "'nan' for test_accuracy in line 5"]),
        (empty_curve, ["curve.csv", "not a CSV"]),
        (binary_curve, ["curve.csv", "not a CSV"]),
        (make_folder("curve.csv"), ["curve.csv", "not a file"]),
        (make_folder("config.json"), ["config.json", "not a file"]),
        (repeat_column, ["curve.csv", "column 'test_accuracy' twice"]),
        (lengthen_rows, ["curve.csv", "not a CSV"]),
        (curve_with("test_accuracy", 3, np.inf), ["'inf' for test_accuracy in line 5"]),
        (curve_with("test_accuracy", 3, 100.5), ["'100.5' for test_accuracy in line 5"]),
        (curve_with("test_accuracy", 3, True), ["'True' for test_accuracy in line 5"]),
        (curve_with("images_trained", 1, -1), ["'-1' for images_trained in line 3"]),
        (curve_with("train_seconds", 3, 0.5), ["train_seconds shrinks in line 5"]),
        (curve_with("epoch", 2, 2), ["4 rows, not one for each of 4 epochs"]),
        (curve_with("worst_class_accuracy", 2, "oops"), ["'oops' for worst_class_accuracy"]),
    ],
)
def test_a_damaged_run_is_named_and_hides_no_other(tmp_path, damage, fragments):
    write_run(tmp_path / "good", 80, dict(seed=1))
    damage(write_run(tmp_path / "bad", 50, dict(seed=2)))
    study = read_study(tmp_path)
    assert study.runs["folder"].tolist() == ["good"]
    assert len(study.notes) == 1
    assert "\n" not in study.notes[0]
    for fragment in [str(tmp_path / "bad"), *fragments, "left out"]:
        assert fragment in study.notes[0]


def test_budgets_of_compute_are_kept_apart_and_named(tmp_path):
    """Equal budgets of steps and of compute are never one cell, and everything says which."""
    for method in ("SGD", "unif-SGD"):
        for of_compute in (False, True):
            settings = dict(method=method, compute_budget=of_compute, budget=0.3)
            write_run(tmp_path / f"{method}{of_compute}", 80 + of_compute, settings)
    study = read_study(tmp_path)
    assert "kept apart" in study.notes[0]
    summary = summarise(study)
    assert sorted(zip(summary["compute_budget"], summary["test_accuracy_mean"])) == [
        (False, 80), (False, 80), (True, 81), (True, 81),
    ]  # fmt: skip
    labels = {}
    for _, part in study.split("setup"):
        figure = plot_accuracy(part)
        kind = part.runs["compute_budget"].iloc[0]
        labels[kind] = figure.axes[0].get_xlabel()
        assert part.title.endswith("compute budget" if kind else "compute budget off")
    assert "% of all iterations" in labels[False]
    assert "% of all compute" in labels[True]


def test_a_run_of_an_older_version_meets_one_of_today(tmp_path):
    """What its config.json does not name was at its default."""
    write_run(tmp_path / "old", 80, dict(seed=1))
    write_run(tmp_path / "new", 80, dict(seed=2, compute_budget=False, amp="auto", compile=False))
    write_run(tmp_path / "fast", 80, dict(seed=3, amp="bf16"), facts={"precision": "bfloat16"})
    study = read_study(tmp_path)
    setups = study.runs.set_index("folder")["setup"]
    assert setups["old"] == setups["new"] != setups["fast"]


@pytest.mark.parametrize("of_compute, rows, read", [
    (True, [1, 3], True), (True, [0, 2], False), (True, [3, 1], False), (False, [1, 3], False),
])  # fmt: skip
def test_one_step_may_end_several_epochs_of_compute(tmp_path, of_compute, rows, read):
    path = write_run(tmp_path / "a", 80, dict(compute_budget=of_compute)) / "curve.csv"
    pd.read_csv(path).iloc[rows].to_csv(path, index=False)
    assert len(read_study(tmp_path).runs) == read


def test_epochs_that_were_not_evaluated_have_no_part_in_the_curves(tmp_path):
    path = write_run(tmp_path / "a", 80) / "curve.csv"
    curve = pd.read_csv(path)
    curve.loc[[0, 2], ["test_loss", "test_accuracy", "worst_class_accuracy"]] = np.nan
    curve.to_csv(path, index=False)
    study = read_study(tmp_path)
    assert not study.notes
    assert study.runs["test_accuracy"].tolist() == [80]
    axis = plot_curves(study).axes[0]
    assert axis.lines[0].get_xdata().tolist() == [2, 4]


def test_copies_of_a_run_count_once(tmp_path):
    write_run(tmp_path / "a", 80, seconds=10)
    write_run(tmp_path / "b", 80, seconds=20)
    study = read_study(tmp_path)
    assert study.runs["folder"].tolist() == ["a"]
    assert study.notes == ["a and b: the same run twice; the first is kept"]


def test_two_results_for_one_cell_and_seed_are_an_error(tmp_path, capsys):
    write_run(tmp_path / "a", 80)
    write_run(tmp_path / "b", 81)
    outcome = run(command.main, tmp_path, capsys)
    one_line_error(outcome, "a and b", "same settings and seed", "remove one")
    assert not (tmp_path / "summary.csv").exists()


def test_runs_from_before_class_accuracies_are_told_and_used_for_the_rest(tmp_path, capsys):
    path = write_run(tmp_path / "run", 80) / "curve.csv"
    curve = pd.read_csv(path).drop(columns=["worst_class_accuracy", "class_accuracy_p5"])
    curve.to_csv(path, index=False)
    outcome = run(command.main, tmp_path, capsys)
    assert outcome.returncode == 0
    assert f"{path}: no column worst_class_accuracy" in outcome.stderr
    assert "cifar10_worst-class: no figure, no run logged" in outcome.stderr
    assert (tmp_path / "figures" / "cifar10_accuracy.png").exists()


# Claims


def verdict_on(test: str, results: Path) -> str:
    claim = next(claim for claim in CLAIMS if claim.test.__name__ == test)
    return check(claim, read_study(results))[0]


@pytest.mark.parametrize(
    "values, tests, verdict",
    [
        ([1.0, 1.1, 1.2], 1, "supported"),
        ([-1.0, -1.1, -1.2], 1, "contradicted"),
        ([1.0, -0.5, 0.6], 1, "undecided"),
        ([-1.0, 0.5, -0.6], 1, "undecided"),
        # p = 0.02: enough to contradict by one test, not by one of four.
        ([-0.7, -1.2, -1.0], 1, "contradicted"),
        ([-0.7, -1.2, -1.0], 4, "undecided"),
    ],
)
def test_verdicts_need_significance_either_way(values, tests, verdict):
    assert judge(values, 0, tests) == verdict


@pytest.mark.parametrize(
    "effect, noise, verdict",
    [(-1, 0.1, "supported"), (2, 0.1, "contradicted"), (1, 3, "undecided")],
)
def test_claim_of_no_advantage(tmp_path, effect, noise, verdict):
    write_grid(tmp_path, {"unif-SGD": 0, "p-SGD": effect}, noise=noise)
    assert verdict_on("no_consistent_advantage", tmp_path) == verdict


@pytest.mark.parametrize("boost, verdict", [(2, "supported"), (-2, "contradicted")])
def test_claim_of_augmentation(tmp_path, boost, verdict):
    write_grid(tmp_path, {"unif-SGD": 0, "p-SGD": 0, "c-SGD": -0.5}, boost=boost)
    assert verdict_on("augmentation_helps_more", tmp_path) == verdict


@pytest.mark.parametrize("boost, verdict", [(3, "supported"), (0, "contradicted")])
def test_claim_of_a_third_that_equals_the_whole(tmp_path, boost, verdict):
    write_grid(tmp_path, {"unif-SGD": 0, "SGD": 0}, budgets=(0.3, 1.0), boost=boost)
    assert verdict_on("third_equals_whole", tmp_path) == verdict


@pytest.mark.parametrize("sign, verdict", [(1, "supported"), (-1, "contradicted")])
def test_claim_of_even_use(tmp_path, sign, verdict):
    effects = {"unif-SGD": 0, "p-SGD": -1, "c-SGD": -2, "dro": -3}
    for method, effect in effects.items():
        write_grid(tmp_path / method, {method: sign * effect}, entropy=10.8 + effect / 10)
    assert verdict_on("even_use_is_better", tmp_path) == verdict
    # A method that one seed lacks would change that: it is left out of the others too.
    write_grid(tmp_path / "ucb", {"ucb": 9 * sign}, seeds=SEEDS[1:], entropy=1.0)
    assert verdict_on("even_use_is_better", tmp_path) == verdict


@pytest.mark.parametrize("effect, verdict", [(-3, "supported"), (3, "contradicted")])
def test_claim_of_a_fixed_subset(tmp_path, effect, verdict):
    write_grid(tmp_path, {"unif-SGD": 0, "random-subset": effect})
    assert verdict_on("beats_fixed_subset", tmp_path) == verdict


@pytest.mark.parametrize("loss, verdict", [(2.6, "supported"), (6, "contradicted")])
def test_claim_of_closeness(tmp_path, loss, verdict):
    """The published loss at this budget is 2.6 points."""
    write_grid(tmp_path / "part", {"unif-SGD": 4 - loss}, ("standard",), (0.2,))
    write_grid(tmp_path / "whole", {"SGD": 0}, ("standard",), (1.0,))
    assert verdict_on("stays_close_to_whole", tmp_path) == verdict


@pytest.mark.parametrize("gain, verdict", [(4, "supported"), (-4, "contradicted")])
@pytest.mark.parametrize("test", ["worst_class_gains", "low_percentile_gains"])
def test_claims_of_hardness_weighting(tmp_path, test, gain, verdict):
    imbalanced = {"imbalance": 100.0}
    draws = np.random.default_rng(1)
    for method, seed in product(("SGD", "dro"), SEEDS):
        worst = 40 + gain * (method == "dro") + draws.standard_normal() / 5
        settings = dict(method=method, seed=seed) | imbalanced
        write_run(tmp_path / f"{method}{seed}", 80, settings, worst=worst)
    assert verdict_on(test, tmp_path) == verdict
    assert verdict_on("no_consistent_advantage", tmp_path) == "not enough runs"
    # A variant is judged beside it, whatever comes out.
    for seed in SEEDS:
        settings = dict(method="dro", method_options=dict(dro_beta=9.0), seed=seed) | imbalanced
        worst = 40 - 2 * gain + draws.standard_normal() / 5
        write_run(tmp_path / f"variant{seed}", 80, settings, worst=worst)
    claim = next(claim for claim in CLAIMS if claim.test.__name__ == test)
    found, lines = check(claim, read_study(tmp_path))
    assert found == verdict
    (line,) = [line for line in lines if "dro (beta 9) - SGD" in line]
    assert "a variant, which does not count) " in line
    assert {"supported": "contradicted", "contradicted": "supported"}[verdict] in line
    assert lines[-1].endswith("; contradicted at p < 0.05 (0.05 / 1)")


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_few_seeds_decide_no_claim(tmp_path, capsys, seeds):
    effects = {"SGD": 0, "unif-SGD": 0, "p-SGD": 5, "c-SGD": 5, "dro": 5, "random-subset": -5}
    write_grid(tmp_path, effects, budgets=(0.3, 1.0), seeds=seeds)
    write_grid(tmp_path / "i", effects, seeds=seeds, settings={"imbalance": 50.0})
    outcome = run(claims.main, tmp_path, capsys)
    assert outcome.returncode == 0
    verdicts = re.findall(r"^\d+\. ([A-Z ]+):", outcome.stdout, re.MULTILINE)
    ours = [claim for claim in CLAIMS if claim.setups != GROUPED]
    assert verdicts == ["NOT ENOUGH RUNS"] * len(ours)


def nowhere_above(draws: np.ndarray) -> Claim:
    """A claim that methods are above zero in some setups, of differences [setups, methods, n]."""
    left = iter(draws)

    def cases(part: Study) -> Iterator[Case]:
        for number, seeds in enumerate(next(left)):
            values = pd.Series(seeds)
            yield Case(f"method {number}", Pooled(values, [estimate(values)]), above(0))

    return Claim("", "", "", "", False, cases)


@pytest.mark.slow
@pytest.mark.parametrize("setups, methods", [(1, 1), (4, 1), (4, 3)])
def test_true_claims_are_contradicted_at_no_more_than_the_level(setups, methods):
    """400 studies in which nothing differs: 2.5% are contradicted by chance, a side of 5%.

    A right one fails here, above 6%, with a probability below 1e-3; undivided by setups, four of
    them would be contradicted in 9.6%, twelve comparisons in 26%.
    """
    draws = np.random.default_rng(1).standard_normal((400, setups, methods, 4))
    runs = pd.DataFrame({"setup": range(setups), "title": "", "imbalance": None})
    study = Study(runs.assign(label_noise=None, compute_budget=False), runs)
    verdicts = [check(nowhere_above(each), study)[0] for each in draws]
    assert 0.005 < verdicts.count("contradicted") / len(verdicts) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [-0.5, 0, 0.5])
def test_verdicts_keep_their_level_whatever_the_correlation_over_seeds(correlation):
    """2,000 pairs of equal methods, n = 6: 5% decided, within 4.5 standard deviations (1e-5).

    Taking Welch's test where the seeds seen correlate negatively would decide 10%, 6.6% and 5.2%.
    """
    covariance = [[1, correlation], [correlation, 1]]
    draws = np.random.default_rng(2).multivariate_normal([0, 0], covariance, (2000, 6))
    decided = [judge(pair[:, 0] - pair[:, 1]) != "undecided" for pair in draws]
    by_sign = [
        (p_of_welch if rho < 0 else p) < 0.05
        for (rho, *_, p_of_welch), p in (
            (without_pairing(*pair.T), estimate(pair[:, 0] - pair[:, 1]).p) for pair in draws
        )
    ]
    assert np.mean(decided) == pytest.approx(0.05, abs=4.5 * np.sqrt(0.05 * 0.95 / 2000))
    if correlation < 0:
        assert np.mean(by_sign) > 0.08


def test_one_setup_of_several_contradicts_only_at_its_part_of_the_level(tmp_path):
    """p = 0.02 in one setup contradicts by itself, and not as one of four."""
    for lr in (0.1, 0.2, 0.3, 0.4):
        for seed, gain in enumerate((0.7, 1.2, 1.0) if lr == 0.1 else (0.5, -0.5, 0.1), 1):
            for method in ("unif-SGD", "p-SGD"):
                own = dict(method=method, budget=0.2, seed=seed, lr=lr)
                accuracy = 80 + gain * (method == "p-SGD")
                write_run(tmp_path / str(lr) / f"{method}{seed}", accuracy, own)
    assert verdict_on("no_consistent_advantage", tmp_path / "0.1") == "contradicted"
    assert verdict_on("no_consistent_advantage", tmp_path) == "undecided"


def test_claims_print_counts_intervals_and_seeds(grid, capsys):
    outcome = run(claims.main, grid[0], capsys)
    assert "p-SGD - unif-SGD: supported: above zero in 0/4 cells, mean -0." in outcome.stdout
    assert re.search(r"\(95% CI -\S+ to -?\S+, p = \S+, n = 3 seeds\)", outcome.stdout)
    assert "published 92.0%, -2.6 points" in outcome.stdout


# The notebook


@pytest.mark.slow
def test_notebook_runs_on_results_with_gaps(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "plots" / "paper_figures.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    write_run(tmp_path / "a", 80, dict(method="unif-SGD", augmentation="ricap", budget=0.2))
    write_run(tmp_path / "b", 81, dict(method="dro", budget=0.2))
    monkeypatch.setenv("RESULTS_DIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    resources = {"metadata": {"path": str(ROOT / "plots")}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    text = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert "gap: no finished run on cifar100" in text
    assert "no finished run in 2 of 4 cells" in text
    assert "gap: cifar10_difference_ricap: no figure" in text
    assert "NOT ENOUGH RUNS" in text
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == len(list((tmp_path / "figures").glob("*.png")))


# From training to figures


@pytest.mark.slow
def test_figures_of_real_runs(tmp_path, train_forks, capsys):
    short = ["--epochs", 2, "--budget", 0.2, "--batch-size", 32, "--device", "cpu"]
    short += ["--results-dir", tmp_path]
    outcomes = train_forks([[*short, "--method", name] for name in ("unif-SGD", "dro")])
    assert [outcome.returncode for outcome in outcomes] == [0, 0]
    outcome = run(command.main, tmp_path, capsys)
    assert outcome.returncode == 0
    summary = pd.read_csv(tmp_path / "summary.csv")
    for row in summary.itertuples():
        curve = pd.read_csv(tmp_path / f"digits_{row.method}_standard_b0.2_s1" / "curve.csv")
        assert row.test_accuracy_mean == curve["test_accuracy"].iloc[-1]
    assert (tmp_path / "figures" / "digits_difference_standard.pdf").exists()
    assert run(claims.main, tmp_path, capsys).returncode == 0

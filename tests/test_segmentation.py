"""The study of segmentation: its data sets, runs, table and claims."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Completed

from errors import UsageError
from plots import claims, segmentation
from segmentation import study
from segmentation.shift import FIELD, bias_field, shifted
from segmentation.study import MINORITY, PLAIN, SUFFIX, Run


def table_of(effects: dict[str, float], spread: dict[str, float] | None = None) -> pd.DataFrame:
    """Dice of 60 cases, of which the worst quarter changes by an effect (in points)."""
    rng = np.random.default_rng(0)
    base = np.sort(rng.normal(85, 3, 60))
    rows = []
    for trainer, effect in effects.items():
        dice = base + rng.normal(0, 0.3, 60)
        dice[:15] += effect
        for case, value in enumerate(dice):
            for label in (1, 2):
                rows.append(["as they are", trainer, 0, f"h{case}", "plain", label, value / 100])
    return pd.DataFrame(rows, columns=segmentation.COLUMNS)


def write(folder: Path, table: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / segmentation.FILE, index=False)
    return folder


def test_statistics_are_those_of_the_cases(tmp_path: Path) -> None:
    table = table_of({"default": 0, "beta 10": 2})
    read = segmentation.read(write(tmp_path, table))
    summary = segmentation.summarise(read)
    row = summary[(summary["trainer"] == "beta 10") & (summary["label"] == "all")].iloc[0]
    ours = 100 * table[table["trainer"] == "beta 10"].groupby("case")["dice"].mean()
    theirs = 100 * table[table["trainer"] == "default"].groupby("case")["dice"].mean()
    assert row["n"] == 60
    assert row["mean"] == pytest.approx(ours.mean())
    assert row["p5"] == pytest.approx(np.percentile(ours, 5))
    assert row["worst"] == pytest.approx(ours.min())
    assert row["IQR"] == pytest.approx(np.subtract(*np.percentile(ours, [75, 25])))
    assert row["mean_gain"] == pytest.approx(ours.mean() - theirs.mean())
    assert row["mean_low"] < row["mean_gain"] < row["mean_high"]
    assert set(summary["label"]) == {1, 2, "all"}


@pytest.mark.parametrize(
    "effect, verdict", [(4, "supported"), (-4, "contradicted"), (0, "undecided")]
)
def test_verdicts(effect: float, verdict: str, tmp_path: Path) -> None:
    table = table_of({"default": 0, "beta 10": effect})
    text = segmentation.claims(segmentation.summarise(segmentation.read(write(tmp_path, table))))
    (line,) = [each for each in text.splitlines() if each.startswith("  ")][:1]
    assert f"beta 10: {verdict}: " in line


def test_without_the_reference_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cases of the trainer default; make its runs too"):
        segmentation.read(write(tmp_path, table_of({"beta 10": 0})))


def test_intervals_cover_the_truth() -> None:
    """95% intervals of a difference of means miss it in no more than 12 of 100 samples.

    A right bootstrap of 60 pairs misses about 6; more than 12 with a probability of 1%.
    """
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(100):
        theirs = rng.normal(80, 5, 60)
        ours = theirs + rng.normal(0.5, 1, 60)
        found = segmentation.difference(ours, theirs, "mean")
        missed += not found["low"] <= 0.5 <= found["high"]
    assert missed <= 12


def test_cases_of_a_fold_that_one_trainer_has_not_finished_are_left_out(tmp_path: Path) -> None:
    table = table_of({"default": 0, "beta 10": 1})
    table = table[(table["trainer"] == "default") | (table["case"] < "h3")]
    summary = segmentation.summarise(segmentation.read(write(tmp_path, table)))
    whole = summary[summary["label"] == "all"].set_index("trainer")
    assert whole.loc["default", "n"] == 60
    assert whole.loc["beta 10", "n"] < 60


def test_the_command_writes_table_and_figure(
    main_here: Callable[..., Completed], tmp_path: Path
) -> None:
    folder = write(tmp_path / "hippocampus", table_of({"default": 0, "beta 10": 2}))
    outcome = main_here(segmentation.main, folder)
    assert outcome.returncode == 0, outcome.stderr
    assert "| beta 10 | 60 |" in outcome.stdout
    assert (folder / "figures/dice.png").stat().st_size > 10_000
    assert main_here(claims.main, folder).stdout == outcome.stdout
    outcome = main_here(segmentation.main, tmp_path)
    assert outcome.returncode == 2
    assert "python -m segmentation.study makes it" in outcome.stderr


# --- The runs ---


def test_a_shifted_image_is_another_of_the_same() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
    image = 100.0 * (((grid - 12) ** 2).sum(0) < 64)
    found = shifted(image, np.random.default_rng(1))
    assert found.shape == image.shape
    assert found.dtype == np.float32
    assert 0.5 < np.corrcoef(found.ravel(), image.ravel())[0, 1] < 0.99
    assert np.array_equal(found, shifted(image, np.random.default_rng(1)))
    field = bias_field(image.shape, rng)
    assert np.abs(field).max() == pytest.approx(FIELD)
    assert field.std() > 0.05


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """nnU-Net's folders as they are after preprocessing, but for the images."""
    pytest.importorskip("nnunetv2")
    labels = tmp_path / "raw" / PLAIN / "labelsTr"
    labels.mkdir(parents=True)
    for number in range(50):
        (labels / f"h{number:02}.nii.gz").touch()
    for name in (PLAIN, MINORITY):
        (tmp_path / "preprocessed" / name).mkdir(parents=True)
    return tmp_path


def test_splits_of_both_data_sets_have_the_same_folds(home: Path) -> None:
    study.write_splits(home / "raw" / PLAIN, home)
    plain, minority = (
        json.loads((home / "preprocessed" / name / "splits_final.json").read_text())
        for name in (PLAIN, MINORITY)
    )
    assert len(plain) == len(minority) == 5
    for one, other in zip(plain, minority):
        assert [case.removesuffix(SUFFIX) for case in other["train"]] == one["train"]
        assert sum(case.endswith(SUFFIX) for case in other["train"]) == 4, "10% of 40"
        assert other["val"] == [*one["val"], *(case + SUFFIX for case in one["val"])]


def test_what_runs_found_is_collected(home: Path, tmp_path: Path) -> None:
    run = Run(MINORITY, "beta 10", 1)
    folder = run.folder(home)
    (folder / "validation").mkdir(parents=True)
    metrics = {"1": {"Dice": 0.9}, "2": {"Dice": 0.7}}
    cases = [
        {"prediction_file": f"somewhere/{name}.nii.gz", "metrics": metrics}
        for name in ("h01", "h01" + SUFFIX)
    ]
    (folder / "validation/summary.json").write_text(json.dumps({"metric_per_case": cases}))
    results = tmp_path / "found"
    study.collect(home, results)
    assert not (results / "sampling.csv").exists(), (
        "as of the default trainer, which samples evenly"
    )
    pd.DataFrame({"epoch": [0, 1], "entropy": [3.0, 2.5]}).to_csv(folder / "sampling.csv")
    study.collect(home, results)
    dice = pd.read_csv(results / "dice.csv")
    assert list(dice.columns) == segmentation.COLUMNS
    assert dice["image"].tolist() == ["plain", "plain", "shifted", "shifted"]
    assert dice["case"].unique().tolist() == ["h01"]
    assert dice["dice"].tolist() == [0.9, 0.7, 0.9, 0.7]
    sampling = pd.read_csv(results / "sampling.csv")
    assert sampling["trainer"].tolist() == ["beta 10"] * 2
    assert study.made(home, results) == {run}
    # What was found stays when nnU-Net's folders are gone, and is not made again.
    shutil.rmtree(home / "results")
    other = Run(PLAIN, "default", 0)
    (other.folder(home) / "validation").mkdir(parents=True)
    content = {"metric_per_case": cases[:1]}
    (other.folder(home) / "validation/summary.json").write_text(json.dumps(content))
    (other.folder(home) / "seconds.txt").write_text("60\n30\n")
    study.collect(home, results)
    study.collect(home, results)
    assert study.made(home, results) == {run, other}
    assert len(pd.read_csv(results / "dice.csv")) == 4 + 2
    assert len(pd.read_csv(results / "sampling.csv")) == 2
    trainings = pd.read_csv(results / "trainings.csv").set_index("trainer")
    assert trainings.loc["default", "seconds"] == 90


def test_runs_compare_trainers_on_the_same_cases_as_soon_as_possible() -> None:
    runs = study.runs()
    assert len(runs) == len(set(runs)) == 24
    assert {run.fold for run in runs[:8]} == {0}
    assert all(run.trainer in study.TRAINERS for run in runs)


def test_a_folder_that_is_none_of_the_decathlons_is_told(
    main_here: Callable[..., Completed], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no dataset.json; give the Decathlon's folder"):
        study.convert(tmp_path, tmp_path / "there")
    outcome = main_here(study.main, tmp_path, "--dry-run", "--home", tmp_path / "home")
    assert outcome.returncode == 0
    assert outcome.stdout.splitlines()[0] == "24 runs, 24 left to make"
    assert "cases 10% shifted, beta 100, fold 2" in outcome.stdout
    outcome = main_here(study.main, "x", "--jobs", 0)
    assert outcome.returncode == 2


@pytest.mark.slow
def test_a_data_set_of_the_decathlon_is_converted(tmp_path: Path) -> None:
    """To nnU-Net's layout, and once more with each case as of another scanner."""
    sitk = pytest.importorskip("SimpleITK")
    source = tmp_path / "Task04_Hippocampus"
    for part in ("imagesTr", "labelsTr"):
        (source / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        for part in ("imagesTr", "labelsTr"):
            image = sitk.GetImageFromArray(rng.integers(0, 3, (12, 10, 8)).astype(np.float32))
            image.SetSpacing((1.0, 2.0, 3.0))
            sitk.WriteImage(image, source / part / f"hippocampus_{number}.nii.gz")
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    (source / "dataset.json").write_text(json.dumps({"labels": labels}))
    plain, minority = tmp_path / PLAIN, tmp_path / MINORITY
    study.convert(source, plain)
    study.add_shifted(plain, minority)
    described = json.loads((minority / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert described["numTraining"] == 6
    assert len(list((plain / "imagesTr").iterdir())) == 3
    one, other = (
        sitk.ReadImage(minority / f"imagesTr/hippocampus_1{suffix}_0000.nii.gz")
        for suffix in ("", SUFFIX)
    )
    assert one.GetSpacing() == other.GetSpacing() == (1.0, 2.0, 3.0)
    assert not np.array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))

"""What the runs behind a score file cost, told and, with --count-scoring-run, paid for."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import conftest
import numpy as np
import pytest
from test_methods import make_task

from data import DATASETS
from engine.budget import TRAINING_COST, Budget
from methods.scores import ScoreFile, digest

SMALL = ("--batch-size", 32, "--model", "resnet10-w8", "--device", "cpu", "--num-threads", 1)
CORESET = ("--method", "coreset", "--budget", 0.5, "--epochs", 4, *SMALL)
CORESET += ("--coreset-file", "scores.npz", "--experiment-name", "own")
PAID = ("--compute-budget", "--count-scoring-run")
TOTAL = 4 * (721 // 32) * 32 * TRAINING_COST  # of CORESET's budget; digits has 1,442 images

assert_refused = partial(conftest.assert_refused, absent="results")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def last_row(run: str) -> dict[str, str]:
    with open(f"results/{run}/curve.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]


def config(run: str) -> dict:
    return json.loads(Path(f"results/{run}/config.json").read_text())


def write_scores(**source: object) -> None:
    labels = DATASETS["digits"].load(Path(), data_seed=42, image_size=None).train_labels
    values = {"el2n": np.arange(len(labels), dtype=np.float32)}
    Path("scores.npz").write_bytes(ScoreFile("digits", digest(labels), values, [source]).to_bytes())


def test_a_recording_run_is_told_and_paid_for(train_here) -> None:
    recording = ("--record", "el2n", "--epochs", 1, *SMALL, "--experiment-name", "earlier")
    assert train_here(*recording).returncode == 0
    cost = int(last_row("earlier")["cost"])
    assert cost == 45 * 32 * TRAINING_COST
    Path("results/earlier/scores.npz").rename("scores.npz")

    assert train_here(*CORESET).returncode == 0
    assert config("own")["scoring_cost"] == cost
    assert int(last_row("own")["cost"]) == TOTAL

    assert train_here(*CORESET, *PAID, "--overwrite").returncode == 0
    assert config("own")["scoring_cost"] == cost
    step_cost = 32 * TRAINING_COST
    assert TOTAL - cost <= int(last_row("own")["cost"]) < TOTAL - cost + step_cost
    assert float(last_row("own")["lr"]) < 0.1 / 40, "the schedule spans what is left"


def test_a_pass_for_scores_costs_too(train_here, main_here) -> None:
    from engine.scores import main

    assert train_here("--epochs", 1, *SMALL, "--experiment-name", "earlier").returncode == 0
    words = ("results/earlier", "--score", "el2n,grand", "--out", "scores.npz", "--device", "cpu")
    outcome = main_here(main, *words)
    assert outcome.returncode == 0, outcome.stderr
    assert ScoreFile.read("scores.npz").cost == int(last_row("earlier")["cost"]) + 1442


def test_costs_of_several_runs_add_up() -> None:
    values = {"el2n": np.zeros(3, np.float32)}
    assert ScoreFile("any", "", values, [{"cost": 5}, {"cost": 7}]).cost == 12
    assert ScoreFile("any", "", values, [{"cost": 5}, {}]).cost is None
    assert ScoreFile("any", "", values, []).cost is None


def test_a_file_that_tells_no_cost_is_refused_where_it_counts(train_here) -> None:
    write_scores(run="old")
    assert_refused(train_here(*CORESET, *PAID), "--count-scoring-run", "make it again")


def test_a_budget_of_which_nothing_is_left_is_refused(train_here) -> None:
    write_scores(cost=TOTAL - 95)
    assert_refused(train_here(*CORESET, *PAID), "--count-scoring-run", f"{TOTAL:,}")


@pytest.mark.parametrize(
    "words, reason",
    [(("--compute-budget",), "SGD"), (("--method", "SGD"), "a budget of steps")],
)
def test_a_flag_without_effect_is_noted(words: tuple[str, ...], reason: str) -> None:
    from engine.flags import parse

    settings, notes = parse([*words, "--count-scoring-run"])
    assert notes == [f"--count-scoring-run has no effect with {reason}"]
    assert not settings.count_scoring_run


@pytest.mark.parametrize("paid", [0, 100, 3000])
def test_what_is_left_is_shared_out_over_all_epochs(paid: int) -> None:
    budget = Budget(make_task(320, 32, 1.0, epochs=4), of_compute=True, paid_before=paid)
    assert budget.total == 10 * 4 * 32 * TRAINING_COST - paid
    assert budget.position(0) == 0
    assert budget.position(budget.total) == 40
    assert budget.epoch(budget.total - 1) == 3
    assert budget.epoch(budget.total) == 4

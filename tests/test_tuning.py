"""sweep.py --tune: the values that do best on held-out images, tested with other seeds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import conftest
import pytest
from conftest import Completed

import sweep
from engine.flags import parse
from engine.sweep import process
from plots.runs import read_runs

assert_refused = partial(conftest.assert_refused, absent="results")

#: A stand-in for train.py. The accuracy is highest for the learning rate that is like BEST.
STAND_IN = """
import json, os, pathlib, sys
words = sys.argv[1:]
given = {{flag[2:].replace("-", "_"): value for flag, value in zip(words, words[1:])}}
folder = pathlib.Path(given.get("results_dir", "results"), given["experiment_name"])
settings = json.loads(os.environ["DEFAULTS"]) | {{
    "method": given["method"],
    "seed": int(given["seed"]),
    "lr": float(given["lr"]),
    "validation": int(given["validation"]) if "validation" in given else None,
    "tuned": given["tuned"].split(",") if "tuned" in given else None,
    "method_options": json.loads(os.environ["OPTIONS"])[given["method"]],
}}
best = json.loads(os.environ["BEST"])[settings["method"]]
diverges = settings["lr"] > 100
accuracy = 50.0 - abs(settings["lr"] - best) + settings["seed"]
config = {{"settings": settings, "num_images": 1000, "versions": {{}}, "tuned": "tuned" in given}}
(folder / "config.json").write_text(json.dumps(config, default=str))
(folder / "curve.csv").write_text(f"epoch,test_accuracy\\n1,99.0\\n2,{{accuracy}}\\n")
(folder / "status").write_text("diverged" if diverges else "finished")
sys.exit(3 if diverges else 0)
"""


@pytest.fixture
def sweep_here(main_here: Callable[..., Completed]) -> Callable[..., Completed]:
    """`sweep.py --isolate` in this process, which has PyTorch imported already."""
    return partial(main_here, sweep.main, "--isolate")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN.format())
    parsed = {name: vars(parse(["--method", name])[0]) for name in ("SGD", "dro")}
    monkeypatch.setenv("DEFAULTS", json.dumps(parsed["SGD"], default=str))
    options = {name: settings["method_options"] for name, settings in parsed.items()}
    monkeypatch.setenv("OPTIONS", json.dumps(options))
    monkeypatch.setenv("BEST", json.dumps({"SGD": 1.0, "dro": 0.1}))
    monkeypatch.setattr(process, "TRAIN", path)


def settings_of(folder: Path) -> dict:
    return json.loads(Path("results", folder, "config.json").read_text())["settings"]


def choices() -> list[dict[str, str]]:
    with open("results/tuned.csv", newline="") as file:
        return list(csv.DictReader(file))


GRID = ("--method", "SGD", "dro", "--seed", 3, 1, 2, "--validation", 100, "--jobs", 2)


def test_the_best_values_are_tested_with_the_other_seeds(sweep_here, stand_in) -> None:
    grid = ("--tune", "lr=0.1,1,101", *GRID)
    first = sweep_here(*grid)
    assert first.returncode == 0, first.stderr
    folders = {path.parent.relative_to("results") for path in Path("results").rglob("status")}
    trials = {path for path in folders if path.parts[0] == "tuning"}
    assert len(trials) == 6
    tested, tried = (map(settings_of, part) for part in (folders - trials, trials))
    found = {(s["method"], s["lr"], s["seed"], s["validation"], *s["tuned"]) for s in tested}
    assert found == {
        (method, lr, seed, None, "lr")
        for method, lr in (("SGD", 1.0), ("dro", 0.1))
        for seed in (1, 2)
    }
    assert {(s["validation"], s["seed"]) for s in tried} == {(100, 3)}
    sgd, dro = choices()
    assert (sgd["method"], sgd["lr"], sgd["lr=101.0"]) == ("SGD", "1.0", "diverged")
    assert (dro["method"], dro["lr"], dro["validation_accuracy"]) == ("dro", "0.1", "53.0")

    again = sweep_here(*grid)
    assert again.returncode == 0
    assert again.stdout.count(" 0 left to make") == 2
    assert not any("tuning" in note for note in read_runs(Path("results"))[1])


def test_a_dry_run_lists_the_trials_then_what_is_chosen(sweep_here, stand_in) -> None:
    grid = ("--tune", "lr=0.1,1", *GRID)
    before = sweep_here(*grid, "--dry-run")
    assert before.stdout.count("to make   results/tuning/") == 4
    assert "4 runs with the best values wait for unfinished trials" in before.stdout
    assert not Path("results").exists()
    # Each share makes the trials and the tests of its own cells.
    assert sweep_here(*grid, "--shard", "1/2").returncode == 0
    assert [row["method"] for row in choices()] == ["SGD"]
    after = sweep_here(*grid, "--dry-run").stdout
    assert after.count("finished  results/tuning/digits_SGD") == 2
    assert after.count("finished  results/digits_SGD") == 2
    assert after.count("to make   results/tuning/digits_dro") == 2
    assert "2 runs with the best values wait" in after
    assert sweep_here(*grid, "--shard", "2/2").returncode == 0
    assert [row["method"] for row in choices()] == ["SGD", "dro"]


def test_a_trial_of_unknown_status_chooses_nothing(sweep_here, stand_in) -> None:
    grid = ("--tune", "lr=0.1,1", *GRID)
    assert sweep_here(*grid).returncode == 0
    for status in Path("results/tuning").glob("*/status"):
        status.write_text("?")
    assert "wait for unfinished trials" in sweep_here(*grid, "--dry-run").stdout


def test_a_run_that_cannot_start_is_told_before_the_trials(
    sweep_here, train_here, scores_here
) -> None:
    """A file of the scores of the images that trials train on, which those of the runs are not."""
    words = ("--epochs", 1, "--validation", 300, "--record", "forgetting")
    assert train_here(*words, "--experiment-name", "run").returncode == 0
    assert scores_here("results/run", "--score", "forgetting", "--out", "s.npz").returncode == 0
    words = ("--tune", "lr=0.05,0.1", "--method", "coreset", "--coreset-file", "s.npz")
    outcome = sweep_here(*words, "--budget", 0.5, "--seed", 1, 2, "--validation", 300)
    assert outcome.returncode == 2
    assert (
        "--coreset-file s.npz: of 1142 training images, where this run has 1442" in outcome.stderr
    )
    assert not Path("results/tuning").exists()


def test_as_many_trials_for_each_method(sweep_here) -> None:
    grid = ("--tune", "lr=0.1,1", "--tune", "dro-beta=1,5,10", *GRID, "--dry-run")
    outcome = sweep_here(*grid)
    assert_refused(outcome, "--tune: SGD has 2 trials and dro has 6; give --trials 2")
    listed = sweep_here(*grid, "--trials", 2)
    assert listed.returncode == 0
    assert listed.stdout.count("tuning/digits_dro") == 2
    assert listed.stdout == sweep_here(*grid, "--trials", 2).stdout
    assert_refused(sweep_here(*grid, "--trials", 3), "--trials 3: SGD has 2 only")


@pytest.mark.parametrize(
    "words, fragments",
    [
        ("--tune lr", ["--tune", "'lr'", "lr=0.05,0.1"]),
        ("--tune lr=0.1,,1 --seed 1 2", ["'lr=0.1,,1'"]),
        ("--tune lr=0.1,1", ["nothing to run"]),
        ("--tune lr=0.1,1 --budget 1", ["--tune", "more than one --seed"]),
        ("--tune lr=0.1,1 --seed 1", ["--tune", "more than one --seed"]),
        ("--tune lr=0.1,x --seed 1 2", ["--lr", "'x'"]),
        ("--tune lrr=0.1,1 --seed 1 2", ["--lrr", "did you mean --lr?"]),
        ("--tune epochs=1,2 --seed 1 2", ["--tune epochs", "not to be tuned"]),
        ("--tune lr=1,2 --lr 3 --seed 1 2", ["--tune lr", "given twice"]),
        ("--tune lr=1,2 --tune lr=3 --seed 1 2", ["--tune lr", "given twice"]),
        ("--tune dro-beta=1,5 --seed 1 2", ["--tune dro-beta", "no method of the grid"]),
        ("--tune lr=1,2 --seed 1 2 --experiment-name x", ["--experiment-name", "--tune"]),
        ("--tune lr=1,2 --seed 1 2 --validation 5 6", ["--tune", "one --validation"]),
        ("--trials 3 --seed 1 2", ["--trials", "--tune"]),
        ("--tune lr=1,2 --seed 1 01", ["--tune", "more than one --seed"]),
    ],
)
def test_what_cannot_be_tuned_is_refused(words: str, fragments: list[str], sweep_here) -> None:
    assert_refused(sweep_here(*words.split()), *fragments)

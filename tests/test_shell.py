"""Results at the command line; settings from a file; what a newcomer types first."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import conftest
import pandas as pd
import pytest
from conftest import Completed

import sweep
from engine.config import RunConfig
from engine.flags import parse
from engine.settings_file import toml_of
from errors import UsageError
from plots.__main__ import main as plots_main

SHORT = ("--epochs", 2, "--batch-size", 64, "--model", "resnet10-w8", "--device", "cpu")


# --- --config ---


def test_every_run_leaves_a_file_that_repeats_it(train_here: Callable[..., Completed]) -> None:
    words = ("--method", "dro", "--dro-beta", 3, "--augmentation", "cutout", "--cutout-size", 3)
    words += ("--schedule", "step", "--milestones", 1, 2, "--record", "el2n", "--compute-budget")
    assert train_here(*words, *SHORT, "--seed", 7).returncode == 0
    (file,) = Path("results").glob("*/run.toml")
    settings = tomllib.loads(file.read_text())
    assert settings["milestones"] == [1, 2]
    assert settings["dro-beta"] == 3
    outcome = train_here("--config", file, "--experiment-name", "again")
    assert outcome.returncode == 0, outcome.stderr
    first, again = (
        pd.read_csv(folder / "curve.csv").filter(regex="^(?!.*_seconds)")
        for folder in (file.parent, Path("results/again"))
    )
    pd.testing.assert_frame_equal(first, again)
    ours, theirs = (
        json.loads((folder / "config.json").read_text())["settings"]
        for folder in (file.parent, Path("results/again"))
    )
    assert ours | {"experiment_name": "again"} == theirs
    conftest.assert_refused(train_here("--config", file), "holds a run (finished), this one")
    other = train_here("--config", file, "--epochs", 7)
    conftest.assert_refused(other, "with other settings, there and here: epochs 2 and 7; choose")


def test_flags_count_more_than_the_file(train_here: Callable[..., Completed]) -> None:
    Path("mine.toml").write_text(
        'method = "p-SGD"\nbudget = 0.5\nbatch-size = 64\nepochs = 9\nresume = false\n'
    )
    assert train_here("--config", "mine.toml", *SHORT, "--budget", "30%").returncode == 0
    config = json.loads(Path("results/digits_p-SGD_standard_b0.3_s1/config.json").read_text())
    assert config["settings"]["epochs"] == 2
    assert config["settings"]["resume"] is False


def test_settings_of_every_kind_survive_the_file(tmp_path: Path) -> None:
    from engine.flags import parse

    words = "--method coreset --coreset-file a.npz --budget 0.3 --schedule step --milestones 1 3 "
    words += "--record el2n,forgetting --log tensorboard,wandb --num-threads 1 --lr 0.05 "
    words += "--dataset folder --image-size 32 --data-dir X --checkpoint-every 5minutes"
    settings, _ = parse(words.split())
    settings.data_dir = 'with "quotes", \\ and umläuts'
    file = tmp_path / "run.toml"
    file.write_text(toml_of(settings))
    assert parse(["--config", str(file)])[0] == settings
    assert len(toml_of(RunConfig().resolved()[0]).splitlines()) == 4


def test_a_file_repeats_a_step_schedule_without_steps(tmp_path: Path) -> None:
    settings = parse(["--scheduler-type", "step", "--epochs", "8"])[0]
    assert settings.milestones == []
    file = tmp_path / "run.toml"
    file.write_text(toml_of(settings))
    again = parse(["--config", str(file)])[0]
    assert (again.schedule, again.milestones) == ("step", [])


def test_percentages_are_decimal_numbers() -> None:
    for tenths in range(1, 1000):
        text = f"{tenths / 10:.1f}"
        assert parse(["--budget", f"{text}%"])[0].budget == tenths / 1000
    with pytest.raises(UsageError, match="'x%' is not a number"):
        parse(["--budget", "x%"])


@pytest.mark.parametrize(
    "text, fragment",
    [
        (None, "No such file"),
        ("a = [", "not TOML"),
        ("no-such = 1", "--no-such: no such flag"),
        ("budget = 3", "--budget"),
        ("[grid]\nbudget = 1", "python sweep.py --grid"),
        ("budget = {a = 1}", "dict is not a text"),
    ],
)
def test_a_file_that_is_wrong(
    text: str | None, fragment: str, train_here: Callable[..., Completed]
) -> None:
    if text is not None:
        Path("mine.toml").write_text(text)
    conftest.assert_refused(train_here("--config", "mine.toml"), fragment, absent="results")


@pytest.mark.parametrize(
    "content, words, settings",
    [
        ('scheduler-type = "step"', "--schedule linear", {"schedule": "linear"}),
        ("c_sgd_warmup = 1", "--uniform-epochs 3", {"uniform_epochs": 3}),
        ('validation_exp = "True"\nval_samples = 100', "--validation 300", {"validation": 300}),
    ],
)
def test_the_command_line_has_its_way_in_other_words(content, words, settings, main_here) -> None:
    Path("mine.toml").write_text(f'method = "c-SGD"\nbudget = 0.5\n{content}\n')
    found = parse(["--config", "mine.toml", *words.split()])[0]
    options = vars(found) | found.method_options
    assert {name: options[name] for name in settings} == settings


def test_two_files_are_refused(train_here) -> None:
    for words in (("--config", "a", "--config=b"), ("--config=a", "--config", "b")):
        conftest.assert_refused(train_here(*words), "--config: give one TOML file")


@pytest.mark.parametrize("flag", ["--experiment-name", "--data-dir"])
def test_a_name_that_is_no_utf_8_is_refused(flag: str, train_here) -> None:
    outcome = train_here(flag, "x\udcff")
    conftest.assert_refused(outcome, flag, "not UTF-8", absent="results")


# --- What a newcomer types ---


@pytest.mark.parametrize(
    "words, name",
    [
        ("--method psgd --budget 30%", "digits_p-SGD_standard_b0.3_s1"),
        ("--method SELECTIVE_BACKPROP --budget 0.5", "digits_selective-backprop_standard_b0.5_s1"),
        ("--augmentation RandAugment", "digits_SGD_randaugment_b1_s1"),
    ],
)
def test_other_spellings_are_understood(
    words: str, name: str, train_here: Callable[..., Completed]
) -> None:
    assert train_here(*words.split(), *SHORT).returncode == 0
    settings = json.loads(Path("results", name, "config.json").read_text())["settings"]
    assert RunConfig(**settings).resolved()[0].experiment_name == name


@pytest.mark.parametrize(
    "words, fragment",
    [
        ("--gpu", "--gpu: no such flag; give --device cuda"),
        ("--list-methods", "give --list methods"),
        ("--dataset CIFAR", "did you mean cifar10?"),
        ("--budget 130%", "at most 1"),
        ("--workers 4", "give --num-threads"),
        ("--optimizer adam", "there is SGD only"),
    ],
)
def test_what_is_not_understood_is_told(
    words: str, fragment: str, train_here: Callable[..., Completed]
) -> None:
    conftest.assert_refused(train_here(*words.split()), fragment, absent="results")


def test_cifar10_in_capitals_is_the_same(train_here: Callable[..., Completed]) -> None:
    outcome = train_here("--dataset", "CIFAR-10", "--data-dir", "nowhere")
    assert outcome.returncode == 2
    assert "download of cifar10 failed" in outcome.stderr


def test_sweep_without_arguments_says_what_to_do(main_here: Callable[..., Completed]) -> None:
    conftest.assert_refused(main_here(sweep.main), "nothing to run; give flags of train.py")


def test_a_name_given_in_python_has_to_be_the_name() -> None:
    from errors import UsageError

    with pytest.raises(UsageError, match="`method`: 'psgd' is written 'p-SGD'"):
        RunConfig(method="psgd").resolved()


# --- list, compare, leaderboard ---


@pytest.fixture
def runs(train_here: Callable[..., Completed]) -> Path:
    for method in ("unif-SGD", "p-SGD"):
        for seed in (1, 2):
            words = ("--method", method, "--seed", seed, "--budget", 0.5)
            assert train_here(*words, *SHORT).returncode == 0
    return Path("results")


def test_a_run_says_what_it_cost(train_here: Callable[..., Completed]):
    outcome = train_here("--method", "p-SGD", "--budget", 0.5, *SHORT)
    *_, cost, _ = outcome.stdout.splitlines()
    assert cost.startswith("cost: 1,408 images trained on, 0 scored, 1.0 epochs of plain training")


def test_leaderboard_of_several_setups_keeps_their_cells_apart(
    train_here: Callable[..., Completed], main_here: Callable[..., Completed]
) -> None:
    """Also where their runs come in turns, as folders' names may have it."""
    for name, method, lr in (("a", "SGD", 0.1), ("b", "p-SGD", 0.2), ("c", "unif-SGD", 0.1)):
        words = ("--method", method, "--lr", lr, "--budget", 0.5, "--experiment-name", name)
        assert train_here(*words, *SHORT).returncode == 0
    outcome = main_here(plots_main, "leaderboard", "--csv")
    assert outcome.returncode == 0, outcome.stderr
    Path("board.csv").write_text(outcome.stdout)
    board = pd.read_csv("board.csv").set_index("method")["accuracy"]
    for name, method in (("a", "SGD"), ("b", "p-SGD"), ("c", "unif-SGD")):
        curve = pd.read_csv(f"results/{name}/curve.csv")
        assert board[method] == pytest.approx(curve["test_accuracy"].iloc[-1])


def test_list_shows_every_run(runs: Path, main_here: Callable[..., Completed]) -> None:
    (runs / "digits_p-SGD_standard_b0.5_s2/status").write_text("interrupted\n")
    outcome = main_here(plots_main, "list")
    assert outcome.returncode == 0
    head, *rows, count = outcome.stdout.splitlines()
    assert head.split() == ["run", "status", "epoch", "accuracy", "seconds"]
    assert count == "4 runs"
    assert [row.split()[1] for row in rows] == ["finished", "interrupted", "finished", "finished"]
    accuracy = pd.read_csv(runs / rows[0].split()[0] / "curve.csv")["test_accuracy"].iloc[-1]
    assert rows[0].split()[3] == f"{accuracy:.2f}"
    conftest_line = main_here(plots_main, "list", "nowhere")
    assert conftest_line.returncode == 2


def test_compare_shows_what_differs(runs: Path, main_here: Callable[..., Completed]) -> None:
    one, other = sorted(runs.glob("digits_*_s1"))
    outcome = main_here(plots_main, "compare", one, other)
    assert outcome.returncode == 0, outcome.stderr
    settings, curves = outcome.stdout.split("\n\n")
    assert [line.split()[0] for line in settings.splitlines()[1:]] == [
        "method",
        "smoothing",
        "last_visit",
        "uniform_epochs",
    ]
    rows = [line.split() for line in curves.splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[1][3] == f"{pd.read_csv(one / 'curve.csv')['test_accuracy'].iloc[-1]:.2f}"
    outcome = main_here(plots_main, "compare", one, "nowhere")
    assert outcome.returncode == 2
    assert "nowhere: no run there" in outcome.stderr


def test_leaderboard_has_the_best_first(runs: Path, main_here: Callable[..., Completed]) -> None:
    outcome = main_here(plots_main, "leaderboard", "--csv")
    assert outcome.returncode == 0, outcome.stderr
    Path("board.csv").write_text(outcome.stdout)
    board = pd.read_csv("board.csv").set_index("method")
    assert board["accuracy"].is_monotonic_decreasing
    for method, row in board.iterrows():
        curves = [pd.read_csv(p / "curve.csv") for p in runs.glob(f"digits_{method}_*")]
        last = pd.Series([curve["test_accuracy"].iloc[-1] for curve in curves])
        assert row["accuracy"] == pytest.approx(last.mean())
        assert row["n"] == 2
    gain = board.loc["p-SGD", "accuracy"] - board.loc["unif-SGD", "accuracy"]
    assert board.loc["p-SGD", "to unif-SGD"] == pytest.approx(gain)
    text = main_here(plots_main, "leaderboard").stdout
    assert re.search(r"^\| (p-SGD|unif-SGD) +\| standard +\| +50% \| 2 \|", text, re.MULTILINE)

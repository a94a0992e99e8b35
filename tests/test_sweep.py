"""What sweep.py makes of a grid: which runs, in which folders, and what it says of each."""

from __future__ import annotations

import csv
import fcntl
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import conftest
import pytest
from conftest import ROOT, Completed
from other_values import unlisted
from small_files import write_cifar10
from test_command_line import COMMANDS, CPU
from test_durability import has_checkpoint, wait_until

import sweep
from engine.config import settings_with
from engine.flags import build_parser, parse
from engine.run_folder import COLUMNS, RunFolder
from engine.signals import Signals
from engine.status import read_status
from engine.sweep import process
from engine.sweep.estimate import STARTING, epochs_made
from engine.sweep.grid import expand
from engine.sweep.local import Local, cores
from engine.sweep.options import read_command_line
from engine.sweep.progress import Progress
from engine.sweep.runs import Run, list_runs
from engine.sweep.schedule import Schedule
from engine.sweep.sweep import grids
from engine.sweep.tuning import list_cells
from engine.values import in_words
from errors import UsageError

assert_refused = partial(conftest.assert_refused, absent="results")


@pytest.fixture
def sweep_here(main_here: Callable[..., Completed]) -> Callable[..., Completed]:
    """`sweep.py --isolate` in this process, which has PyTorch imported already."""
    return partial(main_here, sweep.main, "--isolate")


def runs_of(*words: str) -> list[Run]:
    options, flags = read_command_line(words)
    if options.tune:
        cells, _ = list_cells(grids(options.grid, flags), dict(options.tune), options.trials)
        return [run for cell in cells for run in (*cell.trials, *cell.tests[0])]
    return list_runs(expand(grids(options.grid, flags)))[0]


def names_of(*words: str) -> list[str]:
    return [run.path.name for run in runs_of(*words)]


def write_ended(run: Run, status: str = "finished", **seconds: float) -> None:
    """The files of a run that has ended, of 1,000 training images, as far as a sweep reads them."""
    run.path.mkdir(parents=True)
    (run.path / "status").write_text(f"{status}\n")
    settings = run.settings
    steps = int(settings["budget"] * 1000) // settings["batch_size"] * settings["epochs"]
    config = {"settings": settings, "num_images": 1000, "versions": {}}
    (run.path / "config.json").write_text(json.dumps(config))
    with open(run.path / "curve.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval=0)
        writer.writeheader()
        writer.writerow({"epoch": settings["epochs"], "step": steps, **seconds})


# The grid


def test_a_grid_is_the_product_of_the_values() -> None:
    runs = runs_of("--method", "SGD", "p-SGD", "--budget", "0.2", "0.5", "--seed", "1", "2", "3")
    cells = [tuple(run.settings[name] for name in ("method", "budget", "seed")) for run in runs]
    assert cells == list(itertools.product(["SGD", "p-SGD"], [0.2, 0.5], [1, 2, 3]))
    for run in runs:
        settings, _ = parse(run.words)
        expected = vars(settings)
        assert run.settings == expected


def test_values_of_one_run_are_quoted() -> None:
    step = ("--schedule", "step", "--epochs", "9")
    runs = runs_of(*step, "--milestones", "3 6", "5")
    assert [run.settings["milestones"] for run in runs] == [[3, 6], [5]]


def test_flags_without_values() -> None:
    (run,) = runs_of("--deterministic", "--validation")
    assert (run.settings["deterministic"], run.settings["validation"]) == (True, 5000)


def test_other_spellings_of_flags() -> None:
    (run,) = runs_of("--epoch=3", "--wd", "0.5", "--experiment_name", "a name")
    assert (run.settings["epochs"], run.settings["weight_decay"]) == (3, 0.5)
    assert run.path == Path("results/a name")


def test_an_option_without_effect_makes_no_further_runs(sweep_here) -> None:
    grid = ("--method", "SGD", "dro", "--dro-beta", "1", "10")
    assert names_of(*grid) == [
        "digits_SGD_standard_b1_s1",
        "digits_dro_standard_b1_s1",
        "digits_dro_standard_b1_s1_dro-beta10",
    ]
    outcome = sweep_here(*grid, "--dry-run")
    assert outcome.stderr == "note: --dro-beta has no effect with SGD\n"


def test_a_grid_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(
        """
        [[grid]]
        method = "SGD"
        budget = 1.0
        seed = [1, 2]

        [[grid]]
        method = ["SGD", "p-SGD"]
        budget = [0.2, 1]
        deterministic = [true, false]
        schedule = "step"
        epoch = 9
        milestones = [[3, 6], [4, 5], 7]
        """
    )
    runs = runs_of("--grid", str(path), "--lr", "0.3", "--budget", "0.5")
    assert len(runs) == 2 + 2 * 2 * 3
    assert {(run.settings["budget"], run.settings["lr"]) for run in runs} == {(0.5, 0.3)}
    assert [run.settings["milestones"] for run in runs[2:5]] == [[3, 6], [4, 5], [7]]


def test_runs_of_two_grids_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text("[[grid]]\nseed = [1, 2]\n[[grid]]\nseed = [2, 3]\nbudget = 1\n")
    assert names_of("--grid", str(path)) == [
        f"digits_SGD_standard_b1_s{seed}" for seed in (1, 2, 3)
    ]


# Names of folders

#: For every flag that changes what is computed, other words than its default.
OTHER = {
    "--method": "p-SGD",
    "--augmentation": "ricap",
    "--dataset": "cifar10",
    "--train-images": "500",
    "--validation": "100",
    "--imbalance": "50",
    "--label-noise": "0.2",
    "--model": "resnet18",
    "--budget": "0.333333333",
    "--compute-budget": None,
    "--count-scoring-run": None,
    "--epochs": "7",
    "--batch-size": "64",
    "--lr": "0.05",
    "--momentum": "0.8",
    "--weight-decay": "0",
    "--schedule": "step",
    "--milestones": "3",
    "--gamma": "0.2",
    "--seed": "2",
    "--data-seed": "2",
    "--amp": "bf16",
    "--compile": None,
    "--tuned": "lr",
    "--sync-batchnorm": None,
    "--deterministic": None,
    "--smoothing": "0.5",
    "--uniform-epochs": "3",
    "--sb-beta": "2.5",
    "--dro-beta": "10",
    "--dro-init": "0.7",
    "--dro-momentum": "0.9",
    "--dro-importance": None,
    "--coreset-file": "other.npz",
    "--coreset-score": "el2n",
    "--coreset-select": "bottom",
    "--coreset-drop": "0.2",
    "--coreset-per-class": None,
    "--rho-file": "other.npz",
    "--rho-candidates": "4",
    "--infobatch-ratio": "0.7",
    "--infobatch-delta": "1",
    "--gradnorm-candidates": "5",
    "--gradnorm-tau": "1.5",
    "--obftf-candidates": "4",
    "--cvar-alpha": "0.1",
    "--alpha": "0.5",
    "--cutmix-alpha": "0.5",
    "--cutout-size": "3",
    "--randaugment-n": "1",
    "--randaugment-m": "30",
    "--image-size": "32",
    "--cache": "jpeg",
    "--labels": "other.csv",
    "--classes": "some.txt",
    "--groups": "some.csv",
}
#: What a flag needs beside it to have an effect.
COMPANY = {
    "--count-scoring-run": "--method coreset --coreset-file some.npz --compute-budget",
    "--milestones": "--schedule step",
    "--gamma": "--schedule step",
    "--smoothing": "--method p-SGD",
    "--uniform-epochs": "--method p-SGD",
    "--sb-beta": "--method selective-backprop",
    "--dro-beta": "--method dro",
    "--dro-init": "--method dro",
    "--dro-momentum": "--method dro",
    "--dro-importance": "--method dro",
    "--coreset-file": "--method coreset",
    "--coreset-score": "--method coreset --coreset-file some.npz",
    "--coreset-select": "--method coreset --coreset-file some.npz",
    "--coreset-per-class": "--method coreset --coreset-file some.npz",
    "--coreset-drop": "--method coreset --coreset-file some.npz --coreset-select stratified",
    "--rho-file": "--method rho-loss",
    "--rho-candidates": "--method rho-loss --rho-file some.npz",
    "--infobatch-ratio": "--method infobatch",
    "--infobatch-delta": "--method infobatch",
    "--gradnorm-candidates": "--method grad-norm",
    "--gradnorm-tau": "--method grad-norm",
    "--obftf-candidates": "--method obftf",
    "--cvar-alpha": "--method cvar",
    "--alpha": "--augmentation mixup",
    "--cutmix-alpha": "--augmentation cutmix",
    "--cutout-size": "--augmentation cutout",
    "--randaugment-n": "--augmentation randaugment",
    "--randaugment-m": "--augmentation randaugment",
    "--image-size": "--dataset folder",
    "--cache": "--dataset folder --image-size 32",
}
for option in unlisted({flag[2:].replace("-", "_") for flag in OTHER}).values():
    OTHER[option.flag] = option.text
    COMPANY[option.flag] = f"--{option.axis} {min(option.users)}"


def test_the_flags_named_here_are_all_that_change_a_run() -> None:
    flags = {flag for action in build_parser()._actions for flag in action.option_strings[:1]}
    shown = {flag for flag in flags if f"\n  {flag}" in build_parser().format_help()}
    incidental = {"--" + name.replace("_", "-") for name in settings_with("where")} | {
        "--no-resume",
        "-h",
        "--config",
        "--list",
    }
    assert shown - incidental == OTHER.keys()


@pytest.mark.parametrize("flag", OTHER)
def test_every_setting_changes_the_name(flag: str) -> None:
    company = COMPANY.get(flag, "").split()
    value = [OTHER[flag]] if OTHER[flag] else []
    plain = company or ["--seed", "1"]
    if flag.endswith("-file"):  # which the method cannot do without
        plain = [*company, flag, "some.npz"]
    assert names_of(*company, flag, *value) != names_of(*plain)


def test_a_run_of_defaults_has_the_name_that_train_py_gives_it() -> None:
    words = ("--dataset", "cifar10", "--method", "dro", "--budget", "0.3", "--seed", "4")
    words += ("--imbalance", "50", "--label-noise", "0.2")
    assert names_of(*words) == [parse(words)[0].experiment_name]


def test_a_name_does_not_depend_on_the_other_runs() -> None:
    few = names_of("--lr", "0.2", "--seed", "1")
    many = names_of("--lr", "0.1", "0.2", "--seed", "1", "2", "--epochs", "50")
    assert few == ["digits_SGD_standard_b1_s1_lr0.2"]
    assert few[0] in many


@pytest.mark.parametrize(
    "flag, values",
    [("--imbalance", "20 20.000001"), ("--label-noise", "0.2 0.20000001"), ("--lr", "1 1.0000001")],
)
def test_names_tell_nearly_equal_values_apart(flag: str, values: str) -> None:
    assert len(set(names_of(flag, *values.split()))) == 2


def test_names_tell_close_values_apart_and_are_plain() -> None:
    names = names_of("--budget", "0.3333333", "0.33333334", "--model", "hf_hub:timm/resnet18")
    assert len(set(names)) == 2
    assert all("/" not in name and ":" not in name for name in names)


# What is refused before anything starts


@pytest.mark.parametrize(
    "words, fragments",
    [
        ("", ["nothing to run", "--grid"]),
        ("word", ["'word'", "unexpected argument"]),
        ("--methd SGD", ["--methd", "did you mean --method?"]),
        ("--dryrun --seed 1", ["--dryrun", "did you mean --dry-run?"]),
        ("--method SGD p-SDG", ["--method", "'p-SDG'", "did you mean p-SGD?"]),
        ("--seed 1 2 x", ["--seed", "'x'", "whole number"]),
        ("--method", ["--method", "expected one argument"]),
        ("--deterministic yes", ["'yes'"]),
        ("--seed 1 --seed 2", ["--seed", "given twice", "all its values"]),
        ("--seed 1 --overwrite", ["--overwrite", "delete the folders"]),
        ("--seed 1 --no-resume", ["--no-resume", "delete the folders"]),
        ("--seed 1 --jobs 0", ["--jobs", "at least 1"]),
        ("--seed 1 --jobs 2 3", ["3"]),
        ("--seed 1 --shard 0/3", ["--shard", "'0/3'", "1/8"]),
        ("--seed 1 --shard 4/3", ["--shard", "'4/3'"]),
        ("--seed 1 --shard 2", ["--shard", "'2'"]),
        ("--seed 1 --cpus-per-run 2", ["--cpus-per-run", "add --ray"]),
        ("--seed 1 --gpus-per-run 0.5", ["--gpus-per-run", "add --ray"]),
        ("--seed 1 --ray --jobs 2", ["--jobs", "--cpus-per-run"]),
        ("--seed 1 --ray --gpus-per-run 1.5", ["--gpus-per-run 1.5", "whole number"]),
        ("--seed 1 2 --experiment-name x", ["results/x", "seed 1 and 2", "--experiment-name"]),
        ("--seed 1 --device cpu cuda", ["b1_s1: ", "device cpu and cuda"]),
        ("--seed 1 2 --experiment-name ../x", ["--experiment-name ../x", "plain name"]),
        ("--grid nowhere.toml", ["nowhere.toml", "No such file", "TOML"]),
        ("--grid .", ["--grid .", "directory"]),
    ],
)
def test_a_wrong_command_is_refused(words: str, fragments: list[str], sweep_here) -> None:
    assert_refused(sweep_here(*words.split()), *fragments)


@pytest.mark.parametrize(
    "content, fragments",
    [
        ("[grid]\nseed = [1, 2\nlr = 1\n", ["not TOML", "line 3"]),
        ("[grid]\nseed = 1\nseed = 2\n", ["not TOML", "line 3"]),
        (b"[grid]\nmodel = '\xff'\n", ["not TOML"]),
        ("", ["no table", "[grid]"]),
        ("grid = 3\n", ["no table", "[grid]"]),
        ("seed = 1\n", ["seed", "below [grid]"]),
        ("[grid]\nseed = 1\n[grids]\nlr = 1\n", ["grids"]),
        ("[grid]\nmetod = 'SGD'\n", ["--metod", "did you mean --method?"]),
        ("[grid]\njobs = 2\n", ["--jobs", "on the command line"]),
        ("[grid]\nmethod = 'SDG'\n", ["'SDG'", "did you mean SGD?"]),
        ("[grid]\nseed = []\n", ["--seed", "no values"]),
        ("[grid]\nseed = 2024-01-01\n", ["--seed", "not a text, a number"]),
        ("[grid]\nlr = [[true]]\n", ["--lr", "not a text, a number"]),
        ("[grid]\nepoch = 1\nepochs = 2\n", ["--epochs", "given twice"]),
        ("[grid]\noverwrite = true\n", ["--overwrite", "delete the folders"]),
    ],
)
def test_a_wrong_grid_file_is_refused(
    content: str | bytes, fragments: list[str], sweep_here, tmp_path: Path
) -> None:
    path = tmp_path / "grid.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(sweep_here("--grid", path), *fragments)


def test_the_last_of_400_runs_is_checked_within_seconds(sweep_here) -> None:
    start = time.process_time()
    seeds = [*range(399), "4OO"]
    assert_refused(sweep_here("--method", "dro", "--seed", *seeds), "--seed", "'4OO'")
    assert time.process_time() - start < 8


@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_a_folder_that_holds_another_run_is_refused(status: str, sweep_here) -> None:
    named = ("--experiment-name", "x", "--results-dir", "elsewhere")
    (run,) = runs_of(*named, "--lr", "0.1")
    write_ended(run, status)
    assert sweep_here(*named, "--lr", "0.1", "--num-threads", "3", "--dry-run").returncode == 0
    outcome = sweep_here(*named, "--lr", "0.2")
    assert_refused(outcome, "elsewhere/x", status, "lr 0.1 and 0.2", "--experiment-name", "delete")
    (run.path / "config.json").write_text("{")
    assert_refused(
        sweep_here(*named), "elsewhere/x", "config.json: not what train.py writes", "delete"
    )


def test_a_results_folder_that_cannot_be_written_is_refused(sweep_here, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = sweep_here("--seed", 1, "--results-dir", "file")
    assert_refused(outcome, "--results-dir", "cannot write to file", "choose another")


def test_ray_that_is_not_installed(sweep_here, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("engine.sweep.r")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = sweep_here("--seed", 1, "--ray")
    assert outcome.returncode == 2
    assert "pip install -r requirements-ray.txt" in outcome.stderr
    assert not Path("results").exists()


# The plan


def test_a_dry_run_lists_the_runs_and_starts_none(sweep_here) -> None:
    outcome = sweep_here("--seed", 1, 2, "--budget", 0.5, "--dry-run")
    assert outcome.returncode == 0
    assert outcome.stdout.splitlines() == [
        "to make   results/digits_SGD_standard_b0.5_s1",
        "to make   results/digits_SGD_standard_b0.5_s2",
        "2 runs, 2 left to make; no run like them has finished yet to estimate by",
    ]
    assert not Path("results").exists()


def test_a_dry_run_says_what_is_left(sweep_here) -> None:
    runs = runs_of("--seed", "1", "2", "3", "4")
    for run, status in zip(runs, ("finished", "diverged", "interrupted")):
        write_ended(run, status)
    lines = sweep_here("--seed", 1, 2, 3, 4, "--dry-run").stdout.splitlines()
    assert [line.partition("results")[0].strip() for line in lines[:4]] == [
        "finished",
        "diverged",
        "to resume",
        "to make",
    ]
    assert lines[4].startswith("4 runs, 2 left to make; ")


def test_the_estimate_scales_the_nearest_run(sweep_here) -> None:
    digits = ("--batch-size", "10", "--epochs", "10")
    near, far = runs_of(*digits, "--method", "dro", "SGD", "--budget", "0.5")
    # 0.1 s for each of 5,000 images, and 2 s for each of 10 evaluations.
    write_ended(near, select_seconds=100, data_seconds=100, train_seconds=300, eval_seconds=20)
    write_ended(far, train_seconds=1e6)
    wanted = ("--batch-size", 10, "--epochs", 20, "--method", "dro", "--budget", 1, "--dry-run")
    seconds = STARTING + 20 * (0.1 * 1000 + 2)
    one = sweep_here(*wanted).stdout
    assert f"; about {in_words(seconds)} with --jobs 1, by the speed of finished ones\n" in one
    four = sweep_here(*wanted, "--jobs", 4, "--seed", *range(8)).stdout
    assert f"; about {in_words(seconds * 8 / 4)} with --jobs 4, " in four
    other = sweep_here(*wanted, "--dataset", "digits", "cifar10").stdout
    assert f"; about {in_words(seconds * 2)} " in other
    assert "taken as average: 1 " in other


def test_damaged_runs_do_not_harm_the_estimate(sweep_here) -> None:
    (run,) = runs_of("--seed", "1")
    write_ended(run)
    for name in ("config.json", "curve.csv"):
        (run.path / name).write_text("")
        assert sweep_here("--seed", 2, "--dry-run").returncode == 0


@pytest.mark.parametrize(
    "seconds, words",
    {
        5: "5 seconds",
        89: "89 seconds",
        600: "10 minutes",
        7000: "1.9 hours",
        2e5: "2.3 days",
    }.items(),
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8])
def test_shards_are_an_exact_partition(count: int, sweep_here) -> None:
    grid = ("--method", "SGD", "dro", "--seed", 1, 2, 3, "--dry-run")
    whole = sweep_here(*grid).stdout.splitlines()[:-1]
    shards = [
        sweep_here(*grid, "--shard", f"{index}/{count}").stdout.splitlines()[:-1]
        for index in range(1, count + 1)
    ]
    assert sorted(itertools.chain(*shards)) == sorted(whole)
    assert {len(shard) for shard in shards} <= {6 // count, 6 // count + 1}
    assert shards[0] == whole[::count]


# Runs as processes, of a stand-in for train.py that takes no time

STAND_IN = """
import os, pathlib, signal, sys, time
words = sys.argv[1:]
given = {flag: value for flag, value in zip(words, words[1:]) if flag.startswith("--")}
folder = pathlib.Path(given.get("--results-dir", "results"), given["--experiment-name"])
print(os.environ["OMP_NUM_THREADS"], given["--num-threads"], flush=True)
if given["--seed"] == "2":
    print("first line\\n" * 9 + "train.py: a loss that became NaN")
    sys.exit(3)
if given["--seed"] == "3":
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "config.json").write_text(os.environ["CONFIG"].replace("SEED", given["--seed"]))
(folder / "status").write_text("finished")
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    (run,) = runs_of("--seed", "1")
    content = {"settings": {**run.settings, "seed": "SEED"}, "num_images": 1000, "versions": {}}
    config = json.dumps(content).replace('"SEED"', "SEED")
    monkeypatch.setenv("CONFIG", config)
    monkeypatch.setattr(process, "TRAIN", path)
    return path


def log_of(seed: int) -> str:
    return Path(f"results/digits_SGD_standard_b1_s{seed}/log.txt").read_text()


def test_failed_runs_are_reported_and_do_not_stop_the_others(sweep_here, stand_in: Path) -> None:
    outcome = sweep_here("--seed", 1, 2, 3, 4, "--jobs", 2)
    assert outcome.returncode == 1
    assert read_status(Path("results/digits_SGD_standard_b1_s4")) == "finished"
    assert outcome.stderr.splitlines() == [
        "2 of 4 runs failed:",
        "results/digits_SGD_standard_b1_s2: exit status 3",
        *["    first line"] * 4,
        "    train.py: a loss that became NaN",
        "results/digits_SGD_standard_b1_s3: killed by SIGKILL",
        f"    {max(1, cores() // 2)} {max(1, cores() // 2)}",
    ]
    again = sweep_here("--seed", 1, 2, 3, 4, "--jobs", 2)
    assert again.returncode == 1
    assert "4 runs, 2 left to make" in again.stdout
    assert [log_of(seed).count("--- train.py") for seed in (1, 2, 3, 4)] == [1, 2, 2, 1]


@pytest.mark.parametrize("jobs, threads", [(1, 12), (2, 6), (5, 2), (12, 1), (40, 1)])
def test_jobs_share_the_cores(jobs: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.sweep.local.cores", lambda: 12)
    assert Local(jobs).threads == threads


def test_threads_that_are_asked_for_are_given(sweep_here, stand_in: Path) -> None:
    assert sweep_here("--seed", 1, "--num-threads", 3).returncode == 0
    assert log_of(1).splitlines()[1] == "3 3"


def test_a_run_that_another_process_makes_is_waited_for(sweep_here, stand_in: Path) -> None:
    folder = Path("results/digits_SGD_standard_b1_s1")
    folder.mkdir(parents=True)
    with open(folder / "run.lock", "w") as lock:
        lock.write("process 1 on another machine\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(1, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        outcome = sweep_here("--seed", 1, 4)
    assert outcome.returncode == 0, outcome.stderr
    told = [line.partition("; ")[0] for line in outcome.stdout.splitlines()[2:]]
    assert told == [
        f"waiting for {folder}, in use by process 1 on another machine",
        "[1/2] finished: results/digits_SGD_standard_b1_s4",
        f"[2/2] finished: {folder}",
    ]


class Endless:
    """An executor whose runs do not hear that they are to stop."""

    pause = 0.1

    def __init__(self):
        self.running: list[Run] = []
        self.calls: list[str] = []

    def has_room(self) -> bool:
        return not self.running

    def start(self, run: Run) -> None:
        self.running.append(run)
        os.kill(os.getpid(), signal.SIGINT)

    def ended(self) -> Sequence:
        return []

    def stop(self) -> None:
        self.calls.append("stop")
        os.kill(os.getpid(), signal.SIGINT)

    def kill(self) -> None:
        self.calls.append("kill")


def test_a_second_interrupt_does_not_wait(sweep_here) -> None:
    endless = Endless()
    schedule = Schedule(runs_of("--seed", "1", "2"), endless, Progress(2, 0, None))
    with pytest.raises(KeyboardInterrupt):
        schedule.make(Signals())
    assert endless.calls == ["stop", "kill"]


class TakenAtStart(Endless):
    """An executor that finds a run's folder taken, by a sweep that has gone when it asks again."""

    def __init__(self, other: RunFolder):
        super().__init__()
        self.other = other

    def start(self, run: Run) -> None:
        self.calls.append("start")
        if len(self.calls) == 1:
            self.other.__enter__()
            raise UsageError("in use")
        self.other.__exit__()
        super().start(run)


def test_a_folder_that_is_taken_a_moment_before_is_waited_for(sweep_here) -> None:
    """And nothing that runs is killed."""
    (run,) = runs_of("--seed", "1")
    executor = TakenAtStart(run.folder)
    executor.pause = 0
    schedule = Schedule([run], executor, Progress(1, 0, None))
    schedule.start_runs()
    assert schedule.pending == [run]
    schedule.start_runs()  # waits: it is in use
    assert executor.calls == ["start"]
    executor.other.__exit__()
    with pytest.raises(KeyboardInterrupt):
        schedule.make(Signals())
    assert executor.calls[:2] == ["start", "start"]


# The real thing


@pytest.fixture
def start(no_network: None, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start sweep.py, from `tmp_path`; what still runs at the end of the test is killed."""
    started = []

    def start_one(*arguments: object) -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                [sys.executable, ROOT / "sweep.py", *map(str, arguments)],
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start_one
    for process_ in started:
        process_.kill()
        process_.communicate()


@pytest.mark.slow
def test_a_sweep_completes_what_is_missing(start: Callable, tmp_path: Path) -> None:
    write_cifar10(tmp_path / "data")  # which the first two runs want to decode at once
    small = ("--dataset", "cifar10", "--data-dir", "data", "--model", "resnet10-w16", *CPU)
    grid = ("--jobs", 2, *small, "--batch-size", 16, "--epochs", 2)
    grid = (*grid, "--seed", 1, 2, "--lr", 0.1, 1000)

    first = start(*grid)
    out, errors = first.communicate(timeout=120)
    assert first.returncode == 1, errors
    assert out.splitlines()[0].startswith("4 runs, 4 left to make; no run like them")
    assert out.splitlines()[-1].startswith("[4/4] ")
    folders = sorted((tmp_path / "results").iterdir())
    small_rate, large_rate = folders[::2], folders[1::2]
    assert all(folder.name.endswith("_lr1000") for folder in large_rate)
    assert [read_status(folder) for folder in small_rate] == ["finished"] * 2
    assert [read_status(folder) for folder in large_rate] == ["diverged"] * 2
    assert errors.startswith("2 of 4 runs failed:\n")
    assert errors.count("exit status 3\n    train.py: ") == 2
    for folder in small_rate:
        config = json.loads((folder / "config.json").read_text())
        assert config["threads"] == max(1, cores() // 2)
        assert config["command"].startswith("train.py --dataset cifar10 --data-dir data ")

    lost, kept = small_rate
    before = (kept / "model.pt").stat().st_mtime_ns
    shutil.rmtree(lost)
    second = start(*grid)
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 1
    assert out.splitlines()[0].startswith("4 runs, 1 left to make; about ")
    assert errors.count("diverged earlier; delete the folder to retry\n    train.py: ") == 2
    assert read_status(lost) == "finished"
    assert (kept / "model.pt").stat().st_mtime_ns == before
    assert [(folder / "log.txt").read_text().count("--- ") for folder in folders] == [1] * 4


@pytest.mark.slow
def test_a_sweep_that_is_stopped_and_killed_goes_on(start: Callable, tmp_path: Path) -> None:
    # Checkpoints are written only on being told to stop.
    grid = ("--jobs", 2, "--seed", 1, 2, 3, "--epochs", 40, "--budget", 0.5, *CPU)
    grid = (*grid, "--checkpoint-every", 1000)
    folders = [
        tmp_path / f"results/digits_SGD_standard_b0.5_s{seed}_epochs40" for seed in (1, 2, 3)
    ]

    def under_way(folder: Path) -> bool:
        return read_status(folder) == "running" and epochs_made(folder) > 2

    first = start(*grid)
    wait_until(lambda: all(map(under_way, folders[:2])))
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    out, errors = first.communicate(timeout=60)
    assert first.returncode == 130
    assert errors == "sweep.py: stopped by SIGINT; start the same command again to resume\n"
    assert [read_status(folder) for folder in folders] == ["interrupted", "interrupted", None]
    assert all(map(has_checkpoint, folders[:2]))
    assert "stopping: " in out

    second = start(*grid)
    wait_until(lambda: all(map(under_way, folders[:2])))
    second.kill()
    wait_until(lambda: [read_status(folder) for folder in folders[:2]] == ["interrupted"] * 2)

    third = start(*grid)
    out, errors = third.communicate(timeout=240)
    assert third.returncode == 0, errors
    assert [read_status(folder) for folder in folders] == ["finished"] * 3
    assert "[3/3] finished: " in out.splitlines()[-1]
    for folder, starts in zip(folders, (3, 3, 1)):
        log = (folder / "log.txt").read_text()
        assert log.count("--- train.py ") == starts
        assert log.count("resuming after step") == starts - 1
        assert log.count("accuracy after the last epoch") == 1


# The examples

#: The runs of each part of example_scripts.sh.
PARTS = {"demo": 108, "cpu": 243, "lengths": 7, "long": 45, "robustness": 33, "rivals": 216}
PARTS |= {"scores": 3, "regimes": 18, "tuned": 36, "priming": 9, "full": 33, "published": 4}
PARTS |= {"by_heart": 207, "by_heart_mini": 90, "fresh": 18}
PARTS |= dict.fromkeys(("cifar10", "cifar100", "svhn", "mini-imagenet"), 288)
#: Methods of the grids that compare all of them.
COMPARED = {"SGD", "unif-SGD", "p-SGD", "c-SGD", "selective-backprop", "dro", "random-subset"}
COMPARED |= {"coreset", "rho-loss", "infobatch", "grad-norm", "obftf", "cvar"}
NEWER = {"seta", "orderdp", "epsilon-greedy", "ucb", "ies", "divbs"}
NEWER |= {"loss-topk", "entropy-topk", "margin-topk"}
SCORED = ("cpu", "by_heart", "rivals", "scores")  # that make files of scores, or need them
CLAIMED = ("cpu", "by_heart_mini", "long", "fresh", "full")  # the published claims are judged


def calls_after(part: str) -> list[list[str]]:
    """What follows on the runs of a part."""
    modules = ("plots", "plots.claims") if part in CLAIMED else ("plots",)
    return [["-m", module, f"results/{part}"] for module in modules]


def calls_of_example(folder: Path, *words: str) -> list[list[str]]:
    """The arguments of each call of Python that example_scripts.sh makes."""
    (folder / "example_scripts.sh").symlink_to(ROOT / "example_scripts.sh")
    (folder / "setup.sh").write_text('PATH="$PWD/bin:$PATH"\n')
    (folder / "bin").mkdir()
    (folder / "bin/python").write_text('#!/bin/sh\necho "$@" >> calls\n')
    (folder / "bin/python").chmod(0o755)
    command = ["bash", str(folder / "example_scripts.sh"), *words]
    subprocess.run(command, check=True, env={**os.environ, "DATA_DIR": "some/data"})
    return [shlex.split(line) for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize("part", [part for part in PARTS if part not in SCORED])
def test_an_example_makes_its_runs_and_their_table(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeping, *after = calls_of_example(tmp_path, part, "--shard", "2/3")
    assert after == calls_after(part)
    assert sweeping[0] == "sweep.py"
    assert sweeping[-2:] == ["--shard", "2/3"]
    monkeypatch.chdir(ROOT)
    runs = runs_of(*sweeping[1:])
    assert len(runs) == PARTS[part]
    places = {(run.settings["results_dir"], run.settings["data_dir"]) for run in runs}
    folders = [f"results/{part}", f"results/{part}/tuning"][: 1 + ("--tune" in sweeping)]
    assert places == {(folder, "some/data") for folder in folders}


def test_files_of_scores_are_made_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = "cpu"
    first, scores, losses, sweeping, *after = calls_of_example(tmp_path, part, "--shard", "1/1")
    monkeypatch.chdir(ROOT)
    earlier = runs_of(*first[1:])
    folders = [str(run.path) for run in earlier]
    assert [run.settings["validation"] for run in earlier] == [None, 25000]
    assert scores[:3] == ["-m", "engine.scores", folders[0]]
    assert losses[:3] == ["-m", "engine.scores", folders[1]]
    assert sweeping[-2:] == ["--shard", "1/1"]
    runs = runs_of(*sweeping[1:])
    assert len(runs) == PARTS[part]
    assert {run.settings["method"] for run in runs} == COMPARED
    options = [run.settings["method_options"] for run in runs]
    assert {each["coreset_file"] for each in options if "coreset_file" in each} == {scores[-1]}
    assert {each["rho_file"] for each in options if "rho_file" in each} == {losses[-1]}
    assert after == calls_after(part)


def test_all_scores_are_made_before_all_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that the grid names is made, with the scores that it is asked for."""
    calls = calls_of_example(tmp_path, "rivals")
    alone = tmp_path / "alone"
    alone.mkdir()
    assert calls_of_example(alone, "scores") == calls[:5]
    monkeypatch.chdir(ROOT)
    assert len(runs_of(*calls[0][1:])) == PARTS["scores"]
    asked = {words[-1]: words[words.index("--score") + 1] for words in calls if "--score" in words}
    sweeping = next(words for words in calls if "results/rivals" in words)
    runs = runs_of(*sweeping[1:])
    assert len(runs) == PARTS["rivals"]
    assert {run.settings["method"] for run in runs} == COMPARED | NEWER
    for run in runs:
        options = run.settings["method_options"]
        if "coreset_file" in options and options["coreset_score"]:
            assert options["coreset_score"] in asked[options["coreset_file"]].split(",")
        assert options.get("rho_file", "results/scoring/irreducible.npz") in asked
    assert calls[-1] == ["-m", "plots", "results/rivals"]


def test_scores_of_full_training_are_made_before_what_goes_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results/by_heart"
    for seed in range(1, 6):
        (folder / f"cifar10_SGD_standard_n5000_b1_s{seed}_model").mkdir(parents=True)
    calls = calls_of_example(tmp_path, "by_heart")
    first, second = (words for words in calls if words[0] == "sweep.py")
    kinds = [" ".join(words[:2]) for words in calls]
    assert kinds == [
        "sweep.py --results-dir",
        "-m plots",
        *["-m engine.scores"] * 2,
        "train.py --dataset",
        "-m engine.scores",
        "sweep.py --results-dir",
        "-m plots",
        "-m plots.claims",
        *["-m plots"] * 2,
    ]
    monkeypatch.chdir(ROOT)
    runs = runs_of(*first[1:])
    assert len(runs) == PARTS["by_heart"]
    scored = runs_of(*second[1:])
    assert len(scored) == 42
    methods = {run.settings["method"] for run in [*runs, *scored]}
    assert methods == COMPARED | NEWER
    asked = {words[-1]: words for words in calls if words[1] == "engine.scores"}
    for run in scored:
        options = run.settings["method_options"]
        words = asked[options.get("coreset_file") or options["rho_file"]]
        names = words[words.index("--score") + 1].split(",")
        assert options.get("coreset_score") in (None, *names)
    recorded = {run.path.name for run in runs if run.settings["record"]}
    assert len(recorded) == 3
    half = parse(next(words for words in calls if words[0] == "train.py")[1:])[0]
    common = ("dataset", "model", "train_images", "epochs", "amp", "batch_size", "lr")
    assert {getattr(half, name) for name in common} == {runs[0].settings[name] for name in common}
    assert half.validation == half.train_images // 2


def test_files_of_scores_are_not_made_twice(tmp_path: Path) -> None:
    made = ("scoring/scores.npz", "scoring/irreducible.npz", "scores/features.npz")
    for path in (tmp_path / "results" / name for name in made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    sweeping, *after = calls_of_example(tmp_path, "rivals")
    assert "results/rivals" in sweeping
    assert after == calls_after("rivals")


@pytest.mark.parametrize("part, sweeps", [("demo", 1), ("long", 1), ("rivals", 3), ("cpu", 2)])
def test_a_dry_run_of_an_example_makes_nothing(part: str, sweeps: int, tmp_path: Path) -> None:
    calls = calls_of_example(tmp_path, part, "--dry-run")
    assert len(calls) == sweeps
    assert all(words[0] == "sweep.py" and words[-1] == "--dry-run" for words in calls)


def test_the_study_of_segmentation_is_one_command(tmp_path: Path) -> None:
    making, table = calls_of_example(tmp_path, "nnunet", "some/folder", "--jobs", "2")
    assert making[:3] == ["-m", "segmentation.study", "some/folder"]
    assert making[3:] == ["--jobs", "2", "--home", "some/data/nnunet"]
    assert table == ["-m", "plots.segmentation", "results/hippocampus"]


def test_the_examples_are_listed() -> None:
    command = ["bash", str(ROOT / "example_scripts.sh")]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for part, runs in PARTS.items():
        assert f" {part}" in listed
        assert f"{runs} runs" in listed or part == "published"
    unknown = subprocess.run([*command, "dmeo"], capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "dmeo" in unknown.stderr


def test_the_published_grid_is_the_published_commands() -> None:
    runs = runs_of("--grid", str(ROOT / "configs/published.toml"))
    published = [vars(parse(shlex.split(command))[0]) for command in COMMANDS.values()]
    assert [{**run.settings} for run in runs] == [{**settings} for settings in published]

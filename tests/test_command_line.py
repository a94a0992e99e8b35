"""What train.py does with a command line, right or wrong, as its user sees it."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_files
import torch
from conftest import ROOT, Completed, assert_refused, run_command
from other_values import unlisted
from PIL import Image
from test_methods import SCORED

from augmentations import AUGMENTATIONS
from benchmarks.score_files import noise_options
from data import DATASETS
from engine import published
from engine.flags import build_parser, parse
from engine.flags import main as train_main
from engine.models import create_model
from engine.options import options_of
from engine.run_folder import COLUMNS
from methods import METHODS, Selecting

#: On a processor a seed gives the same bits every time.
CPU = ("--device", "cpu")
#: A run of digits that takes a fraction of a second: 9 steps of 32 images an epoch.
SHORT = ("--epochs", 1, "--budget", 0.2, "--batch-size", 32, *CPU)
NAME = "digits_SGD_standard_b0.2_s1"  # of the folder that SHORT makes


def read_curve(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "curve.csv")


def read_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def read_status(folder: Path) -> str:
    return (folder / "status").read_text().strip()


def without_seconds(curve: pd.DataFrame) -> pd.DataFrame:
    return curve[[column for column in curve if not column.endswith("_seconds")]]


# The run without arguments


@pytest.fixture(scope="module")
def plain(
    train_command: Callable[..., Completed], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Completed, Path]:
    """`python train.py` with nothing but fewer epochs and another results folder."""
    results = tmp_path_factory.mktemp("plain")
    outcome = train_command("--epochs", 2, "--results-dir", results)
    return outcome, results / "digits_SGD_standard_b1_s1"


@pytest.mark.slow
def test_a_plain_run_says_where_its_curve_is(plain) -> None:
    outcome, folder = plain
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    lines = outcome.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[-1] == f"curve: {folder / 'curve.csv'}"
    assert (folder / "curve.csv").is_file()


@pytest.mark.slow
def test_a_plain_run_leaves_its_files_and_no_others(plain) -> None:
    _, folder = plain
    names = {path.name for path in folder.iterdir()}
    wanted = {"config.json", "curve.csv", "model.pt", "per_class.csv", "run.lock", "status"}
    assert names == {*wanted, "run.toml"}
    assert read_status(folder) == "finished"


@pytest.mark.slow
def test_the_config_of_a_plain_run(plain) -> None:
    _, folder = plain
    config = read_config(folder)
    settings, _ = parse([])
    expected = {**vars(settings), "epochs": 2, "results_dir": str(folder.parent)}
    assert config["settings"] == expected
    assert config["command"] == f"train.py --epochs 2 --results-dir {folder.parent}"
    assert config["evaluated_on"] == "test"
    assert (config["num_images"], config["num_classes"]) == (1442, 10)
    assert (config["steps_per_epoch"], config["total_steps"]) == (11, 22)
    assert config["versions"]["torch"] == version("torch")
    assert config["versions"]["python"] == sys.version.split()[0]


@pytest.mark.slow
def test_the_curve_of_a_plain_run(plain) -> None:
    _, folder = plain
    curve = read_curve(folder)
    assert tuple(curve.columns) == COLUMNS
    assert curve["epoch"].tolist() == [1, 2]
    assert curve["step"].tolist() == [11, 22]
    assert curve["images_trained"].tolist() == [11 * 128, 22 * 128]
    assert curve["images_scored"].tolist() == [0, 0]
    middle = 0.1 + (1e-6 - 0.1) * 10 / 21
    assert curve["lr"].tolist() == pytest.approx([middle, 1e-6])
    assert curve["test_accuracy"].iloc[-1] > 50
    assert (curve["count_entropy"] <= math.log(1442)).all()
    assert (curve["count_entropy"] > math.log(1300)).all()
    seconds = curve[[column for column in curve if column.endswith("_seconds")]]
    assert (seconds.iloc[0] > 0).all()
    assert (seconds.iloc[1] > seconds.iloc[0]).all()


@pytest.mark.slow
def test_the_model_of_a_plain_run_has_the_accuracy_of_its_curve(plain) -> None:
    _, folder = plain
    config = read_config(folder)
    dataset = DATASETS["digits"].load(Path("nowhere"))
    model = create_model(config["settings"]["model"], 1, 10, 8)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    assert sum(weights.numel() for weights in model.parameters()) == config["parameters"]
    images = (torch.from_numpy(dataset.test_images) / 255 - dataset.mean[0]) / dataset.std[0]
    with torch.no_grad():
        guesses = model.eval()(images).argmax(1)
    hits = (guesses == torch.from_numpy(dataset.test_labels)).sum()
    accuracy = read_curve(folder)["test_accuracy"].iloc[-1]
    assert 100 * float(hits) / len(guesses) == pytest.approx(accuracy, abs=0.3)


def test_the_defaults_are_those_of_the_study() -> None:
    settings, notes = parse(["--dataset", "cifar10"])
    assert notes == []
    expected = dict(method="SGD", augmentation="standard", model="resnet18", budget=1.0)
    expected |= dict(epochs=200, batch_size=128, lr=0.1, momentum=0.9, weight_decay=1e-4)
    expected |= dict(schedule="linear", validation=None, data_seed=42, device="auto")
    assert vars(settings) | expected == vars(settings)


# The commands of the published study

COMMANDS = {
    "cifar10": '--epoch 200 --dataset "cifar10" --num_classes 10 --augmentation "ricap" '
    '--method "unif-SGD" --budget 0.3 --experiment_name unif-SGD_cifar10_ricap_b03',
    "cifar100": '--epoch 200 --dataset "cifar100" --num_classes 100 --augmentation "mixup" '
    '--method "p-SGD" --budget 0.3 --experiment_name p-SGD_cifar100_mixup_b03',
    "svhn": '--epoch 200 --dataset "svhn" --num_classes 10 --augmentation "randaugment" '
    '--method "p-SGD" --budget 0.3 --experiment_name p-SGD_svhn_randaugment_b03',
    "mini-imagenet": '--epoch 200 --dataset "mini-imagenet" --num_classes 100 '
    '--augmentation "standard" --method "unif-SGD" --budget 0.3 '
    "--experiment_name unif-SGD_mini-imagenet_standard_b03",
}
#: dataset: number of classes, augmentation, method, training images of the small files
FACTS = {
    "cifar10": (10, "ricap", "unif-SGD", 200),
    "cifar100": (100, "mixup", "p-SGD", 200),
    "svhn": (10, "randaugment", "p-SGD", 120),
    "mini-imagenet": (100, "standard", "unif-SGD", 250),
}


@pytest.mark.parametrize("dataset", COMMANDS)
def test_a_published_command_means_the_study(dataset: str) -> None:
    settings, notes = parse(shlex.split(COMMANDS[dataset]))
    classes, augmentation, method, _ = FACTS[dataset]
    assert notes == []
    expected = dict(dataset=dataset, num_classes=classes, augmentation=augmentation, method=method)
    expected |= dict(budget=0.3, epochs=200, batch_size=128, lr=0.1, momentum=0.9)
    expected |= dict(weight_decay=1e-4, schedule="linear", milestones=[], model="resnet18")
    expected |= dict(validation=None, experiment_name=f"{method}_{dataset}_{augmentation}_b03")
    assert vars(settings) | expected == vars(settings)


@pytest.fixture(scope="module")
def published_runs(
    train_forks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Completed], Path]:
    """The published commands on small files, with a few flags after their own."""
    data, results = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("results")
    smaller = ("--epochs", 2, "--batch-size", 16, "--model", "resnet10-w16", *CPU)
    places = ("--data-dir", data, "--results-dir", results)
    for dataset in COMMANDS:
        small_files.WRITERS[dataset](data)
    commands = [[*shlex.split(command), *smaller, *places] for command in COMMANDS.values()]
    return dict(zip(COMMANDS, train_forks(commands))), results


@pytest.mark.slow
@pytest.mark.parametrize("dataset", COMMANDS)
def test_a_published_command_runs(dataset: str, published_runs) -> None:
    outcomes, results = published_runs
    outcome = outcomes[dataset]
    assert outcome.returncode == 0, outcome.stderr
    classes, augmentation, method, images = FACTS[dataset]
    folder = results / f"{method}_{dataset}_{augmentation}_b03"
    assert outcome.stdout.splitlines()[-1] == f"curve: {folder / 'curve.csv'}"
    config, curve = read_config(folder), read_curve(folder)
    steps = images * 3 // 10 // 16
    assert (config["num_images"], config["num_classes"]) == (images, classes)
    assert (config["steps_per_epoch"], config["total_steps"]) == (steps, 2 * steps)
    assert curve["step"].tolist() == [steps, 2 * steps]
    model = torch.load(folder / "model.pt", weights_only=True)
    assert model["classifier.weight"].shape[0] == classes
    assert read_status(folder) == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("dataset", COMMANDS)
def test_a_published_command_warns_of_nothing(dataset: str, published_runs) -> None:
    outcomes, _ = published_runs
    assert outcomes[dataset].stderr == ""


@pytest.mark.parametrize(
    "words, expected",
    [
        ("--wd 5e-4", dict(weight_decay=5e-4)),
        ("--wd=5e-4 --batch_size=100 --lr=0.2", dict(weight_decay=5e-4, batch_size=100, lr=0.2)),
        ("--seed_initialization 7", dict(seed=7)),
        ("--seed_dataset 8", dict(data_seed=8)),
        ("--train_root elsewhere", dict(data_dir="elsewhere")),
        ("--validation_exp True --val_samples 100", dict(validation=100)),
        ("--val_samples=100 --validation_exp=True", dict(validation=100)),
        ("--validation_exp True", dict(validation=5000)),
        ("--validation_exp False", dict(validation=None)),
        (
            "--epoch 10 --scheduler_type step --M 3 --M 5 --gamma_scheduler 0.2",
            dict(epochs=10, schedule="step", milestones=[3, 5], gamma=0.2),
        ),
        ("--scheduler_type linear", dict(schedule="linear", milestones=[])),
        ("--scheduler_type standard --M 3 --epoch 4", dict(schedule="step", milestones=[3])),
        ("--method None --augmentation CE", dict(method="SGD", augmentation="standard")),
        ("--augmentation RICAP", dict(augmentation_options=dict(alpha=0.3), augmentation="ricap")),
        (
            "--augmentation randaugment --randaugm_N 3 --randaugm_M 9",
            dict(augmentation_options=dict(randaugment_n=3, randaugment_m=9)),
        ),
        (
            "--method selective_backpropagation --SB_sensitivity 2",
            dict(
                method="selective-backprop", method_options=dict(sb_beta=2.0, uniform_epochs=None)
            ),
        ),
        (
            "--method selective_backpropagation",
            dict(method_options=dict(sb_beta=None, uniform_epochs=None)),
        ),
        ("--experiment_name some_name", dict(experiment_name="some_name")),
    ],
)
def test_other_published_flags(words: str, expected: dict) -> None:
    settings, notes = parse(words.split())
    assert vars(settings) | expected == vars(settings)
    assert notes == []


@pytest.mark.parametrize("flag", published.WITHOUT_EFFECT)
def test_a_published_flag_without_counterpart_is_noted(flag: str) -> None:
    settings, notes = parse([flag.replace("-", "_").replace("__", "--", 1), "4"])
    assert len(notes) == 1
    assert flag in notes[0]
    assert "no effect" in notes[0]
    assert vars(settings).keys() == vars(parse([])[0]).keys()


@pytest.mark.parametrize("schedule", ["step", "standard"])
def test_the_published_step_schedule_without_milestones_is_constant(schedule: str) -> None:
    settings, notes = parse(["--scheduler_type", schedule, "--epoch", "40"])
    assert (settings.schedule, settings.milestones) == ("step", [])
    (note,) = notes
    assert note.startswith("--scheduler-type step without --M: the learning rate stays constant")
    settings, notes = parse(["--schedule", "step", "--epochs", "40"])
    assert settings.milestones == [20, 30]
    assert notes == []


@pytest.mark.parametrize(
    "words, reason",
    [
        ("--gamma 0.5", "with --schedule linear"),
        ("--gamma_scheduler 0.5 --scheduler_type linear", "with --schedule linear"),
        ("--gamma_scheduler 0.5 --scheduler_type step", "without milestones"),
        ("--schedule step --epochs 1 --gamma 0.5", "without milestones"),
    ],
)
def test_a_factor_without_milestones_is_noted(words: str, reason: str) -> None:
    settings, notes = parse(words.split())
    assert notes[-1] == f"--gamma has no effect {reason}"
    assert settings.gamma == 0.1


def test_preloading_is_said_to_depend_on_memory() -> None:
    _, notes = parse(["--pre_load", "True", "--resident-limit", "0"])
    assert notes == [
        "--pre-load has no effect: images are kept in memory where they fit, see --resident-limit"
    ]


def test_notes_are_printed_a_line_each(train_here) -> None:
    outcome = train_here(*SHORT, "--num_workers", 4, "--alpha", 1, "--milestones", 1)
    assert outcome.returncode == 0
    lines = outcome.stderr.splitlines()
    assert len(lines) == 3
    for line, flag in zip(lines, ("--num-workers", "--alpha", "--milestones")):
        assert line.startswith(f"note: {flag} has no effect")


# Methods, augmentations and their options


def constructor_defaults(constructor: type) -> dict[str, object]:
    return {name: default for name, (_, default, _) in options_of(constructor).items()}


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_with_every_augmentation(
    method: str, augmentation: str, train_here, tmp_path: Path
) -> None:
    labels = DATASETS["digits"].load(tmp_path).train_labels
    needed = noise_options(method, "digits", labels, tmp_path / "scores.npz")
    outcome = train_here(
        *("--method", method, "--augmentation", augmentation),
        *(*SHORT, "--budget", 0.05),
        *(f"--{name.replace('_', '-')}={value}" for name, value in needed.items()),
    )
    assert outcome.returncode == 0
    assert outcome.stderr == ""
    folder = tmp_path / "results" / f"digits_{method}_{augmentation}_b0.05_s1"
    settings = read_config(folder)["settings"]
    assert (settings["method"], settings["augmentation"]) == (method, augmentation)
    assert settings["method_options"] == constructor_defaults(METHODS[method]) | needed
    assert settings["augmentation_options"] == constructor_defaults(AUGMENTATIONS[augmentation])
    curve = read_curve(folder)
    assert curve["images_trained"].tolist() == [64]
    if method in SCORED:
        assert curve["images_scored"].tolist() == [64 * (SCORED | {"rho-loss": 10})[method]]


OPTIONS = {
    "smoothing": ("--smoothing 0.5", 0.5, {"p-SGD", "c-SGD"}),
    "uniform_epochs": (
        "--uniform-epochs 3",
        3,
        {name for name, method in METHODS.items() if issubclass(method, Selecting)},
    ),
    "sb_beta": ("--sb-beta 2.5", 2.5, {"selective-backprop"}),
    "dro_beta": ("--dro-beta 10", 10.0, {"dro"}),
    "dro_init": ("--dro-init 0.7", 0.7, {"dro"}),
    "dro_momentum": ("--dro-momentum 0.9", 0.9, {"dro"}),
    "dro_importance": ("--dro-importance", True, {"dro"}),
    "coreset_file": ("--coreset-file scores.npz", "scores.npz", {"coreset"}),
    "coreset_score": ("--coreset-score el2n", "el2n", {"coreset"}),
    "coreset_select": ("--coreset-select bottom", "bottom", {"coreset"}),
    "coreset_per_class": ("--coreset-per-class", True, {"coreset"}),
    "rho_file": ("--rho-file losses.npz", "losses.npz", {"rho-loss"}),
    "rho_candidates": ("--rho-candidates 4", 4, {"rho-loss"}),
    "infobatch_ratio": ("--infobatch-ratio 0.7", 0.7, {"infobatch"}),
    "infobatch_delta": ("--infobatch-delta 1", 1.0, {"infobatch"}),
    "gradnorm_candidates": ("--gradnorm-candidates 5", 5, {"grad-norm"}),
    "gradnorm_tau": ("--gradnorm-tau 1.5", 1.5, {"grad-norm"}),
    "obftf_candidates": ("--obftf-candidates 4", 4, {"obftf"}),
    "cvar_alpha": ("--cvar-alpha 0.1", 0.1, {"cvar"}),
    "alpha": ("--alpha 0.5", 0.5, {"mixup", "ricap"}),
    "cutmix_alpha": ("--cutmix-alpha 0.5", 0.5, {"cutmix"}),
    "cutout_size": ("--cutout-size 3", 3, {"cutout"}),
    "randaugment_n": ("--randaugment-n 1", 1, {"randaugment"}),
    "randaugment_m": ("--randaugment-m 30", 30, {"randaugment"}),
}
OPTIONS_LISTED = frozenset(OPTIONS)
OPTIONS |= {
    name: (" ".join(filter(None, (each.flag, each.text))), each.value, each.users)
    for name, each in unlisted(OPTIONS).items()
}


def test_the_options_tested_here_are_all_that_there_are() -> None:
    declared = [constructor_defaults(each) for each in (*METHODS.values(), *AUGMENTATIONS.values())]
    assert {name for options in declared for name in options} == OPTIONS.keys()


@pytest.mark.parametrize("chosen", [*METHODS, *AUGMENTATIONS])
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_taken_by_those_that_use_it_and_noted_by_the_others(
    option: str, chosen: str
) -> None:
    words, value, users = OPTIONS[option]
    kind = "method" if chosen in METHODS else "augmentation"
    settings, notes = parse([f"--{kind}", chosen, *words.split()])
    taken = settings.method_options | settings.augmentation_options
    assert not hasattr(settings, option)
    if chosen in users:
        assert taken[option] == value
        assert type(taken[option]) is type(value)
        assert notes == []
    else:
        assert option not in taken
        assert len(notes) == 1
        assert notes[0].startswith(words.split()[0] + " has no effect")


# Seeds


def files_of_run(train_here, name: str, *arguments: object) -> tuple[pd.DataFrame, bytes]:
    outcome = train_here(*SHORT, "--epochs", 2, "--experiment-name", name, *arguments)
    assert outcome.returncode == 0, outcome.stderr
    folder = Path("results") / name
    return without_seconds(read_curve(folder)), (folder / "model.pt").read_bytes()


@pytest.mark.parametrize(
    "method, augmentation",
    [
        ("SGD", "standard"),
        ("unif-SGD", "randaugment"),
        ("p-SGD", "mixup"),
        ("c-SGD", "ricap"),
        ("selective-backprop", "ricap"),
        ("dro", "mixup"),
        ("random-subset", "standard"),
        ("p-SGD", "cutmix"),
        ("SGD", "cutout"),
        ("dro", "trivialaugment"),
    ],
)
def test_a_seed_gives_one_result_and_another_seed_another(
    method: str, augmentation: str, train_here
) -> None:
    arguments = ("--method", method, "--augmentation", augmentation)
    first_curve, first_model = files_of_run(train_here, "first", *arguments, "--seed", 5)
    again_curve, again_model = files_of_run(train_here, "again", *arguments, "--seed", 5)
    other_curve, other_model = files_of_run(train_here, "other", *arguments, "--seed", 6)
    pd.testing.assert_frame_equal(first_curve, again_curve, check_exact=True)
    assert first_model == again_model
    assert (first_curve["train_loss"] != other_curve["train_loss"]).all()
    assert first_model != other_model


def test_the_data_seed_changes_what_is_held_out(train_here) -> None:
    validation = ("--validation", 200)
    first, _ = files_of_run(train_here, "first", *validation)
    again, _ = files_of_run(train_here, "again", *validation)
    other, _ = files_of_run(train_here, "other", *validation, "--data-seed", 1)
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert (first["test_loss"] != other["test_loss"]).all()


def test_a_validation_run_says_so(train_here) -> None:
    train_here(*SHORT, "--validation_exp", "True", "--val_samples", 200)
    config = read_config(Path("results") / NAME)
    assert config["evaluated_on"] == "validation"
    assert config["num_images"] == 1242


# The schedule by steps


def test_the_rate_falls_at_published_milestones(train_here) -> None:
    outcome = train_here(
        *SHORT,
        *[
            "--epoch",
            "4",
            "--scheduler_type",
            "step",
            "--M",
            "1",
            "--M",
            "3",
            "--gamma_scheduler",
            "0.2",
        ],
    )
    assert outcome.returncode == 0
    curve = read_curve(Path("results") / NAME)
    assert curve["lr"].tolist() == pytest.approx([0.1, 0.02, 0.02, 0.004])


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_the_first_epoch_has_the_rate_asked_for(epochs: int, train_here) -> None:
    outcome = train_here(*SHORT, "--schedule", "step", "--lr", 0.05, "--epochs", epochs)
    assert outcome.returncode == 0
    assert read_curve(Path("results") / NAME)["lr"].iloc[0] == pytest.approx(0.05)


# Input that is refused: command lines

REFUSED = {
    "a method misspelt": ("--method p-SDG", ["--method", "'p-SDG'", "did you mean p-SGD?"]),
    "a method misspelt in capitals": ("--method DR0", ["--method", "did you mean dro?"]),
    "an augmentation misspelt": (
        "--augmentation mixup2",
        ["--augmentation", "'mixup2'", "did you mean mixup?"],
    ),
    "a data set misspelt": ("--dataset cifar-11", ["--dataset", "did you mean cifar10?"]),
    "a data set unlike any": ("--dataset zzz", ["--dataset", "'zzz'", "digits, fashion-mnist"]),
    "a network misspelt": (
        "--model resnet10w16",
        ["--model resnet10w16", "did you mean resnet10-w16?"],
    ),
    "a network unlike any": ("--model zzzzzz", ["--model zzzzzz", "resnet18", "timm"]),
    "a flag misspelt": ("--buget 0.3", ["--buget", "did you mean --budget?"]),
    "a flag with an equals sign misspelt": ("--batchsize=3", ["did you mean --batch-size?"]),
    "a flag cut short": ("--augment ricap", ["--augment:", "did you mean --augmentation?"]),
    "a word of no flag": ("unif-SGD", ["'unif-SGD'", "--help"]),
    "a flag without its value": ("--results-dir", ["--results-dir", "expected one argument"]),
    "epochs: zero": ("--epochs 0", ["--epochs", "'0'", "at least 1"]),
    "epochs: minus one": ("--epochs -1", ["--epochs", "'-1'", "at least 1"]),
    "epochs: a fraction": ("--epochs 2.5", ["--epochs", "'2.5'", "whole number"]),
    "epochs: a word": ("--epochs many", ["--epochs", "'many'", "whole number"]),
    "epochs: absurdly many": ("--epochs 99999999999", ["--epochs", "at most"]),
    "epochs under their published name": ("--epoch 0", ["--epochs", "'0'", "at least 1"]),
    "batch size: zero": ("--batch-size 0", ["--batch-size", "'0'", "at least 2"]),
    "batch size: minus one": ("--batch-size -1", ["--batch-size", "'-1'", "at least 2"]),
    "batch size: infinity": ("--batch-size inf", ["--batch-size", "'inf'", "whole number"]),
    "batch size: absurdly large": ("--batch-size 99999999999", ["--batch-size", "at most"]),
    "batch size: more than images": (
        "--batch-size 1443",
        ["--batch-size 1443", "1442 images", "at most 288"],
    ),
    "batch size: one": ("--batch-size 1", ["--batch-size", "2"]),
    "budget too small": (
        "--budget 0.01 --batch-size 128",
        ["--budget 0.01", "1442 images", "one batch of 128"],
    ),
    "lr: zero": ("--lr 0", ["--lr", "'0'", "above 0"]),
    "lr: minus": ("--lr -0.1", ["--lr", "'-0.1'", "above 0"]),
    "lr: nan": ("--lr nan", ["--lr", "'nan'", "above 0"]),
    "lr: infinity": ("--lr inf", ["--lr", "'inf'", "at most"]),
    "lr: absurdly large": ("--lr 1e9", ["--lr", "'1e9'", "at most"]),
    "momentum: one": ("--momentum 1", ["--momentum", "'1'", "below 1"]),
    "momentum: minus": ("--momentum -0.1", ["--momentum", "'-0.1'", "at least 0"]),
    "momentum: nan": ("--momentum nan", ["--momentum", "'nan'", "at least 0"]),
    "weight decay: minus one": ("--weight-decay -1", ["--weight-decay", "'-1'", "at least 0"]),
    "weight decay: infinity": ("--wd inf", ["--weight-decay", "'inf'", "at most"]),
    "weight decay: nan": ("--wd nan", ["--weight-decay", "'nan'"]),
    "gamma: zero": ("--gamma 0", ["--gamma", "'0'", "above 0"]),
    "schedule misspelt": ("--schedule linaer", ["--schedule", "did you mean linear?"]),
    "milestones out of order": (
        "--epochs 9 --schedule step --milestones 5 3",
        ["--milestones 5 3", "smallest first"],
    ),
    "a milestone twice": ("--epochs 9 --schedule step --M 3 --M 3", ["--milestones 3 3", "once"]),
    "milestones beyond the end": (
        "--epochs 9 --schedule step --milestones 5 10",
        ["--milestones 5 10", "--epochs 9"],
    ),
    "a milestone of zero": (
        "--schedule step --milestones 0",
        ["--milestones", "'0'", "at least 1"],
    ),
    "alpha: zero": ("--augmentation mixup --alpha 0", ["--alpha", "'0'", "above 0"]),
    "cutmix: alpha of zero": (
        "--augmentation cutmix --cutmix-alpha 0",
        ["--cutmix-alpha", "'0'", "above 0"],
    ),
    "cutout: no size": ("--augmentation cutout --cutout-size 0", ["--cutout-size", "at least 1"]),
    "cutout: larger than the images": (
        "--augmentation cutout --cutout-size 9",
        ["--cutout-size 9", "8x8 pixels", "at most 8"],
    ),
    "randaugment: no such magnitude": (
        "--augmentation randaugment --randaugment-m 31",
        ["--randaugment-m", "'31'", "at most 30"],
    ),
    "dro: momentum of one": ("--method dro --dro-momentum 1", ["--dro-momentum", "below 1"]),
    "smoothing: minus": ("--method p-SGD --smoothing -1", ["--smoothing", "at least 0"]),
    "seed: minus one": ("--seed -1", ["--seed", "'-1'", "at least 0"]),
    "seed: a fraction": ("--seed 1.5", ["--seed", "'1.5'", "whole number"]),
    "number of classes: wrong": ("--num_classes 11", ["--num-classes 11", "10", "leave"]),
    "number of classes: a word": ("--num-classes ten", ["--num-classes", "'ten'"]),
    "image size of a data set that has one": ("--image-size 8", ["--image-size", "leave"]),
    "validation: all": ("--validation 1442", ["--validation 1442", "1442 images", "144"]),
    "validation: more than all": ("--validation 5000", ["--validation 5000", "1442 images"]),
    "validation: the study's number": ("--validation", ["--validation 5000", "1442 images"]),
    "validation: none": ("--validation 0", ["--validation", "'0'", "at least 1"]),
    "validation, as published: a word": (
        "--validation_exp True --val_samples many",
        ["many", "whole number"],
    ),
    "validation, as published: neither true nor false": (
        "--validation_exp yes --val_samples 100",
        ["--validation", "yes", "True"],
    ),
    "device: a card too many": ("--device cuda:99", ["--device cuda:99", "CUDA devices", "cpu"]),
    "device: nonsense": ("--device nonsense", ["--device nonsense", "cpu, cuda or cuda:N"]),
    "device: of another kind": ("--device meta", ["--device meta", "cpu, cuda or cuda:N"]),
    "checkpoints: never": ("--checkpoint-every 0", ["--checkpoint-every", "'0'", "500steps"]),
    "checkpoints: soon": ("--checkpoint-every soon", ["--checkpoint-every", "10minutes"]),
    "threads: none": ("--num-threads 0", ["--num-threads", "'0'", "at least 1"]),
    "experiment name: the folder above": (
        "--experiment-name ..",
        ["--experiment-name ..", "plain"],
    ),
    "experiment name: a way out": (
        "--experiment-name a/../../b",
        ["--experiment-name a/../../b", "plain"],
    ),
    "experiment name: absolute": (
        "--experiment-name /nowhere/b",
        ["--experiment-name /nowhere/b", "plain"],
    ),
    "experiment name: no folder": (
        "--experiment-name .",
        ["--experiment-name .", "plain"],
    ),
    "experiment name: empty": ("--experiment-name=", ["--experiment-name", "plain"]),
    "experiment name: longer than names may be": (
        "--experiment-name " + 300 * "n",
        ["too long"],
    ),
    "folder: not there": ("--dataset folder --data-dir none", ["--data-dir none", "train/"]),
    "mini-imagenet: not there": (
        "--dataset mini-imagenet --data-dir none",
        ["--data-dir", "none/mini-imagenet/train.csv", "images/"],
    ),
} | {
    f"budget: {value}": (f"--budget {value}", ["--budget", f"'{value}'", "above 0, at most 1"])
    for value in ("0", "-1", "1.5", "nan", "inf", "abc")
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_wrong_command_line_is_refused(fault: str, train_here, tmp_path: Path) -> None:
    words, fragments = REFUSED[fault]
    outcome = train_here(*SHORT, *words.split())
    assert_refused(outcome, *fragments)
    assert outcome.stdout == ""
    assert list(tmp_path.iterdir()) == []  # not even a results folder


@pytest.mark.parametrize("batch_size", [128, 100, 1442, 2])
def test_the_smallest_budget_named_works_and_less_does_not(
    batch_size: int, train_here, tmp_path: Path
) -> None:
    run = (*SHORT, "--batch-size", batch_size)
    outcome = train_here(*run, "--budget", 0.00001)
    assert_refused(outcome, "--budget 1e-05", "1442 images", f"one batch of {batch_size}")
    smallest = re.search(r"the smallest budget that works is ([\d.]+)", outcome.stderr)[1]
    assert batch_size / 1442 <= float(smallest) < batch_size / 1442 + 0.0001
    assert_refused(train_here(*run, "--budget", batch_size / 1442 - 1e-7), smallest)
    assert train_here(*run, "--budget", smallest).returncode == 0
    (folder,) = (tmp_path / "results").iterdir()
    assert read_config(folder)["steps_per_epoch"] == 1


# Input that is refused: files


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "svhn", "fashion-mnist"])
def test_without_files_and_network_it_says_what_to_put_where(
    dataset: str, train_here, tmp_path: Path
) -> None:
    files = small_files.WRITERS[dataset](tmp_path / "examples").files
    outcome = train_here(*SHORT, "--dataset", dataset, "--data-dir", "empty")
    assert outcome.returncode == 2
    notice, message = outcome.stderr.splitlines()
    assert notice == f"downloading {dataset} to empty"
    assert message.startswith("train.py: --data-dir empty: ")
    assert "download" in message
    for file in files:
        assert str(file.relative_to(tmp_path / "examples")) in message
    assert not (tmp_path / "results").exists()


def test_a_missing_file_of_several_is_named(train_here, tmp_path: Path) -> None:
    small_files.write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    outcome = train_here(*SHORT, "--dataset", "cifar10", "--data-dir", ".")
    assert outcome.returncode == 2
    assert "data_batch_4 is not there" in outcome.stderr.splitlines()[-1]


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"no such bytes\xff\n" * 40)


def empty(path: Path) -> None:
    path.write_bytes(b"")


FILES = {
    "cifar10": ["cifar-10-batches-py/" + name for name in ("data_batch_3", "batches.meta")],
    "cifar100": ["cifar-100-python/" + name for name in ("test", "meta")],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
    "fashion-mnist": [
        "FashionMNIST/raw/train-images-idx3-ubyte",
        "FashionMNIST/raw/t10k-labels-idx1-ubyte",
    ],
    "mini-imagenet": ["mini-imagenet/images/n0000004200000000.jpg"],
    "folder": ["train/bee/0008.png", "test/cow/0005.png"],
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each data set, to copy."""
    root = tmp_path_factory.mktemp("originals")
    for dataset, write in small_files.WRITERS.items():
        options = dict(per_class=1) if dataset == "mini-imagenet" else {}
        write(root / dataset, **options)
    return root


@pytest.fixture
def copy(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a small data set to where a test may damage it: the folder `data`."""

    def copy_one(dataset: str) -> Path:
        shutil.copytree(originals / dataset, tmp_path / "data")
        return tmp_path / "data"

    return copy_one


def try_data(train_here, dataset: str, *arguments: object) -> Completed:
    return train_here(
        *(*SHORT, "--budget", 0.3, "--batch-size", 4, "--model", "resnet10-w16"),
        *("--dataset", dataset, "--data-dir", "data", *arguments),
    )


@pytest.mark.parametrize("damage", [cut, fill_with_garbage, empty])
@pytest.mark.parametrize(
    "dataset, file", [(dataset, file) for dataset, files in FILES.items() for file in files]
)
def test_a_damaged_file_is_named(
    dataset: str, file: str, damage: Callable[[Path], None], train_here, copy, tmp_path: Path
) -> None:
    damage(copy(dataset) / file)
    remedy = "replace the file or remove it" if dataset in ("mini-imagenet", "folder") else "delete"
    assert_refused(try_data(train_here, dataset), f"data/{file}: ", remedy)
    assert not (tmp_path / "results").exists()


def rewrite_cifar(file: str, **content: object) -> Callable[[Path], None]:
    return lambda root: small_files.write_pickle(root / "cifar-10-batches-py" / file, content)


def rewrite_fashion_labels(labels: bytes) -> Callable[[Path], None]:
    def rewrite(root: Path) -> None:
        path = root / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
        path.write_bytes(b"\0\0\x08\1" + len(labels).to_bytes(4, "big") + labels)

    return rewrite


def append_to_table(line: str) -> Callable[[Path], None]:
    def append(root: Path) -> None:
        with open(root / "mini-imagenet" / "val.csv", "a") as file:
            file.write(line + "\n")

    return append


def rename_column(old: str, new: str) -> Callable[[Path], None]:
    def rename(root: Path) -> None:
        path = root / "mini-imagenet" / "val.csv"
        path.write_text(path.read_text().replace(old, new, 1))

    return rename


def leave_only_headers(root: Path) -> None:
    for name in ("train.csv", "val.csv", "test.csv"):
        (root / "mini-imagenet" / name).write_text("filename,label\n")


def remove(path: str) -> Callable[[Path], None]:
    def remove_it(root: Path) -> None:
        (shutil.rmtree if (root / path).is_dir() else Path.unlink)(root / path)

    return remove_it


def empty_the_folder(path: str) -> Callable[[Path], None]:
    def empty_it(root: Path) -> None:
        shutil.rmtree(root / path)
        (root / path).mkdir()

    return empty_it


def add_an_image(path: str, size: tuple[int, int]) -> Callable[[Path], None]:
    return lambda root: Image.new("RGB", size).save(root / path)


def add_a_text(root: Path) -> None:
    (root / "train" / "bee" / "notes.txt").write_text("These are bees.\n")


TWO_IMAGES = np.zeros((2, 3072), dtype=np.uint8)
#: data set, what is done to it, and what the message says
WRONG_FILES = {
    "a batch without labels": (
        "cifar10",
        rewrite_cifar("data_batch_1", data=TWO_IMAGES),
        ["data/cifar-10-batches-py/data_batch_1: ", "labels", "delete"],
    ),
    "a batch with too few labels": (
        "cifar10",
        rewrite_cifar("data_batch_1", data=TWO_IMAGES, labels=[3]),
        ["data/cifar-10-batches-py/data_batch_1: ", "2 images but 1 labels"],
    ),
    "a batch of other images": (
        "cifar10",
        rewrite_cifar("data_batch_1", data=TWO_IMAGES[:, 1:], labels=[3, 4]),
        ["data/cifar-10-batches-py/data_batch_1: ", "delete"],
    ),
    "a batch with a label of no class": (
        "cifar10",
        rewrite_cifar("data_batch_1", data=TWO_IMAGES, labels=[3, 10]),
        ["data/cifar-10-batches-py/", "10"],
    ),
    "classes without names": (
        "cifar10",
        rewrite_cifar("batches.meta", num_vis=3072),
        ["data/cifar-10-batches-py/batches.meta: ", "delete"],
    ),
    "labels of no class": (
        "fashion-mnist",
        rewrite_fashion_labels(bytes(119) + b"\x4d"),
        ["data/FashionMNIST/raw/", "77"],
    ),
    "fewer labels than images": (
        "fashion-mnist",
        rewrite_fashion_labels(bytes(range(10)) * 11),
        ["data/FashionMNIST/raw/train-", "110", "120"],
    ),
    "more labels than images": (
        "fashion-mnist",
        rewrite_fashion_labels(bytes(range(10)) * 13),
        ["data/FashionMNIST/raw/train-", "120", "130"],
    ),
    "a row without its image": (
        "mini-imagenet",
        append_to_table("stranger.jpg,n00000064"),
        ["data/mini-imagenet/val.csv: line 18 ", "images/stranger.jpg", "delete the line"],
    ),
    "an image without its row's class": (
        "mini-imagenet",
        append_to_table("n0000006400000000.jpg,"),
        ["data/mini-imagenet/val.csv: line 18 ", "label"],
    ),
    "a quotation that does not end": (
        "mini-imagenet",
        append_to_table('"' + 30_000 * "n0000006400000000.jpg,n00000064\n"),
        ["data/mini-imagenet/val.csv: "],
    ),
    "an image that is gone": (
        "mini-imagenet",
        remove("mini-imagenet/images/n0000009900000000.jpg"),
        ["data/mini-imagenet/test.csv: line 21 ", "add the image or delete the line"],
    ),
    "no column of file names": (
        "mini-imagenet",
        rename_column("filename", "file"),
        ["data/mini-imagenet/val.csv: ", "'filename'", "filename,label"],
    ),
    "no column of labels": (
        "mini-imagenet",
        rename_column("label", "class"),
        ["data/mini-imagenet/val.csv: ", "'label'", "filename,label"],
    ),
    "a table of no bytes": (
        "mini-imagenet",
        lambda root: empty(root / "mini-imagenet" / "test.csv"),
        ["data/mini-imagenet/test.csv: ", "filename,label"],
    ),
    "a table of garbage": (
        "mini-imagenet",
        lambda root: fill_with_garbage(root / "mini-imagenet" / "test.csv"),
        ["data/mini-imagenet/test.csv: ", "filename,label"],
    ),
    "a table that is gone": (
        "mini-imagenet",
        remove("mini-imagenet/val.csv"),
        ["data/mini-imagenet/val.csv is not there", "put images/"],
    ),
    "tables without rows": ("mini-imagenet", leave_only_headers, ["data/mini-imagenet"]),
    "a class only in train": (
        "folder",
        remove("test/bee"),
        ["data/train/bee: ", "not in test/", "add its images there or remove"],
    ),
    "a class only in test": (
        "folder",
        remove("train/bee"),
        ["data/test/bee: ", "not in train/", "add its images there or remove"],
    ),
    "a class without images in train": (
        "folder",
        empty_the_folder("train/bee"),
        ["data/train/bee: ", "no images", "add some or remove"],
    ),
    "a class without images in test": (
        "folder",
        empty_the_folder("test/bee"),
        ["data/test/bee: ", "no images", "add some or remove"],
    ),
    "no classes in train": ("folder", empty_the_folder("train"), ["data/train: ", "per class"]),
    "no classes in test": ("folder", empty_the_folder("test"), ["data/test: ", "per class"]),
    "no train part": ("folder", remove("train"), ["--data-dir data: ", "train/"]),
    "no test part": ("folder", remove("test"), ["--data-dir data: ", "test/", "val/"]),
    "an image of another size in train": (
        "folder",
        add_an_image("train/bee/large.png", (20, 18)),
        ["data/train/bee/large.png: ", "20x18", "16x16", "--image-size 16"],
    ),
    "an image of another size in test": (
        "folder",
        add_an_image("test/bee/small.png", (8, 16)),
        ["data/test/bee/small.png: ", "8x16", "16x16", "--image-size 16"],
    ),
    "a text among the images": (
        "folder",
        add_a_text,
        ["data/train/bee/notes.txt: ", "not an image", "remove"],
    ),
}


@pytest.mark.parametrize("fault", WRONG_FILES)
def test_wrong_files_are_named(fault: str, train_here, copy, tmp_path: Path) -> None:
    dataset, spoil, fragments = WRONG_FILES[fault]
    spoil(copy(dataset))
    outcome = try_data(train_here, dataset)
    assert_refused(outcome, *fragments)
    assert not (tmp_path / "results").exists()


def test_the_image_size_that_is_advised_mends_a_folder(train_here, copy, tmp_path: Path) -> None:
    add_an_image("train/bee/large.png", (20, 18))(copy("folder"))
    advice = re.search(r"--image-size \d+", try_data(train_here, "folder").stderr)[0]
    assert try_data(train_here, "folder", *advice.split()).returncode == 0
    (folder,) = (tmp_path / "results").iterdir()
    assert read_config(folder)["num_images"] == 25


def test_an_oblong_folder_and_a_network_of_patches(train_here, tmp_path: Path) -> None:
    small_files.write_folder(tmp_path / "data", size=(32, 48))
    outcome = try_data(train_here, "folder", "--model", "vit_tiny_patch16_224")
    assert outcome.returncode == 0, outcome.stderr


def test_a_network_that_cannot_take_the_images(train_here, tmp_path: Path) -> None:
    small_files.write_folder(tmp_path / "data", size=(8, 8))
    outcome = try_data(train_here, "folder", "--model", "vit_tiny_patch16_224")
    assert_refused(outcome, "--model vit_tiny_patch16_224", "8x8", "use another, such as resnet18")


# Results that are in the way


@pytest.mark.parametrize("results", ["plain", "plain/below"])
def test_results_that_cannot_be_written(results: str, train_here, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file, not a folder")
    outcome = train_here(*SHORT, "--results-dir", results)
    assert_refused(outcome, "--results-dir", "cannot write to plain;", "choose another")
    assert (tmp_path / "plain").read_text() == "a file, not a folder"


def test_a_finished_run_is_kept_unless_it_may_be_replaced(train_here, tmp_path: Path) -> None:
    folder = tmp_path / "results" / NAME
    assert train_here(*SHORT).returncode == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for again in ((), ("--no-resume",), ("--lr", 0.05)):
        outcome = train_here(*SHORT, *again)
        assert_refused(outcome, f"results/{NAME}", "finished", "--overwrite", "--experiment-name")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    assert train_here(*SHORT, "--overwrite", "--lr", 0.05).returncode == 0
    assert read_config(folder)["settings"]["lr"] == 0.05
    assert (folder / "model.pt").read_bytes() != before["model.pt"]
    assert read_status(folder) == "finished"


def test_a_refused_command_keeps_what_it_would_have_replaced(train_here, tmp_path: Path) -> None:
    folder = tmp_path / "results" / NAME
    assert train_here(*SHORT).returncode == 0
    before = (folder / "curve.csv").read_bytes()
    outcome = train_here(*SHORT, "--overwrite", "--num-classes", 11)
    assert_refused(outcome, "--num-classes 11")
    assert (folder / "curve.csv").read_bytes() == before
    assert read_status(folder) == "finished"


# Fewer evaluations


def test_fewer_evaluations_leave_test_columns_empty_and_all_else_alike(
    train_here, tmp_path: Path
) -> None:
    for every in (1, 3):
        words = ("--epochs", 8, "--eval-every", every, "--experiment-name", f"every{every}")
        outcome = train_here(*SHORT, *words)
        assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("test accuracy") == 3
    always, sometimes = (read_curve(tmp_path / "results" / f"every{n}") for n in (1, 3))
    columns = ["test_loss", "test_accuracy", "worst_class_accuracy", "class_accuracy_p5"]
    evaluated = sometimes["epoch"].isin([3, 6, 8])
    assert sometimes[columns].notna().all(axis=1).tolist() == evaluated.tolist()
    same = [name for name in COLUMNS if not name.endswith("_seconds")]
    pd.testing.assert_frame_equal(always.loc[evaluated, same], sometimes.loc[evaluated, same])
    rest = [name for name in same if name not in columns]
    pd.testing.assert_frame_equal(always[rest], sometimes[rest])
    assert sometimes["eval_seconds"].diff().gt(0).tolist() == evaluated.tolist()
    models = [torch.load(tmp_path / "results" / f"every{n}" / "model.pt") for n in (1, 3)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_epochs_that_a_step_skips_are_evaluated_at_the_next_one(train_here) -> None:
    """Where ten candidates are scored for each image of a step, steps are longer than epochs."""
    words = ("--method", "obftf", "--compute-budget", "--epochs", 20, "--eval-every", 3)
    outcome = train_here(*SHORT, *words, "--budget", 0.05, "--experiment-name", "skips")
    assert outcome.returncode == 0, outcome.stderr
    curve = read_curve(Path("results/skips"))
    ended, before = curve["epoch"].to_numpy(), np.append(0, curve["epoch"].to_numpy()[:-1])
    due = (ended // 3 > before // 3) | (ended == 20)
    assert (ended[due] % 3 != 0).sum() >= 3, "none is skipped, so nothing is tested"
    assert curve["test_accuracy"].notna().tolist() == due.tolist()


# Divergence


def test_a_run_that_diverges_says_where_and_keeps_its_curve(train_here, tmp_path: Path) -> None:
    # Weights that grow ninefold a step, the other way round, get through a few epochs.
    growing = (*SHORT, "--epochs", 30, "--budget", 0.05, "--weight-decay", 100)
    outcome = train_here(*growing)
    assert outcome.returncode == 3
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("train.py: ")
    assert "--lr" in line
    step = int(re.search(r"step (\d+)", line)[1])
    folder = tmp_path / "results" / "digits_SGD_standard_b0.05_s1"
    curve = read_curve(folder)
    assert tuple(curve.columns) == COLUMNS
    assert 0 < len(curve) < 30
    assert curve["epoch"].tolist() == list(range(1, len(curve) + 1))
    assert 2 * len(curve) < step <= 2 * len(curve) + 2  # in the epoch after the last one kept
    assert np.isfinite(curve.to_numpy()).all()
    assert read_status(folder) == "diverged"
    assert not (folder / "model.pt").exists()
    assert_refused(train_here(*growing), "diverged", "--overwrite")


def test_a_run_that_diverges_at_once_leaves_an_empty_curve(train_here, tmp_path: Path) -> None:
    outcome = train_here(*SHORT, "--lr", 1000)
    assert outcome.returncode == 3
    assert re.fullmatch(r"train\.py: .*step \d+.*--lr.*\n", outcome.stderr)
    curve = read_curve(tmp_path / "results" / NAME)
    assert tuple(curve.columns) == COLUMNS
    assert len(curve) == 0
    assert read_status(tmp_path / "results" / NAME) == "diverged"


# The help


@pytest.fixture(scope="module")
def help_text() -> dict[str, str]:
    """Each flag's paragraph of the help, as one line."""
    text = build_parser().format_help()
    paragraphs = re.split(r"\n  (?=--)", text.partition("show this help message and exit")[2])
    return {words.split()[0]: " ".join(words.split()) for words in paragraphs if words.strip()}


def test_the_help_has_every_group(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as leaving:
        train_main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    for title in (
        "what is trained",
        "budget and optimizer",
        "options of methods",
        "options of augmentations",
        "where and how it runs",
    ):
        assert f"\n{title}" in text
    for name in (*METHODS, *AUGMENTATIONS, *DATASETS):
        assert name in re.sub(r"-\n +", "-", text)
    assert "SUPPRESS" not in text
    assert max(map(len, text.splitlines())) <= 100


#: Flags that by default do nothing at all.
WITHOUT_DEFAULT = {
    "--num-classes",
    "--train-images",
    "--validation",
    "--imbalance",
    "--label-noise",
}
WITHOUT_DEFAULT |= {"--config", "--list", "--labels", "--classes", "--groups", "--log"}
WITHOUT_DEFAULT |= {"--coreset-file", "--rho-file", "--record", "--tuned"}
SWITCHES = {
    "--compute-budget",
    "--count-scoring-run",
    "--compile",
    "--sync-batchnorm",
    "--overwrite",
    "--no-resume",
    "--tensorboard",
    "--deterministic",
    "--dro-importance",
    "--coreset-per-class",
}
DEFAULTS = {
    "--method": "SGD",
    "--augmentation": "standard",
    "--dataset": "digits",
    "--image-size": "one size",
    "--cache": "uint8",
    "--model": "resnet18",
    "--budget": "1.0",
    "--epochs": "200",
    "--batch-size": "128",
    "--lr": "0.1",
    "--momentum": "0.9",
    "--weight-decay": "0.0001",
    "--schedule": "linear",
    "--milestones": "at half and at three quarters",
    "--gamma": "0.1",
    "--smoothing": "1.0",
    "--uniform-epochs": "0, for selective-backprop one pass",
    "--sb-beta": "1/budget - 1",
    "--dro-beta": "1.0",
    "--dro-init": "log(classes)",
    "--dro-momentum": "0.0",
    "--coreset-score": "the only one",
    "--coreset-select": "top",
    "--rho-candidates": "10",
    "--infobatch-ratio": "0.5",
    "--infobatch-delta": "0.875",
    "--gradnorm-candidates": "3",
    "--gradnorm-tau": "1 + candidates/3",
    "--obftf-candidates": "10",
    "--cvar-alpha": "0.5",
    "--alpha": "0.3",
    "--cutmix-alpha": "1.0",
    "--cutout-size": "half of the images' shorter side",
    "--randaugment-n": "2",
    "--randaugment-m": "4",
    "--seed": "1",
    "--data-seed": "42",
    "--data-dir": "datasets",
    "--results-dir": "results",
    "--experiment-name": "DATASET_METHOD_AUGMENTATION_bBUDGET_sSEED",
    "--checkpoint-every": "1",
    "--eval-every": "1",
    "--record-epochs": "10",
    "--device": "auto",
    "--amp": "auto",
    "--resident-limit": "half the memory of the device",
    "--num-threads": "as many as PyTorch takes",
}
for option in unlisted(OPTIONS_LISTED).values():
    if option.text is None:
        SWITCHES.add(option.flag)
    elif option.default is None:
        WITHOUT_DEFAULT.add(option.flag)
    else:
        DEFAULTS[option.flag] = str(option.default)


def test_the_help_has_every_flag(help_text: dict[str, str]) -> None:
    assert help_text.keys() == DEFAULTS.keys() | WITHOUT_DEFAULT | SWITCHES


@pytest.mark.parametrize("flag", DEFAULTS)
def test_the_help_states_the_default_of(flag: str, help_text: dict[str, str]) -> None:
    stated = help_text[flag].rpartition("default")[2]
    assert re.search(rf"(?<![\w.]){re.escape(DEFAULTS[flag])}(?![\w.])", stated)


@pytest.mark.parametrize("flag", sorted(SWITCHES))
def test_the_help_does_not_call_a_switch_on_by_default(
    flag: str, help_text: dict[str, str]
) -> None:
    assert "default" not in help_text[flag]


# The same in processes of their own


@pytest.fixture(scope="module")
def commands(
    train_forks, originals: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Completed], Path]:
    """What becomes of a command of each kind."""
    place = tmp_path_factory.mktemp("commands")
    shutil.copytree(originals / "svhn", place / "svhn")
    cut(place / "svhn" / "test_32x32.mat")
    (place / "file").write_text("")
    svhn = ("--dataset", "svhn", "--data-dir")
    arguments = {
        "help": ("--help",),
        "method": ("--method", "p-SDG"),
        "budget": ("--budget", 0.001),
        "device": ("--device", "cuda:99"),
        "name": ("--experiment-name", "../outside"),
        "data": (*svhn, place / "svhn"),
        "download": (*svhn, place / "nothing"),
        "results": ("--results-dir", place / "file" / "below"),
        "divergence": ("--lr", 1000, "--epochs", 5),
    }
    results = ("--results-dir", place / "results")
    outcomes = train_forks([(*SHORT, *results, *words) for words in arguments.values()])
    return dict(zip(arguments, outcomes)), place


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, fragments",
    {
        "method": ("--method", "did you mean p-SGD?"),
        "budget": ("--budget 0.001", "the smallest budget that works is 0.022"),
        "device": ("--device cuda:99", "CUDA devices", "cpu"),
        "name": ("--experiment-name ../outside", "plain name"),
        "data": ("svhn/test_32x32.mat: ", "delete"),
        "results": ("--results-dir", "/file; ", "choose another"),
    }.items(),
)
def test_a_wrong_command_is_refused(kind: str, fragments: tuple[str, ...], commands) -> None:
    outcomes, place = commands
    assert_refused(outcomes[kind], *fragments)
    assert outcomes[kind].stdout == ""
    assert not (place / "outside").exists()
    names = {path.name for path in place.glob("results/*")}
    assert names <= {"digits_SGD_standard_b0.2_s1"}  # of the run that diverges


@pytest.mark.slow
def test_a_command_without_files_and_network_is_refused(commands) -> None:
    outcomes, place = commands
    outcome = outcomes["download"]
    assert outcome.returncode == 2
    assert "Traceback" not in outcome.stderr
    message = outcome.stderr.splitlines()[-1]
    assert message.startswith(f"train.py: --data-dir {place / 'nothing'}: ")
    assert "put the data set's files there: train_32x32.mat, test_32x32.mat" in message


@pytest.mark.slow
def test_a_command_that_diverges(commands) -> None:
    outcomes, place = commands
    outcome = outcomes["divergence"]
    assert outcome.returncode == 3
    (line,) = outcome.stderr.splitlines()
    assert re.search(r"^train\.py: .*step \d+.*--lr", line)
    folder = place / "results" / "digits_SGD_standard_b0.2_s1"
    assert tuple(read_curve(folder).columns) == COLUMNS
    assert read_status(folder) == "diverged"


@pytest.mark.slow
def test_the_command_for_help(commands) -> None:
    outcomes, _ = commands
    outcome = outcomes["help"]
    assert outcome.returncode == 0
    assert outcome.stderr == ""
    assert outcome.stdout == build_parser().format_help()


# Interruption


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    words = ["--epochs", "8", "--budget", "0.3", "--batch-size", "32", "--experiment-name", "run"]
    words += ["--method", "selective-backprop", "--augmentation", "ricap"]
    words += ["--checkpoint-every", "100", *CPU]  # that is, a checkpoint only when told to stop
    stopped, straight = tmp_path / "stopped" / "run", tmp_path / "straight" / "run"
    command = [sys.executable, "train.py", *words, "--results-dir", str(stopped.parent)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with (
        ThreadPoolExecutor(1) as pool,
        subprocess.Popen(command, cwd=ROOT, **pipes) as process,
    ):
        uninterrupted = pool.submit(run_command, *words, "--results-dir", straight.parent)
        try:
            assert process.stdout.readline().startswith("epoch 1/8: ")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143
    assert len(errors.splitlines()) == 1
    assert "SIGTERM" in errors
    assert "same command again" in errors
    assert read_status(stopped) == "interrupted"
    assert 1 <= len(read_curve(stopped)) < 8
    assert not (stopped / "model.pt").exists()

    again = run_command(*words, "--results-dir", stopped.parent)
    assert again.returncode == 0, again.stderr
    assert "resuming after step" in again.stderr
    assert uninterrupted.result().returncode == 0, uninterrupted.result().stderr
    pd.testing.assert_frame_equal(
        without_seconds(read_curve(stopped)),
        without_seconds(read_curve(straight)),
        check_exact=True,
    )
    assert (stopped / "model.pt").read_bytes() == (straight / "model.pt").read_bytes()
    assert read_status(stopped) == "finished"
    assert {path.name for path in stopped.iterdir()} == {path.name for path in straight.iterdir()}

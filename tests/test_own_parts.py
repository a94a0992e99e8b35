"""Methods, augmentations, data sets and networks of a user's own, in a folder elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import conftest
import pandas as pd
import pytest
from conftest import Completed, assert_refused

import sweep
from engine import RunConfig, own
from plots.__main__ import main as plots_main

SOURCE = '''"""Parts as a user would write them."""

from typing import Annotated

import numpy as np
import torch
from torch import nn

from augmentations import Augmentation
from augmentations.base import Mixed
from beside import SIDE
from data import Dataset, Source
from methods import Method


class Cycle(Method):
    """Takes the images in turn, as Doe et al. 2026 do not."""

    importance = True

    def __init__(
        self,
        task,
        *,
        cycle_step: Annotated[int, dict(low=1, high=9, help="cycle: images between two")] = 1,
    ):
        super().__init__(task)
        self.step_size = cycle_step
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def draw(self, progress):
        batch = torch.arange(self.task.batch_size) * self.step_size + self.place
        self.place += len(batch) * self.step_size
        return (batch % self.task.num_images)[None]


class Fade(Augmentation):
    """Makes images fainter."""

    def __init__(self, *, fade_by: Annotated[float, dict(low=0, high=1, help="fade: by")] = 0.1):
        self.by = fade_by

    def mix(self, images, rng):
        return Mixed(images * (1 - self.by))


def load(root, *, image_size=None, **_):
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    images = (rng.integers(0, 60, (80, 1, SIDE, SIDE)) + 60 * labels[:, None, None, None]).astype(
        np.uint8
    )
    train, test = (images[:60], labels[:60]), (images[60:], labels[60:])
    return Dataset(*train, *test, tuple("abcd"), (0.5,), (0.3,))


SHORT = Source(load, model="resnet10-w8", epochs=2)


def small(channels, classes, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))


def wrong(channels, classes, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes + 1))
'''
CHOOSE = """    def choose(self, batch, score):
        return {}


"""
REWEIGH = """    def reweigh(self, batch, losses):
        return losses[1:]


"""
SHORT = ("--epochs", 2, "--batch-size", 16, "--device", "cpu", "--num-threads", 1)


@pytest.fixture
def own_file(tmp_path: Path) -> Iterator[Path]:
    """The file, whose name is new to this process, in a folder with another that it imports."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside.py").write_text("SIDE = 8\n")
    file = folder / "mine.py"
    file.write_text(SOURCE)
    yield file
    own.SEEN.clear()
    own.imported.cache_clear()


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_a_method_of_ones_own_goes_through_train_sweep_plots_and_report(
    own_file: Path, train_here: Callable[..., Completed], main_here: Callable[..., Completed]
) -> None:
    method = ("--method", f"{own_file}:Cycle")
    outcome = train_here(*method, "--cycle-step", 3, *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    config = config_of(Path("results/digits_Cycle_standard_b1_s1"))
    assert config["settings"]["method_options"] == {"cycle_step": 3}
    part = config["own_parts"]["method"]
    assert part["file"] == str(own_file)
    assert part["defaults"] == {"cycle_step": 1}
    words = ("--method", f"{own_file}:Cycle", "unif-SGD", "--cycle-step", 1, 3, "--seed", 1, 2)
    outcome = main_here(sweep.main, "--isolate", *words, *SHORT, "--results-dir", "swept")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    # Four runs of the method, two of the other, to which the option is none.
    assert len(list(Path("swept").glob("*/curve.csv"))) == 6
    outcome = main_here(plots_main, "swept")
    assert outcome.returncode == 0, outcome.stderr
    table = pd.read_csv("swept/summary.csv")
    assert sorted(table["method"]) == ["Cycle", "Cycle", "unif-SGD"]
    assert "Cycle (cycle step 3)" in outcome.stdout
    outcome = main_here(plots_main, "report", "swept")
    assert outcome.returncode == 0, outcome.stderr
    assert '"label":"Cycle"' in Path("swept/report.html").read_text()


def test_an_option_of_ones_own_can_be_tuned(own_file: Path, main_here: Callable) -> None:
    words = ("--tune", "cycle-step=1,3", "--seed", 1, 2, *SHORT, "--validation", 100)
    tune = partial(main_here, sweep.main, "--isolate", *words, "--method", f"{own_file}:Cycle")
    outcome = tune()
    assert outcome.returncode == 0, outcome.stderr
    assert "cycle-step" in Path("results/tuned.csv").read_text().splitlines()[0]
    (config,) = [config_of(path.parent) for path in Path("results").glob("*/config.json")]
    assert config["settings"]["tuned"] == ["cycle-step"]
    # For a method without it there is nothing to try.
    outcome = tune("SGD", "--dry-run")
    assert_refused(outcome, "SGD has 1 trials and", "give --trials 1")


def test_files_beside_a_part_are_its_own(tmp_path: Path, train_here: Callable) -> None:
    """Of two parts with files of one name, and beside files named as the project's modules."""
    for folder, base in (
        ("a", "methods import Method"),
        ("b", "augmentations import Augmentation"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "util_of_mine.py").write_text("from inner import WHO\n")
        (tmp_path / folder / "inner.py").write_text(f"WHO = {folder!r}\n")
        (tmp_path / folder / "errors.py").write_text("raise RuntimeError\n")
        source = (
            f"from util_of_mine import WHO\nfrom {base} as Base\nclass Part(Base):\n    who = WHO\n"
        )
        (tmp_path / folder / "part.py").write_text(source)
    names = [str(tmp_path / folder / "part.py:Part") for folder in "ab"]
    parts = [own.load(axis, name) for axis, name in zip(("method", "augmentation"), names)]
    assert [part.who for part in parts] == ["a", "b"]
    before = own.facts("method", names[0])["sha256"]
    (tmp_path / "a" / "inner.py").write_text("WHO = 'changed'\n")
    own.imported.cache_clear()
    assert own.facts("method", names[0])["sha256"] != before


def test_a_part_that_fails_ends_a_sweep_in_one_line(own_file: Path, main_here: Callable) -> None:
    own_file.write_text(SOURCE.replace("self.step_size = cycle_step", "raise KeyError('mine')"))
    words = ("--method", f"{own_file}:Cycle", *SHORT)
    outcome = main_here(sweep.main, *words)
    assert_refused(outcome, "a run of this sweep cannot start (KeyError: 'mine')", absent="results")


def test_scores_of_ones_own_data_are_bound_to_what_they_hold(
    own_file: Path, train_here: Callable, scores_here: Callable
) -> None:
    words = (*SHORT, "--model", "resnet10-w8")
    data = ("--dataset", f"{own_file}:load")
    run = train_here(*data, *words, "--record", "forgetting", "--experiment-name", "run")
    assert run.returncode == 0, run.stderr
    made = scores_here("results/run", "--score", "forgetting", "--out", "scores.npz")
    assert made.returncode == 0, made.stderr
    moved = own_file.parent.rename(own_file.parent.with_name("moved")) / own_file.name
    choice = ("--method", "coreset", "--coreset-file", "scores.npz", "--budget", 0.5)
    outcome = train_here("--dataset", f"{moved}:load", *choice, *words)
    assert outcome.returncode == 0, outcome.stderr


def test_a_changed_file_is_noticed(
    own_file: Path, train_here: Callable[..., Completed], main_here: Callable[..., Completed]
) -> None:
    """By a sweep over finished runs, by a run that is resumed, and in the tables."""
    words = ("--method", f"{own_file}:Cycle", *SHORT)
    grid = partial(main_here, sweep.main, "--isolate", *words)
    assert grid("--seed", 1, 2, "--results-dir", "swept").returncode == 0
    own_file.write_text(SOURCE + "\n# changed\n")
    own.imported.cache_clear()
    outcome = grid("--seed", 1, 2, "--results-dir", "swept")
    assert outcome.returncode == 2
    assert f"{own_file} has changed" in outcome.stderr
    assert train_here(*words, "--seed", 3, "--results-dir", "swept").returncode == 0
    outcome = main_here(plots_main, "swept")
    assert "Cycle with different options: Cycle (source sha256-" in outcome.stderr


def test_a_run_goes_on_only_with_the_file_that_it_began_with(
    own_file: Path, train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.log import RunLog

    def stop(log: RunLog, row: dict) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    words = ("--method", f"{own_file}:Cycle", *SHORT, "--epochs", 4)
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "report", stop)
        assert train_here(*words).returncode == 130
    changed = own_file.with_name("other.py")
    changed.write_text(SOURCE + "\n# changed\n")
    outcome = train_here("--method", f"{changed}:Cycle", *SHORT, "--epochs", 4)
    assert outcome.returncode == 2
    assert "method_sha256" in outcome.stderr
    outcome = train_here(*words)
    assert outcome.returncode == 0
    assert "resuming after step" in outcome.stderr


def test_all_other_parts_may_be_of_ones_own(
    own_file: Path, train_here: Callable[..., Completed], main_here: Callable[..., Completed]
) -> None:
    parts = {"dataset": "SHORT", "model": "small", "augmentation": "Fade"}
    words = [word for axis, name in parts.items() for word in (f"--{axis}", f"{own_file}:{name}")]
    outcome = train_here(*words, "--fade-by", 0.2, "--batch-size", 16, "--device", "cpu")
    assert outcome.returncode == 0, outcome.stderr
    assert "60 images to train on, 20 to evaluate on, 4 classes, 8x8 in grey" in outcome.stdout
    config = config_of(Path("results/SHORT_SGD_Fade_b1_s1"))
    assert config["settings"]["epochs"] == 2  # the data set's own
    assert config["parameters"] == 64 * 4 + 4
    assert config["own_parts"].keys() == parts.keys()
    outcome = train_here("--dataset", f"{own_file}:load", "--model", f"{own_file}:small", *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    assert main_here(plots_main, "results").returncode == 0


def test_a_relative_path_is_that_of_the_folder_one_is_in(
    own_file: Path, train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_file.parent)
    assert train_here("--method", "mine.py:Cycle", *SHORT).returncode == 0
    folder = own_file.parent / "results/digits_Cycle_standard_b1_s1"
    assert config_of(folder)["settings"]["method"] == f"{own_file}:Cycle"


def test_a_part_and_a_file_may_be_given_in_python_by_relative_paths(
    own_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_file.parent)
    settings, _ = RunConfig(method="mine.py:Cycle", labels="labels.csv").resolved()
    assert settings.method == f"{own_file}:Cycle"
    assert settings.labels == str(own_file.parent / "labels.csv")
    assert settings.resolved()[0] == settings


def test_options_of_ones_own_part_are_in_the_help(
    own_file: Path, train_here: Callable[..., Completed], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        train_here("--method", f"{own_file}:Cycle", "--help")
    text = capsys.readouterr().out
    assert "options of Cycle" in text
    assert "--cycle-step N" in text


def written(file: Path, old: str, new: str) -> Path:
    """The file with one part of it written otherwise."""
    assert SOURCE.count(old) == 1
    file.write_text(SOURCE.replace(old, new))
    return file


@pytest.mark.parametrize(
    "declared, flag",
    [
        ("cycle_step: int = 1", True),
        ("cycle_step: Annotated[int, dict(low=1)] = 1", True),
        ("cycle_step: int | None = 1", True),
        ("cycle_step=1", False),
        ("cycle_step: int", False),
        ("cycle_step: torch.Tensor = 1", False),
        ("cycle_step: Annotated[int, 'images'] = 1", False),
    ],
)
def test_arguments_are_flags_or_refused(
    declared: str, flag: bool, own_file: Path, train_here: Callable[..., Completed]
) -> None:
    old = 'cycle_step: Annotated[int, dict(low=1, high=9, help="cycle: images between two")] = 1'
    file = written(own_file, old, declared)
    outcome = train_here("--method", f"{file}:Cycle", "--cycle-step", 2, *SHORT)
    if flag:
        assert outcome.returncode == 0, outcome.stderr
    else:
        assert_refused(outcome, "Cycle: argument cycle_step: annotate it as int, float")


def test_an_argument_before_the_star_is_told(
    own_file: Path, train_here: Callable[..., Completed]
) -> None:
    file = written(own_file, "        *,\n        cycle_step", "        cycle_step")
    outcome = train_here("--method", f"{file}:Cycle", *SHORT)
    assert_refused(outcome, "Cycle: argument cycle_step: put a * before it")


@pytest.mark.parametrize(
    "old, new, fragment",
    [
        (
            "return (batch % self.task.num_images)[None]",
            "return batch % 60",
            "gave int64 [16]; give",
        ),
        ("[None]\n\n\nclass Fade", "[None] / 2\n\n\nclass Fade", "draw gave float32 [1, 16]"),
        ("batch % self.task.num_images", "batch + 1430", "draw gave indices from 1430 to 1445"),
        ("(batch % self.task.num_images)[None]", "batch[None, :8]", "draw gave int64 [1, 8]; give"),
        ("(batch % self.task.num_images)[None]", "batch[:0, None]", "draw gave int64 [0, 1]; give"),
        ("[None]\n\n\nclass Fade", "[None].tolist()\n\n\nclass Fade", "draw gave a list"),
        ("class Fade", CHOOSE.format("batch[:3]") + "class Fade", "choose gave a Batch of 3"),
        ("class Fade", CHOOSE.format("batch.index") + "class Fade", "choose gave int64 [16]"),
        ("class Fade", CHOOSE.format("None") + "class Fade", "choose gave None for 144"),
        ("class Fade", REWEIGH + "class Fade", "reweigh gave float32 [15]; give a tensor [16]"),
    ],
)
def test_wrong_answers_of_a_method_are_told(
    old: str, new: str, fragment: str, own_file: Path, train_here: Callable[..., Completed]
) -> None:
    file = written(own_file, old, new)
    outcome = train_here("--method", f"{file}:Cycle", *SHORT)
    assert outcome.returncode == 2
    assert fragment in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "answer, fragment",
    [
        ("images", "mix of Fade gave float32 [16, 1, 8, 8]; give an augmentations.base.Mixed"),
        ("Mixed(images[:4])", "mix of Fade gave float32 [4, 1, 8, 8]; give"),
    ],
)
def test_wrong_answers_of_an_augmentation_are_told(
    answer: str, fragment: str, own_file: Path, train_here: Callable[..., Completed]
) -> None:
    file = written(own_file, "Mixed(images * (1 - self.by))", answer)
    outcome = train_here("--augmentation", f"{file}:Fade", *SHORT)
    assert outcome.returncode == 2
    assert fragment in outcome.stderr


@pytest.mark.parametrize(
    "old, new, fragment",
    [
        ("labels[:60])", "labels[:59])", "60 train_images and train_labels [59]"),
        (".astype(\n        np.uint8\n    )", "/ 255", "train_images are float64 [60, 1, 8, 8]"),
        ("(80, 1, SIDE, SIDE)) + 60 * labels[:, None, None, None]", "(80, 8, 8))", "[60, 8, 8]"),
        ("(80, 1, SIDE, SIDE))", "(80, SIDE, SIDE, 3))", "mean has 1 numbers and images have 8"),
        ('tuple("abcd")', 'tuple("abc")', "train_labels from 0 to 3; give 0 to 2"),
        ("np.arange(80) % 4", "np.arange(80) % 4 / 1", "train_labels are float64; give"),
        ("    return Dataset(*train", "    return (*train", "gave a tuple; give a data.Dataset"),
    ],
)
def test_wrong_data_sets_are_told(
    old: str, new: str, fragment: str, own_file: Path, train_here: Callable[..., Completed]
) -> None:
    file = written(own_file, old, new)
    assert_refused(train_here("--dataset", f"{file}:load", *SHORT), "--dataset", fragment)


def test_functions_of_one_name_are_told_apart_by_their_files(own_file: Path) -> None:
    assert own.label(f"{own_file}:load") == "mine"
    assert own.label("package.hospital:make") == "hospital"
    assert own.label(f"{own_file}:SHORT") == "SHORT"
    settings, _ = RunConfig(dataset=f"{own_file}:load", model="resnet10-w8").resolved()
    assert settings.experiment_name.startswith("mine_SGD_standard")


@pytest.mark.parametrize(
    "words, fragments",
    [
        ("--method FILE:Nothing", ["no Nothing in", "derived from methods.Method"]),
        ("--method FILE:load", ["not a class derived from methods.Method"]),
        ("--method nowhere.py:Cycle", ["nowhere.py:Cycle", "no such file"]),
        ("--method nowhere:Cycle", ["No module named 'nowhere'"]),
        ("--method FILE:", ["FILE.py:NAME"]),
        ("--method FILE", ["mine.py:NAME, of what to take from the file"]),
        ("--augmentation FILE:Cycle", ["derived from augmentations.Augmentation"]),
        ("--dataset FILE:Cycle", ["returns a data.Dataset"]),
        ("--model FILE:wrong", ["gives [1, 11] of an image, not [1, 10]"]),
        ("--method FILE:Cycle --cycle-step 10", ["--cycle-step", "at most 9"]),
        ("--cycle-step 2", ["--cycle-step: no such flag"]),
    ],
)
def test_what_is_no_such_part_is_refused(
    words: str, fragments: list[str], own_file: Path, train_here: Callable[..., Completed]
) -> None:
    outcome = train_here(*words.replace("FILE", str(own_file)).split())
    conftest.assert_refused(outcome, *fragments, absent="results")


def test_code_that_fails_is_one_line(own_file: Path, train_here: Callable[..., Completed]) -> None:
    own_file.write_text("raise RuntimeError('two\\nlines')")
    outcome = train_here("--method", f"{own_file}:Cycle")
    conftest.assert_refused(outcome, "cannot be imported (RuntimeError: two lines)")
    own_file.write_text(SOURCE.replace("cycle_step", "lr"))
    outcome = train_here("--method", f"{own_file}:Cycle")
    conftest.assert_refused(outcome, "a flag --lr; name the option otherwise")


@pytest.mark.parametrize("kind", ["methods", "augmentations", "datasets", "models", "scores"])
def test_what_there_is_can_be_listed(
    kind: str, train_here: Callable[..., Completed], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        train_here("--list", kind)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 5
    examples = {
        "methods": "--dro-beta",
        "augmentations": "Zhang et al. 2018",
        "datasets": "npz:FILE",
        "models": "resnet18 ",
        "scores": "k-center",
    }
    assert sum(examples[kind] in line for line in lines) == 1
    assert all(line.split(None, 1)[1:] for line in lines), "each says what it is"


def test_what_is_on_by_default_can_be_turned_off(
    own_file: Path, train_here: Callable[..., Completed], main_here: Callable[..., Completed]
) -> None:
    step = "        cycle_step: Annotated"
    own_file.write_text(SOURCE.replace(step, f"        smooth: bool = True,\n{step}"))
    method = ("--method", f"{own_file}:Cycle")
    for name, words, smooth in (("on", (), True), ("off", ("--no-smooth",), False)):
        assert train_here(*method, *words, *SHORT, "--experiment-name", name).returncode == 0
        assert config_of(Path("results") / name)["settings"]["method_options"]["smooth"] is smooth
        file = Path("results") / name / "run.toml"
        again = ("--config", file, "--experiment-name", f"{name}-again")
        assert train_here(*again).returncode == 0
        settings = config_of(Path("results") / f"{name}-again")["settings"]
        assert settings["method_options"]["smooth"] is smooth
    Path("grid.toml").write_text(
        f"[grid]\nmethod = ['SGD', '{own_file}:Cycle']\nsmooth = [true, false]\nepochs = 2\n"
    )
    outcome = main_here(sweep.main, "--isolate", "--grid", "grid.toml", "--dry-run")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("to make   results/digits_Cycle") == 2
    assert outcome.stdout.count("to make   results/digits_SGD") == 1


@pytest.mark.parametrize(
    "body, fragment",
    [("(root):\n    pass", "unexpected keyword argument"), ("(root, **_):\n    1 / 0", "division")],
)
def test_a_function_for_data_that_fails_is_one_line(
    body: str, fragment: str, own_file: Path, train_here: Callable[..., Completed]
) -> None:
    own_file.write_text(f"def load{body}\n")
    refused = train_here("--dataset", f"{own_file}:load", *SHORT)
    assert_refused(refused, f"--dataset {own_file}:load", fragment, absent="results")

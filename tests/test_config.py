"""config.json of a run, read again: one reader for plots, sweeps and scores, which checks it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT
from synthetic_results import write_run

from engine.config_file import BadRun, read_config
from engine.finished import FinishedRun
from engine.runs import find_runs
from engine.sweep.estimate import Estimator
from engine.sweep.runs import Run, other_settings
from errors import UsageError
from plots import __main__ as tables
from plots import claims


def change(folder: Path, **values: object) -> None:
    """Replace values of a config.json, `settings.NAME` by settings_NAME."""
    config = json.loads((folder / "config.json").read_text())
    for name, value in values.items():
        part, _, rest = name.partition("__")
        if rest:
            config[part][rest] = value
        else:
            config[part] = value
    (folder / "config.json").write_text(json.dumps(config))


def write(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)


def make_pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def setting(**values: object) -> Callable[[Path], None]:
    return partial(change, **{f"settings__{name}": value for name, value in values.items()})


#: What is done to a run's folder -> what the error says beside the file.
HOSTILE = [
    (setting(model=None), "model: None is of the wrong type"),
    (setting(model=["resnet18"]), "model: ['resnet18'] is of the wrong type"),
    (setting(data_dir="a\0b"), "data_dir: 'a\\x00b' is of the wrong type"),
    (setting(dataset="imagenet"), "dataset: 'imagenet' is not one of digits"),
    (setting(dataset="a\nb"), "dataset: 'a\\nb' is not one of"),
    (setting(method=3), "method: '3' is not one of SGD"),
    (
        setting(method="selective_backpropagation"),
        "method: 'selective_backpropagation' is not one of",
    ),
    (setting(imbalance="50"), "imbalance: '50' is of the wrong type"),
    (setting(imbalance="text"), "imbalance: 'text' is not a number above 1"),
    (setting(imbalance=0.5), "imbalance: '0.5' is not a number above 1"),
    (setting(epochs=1e10), "epochs: '10000000000.0' is not a whole number"),
    (setting(epochs=10**10), "epochs: '10000000000' is not a whole number"),
    (setting(epochs=10**400), "epochs: '1000000000"),
    (setting(epochs=True), "epochs: 'True' is not a whole number"),
    (setting(epochs="4"), "epochs: '4' is of the wrong type"),
    (setting(budget=0), "budget: '0' is not a number above 0"),
    (setting(budget=[0.5]), "budget: [0.5] is of the wrong type"),
    (setting(lr="x" * 10_000), "lr: 'xxxxxx"),
    (setting(seed=-1), "seed: '-1' is not a whole number"),
    (setting(milestones=3), "milestones: 3 is not a list"),
    (setting(compute_budget=1), "compute_budget: 1 is not true or false"),
    (setting(checkpoint_every=7), "checkpoint_every: 7 is of the wrong type"),
    (setting(record=["forgotten"]), "record: 'forgotten' is not one of"),
    (setting(method_options=[]), "method_options: [] is not a table"),
    (setting(method_options={"beta": 1.0}), "method_options: 'beta' is not an option of SGD"),
    (setting(method="dro", method_options={"dro_beta": "1"}), "method_options: dro_beta: '1' is"),
    (setting(augmentation="ricap", augmentation_options={"alpha": -1}), "alpha: '-1' is not a"),
    (partial(change, settings=[]), "settings: [] is not a table"),
    (partial(change, num_images=None), "num_images: 'None' is not a whole number"),
    (partial(change, num_images=0), "num_images: '0' is not a whole number"),
    (partial(change, versions=None), "versions: None is not a table"),
    (partial(change, versions={"torch": 2}), "versions: torch: 2 is not a text"),
    (partial(change, device="tpu:0 (v5)"), "device: 'tpu' is not one of cpu, cuda"),
    (partial(change, device=["cpu"]), "device: ['cpu'] is of the wrong type"),
    (partial(change, precision="float8"), "precision: 'float8' is not one of float32"),
    (partial(change, processes=0), "processes: '0' is not a whole number"),
    (partial(change, tuned="yes"), "tuned: 'yes' is not true or false"),
    (partial(change, scoring_cost=-1), "scoring_cost: '-1' is not a number"),
    (partial(change, method_summary={"realised_fraction": 2}), "realised_fraction: '2' is not a"),
    (partial(write, content=b'{"settings": {"lr": NaN}}'), "NaN is not a finite number"),
    (partial(write, content=b'{"settings": {"lr": 1' + b"0" * 5000 + b"}}"), "digits"),
    (partial(write, content=b"[" * 100_000), "nested too deeply"),
    (partial(write, content=b"\xff\xfe\x00"), "can't decode"),
    (partial(write, content=b""), "Expecting value"),
    (partial(write, content=b"3"), "the whole: 3 is not a table"),
    (make_pipe, "not a file"),
]


@pytest.mark.parametrize("harm, words", HOSTILE, ids=[words for _, words in HOSTILE])
def test_a_hostile_config_is_refused_in_one_line_by_all_that_read_it(harm, words, tmp_path):
    harm(folder := write_run(tmp_path / "run", 80))
    with pytest.raises(BadRun) as refused:
        read_config(folder)
    line = str(refused.value)
    assert line.startswith(f"{folder / 'config.json'}: not what train.py writes: ")
    assert words in line
    assert line.isprintable()
    assert len(line) < 500

    with pytest.raises(UsageError) as error:
        FinishedRun.read(folder, None, "cpu")
    assert str(error.value) == f"{line}; make the run again"
    wanted = {"results_dir": str(tmp_path), "experiment_name": "run"}
    assert other_settings(Run((), wanted)) == [line]
    assert Estimator([tmp_path]).finished == {}


@pytest.mark.parametrize("main", [tables.main, claims.main])
def test_the_commands_leave_hostile_runs_out(main, tmp_path, capsys):
    for number, (harm, _) in enumerate(HOSTILE):
        harm(write_run(tmp_path / str(number), 80))
    assert main([str(tmp_path)]) == 2
    *notes, error = capsys.readouterr().err.splitlines()
    assert len(notes) == len(HOSTILE)
    assert all(
        "; the run is left out, make it again or remove its folder" in note for note in notes
    )
    assert "no finished run there that can be used" in error


@pytest.mark.parametrize("main", [tables.main, claims.main])
@pytest.mark.parametrize("words", [["--nonsense"], ["a", "b"], ["--results_dir=x"]])
def test_a_wrong_argument_is_told_in_one_line(main, words, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m plots")
    assert err.count("\n") == 1


def test_settings_that_a_version_did_not_have_are_as_it_did_them(tmp_path):
    config = read_config(write_run(tmp_path / "run", 80, {"method": "dro"}))
    assert config.settings["momentum"] == 0.9
    assert config.settings["compile"] is False
    assert config.settings["method_options"]["dro_beta"] == 1
    assert (config.device, config.precision, config.processes) == ("cpu", "float32", 1)
    assert (config.tuned, config.scoring_cost, config.realised_fraction) == (False, None, None)


def test_former_names_are_read(tmp_path):
    facts = {"method_summary": {"share_of_images_kept": 0.75}}
    assert read_config(write_run(tmp_path / "a", 80, facts=facts)).realised_fraction == 0.75
    own = dict(method="p-SGD", method_options={"warmup_epochs": 2})
    assert 2 in read_config(write_run(tmp_path / "b", 80, own)).settings["method_options"].values()
    for number, (former, now) in enumerate([("highest", "top"), ("lowest", "bottom")]):
        own = dict(method="coreset", method_options={"coreset_keep": former})
        config = read_config(write_run(tmp_path / f"c{number}", 80, own))
        assert config.settings["method_options"]["coreset_select"] == now


def test_committed_runs_are_read_as_they_are_written():
    committed, _ = find_runs(ROOT / "results")
    assert len(committed) > 300
    for run in committed:
        written = run.content()["settings"]
        read = run.config().settings
        del written["method_options"]  # of which some have other names now
        assert written.items() <= read.items()

"""`RunConfig`: a run from Python, checks of its settings, and what is made from its fields."""

from __future__ import annotations

import dataclasses
import signal
import threading
from pathlib import Path

import pytest
import torch

from data import Dataset
from engine import RunConfig, build, run
from engine.config import SETTINGS, consequential, settings_with
from engine.flags import build_parser, parse
from engine.machine import set_up_torch
from errors import UsageError, as_flags

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = dict(model="resnet10-w8", epochs=1, budget=0.2, device="cpu", amp="off")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def curve_of(folder: Path) -> list[list[str]]:
    """Return the rows of a curve but for the seconds, which come last."""
    return [line.split(",")[:-4] for line in (folder / "curve.csv").read_text().splitlines()]


def test_a_run_from_python_is_that_of_the_command_line(train_here) -> None:
    options = {"dro_beta": 10.0}
    folder = run(RunConfig(method="dro", method_options=options, **QUICK, results_dir="mine"))
    assert folder == Path("mine/digits_dro_standard_b0.2_s1")
    words = [f"--{name}={value}" for name, value in QUICK.items()]
    assert train_here("--method", "dro", "--dro-beta", 10, *words).returncode == 0
    assert curve_of(folder) == curve_of(Path("results") / folder.name)


def test_a_finished_run_is_not_made_again() -> None:
    run(RunConfig(**QUICK))
    with pytest.raises(UsageError, match=r"holds a run \(finished\).*`overwrite`"):
        run(RunConfig(**QUICK))
    run(RunConfig(**QUICK, overwrite=True))


def test_a_run_leaves_the_handlers_of_signals_and_goes_in_any_thread() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(RunConfig(**QUICK))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    thread = threading.Thread(target=run, args=[RunConfig(**QUICK, seed=2)])
    thread.start()
    thread.join()
    assert Path("results/digits_SGD_standard_b0.2_s2/model.pt").exists()


def test_what_has_no_effect_is_noted_by_name(capsys: pytest.CaptureFixture) -> None:
    run(RunConfig(**QUICK, milestones=[1]))
    assert capsys.readouterr().err == "note: `milestones` has no effect with `schedule` linear\n"


@pytest.mark.parametrize(
    "values, message",
    [
        (dict(budget=2), "`budget`: '2' is not a number above 0, at most 1"),
        (dict(budget="0.2"), "`budget`: '0.2' is of the wrong type"),
        (dict(epochs=1.5), "`epochs`: '1.5' is not a whole number"),
        (dict(epochs=True), "`epochs`: 'True' is not a whole number"),
        (dict(method="drro"), "`method`: 'drro' is not one of .* did you mean dro?"),
        (dict(overwrite=1), "`overwrite`: 1 is not true or false"),
        (dict(milestones=3), "`milestones`: 3 is not a list"),
        (dict(record=["el3n"]), "`record`: 'el3n' is not one of"),
        (dict(checkpoint_every="often"), "`checkpoint_every`: 'often' is not a number of epochs"),
        (dict(method_options={"dro_beta": 1.0}), "`method_options`: 'dro_beta' is not an option"),
        (dict(method="dro", method_options={"dro_beta": -1}), "dro_beta: '-1' is not a number"),
        (dict(method="dro", method_options=[]), r"`method_options`: \[\] is not a table"),
        (dict(image_size=8), "`image_size`: digits has a size of its own"),
        (dict(schedule="step", milestones=[3, 2]), "`milestones` 3 2: out of order"),
    ],
)
def test_a_wrong_setting_is_named_as_it_is_in_python(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        RunConfig(**values).resolved()
    assert "--" not in str(refused.value)
    assert not Path("results").exists()


def test_resolving_twice_changes_nothing() -> None:
    for words in ([], ["--schedule", "step"], ["--record", "el2n"], ["--method", "dro"]):
        config, _ = parse(words)
        assert config.resolved() == (config, [])
    noted, notes = RunConfig(milestones=[1], gamma=0.5, record_epochs=3).resolved()
    assert len(notes) == 3
    assert noted.resolved() == (noted, [])


def test_a_setting_may_be_a_path() -> None:
    assert RunConfig(data_dir=Path("a/b")).resolved()[0].data_dir == "a/b"


def test_every_setting_has_a_flag_and_its_default() -> None:
    parser = build_parser()
    flags = {action.dest: action for action in parser._actions}
    for name, each in SETTINGS.items():
        assert flags[name].default == each.default
    assert {"method_options", "augmentation_options"} == {
        each.name for each in dataclasses.fields(RunConfig)
    } - SETTINGS.keys()


def test_settings_say_what_they_decide() -> None:
    where = settings_with("where")
    assert {"results_dir", "device", "num_threads", "resume"} <= set(where)
    assert not {"method", "budget", "seed", "amp", "compile", "dataset"} & set(where)
    assert consequential(vars(RunConfig())).keys() == vars(RunConfig()).keys() - set(where)
    assert "imbalance" in settings_with("of_data")
    assert "lr" in settings_with("tunable")


def test_settings_in_texts_become_flags() -> None:
    assert as_flags("`batch_size` 3: add `resume=False`") == "--batch-size 3: add --no-resume"


def test_what_a_run_sets_for_its_process_ends_with_it() -> None:
    threads = torch.get_num_threads()
    other = RunConfig(deterministic=True, num_threads=threads + 1).resolved()[0]
    device = torch.device("cpu")
    set_up_torch(other, device)
    assert torch.get_num_threads() == threads + 1
    assert torch.are_deterministic_algorithms_enabled()
    set_up_torch(RunConfig().resolved()[0], device)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_data_too_large_to_keep_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def load(settings: RunConfig) -> Dataset:
        loads.append(settings.seed)
        return load_source(settings)

    load_source = build.load_source
    monkeypatch.setattr(build, "load_source", load)
    monkeypatch.setattr(build, "memory", lambda device: 1000)
    monkeypatch.setattr(build, "KEPT", {})
    monkeypatch.setattr(build, "TOO_LARGE", set())
    for seed in (1, 2, 3):
        build.keep_dataset(RunConfig(seed=seed).resolved()[0])
    assert loads == [1]
    assert build.KEPT == {}

"""Scores: formulas, the order of k-center, what is recorded, and files made of runs."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from conftest import Completed
from steps import make_steps
from test_methods import (
    make_batch,
    make_dataset,
    make_method,
    make_task,
    make_trainer,
    saved_and_loaded,
)
from torch import nn

import sweep
from budgetbench import el2n, grand, k_center
from data import DATASETS
from engine.models import create_model
from engine.run_folder import RunFolder
from methods import METHODS, Method
from methods.scores import RECORDED, Recording, ScoreFile, digest

pytestmark = pytest.mark.usefixtures("one_thread")


assert_refused = partial(conftest.assert_refused, absent="out.npz")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Formulas


def test_el2n_is_the_norm_of_the_error() -> None:
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(9, 4)), random.dirichlet(np.ones(4), 9)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = [np.sqrt(((p - t) ** 2).sum()) for p, t in zip(probabilities, targets)]
    np.testing.assert_allclose(el2n(*map(torch.tensor, (logits, targets))), expected, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_grand_is_the_norm_of_the_last_layers_gradient(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=bias)
    features, labels = torch.randn(9, 6), torch.randint(4, (9,))
    targets = nn.functional.one_hot(labels, 4).float()
    expected = []
    for row, label in zip(features, labels):
        layer.zero_grad()
        nn.functional.cross_entropy(layer(row), label).backward()
        gradients = [parameter.grad.flatten() for parameter in layer.parameters()]
        expected.append(torch.cat(gradients).norm().item())
    found = grand(layer(features).detach(), targets, features, bias)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# k-center


def farthest_first(points: np.ndarray) -> list[int]:
    """Greedy k-center, pick by pick, in double precision."""
    points = points - points.mean(0)
    order = [int((points**2).sum(1).argmin())]
    distance = np.full(len(points), np.inf)
    while len(order) < len(points):
        distance = np.minimum(distance, ((points - points[order[-1]]) ** 2).sum(1))
        distance[order[-1]] = -1
        order.append(int(distance.argmax()))
    return order


@pytest.mark.parametrize("n, d, most", [(1, 3, 4), (40, 1, 4), (700, 2, 6), (3000, 3, 3)])
def test_k_center_is_greedy_with_ties_and_twins(n: int, d: int, most: int) -> None:
    """Small whole numbers, of which all distances are exact: many are equal, many are zero."""
    points = np.random.default_rng(n).integers(-most, most + 1, (n, d)).astype(np.float32)
    points = np.concatenate([points, -points])  # the mean is exactly zero
    assert k_center(points).tolist() == farthest_first(points)


@pytest.mark.parametrize("d", [2, 16, 64])
def test_each_of_k_center_is_the_farthest(d: int) -> None:
    """On features like a network's: non-negative, in clusters. Within rounding."""
    random = np.random.default_rng(d)
    centres = 4 * random.normal(size=(10, d))
    points = np.maximum(centres[random.integers(10, size=1500)] + random.normal(size=(1500, d)), 0)
    order = k_center(points)
    assert sorted(order) == list(range(1500))
    distance = np.full(1500, np.inf)
    for pick, following in itertools.pairwise(order):
        distance = np.minimum(distance, ((points - points[pick]) ** 2).sum(1))
        assert distance[following] >= distance.max() - 1e-4 * (points**2).sum(1).max()


def test_k_center_does_not_change_its_input() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    given = points.copy()
    k_center(points)
    assert (points == given).all()


# Recording


def recording_of(method: Method, names, first_epochs: int) -> Recording:
    return Recording(method, {name: RECORDED[name](method.task, first_epochs) for name in names})


def reference(visits: list[tuple[int, bool]], n: int) -> list[float]:
    """Forgetting by the definition, image by image: Toneva et al. 2019, Algorithm 1."""
    histories = [[right for image, right in visits if image == i] for i in range(n)]
    most = max(map(len, histories))
    scores = []
    for history in histories:
        events = sum(a and not b for a, b in itertools.pairwise(history))
        scores.append(float("nan") if not history else events if any(history) else most)
    return scores


def test_forgetting_counts_what_was_right_and_is_wrong() -> None:
    task, random = make_task(num_images=30, batch_size=8), np.random.default_rng(0)
    recording, visits = recording_of(Method(task), ["forgetting"], 1), []
    for _ in range(60):
        index = random.choice(28, 8, replace=False)  # two are never visited
        labels = torch.from_numpy(task.labels[index])
        right = (random.random(8) < 0.5) & (index > 1)  # two are never learnt
        answers = torch.where(torch.from_numpy(right), labels, (labels + 1) % 4)
        logits = nn.functional.one_hot(answers, 4).float()
        recording.observe(make_batch(index, labels), logits, torch.ones(8))
        visits += zip(index.tolist(), right.tolist())
    found = recording.values()["forgetting"].tolist()
    np.testing.assert_array_equal(found, reference(visits, 30))
    assert np.isnan(found[28:]).all()
    assert min(found[:2]) > max(found[2:28]) > 2


def test_an_image_twice_in_a_batch_was_right_if_it_was_so_both_times() -> None:
    recording = recording_of(Method(make_task(num_images=16)), ["forgetting"], 1)
    labels = torch.zeros(4, dtype=torch.int64)
    batch, wrong, right = make_batch([5, 5, 6, 6], labels), [0.0, 1, 0, 0], [1.0, 0, 0, 0]
    for answers in ([right, wrong, right, right], [right, right, wrong, right]):
        recording.observe(batch, torch.tensor(answers), torch.ones(4))
    notes = recording.recorders["forgetting"]
    assert notes.forgotten[[5, 6]].tolist() == [0, 1]
    assert notes.right[[5, 6]].tolist() == [1, 0]


@pytest.mark.parametrize("augmentation", ["standard", "mixup", "ricap"])
def test_el2n_is_recorded_in_the_first_epochs(augmentation: str) -> None:
    """As the mean over an image's visits, a mixed image's being its owner's."""
    task = make_task(num_images=64, batch_size=8, budget=0.5, epochs=9)
    trainer = make_trainer(recording_of(Method(task), ["el2n"], 5), make_dataset(), augmentation)
    norms: list[list[float]] = [[] for _ in range(64)]
    observe = trainer.method.observe

    def listen(batch, logits, losses) -> None:
        observe(batch, logits, losses)
        if trainer.step <= 5 * task.steps_per_epoch:  # the step just made is counted already
            errors = logits.softmax(1) - batch.targets
            for owner, error in zip(batch.index.tolist(), errors):
                norms[owner].append(error.norm().item())

    trainer.method.observe = listen
    make_steps(trainer)
    assert sum(map(len, norms)) == 5 * task.steps_per_epoch * 8
    expected = [np.mean(each) if each else np.nan for each in norms]
    np.testing.assert_allclose(trainer.method.values()["el2n"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_recording_changes_nothing_and_is_saved(name: str) -> None:
    """The run goes the same way; and recorded in two parts is recorded."""
    task = make_task(num_images=256, batch_size=32, budget=0.5, epochs=14)
    make = partial(make_method, name, task)
    trainers = [
        make_trainer(method, make_dataset(num_images=256))
        for method in (make(), *(recording_of(make(), RECORDED, 2) for _ in range(2)))
    ]
    plain, whole, resumed = trainers
    make_steps(plain)
    make_steps(whole, 31)
    resumed.load_state_dict(saved_and_loaded(whole.state_dict()))
    make_steps(whole)
    make_steps(resumed)
    for trainer in (whole, resumed):
        for ours, theirs in zip(trainer.model.parameters(), plain.model.parameters()):
            assert torch.equal(ours, theirs)
    assert resumed.method.file({}).to_bytes() == whole.method.file({}).to_bytes()
    assert all(each.isfinite().any() for each in whole.method.values().values())


# Files


def test_a_file_gives_back_what_was_written() -> None:
    values = {"el2n": np.array([1, np.nan, 3], np.float32), "k-center": np.float32([2, 0, 1])}
    file = ScoreFile("digits", digest(np.array([3, 1, 2])), values, [{"run": "a", "lr": 0.1}])
    Path("file").write_bytes(file.to_bytes())
    read = ScoreFile.read("file")
    assert (read.dataset, read.labels_sha256, read.sources) == (
        "digits",
        # of the three numbers as 8 bytes each, lowest first, by sha256sum
        "7c4cec7a82e1aa578a08e41043044a9bfed3839e107aef17f4bf292878784259",
        [{"run": "a", "lr": 0.1}],
    )
    assert list(read.values) == ["el2n", "k-center"]
    for name, value in values.items():
        np.testing.assert_array_equal(read.values[name], value)
    assert file.to_bytes() == read.to_bytes()


# Runs

SHORT = ("--epochs", 2, "--budget", 0.25, "--batch-size", 32, "--device", "cpu")
Scores = Callable[..., Completed]


@pytest.fixture
def trained(make_run: Callable[..., Path]) -> Callable[..., Path]:
    """Make a short run of digits; its folder."""
    return lambda name, *words: make_run(name, *SHORT, *words)


def test_recorded_scores_are_left_in_the_runs_folder(trained) -> None:
    unif = ("--method", "unif-SGD")
    folder = trained("run", "--record", "el2n,forgetting", "--record-epochs", 1, *unif)
    plain = trained("plain", *unif)
    assert (folder / "model.pt").read_bytes() == (plain / "model.pt").read_bytes()
    assert not (plain / "scores.npz").exists()
    file = ScoreFile.read(folder / "scores.npz")
    labels = DATASETS["digits"].load(Path()).train_labels
    assert (file.dataset, file.labels_sha256) == ("digits", digest(labels))
    assert set(file.values) == {"el2n", "forgetting"}
    visited = np.isfinite(file.values["forgetting"]).sum()
    assert 11 * 32 < visited < 2 * 11 * 32
    assert np.isfinite(file.values["el2n"]).sum() == 11 * 32, "one epoch of distinct images"
    settings = file.sources[0]["settings"]
    assert (settings["method"], settings["record_epochs"]) == ("unif-SGD", 1)


def test_a_stopped_recording_goes_on_to_the_byte(
    trained, train_here, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--record", "forgetting,el2n", "--record-epochs", 2, "--epochs", 4)
    straight = trained("straight", *words, "--augmentation", "ricap")
    append = RunFolder.append_row

    def append_and_stop(folder: RunFolder, row: dict) -> None:
        append(folder, row)
        if row["epoch"] == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "append_row", append_and_stop)
    common = (*SHORT, "--experiment-name", "stopped", "--augmentation", "ricap")
    assert train_here(*common, *words).returncode == 143
    other = train_here(*common, "--epochs", 4)
    assert other.returncode == 2
    assert "record was ['forgetting', 'el2n'], is None" in other.stderr
    other = train_here(*common, *words, "--record-epochs", 3)
    assert "record_epochs was 2, is 3" in other.stderr
    assert train_here(*common, *words).returncode == 0
    stopped = Path("results/stopped")
    assert (stopped / "model.pt").read_bytes() == (straight / "model.pt").read_bytes()
    files = [ScoreFile.read(folder / "scores.npz") for folder in (stopped, straight)]
    assert files[0].sha256 == files[1].sha256, "but for the seconds of training"
    assert files[0].seconds > 0


def test_flags_of_recording(train_here) -> None:
    outcome = train_here(*SHORT, "--record", "el2n,forgeting")
    assert_refused(outcome, "--record", "'forgeting'", "did you mean forgetting?")
    assert_refused(train_here(*SHORT, "--record", "grand"), "not one of forgetting, el2n")
    outcome = train_here(*SHORT, "--record", "el2n", "--method", "obftf", "--compute-budget")
    assert_refused(outcome, "--record goes by epochs of equal steps, which --method obftf")
    outcome = train_here(*SHORT, "--record-epochs", 3)
    assert outcome.stderr == "note: --record-epochs has no effect without --record el2n\n"


def network_of(folder: Path) -> tuple[nn.Module, torch.Tensor]:
    """A run's network, and the images that it was trained on as the network gets them."""
    data = DATASETS["digits"].load(Path())
    model = create_model("resnet10-w16", 1, 10, (8, 8))
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    images = (torch.tensor(data.train_images) / 255 - data.mean[0]) / data.std[0]
    return model.eval(), images


def test_scores_of_a_network(trained, scores_here) -> None:
    folder = trained("run")
    scores = "el2n,grand,k-center"
    outcome = scores_here(folder, "--score", scores, "--out", "out.npz", "--device", "cpu")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == [
        f"{score}: of the network at the end; 1442 of 1442 images have a score"
        for score in scores.split(",")
    ]
    file, labels = ScoreFile.read("out.npz"), DATASETS["digits"].load(Path()).train_labels
    model, images = network_of(folder)
    with torch.no_grad():
        features = torch.nn.functional.relu(model.norm(model.stem(images)))
        features = model.blocks(features).mean((2, 3)).numpy()
        errors = model(images).softmax(1)
    errors[range(1442), labels] -= 1
    np.testing.assert_allclose(file.values["el2n"], errors.norm(dim=1), rtol=1e-3, atol=1e-5)
    inputs = np.concatenate([features, np.ones((1442, 1), np.float32)], 1)
    gradients = (errors.numpy()[:, :, None] * inputs[:, None]).reshape(1442, -1)
    expected = np.linalg.norm(gradients, axis=1)
    np.testing.assert_allclose(file.values["grand"], expected, rtol=1e-3, atol=1e-4)
    order = np.argsort(-file.values["k-center"])
    assert sorted(file.values["k-center"]) == list(range(1442))
    distance = np.full(1442, np.inf)
    for pick, following in itertools.pairwise(order[:200]):
        distance = np.minimum(distance, ((features - features[pick]) ** 2).sum(1))
        assert distance[following] >= distance.max() - 1e-3
    source = file.sources[0]
    assert source["run"] == "results/run"
    assert source["settings"]["budget"] == 0.25
    assert source["ways"]["el2n"] == "of the network at the end"


def test_a_score_is_the_mean_over_runs(trained, scores_here) -> None:
    """Those that have one of the image; and what was recorded takes precedence."""
    words = ("--record", "forgetting,el2n", "--record-epochs", 1)
    folders = [trained(f"run{seed}", *words, "--seed", seed) for seed in (1, 2, 3)]
    outcome = scores_here(*folders, "--score", "forgetting,el2n", "--out", "out.npz")
    assert outcome.returncode == 0, outcome.stderr
    file = ScoreFile.read("out.npz")
    for score in ("forgetting", "el2n"):
        each = [ScoreFile.read(folder / "scores.npz").values[score] for folder in folders]
        had = [[value for value in values if value == value] for values in np.transpose(each)]
        expected = [sum(values) / len(values) if values else np.nan for values in had]
        np.testing.assert_allclose(file.values[score], expected, rtol=1e-6)
        assert set(map(len, had)) >= ({1, 2, 3} if score == "el2n" else {2, 3})
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("forgetting: recorded while training; ")
    scored = np.isfinite(file.values["el2n"]).sum()
    assert lines[1] == f"el2n: recorded while training; {scored} of 1442 images have a score"
    assert [source["settings"]["seed"] for source in file.sources] == [1, 2, 3]


def test_only_the_run_that_gives_features_pays_for_them(trained, scores_here) -> None:
    words = ("--record", "el2n")
    folders = [trained(f"run{seed}", *words, "--seed", seed) for seed in (1, 2)]
    costs = []
    for more in ((), ("--features",)):
        outcome = scores_here(*folders, "--score", "el2n", *more, "--out", "out.npz")
        assert outcome.returncode == 0, outcome.stderr
        costs.append([source["cost"] for source in ScoreFile.read("out.npz").sources])
    assert np.subtract(*reversed(costs)).tolist() == [1442, 0]


def test_a_sweep_notices_that_scores_have_changed(trained, scores_here, main_here) -> None:
    run = trained("run")
    words = [
        "--isolate",
        "--method",
        "coreset",
        "--coreset-file",
        "out.npz",
        "--budget",
        "0.1",
        "--epochs",
        "1",
    ]
    for score, left in (("el2n", 1), ("grand", 0)):
        made = scores_here(run, "--score", score, "--out", "out.npz", "--device", "cpu")
        assert made.returncode == 0, made.stderr
        outcome = main_here(sweep.main, *words)
        assert (outcome.returncode == 0) == left
    conftest.assert_refused(outcome, "out.npz has changed")


def test_a_curve_without_costs_is_one_line(trained, scores_here) -> None:
    run = trained("run")
    curve = run / "curve.csv"
    curve.write_text(curve.read_text().replace(",cost,", ",price,"))
    refused = scores_here(run, "--score", "el2n", "--out", "out.npz", "--device", "cpu")
    assert_refused(refused, "curve.csv: no number in column cost; make the run again")


def test_what_scores_refuses(trained, scores_here, train_here) -> None:
    run, held = trained("run"), trained("held", "--validation", 300)
    recorded = trained("recorded", "--record", "el2n")
    out = ("--out", "out.npz", "--device", "cpu")
    ask = lambda score, *runs: scores_here(*runs, "--score", score, *out)  # noqa: E731
    assert_refused(ask("el2m", run), "--score", "did you mean el2n?")
    assert_refused(ask("el2n", "nowhere"), "nowhere: holds no run; give the folder of a finished")
    assert_refused(ask("forgetting", run), "results/run: forgetting was not recorded", "--record")
    assert_refused(ask("k-center", run, recorded), "k-center is an order", "give one RUN")
    assert_refused(ask("el2n", run, held), "not of the same training images")
    assert_refused(ask("el2n", run, run), "given twice")
    assert_refused(
        ask("el2n", run, recorded),
        "el2n is of the network at the end for results/run, recorded while training for",
    )
    short = trained("short", "--record", "tdds", "--epochs", 8)
    assert_refused(ask("tdds-30", short), "results/short: too short a run for tdds-30; train for")
    missing = scores_here(run, "--score", "el2n", "--out", "none/out.npz")
    assert_refused(missing, "--out none/out.npz: cannot be written")

    (recorded / "scores.npz").write_bytes(b"harm")
    assert_refused(ask("el2n", recorded), "results/recorded/scores.npz: damaged")
    config = json.loads((held / "config.json").read_text())
    (held / "config.json").write_text(json.dumps(config | {"num_images": 7}))
    assert_refused(ask("el2n", held), "results/held: trained on 7 images", "give --data-dir")
    (held / "config.json").write_text("{")
    assert_refused(ask("el2n", held), "results/held/config.json: not what train.py writes")
    (run / "model.pt").write_bytes((run / "model.pt").read_bytes()[:-1000])
    assert_refused(ask("el2n", run), "results/run/model.pt: damaged")
    (run / "status").write_text("failed\n")
    assert_refused(ask("el2n", run), "results/run: holds a run that is failed")

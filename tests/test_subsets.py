"""random-subset and coreset: which images they take, against plain Python, and what they refuse."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from laws import assert_inclusion, assert_law
from steps import make_steps
from test_methods import CPU, make_dataset, make_task, make_trainer, saved_and_loaded

import sweep
from data import DATASETS
from methods import OptionError, Task
from methods.coreset import Coreset, RandomSubset
from methods.scores import ScoreFile, digest

pytestmark = pytest.mark.usefixtures("one_thread")


assert_refused = partial(conftest.assert_refused, absent="results")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_scores(task: Task, path: str = "scores.npz", **values: object) -> str:
    """A score file for a task; names of scores with _ for -."""
    arrays = {name.replace("_", "-"): np.asarray(each, np.float32) for name, each in values.items()}
    Path(path).write_bytes(ScoreFile(task.dataset, digest(task.labels), arrays).to_bytes())
    return path


def make_coreset(task: Task, scores: object, **options: object) -> Coreset:
    return Coreset(task, coreset_file=write_scores(task, el2n=scores), **options)


def members(method: RandomSubset) -> list[int]:
    """The images that full passes go over, in order of index."""
    return sorted(method.subset.tolist())


# random-subset


def test_a_random_subset_is_one_for_all_epochs() -> None:
    task = make_task(num_images=100, batch_size=8, budget=0.43)
    method = RandomSubset(task)
    passes = [method.draw(step / 100) for step in range(0, 100, 2)]
    for batches in passes:
        assert batches.shape == (5, 8)
        assert len(batches.unique()) == 40
    assert len({tuple(batches.view(-1).tolist()) for batches in passes}) == len(passes)
    drawn = torch.cat(passes).unique().tolist()
    assert len(drawn) == 43, "the ragged end is another one in each pass"
    assert drawn == members(method)


def test_a_random_subset_is_uniform() -> None:
    subsets = np.stack(
        [RandomSubset(make_task(30, 4, budget=0.4, seed=seed)).subset for seed in range(3000)]
    )
    assert subsets.shape == (3000, 12)
    assert_inclusion(subsets, np.full(30, 12 / 30))


@pytest.mark.parametrize("augmentation", ["standard", "ricap"])
def test_passes_over_a_subset_go_on_across_epochs(augmentation: str) -> None:
    """After whole passes each image of the subset was used equally often, the others never."""
    task = make_task(num_images=64, batch_size=8, budget=0.5, epochs=6)
    trainer = make_trainer(RandomSubset(task), make_dataset(), augmentation)
    for step in range(task.steps):
        make_steps(trainer, 1)
        if (step + 1) % 4 == 0:
            expected = np.zeros(64)
            expected[members(trainer.method)] = (step + 1) // 4
            assert trainer.sample_counts.tolist() == expected.tolist()


def test_a_subset_is_part_of_a_checkpoint() -> None:
    """Whatever seed or file a fresh method begins with."""
    task = make_task(num_images=64, batch_size=8)
    method = make_coreset(task, np.arange(64))
    method.draw(0)
    state = saved_and_loaded(method.state_dict())
    fresh = make_coreset(make_task(num_images=64, batch_size=8, seed=9), -np.arange(64))
    assert members(fresh) == list(range(32))
    fresh.load_state_dict(state)
    assert members(fresh) == list(range(32, 64))
    for _ in range(3):
        assert torch.equal(fresh.draw(0.5), method.draw(0.5))


# coreset


@pytest.mark.parametrize("keep", ["top", "bottom"])
@pytest.mark.parametrize("budget", [0.2, 0.55, 1.0])
def test_a_coreset_has_the_best_scores(budget: float, keep: str) -> None:
    task = make_task(num_images=80, batch_size=8, budget=budget)
    scores = np.random.default_rng(1).normal(size=80).astype(np.float32)
    method = make_coreset(task, scores, coreset_select=keep)
    best = sorted(range(80), key=lambda i: scores[i], reverse=keep == "top")
    assert members(method) == sorted(best[: task.subset_size])


def test_a_coreset_of_an_order_is_its_beginning() -> None:
    task = make_task(num_images=80, batch_size=8, budget=0.25)
    order = np.random.default_rng(0).permutation(80)
    places = np.empty(80)
    places[order] = np.arange(80)[::-1]
    method = Coreset(task, coreset_file=write_scores(task, k_center=places))
    assert members(method) == sorted(order[:20].tolist())


def largest_remainders(counts: list[int], size: int) -> list[int]:
    shares = [size * count / sum(counts) for count in counts]
    places = [int(share) for share in shares]
    for label in sorted(range(len(counts)), key=lambda c: (places[c] - shares[c], c)):
        if sum(places) < size:
            places[label] += 1
    return places


@pytest.mark.parametrize("seed", range(8))
def test_a_coreset_per_class_has_the_best_of_each(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.choice(4, 90, p=[0.5, 0.3, 0.15, 0.05])
    labels[labels == 3] = 2 if seed == 0 else 3  # one time without any image of a class
    task = make_task(num_images=90, batch_size=8, budget=0.37)
    task = replace(task, labels=labels)
    scores = random.normal(size=90).astype(np.float32)
    method = make_coreset(task, scores, coreset_per_class=True)
    places = largest_remainders(np.bincount(labels, minlength=4).tolist(), 33)
    expected = []
    for label, size in enumerate(places):
        own = [i for i in range(90) if labels[i] == label]
        expected += sorted(own, key=lambda i: -scores[i])[:size]
    assert members(method) == sorted(expected)
    assert len(expected) == 33


@pytest.mark.parametrize("per_class", [False, True])
def test_equal_scores_are_taken_at_random(per_class: bool) -> None:
    """Sixteen clear ones and 16 of 32 that are equal, all of them equally likely."""
    scores = np.repeat([2, 1, 0], [16, 32, 16])
    taken = Counter()
    for seed in range(600):
        task = make_task(num_images=64, batch_size=8, seed=seed)
        method = make_coreset(task, scores, coreset_per_class=per_class)
        assert set(range(16)) <= set(members(method)) <= set(range(48))
        taken.update(members(method))
    counts = [taken[i] for i in range(16, 48)]
    assert sum(counts) == 600 * 16
    # Drawn without replacement, counts vary less than the test assumes: half as much.
    assert_law(counts, np.ones(32))
    assert np.var(counts) > 600 / 4 / 4


@pytest.mark.parametrize("keep", ["top", "bottom"])
def test_images_without_a_score_are_never_taken(keep: str) -> None:
    scores = np.where(np.arange(64) % 2, np.nan, np.arange(64))
    task = make_task(num_images=64, batch_size=8, budget=0.5)
    assert members(make_coreset(task, scores, coreset_select=keep)) == list(range(0, 64, 2))
    scores[8] = np.nan
    with pytest.raises(OptionError, match="too few images have a score to choose 32;"):
        make_coreset(task, scores, coreset_select=keep)


def test_a_class_with_too_few_scores_is_not_made_up_for_by_others() -> None:
    task = make_task(num_images=64, batch_size=8, budget=0.5)
    scores = np.where(task.labels == 1, np.nan, 1)
    assert len(make_coreset(task, scores).subset) == 32
    with pytest.raises(OptionError, match="choose 32 of each class in proportion"):
        make_coreset(task, scores, coreset_per_class=True)


# What is refused, as its user sees it

SHORT = ("--method", "coreset", "--budget", 0.2, "--epochs", 1, "--batch-size", 32)
SHORT += ("--device", "cpu")


@pytest.fixture
def digits() -> Task:
    """A task on digits: what a score file for them has to match."""
    labels = DATASETS["digits"].load(Path()).train_labels
    values = make_task(num_images=len(labels), num_classes=10)
    return replace(values, dataset="digits", labels=labels, device=CPU)


def test_the_file_has_to_be_given(train_here) -> None:
    remedy = "python -m engine.scores RUN --score NAME --out FILE"
    assert_refused(train_here(*SHORT), "--coreset-file: not given", remedy)
    with pytest.raises(OptionError, match="coreset_file: not given"):
        Coreset(make_task())


def test_a_sweep_asks_for_the_file_before_it_starts(main_here) -> None:
    outcome = main_here(sweep.main, "--method", "SGD", "coreset", "--epochs", 1)
    assert_refused(outcome, "--coreset-file: not given")


def test_a_missing_file_is_refused(train_here, tmp_path: Path) -> None:
    outcome = train_here(*SHORT, "--coreset-file", "none.npz")
    assert_refused(outcome, "--coreset-file none.npz: No such file", "python -m engine.scores")
    outcome = train_here(*SHORT, "--coreset-file", tmp_path)
    assert_refused(outcome, "not a regular file", "python -m engine.scores")


def as_npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def with_an_array(content: bytes, **arrays: object) -> bytes:
    with np.load(io.BytesIO(content)) as archive:
        return as_npz(**{name: archive[name] for name in archive.files} | arrays)


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: b"",
        lambda content: b"garbage" * 1000,
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        flip_a_bit,
        lambda content: as_npz(el2n=np.zeros(1442, dtype=np.float32)),
        lambda content: with_an_array(content, el2n=np.zeros(1441, dtype=np.float32)),
        lambda content: with_an_array(content, el2n=np.zeros(1442)),
        lambda content: with_an_array(content, el2n=np.array([print] * 1442)),
        lambda content: with_an_array(content, scores=[]),
        lambda content: with_an_array(content, sources="not JSON"),
    ],
)
def test_a_damaged_file_is_refused(harm, digits: Task, train_here) -> None:
    path = Path(write_scores(digits, el2n=np.arange(1442)))
    path.write_bytes(harm(path.read_bytes()))
    outcome = train_here(*SHORT, "--coreset-file", path)
    assert_refused(outcome, "--coreset-file scores.npz: damaged", "make it again with python -m")


def test_a_file_of_another_format_is_refused(digits: Task, train_here) -> None:
    path = Path(write_scores(digits, el2n=np.arange(1442)))
    path.write_bytes(with_an_array(path.read_bytes(), format=2))
    outcome = train_here(*SHORT, "--coreset-file", path)
    assert_refused(outcome, "scores.npz: of format 2, where this is 1; make it again")


@pytest.mark.parametrize(
    "words, fragment",
    [
        ("--validation 200", "of 1442 training images, where this run has 1242"),
        ("--imbalance 5", "of 1442 training images, where this run has"),
        ("--label-noise 0.1", "of images with other labels, as another --data-seed"),
    ],
)
def test_a_file_for_other_images_is_refused(
    words: str, fragment: str, digits: Task, train_here
) -> None:
    path = write_scores(digits, el2n=np.arange(1442))
    outcome = train_here(*SHORT, "--coreset-file", path, *words.split())
    assert_refused(outcome, "--coreset-file scores.npz: ", fragment, "python -m engine.scores")


def test_a_file_for_another_data_set_is_refused(digits: Task, train_here) -> None:
    other = replace(digits, dataset="cifar10")
    outcome = train_here(*SHORT, "--coreset-file", write_scores(other, el2n=np.arange(1442)))
    assert_refused(outcome, "--coreset-file scores.npz: of cifar10, where this is digits")


def test_which_score_has_to_be_clear(digits: Task, train_here) -> None:
    path = write_scores(digits, el2n=np.arange(1442), k_center=-np.arange(1442))
    common = (*SHORT, "--coreset-file", path)
    assert_refused(train_here(*common), "has el2n, k-center; choose one with --coreset-score")
    assert_refused(train_here(*common, "--coreset-score", "grand"), "has el2n, k-center, not grand")
    assert_refused(
        train_here(*common, "--coreset-score", "k-centre"), "did you mean k-center?", "forgetting"
    )
    assert_refused(train_here(*common, "--coreset-select", "tops"), "did you mean top?")
    assert train_here(*common, "--coreset-score", "k-center").returncode == 0


@pytest.mark.parametrize("name", ["random-subset", "coreset"])
def test_a_run_uses_as_many_images_as_its_budget_has(name: str, digits: Task, train_here) -> None:
    path = write_scores(digits, el2n=np.arange(1442))
    words = ("--coreset-file", path) if name == "coreset" else ()
    outcome = train_here(*SHORT, "--method", name, *words, "--epochs", 3)
    assert outcome.returncode == 0, outcome.stderr
    (curve,) = Path("results").glob("*/curve.csv")
    header, *_, last = (line.split(",") for line in curve.read_text().splitlines())
    entropy = float(dict(zip(header, last))["count_entropy"])
    assert entropy == pytest.approx(np.log(288), rel=1e-6)

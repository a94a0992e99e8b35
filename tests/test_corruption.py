"""Training parts made harder on purpose, and what a run says of each class.

Comparisons of frequencies use fixed seeds; each fails a right implementation at FALSE_ALARM.
"""

from __future__ import annotations

import csv
import os
import re
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Completed
from scipy import stats
from steps import Rows, make_steps
from test_command_line import (
    SHORT,
    assert_refused,
    read_config,
    read_curve,
    read_status,
    without_seconds,
)

from data import (
    DATASETS,
    Dataset,
    class_balanced_subset,
    hold_out,
    long_tailed,
    with_label_noise,
)
from data.corruption import IMBALANCE, NOISE
from engine.build import build, load_dataset
from engine.evaluation import Evaluation
from engine.flags import parse
from engine.models import create_model
from engine.parts import FORWARD_VALUES
from engine.run_folder import CLASS_COLUMNS, RunFolder
from engine.trainer import Trainer
from errors import UsageError

FALSE_ALARM = 1e-4  # probability that chance alone fails one comparison of frequencies
BOTH = ("--imbalance", 5, "--label-noise", 0.3)
NAME = "digits_SGD_standard_imbalance5_noise0.3_b0.2_s1"  # of the folder that SHORT and BOTH make


def tagged(counts: list[int], *, mixed: bool = True) -> Dataset:
    """So many images of each class, in a random order unless not `mixed`.

    An image tells its place in the data set: the first two of its pixels.
    """
    labels = np.repeat(np.arange(len(counts)), counts)
    if mixed:
        labels = np.random.default_rng(0).permutation(labels)
    places = np.arange(len(labels))
    images = np.zeros((len(labels), 1, 1, 2), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = places // 256, places % 256
    classes = tuple(f"kind {label}" for label in range(len(counts)))
    return Dataset(images, labels, images[:3], labels[:3], classes, (0.5,), (0.25,))


def places_of(dataset: Dataset) -> np.ndarray:
    """Where the training images were in the data set that `tagged` made."""
    images = np.asarray(dataset.train_images)
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]


def sizes_of(dataset: Dataset) -> list[int]:
    return np.bincount(dataset.train_labels, minlength=len(dataset.classes)).tolist()


def assert_same_but_for(changed: set[str], before: Dataset, after: Dataset) -> None:
    for field in fields(Dataset):
        if field.name not in changed:
            assert getattr(after, field.name) is getattr(before, field.name), field.name


def assert_law(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Chi-square test that counts of outcomes follow their probabilities."""
    expected = probabilities / probabilities.sum() * counts.sum()
    assert expected.min() >= 5, "too few draws for the chi-square distribution"
    assert stats.chisquare(counts, expected).pvalue > FALSE_ALARM


# Subsets


@pytest.mark.parametrize(
    "counts, kept, expected",
    [([50, 50, 50], 30, [10, 10, 10]), ([5, 50, 50], 45, [5, 20, 20]), ([9, 9], 18, [9, 9])],
)
def test_a_subset_is_class_balanced_and_in_order(
    counts: list[int], kept: int, expected: list[int]
) -> None:
    dataset = tagged(counts)
    subset = class_balanced_subset(dataset, kept, seed=1)
    assert sizes_of(subset) == expected
    places = places_of(subset)
    assert (np.diff(places) > 0).all()
    assert (dataset.train_labels[places] == subset.train_labels).all()
    assert_same_but_for({"train_images", "train_labels"}, dataset, subset)


def test_a_larger_subset_contains_the_smaller_ones() -> None:
    dataset = tagged([40, 40, 40])
    small, large = (set(places_of(class_balanced_subset(dataset, n, seed=7))) for n in (31, 62))
    assert small < large


def test_subsets_are_uniform_within_a_class() -> None:
    dataset = tagged([20, 20])
    uses = np.zeros(40)
    for seed in range(1000):
        uses[places_of(class_balanced_subset(dataset, 10, seed))] += 1
    # Draws without replacement vary less than independent ones by a factor of 15 / 20 and a bit.
    for label in (0, 1):
        own = uses[dataset.train_labels == label]
        statistic = ((own - 250) ** 2).sum() / (1000 * 0.25 * 0.75) * 19 / 20
        assert stats.chi2(19).sf(statistic) > FALSE_ALARM


def test_a_subset_is_taken_before_all_else(tmp_path: Path) -> None:
    flags = "--train-images 600 --validation 100 --imbalance 2 --label-noise 0.2"
    settings, _ = parse([*flags.split(), "--data-dir", str(tmp_path)])
    digits = DATASETS["digits"].load(tmp_path, data_seed=42, image_size=None)
    by_hand = long_tailed(class_balanced_subset(digits, 600, 42), 2, 42)
    by_hand = hold_out(with_label_noise(by_hand, 0.2, 42), 100, 42, proportional=True)
    dataset = load_dataset(settings)
    assert (np.asarray(dataset.test_images) == np.asarray(by_hand.test_images)).all()
    assert (dataset.train_labels == by_hand.train_labels).all()
    assert len(dataset.train_labels) < 500
    assert settings.experiment_name == "digits_SGD_standard_n600_imbalance2_noise0.2_b1_s1"


def test_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`train_images` 31: the training set has 30 images"):
        class_balanced_subset(tagged([15, 15]), 31, seed=1)


# Long tails


@pytest.mark.parametrize(
    "counts, ratio, expected",
    [
        ([100, 100, 100], 4, [100, 50, 25]),
        ([100, 100], 100, [100, 1]),
        ([100, 30, 60], 4, [60, 30, 15]),  # the second class has the fewest for its place
        ([100, 30, 60], 100, [100, 10, 1]),
        ([30, 60, 100], 4, [30, 15, 8]),  # 7.5, as halves go to the even number
        ([100, 100, 20], 4, [80, 40, 20]),
        ([100, 100, 5], 2, [10, 7, 5]),
        ([7, 7, 7, 7], 1.0001, [7, 7, 7, 7]),
    ],
)
def test_sizes_worked_out_by_hand(counts: list[int], ratio: float, expected: list[int]) -> None:
    assert sizes_of(long_tailed(tagged(counts), ratio, seed=1)) == expected


@pytest.mark.parametrize("ratio", [1.5, 2, 10, 37.5, 100])
@pytest.mark.parametrize(
    "counts", [[500] * 10, [500] * 100, [139, 146, 142, 147, 145, 146, 145, 144, 140, 144]]
)
def test_sizes_follow_the_formula(counts: list[int], ratio: float) -> None:
    last = len(counts) - 1
    largest = min(count * ratio ** (label / last) for label, count in enumerate(counts))
    sizes = sizes_of(long_tailed(tagged(counts), ratio, seed=1))
    assert sizes == [round(largest * ratio ** (-label / last)) for label in range(last + 1)]
    assert (sizes[0] - 0.5) / (sizes[-1] + 0.5) <= ratio <= (sizes[0] + 0.5) / (sizes[-1] - 0.5)
    assert min(np.subtract(counts, sizes)) == 0, "with more images one class would have too few"


@pytest.mark.parametrize("mixed", [True, False])
def test_what_is_kept_stays_in_order(mixed: bool) -> None:
    dataset = tagged([100, 30, 60], mixed=mixed)
    tailed = long_tailed(dataset, 4, seed=1)
    places = places_of(tailed)
    assert (np.diff(places) > 0).all()
    np.testing.assert_array_equal(tailed.train_images, dataset.train_images[places])
    np.testing.assert_array_equal(tailed.train_labels, dataset.train_labels[places])
    assert tailed.train_labels.dtype == np.int64
    assert_same_but_for({"train_images", "train_labels"}, dataset, tailed)


def test_a_longer_tail_is_part_of_a_shorter_one() -> None:
    dataset = tagged([100] * 5)
    kept = [set(places_of(long_tailed(dataset, ratio, seed=1))) for ratio in (2, 5, 50)]
    assert kept[0] > kept[1] > kept[2]


def test_what_is_kept_depends_on_the_seed_alone() -> None:
    dataset = tagged([100] * 3)
    first, again, other = (set(places_of(long_tailed(dataset, 10, seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_image_of_a_class_is_as_likely_to_be_kept() -> None:
    draws, dataset = 500, tagged([20, 20, 20])
    kept = sum(
        np.bincount(places_of(long_tailed(dataset, 16, seed)), minlength=60)
        for seed in range(draws)
    )
    bound = stats.norm.isf(FALSE_ALARM / (2 * 40))
    for label, share in ((0, 1), (1, 5 / 20), (2, 1 / 20)):
        deviation = np.sqrt(draws * share * (1 - share))
        assert np.abs(kept[dataset.train_labels == label] - draws * share).max() <= (
            bound * deviation
        )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "counts", [[142] * 10, [600] * 130, [3, 3], [1, 1, 1], [1000, 2, 50], [9, 100, 1000]]
)
def test_the_largest_ratio_named_works_and_more_does_not(counts: list[int]) -> None:
    dataset = tagged(counts)
    with pytest.raises(UsageError, match=r"^`imbalance` 10000: .* at most [\d.]+$") as caught:
        long_tailed(dataset, 10_000, seed=1)
    assert f"no image would be left of class kind {len(counts) - 1}" in str(caught.value)
    largest = float(str(caught.value).rpartition(" ")[2])
    assert sizes_of(long_tailed(dataset, largest, seed=1))[-1] == 1
    with pytest.raises(UsageError, match=f"`imbalance` .* at most {largest}"):
        long_tailed(dataset, largest + 0.011, seed=1)


def test_a_class_without_images_has_no_long_tail() -> None:
    with pytest.raises(UsageError, match="`imbalance` 10: class kind 1 has no training images"):
        long_tailed(tagged([5, 0, 5]), 10, seed=1)


@pytest.mark.parametrize(
    "corrupt, setting", [(long_tailed, "imbalance"), (with_label_noise, "label_noise")]
)
def test_one_class_alone_is_refused(corrupt: Callable[..., Dataset], setting: str) -> None:
    with pytest.raises(
        UsageError, match=f"`{setting}` 0.5: the data set has one class only; leave"
    ):
        corrupt(tagged([5]), 0.5, seed=1)


# Noise


@pytest.mark.parametrize("share", [0.001, 0.1, 0.25, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("counts", [[50, 50], [100, 30, 61], [10] * 33])
def test_the_noise_has_the_size_asked_for(counts: list[int], share: float) -> None:
    dataset = tagged(counts)
    clean = dataset.train_labels.copy()
    noisy = with_label_noise(dataset, share, seed=1)
    assert (noisy.train_labels != clean).sum() == round(share * len(clean))
    assert noisy.train_labels.dtype == np.int64
    assert 0 <= noisy.train_labels.min() <= noisy.train_labels.max() < len(counts)
    np.testing.assert_array_equal(dataset.train_labels, clean)
    assert_same_but_for({"train_labels"}, dataset, noisy)


def test_every_other_label_is_as_likely() -> None:
    dataset = tagged([6000, 3000, 2000, 1000])
    noisy = with_label_noise(dataset, 0.5, seed=1)
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (dataset.train_labels, noisy.train_labels), 1)
    others = ~np.eye(4, dtype=bool)
    expected = np.repeat([[6000.0], [3000.0], [2000.0], [1000.0]], 4, axis=1)
    assert pairs[others].sum() == 6000
    assert_law(pairs[others], expected[others])


def test_every_image_is_as_likely_to_be_mislabelled() -> None:
    draws, dataset = 500, tagged([20, 20])
    changed = sum(
        with_label_noise(dataset, 0.3, seed).train_labels != dataset.train_labels
        for seed in range(draws)
    )
    bound = stats.norm.isf(FALSE_ALARM / (2 * 40)) * np.sqrt(draws * 0.3 * 0.7)
    assert np.abs(changed - draws * 0.3).max() <= bound


def test_the_noise_depends_on_the_seed_alone() -> None:
    dataset = tagged([100] * 3)
    first, again, other = (
        with_label_noise(dataset, 0.2, seed).train_labels.tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_splits_tails_and_noise_have_draws_of_their_own() -> None:
    seeds = (42, [42, IMBALANCE], [42, NOISE])
    assert len({np.random.default_rng(seed).random() for seed in seeds}) == 3


def test_arrays_on_disk_are_not_written_to(tmp_path: Path) -> None:
    dataset = tagged([100, 100])
    parts = ("train_images", "train_labels")
    for part in parts:
        np.save(tmp_path / part, getattr(dataset, part))
    stored = {part: np.load(tmp_path / f"{part}.npy", mmap_mode="r") for part in parts}
    expected = with_label_noise(long_tailed(dataset, 4, seed=1), 0.2, seed=1)
    mapped = with_label_noise(long_tailed(replace(dataset, **stored), 4, seed=1), 0.2, seed=1)
    for part in parts:
        np.testing.assert_array_equal(getattr(mapped, part), getattr(expected, part))
        np.testing.assert_array_equal(stored[part], getattr(dataset, part))


# From the command line to the data


def loaded(*words: object) -> Dataset:
    return load_dataset(parse(list(map(str, words)))[0])


def test_noise_comes_after_the_tail_and_leaves_the_test_part() -> None:
    clean, tailed, both = loaded(), loaded("--imbalance", 5), loaded(*BOTH)
    np.testing.assert_array_equal(tailed.train_images, long_tailed(clean, 5, seed=42).train_images)
    np.testing.assert_array_equal(both.train_images, tailed.train_images)
    changed = (both.train_labels != tailed.train_labels).sum()
    assert changed == round(0.3 * len(tailed.train_labels))
    for dataset in (tailed, both):
        np.testing.assert_array_equal(dataset.test_images, clean.test_images)
        np.testing.assert_array_equal(dataset.test_labels, clean.test_labels)
        assert (dataset.mean, dataset.std) == (clean.mean, clean.std)


def test_what_is_held_out_is_like_the_rest() -> None:
    """Drawn of the images that the tail kept, with the labels that the noise gave them."""
    whole, both = loaded(*BOTH), loaded("--validation", 200, *BOTH)
    assert len(both.test_labels) == 200
    assert len(both.train_labels) == len(whole.train_labels) - 200
    given = dict(zip(map(bytes, np.asarray(whole.train_images)), whole.train_labels))
    for images, labels in (
        (both.train_images, both.train_labels),
        (both.test_images, both.test_labels),
    ):
        assert [given[bytes(image)] for image in np.asarray(images)] == labels.tolist()
    shares = np.bincount(whole.train_labels) / len(whole.train_labels)
    assert np.abs(np.bincount(both.test_labels) - 200 * shares).max() <= 1


def test_a_rare_class_is_not_held_out_whole() -> None:
    dataset = loaded()
    rows = np.flatnonzero(dataset.train_labels != 3).tolist()
    rows += np.flatnonzero(dataset.train_labels == 3)[:10].tolist()
    rare = dataset.chosen("train", np.array(rows))
    held = hold_out(rare, 200, 1)
    assert np.bincount(held.train_labels)[3] in (8, 9)
    assert np.bincount(hold_out(rare, 90, 1).test_labels).tolist() == [9] * 10


def test_noise_alone_leaves_what_is_held_out_balanced() -> None:
    noisy = loaded("--validation", 200, "--label-noise", 0.3)
    assert np.bincount(noisy.test_labels).tolist() == [20] * 10


def test_the_data_seed_and_not_the_seed_chooses() -> None:
    first = loaded(*BOTH, "--seed", 1)
    again = loaded(*BOTH, "--seed", 2)
    other = loaded(*BOTH, "--data-seed", 1)
    np.testing.assert_array_equal(first.train_images, again.train_images)
    np.testing.assert_array_equal(first.train_labels, again.train_labels)
    assert not np.array_equal(first.train_images, other.train_images)


@pytest.mark.parametrize(
    "words, name",
    [
        ("", "digits_SGD_standard_b1_s1"),
        ("--imbalance 10", "digits_SGD_standard_imbalance10_b1_s1"),
        ("--label-noise 0.40", "digits_SGD_standard_noise0.4_b1_s1"),
        (
            "--imbalance 2.5 --label-noise 1e-2 --budget 0.3",
            "digits_SGD_standard_imbalance2.5_noise0.01_b0.3_s1",
        ),
        ("--imbalance 10 --experiment-name mine", "mine"),
    ],
)
def test_the_default_name_of_a_run(words: str, name: str) -> None:
    assert parse(words.split())[0].experiment_name == name


REFUSED = {
    f"{flag} {value}": (f"{flag} {value}", [flag, f"'{value}'", bounds])
    for flag, values, bounds in (
        ("--imbalance", ("1", "0.5", "0", "-3", "nan", "inf", "ten", "1e9"), "above 1"),
        ("--label-noise", ("0", "1", "1.5", "-0.1", "nan", "inf", "few"), "above 0, below 1"),
    )
    for value in values
} | {
    "a tail too long": ("--imbalance 1000", ["--imbalance 1000", "class 9", "at most 285.99"]),
    "more held out than a long tail leaves": (
        "--imbalance 200 --validation 1000",
        ["--validation 1000: the training set has 320 images"],
    ),
    "too few images left for a batch": (
        "--imbalance 100 --batch-size 1000 --budget 1",
        ["--batch-size 1000", "images", "at most"],
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_wrong_value_is_refused(fault: str, train_here, tmp_path: Path) -> None:
    words, fragments = REFUSED[fault]
    outcome = train_here(*SHORT, *words.split())
    assert_refused(outcome, *fragments)
    assert outcome.stdout == ""
    assert list(tmp_path.iterdir()) == []


# Evaluation by class


def make_trainer(dataset: Dataset) -> Trainer:
    settings, _ = parse(["--epochs", "1", "--batch-size", "32", "--budget", "0.2", "--amp", "off"])
    return build(settings, dataset, torch.device("cpu"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("values", [64, 64 * 100, 4_000_000])
def test_an_evaluation_is_that_of_single_images(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = DATASETS["digits"].load(Path("nowhere"))
    few = slice(0, 130)  # no whole number of batches
    dataset = replace(
        digits, test_images=digits.test_images[few], test_labels=digits.test_labels[few]
    )
    monkeypatch.setitem(FORWARD_VALUES, "cpu", values)
    trainer = make_trainer(dataset)
    evaluation = trainer.evaluate()
    assert trainer.model.training
    trainer.model.eval()
    hits, losses = np.zeros(10), np.zeros(10)
    for image, label in zip(dataset.test_images, dataset.test_labels):
        with torch.no_grad():
            logits = trainer.model(trainer.loader.normalise(torch.from_numpy(image[None])))
        hits[label] += int(logits.argmax()) == label
        losses[label] -= float(logits.double().log_softmax(1)[0, label])
    counts = np.bincount(dataset.test_labels, minlength=10)
    assert 0 < hits.sum() < 130
    assert evaluation.counts.tolist() == counts.tolist()
    assert evaluation.correct.tolist() == hits.tolist()
    np.testing.assert_allclose(evaluation.losses, losses, rtol=1e-5)
    assert evaluation.accuracy == pytest.approx(100 * hits.sum() / 130)
    assert evaluation.loss == pytest.approx(losses.sum() / 130, rel=1e-5)
    np.testing.assert_allclose(evaluation.class_accuracies, 100 * hits / counts)


@pytest.mark.usefixtures("one_thread")
def test_classes_without_test_images_are_left_out(tmp_path: Path) -> None:
    digits = DATASETS["digits"].load(Path("nowhere"))
    tested = ~np.isin(digits.test_labels, (0, 9))
    dataset = replace(
        digits,
        test_images=digits.test_images[tested],
        test_labels=digits.test_labels[tested],
        classes=('a "quoted" name', "one, two", "é", *"345678", "last"),
    )
    trainer = make_trainer(dataset)
    log = Rows()
    make_steps(trainer, log=log)
    (row,) = log.rows
    with RunFolder(tmp_path, "run") as folder:
        folder.write_per_class(trainer.per_class())
    with open(tmp_path / "run" / "per_class.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(line["class"] for line in table) == dataset.classes
    assert [line["train_count"] for line in table] == list(map(str, sizes_of(digits)))
    for line in (table[0], table[9]):
        assert (line["test_count"], line["test_accuracy"], line["test_loss"]) == ("0", "", "")
    accuracies = [float(line["test_accuracy"]) for line in table[1:9]]
    assert row["worst_class_accuracy"] == min(accuracies)
    assert row["class_accuracy_p5"] == pytest.approx(np.percentile(accuracies, 5))


# What a run leaves


@pytest.fixture(scope="module")
def corrupted(
    train_forks: Callable[..., list[Completed]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Completed, Path]:
    """`python train.py` with a long tail and noise; enough epochs for classes to differ."""
    results = tmp_path_factory.mktemp("corrupted")
    words = (*SHORT, *BOTH, "--epochs", 6, "--budget", 0.8, "--amp", "off")
    (outcome,) = train_forks([[*words, "--results-dir", results]])
    return outcome, results / NAME.replace("b0.2", "b0.8")


def read_classes(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "per_class.csv", dtype={"class": str})


@pytest.mark.slow
def test_a_corrupted_run_says_how(corrupted) -> None:
    outcome, folder = corrupted
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    assert outcome.stdout.splitlines()[-1] == f"curve: {folder / 'curve.csv'}"
    config = read_config(folder)
    assert config["settings"]["imbalance"] == 5.0
    assert config["settings"]["label_noise"] == 0.3
    tailed = long_tailed(DATASETS["digits"].load(Path("nowhere")), 5, seed=42)
    assert config["num_images"] == len(tailed.train_labels)
    assert config["evaluated_on"] == "test"
    assert read_status(folder) == "finished"


@pytest.mark.slow
def test_the_counts_of_a_corrupted_run(corrupted) -> None:
    _, folder = corrupted
    digits = DATASETS["digits"].load(Path("nowhere"))
    expected = with_label_noise(long_tailed(digits, 5, seed=42), 0.3, seed=42)
    table = read_classes(folder)
    assert tuple(table.columns) == CLASS_COLUMNS
    assert tuple(table["class"]) == digits.classes
    assert table["train_count"].tolist() == sizes_of(expected)
    assert table["test_count"].tolist() == np.bincount(digits.test_labels).tolist()


@pytest.mark.slow
def test_the_classes_of_a_corrupted_run_are_those_of_its_model(corrupted) -> None:
    _, folder = corrupted
    digits, table = DATASETS["digits"].load(Path("nowhere")), read_classes(folder)
    model = create_model("resnet10-w16", 1, 10, 8)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    images = (torch.from_numpy(digits.test_images) / 255 - digits.mean[0]) / digits.std[0]
    with torch.no_grad():
        logits = model.eval()(images).double()
    first, second = logits.topk(2).values.T
    losses = -logits.log_softmax(1)
    assert table["test_accuracy"].nunique() > 3
    for label, row in table.iterrows():
        mine = torch.from_numpy(digits.test_labels == label)
        hits = int((logits[mine].argmax(1) == label).sum())
        undecided = int((first - second < 1e-3)[mine].sum())
        assert abs(row["test_accuracy"] / 100 * int(mine.sum()) - hits) <= undecided + 1e-9
        assert row["test_loss"] == pytest.approx(float(losses[mine, label].mean()), rel=1e-4)


@pytest.mark.slow
def test_the_last_row_of_a_curve_agrees_with_the_classes(corrupted) -> None:
    _, folder = corrupted
    table, curve = read_classes(folder), read_curve(folder)
    last, weights = curve.iloc[-1], table["test_count"]
    for name in ("test_accuracy", "test_loss"):
        assert last[name] == pytest.approx(np.average(table[name], weights=weights), rel=1e-12)
    assert last["worst_class_accuracy"] == pytest.approx(table["test_accuracy"].min(), rel=1e-12)
    percentile = np.percentile(table["test_accuracy"], 5)
    assert last["class_accuracy_p5"] == pytest.approx(percentile, rel=1e-12)
    assert (curve["worst_class_accuracy"] <= curve["class_accuracy_p5"]).all()
    assert (curve["class_accuracy_p5"] <= 100).all()
    assert curve["worst_class_accuracy"].nunique() > 1


def test_the_classes_are_written_before_a_run_is_finished(
    train_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write, status = tmp_path / "results" / NAME, RunFolder.write, {}

    def write_and_note(self: RunFolder, name: str, content: bytes | memoryview) -> None:
        status[name] = read_status(folder)
        write(self, name, content)

    monkeypatch.setattr(RunFolder, "write", write_and_note)
    assert train_here(*SHORT, *BOTH).returncode == 0
    assert status["per_class.csv"] == "running"
    assert read_status(folder) == "finished"


def test_a_validation_run_counts_what_is_held_out(train_here, tmp_path: Path) -> None:
    assert train_here(*SHORT, *BOTH, "--validation", 205).returncode == 0
    table = read_classes(tmp_path / "results" / NAME)
    assert table["test_count"].sum() == 205
    assert table["test_count"].iloc[0] > 2 * table["test_count"].iloc[9]
    assert table["train_count"].sum() == read_config(tmp_path / "results" / NAME)["num_images"]


def test_a_run_that_diverges_has_no_classes(train_here, tmp_path: Path) -> None:
    assert train_here(*SHORT, *BOTH, "--lr", 1000, "--epochs", 5).returncode == 3
    assert read_status(tmp_path / "results" / NAME) == "diverged"
    assert not (tmp_path / "results" / NAME / "per_class.csv").exists()


def test_a_run_goes_on_with_the_same_corruption(
    train_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*SHORT, "--epochs", 3, *BOTH, "--method", "p-SGD", "--experiment-name")
    assert train_here(*words, "straight").returncode == 0
    finish_epoch = Trainer.finish_epoch

    def finish_and_stop(self: Trainer, evaluation: Evaluation) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return finish_epoch(self, evaluation)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish_epoch", finish_and_stop)
        assert train_here(*words, "stopped").returncode == 143
    straight, stopped = (tmp_path / "results" / name for name in ("straight", "stopped"))
    assert len(read_curve(stopped)) == 1
    assert not (stopped / "per_class.csv").exists()

    for flag, value, was in (("imbalance", "4.0", "5.0"), ("label_noise", "0.2", "0.3")):
        outcome = train_here(*words, "stopped", "--" + flag.replace("_", "-"), value)
        assert_refused(outcome, f"{flag} was {was}, is {value}")
    outcome = train_here(*words, "stopped")
    assert outcome.returncode == 0
    assert re.search(r"resuming after step \d+$", outcome.stderr)
    pd.testing.assert_frame_equal(
        without_seconds(read_curve(stopped)),
        without_seconds(read_curve(straight)),
        check_exact=True,
    )
    for name in ("model.pt", "per_class.csv"):
        assert (stopped / name).read_bytes() == (straight / name).read_bytes()

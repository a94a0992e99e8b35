"""The benchmarks run as a user starts them, and the loops that they compare do equal work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from laws import FALSE_ALARM, assert_inclusion, numpy_inclusion
from PIL import Image
from scipy import stats
from small_files import write_cifar10

from benchmarks import end_to_end, gpu_check, packed_jpeg, scaling, selection, throughput
from benchmarks import start as starting
from benchmarks.kernels import occupied
from benchmarks.ours import read_settings
from benchmarks.plain_loop import PLAIN_LOOPS, Candidate, HardBatches, NumberedImages, PlainSGD
from budgetbench import CSGDSampler, PSGDSampler
from data import Dataset
from engine.build import load_dataset
from methods.selection import SELECTION

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES, BATCH, STEPS = 200, 16, 6  # of an epoch at half the budget
SIZE = ["--budget", "0.5", "--batch-size", str(BATCH)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_cifar10(folder, train=IMAGES)
    return folder


@pytest.fixture
def make_plain(data_dir: Path) -> Iterator[Callable[..., PlainSGD]]:
    """A plain loop by its method's name, and all random numbers from one seed."""
    np.random.seed(1)
    torch.manual_seed(1)

    def make(method: str, *words: str) -> PlainSGD:
        common = ["--dataset", "cifar10", "--data-dir", data_dir, "--model", "pooled-linear"]
        settings = read_settings([*common, *SIZE, "--epochs", "3", "--method", method, *words])
        dataset = load_dataset(settings)
        images = NumberedImages(dataset)
        return PLAIN_LOOPS[method](dataset, images, settings, torch.device("cpu"), 0)

    return make


def rows_of(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first heading is `first`."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |")) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


# --- The plain loops ---


@pytest.mark.parametrize("method", PLAIN_LOOPS)
def test_plain_loops_do_the_promised_work(
    method: str, make_plain: Callable[..., PlainSGD], tmp_path: Path
) -> None:
    plain, steps = make_plain(method), []
    learn = plain.learn

    def note(index: torch.Tensor, labels: torch.Tensor, *others: torch.Tensor) -> None:
        assert [plain.images.labels[each] for each in index] == labels.tolist()
        steps.append(index.tolist())
        learn(index, labels, *others)

    plain.learn = note
    before = plain.model.classifier.weight.detach().clone()
    for epoch in (1, 2, 3):
        plain.run_epoch(tmp_path / "log.csv")
        assert len(steps) == epoch * STEPS
        assert plain.images_trained == epoch * STEPS * BATCH
        if method != "selective-backprop":
            assert plain.images_scored == 0
        if method not in ("selective-backprop", "dro"):
            drawn = set().union(*steps[-STEPS:])
            assert len(drawn) == STEPS * BATCH, "an epoch has no image twice"
    assert all(len(set(step)) == BATCH for step in steps) or method == "selective-backprop"
    if method == "selective-backprop":  # which keeps everything at first
        assert plain.images_scored == plain.images_trained
    assert not torch.equal(plain.model.classifier.weight, before)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert plain.optimizer.param_groups[0]["lr"] == pytest.approx(1e-6, rel=0.1)


def test_plain_images_are_the_data_sets(data_dir: Path) -> None:
    settings = read_settings(["--dataset", "cifar10", "--data-dir", data_dir])
    dataset: Dataset = replace(load_dataset(settings), padding=0, flip=0.0)
    image, label, index = NumberedImages(dataset)[7]
    mean, std = (np.reshape(each, (3, 1, 1)) for each in (dataset.mean, dataset.std))
    expected = (dataset.train_images[7] / 255 - mean) / std
    np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-5)
    assert (label, index) == (dataset.train_labels[7], 7)


@pytest.mark.parametrize("method, sampler", [("p-SGD", PSGDSampler), ("c-SGD", CSGDSampler)])
def test_plain_importance_is_the_suites(
    method: str, sampler: type[PSGDSampler], make_plain: Callable[..., PlainSGD]
) -> None:
    plain, ours = make_plain(method), sampler(IMAGES, BATCH)
    np.testing.assert_allclose(plain.weights() / plain.weights().sum(), 1 / IMAGES)
    for _ in range(12):
        index = torch.randperm(IMAGES)[:BATCH]
        logits, labels = torch.randn(BATCH, 10), torch.randint(10, (BATCH,))
        plain.learn(index, labels, logits, logits)
        ours.update(index, logits.softmax(1)[torch.arange(BATCH), labels])
    expected = ours.weights().double().numpy()
    assert 0 < (plain.visits == 0).sum() < IMAGES
    weights = plain.weights()
    np.testing.assert_allclose(weights / weights.sum(), expected / expected.sum(), rtol=1e-4)


def test_plain_percentiles_and_coins(make_plain: Callable[..., PlainSGD]) -> None:
    plain = make_plain("selective-backprop", "--budget", "0.25")
    assert plain.beta == 3
    passes = [each for _ in range(7) for each in plain.shuffled(plain.images)]
    losses = []
    for scored in passes:
        candidates = plain.score(*scored)
        losses += [each.loss for each in candidates]
        history = np.array(losses[-1024:])
        for each in candidates:
            assert each.percentile == np.mean(history < each.loss)
        if len(losses) < 1024:
            assert all(plain.keeps(Candidate(*[None] * 3, 0.0, 0.0)) for _ in range(50))
    assert plain.images_scored == len(losses) == 7 * 12 * BATCH
    kept = sum(plain.keeps(Candidate(*[None] * 3, 0.0, 0.7)) for _ in range(5000))
    assert stats.binomtest(kept, 5000, 0.7**3).pvalue > FALSE_ALARM


def test_plain_hard_batches(make_plain: Callable[..., PlainSGD]) -> None:
    np.random.seed(2)
    stale = np.array([0.0, 1.0, 2.0, 3.0, 0.5, 2.5])
    batches = HardBatches(stale, 2, 4000)
    expected = numpy_inclusion(np.exp(stale), 2, 40_000)
    assert_inclusion(np.array(list(batches)), expected, draws_behind=40_000)
    plain = make_plain("dro")
    before = plain.stale.copy()
    assert before.mean() == pytest.approx(np.log(10), rel=1e-3)
    plain.learn(torch.tensor([5, 3]), None, None, torch.tensor([0.25, 4.0]))
    before[[5, 3]] = 0.25, 4.0
    np.testing.assert_array_equal(plain.stale, before)


# --- The commands ---


def test_end_to_end(main_here: Callable, data_dir: Path) -> None:
    own = ["--data-dir", data_dir, "--turns", "2", "--workers", "0", "--num-threads", "1"]
    ended = main_here(end_to_end.main, *own, "--", *SIZE, "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    rows = rows_of(ended.stdout, "method")
    assert [row[0] for row in rows] == list(PLAIN_LOOPS)
    for name, ours, plain, ratio, _, times_sgd, trained, scored, plain_scored, *shares in rows:
        assert trained == str(STEPS * BATCH)
        expected = trained if name == "selective-backprop" else "0"  # at first it keeps everything
        assert scored == plain_scored == expected
        middle, least, most = map(float, re.findall(r"[\d.]+", ratio))
        assert least <= middle <= most
        assert 0.5 * least < float(plain) / float(ours) < 2 * most
        assert float(times_sgd) > 0
        assert sum(int(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=10)


@pytest.mark.slow
def test_end_to_end_chooses_workers(main_here: Callable, data_dir: Path) -> None:
    own = ["--data-dir", data_dir, "--turns", "1", "--methods", "SGD", "--num-threads", "1"]
    ended = main_here(end_to_end.main, *own, "--", *SIZE, "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    line = next(line for line in ended.stdout.splitlines() if line.startswith("workers"))
    chosen, without, none, with_two, two = map(float, re.findall(r"[\d.]+", line))
    assert (none, two) == (0, 2)
    assert chosen == (none if without <= with_two else two)


@pytest.mark.parametrize(
    "words, told",
    [
        ("--augmentation mixup", "--augmentation: the plain loop has standard only"),
        ("--schedule step", "--schedule: the plain loop has linear only"),
        ("--dro-beta 2", "--dro-beta: the plain loop has the default only"),
        ("--compute-budget", "--compute-budget: the plain loop has a budget of steps only"),
        ("--abacus 2", "--abacus: no such flag"),
    ],
)
def test_end_to_end_refuses_unequal_work(
    main_here: Callable, data_dir: Path, words: str, told: str
) -> None:
    own = ["--data-dir", data_dir, "--methods", "dro", "--"]
    ended = main_here(end_to_end.main, *own, *words.split())
    assert ended.returncode == 2
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.slow
def test_throughput(main_here: Callable, data_dir: Path) -> None:
    own = ["--data-dir", data_dir, "--model", "resnet10-w8", "--steps", "2", "--turns", "2"]
    own += ["--switches", "float32", "bf16"]
    ended = main_here(throughput.main, *own, "--num-threads", "1", "--", *SIZE, "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    assert "device: cpu" in ended.stdout
    assert {row[0] for row in rows_of(ended.stdout, "in")} == {"float32", "bf16"}
    switches = rows_of(ended.stdout, "switches")
    assert [row[0] for row in switches] == ["float32", "bf16"]
    assert switches[0][2] == "1.00"
    assert all(float(row[1].replace(",", "")) > 0 for row in switches)
    methods = rows_of(ended.stdout, "method")
    assert [row[0] for row in methods] == list(PLAIN_LOOPS)
    for row in methods:
        assert sum(float(cell.rstrip("%")) for cell in row[3:]) == pytest.approx(100, abs=0.5)
    assert all(
        float(cell.replace(",", "")) > 0 for cell in rows_of(ended.stdout, "scored and picked/s")[0]
    )
    assert any("conv" in row[0] for row in rows_of(ended.stdout, "kernel"))
    assert "busy " in ended.stdout.splitlines()[-1]


def test_flops_of_a_linear_layer(data_dir: Path) -> None:
    settings = read_settings(["--dataset", "cifar10", "--data-dir", data_dir])
    flops = throughput.count_flops("pooled-linear", load_dataset(settings))
    weights = 3 * 8 * 10
    assert flops == 2 * weights + 2 * weights  # forward; backward, to the weights alone
    forward = throughput.count_flops("pooled-linear", load_dataset(settings), backward=False)
    assert forward == 2 * weights


def test_gaps_between_spans() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        starts = random.integers(0, 40, 8)
        ends = starts + random.integers(1, 9, 8)
        covered = np.zeros(60, bool)
        for start, end in zip(starts, ends):
            covered[start:end] = True
        covered = covered[starts.min() : ends.max()]
        busy, gaps = occupied([(*span, "") for span in zip(starts, ends)])
        assert busy == pytest.approx(covered.mean())
        assert len(gaps) == np.count_nonzero(np.diff(covered.astype(int)) == -1)
    assert occupied([(0, 4, "long"), (1, 2, "inside"), (7, 8, "next")])[1] == [(3, "long")]


def test_scaling_reads_a_curve() -> None:
    curve = pd.DataFrame(
        dict(
            images_trained=[100, 200, 300],
            select_seconds=[5.0, 5.5, 6.0],
            data_seconds=[5.0, 5.5, 6.0],
            train_seconds=[5.0, 6.0, 7.0],
            eval_seconds=[1.0, 8.0, 9.0],
        )
    )
    assert scaling.images_per_second(curve) == 200 / 4


@pytest.mark.slow
def test_scaling(main_here: Callable) -> None:
    own = ["--processes", "1", "--epochs", "2", "--turns", "1", "--"]
    words = ["--dataset", "digits", "--num-threads", "1", "--budget", "0.1", "--device", "cpu"]
    ended = main_here(scaling.main, *own, *words)
    assert ended.returncode == 0, ended.stderr
    ((count, images, ratio, share),) = rows_of(ended.stdout, "processes")
    assert (count, ratio, share) == ("1", "1.00", "100%")
    assert float(images.replace(",", "")) > 0


@pytest.mark.slow
def test_scaling_tells_why_a_run_failed(main_here: Callable) -> None:
    ended = main_here(scaling.main, "--processes", "1", "--", "--dataset", "abacus")
    assert ended.returncode == 1
    assert "abacus" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_gpu_check_needs_a_gpu(main_here: Callable) -> None:
    ended = main_here(gpu_check.main, "--data-dir", "nowhere")
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("python -m benchmarks.gpu_check: no CUDA device is found here")


def test_gpu_check_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, main_here: Callable, tmp_path: Path
) -> None:
    """The report has all checks, of which the worst decides the exit status."""
    found = {"tests": "PASSED", "draws": "FAILED with status 1", "resume": "PASSED"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "find_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A Card (80 GB)")
    monkeypatch.setattr(gpu_check, "about", lambda device: "A Card")
    monkeypatch.setattr(gpu_check, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(gpu_check, "run_check", lambda name, _: (found[name], f"saw {name}", 1.0))
    ended = main_here(gpu_check.main, "--checks", *found)
    assert ended.returncode == 1
    report = (tmp_path / "reports" / "a-card-80-gb.txt").read_text()
    for name, verdict in found.items():
        assert f"saw {name}\n--- {verdict}, 1 s" in report
    ended = main_here(gpu_check.main, "--checks", "tests", "--out", tmp_path / "other.txt")
    assert ended.returncode == 0
    assert "1 of 1 checks passed" in ended.stdout
    assert ended.stdout.strip().endswith("other.txt")


def test_a_check_that_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With all the processes that it started, and what it printed until then is kept."""
    endless = tmp_path / "endless"
    endless.write_text("#!/bin/sh\necho begun\nsleep 60 &\nsleep 60\n")
    endless.chmod(0o700)
    monkeypatch.setattr(gpu_check.sys, "executable", str(endless))
    options = gpu_check.read_arguments(["--patience", "0.02"])
    verdict, printed, took = gpu_check.run_check("tests", options)
    assert verdict == "FAILED: not done after 2 s; see --patience"
    assert printed == "begun"
    assert took < 20


@pytest.mark.slow
def test_packed_jpeg(main_here: Callable, tmp_path: Path) -> None:
    for number in range(4):
        Image.effect_noise((40, 30), 80).save(tmp_path / f"{number}.jpg")
    words = ("--images", 4, "--entries", 260, "--upscale", 40, "--side", 16, "--batches", 2)
    ended = main_here(packed_jpeg.main, tmp_path, *words, "--turns", 1, "--workers", 1)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["torchvision", "packed"]
    assert all(float(word) > 0 for line in lines[2:4] for word in line.split()[1:])
    assert "packed to torchvision, per core: " in lines[-1]


def test_selection(main_here: Callable) -> None:
    words = ("--images", 400, "--features", 5, "--classes", 4, "--budget", 0.2)
    ended = main_here(selection.main, *words)
    assert ended.returncode == 0, ended.stderr
    _, _, *lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(SELECTION)


@pytest.mark.slow
def test_a_start_by_forks_and_by_new_processes(main_here: Callable) -> None:
    ended = main_here(starting.main, "--turns", 1, "--grid", "small")
    assert ended.returncode == 0, ended.stderr
    assert "6 runs, --jobs 2, forks" in ended.stdout
    assert "runs that differ in a byte: 0" in ended.stdout

"""Ways to choose a core-set, each against its rule in plain Python; lists of them for others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import conftest
import numpy as np
import pandas as pd
import pytest
import torch
from laws import assert_inclusion, assert_outcomes, set_probabilities
from scipy import stats
from scipy.optimize import nnls
from steps import make_steps
from test_methods import make_dataset, make_task, make_trainer

from data import DATASETS
from methods import OptionError, Task
from methods.coreset import Coreset
from methods.scores import ScoreFile, digest
from methods.selection import SELECTION, Candidates
from methods.selection.d2 import nearest
from methods.selection.facility_location import greedy
from plots.__main__ import main as plots_main

pytestmark = pytest.mark.usefixtures("one_thread")

assert_refused = partial(conftest.assert_refused, absent="results")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_candidates(n: int, seed: int = 0, d: int = 3, classes: int = 4, **given) -> Candidates:
    random = np.random.default_rng(seed)
    values = dict(
        scores=random.permutation(n).astype(np.float32),
        low_is_hard=False,
        rng=np.random.default_rng(seed + 1),
        budget=0.5,
        means=random.random(n, dtype=np.float32),
        features=random.normal(size=(n, d)).astype(np.float16),
        errors=(random.normal(size=(n, classes)) / 2).astype(np.float16),
    )
    return Candidates(**values | given)


def choose(name: str, candidates: Candidates, size: int) -> list[int]:
    rows, _ = SELECTION[name].choose(candidates, size)
    assert len(set(rows.tolist())) == len(rows) == size
    return rows.tolist()


@pytest.mark.parametrize("name", SELECTION)
@pytest.mark.parametrize("size", [1, 7, 40])
def test_every_way_takes_so_many(name: str, size: int) -> None:
    candidates = make_candidates(40)
    assert set(choose(name, candidates, size)) <= set(range(40))


# --- By rank ---


@pytest.mark.parametrize("size", [1, 4, 9, 10, 29, 30])
def test_the_middle_is_the_ranks_around_the_half(size: int) -> None:
    candidates = make_candidates(30)
    ranks = sorted(candidates.scores[choose("middle", candidates, size)].astype(int))
    assert ranks == list(range(ranks[0], ranks[0] + size))
    assert abs(ranks[0] - (0.5 - size / 60) * 30) <= 0.5
    left_below, left_above = ranks[0], 29 - ranks[-1]
    assert left_above - left_below in (0, 1), "the ends are left out, not the middle"


# --- Stratified ---


def shares_by_hand(counts: list[int], size: int) -> list[int]:
    """Coverage-centric selection's budget of each stratum, of any order of strata."""
    taken, left = [0] * len(counts), size
    waiting = [i for i, count in enumerate(counts) if count]
    while waiting:
        i = min(waiting, key=lambda i: counts[i])
        taken[i] = min(counts[i], left // len(waiting))
        left -= taken[i]
        waiting.remove(i)
    return taken


@pytest.mark.parametrize("low_is_hard", [False, True])
@pytest.mark.parametrize("n, share", [(400, 0.1), (400, 0.2), (400, 0.21), (1000, 0.5), (50, 1.0)])
def test_strata_give_alike_after_the_hardest_are_dropped(n: int, share: float, low_is_hard) -> None:
    random = np.random.default_rng(3)
    scores = random.gamma(1.0, size=n).astype(np.float32)
    # The budget decides, not what its images are of those that have a score.
    candidates = make_candidates(n, scores=scores, low_is_hard=low_is_hard, budget=share)
    size = int(share * n)
    dropped = int({0.1: 0.3, 0.2: 0.2}.get(share, 0.1) * n) if share < 1 else 0
    order = sorted(range(n), key=lambda i: scores[i] if low_is_hard else -scores[i])
    rest = order[dropped:]
    low, high = min(scores[rest]), max(scores[rest])
    strata = [min(int((scores[i] - low) / (high - low) * 50), 49) for i in range(n)]
    expected = shares_by_hand([sum(strata[i] == s for i in rest) for s in range(50)], size)
    chosen = choose("stratified", candidates, size)
    assert set(chosen) <= set(rest)
    found = [sum(strata[i] == s for i in chosen) for s in range(50)]
    assert sorted(found) == sorted(expected)
    assert sum(found) == size


def test_a_rounded_number_of_images_is_still_the_budget() -> None:
    scores = np.arange(400, dtype=np.float32)
    for size in (39, 40, 41):
        chosen = choose("stratified", make_candidates(400, scores=scores, budget=0.1), size)
        assert max(chosen) < 280


def test_within_a_stratum_the_choice_is_uniform() -> None:
    scores = np.repeat([0.0, 1.0, 9.0], [10, 30, 4]).astype(np.float32)
    candidates = make_candidates(44, scores=scores, dropped=4 / 44)
    chosen = np.array([choose("stratified", candidates, 16) for _ in range(3000)])
    assert_inclusion(chosen, np.repeat([8 / 10, 8 / 30, 0], [10, 30, 4]))


# --- Beta ---


@pytest.mark.parametrize("size", [2, 3])
def test_beta_draws_by_score_and_density(size: int) -> None:
    """Exact law of the set drawn, successive sampling without replacement."""
    means = np.array([0.1, 0.5, 0.7, 0.85, 0.95], np.float32)
    scores = np.array([0.02, 0.2, 0.15, 0.1, 0.05], np.float32)
    candidates = make_candidates(5, scores=scores, means=means)
    mu = np.mean(means)  # all five are among the ten highest
    b = 15 * (1 - mu) * (1 - (1 - size / 5) ** 4)
    weights = stats.beta(16 - b, b).pdf(means.astype(float)) * scores
    law = set_probabilities(weights, size)
    drawn = [frozenset(choose("beta", candidates, size)) for _ in range(6000)]
    assert_outcomes(drawn, law)


def test_beta_takes_easier_images_the_smaller_the_core_set() -> None:
    n = 2000
    means = np.random.default_rng(0).random(n, dtype=np.float32)
    scores = (means * (1 - means)).astype(np.float32)
    candidates = make_candidates(n, scores=scores, means=means)
    large, small = (means[choose("beta", candidates, size)].mean() for size in (1000, 100))
    assert small > large + 0.05
    assert large < means[choose("beta", candidates, n)].mean() + 0.25


def test_beta_starts_from_the_ten_highest_scores() -> None:
    """With certain ones among them the density is that of certain images."""
    means = np.linspace(0.02, 0.98, 300, dtype=np.float32)
    certain = make_candidates(300, means=means, scores=means)
    doubtful = make_candidates(300, means=means, scores=1.01 - means)
    assert means[choose("beta", certain, 30)].mean() > means[choose("beta", doubtful, 30)].mean()


# --- D2 ---


def d2_by_hand(features, hardness, size: int, dropped: float) -> set[int]:
    """Strata of as many members come lowest first."""
    n = len(hardness)
    order = sorted(range(n), key=lambda i: -hardness[i])
    rest = order[min(int(dropped * n), n - size) :]
    score = {i: hardness[i] - min(hardness[j] for j in rest) for i in rest}
    distance = lambda i, j: math.dist(features[i], features[j])  # noqa: E731
    near = {i: sorted(set(rest) - {i}, key=lambda j: distance(i, j))[:5] for i in rest}
    value = {i: score[i] + sum(math.exp(-distance(i, j)) * score[j] for j in near[i]) for i in rest}
    width = max(score.values()) / 25
    strata = {i: min(int(score[i] / width), 24) for i in rest}
    members = [[i for i in rest if strata[i] == s] for s in range(25)]
    shares = shares_by_hand([len(each) for each in members], size)
    chosen = set()
    for place in sorted(range(25), key=lambda s: len(members[s])):
        for _ in range(shares[place]):
            best = max(set(members[place]) - chosen, key=lambda i: value[i])
            chosen.add(best)
            for j in near[best]:
                value[j] -= math.exp(-0.1 * distance(best, j)) * value[best]
    return chosen


@pytest.mark.parametrize("low_is_hard, dropped", [(False, None), (True, None), (False, 0.0)])
@pytest.mark.parametrize("size", [10, 40, 70])
def test_d2_passes_messages(size: int, low_is_hard: bool, dropped: float | None) -> None:
    random = np.random.default_rng(size)
    scores = random.gamma(2.0, size=100).astype(np.float32)
    candidates = make_candidates(100, scores=scores, low_is_hard=low_is_hard, dropped=dropped, d=2)
    features = candidates.features.astype(np.float64)
    hardness = scores.astype(np.float64) * (-1 if low_is_hard else 1)
    expected = d2_by_hand(features, hardness, size, 0.4 if dropped is None else dropped)
    assert set(choose("d2", candidates, size)) == expected


def test_nearest_are_the_nearest() -> None:
    points = np.random.default_rng(0).normal(size=(2100, 6)).astype(np.float32)
    distances, rows = nearest(points, 5)
    for i in (0, 5, 1023, 1024, 2099):
        between = np.linalg.norm(points - points[i], axis=1)
        between[i] = np.inf
        assert rows[i].tolist() == np.argsort(between)[:5].tolist()
        np.testing.assert_allclose(distances[i], np.sort(between)[:5], rtol=1e-3)


def test_of_two_twins_d2_takes_one_first() -> None:
    """Pairs of like images: the first half is one of each pair, which top would not do."""
    features = np.repeat(np.arange(20.0) * 50, 2)[:, None].astype(np.float16)
    scores = np.repeat(np.linspace(1, 1.02, 20), 2).astype(np.float32)
    candidates = make_candidates(40, scores=scores, features=features, dropped=0.0)
    assert len({i // 2 for i in choose("d2", candidates, 20)}) >= 19
    assert len({i // 2 for i in choose("top", candidates, 20)}) == 10


# --- CRAIG and facility location ---


def gradients(candidates: Candidates) -> np.ndarray:
    """Of the last layer and its bias, formed: [n, C * (d + 1)]."""
    features = np.concatenate([candidates.features, np.ones((len(candidates), 1))], 1)
    return np.einsum("nc,nd->ncd", candidates.errors.astype(float), features).reshape(
        len(candidates), -1
    )


def similarity(name: str, candidates: Candidates) -> np.ndarray:
    g = gradients(candidates)
    if name == "craig":
        distances = np.linalg.norm(g[:, None] - g, axis=2)
        return distances.max() - distances
    lengths = np.linalg.norm(g, axis=1)
    return 1 + g @ g.T / lengths / lengths[:, None]


def covered(similarity: np.ndarray, rows) -> float:
    return similarity[:, list(rows)].max(1).sum()


@pytest.mark.parametrize("name", ["craig", "facility-location"])
@pytest.mark.parametrize("n, size", [(12, 4), (60, 20), (60, 60)])
def test_each_pick_covers_the_most(name: str, n: int, size: int) -> None:
    candidates = make_candidates(n)
    between = similarity(name, candidates)
    chosen = choose(name, candidates, size)
    for count in range(1, size):
        best = max(covered(between, [*chosen[:count], j]) for j in range(n))
        assert covered(between, chosen[: count + 1]) >= best * (1 - 1e-5)
    if n == 12:
        optimum = max(covered(between, rows) for rows in itertools.combinations(range(n), size))
        assert covered(between, chosen) >= (1 - 1 / math.e) * optimum


def test_lazy_greedy_is_greedy() -> None:
    """Whole numbers, so that sums are exact; without ties."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        between = random.integers(0, 10**6, (80, 80)).astype(np.float64)
        between += between.T
        best, expected = np.zeros(80), []
        for _ in range(30):
            gains = np.maximum(between - best, 0).sum(1)
            gains[expected] = -1
            expected.append(int(gains.argmax()))
            best = np.maximum(best, between[expected[-1]])
        assert greedy(between, 30).tolist() == expected


def test_craig_weighs_by_how_many_are_nearest() -> None:
    candidates = make_candidates(50)
    rows, weights = SELECTION["craig"].choose(candidates, 8)
    g = gradients(candidates)
    nearest_of_each = np.linalg.norm(g[:, None] - g[rows], axis=2).argmin(1)
    assert weights.tolist() == [(nearest_of_each == k).sum() for k in range(8)]
    assert weights.sum() == 50
    assert SELECTION["facility-location"].choose(candidates, 8)[1] is None


# --- GradMatch ---


def pursue_by_hand(g: np.ndarray, target: np.ndarray, size: int) -> tuple[list[int], np.ndarray]:
    """Orthogonal matching pursuit on vectors, least squares from scratch at each step."""
    rows, residual = [], target
    for _ in range(size):
        products = g @ residual
        products[rows] = -np.inf
        rows.append(int(products.argmax()))
        solution = np.linalg.lstsq(g[rows].T, target, rcond=None)[0]
        residual = target - g[rows].T @ solution
    weights, _ = nnls(g[rows].T, target)
    return rows, weights


@pytest.mark.parametrize("size", [1, 3, 8, 12])
def test_grad_match_is_orthogonal_matching_pursuit(size: int) -> None:
    candidates = make_candidates(200, seed=size, d=7)
    g = gradients(candidates)
    rows, weights = pursue_by_hand(g, g.sum(0), size)
    chosen, found = SELECTION["grad-match"].choose(candidates, size)
    kept = [row for row, weight in zip(rows, weights) if weight > 0]
    assert chosen[: len(kept)].tolist() == kept
    kept_weights = weights[weights > 0]
    expected = kept_weights / kept_weights[0]
    np.testing.assert_allclose(found[: len(kept)] / found[0], expected, rtol=1e-3)
    assert len(chosen) == size, "what gets no weight makes room for others"
    assert found.min() > 0
    assert found.mean() == pytest.approx(1)


def test_grad_match_matches_the_sum() -> None:
    candidates = make_candidates(300, d=7)
    g = gradients(candidates)
    rows, weights = SELECTION["grad-match"].choose(candidates, 25)
    total = g.sum(0)
    scale = (g[rows].T @ weights) @ total / (total @ total)
    left = np.linalg.norm(g[rows].T @ weights / scale - total) / np.linalg.norm(total)
    at_random = np.random.default_rng(0).choice(300, 25, replace=False)
    by_chance = np.linalg.norm(g[at_random].sum(0) * 12 - total) / np.linalg.norm(total)
    assert left < by_chance / 5


def test_grad_match_begins_anew_once_the_sum_is_matched() -> None:
    """Two copies of four directions: two rounds of four."""
    features = np.tile(np.eye(4), (2, 1)).astype(np.float16)
    candidates = make_candidates(8, features=features, errors=np.ones((8, 1), np.float16))
    rows, weights = SELECTION["grad-match"].choose(candidates, 8)
    assert {i % 4 for i in rows[:4].tolist()} == {i % 4 for i in rows[4:].tolist()} == set(range(4))
    np.testing.assert_allclose(weights, 1, rtol=1e-4)


def test_gradients_that_are_all_zero_can_be_chosen_from() -> None:
    candidates = make_candidates(20, errors=np.zeros((20, 4), np.float16))
    for name in ("craig", "facility-location", "grad-match"):
        choose(name, candidates, 5)


# --- In a run ---


def write_file(task: Task, path: str = "scores.npz", **given) -> str:
    random = np.random.default_rng(0)
    n = task.num_images
    values = {"el2n": random.random(n, dtype=np.float32)}
    values["dual-mean"] = random.random(n, dtype=np.float32)
    outputs = dict(
        features=random.normal(size=(n, 5)).astype(np.float16),
        errors=random.normal(size=(n, task.num_classes)).astype(np.float16),
    )
    content = dict(values=values, labels=task.labels, **outputs) | given
    file = ScoreFile(task.dataset, digest(task.labels), **content)
    Path(path).write_bytes(file.to_bytes())
    return path


def score_for(rule: str) -> dict[str, str]:
    """A score, for rules that choose by one."""
    return {"coreset_score": "el2n"} if SELECTION[rule].by_score else {}


@pytest.mark.parametrize("name", SELECTION)
@pytest.mark.parametrize("per_class", [False, True])
def test_a_run_trains_on_what_is_chosen(name: str, per_class: bool) -> None:
    task = make_task(num_images=200, batch_size=10, budget=0.3)
    options = dict(coreset_file=write_file(task), coreset_select=name)
    method = Coreset(task, **options, **score_for(name), coreset_per_class=per_class)
    subset = method.subset.tolist()
    assert len(set(subset)) == len(subset) == 60
    if per_class or name in ("craig", "facility-location", "grad-match"):
        assert np.bincount(task.labels[subset]).tolist() == [15] * 4
    trainer = make_trainer(method, make_dataset(num_images=200))
    make_steps(trainer)
    assert set(trainer.sample_counts.nonzero().squeeze(1).tolist()) <= set(subset)
    assert 0 < method.summary()["selection_seconds"] < 10
    assert method.scoring_seconds is None, "the file does not say"


@pytest.mark.parametrize("name", ["craig", "grad-match"])
def test_weights_of_a_choice_multiply_losses(name: str) -> None:
    task = make_task(num_images=200, batch_size=60, budget=0.3)
    method = Coreset(task, coreset_file=write_file(task), coreset_select=name)
    trainer = make_trainer(method, make_dataset(num_images=200))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    model.load_state_dict(trainer.model.state_dict())
    ((batch, _),) = make_steps(trainer, 1)
    weights = method.weights[batch.index]
    assert weights.max() - weights.min() > 0.1
    assert method.weights[method.subset].mean() == pytest.approx(1, rel=1e-5)
    losses = torch.nn.functional.cross_entropy(model(batch.images), batch.labels, reduction="none")
    (weights * losses).mean().backward()
    for after, before in zip(trainer.model.parameters(), model.parameters()):
        expected = before - 0.05 * (before.grad + 1e-4 * before)
        torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("name", ["stratified", "beta", "grad-match"])
def test_one_seed_one_core_set(name: str) -> None:
    options = dict(coreset_select=name) | score_for(name)
    path = write_file(make_task(num_images=200))
    sets = [
        sorted(Coreset(make_task(num_images=200, seed=seed), coreset_file=path, **options).subset)
        for seed in (1, 1, 2)
    ]
    assert sets[0] == sets[1]
    assert (sets[0] == sets[2]) == (name == "grad-match")


def test_what_a_choice_needs_has_to_be_in_the_file() -> None:
    task = make_task(num_images=64)
    path = write_file(task, values={"el2n": np.ones(64, np.float32)}, features=None, errors=None)
    for name in ("d2", "craig", "facility-location", "grad-match"):
        with pytest.raises(OptionError, match=r"has no features, by which .* engine.scores RUN"):
            Coreset(task, coreset_file=path, coreset_select=name)
    with pytest.raises(OptionError, match=r"has no dual-mean, by which .* `record` dual"):
        Coreset(task, coreset_file=path, coreset_select="beta")


@pytest.mark.parametrize("name, values", [("aum", [0.5, 0.1]), ("el2n", [0.5, -0.1])])
def test_beta_needs_scores_that_are_high_for_hard_images(name: str, values: list[float]) -> None:
    task = make_task(num_images=64)
    given = {name: np.resize(np.float32(values), 64), "dual-mean": np.full(64, 0.5, np.float32)}
    path = write_file(task, values=given)
    with pytest.raises(OptionError, match=rf"{name} is not; give another `coreset_score`"):
        Coreset(task, coreset_file=path, coreset_score=name, coreset_select="beta")


@pytest.mark.cuda
@pytest.mark.parametrize("rule", ["top", "stratified", "beta"])
def test_a_choice_is_the_same_on_every_device(rule: str) -> None:
    task = make_task(num_images=200, batch_size=10, budget=0.3)
    path = write_file(task)
    options = dict(coreset_file=path, coreset_score="el2n", coreset_select=rule)
    on_gpu = Coreset(replace(task, device=torch.device("cuda")), **options)
    assert on_gpu.subset.tolist() == Coreset(task, **options).subset.tolist()


def test_time_of_scoring_is_told_and_no_part_of_what_a_file_is() -> None:
    task = make_task(num_images=64)
    files = [
        write_file(task, f"{seconds}.npz", sources=[{"run": "a", "seconds": seconds}] * 2)
        for seconds in (1.5, 2.0)
    ]
    assert Path(files[0]).read_bytes() != Path(files[1]).read_bytes()
    methods = [Coreset(task, coreset_file=path, coreset_score="el2n") for path in files]
    assert [method.scoring_seconds for method in methods] == [3.0, 4.0]
    assert methods[0].files == methods[1].files


# --- Files, and lists of images for others ---


def test_a_file_keeps_labels_and_outputs_and_may_be_half_as_large() -> None:
    task = make_task(num_images=300)
    values = {"aum": np.linspace(-1, 1, 300, dtype=np.float32)}
    values["k-center"] = np.random.default_rng(0).permutation(300).astype(np.float32) + 40_000
    file = ScoreFile.read(write_file(task, values=values))
    Path("half.npz").write_bytes(file.to_bytes(half=True))
    half = ScoreFile.read("half.npz")
    assert half.values["aum"].dtype == np.float32
    np.testing.assert_allclose(half.values["aum"], file.values["aum"], atol=5e-4)
    np.testing.assert_array_equal(half.values["k-center"], file.values["k-center"])
    for read in (file, half):
        np.testing.assert_array_equal(read.labels, task.labels)
        assert read.features.shape == (300, 5)
        assert read.errors.dtype == np.float16
    difference = len(file.to_bytes()) - len(file.to_bytes(half=True))
    assert difference == 600


@pytest.mark.parametrize(
    "given",
    [
        dict(features=np.zeros((63, 5), np.float16)),
        dict(features=np.zeros(64, np.float16)),
        dict(errors=np.zeros((64, 4), np.float32)),
        dict(features=np.full((64, 5), np.inf, np.float16)),
        dict(errors=np.full((64, 4), np.nan, np.float16)),
    ],
)
def test_outputs_of_another_shape_are_damage(given) -> None:
    with pytest.raises(ValueError, match="damaged"):
        ScoreFile.read(write_file(make_task(num_images=64), **given))


@pytest.fixture
def digits() -> Task:
    labels = DATASETS["digits"].load(Path()).train_labels
    return replace(
        make_task(num_images=len(labels), num_classes=10), dataset="digits", labels=labels
    )


@pytest.mark.parametrize("rule", ["top", "stratified", "grad-match"])
def test_a_list_has_the_images_of_a_run(
    rule: str, digits: Task, scores_here: Callable, monkeypatch: pytest.MonkeyPatch, train_here
) -> None:
    path = write_file(digits)
    words = ["--coreset-select", rule, "--coreset-per-class"]
    words += [word for score in score_for(rule).values() for word in ("--coreset-score", score)]
    outcome = scores_here("export", path, "--budget", 0.2, "--seed", 3, *words)
    assert outcome.returncode == 0, outcome.stderr
    text, binary, *more = map(Path, outcome.stdout.split())
    score = "-el2n" if score_for(rule) else ""
    assert text.name == f"scores-{rule}{score}-0.2-per-class-seed3.txt"
    listed = [int(line) for line in text.read_text().splitlines()]
    assert listed == np.load(binary).tolist() == sorted(set(listed))
    assert len(listed) == int(0.2 * 1442)
    methods = []
    create = Coreset.__init__
    monkeypatch.setattr(
        Coreset, "__init__", lambda self, *a, **o: methods.append(self) or create(self, *a, **o)
    )
    short = ("--epochs", 1, "--batch-size", 32, "--device", "cpu", "--budget", 0.2, "--seed", 3)
    outcome = train_here(*short, "--method", "coreset", "--coreset-file", path, *words)
    assert outcome.returncode == 0, outcome.stderr
    assert sorted(methods[0].subset.tolist()) == listed
    assert len(more) == (rule == "grad-match")
    for weights in more:
        np.testing.assert_array_equal(np.load(weights), methods[0].weights[listed])
        assert weights.name == "scores-grad-match-0.2-per-class-seed3-weights.npy"


def test_every_choice_has_files_of_its_own(digits: Task, scores_here: Callable) -> None:
    common = ("export", write_file(digits), "--budget", 0.2, "--coreset-score", "el2n")
    choices = ((), ("--seed", 2), ("--coreset-drop", 0.3), ("--coreset-per-class",))
    stratified = ("--coreset-select", "stratified")
    outcomes = [scores_here(*common, *stratified, *choice) for choice in choices]
    assert len({outcome.stdout for outcome in outcomes}) == len(choices)


def test_what_export_refuses(digits: Task, scores_here: Callable) -> None:
    path = write_file(digits)
    ask = lambda *words: scores_here("export", *words)  # noqa: E731
    assert_refused(ask("none.npz", "--budget", 0.2), "none.npz: No such file")
    assert_refused(ask(path, "--budget", 2), "--budget")
    assert_refused(ask(path, "--budget", 0.0001), "no image of 1442; give 0.00069 or more")
    assert_refused(ask(path, "--budget", 0.2), "has el2n, dual-mean; choose one with")
    assert_refused(ask(path, "--budget", 0.2, "--coreset-select", "tops"), "did you mean top?")
    chosen = ("--coreset-score", "el2n", "--coreset-drop", 0.1)
    refused = ask(path, "--budget", 0.2, *chosen)
    assert_refused(refused, "--coreset-select stratified and d2, and top drops no image")
    craig = ("--coreset-score", "el2n", "--coreset-select", "craig")
    refused = ask(path, "--budget", 0.2, *craig)
    assert_refused(refused, "--coreset-score: has no effect with --coreset-select craig")
    assert ask(path, "--budget", "20%", "--coreset-score", "el2n").returncode == 0
    old = write_file(digits, "old.npz", labels=None)
    assert_refused(ask(old, "--budget", 0.2), "old.npz: of an older version, without labels")


def test_features_are_those_of_the_network(make_run, scores_here: Callable) -> None:
    words = ("--epochs", 10, "--budget", 0.1, "--batch-size", 32, "--device", "cpu")
    run = make_run("run", *words, "--record", "dual")
    common = (run, "--out", "out.npz", "--device", "cpu")
    outcome = scores_here(*common, "--score", "grand,entropy,dual,dual-mean,moderate", "--features")
    assert outcome.returncode == 0, outcome.stderr
    file = ScoreFile.read("out.npz")
    errors, features = file.errors.astype(np.float32), file.features.astype(np.float32)
    lengths = np.linalg.norm(errors, axis=1) * np.sqrt((features**2).sum(1) + 1)
    np.testing.assert_allclose(file.values["grand"], lengths, rtol=0.01, atol=1e-3)
    labels = DATASETS["digits"].load(Path()).train_labels
    probabilities = errors + np.eye(10)[labels]
    entropies = -(probabilities * np.log(np.maximum(probabilities, 1e-9))).sum(1)
    np.testing.assert_allclose(file.values["entropy"], entropies, atol=0.02)
    assert file.seconds > 0
    without = scores_here(*common, "--score", "dual")
    assert without.returncode == 0
    assert ScoreFile.read("out.npz").cost == file.cost - 1442, "no pass over the images"


# --- Which scores agree ---


def test_rank_correlations_are_of_scores_that_are_high_for_hard_images(main_here) -> None:
    task, random = make_task(num_images=300), np.random.default_rng(0)
    hardness = random.normal(size=300)
    values = {
        "el2n": hardness.astype(np.float32),
        "aum": -np.exp(hardness).astype(np.float32),  # the same order, low for hard ones
        "entropy": (hardness + random.normal(size=300)).astype(np.float32),
    }
    values["entropy"][:20] = np.nan
    write_file(task, values=values)
    write_file(task, "other.npz", values={"k-center": random.permutation(300).astype(np.float32)})
    outcome = main_here(plots_main, "correlations", "scores.npz", "other.npz", "--out", "agree")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "4 scores: agree.png, .pdf and .csv\n"
    assert Path("agree.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv("agree.csv", index_col="score")
    assert list(table) == list(table.index)
    assert table.loc["el2n", "aum"] == 1
    apart = list(table).index("el2n") - list(table).index("aum")
    assert abs(apart) == 1, "like scores stand side by side"
    expected = stats.spearmanr(values["el2n"][20:], values["entropy"][20:])[0]
    assert table.loc["entropy", "el2n"] == pytest.approx(expected, abs=1e-4)
    assert abs(table.loc["k-center", "el2n"]) < 0.3
    write_file(make_task(num_images=200), "less.npz")
    outcome = main_here(plots_main, "correlations", "scores.npz", "less.npz")
    assert outcome.returncode == 2
    assert "less.npz: of other images than scores.npz" in outcome.stderr

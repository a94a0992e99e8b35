"""The samplers, selector and mixing functions that plug into other training code.

Draws are compared with exact laws and with NumPy's; what is learnt, with plain Python.
Comparisons of frequencies use fixed seeds; each fails a right implementation at FALSE_ALARM.
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections import Counter, deque

import numpy as np
import pytest
import torch
from laws import (
    FALSE_ALARM,
    assert_inclusion,
    assert_outcomes,
    numpy_inclusion,
    order_probabilities,
)
from scipy import stats
from scipy.special import logsumexp
from test_methods import copied, saved_and_loaded
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, Dataset

from benchmarks import sampler_overhead
from budgetbench import (
    CSGDSampler,
    HardnessWeightedSampler,
    MixedBatch,
    PSGDSampler,
    SelectiveBackpropSelector,
    cutmix,
    draw_without_replacement,
    mixup,
    per_image,
    race_tree,
    ricap,
)
from budgetbench.hardness_weighted import FLOOR
from budgetbench.race_tree import RaceTree

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("error")]
CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
DEVICES = ["cpu", CUDA]


# --- The tree: helpers ---

# Fan-out, largest top, images, rows of each level from the leaves, nodes on top.
SHAPES = {
    "one level": (2, 4, 7, [4], 4),
    "powers of two": (2, 4, 16, [8, 4], 4),
    "ragged on every level": (2, 4, 17, [9, 5, 3], 3),
    "ragged in the middle": (2, 4, 30, [15, 8, 4], 4),
    "powers of four": (4, 4, 16, [4], 4),
    "fours, ragged twice": (4, 4, 17, [5, 2], 2),
    "eights": (8, 4, 30, [4], 4),
    "one node on top": (8, 1, 9, [2, 1], 1),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def size(request, monkeypatch) -> int:
    """Images of a tree of several levels, of each shape."""
    fan_out, largest_top, size, rows, top = request.param
    shrink(monkeypatch, fan_out, largest_top)
    tree = RaceTree(np.zeros(size), FLOOR)
    assert [len(level) for level in tree.levels] == rows
    assert len(tree.top) == top
    return size


def shrink(monkeypatch, fan_out: int, largest_top: int) -> None:
    """Make trees of few images have several levels."""
    monkeypatch.setattr(race_tree, "FAN_OUT", fan_out)
    monkeypatch.setattr(race_tree, "LARGEST_TOP", largest_top)


def mixed_with_uniform(log_weights, floor: float) -> np.ndarray:
    """Probabilities (softmax + floor / N) / (1 + floor)."""
    weights = np.exp(np.asarray(log_weights) - np.max(log_weights))
    return (weights / weights.sum() + floor / len(weights)) / (1 + floor)


def independent_pairs(probabilities) -> dict[tuple[int, int], float]:
    """Law of two draws with replacement."""
    places = range(len(probabilities))
    return {(i, j): probabilities[i] * probabilities[j] for i in places for j in places}


def pairs(drawn: np.ndarray) -> list[tuple[int, int]]:
    """The first two of each row of draws."""
    return list(map(tuple, drawn[:, :2].tolist()))


def churned(size: int, goal: np.ndarray, floor: float, seed=0) -> RaceTree:
    """A tree that has come to log weights `goal` through hundreds of huge updates."""
    random = np.random.default_rng(seed)
    tree = RaceTree(random.normal(size=size), floor)
    for _ in range(200):
        index = random.integers(size, size=random.choice([1, 3, size]))
        tree.update(index, random.normal(scale=random.choice([1, 1e3]), size=len(index)))
    order = random.permutation(size)
    for index in np.split(order, [1, 2, size // 2]):
        tree.update(index, goal[index])
    return tree


def draws_of_tree(tree: RaceTree, k: int, draws: int, replacement=False, seed=0) -> np.ndarray:
    draw = tree.draw_with_replacement if replacement else tree.draw
    rng = np.random.default_rng(seed)
    return np.stack([draw(k, rng) for _ in range(draws)])


def assert_distinct(drawn: np.ndarray, size: int) -> None:
    """In each row of draws [draws, k] no index comes twice, and all are of images."""
    assert 0 <= drawn.min() <= drawn.max() < size
    assert (np.diff(np.sort(drawn, 1), axis=1) > 0).all()


def assert_sums(tree: RaceTree, log_weights: np.ndarray) -> None:
    """Leaves are the log weights, and nodes the logarithms of sums of the leaves below."""
    for rows, width in zip([*tree.levels, tree.top], tree.widths):
        nodes = rows.reshape(-1)
        starts = range(0, len(log_weights), width)
        expected = [logsumexp(log_weights[start : start + width]) for start in starts]
        np.testing.assert_allclose(nodes[: len(starts)], expected, rtol=1e-13, atol=1e-13)
        assert (nodes[len(starts) :] == -math.inf).all()


# --- The tree: draws ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "beta, spread, floor",
    [(0, 1, 1e-4), (1, 1, 1e-4), (1, 1, 0.3), (100, 0.03, 1e-4), (100, 0.5, 0.3)],
)
def test_draws_of_a_churned_tree_follow_successive_sampling(size, beta, spread, floor):
    """Ordered pairs by their exact law, and the first five images by NumPy's draws."""
    goal = beta * np.random.default_rng(7).normal(scale=spread, size=size)
    drawn = draws_of_tree(churned(size, goal, floor), 5, 5000)
    assert_distinct(drawn, size)
    probabilities = mixed_with_uniform(goal, floor)
    assert_outcomes(pairs(drawn), order_probabilities(probabilities, 2))
    assert_inclusion(drawn, numpy_inclusion(probabilities, 5, 2000), draws_behind=2000)


@pytest.mark.parametrize("beta, spread, floor", [(1, 1, 1e-4), (100, 0.03, 0.3)])
def test_draws_with_replacement_are_independent(size, beta, spread, floor):
    goal = beta * np.random.default_rng(7).normal(scale=spread, size=size)
    drawn = draws_of_tree(churned(size, goal, floor), 40, 400, replacement=True)
    assert 0 <= drawn.min() <= drawn.max() < size
    probabilities = mixed_with_uniform(goal, floor)
    assert_outcomes(pairs(drawn.reshape(-1, 2)), independent_pairs(probabilities))


@pytest.mark.parametrize("count", [4, 5])
def test_the_whole_order_follows_successive_sampling(monkeypatch, count):
    """Of all images drawn, each permutation has its own probability."""
    shrink(monkeypatch, 2, 1)
    goal = np.array([0.5, -1.0, 1.2, 0.0, 0.8])[:count]
    drawn = draws_of_tree(churned(count, goal, 0.2), count, 6000)
    law = order_probabilities(mixed_with_uniform(goal, 0.2), count)
    assert len(law) == math.factorial(count)
    assert_outcomes(map(tuple, drawn.tolist()), law)


def test_one_draw_follows_the_probabilities(size):
    goal = np.random.default_rng(3).normal(size=size)
    drawn = draws_of_tree(churned(size, goal, 0.1), 1, 4000)
    law = dict(enumerate(mixed_with_uniform(goal, 0.1)))
    assert_outcomes(drawn[:, 0].tolist(), law)


def test_any_number_of_images_can_be_drawn(size):
    """From one to all; more than there are nodes on top or on any level."""
    tree = churned(size, np.random.default_rng(3).normal(scale=3, size=size), FLOOR)
    for k in range(1, size + 1):
        drawn = draws_of_tree(tree, k, 10)
        assert drawn.shape == (10, k)
        assert drawn.dtype == np.int64
        assert_distinct(drawn, size)


def test_of_one_image_that_one_is_drawn(monkeypatch):
    shrink(monkeypatch, 2, 1)
    tree = RaceTree(np.zeros(1), FLOOR)
    tree.update(np.array([0]), np.array([-1e5]))
    rng = np.random.default_rng(0)
    assert tree.draw(1, rng).tolist() == [0]
    assert tree.draw_with_replacement(3, rng).tolist() == [0] * 3


@pytest.mark.parametrize("k", [4097, 5000, 32769])
def test_a_huge_batch_of_a_tree_of_real_size(k):
    """More images are drawn than there are nodes on the middle level."""
    tree = RaceTree(np.random.default_rng(0).normal(size=32769), FLOOR)
    assert [len(rows) for rows in tree.levels] == [4097, 513]
    assert_distinct(draws_of_tree(tree, k, 3), 32769)


def test_draws_from_a_hundred_thousand_images_match_the_plain_draw():
    """Twenty groups of images, from light to heavy, as often as in draws from all weights."""
    size, k, draws = 100_000, 512, 150
    goal = np.random.default_rng(0).exponential(0.65, size)
    tree = RaceTree(np.zeros(size), FLOOR)
    assert len(tree.levels) == 2
    for index in np.array_split(np.random.default_rng(1).permutation(size), 300):
        tree.update(index, goal[index])
    probabilities = mixed_with_uniform(goal, FLOOR)

    order = probabilities.argsort()
    group = np.empty(size, dtype=np.int64)
    group[order] = np.minimum(probabilities[order].cumsum() * 20, 19)
    rng = torch.Generator().manual_seed(0)
    plain = [
        draw_without_replacement(torch.from_numpy(probabilities), k, rng).numpy()
        for _ in range(draws)
    ]
    drawn = draws_of_tree(tree, k, draws)
    assert_distinct(drawn, size)
    counts, expected = (
        np.stack([np.bincount(group[row], minlength=20) for row in rows]) for rows in (drawn, plain)
    )
    assert expected[:, -1].mean() < 0.8 * k / 20, "heavy images never run out"
    chances = stats.ttest_ind(counts, expected, equal_var=False).pvalue
    assert chances.min() > FALSE_ALARM / 20


# --- The tree: updates ---


def test_sums_are_right_after_every_update(size):
    """One image, several, all, some repeated: of these the last counts."""
    random = np.random.default_rng(0)
    log_weights = random.normal(size=size)
    tree = RaceTree(log_weights, FLOOR)
    assert_sums(tree, log_weights)
    for count in [1, 2, 5, size, 3 * size] * 10:
        index = random.integers(size, size=count)
        new = random.normal(scale=random.choice([1, 1e3]), size=count)
        tree.update(index, new)
        for i, weight in zip(index, new):
            log_weights[i] = weight
        assert_sums(tree, log_weights)


def test_sums_do_not_drift(size):
    """After 10,000 updates, most of them huge, they are as good as new."""
    random = np.random.default_rng(0)
    index, new = random.integers(size, size=10_000), random.normal(scale=1e3, size=10_000)
    new[-1000:] /= 1e3
    log_weights = np.zeros(size)
    tree = RaceTree(log_weights, FLOOR)
    for i in range(0, 10_000, 2):
        tree.update(index[i : i + 1], new[i : i + 1])
        tree.update(index[i + 1 : i + 2], new[i + 1 : i + 2])
    for i, weight in zip(index, new):
        log_weights[i] = weight
    assert_sums(tree, log_weights)


def test_a_tree_keeps_its_own_log_weights(size):
    given = np.ones(size)
    tree = RaceTree(given, FLOOR)
    tree.update(np.arange(size), np.zeros(size))
    assert (given == 1).all()


# --- The tree: extremes ---


def test_weights_of_any_range_are_drawn_by_their_law(size):
    """The two heaviest first, 3 to 1; once they are gone, the floor makes all others alike."""
    goal = np.random.default_rng(0).uniform(-1e5, 9e4, size)
    heavy, lighter = size - 1, 1
    goal[[heavy, lighter]] = 1e5 + math.log(3), 1e5
    draws = 1500
    drawn = draws_of_tree(churned(size, goal, FLOOR), 3, draws)
    usual = np.isin(drawn[:, :2], [heavy, lighter]).all(1)
    assert draws - usual.sum() <= stats.binom.isf(FALSE_ALARM, draws, 5 * FLOOR)
    assert_outcomes(pairs(drawn[usual]), {(heavy, lighter): 0.75, (lighter, heavy): 0.25})
    others = set(range(size)) - {heavy, lighter}
    assert_outcomes(drawn[usual, 2].tolist(), dict.fromkeys(others, 1 / len(others)))


def test_huge_ups_and_downs_leave_no_trace(size):
    """One image after the other, at beta = 1000, has a loss of 100 for a while."""
    tree, rng, followers = RaceTree(np.zeros(size), FLOOR), np.random.default_rng(0), []
    turns = 1000
    for turn in range(turns):
        hot = turn % size
        tree.update(np.array([hot]), np.array([1e5]))
        first, second = tree.draw(2, rng)
        if first == hot:
            followers.append((second - hot) % size)
        tree.update(np.array([hot]), np.array([(-1e5, 0)[turn % 2]]))
    assert turns - len(followers) <= stats.binom.isf(FALSE_ALARM, turns, FLOOR)
    assert_outcomes(followers, dict.fromkeys(range(1, size), 1 / (size - 1)))
    tree.update(np.arange(size), np.zeros(size))
    assert_outcomes(draws_of_tree(tree, 1, 1000)[:, 0].tolist(), dict.fromkeys(range(size), 1))


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_a_weight_of_no_meaning_does_not_stop_the_draws(size, place, bad, replacement):
    """A training that diverged goes on, to the error message that says so."""
    log_weights = np.random.default_rng(0).normal(size=size)
    updated = RaceTree(log_weights, FLOOR)
    updated.update(np.arange(size)[[place]], np.array([bad]))
    log_weights[place] = bad
    for tree in (updated, RaceTree(log_weights, FLOOR)):
        for k in (1, 4, size):
            drawn = draws_of_tree(tree, k, 20, replacement)
            assert 0 <= drawn.min() <= drawn.max() < size
            if not replacement:
                assert_distinct(drawn, size)


def test_nothing_but_nan_does_not_stop_the_draws(size):
    tree = RaceTree(np.zeros(size), FLOOR)
    tree.update(np.arange(size), np.full(size, math.nan))
    assert_distinct(draws_of_tree(tree, 4, 20), size)
    assert draws_of_tree(tree, 4, 20, replacement=True).max() < size


# --- HardnessWeightedSampler: helpers ---

# On a CPU draws are made from the tree; without one, as on CUDA, from all probabilities.
PATHS = ["tree", "vector", CUDA]


def make_sampler(
    path="tree", num_samples=24, batch_size=4, *, seed=0, **options
) -> HardnessWeightedSampler:
    device = "cuda" if path == "cuda" else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    sampler = HardnessWeightedSampler(
        num_samples, batch_size, device=device, generator=generator, **options
    )
    if path == "vector":
        sampler.tree = None
    assert (sampler.tree is not None) == (path == "tree")
    return sampler


def teach(sampler: HardnessWeightedSampler, losses) -> None:
    """Give each image its loss, in batches of random order."""
    losses = torch.as_tensor(losses, dtype=torch.float32)
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(1))
    for index in order.split(5):
        sampler.update(index, losses[index])
    assert torch.equal(sampler.losses.cpu(), losses)


def draws_of(sampler: HardnessWeightedSampler, draws: int) -> np.ndarray:
    return torch.stack([sampler.draw() for _ in range(draws)]).cpu().numpy()


def expected_probabilities(sampler: HardnessWeightedSampler) -> np.ndarray:
    return mixed_with_uniform(sampler.beta * sampler.losses.double().cpu().numpy(), FLOOR)


def on_device(sampler: HardnessWeightedSampler, *values) -> list[torch.Tensor]:
    return [torch.as_tensor(value, device=sampler.device) for value in values]


# --- HardnessWeightedSampler: draws ---


@pytest.mark.slow
@pytest.mark.parametrize("beta, spread", [(0, 1), (1, 1), (100, 0.03), (1000, 0.002), (1000, 1)])
@pytest.mark.parametrize("path", PATHS)
def test_batches_follow_successive_sampling(monkeypatch, path, beta, spread):
    """With and without the tree; pairs by their exact law, and whole batches by NumPy's."""
    shrink(monkeypatch, 2, 4)
    sampler = make_sampler(path, beta=beta)
    teach(sampler, 2 + spread * np.random.default_rng(5).normal(size=24))
    drawn = draws_of(sampler, 3000)
    assert_distinct(drawn, 24)
    probabilities = expected_probabilities(sampler)
    assert_outcomes(pairs(drawn), order_probabilities(probabilities, 2))
    assert_inclusion(drawn, numpy_inclusion(probabilities, 4, 3000), draws_behind=3000)


@pytest.mark.parametrize("beta, spread", [(0, 1), (1, 1), (100, 0.03), (1000, 0.002)])
@pytest.mark.parametrize("path", PATHS)
def test_batches_with_replacement_are_independent_draws(monkeypatch, path, beta, spread):
    shrink(monkeypatch, 2, 4)
    sampler = make_sampler(path, beta=beta, replacement=True)
    teach(sampler, 2 + spread * np.random.default_rng(5).normal(size=24))
    drawn = draws_of(sampler, 3000)
    assert drawn.shape == (3000, 4)
    assert_outcomes(pairs(drawn.reshape(-1, 2)), independent_pairs(expected_probabilities(sampler)))


@pytest.mark.parametrize("beta", [0, 1, 100, 1000])
@pytest.mark.parametrize("path", PATHS)
def test_probabilities_are_a_floored_softmax(path, beta):
    sampler = make_sampler(path, beta=beta)
    teach(sampler, np.linspace(0, 3, 24) ** 2)
    probabilities = sampler.probabilities()
    assert probabilities.dtype == torch.float64
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(probabilities.cpu(), expected_probabilities(sampler), rtol=1e-9)
    assert probabilities.min() >= FLOOR / 24 / (1 + FLOOR) * (1 - 1e-9)


def test_initial_losses_are_a_guess_and_a_little_noise():
    losses = make_sampler(num_samples=4000, initial_loss=2.5).losses
    noise = (losses.double().numpy() / 2.5 - 1) / 0.001
    assert stats.kstest(noise, "norm").pvalue > FALSE_ALARM


@pytest.mark.parametrize("path", PATHS)
def test_hardest_are_in_order(path):
    sampler = make_sampler(path)
    losses = torch.randn(24, generator=torch.Generator().manual_seed(2))
    teach(sampler, losses)
    hardest = sampler.hardest(7)
    assert hardest.dtype == torch.int64
    assert hardest.tolist() == sorted(range(24), key=lambda i: -losses[i])[:7]


# --- HardnessWeightedSampler: what it learns ---


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("path", PATHS)
def test_update_follows_a_plain_reference(path, momentum):
    sampler = make_sampler(path, momentum=momentum)
    stale = sampler.losses.tolist()
    random = np.random.default_rng(0)
    for _ in range(50):
        index = random.permutation(24)[: random.integers(1, 9)].tolist()
        losses = random.exponential(3, len(index)).tolist()
        sampler.update(torch.tensor(index), torch.tensor(losses))
        for i, loss in zip(index, losses):
            stale[i] = momentum * stale[i] + (1 - momentum) * loss
        np.testing.assert_allclose(sampler.losses.cpu(), stale, rtol=1e-5)
    if path == "tree":
        assert_sums(sampler.tree, sampler.losses.double().numpy())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("path", PATHS)
def test_losses_of_a_repeated_index_are_averaged(path, momentum):
    sampler = make_sampler(path, momentum=momentum, replacement=True)
    stale = sampler.losses.tolist()
    sampler.update(torch.tensor([5, 2, 5, 9, 5, 2]), torch.tensor([1.0, 7, 2, 4, 6, 8]))
    for i, loss in ((5, 3.0), (2, 7.5), (9, 4.0)):
        stale[i] = momentum * stale[i] + (1 - momentum) * loss
    np.testing.assert_allclose(sampler.losses.cpu(), stale, rtol=1e-6)
    if path == "tree":
        assert_sums(sampler.tree, sampler.losses.double().numpy())


@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 5), (4, 2, 3, 5)])
@pytest.mark.parametrize("path", PATHS)
def test_losses_per_pixel_or_voxel_are_averaged(path, shape):
    losses = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    means = losses.flatten(1).mean(1)
    index = torch.tensor([3, 20, 0, 11])
    one, other = make_sampler(path), make_sampler(path)
    torch.testing.assert_close(
        one.importance_weights(index, losses), other.importance_weights(index, means)
    )
    one.update(index, losses)
    other.update(index, means)
    torch.testing.assert_close(one.losses, other.losses)
    torch.testing.assert_close(one.losses[index].cpu(), means)


def test_losses_may_be_of_any_kind():
    """With a gradient, of half precision, as lists; and are left as they are."""
    plain = make_sampler(seed=3)
    plain.update(torch.tensor([1, 4]), torch.tensor([0.5, 2.0]))
    for losses in (
        torch.tensor([0.5, 2.0], requires_grad=True) * 1,
        torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
        torch.tensor([0.5, 2.0], dtype=torch.float64),
        [0.5, 2.0],
    ):
        sampler, given = make_sampler(seed=3), copy.copy(losses)
        assert not sampler.importance_weights([1, 4], losses).requires_grad
        sampler.update([1, 4], losses)
        assert torch.equal(sampler.losses, plain.losses)
        assert list(given) == list(losses)


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_unchecked_losses_of_nan_do_not_stop_the_draws(monkeypatch, path, replacement):
    """As `record` learns them in a training loop that looks for NaN by itself, at its end."""
    shrink(monkeypatch, 2, 4)
    sampler = make_sampler(path, num_samples=17, replacement=replacement, beta=100.0)
    sampler.record(*on_device(sampler, [16, 2], [math.nan, 1.0]))
    loaded = make_sampler(path, num_samples=17, replacement=replacement, seed=1)
    loaded.load_state_dict(saved_and_loaded(sampler.state_dict()))
    for drawn in (draws_of(sampler, 50), draws_of(loaded, 50)):
        assert 0 <= drawn.min() <= drawn.max() < 17
        if not replacement:
            assert_distinct(drawn, 17)


@pytest.mark.parametrize("options, low, high", [({}, 0.1, 10), ({"clip": (0.5, 2)}, 0.5, 2)])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("path", PATHS)
def test_importance_weights_are_the_clipped_change_of_hardness(path, momentum, options, low, high):
    sampler = make_sampler(path, num_samples=6, beta=2.0, momentum=momentum)
    stale = [2.0, 2.5, 1.7, 1.0, 4.0, 3.0]
    for _ in range(100):  # with momentum, stale losses creep to what they are told
        sampler.update(torch.arange(6), torch.tensor(stale))
    index, losses = [5, 3, 0, 1, 4, 2], [3.0, 90.0, 2.1, 2.2, 0.0, 1.9]
    weights = sampler.importance_weights(torch.tensor(index), torch.tensor(losses), **options)
    changes = [loss - stale[i] for i, loss in zip(index, losses)]
    expected = [min(max(math.exp(2 * (1 - momentum) * c), low), high) for c in changes]
    assert (min(expected), max(expected)) == (low, high)
    assert sum(low < weight < high for weight in expected) == 4
    np.testing.assert_allclose(weights.cpu(), expected, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_importance_weights_neither_overflow_nor_vanish(path):
    sampler = make_sampler(path, beta=1000.0)
    losses = torch.tensor([1e4, -1e4, 1e34, -1e34])
    expected = torch.tensor([10, 0.1, 10, 0.1])
    torch.testing.assert_close(sampler.importance_weights(torch.arange(4), losses).cpu(), expected)


@pytest.mark.parametrize("path", PATHS)
def test_importance_weights_are_asked_for_before_the_update(path):
    """They look at the stale losses and change nothing; afterwards these are the losses."""
    sampler = make_sampler(path, beta=0.5)
    index, losses = torch.tensor([3, 1, 7]), torch.tensor([0.0, 2.0, 1.5])
    before = copy.deepcopy(sampler.state_dict())
    weights = sampler.importance_weights(index, losses)
    assert_same_state(sampler.state_dict(), before)
    change = losses - before["losses"].cpu()[index]
    torch.testing.assert_close(weights.cpu(), (0.5 * change).exp())
    sampler.update(index, losses)
    assert sampler.importance_weights(index, losses).tolist() == [1, 1, 1]


def assert_same_state(one: dict, other: dict) -> None:
    """Of state dicts, whose values are tensors or (nested) dicts and lists of them."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same_state(one[name], other[name])
    elif isinstance(one, list):
        for values in itertools.zip_longest(one, other):
            assert_same_state(*values)
    else:
        assert one == other


# --- Errors ---

WRONG_SHAPES = {
    "one loss for all": ([1, 2], torch.tensor(3.0), "reduction='none'"),
    "too few": ([1, 2], torch.tensor([3.0]), "differ in number"),
    "too many": ([1, 2], torch.ones(3), "differ in number"),
    "pixels of other images": ([1, 2], torch.ones(3, 4, 4), "differ in number"),
}
WRONG_INDICES = {
    "beyond the last": ([1, 24], torch.ones(2), "outside 0 to 23"),
    "far beyond": ([2**40, 1], torch.ones(2), "outside 0 to 23"),
    "negative": ([0, -1], torch.ones(2), "outside 0 to 23"),
}
WRONG_VALUES = {
    "NaN": ([1, 2], torch.tensor([1.0, math.nan]), "NaN or infinite.*diverged"),
    "infinite": ([1, 2], torch.tensor([math.inf, 1.0]), "NaN or infinite.*diverged"),
    "a NaN pixel": ([1], torch.tensor([[[0.0, math.nan], [1.0, 2.0]]]), "NaN or infinite"),
}
SAMPLERS = [HardnessWeightedSampler, PSGDSampler, CSGDSampler]


@pytest.mark.parametrize("wrong", [*WRONG_SHAPES, *WRONG_INDICES, *WRONG_VALUES])
@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_a_wrong_update_says_why_and_changes_nothing(sampler_class, wrong):
    sampler = sampler_class(24, 4)
    sampler.update([3, 4], torch.tensor([0.25, 0.5]))
    index, values, message = (WRONG_SHAPES | WRONG_INDICES | WRONG_VALUES)[wrong]
    before, ahead = copy.deepcopy(sampler.state_dict()), sampler.ahead
    with pytest.raises(ValueError, match=message):
        sampler.update(torch.tensor(index), values)
    assert_same_state(sampler.state_dict(), before)
    assert sampler.ahead == ahead


@pytest.mark.parametrize("wrong", [*WRONG_SHAPES, "beyond the last", "far beyond"])
@pytest.mark.parametrize("path", ["tree", "vector"])
def test_weights_of_a_wrong_batch_are_an_error(path, wrong):
    index, values, message = (WRONG_SHAPES | WRONG_INDICES)[wrong]
    with pytest.raises(ValueError, match=message):
        make_sampler(path).importance_weights(torch.tensor(index), values)


@pytest.mark.cuda
@pytest.mark.parametrize("wrong", WRONG_SHAPES)
@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_wrong_shapes_are_an_error_on_a_device(sampler_class, wrong):
    index, values, message = WRONG_SHAPES[wrong]
    with pytest.raises(ValueError, match=message):
        sampler_class(24, 4, device="cuda").update(torch.tensor(index), values)


@pytest.mark.cuda
@pytest.mark.parametrize("device, other", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_generator_of_another_device_is_an_error(device, other):
    for make in (
        lambda **options: HardnessWeightedSampler(8, 2, **options),
        lambda **options: PSGDSampler(8, 2, **options),
        lambda **options: SelectiveBackpropSelector(2, beta=1, **options),
    ):
        with pytest.raises(ValueError, match=f"torch.Generator\\('{device}'\\)"):
            make(device=device, generator=torch.Generator(other))


@pytest.mark.parametrize("batch_size", [-1, 0, 11])
@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_a_batch_larger_than_the_data_is_an_error(sampler_class, batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size}: give 1 to 10"):
        sampler_class(10, batch_size)
    assert len(next(iter(sampler_class(10, 10)))) == 10


@pytest.mark.parametrize(
    "options",
    [
        dict(beta=-1.0),
        dict(beta=math.inf),
        dict(beta=math.nan),
        dict(momentum=1.0),
        dict(momentum=-0.1),
        dict(momentum=math.nan),
        dict(initial_loss=math.nan),
    ],
)
def test_options_out_of_bounds_are_an_error(options):
    with pytest.raises(ValueError, match="beta has to be at least 0, momentum in"):
        HardnessWeightedSampler(10, 2, **options)


# --- Randomness and state, of all samplers ---

# A class and options that make it use all of its state.
KINDS = {
    "dro": (HardnessWeightedSampler, dict(beta=2.0)),
    "dro with replacement": (HardnessWeightedSampler, dict(beta=2.0, replacement=True)),
    "dro with momentum": (HardnessWeightedSampler, dict(beta=9.0, momentum=0.7)),
    "dro with both": (HardnessWeightedSampler, dict(replacement=True, momentum=0.5)),
    "p-SGD": (PSGDSampler, dict(subset_size=33)),
    "c-SGD": (CSGDSampler, dict(smoothing=0.1)),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_device = pytest.mark.parametrize("device", DEVICES)


def make_kind(kind: str, device="cpu", seed=0):
    sampler_class, options = KINDS[kind]
    generator = torch.Generator(device).manual_seed(seed)
    return sampler_class(40, 6, device=device, generator=generator, **options)


def journey(sampler, batches: int, first=0) -> list[list[int]]:
    """Batches drawn and learnt from; the values depend on the images and the turn alone."""
    drawn = []
    while len(drawn) < batches:
        for batch in sampler:
            turn = first + len(drawn)
            drawn.append(batch)
            values = [(i * 7 + turn) % 23 / 23 for i in batch]
            sampler.update(torch.tensor(batch), torch.tensor(values))
            if len(drawn) == batches:
                break
    return drawn


@each_device
@each_kind
def test_a_loaded_sampler_goes_on_alike(monkeypatch, kind, device):
    """By a state written to a file mid-way, into one of another seed that has a past."""
    shrink(monkeypatch, 2, 4)
    sampler, fresh = make_kind(kind, device, seed=1), make_kind(kind, device, seed=2)
    journey(sampler, 17)
    journey(fresh, 3)
    fresh.load_state_dict(saved_and_loaded(sampler.state_dict()))
    assert_same_state(fresh.state_dict(), sampler.state_dict())
    expected = journey(sampler, 20, first=17)
    assert journey(fresh, 20, first=17) == expected
    assert_same_state(fresh.state_dict(), sampler.state_dict())
    unloaded = make_kind(kind, device, seed=2)
    assert journey(unloaded, 20, first=17) != expected


@each_kind
def test_a_saved_state_is_no_part_of_the_sampler(kind):
    """What is learnt later does not show in a state that was read from a file."""
    sampler = make_kind(kind)
    journey(sampler, 5)
    state = saved_and_loaded(sampler.state_dict())
    given = copy.deepcopy(state)
    sampler.load_state_dict(state)
    journey(sampler, 5)
    assert_same_state(state, given)


@each_device
@each_kind
def test_a_copy_is_independent(kind, device):
    """It draws what the original would have drawn; neither learns what the other is told."""
    sampler = make_kind(kind, device)
    journey(sampler, 5)
    twin, witness = copy.deepcopy(sampler), copy.deepcopy(sampler)
    before = copy.deepcopy(sampler.state_dict())
    expected = journey(twin, 12)
    assert_same_state(sampler.state_dict(), before)
    for other in (sampler, witness):
        assert journey(other, 12) == expected
        assert_same_state(other.state_dict(), twin.state_dict())
    assert not torch.equal(next(twin.buffers()), next(iter(before.values())))


@each_device
@each_kind
def test_same_generator_same_batches(kind, device):
    one, same, other = (journey(make_kind(kind, device, seed), 12) for seed in (5, 5, 6))
    assert one == same
    assert one != other


@each_device
@each_kind
def test_a_sampler_with_a_generator_leaves_the_global_one_alone(kind, device):
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    journey(make_kind(kind, device), 12)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


@each_kind
def test_without_a_generator_the_global_seed_decides(kind):
    sampler_class, options = KINDS[kind]

    def batches(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return journey(sampler_class(40, 6, **options), 6)

    assert batches(1) == batches(1) != batches(2)


# --- As the batch_sampler of a DataLoader ---


class Places(Dataset):
    """Each image is its own place."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        assert type(place) is int
        return place


def loader_of(sampler, workers=0, prefetch=None) -> DataLoader:
    return DataLoader(
        Places(sampler.num_samples),
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=prefetch,
    )


@each_device
@each_kind
def test_batches_are_lists_for_a_data_loader(kind, device):
    sampler, twin = make_kind(kind, device), make_kind(kind, device)
    batches = list(sampler)
    assert len(batches) == len(sampler) == sampler_length(kind)
    assert all(len(batch) == 6 for batch in batches)
    assert all(type(place) is int for batch in batches for place in batch)
    assert [batch.tolist() for batch in loader_of(twin)] == batches


def sampler_length(kind: str) -> int:
    return KINDS[kind][1].get("subset_size", 40) // 6


# A DataLoader draws workers * prefetch batches at first, and one more before it hands out each.
@pytest.mark.parametrize("workers, prefetch", [(0, None), (1, 2), (2, 1), (2, 2)])
def test_a_batch_lacks_the_updates_of_those_that_were_drawn_ahead(workers, prefetch):
    """An image that turns hard in one update is in the first batch that can know, and after."""
    ahead, turn, hot = workers * (prefetch or 0), 10, 77
    sampler = make_sampler(num_samples=200, beta=100.0, max_ahead=ahead)
    sampler.update([hot], [0.0])  # never drawn while others are at the initial loss
    seen, drawn_ahead = [], []
    for number, batch in enumerate(loader_of(sampler, workers, prefetch)):
        seen.append(hot in batch)
        drawn_ahead.append(sampler.ahead)
        losses = 50.0 * (batch == hot)
        if number == turn:
            batch, losses = torch.tensor([*batch, hot]), torch.tensor([*losses, 50.0])
        sampler.update(batch, losses)
    assert seen == [number > turn + ahead for number in range(50)]
    assert drawn_ahead == [min(ahead + 1, 50 - number) for number in range(50)]
    assert sampler.ahead == 0


@pytest.mark.parametrize("workers, prefetch", [(1, 2), (2, 2)])
def test_a_data_loader_too_far_ahead_is_an_error(workers, prefetch):
    sampler = make_sampler(max_ahead=workers * prefetch - 1)
    with pytest.raises(RuntimeError, match=r"num_workers \* prefetch_factor ahead: lower these"):
        next(iter(loader_of(sampler, workers, prefetch)))


def test_a_forgotten_update_is_an_error_if_none_may_be():
    sampler = make_sampler(max_ahead=0)
    batches = iter(loader_of(sampler))
    batch = next(batches)
    sampler.update(batch, torch.ones(4))
    next(batches)
    with pytest.raises(RuntimeError, match=r"more than max_ahead=0; .* call update\(\) after"):
        next(batches)


def test_any_number_of_updates_may_be_left_out_by_default():
    """For example in a pass that only looks at the batches."""
    assert len(list(make_sampler(num_samples=400))) == 100


def test_an_abandoned_pass_does_not_count():
    sampler = make_sampler(max_ahead=2)
    assert len(list(itertools.islice(sampler, 3))) == sampler.ahead == 3
    for batch in sampler:
        assert sampler.ahead == 1
        sampler.update(batch, torch.ones(4))
        assert sampler.ahead == 0


def test_draws_and_updates_need_no_pass():
    """Of one's own accord any number can be drawn and learnt."""
    sampler = make_sampler(max_ahead=0)
    for _ in range(5):
        sampler.draw()
    for _ in range(5):
        sampler.update(torch.tensor([1]), torch.tensor([0.5]))
    assert sampler.ahead == 0
    assert len(next(iter(sampler))) == 4


# --- PSGDSampler and CSGDSampler ---

each_subset_sampler = pytest.mark.parametrize("sampler_class", [PSGDSampler, CSGDSampler])


@pytest.mark.parametrize(
    "options, length",
    [({}, 7), ({"subset_size": 30}, 7), ({"subset_size": 19}, 4), ({"subset_size": 4}, 1)],
)
@each_device
@each_subset_sampler
def test_an_epoch_has_no_index_twice(sampler_class, device, options, length):
    sampler = sampler_class(30, 4, device=device, **options)
    epochs = []
    for _ in range(5):
        batches = list(loader_of(sampler))
        assert len(batches) == len(sampler) == length
        assert all(len(batch) == 4 for batch in batches)
        epochs.append(torch.stack(batches).flatten().numpy())
        for batch in batches:
            sampler.update(batch, batch / 30)
    assert_distinct(np.stack(epochs), 30)
    assert len(set(map(bytes, epochs))) == 5


@pytest.mark.parametrize("subset_size", [-1, 0, 3, 31])
@each_subset_sampler
def test_a_subset_too_small_or_large_is_an_error(sampler_class, subset_size):
    with pytest.raises(ValueError, match=f"subset_size {subset_size}: give 4, one batch, to 30"):
        sampler_class(30, 4, subset_size=subset_size)


def weights_slowly(seen: dict[int, list[float]], count: int, smoothing: float, undecided: bool):
    """Of mean errors: a, or a * (1 - a); the unseen take the highest; then the smoothing."""
    means = {i: sum(errors) / len(errors) for i, errors in seen.items()}
    known = {i: a * (1 - a) if undecided else a for i, a in means.items()}
    weights = [known.get(i, max(known.values(), default=1.0)) for i in range(count)]
    return [weight + smoothing * sum(weights) / count for weight in weights]


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 1.0, 2.5])
@each_device
@each_subset_sampler
def test_weights_follow_a_plain_reference(sampler_class, device, smoothing, per_pixel):
    sampler = sampler_class(20, 4, smoothing=smoothing, device=device)
    random, seen = np.random.default_rng(0), {}
    for turn in range(40):
        # Half of the images at first, so that others are unseen.
        index = random.permutation(20 if turn > 20 else 10)[:4]
        values = random.uniform(size=(4, 3, 5) if per_pixel else 4)
        sampler.update(torch.from_numpy(index), torch.from_numpy(values))
        for i, value in zip(index.tolist(), values):
            seen.setdefault(i, []).append(1 - value.mean())
        expected = weights_slowly(seen, 20, smoothing, sampler_class is CSGDSampler)
        np.testing.assert_allclose(sampler.weights().cpu(), expected, rtol=1e-4)
    assert len(seen) == 20


@each_subset_sampler
def test_weights_are_equal_before_the_first_visit(sampler_class):
    weights = sampler_class(20, 4).weights()
    assert weights[0] > 0
    assert (weights == weights[0]).all()


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
@each_device
@each_subset_sampler
def test_epochs_match_numpy_choice(sampler_class, device, smoothing):
    """What is in the subset; and, because it is shuffled, no image comes early or late."""
    generator = torch.Generator(device).manual_seed(0)
    sampler = sampler_class(
        24, 4, subset_size=12, smoothing=smoothing, device=device, generator=generator
    )
    sampler.update(torch.arange(20), 1 - torch.linspace(0.02, 0.5, 20) ** 2)
    drawn = torch.stack([sampler.draw() for _ in range(3000)]).view(3000, 12).cpu().numpy()
    expected = numpy_inclusion(sampler.weights().cpu(), 12, 3000)
    assert expected.max() - expected.min() > 0.2, "the weights are too even to test anything"
    assert_inclusion(drawn, expected, draws_behind=3000)
    last = np.bincount(drawn[:, 8:].reshape(-1), minlength=24) / 3000
    assert_inclusion(drawn[:, :4], last, draws_behind=3000)


# --- SelectiveBackpropSelector ---


def make_columns(random: np.random.Generator, size: int, start: int) -> list[torch.Tensor]:
    """Images, soft labels, classes, flags and places, by each of which a row can be told."""
    places = torch.arange(start, start + size)
    images = torch.from_numpy(random.integers(256, size=(size, 1, 2, 3), dtype=np.uint8))
    targets = torch.from_numpy(random.uniform(size=(size, 3)))
    return [images, targets.float(), places.int() % 7, places % 2 == 0, places]


def assert_rows(batches: list[tuple], rows: list[tuple]) -> None:
    """That batches, joined, are those rows."""
    joined = [torch.cat(column) for column in zip(*batches)]
    for column, expected in zip(joined, zip(*rows), strict=True):
        assert column.dtype == expected[0].dtype
        assert torch.equal(column, torch.stack(expected))


@pytest.mark.parametrize("beta", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("sizes", [[1], [5], [16], [48], [100], [3, 70, 1, 33, 16]])
def test_selection_follows_a_plain_reference(monkeypatch, sizes, beta):
    """Percentile, coin and queue, one image after the other, on lists. Many losses are tied."""
    monkeypatch.setattr(SelectiveBackpropSelector, "HISTORY", 64)
    selector = SelectiveBackpropSelector(16, beta=beta, generator=torch.Generator().manual_seed(0))
    random, start = np.random.default_rng(0), 0
    history, queue, most = deque(maxlen=64), [], 0
    for size in itertools.islice(itertools.cycle(sizes), 1200 // max(sizes)):
        columns = make_columns(random, size, start)
        start += size
        losses = random.integers(9, size=size) / 8
        coins = torch.rand(size, generator=copied(selector.rng)).tolist()
        history.extend(losses.tolist())
        for row, (coin, loss) in enumerate(zip(coins, losses)):
            percentile = sum(other < loss for other in history) / 64
            if start < 64 or coin < percentile**beta:
                queue.append(tuple(column[row] for column in columns))

        batches = selector.select(torch.from_numpy(losses), *columns)
        assert len(batches) == len(queue) // 16
        assert all(len(column) == 16 for batch in batches for column in batch)
        if batches:
            assert_rows(batches, queue[: 16 * len(batches)])
            queue = queue[16 * len(batches) :]
        most = max(most, len(batches))
        assert selector.scored == start
        assert len(selector.queue()[0]) == len(queue)
    assert most >= (2 if max(sizes) > 64 and beta < 3 else 1)


@each_device
def test_nan_is_kept_whatever_came_before(device):
    """A network that has diverged trains on, and is found out, where none kept would be endless."""
    rng = torch.Generator(device).manual_seed(0)
    selector = SelectiveBackpropSelector(8, beta=50.0, device=device, generator=rng)
    for _ in range(2):
        selector.kept(torch.rand(selector.HISTORY, device=device))
    for _ in range(3):
        assert selector.kept(torch.full((600,), math.nan, device=device)).all()


@each_device
def test_nothing_kept_is_lost_or_doubled(device):
    """With beta = 0 all are kept: what comes out, with what still waits, is what went in."""
    selector = SelectiveBackpropSelector(16, beta=0, device=device)
    random, given, taken = np.random.default_rng(0), [], []
    for size in random.integers(1, 90, 60):
        columns = make_columns(random, size, sum(len(columns[0]) for columns in given))
        given.append(columns)
        losses = torch.from_numpy(random.uniform(size=size)).to(device)
        taken += selector.select(losses, *(column.to(device) for column in columns))
    assert selector.scored > 2 * 1024
    for column, out, left in zip(zip(*given), zip(*taken), selector.queue()):
        assert torch.equal(torch.cat([*out, left]).cpu(), torch.cat(column))


@each_device
def test_losses_of_pixels_choose_by_their_mean(device):
    """And whatever they are made of, without their gradient."""
    losses = torch.rand(300, 4, 5, generator=torch.Generator().manual_seed(0)).to(device)
    places, seen = torch.arange(300, device=device), []
    for values in (losses, losses.mean((1, 2)), losses.double().requires_grad_()):
        generator = torch.Generator(device).manual_seed(0)
        selector = SelectiveBackpropSelector(8, beta=2, device=device, generator=generator)
        batches = [selector.select(values, places) for _ in range(8)]
        seen.append([places.tolist() for batch in batches for (places,) in batch])
        assert not selector.history.requires_grad
    assert seen[0] == seen[1] == seen[2]
    assert sum(map(len, seen[0])) < 0.8 * 8 * 300


@pytest.mark.parametrize(
    "losses, columns, message",
    [
        (torch.tensor(1.0), [torch.ones(4)], "reduction='none'"),
        (torch.ones(4), [], "columns of 4 rows"),
        (torch.ones(4), [torch.ones(3)], "columns of 4 rows"),
        (torch.ones(4), [torch.ones(4, 2), torch.ones(5)], "columns of 4 rows"),
        (torch.ones(4, 2, 2), [torch.ones(16)], "columns of 4 rows"),
    ],
)
def test_a_wrong_selection_says_why_and_changes_nothing(losses, columns, message):
    selector = SelectiveBackpropSelector(3, beta=1)
    selector.select(torch.ones(4), torch.ones(4))
    before = copy.deepcopy(selector.state_dict())
    with pytest.raises(ValueError, match=message):
        selector.select(losses, *columns)
    assert_same_state(selector.state_dict(), before)


@pytest.mark.parametrize("batch_size, beta", [(0, 1.0), (-1, 1.0), (4, -0.1), (4, math.nan)])
def test_selector_options_out_of_bounds_are_an_error(batch_size, beta):
    with pytest.raises(ValueError, match="batch_size has to be at least 1 and beta at least 0"):
        SelectiveBackpropSelector(batch_size, beta=beta)


def selections(selector: SelectiveBackpropSelector, turns: int, seed: int) -> list[list[list]]:
    """The columns of all batches selected."""
    random, selected = np.random.default_rng(seed), []
    for turn in range(turns):
        columns = [column.to(selector.device) for column in make_columns(random, 50, 50 * turn)]
        losses = torch.from_numpy(random.exponential(size=50)).to(selector.device)
        batches = selector.select(losses, *columns)
        selected += [[column.tolist() for column in batch] for batch in batches]
    return selected


@pytest.mark.parametrize("turns", [0, 1, 30])
@each_device
def test_a_loaded_selector_goes_on_alike(device, turns):
    """Before the first batch, while all is kept, and later, with images that wait."""

    def make(seed):
        generator = torch.Generator(device).manual_seed(seed)
        return SelectiveBackpropSelector(16, beta=1.5, device=device, generator=generator)

    selector, fresh = make(1), make(2)
    selections(selector, turns, seed=1)
    selections(fresh, 3, seed=5)
    if turns:
        assert 0 < len(selector.queue()[0]) < 16
    fresh.load_state_dict(saved_and_loaded(selector.state_dict()))
    assert_same_state(fresh.state_dict(), selector.state_dict())
    twin = copy.deepcopy(selector)
    expected = selections(selector, 30, seed=2)
    assert len(expected) > 30
    assert selections(fresh, 30, seed=2) == selections(twin, 30, seed=2) == expected
    assert selections(make(2), 30, seed=2) != expected


def test_a_selector_with_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    selector = SelectiveBackpropSelector(16, beta=2, generator=torch.Generator().manual_seed(0))
    selections(selector, 30, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


# --- One number for each image ---


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 4, 6), (5, 2, 3, 4), (1, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@each_device
def test_per_image_averages_all_but_the_first_dimension(device, dtype, shape):
    values = (10 * torch.rand(shape, generator=torch.Generator().manual_seed(0))).to(device, dtype)
    result = per_image(values)
    assert result.dtype == torch.float32
    assert result.device == values.device
    expected = values.double().cpu().numpy().reshape(shape[0], -1).mean(1)
    np.testing.assert_allclose(result.cpu(), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5,), (5, 2, 3)])
def test_per_image_can_be_trained_on(shape):
    """A pixel has an even share of the gradient of its image."""
    values = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.arange(1.0, 6.0)
    (weights * per_image(values)).sum().backward()
    even = (weights * 5 / values.numel()).double().view(-1, *[1] * (values.ndim - 1))
    torch.testing.assert_close(values.grad, even.expand(shape))


def test_per_image_averages_half_precision_without_overflow():
    values = torch.full((2, 64, 64), 6e4, dtype=torch.float16)
    assert per_image(values).tolist() == [values[0, 0, 0].item()] * 2


def test_one_number_for_the_batch_is_an_error():
    with pytest.raises(ValueError, match="compute losses with reduction='none'"):
        per_image(torch.tensor(2.0))


# --- mixup, ricap and cutmix ---

each_mix = pytest.mark.parametrize("mix", [mixup, ricap, cutmix])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(count, *shape, generator=seeded(99)).to(dtype)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9)])
@pytest.mark.parametrize("count", [1, 2, 17])
@each_device
def test_targets_of_mixup_are_the_mixture_of_pixels(device, count, shape):
    """Where each image is a class of its own, targets say how much of which is in a pixel."""
    images = noise(count, *shape).to(device)
    for seed in range(20):
        mixed = mixup(images, torch.eye(count, device=device), generator=seeded(seed))
        expected = (mixed.targets @ images.flatten(1)).view(images.shape)
        torch.testing.assert_close(mixed.images, expected, rtol=1e-5, atol=1e-6)
        assert_owners_fill_most(mixed, parts=2)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9), (2, 12, 7)])
@pytest.mark.parametrize("count", [1, 2, 17])
@pytest.mark.parametrize("mix, parts", [(ricap, 4), (cutmix, 2)])
@each_device
def test_targets_are_shares_of_the_area(device, mix, parts, count, shape):
    """Where each image is of one colour and a class of its own, pixels can be counted."""
    colours = torch.arange(count, device=device)
    images = colours.float()[:, None, None, None].expand(count, *shape)
    for seed in range(20):
        mixed = mix(images, torch.eye(count, device=device), generator=seeded(seed))
        assert mixed.images.shape == images.shape
        areas = one_hot(mixed.images.long(), count).float().mean((1, 2, 3))
        torch.testing.assert_close(mixed.targets, areas)
        assert_owners_fill_most(mixed, parts)


def assert_owners_fill_most(mixed: MixedBatch, parts: int) -> None:
    """Each image owns one mixed one; and the largest part, if parts are of different images."""
    targets, owners = mixed.targets.cpu(), mixed.owners.cpu()
    assert owners.dtype == torch.int64
    assert sorted(owners.tolist()) == list(range(len(owners)))
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
    largest = targets.gather(1, owners[:, None]).squeeze(1)
    assert (largest >= 1 / parts - 1e-6).all()
    if len(targets) > parts:
        # Where an image meets itself, parts add up; of these many, not all do.
        sources = (targets > 0).sum(1)
        unlike = sources == sources.max()
        assert (largest[unlike] >= targets[unlike].max(1).values - 1e-6).all()


@each_mix
def test_most_images_are_mixed_of_different_ones(mix):
    """So that the tests above test something: owners are told from the others."""
    parts = []
    for seed in range(50):
        mixed = mix(noise(64, 3, 8, 8), torch.eye(64), alpha=1.0, generator=seeded(seed))
        parts += (mixed.targets > 0).sum(1).tolist()
    assert Counter(parts).most_common(1)[0][0] == {mixup: 2, ricap: 4, cutmix: 2}[mix]


@each_mix
def test_soft_targets_are_blended_like_one_hot_ones(mix):
    images = noise(9, 3, 6, 6)
    soft = torch.rand(9, 4, generator=seeded(1)).softmax(1)
    by_image = mix(images, torch.eye(9), generator=seeded(5))
    mixed = mix(images, soft, generator=seeded(5))
    torch.testing.assert_close(mixed.targets, by_image.targets @ soft)
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(9))
    assert torch.equal(mixed.images, by_image.images)
    assert torch.equal(mixed.owners, by_image.owners)


@each_mix
def test_mixing_is_reproducible_and_leaves_the_global_generator_alone(mix):
    images, targets = noise(9, 3, 8, 8), torch.eye(9)
    before = torch.get_rng_state()
    one, same, other = (mix(images, targets, generator=seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one, same))
    assert not torch.equal(one.images, other.images)
    generator = seeded(5)
    first, second = (mix(images, targets, generator=generator) for _ in range(2))
    assert torch.equal(first.images, one.images)
    assert not torch.equal(second.images, one.images)


@each_mix
def test_mixing_without_a_generator_follows_the_global_seed(mix):
    images, targets, results = noise(9, 3, 8, 8), torch.eye(9), []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(mix(images, targets).images)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@each_device
@each_mix
def test_mixing_keeps_type_and_device_and_leaves_its_input(mix, device, dtype):
    images, targets = noise(9, 3, 8, 8, dtype=dtype).to(device), torch.eye(9, device=device)
    given = images.clone()
    for seed in range(5):
        mixed = mix(images, targets.to(dtype), generator=seeded(seed))
        assert isinstance(mixed, MixedBatch)
        assert mixed.images.dtype == mixed.targets.dtype == dtype
        assert mixed.images.device == mixed.targets.device == mixed.owners.device == images.device
        assert mixed.images.data_ptr() != images.data_ptr()
        assert torch.equal(images, given)
        assert torch.equal(targets, torch.eye(9, device=device))


@each_mix
def test_targets_that_are_not_one_row_per_image_are_an_error(mix):
    images, labels = noise(9, 3, 8, 8), torch.arange(9)
    for wrong in (labels, torch.eye(8), torch.eye(9)[:, :, None], torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"give \[9, classes\].*one_hot\(labels, classes\)"):
            mix(images, wrong)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
@each_mix
def test_a_share_parameter_not_above_zero_is_an_error(mix, alpha):
    with pytest.raises(ValueError):  # noqa: PT011, NumPy's
        mix(noise(9, 3, 8, 8), torch.eye(9), alpha=alpha)


@pytest.mark.parametrize("mix", [mixup, ricap])  # a box of cutmix may stick out of the image
def test_alpha_says_how_even_the_shares_are(mix):
    """The owner's share nears one for small values and an even part for large ones."""
    images, targets = noise(64, 1, 16, 16), torch.eye(64)
    shares = [
        np.mean(
            [
                mix(images, targets, alpha=alpha, generator=seeded(seed)).targets.max().item()
                for seed in range(40)
            ]
        )
        for alpha in (0.02, 1.0, 50.0)
    ]
    assert shares[0] > 0.9
    assert shares[0] > shares[1] > shares[2]


# --- What a sampler adds to an iteration ---


def test_the_overhead_tool_prints_a_row_for_each_size_and_beta(monkeypatch, capsys):
    monkeypatch.setattr(sampler_overhead, "SECONDS", 0.0)
    words = ["--num-samples", "40", "5000", "--batch-size", "16", "--beta", "0", "100"]
    monkeypatch.setattr(sys, "argv", ["sampler_overhead", *words])
    sampler_overhead.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if row[0] in ("40", "5,000")]
    assert [row[:2] for row in rows] == [
        ["40", "0"],
        ["40", "100"],
        ["5,000", "0"],
        ["5,000", "100"],
    ]
    for row in rows:
        draw, weights, update, total, plain, ratio, per_image, _ = map(float, row[2:])
        assert min(draw, weights, update) > 0
        assert total > 0.9 * max(draw, weights, update)  # medians, each of its own
        assert plain > 0
        assert ratio > 1
        assert 12 <= per_image <= 14, "bytes: a float of loss, a double in the tree, sums above"


@pytest.mark.parametrize(
    "words, told", [("--num-samples 9", "--batch-size"), ("--device abacus", "--device abacus")]
)
def test_the_overhead_tool_refuses_what_cannot_be(monkeypatch, capsys, words, told):
    monkeypatch.setattr(sys, "argv", ["sampler_overhead", *words.split()])
    with pytest.raises(SystemExit) as error:
        sampler_overhead.main()
    assert error.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_what_is_no_probability_is_refused() -> None:
    """Losses and logits, and the probabilities of all classes, whose mean says nothing."""
    sampler = PSGDSampler(10, batch_size=4)
    for values in ([-0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 2.3]):
        with pytest.raises(ValueError, match="no probabilities; of losses, call update_by_losses"):
            sampler.update(range(4), torch.tensor(values))
    with pytest.raises(ValueError, match=r"values \[4, 3\] are of all classes; give each image's"):
        sampler.update(range(4), torch.randn(4, 3).softmax(1))
    assert not sampler.visits.any()
    sampler.update(range(4), torch.tensor([0.0, 1.0, 1.0001, 0.5]).half())
    losses = torch.tensor([0.1, 2.0, 0.0, 7.0])
    sampler.update_by_losses(range(4, 8), losses)
    torch.testing.assert_close(sampler.total[4:8], 1 - torch.exp(-losses))

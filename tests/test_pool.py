"""divbs and the three top-k methods: which of a scored pool they take, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from laws import assert_law
from test_methods import Scores, make_task

from budgetbench import entropy, margin
from methods import METHODS, Batch
from methods.divbs import diverse

pytestmark = pytest.mark.usefixtures("one_thread")


def make_pool(n: int, classes: int, seed: int = 0) -> Batch:
    """Images that are their own logits, with mixed targets."""
    random = np.random.default_rng(seed)
    images = torch.tensor(random.normal(size=(n, classes, 1, 1)) * 2, dtype=torch.float32)
    targets = torch.tensor(random.dirichlet(np.full(classes, 0.2), n), dtype=torch.float32)
    return Batch(images, targets, targets.argmax(1), torch.arange(n))


def probabilities(batch: Batch) -> np.ndarray:
    exponentials = np.exp(batch.images.flatten(1).double().numpy())
    return exponentials / exponentials.sum(1, keepdims=True)


# --- Top k ---

#: The hardness of an image with probabilities p and target t, as written in the papers.
HARDNESS = {
    "loss-topk": lambda p, t: -(t * np.log(p)).sum(),
    "entropy-topk": lambda p, t: -(p * np.log(p)).sum(),
    "margin-topk": lambda p, t: np.sort(p)[-2] - np.sort(p)[-1],
}


@pytest.mark.parametrize("candidates", [1, 3, 10])
@pytest.mark.parametrize("name", HARDNESS)
def test_the_hardest_candidates_are_taken(name, candidates):
    task = make_task(num_images=300, batch_size=16, num_classes=5)
    method = METHODS[name](task, topk_candidates=candidates)
    assert method.draw(0).shape == (1, 16 * candidates)
    pool, score = make_pool(16 * candidates, 5), Scores()
    chosen = method.choose(pool, score)
    assert score.images_scored == 16 * candidates
    hardness = [
        HARDNESS[name](p, t.double().numpy()) for p, t in zip(probabilities(pool), pool.targets)
    ]
    assert set(chosen.index.tolist()) == set(np.argsort(hardness)[-16:])
    assert torch.equal(chosen.images, pool.images[chosen.index])


def test_candidates_are_full_passes():
    method = METHODS["entropy-topk"](make_task(num_images=60, batch_size=2))
    drawn = torch.cat([method.draw(0)[0] for _ in range(6)])
    assert all(sorted(part.tolist()) == list(range(60)) for part in drawn.split(60))


def test_entropy_and_margin_of_known_probabilities():
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.1, 1e-30], [1 / 3, 1 / 3, 1 / 3]]).log()
    assert margin(logits).tolist() == pytest.approx([0.25, 0.8, 0.0], abs=1e-6)
    expected = [1.5 * np.log(2), 0.325083, np.log(3)]
    assert entropy(logits).tolist() == pytest.approx(expected, rel=1e-5)


# --- divbs ---


def gradients(errors: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Of the last layer, [n, C * d], formed."""
    return np.einsum("nc,nd->ncd", errors, features).reshape(len(errors), -1)


def reference(g: np.ndarray, points: list[float]) -> list[int]:
    """DivBS on gradients as vectors, drawn by inverse transform of the same uniform numbers."""
    residual, basis, rows = g.mean(0), [], []
    for point in points:
        weights = np.abs(g @ residual)
        weights[rows] = 0
        row = int(np.searchsorted(np.cumsum(weights), point * weights.sum(), side="right"))
        rows.append(row)
        direction = g[row].copy()
        for _ in range(2):  # twice, for the sake of rounding
            for other in basis:
                direction -= (direction @ other) * other
        direction /= np.linalg.norm(direction)
        basis.append(direction)
        residual = residual - (residual @ direction) * direction
    return rows


@pytest.mark.parametrize("seed", range(10))
def test_divbs_is_gram_schmidt_on_gradients(seed):
    random = np.random.default_rng(seed)
    errors, features = random.normal(size=(60, 4)), random.normal(size=(60, 7))
    rng = torch.Generator().manual_seed(seed)
    points = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = diverse(torch.tensor(errors), torch.tensor(features), 12, rng).tolist()
    assert rows == reference(gradients(errors, features), points.tolist())
    assert len(set(rows)) == 12


def test_divbs_tells_small_gradients_apart():
    """Of a trained network: most are 10,000 times as short as the longest."""
    random = np.random.default_rng(0)
    errors, features = random.normal(size=(60, 4)), random.normal(size=(60, 7))
    errors[3:] *= 1e-5
    points = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    rows = diverse(torch.tensor(errors), torch.tensor(features), 12, rng).tolist()
    assert rows == reference(gradients(errors, features), points.tolist())


def test_the_first_is_drawn_by_its_part_in_the_mean_gradient():
    random = np.random.default_rng(0)
    errors, features = random.normal(size=(8, 3)), random.normal(size=(8, 5))
    given = torch.tensor(errors), torch.tensor(features)
    rng = torch.Generator().manual_seed(1)
    drawn = np.bincount([diverse(*given, 1, rng).item() for _ in range(4000)], minlength=8)
    g = gradients(errors, features)
    weights = np.abs(g @ g.mean(0))
    kept = weights / weights.sum() * 4000 >= 5
    assert_law(drawn[kept], weights[kept])


def test_a_copy_of_a_chosen_image_is_worth_nothing():
    """Of five directions, each twenty times, five candidates have all."""
    directions = torch.eye(5, dtype=torch.float64).repeat(20, 1) * (1 + torch.arange(5.0))
    for seed in range(50):
        rows = diverse(torch.ones(100, 1), directions, 5, torch.Generator().manual_seed(seed))
        assert sorted((rows % 5).tolist()) == [0, 1, 2, 3, 4]


def test_once_nothing_is_left_the_rest_is_uniform():
    ones = torch.ones(30, 1)
    rng = torch.Generator().manual_seed(0)
    drawn = np.stack([diverse(ones, ones, 7, rng).numpy() for _ in range(3000)])
    assert all(len(set(row)) == 7 for row in drawn)
    for place in (1, 6):
        assert_law(np.bincount(drawn[:, place], minlength=30), np.ones(30))


@pytest.mark.parametrize("fill", [0.0, torch.nan])
def test_hopeless_gradients_still_make_a_batch(fill):
    rows = diverse(torch.full((20, 3), fill), torch.ones(20, 2), 8, torch.Generator())
    assert ((rows >= 0) & (rows < 20)).all()


def test_divbs_asks_for_errors_of_mixed_targets_and_features():
    task = make_task(num_images=300, batch_size=4, num_classes=5)
    method = METHODS["divbs"](task)
    pool = make_pool(40, 5)
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))

    class WithFeatures(Scores):
        def with_features(self, batch):
            return self(batch), features

    errors = probabilities(pool) - pool.targets.double().numpy()
    state = method.rng.get_state()
    points = torch.rand(4, dtype=torch.float64, generator=torch.Generator().set_state(state))
    chosen = method.choose(pool, WithFeatures())
    expected = reference(gradients(errors, features.double().numpy()), points.tolist())
    assert chosen.index.tolist() == expected

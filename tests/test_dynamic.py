"""seta, orderdp, epsilon-greedy, ucb, ies and the batch-loss score, against their formulas.

Comparisons of frequencies use fixed seeds; each fails a right implementation at FALSE_ALARM.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from laws import FALSE_ALARM, assert_inclusion
from scipy import stats
from sklearn.cluster import KMeans
from steps import make_steps
from test_methods import Scores, draws_of, make_batch, make_dataset, make_task, make_trainer

from methods import METHODS, Method, OptionError
from methods.seta import groups_by_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def learn(method: Method, losses, index=None) -> None:
    """A step that showed these losses."""
    losses = torch.as_tensor(np.asarray(losses), dtype=torch.float32)
    index = torch.arange(len(losses)) if index is None else torch.as_tensor(index)
    method.observe(make_batch(index, torch.zeros_like(index)), torch.zeros(len(index), 4), losses)


def drawn_set(method: Method, progress: float = 0.5) -> set[int]:
    drawn = method.draw(progress).reshape(-1).tolist()
    assert len(set(drawn)) == len(drawn), "an image twice"
    return set(drawn)


# --- The batch-loss score ---


@pytest.mark.parametrize("name", ["infobatch", "seta"])
@pytest.mark.parametrize("alpha", [0.7, 0.2])
def test_batch_loss_scores_are_means_over_the_batches_of_an_image(name, alpha):
    method = METHODS[name](
        make_task(num_images=12, batch_size=2), batch_loss_score=True, batch_loss_alpha=alpha
    )
    random, expected = np.random.default_rng(0), [0.0] * 12
    for _ in range(30):
        index, losses = random.permutation(12)[:5], random.exponential(size=5)
        learn(method, losses, index)
        for image in index:
            expected[image] = alpha * expected[image] + (1 - alpha) * sum(losses) / 5
    np.testing.assert_allclose(method.losses, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["infobatch", "seta"])
def test_a_weight_of_the_past_without_a_mean_is_refused(name):
    with pytest.raises(OptionError, match="has no effect without `batch_loss_score`"):
        METHODS[name](make_task(), batch_loss_alpha=0.5)


def test_infobatch_keeps_images_without_a_batch_loss():
    method = METHODS["infobatch"](make_task(20, 2), infobatch_ratio=0.9, batch_loss_score=True)
    learn(method, range(1, 11), range(10))
    assert all(set(range(10, 20)) <= drawn_set(method) for _ in range(20))
    weights = method.reweigh(make_batch(range(10, 20), [0] * 10), torch.ones(10))
    assert weights.tolist() == [1.0] * 10


def test_infobatch_goes_by_batch_losses_where_asked():
    """Image 0 has a low loss of its own, in a batch of a high one."""
    task = make_task(num_images=4, batch_size=1)
    for of_batches, dropped in ((False, {0, 2, 3}), (True, {2, 3})):
        method = METHODS["infobatch"](task, infobatch_ratio=0.9, batch_loss_score=of_batches)
        learn(method, [0.0, 9.0], [0, 1])
        learn(method, [0.1, 0.1], [2, 3])
        seen = [drawn_set(method) for _ in range(60)]
        assert set(range(4)) - set.intersection(*seen) == dropped


# --- seta ---


def test_groups_are_those_of_k_means():
    """Each loss is in the group of the nearest centre, a centre is the mean of its group."""
    losses = np.random.default_rng(0).gamma(0.5, size=2000)
    rng = torch.Generator().manual_seed(0)
    groups = groups_by_loss(torch.tensor(losses, dtype=torch.float32), 10, rng).numpy()
    assert set(groups) == set(range(10))
    centres = np.array([losses[groups == g].mean() for g in range(10)])
    assert (np.diff(centres) > 0).all()
    nearest = np.abs(losses[:, None] - centres).argmin(1)
    assert (nearest != groups).mean() < 0.002, "only where it has not quite settled"
    best = KMeans(10, n_init=5, random_state=0).fit(losses[:, None]).inertia_
    assert ((losses - centres[groups]) ** 2).sum() < 1.1 * best


def test_groups_of_clear_clusters():
    random = np.random.default_rng(1)
    labels = random.permutation(np.repeat([0, 1, 2, 3], [5, 400, 3, 50]))
    losses = labels * 10 + random.normal(size=len(labels)) * 0.1
    groups = groups_by_loss(torch.tensor(losses), 4, torch.Generator().manual_seed(0))
    assert groups.tolist() == labels.tolist()


@pytest.mark.parametrize("losses, count", [([3.0] * 10, 5), ([1.0] * 4 + [2.0] * 6, 5)])
def test_groups_of_few_different_losses_are_equal_parts(losses, count):
    groups = groups_by_loss(torch.tensor(losses), count, torch.Generator())
    assert groups.tolist() == [i // 2 for i in range(10)]


def test_a_window_of_groups_slides_from_easy_to_hard():
    """Four groups of 25 images with clear losses, of which each pass has two."""
    task = make_task(num_images=100, batch_size=1)
    method = METHODS["seta"](task, seta_groups=4, seta_window=0.5, seta_ratio=0)
    level = np.random.default_rng(0).permutation(np.repeat(range(4), 25))
    learn(method, level * 5 + np.random.default_rng(1).random(100))
    assert drawn_set(method, 0) == set(range(100)), "the first pass is of all groups"
    for number in range(1, 8):
        first = number % 3
        expected = set(np.flatnonzero((level >= first) & (level < first + 2)))
        assert drawn_set(method) == expected
    assert method.summary()["realised_fraction"] == pytest.approx((100 + 7 * 50) / 800)
    assert len(drawn_set(method, 0.874)) == 50
    assert drawn_set(method, 0.875) == set(range(100)), "the last passes are of all groups"


def test_seta_leaves_a_share_out_at_random():
    task = make_task(num_images=40, batch_size=2)
    method = METHODS["seta"](task, seta_ratio=0.3)
    learn(method, np.arange(40.0))
    drawn = draws_of(method, 4000, progress=0.9)
    assert drawn.shape == (4000, 28)
    assert_inclusion(drawn, np.full(40, 0.7))


def test_default_groups_are_half_of_a_pass_on_even_losses():
    method = METHODS["seta"](make_task(num_images=1000, batch_size=1))
    learn(method, np.linspace(0, 1, 1000))
    sizes = [len(drawn_set(method)) for _ in range(7)]
    assert sizes[0] == 900
    assert all(390 < size < 510 for size in sizes[1:])


def test_a_window_of_less_than_a_batch_is_widened():
    task = make_task(num_images=100, batch_size=10)
    method = METHODS["seta"](task, seta_groups=4, seta_window=0.25, seta_ratio=0)
    learn(method, [0.0] * 96 + [50.0, 90.0, 130.0, 170.0])
    sizes = [len(drawn_set(method)) for _ in range(5)]
    assert sizes == [100, 100, 100, 100, 90]  # groups: all, 1, 1, 1, 96 images


# --- orderdp ---


@pytest.mark.parametrize("budget, pool", [(0.4, None), (0.25, 0.5), (0.5, 1.0)])
def test_orderdp_takes_the_largest_losses_of_a_uniform_pool(budget, pool):
    """Of rank r: to be in the pool, with fewer larger ones than are taken (hypergeometric)."""
    task = make_task(num_images=40, batch_size=2, budget=budget)
    method = METHODS["orderdp"](task, orderdp_pool=pool)
    size, taken = int((pool or 0.6) * 40), int(budget * 40)
    losses = np.random.default_rng(0).permutation(40).astype(float)
    learn(method, losses)
    drawn = draws_of(method, 4000)
    assert drawn.shape == (4000, taken)
    larger = 39 - losses
    expected = size / 40 * stats.hypergeom(39, larger.astype(int), size - 1).cdf(taken - 1)
    assert_inclusion(drawn, expected)
    assert_inclusion(drawn[:, :2], expected * 2 / taken)  # the order is random


def test_orderdp_takes_images_for_hard_before_their_first_visit():
    task = make_task(num_images=40, batch_size=1, budget=0.25)
    method = METHODS["orderdp"](task, orderdp_pool=1.0)
    learn(method, [2.9] * 28 + [3.1] * 4, range(32))
    drawn = draws_of(method, 2000)
    assert_inclusion(drawn, np.repeat([0, 1, 6 / 8], [28, 4, 8]))


def test_a_pool_smaller_than_the_budget_is_refused():
    with pytest.raises(OptionError, match="orderdp_pool: smaller than `budget`; give"):
        METHODS["orderdp"](make_task(), orderdp_pool=0.4)


# --- epsilon-greedy and ucb ---


def test_values_are_running_means_of_losses():
    method = METHODS["epsilon-greedy"](make_task(num_images=9, batch_size=3), bandit_alpha=0.3)
    random, expected = np.random.default_rng(0), {}
    for _ in range(20):
        index, losses = random.permutation(8)[:3], random.exponential(size=3)
        learn(method, losses, index)
        for image, loss in zip(index.tolist(), losses):
            expected[image] = 0.7 * expected[image] + 0.3 * loss if image in expected else loss
    assert len(expected) == 8
    np.testing.assert_allclose(method.values[:8], [expected[i] for i in range(8)], rtol=1e-5)
    assert method.values[8] == math.inf


def test_epsilon_greedy_takes_the_best_and_some_others():
    task = make_task(num_images=50, batch_size=2, budget=0.4)  # 20 images, of which 4 at random
    method = METHODS["epsilon-greedy"](task, bandit_epsilon=0.2)
    losses = np.random.default_rng(0).permutation(50)
    learn(method, losses)
    drawn = draws_of(method, 4000)
    expected = np.where(losses >= 34, 1, 4 / 34)
    assert_inclusion(drawn, expected)
    assert_inclusion(drawn[:, :2], expected / 10)  # the order is random


@pytest.mark.parametrize("name", ["epsilon-greedy", "ucb"])
def test_images_without_a_visit_come_first(name):
    task = make_task(num_images=40, batch_size=1, budget=0.25)
    options = dict(bandit_epsilon=0) if name == "epsilon-greedy" else {}
    method = METHODS[name](task, **options)
    assert_inclusion(draws_of(method, 2000), np.full(40, 0.25))
    learn(method, [100.0] * 36, range(36))
    assert_inclusion(draws_of(method, 2000), np.repeat([6 / 36, 1], [36, 4]))


def test_a_bandit_sees_all_images_in_the_fewest_epochs():
    task = make_task(num_images=64, batch_size=8, budget=0.25, epochs=4)
    trainer = make_trainer(METHODS["ucb"](task), make_dataset())
    make_steps(trainer)
    assert trainer.sample_counts.tolist() == [1] * 64


def test_ucb_ranks_by_its_bound():
    method = METHODS["ucb"](make_task(num_images=8, batch_size=1, budget=0.5), ucb_c=1.5)
    random = np.random.default_rng(2)
    visits, values = np.zeros(8), np.zeros(8)
    for image in [*range(8), *random.integers(0, 8, 40)]:
        loss = random.exponential()
        learn(method, [loss], [image])
        values[image] = 0.9 * values[image] + 0.1 * loss if visits[image] else loss
        visits[image] += 1
    bounds = [v + 1.5 * math.sqrt(math.log(48) / n) for v, n in zip(values, visits)]
    assert drawn_set(method) == set(np.argsort(bounds)[-4:])
    assert set(np.argsort(bounds)[-4:]) != set(np.argsort(values)[-4:]), "visits do not matter here"


# --- ies ---


def bend(losses: list[float]) -> float:
    """Mean of the last three second differences, without a look at the code."""
    a, b, c, d, e = losses[-5:]
    return (abs(c - 2 * b + a) + abs(d - 2 * c + b) + abs(e - 2 * d + c)) / 3


def test_ies_leaves_out_what_moves_in_a_straight_line():
    task = make_task(num_images=30, batch_size=1)
    method = METHODS["ies"](task, ies_threshold=0.1)
    random, histories = np.random.default_rng(0), [[] for _ in range(30)]
    for step in range(9):
        for image in range(30):
            straight = 3 - 0.2 * step
            histories[image].append(straight + random.normal() * 0.01 * (image + 1))
        learn(method, [history[-1] for history in histories])
        block = method.draw(0.5)
        trained, scored = block[: method.to_train], block[method.to_train :]
        settled = {i for i in range(30) if len(histories[i]) >= 5 and bend(histories[i]) < 0.1}
        assert set(scored.reshape(-1).tolist()) == settled
        assert sorted(block.reshape(-1).tolist()) == list(range(30))
        assert set(trained.reshape(-1).tolist()) == set(range(30)) - settled
    assert 3 < len(settled) < 27


def test_a_steep_but_straight_loss_is_settled_and_a_jump_is_not():
    method = METHODS["ies"](make_task(num_images=3, batch_size=1))
    for losses in ([5, 1, 0], [4, 1, 0], [3, 1, 0], [2, 1, 0], [1, 1, 0.01]):
        learn(method, losses)
    block = method.draw(0.5)
    assert set(block[: method.to_train].reshape(-1).tolist()) == {2}


def test_images_left_out_are_scored_and_can_come_back():
    task = make_task(num_images=16, batch_size=4)
    method = METHODS["ies"](task)
    for _ in range(5):
        learn(method, [0.0] * 8 + [1.0] * 8)
    learn(method, np.arange(8.0) ** 2, range(8))  # eight go on moving
    block, score = method.draw(0.5), Scores()
    assert method.to_train == 2
    for index in block:
        hard = torch.zeros(4, 4, 1, 1)
        hard[:, 1] = 4.0  # logits that are wrong for class 0
        batch = method.choose(make_batch(index, torch.zeros(4, dtype=torch.int64), hard), score)
        if batch is not None:
            learn(method, np.zeros(4), batch.index)
    assert score.images_scored == 8
    expected = math.log(3 + math.exp(4))
    np.testing.assert_allclose(method.history[8:, -1], expected, rtol=1e-5)
    method.draw(0.5)
    assert method.to_train == 4, "their loss has jumped, so none is left out"


def test_ies_leaves_out_whole_batches_and_never_nearly_all():
    task = make_task(num_images=22, batch_size=4)
    method = METHODS["ies"](task)
    for step in range(5):
        learn(method, [0.0] * 11 + [float(step % 2)] * 11)
    block = method.draw(0.5)
    assert (method.to_train, len(block)) == (3, 5)  # 8 left out, 14 kept, of which 12 in batches
    for _ in range(5):
        learn(method, [0.0] * 22)
    block = method.draw(0.5)
    assert method.to_train == len(block) == 5


@pytest.mark.parametrize("classes, threshold", [(10, 1e-3), (99, 1e-3), (100, 2e-3), (200, 2e-3)])
def test_default_threshold(classes, threshold):
    assert METHODS["ies"](replace(make_task(), num_classes=classes)).threshold == threshold


def test_ies_saves_steps_and_says_how_many():
    """In the loop, of a model that learns some images by heart, in equal steps and in compute."""
    task = make_task(num_images=64, batch_size=8, budget=1.0, epochs=30)
    for of_compute in (False, True):
        method = METHODS["ies"](task, ies_threshold=2.0)
        trainer = make_trainer(method, make_dataset(), of_compute=of_compute)
        make_steps(trainer)
        assert 0 < method.summary()["realised_fraction"] < 1
        assert trainer.images_scored > 0
        assert trainer.images_scored % 8 == 0
        assert (trainer.step == 240) == (not of_compute)
        if of_compute:
            assert 0 <= trainer.spent - 240 * 24 < 24


# --- What is kept of hard images ---


@pytest.mark.parametrize("name", ["orderdp", "epsilon-greedy", "ucb"])
def test_hard_images_are_drawn_more_often(name):
    task = make_task(num_images=100, batch_size=5, budget=0.3)
    method = METHODS[name](task)
    learn(method, np.repeat([0.1, 4.0], 50))
    drawn = draws_of(method, 50)
    share = (drawn >= 50).mean()
    assert share > 0.5 + stats.norm.isf(FALSE_ALARM) * 0.5 / math.sqrt(drawn.size)

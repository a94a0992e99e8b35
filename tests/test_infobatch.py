"""InfoBatch: what a pass keeps, what it weighs, and that on the whole nothing is lost by it."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from laws import FALSE_ALARM
from scipy import stats
from steps import make_steps
from test_methods import make_batch, make_dataset, make_task, make_trainer, saved_and_loaded
from torch import nn

from methods import METHODS, Batch
from methods.infobatch import InfoBatch

pytestmark = pytest.mark.usefixtures("one_thread")


def learn(method: InfoBatch, losses, index=None) -> None:
    """Steps that showed these losses."""
    losses = torch.as_tensor(losses, dtype=torch.float32)
    index = torch.arange(len(losses)) if index is None else torch.as_tensor(index)
    method.observe(make_batch(index, torch.zeros_like(index)), torch.zeros(len(index), 4), losses)


def weights_of(method: InfoBatch, index) -> list[float]:
    index = torch.as_tensor(index)
    return method.reweigh(
        make_batch(index, torch.zeros_like(index)), torch.ones(len(index))
    ).tolist()


# --- What a pass keeps ---


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_easy_images_are_dropped_by_independent_coins(ratio):
    """All others are kept; the order is a fresh one; no image comes twice."""
    method = METHODS["infobatch"](make_task(num_images=40, batch_size=1), infobatch_ratio=ratio)
    losses = np.random.default_rng(0).exponential(size=40)
    learn(method, losses)
    easy = np.flatnonzero(losses < losses.mean())
    assert 15 < len(easy) < 35
    passes = [method.draw(0).reshape(-1).numpy() for _ in range(1000)]
    assert len({tuple(drawn) for drawn in passes}) == 1000
    times = np.zeros(40)
    for drawn in passes:
        assert len(set(drawn)) == len(drawn)
        times[drawn] += 1
    hard = np.setdiff1d(np.arange(40), easy)
    assert (times[hard] == 1000).all()
    low, high = stats.binom.interval(1 - FALSE_ALARM / len(easy), 1000, 1 - ratio)
    assert ((low <= times[easy]) & (times[easy] <= high)).all()
    numbers = np.array([len(drawn) - len(hard) for drawn in passes])
    assert numbers.var() == pytest.approx(len(easy) * ratio * (1 - ratio), rel=0.25, abs=1e-9)


def test_weights_are_one_over_the_chance_to_be_kept():
    method = METHODS["infobatch"](make_task(num_images=6, batch_size=2), infobatch_ratio=0.2)
    learn(method, [0.0, 1.0, 2.0, 3.0, 4.0, 20.0])  # their mean is 5
    method.draw(0)
    assert weights_of(method, [5, 0, 4]) == pytest.approx([1, 1.25, 1.25])
    method.draw(0.875)
    assert weights_of(method, [5, 0, 4]) == [1, 1, 1]


@pytest.mark.parametrize("ratio", [0.9, 0.95, 0.999])
def test_a_tenth_of_the_easy_images_is_kept_at_least(ratio):
    """As published: no loss weighs more than ten times another."""
    method = METHODS["infobatch"](make_task(num_images=400, batch_size=1), infobatch_ratio=ratio)
    learn(method, [0.0] * 300 + [9.0] * 100)
    kept = [(method.draw(0) < 300).sum().item() for _ in range(200)]
    low, high = stats.binom.interval(1 - FALSE_ALARM, 200 * 300, 0.1)
    assert low <= sum(kept) <= high
    assert weights_of(method, [0, 399]) == pytest.approx([10, 1])


def test_expected_gradient_of_a_pass_is_that_of_all_images(monkeypatch):
    """Summed over all droppings of the easy images, each with its probability."""
    n, ratio = 7, 0.3
    method = METHODS["infobatch"](make_task(num_images=n, batch_size=1), infobatch_ratio=ratio)
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double()
    images, labels = torch.randn(n, 3, dtype=torch.float64), torch.arange(n) % 4
    losses = nn.functional.cross_entropy(model(images), labels, reduction="none")
    gradients = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, model.parameters(), retain_graph=True)]
        )
        for loss in losses
    ]
    stale = [0.1, 3.0, 0.2, 0.3, 5.0, 0.4, 0.5]
    learn(method, stale)
    easy = [i for i in range(n) if stale[i] < np.mean(stale)]
    monkeypatch.setattr(method, "permutation", torch.arange)
    expected, total = torch.zeros(16, dtype=torch.float64), 0.0
    for dropped in itertools.product([False, True], repeat=len(easy)):
        coins = torch.full((n,), 0.0)  # hard images are kept, however their coins fall
        coins[easy] = torch.where(torch.tensor(dropped), ratio - 1e-3, ratio)
        monkeypatch.setattr(torch, "rand", lambda *size, coins=coins, **options: coins)
        kept = method.draw(0).reshape(-1).tolist()
        assert set(kept) == set(range(n)) - {i for i, gone in zip(easy, dropped) if gone}
        chance = math.prod(ratio if gone else 1 - ratio for gone in dropped)
        for i, weight in zip(kept, weights_of(method, kept)):
            expected += chance * weight * gradients[i]
        total += chance
    assert total == pytest.approx(1)
    torch.testing.assert_close(expected, sum(gradients), rtol=1e-6, atol=1e-7)


def test_the_first_pass_is_a_full_one():
    method = METHODS["infobatch"](make_task(), infobatch_ratio=0.9)
    drawn = method.draw(0)
    assert (drawn.reshape(-1).sort().values == torch.arange(64)).all()
    assert weights_of(method, drawn[0]) == [1] * 8


def test_an_image_without_a_loss_is_kept_and_no_part_of_the_mean():
    method = METHODS["infobatch"](make_task(), infobatch_ratio=0.99)
    learn(method, [1.0] * 10 + [2.0] * 10)  # those of images 20 to 63 are not known
    drawn = {index for _ in range(20) for index in method.draw(0).reshape(-1).tolist()}
    assert drawn >= set(range(10, 64))
    assert weights_of(method, [0, 10, 63]) == pytest.approx([10, 1, 1])


@pytest.mark.parametrize(
    "progress, full", [(0.5, False), (0.874, False), (0.875, True), (0.99, True)]
)
def test_passes_that_begin_late_are_full(progress, full):
    method = METHODS["infobatch"](make_task(num_images=400))
    learn(method, [0.0] * 399 + [1.0])
    assert (method.draw(progress).numel() == 400) == full
    assert weights_of(method, [0, 399]) == ([1, 1] if full else [2, 1])


def test_a_pass_of_less_than_a_batch_is_a_full_one():
    method = METHODS["infobatch"](make_task(num_images=16), infobatch_ratio=0.999)
    learn(method, [0.0] * 15 + [1.0])
    assert method.draw(0).shape == (2, 8)
    assert weights_of(method, [0, 15]) == [1, 1]


# --- In the loop ---


@pytest.mark.parametrize("augmentation", ["standard", "mixup", "ricap"])
def test_a_pass_goes_by_the_losses_at_its_start(augmentation):
    """Weights are those of the draw, whatever steps since then have shown of other images."""
    task = make_task(num_images=100, batch_size=10, budget=1.0, epochs=12)
    method = METHODS["infobatch"](task)
    trainer = make_trainer(method, make_dataset(num_images=100), augmentation)
    known = torch.full((100,), math.nan)  # the last loss of each image, on our own account
    above, passes = torch.ones(100), 0

    def look(batch: Batch) -> None:
        assert len(batch.index.unique()) == 10
        losses = batch.losses(trainer.model(batch.images)).detach()
        assert torch.equal(method.reweigh(batch, losses), above[batch.index])

    while not trainer.finished:
        if trainer.loader.exhausted:
            late = trainer.step / 120 >= 0.875
            above = torch.ones(100) if late else 1 + (known < known.nanmean()).float()
            passes += 1
        ((batch, losses),) = make_steps(trainer, 1, look=look)
        known[batch.index] = losses
    assert passes > 12, "some images were left out"
    torch.testing.assert_close(method.losses, known)


def test_the_share_kept_is_told_and_saved():
    method = METHODS["infobatch"](make_task())
    assert method.summary() == {}
    kept = method.draw(0).numel()
    learn(method, [0.0] * 60 + [1.0] * 4)
    method.in_batches = lambda index: index[None]  # with the ragged end, to count them
    for progress in (0.1, 0.5, 0.9):
        kept += method.draw(progress).numel()
    assert 128 < kept < 4 * 64
    assert method.summary() == {"realised_fraction": kept / (4 * 64)}
    fresh = METHODS["infobatch"](make_task())
    fresh.load_state_dict(saved_and_loaded(method.state_dict()))
    assert fresh.summary() == method.summary()


@pytest.mark.slow
def test_a_run_on_digits(train_here, tmp_path):
    """It learns, makes more passes than plain SGD, and config.json has the share kept."""
    words = ("--method", "infobatch", "--epochs", 10, "--device", "cpu")
    assert train_here(*words).returncode == 0
    folder = tmp_path / "results" / "digits_infobatch_standard_b1_s1"
    curve = pd.read_csv(folder / "curve.csv")
    assert curve["step"].iloc[-1] == 110
    assert curve["test_accuracy"].iloc[-1] > 80
    assert curve["images_scored"].iloc[-1] == 0
    summary = json.loads((folder / "config.json").read_text())["method_summary"]
    assert 0.5 < summary["realised_fraction"] < 0.9


@pytest.mark.parametrize(
    "words", [("--infobatch-ratio", 1), ("--infobatch-ratio", -0.1), ("--infobatch-delta", 1.1)]
)
def test_options_out_of_bounds_are_refused(words, train_here):
    outcome = train_here("--method", "infobatch", *words)
    assert outcome.returncode == 2
    assert words[0] in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1

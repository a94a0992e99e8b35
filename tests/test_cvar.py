"""CVaR: the weights against the linear program that defines them, and what training makes of it."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linprog
from test_methods import make_batch, make_dataset, make_task, make_trainer

from budgetbench import cvar_weights
from methods import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")


def worst_mean(losses: np.ndarray, alpha: float) -> float:
    """The greatest sum of q * loss over distributions q that are nowhere above 1 / (alpha * b)."""
    bound = (0, 1 / (alpha * len(losses)))
    solution = linprog(-losses, A_eq=np.ones((1, len(losses))), b_eq=[1], bounds=bound)
    assert solution.success
    return -solution.fun


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_the_weighted_mean_is_the_worst_one_allowed(size, alpha):
    losses = np.random.default_rng(size).exponential(size=size)
    losses[size // 2 :] = losses[size // 2 :].round(0)  # some are equal
    weights = cvar_weights(torch.tensor(losses), alpha).double().numpy()
    assert weights.sum() == pytest.approx(size, rel=1e-5)
    assert weights.min() >= 0
    assert weights.max() <= 1 / alpha * (1 + 1e-6)
    assert (weights * losses).mean() == pytest.approx(worst_mean(losses, alpha), rel=1e-5)


@pytest.mark.parametrize(
    "alpha, expected",
    [
        (0.4, [0, 2.5, 0, 2.5, 0]),
        (0.5, [1, 2, 0, 2, 0]),  # half of 5 images are two and a half
        (0.1, [0, 5, 0, 0, 0]),  # less than one image is one image
        (1.0, [1, 1, 1, 1, 1]),
    ],
)
def test_weights_of_an_example(alpha, expected):
    weights = cvar_weights(torch.tensor([3.0, 9.0, 0.5, 4.0, 2.0]), alpha)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_of_equal_losses_the_first_count():
    assert cvar_weights(torch.ones(6), 0.5).tolist() == [2, 2, 2, 0, 0, 0]


def test_losses_per_voxel_are_averaged():
    losses = torch.arange(24.0).view(4, 2, 3)
    assert torch.equal(cvar_weights(losses, 0.3), cvar_weights(losses.mean((1, 2)), 0.3))


@pytest.mark.parametrize("alpha", [0.0, -0.5, 1.1, float("nan")])
def test_what_is_no_share_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        cvar_weights(torch.ones(3), alpha)


def test_a_single_number_is_refused():
    with pytest.raises(ValueError, match="reduction='none'"):
        cvar_weights(torch.tensor(1.0), 0.5)


def test_a_step_follows_the_gradient_of_its_own_batch():
    """Which is the mean gradient of the worst 2.4 of 8 images, without momentum at first."""
    method = METHODS["cvar"](make_task(), cvar_alpha=0.3)
    trainer = make_trainer(method, make_dataset(), rate=lambda step: 0.1)
    trainer.start()
    batch, before = trainer.next_batch(), [p.detach().clone() for p in trainer.model.parameters()]
    losses = batch.losses(trainer.model(batch.images))
    worst = losses.sort(descending=True).values
    value = (worst[0] + worst[1] + 0.4 * worst[2]) / 2.4
    gradients = torch.autograd.grad(value, list(trainer.model.parameters()))
    trainer.make_step(batch)
    for after, old, gradient in zip(trainer.model.parameters(), before, gradients):
        torch.testing.assert_close(after, old - 0.1 * (gradient + 1e-4 * old))


def test_batches_are_those_of_sgd():
    sgd, cvar = METHODS["SGD"](make_task()), METHODS["cvar"](make_task())
    for method in (sgd, cvar):
        method.drawn = [method.draw(progress) for progress in (0, 0.5)]
    assert all(map(torch.equal, sgd.drawn, cvar.drawn))
    batch = make_batch([0, 1], [2, 3])
    assert cvar.choose(batch, score=None) is batch


@pytest.mark.slow
def test_a_run_on_digits(train_here, tmp_path):
    """It learns; with all of each batch it is SGD to the last digit, with half of it not."""
    runs = {
        "SGD": ("--method", "SGD"),
        "all": ("--method", "cvar", "--cvar-alpha", 1),
        "half": ("--method", "cvar"),
    }
    curves = {}
    for name, words in runs.items():
        words += ("--epochs", 10, "--budget", 0.5, "--device", "cpu", "--experiment-name", name)
        outcome = train_here(*words)
        assert outcome.returncode == 0, outcome.stderr
        curves[name] = pd.read_csv(tmp_path / "results" / name / "curve.csv")
        assert curves[name]["test_accuracy"].iloc[-1] > 80
        assert curves[name]["images_scored"].tolist() == [0] * 10
    assert curves["all"]["train_loss"].tolist() == curves["SGD"]["train_loss"].tolist()
    assert curves["half"]["train_loss"].tolist() != curves["SGD"]["train_loss"].tolist()


@pytest.mark.parametrize("value", ["0", "1.01", "half"])
def test_an_alpha_out_of_bounds_is_refused(value, train_here):
    outcome = train_here("--method", "cvar", "--cvar-alpha", value)
    assert outcome.returncode == 2
    assert "--cvar-alpha" in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1

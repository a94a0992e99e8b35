"""Importance sampling by gradient norms: norms, draws, weights, tau, and when it is on."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from laws import assert_law
from steps import make_steps
from test_methods import Scores, candidates, make_batch, make_dataset, make_task, make_trainer
from torch import nn

from methods import METHODS, Batch
from methods.grad_norm import BLOCK, GradNorm, gradient_norms

pytestmark = pytest.mark.usefixtures("one_thread")


def switched_on(batch_size=8, **options) -> GradNorm:
    method = METHODS["grad-norm"](make_task(batch_size=batch_size), **options)
    method.tau.fill_(1e3)
    return method


def candidates_of(logits: torch.Tensor) -> Batch:
    """Images of class 0 that are their own logits [n, 4]."""
    labels = torch.zeros(len(logits), dtype=torch.int64)
    return make_batch(torch.arange(len(logits)), labels, logits[:, :, None, None])


# --- Norms and draws ---


def test_norms_are_those_of_the_gradients_in_the_logits():
    """Of soft labels too; by automatic differentiation of the batch's own losses."""
    batch = candidates(np.random.default_rng(0), 9, start=0)
    logits = batch.images.flatten(1).requires_grad_()
    (gradients,) = torch.autograd.grad(batch.losses(logits).sum(), logits)
    norms = gradient_norms(logits.detach(), batch.targets)
    assert (norms > 0).all()
    torch.testing.assert_close(norms, gradients.norm(dim=1).clamp(min=1e-30))


def test_draws_are_in_proportion_to_the_norms():
    method = METHODS["grad-norm"](make_task(batch_size=8))
    norms = torch.tensor([0.5, 0.0, 1.0, 0.02, 2.0, 0.0])
    rows = torch.cat([method.draw_by(norms) for _ in range(3000)])
    counts = np.bincount(rows, minlength=6)
    assert counts[1] == counts[5] == 0
    assert_law(counts[[0, 2, 3, 4]], norms[[0, 2, 3, 4]].numpy())


def test_draws_are_independent():
    """With replacement: a pair has the product of its probabilities, the same row twice too."""
    method = METHODS["grad-norm"](make_task(batch_size=2))
    norms = torch.tensor([1.0, 2.0, 3.0])
    pairs = torch.stack([method.draw_by(norms) for _ in range(4000)])
    counts = np.bincount(3 * pairs[:, 0] + pairs[:, 1], minlength=9)
    assert_law(counts, torch.outer(norms, norms).flatten().double().numpy())


def test_expected_gradient_is_the_mean_over_the_candidates(monkeypatch):
    """Summed over all 5^3 draws of a batch, each with its probability, of a linear model."""
    method = switched_on(batch_size=3)
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    given = Batch(
        torch.randn(5, 6),
        torch.rand(5, 4).softmax(1),
        torch.zeros(5, dtype=torch.int64),
        torch.arange(5),
    )

    def gradient(batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        loss = (weights * batch.losses(model(batch.images))).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])

    logits = model(given.images).detach()
    norms = (logits.softmax(1) - given.targets).norm(dim=1)
    probabilities = (norms / norms.sum()).tolist()
    assert max(probabilities) > 1.3 * min(probabilities), "too even to test anything"
    expected, total = torch.zeros(28, dtype=torch.float64), 0.0
    for rows in itertools.product(range(5), repeat=3):
        monkeypatch.setattr(method, "draw_by", lambda norms, rows=rows: torch.tensor(rows))
        batch = method.choose(given, lambda batch: logits)
        weights = method.reweigh(batch, batch.losses(logits[list(rows)]))
        chance = math.prod(probabilities[row] for row in rows)
        expected += chance * gradient(batch, weights).double()
        total += chance
    assert total == pytest.approx(1)
    plain = gradient(given, torch.ones(5)).double()
    torch.testing.assert_close(expected, plain, rtol=1e-5, atol=1e-6)


def test_weights_go_with_the_rows_drawn():
    """1 / (n * p), and so more for candidates of small norms; the rows are not all unlike."""
    method, score = switched_on(), Scores()
    given = candidates(np.random.default_rng(0), 24, start=0)
    chosen = method.choose(given, score)
    assert score.images_scored == 24
    norms = gradient_norms(given.images.flatten(1), given.targets)
    p = norms / norms.sum()
    assert len(chosen) == 8
    for name, column in vars(given).items():
        assert torch.equal(getattr(chosen, name), column[chosen.index])
    torch.testing.assert_close(method.reweigh(chosen, None), 1 / (24 * p[chosen.index]))


def test_candidates_learnt_to_perfection_are_drawn_alike():
    """Their norms are zero in 32 bits."""
    method = switched_on()
    logits = torch.tensor([[200.0, 0, 0, 0]]).repeat(24, 1)
    chosen = method.choose(candidates_of(logits), Scores())
    assert method.weights.tolist() == [1] * 8
    assert len(chosen.index.unique()) > 3
    assert method.tau.isfinite()


# --- Tau ---


def paper_tau(norms: np.ndarray) -> float:
    """Eq. 26, as written."""
    g, u = norms / norms.sum(), np.full(len(norms), 1 / len(norms))
    return (1 - ((g - u) ** 2).sum() / (g**2).sum()) ** -0.5


def test_tau_is_the_papers_in_its_moving_average():
    method, expected = METHODS["grad-norm"](make_task()), 0.0
    for seed in range(5):
        norms = np.random.default_rng(seed).exponential(size=24) ** 2
        method.follow(torch.tensor(norms, dtype=torch.float32))
        expected = 0.9 * expected + 0.1 * paper_tau(norms)
        assert method.tau.item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0.5


@pytest.mark.parametrize(
    "options, threshold",
    [(dict(), 2), (dict(gradnorm_candidates=6), 3), (dict(gradnorm_tau=1.5), 1.5)],
)
def test_the_threshold_is_where_scoring_pays(options, threshold):
    """(n + 3B) / 3B; above it, not at it, candidates are drawn for the next ten steps."""
    method = METHODS["grad-norm"](make_task(), **options)
    size = 8 * options.get("gradnorm_candidates", 3)
    for tau, expected in [(0, 8), (threshold, 8), (threshold + 1e-3, size), (math.nan, 8)]:
        method.tau.fill_(tau)
        assert method.draw(0).shape == (BLOCK, expected)
    assert BLOCK == 10


def test_while_off_steps_are_those_of_full_passes():
    """Nothing scored or weighed; tau follows the training pass."""
    method, score = METHODS["grad-norm"](make_task(num_images=20, batch_size=2)), Scores()
    block = method.draw(0)
    assert (block.reshape(-1).sort().values == torch.arange(20)).all()
    batch = candidates(np.random.default_rng(0), 2, start=0)
    assert method.choose(batch, score) is batch
    assert method.reweigh(batch, torch.ones(2)) is None
    logits = batch.images.flatten(1)
    method.observe(batch, logits, batch.losses(logits))
    expected = 0.1 * paper_tau(gradient_norms(logits, batch.targets).double().numpy())
    assert method.tau.item() == pytest.approx(expected, rel=1e-5)
    assert score.images_scored == 0


def test_while_on_tau_follows_the_candidates_alone():
    method = switched_on()
    given = candidates(np.random.default_rng(0), 24, start=0)
    chosen = method.choose(given, Scores())
    norms = gradient_norms(given.images.flatten(1), given.targets).double().numpy()
    expected = 0.9 * 1e3 + 0.1 * paper_tau(norms)
    assert method.tau.item() == pytest.approx(expected, rel=1e-6)
    method.observe(chosen, torch.randn(8, 2), torch.ones(8))
    assert method.tau.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("augmentation", ["mixup", "ricap"])
def test_it_goes_on_and_off_in_the_loop(augmentation):
    """Ten steps at a time; scored images are counted; the batch keeps its mixed targets."""
    task = make_task(num_images=100, batch_size=10, budget=1.0, epochs=6)
    method = METHODS["grad-norm"](task, gradnorm_candidates=2)
    trainer = make_trainer(method, make_dataset(num_images=100), augmentation)
    scored, taus = [], {10: 1e9, 20: 1e9, 30: 0.0, 50: 1e9}

    def look(batch: Batch) -> None:
        scored.append(trainer.images_scored - before)
        assert len(batch) == 10
        assert (method.weights is None) == (scored[-1] == 0)
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(10))

    while not trainer.finished:
        if trainer.step in taus:
            method.tau.fill_(taus[trainer.step])
        before = trainer.images_scored
        make_steps(trainer, 1, look=look)
    assert scored == [0] * 10 + [20] * 20 + [0] * 20 + [20] * 10
    assert trainer.sample_counts.sum() == 600


# --- The command line ---


@pytest.mark.slow
def test_runs_on_digits(train_here, tmp_path):
    """It learns; what is scored is paid for where the budget is one of compute."""
    words = ("--method", "grad-norm", "--epochs", 20, "--budget", 0.5, "--device", "cpu")
    words += ("--gradnorm-tau", 0)
    for more in ([], ["--compute-budget"]):
        outcome = train_here(*words, *more)
        assert outcome.returncode == 0, outcome.stderr
    folder = tmp_path / "results"
    steps = pd.read_csv(folder / "digits_grad-norm_standard_b0.5_s1" / "curve.csv").iloc[-1]
    compute = pd.read_csv(folder / "digits_grad-norm_standard_compute_b0.5_s1" / "curve.csv")
    assert steps["step"] == 100
    assert steps["images_scored"] == 90 * 3 * 128, "all but the first ten steps"
    assert steps["test_accuracy"] > 80
    # Ten steps cost 3 for each of their images, the others 6.
    assert compute["step"].iloc[-1] == 10 + 90 * 3 / 6


@pytest.mark.parametrize(
    "words",
    [("--gradnorm-candidates", 1), ("--gradnorm-candidates", 2.5), ("--gradnorm-tau", -1)],
)
def test_options_out_of_bounds_are_refused(words, train_here):
    outcome = train_here("--method", "grad-norm", *words)
    assert outcome.returncode == 2
    assert words[0] in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1

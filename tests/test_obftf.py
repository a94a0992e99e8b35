"""One backward from ten forward: the subset against lists and all subsets; passes in pieces."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_methods import Scores, candidates, make_dataset, make_task, make_trainer, saved_and_loaded

from budgetbench import nearest_mean_subset
from methods import METHODS, Batch
from methods.passes import Passes

pytestmark = pytest.mark.usefixtures("one_thread")


# --- The subset ---


def gap(chosen, losses) -> float:
    """How far the mean of the chosen is from that of all."""
    return abs(math.fsum(chosen) / len(chosen) - math.fsum(losses) / len(losses))


def spaced(losses: list[float], k: int) -> list[float]:
    """The losses in the middles of k equal parts of the sorted ones."""
    return [sorted(losses)[int((i + 0.5) * len(losses) / k)] for i in range(k)]


def reference_gap(losses: list[float], k: int) -> float:
    """Of evenly spaced losses, or those that one exchange makes of them: the least gap."""
    kept = spaced(losses, k)
    others = sorted(losses)
    for loss in kept:
        others.remove(loss)
    gaps = [gap(kept, losses)]
    for place, other in itertools.product(range(k), others):
        gaps.append(gap([*kept[:place], other, *kept[place + 1 :]], losses))
    return min(gaps)


def some_losses(seed: int, n: int) -> torch.Tensor:
    """Unevenly distributed; every third time of few values, many of them equal."""
    random = np.random.default_rng(seed)
    losses = random.exponential(size=n) ** 2
    return torch.tensor(losses.round() if seed % 3 == 0 else losses, dtype=torch.float32)


@pytest.mark.parametrize("n, k", [(2, 1), (5, 2), (9, 3), (20, 2), (30, 7), (31, 30), (12, 12)])
def test_the_subset_is_that_of_a_plain_reference(n, k):
    for seed in range(30):
        losses = some_losses(seed, n)
        rows = nearest_mean_subset(losses, k)
        assert rows.dtype == torch.int64
        assert len(set(rows.tolist())) == k
        values = losses.double().tolist()
        chosen = [values[row] for row in rows.tolist()]
        assert gap(chosen, values) == pytest.approx(reference_gap(values, k), abs=1e-9)
        assert gap(chosen, values) <= gap(spaced(values, k), values) + 1e-9
        kept = spaced(values, k)
        assert sum(loss != other for loss, other in zip(chosen, kept)) <= 1, "one exchange at most"


def test_an_exchange_that_does_not_help_is_not_made():
    """Evenly spaced losses of a symmetric set have its mean."""
    rows = nearest_mean_subset(torch.arange(20.0).flip(0), 4)
    assert (19 - rows).tolist() == [2, 7, 12, 17]


def test_few_of_all_subsets_are_nearer():
    """Of the 3,003 subsets of 5 of 15, whose median gap is 0.4 of a mean, at most 2%."""
    shares = []
    for seed in (1, 2, 4, 5, 7):
        losses = some_losses(seed, 15).double().tolist()
        rows = nearest_mean_subset(torch.tensor(losses), 5).tolist()
        ours = gap([losses[row] for row in rows], losses)
        gaps = [gap(subset, losses) for subset in itertools.combinations(losses, 5)]
        shares.append(np.mean(np.array(gaps) < ours - 1e-12))
    assert max(shares) < 0.02


def test_a_far_off_loss_is_no_trouble():
    """With a huge offset the sums keep what tells losses apart."""
    losses = some_losses(1, 200)
    near = nearest_mean_subset(losses.double() + 1e6, 20)
    chosen = (losses + 1e6)[near].double()
    assert abs(chosen.mean() - (losses + 1e6).double().mean()) < 0.02


def test_losses_that_are_no_numbers_still_make_a_batch():
    """The run ends as diverged after it, not in an index error."""
    losses = some_losses(1, 40)
    losses[7] = math.nan
    assert len(nearest_mean_subset(losses, 4).unique()) == 4


def test_losses_per_voxel_are_averaged():
    losses = some_losses(1, 60).view(10, 2, 3)
    expected = nearest_mean_subset(losses.mean((1, 2)), 4)
    assert torch.equal(nearest_mean_subset(losses, 4), expected)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_what_is_no_number_of_losses_is_refused(k):
    with pytest.raises(ValueError, match=f"k {k}: give 1 to 5"):
        nearest_mean_subset(torch.ones(5), k)


def test_a_single_number_is_refused():
    with pytest.raises(ValueError, match="reduction='none'"):
        nearest_mean_subset(torch.tensor(1.0), 1)


# --- The method ---


@pytest.mark.parametrize("options, size", [(dict(), 80), (dict(obftf_candidates=3), 24)])
def test_the_batch_is_the_subset_of_the_scored_candidates(options, size):
    """By the losses of mixed images with their own targets, whose rows stay together."""
    method, score = METHODS["obftf"](make_task(), **options), Scores()
    assert method.draw(0).shape == (1, size)
    given = candidates(np.random.default_rng(0), size, start=0)
    chosen = method.choose(given, score)
    assert score.images_scored == size
    assert len(chosen) == 8
    losses = given.losses(given.images.flatten(1)).double().tolist()
    values = [losses[index] for index in chosen.index.tolist()]
    assert gap(values, losses) == pytest.approx(reference_gap(losses, 8), abs=1e-7)
    for name, column in vars(given).items():
        assert torch.equal(getattr(chosen, name), column[chosen.index])


@pytest.mark.parametrize("augmentation", ["mixup", "ricap"])
def test_scoring_and_training_see_the_same_mixed_images(augmentation):
    trainer = make_trainer(METHODS["obftf"](make_task()), make_dataset(), augmentation)
    trainer.start()
    seen: list[Batch] = []
    score = trainer.score
    trainer.score = lambda batch: (seen.append(batch), score(batch))[1]
    for _ in range(6):
        batch = trainer.next_batch()
        rows = (batch.images[:, None] == seen[-1].images).flatten(2).all(2).float().argmax(1)
        for name, column in vars(seen[-1]).items():
            assert torch.equal(getattr(batch, name), column[rows])
        trainer.make_step(batch)
    assert [len(batch) for batch in seen] == [80] * 6


@pytest.mark.slow
def test_a_budget_of_compute_pays_for_the_scoring(train_here, tmp_path):
    """13 instead of 3 for each image of a step; and the network learns all the same."""
    words = ("--method", "obftf", "--epochs", 10, "--budget", 0.5, "--device", "cpu")
    for more in ([], ["--compute-budget"]):
        outcome = train_here(*words, *more)
        assert outcome.returncode == 0, outcome.stderr
    folder = tmp_path / "results"
    steps = pd.read_csv(folder / "digits_obftf_standard_b0.5_s1" / "curve.csv")
    compute = pd.read_csv(folder / "digits_obftf_standard_compute_b0.5_s1" / "curve.csv")
    assert steps["step"].iloc[-1] == 50
    assert compute["step"].iloc[-1] == math.ceil(50 * 3 / 13)
    for curve in (steps, compute):
        assert (curve["images_scored"] == 10 * curve["images_trained"]).all()
    assert steps["test_accuracy"].iloc[-1] > 80


# --- Passes in pieces ---


@pytest.mark.parametrize("size", [1, 4, 7, 10, 25])
def test_pieces_make_full_passes(size):
    passes = Passes(10, torch.Generator().manual_seed(0))
    drawn = torch.cat([passes.take(size) for _ in range(20)])
    assert drawn.dtype == torch.int64
    assert len(drawn) == 20 * size
    whole = drawn[: len(drawn) // 10 * 10].view(-1, 10)
    assert (whole.sort(1).values == torch.arange(10)).all()
    assert len({tuple(row) for row in whole.tolist()}) == len(whole), "fresh orders"
    assert len(drawn[len(whole) * 10 :].unique()) == len(drawn) - len(whole) * 10


def test_a_pass_goes_on_where_it_was_saved():
    passes = Passes(10, torch.Generator().manual_seed(0))
    passes.take(14)
    state = saved_and_loaded(passes.state_dict())
    other = Passes(10, torch.Generator().manual_seed(1))
    other.load_state_dict(state)
    assert torch.equal(other.take(6), passes.take(6))


def test_pieces_do_not_carry_the_pass_along():
    """A slice would be saved, in the checkpoint of a stream, with all of the order behind it."""
    piece = Passes(1000, torch.Generator()).take(10)
    assert piece.untyped_storage().nbytes() == 80

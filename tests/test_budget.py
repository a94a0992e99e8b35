"""Budgets are exact in decimals; schedules start and end where they should."""

import re

import pytest
from test_methods import make_task

from engine.budget import LR_END, Budget, check_steps, linear_rate, step_rate
from errors import UsageError
from methods import subset_size


def steps_per_epoch(budget: float, num_images: int, batch_size: int) -> int:
    task = make_task(num_images, batch_size, budget)
    check_steps(task)
    return task.steps_per_epoch


@pytest.mark.parametrize(
    "budget, num_images, expected",
    [
        (0.29, 100, 29),  # 28.999999999999996 in binary
        (0.57, 100, 57),  # 56.99999999999999 in binary
        (0.7, 10, 7),
        (0.1, 30, 3),
        (0.3, 10, 3),
        (0.3, 11, 3),  # rounded down
        (0.999, 1000, 999),
        (0.333, 1000, 333),
        (0.2, 50_000, 10_000),
        (1e-05, 99_999, 0),  # written with an exponent
        (1e-05, 100_000, 1),
        (1.0, 7, 7),
        (1, 7, 7),
    ],
)
def test_subset_size(budget, num_images, expected):
    assert subset_size(budget, num_images) == expected


@pytest.mark.parametrize("num_images", [1, 7, 100, 1438, 50_000, 73_257])
def test_subset_size_is_that_of_whole_percents(num_images):
    """Against whole-number arithmetic, for every budget of two decimals."""
    sizes = [subset_size(percent / 100, num_images) for percent in range(1, 101)]
    assert sizes == [percent * num_images // 100 for percent in range(1, 101)]


@pytest.mark.parametrize(
    "budget, num_images, batch_size, expected",
    [
        (0.2, 50_000, 128, 78),
        (1.0, 50_000, 128, 390),
        (0.29, 100, 29, 1),
        (0.5, 127, 16, 3),  # floor(63.5) = 63 is not yet four batches
        (1.0, 8, 8, 1),
    ],
)
def test_steps_per_epoch(budget, num_images, batch_size, expected):
    assert steps_per_epoch(budget, num_images, batch_size) == expected


@pytest.mark.parametrize(
    "budget, num_images, batch_size",
    [
        (0.1, 1000, 128),
        (0.28, 100, 29),
        (0.001, 50_000, 128),
        (0.3, 3, 1),  # a third has no end in decimals
        (0.5, 100, 100),  # only the full budget works
        (0.01, 73_257, 1024),
        (1e-05, 10_000, 1),
    ],
)
def test_too_small_a_budget_names_one_that_works(budget, num_images, batch_size):
    with pytest.raises(UsageError, match=f"`budget` {budget}: ") as caught:
        steps_per_epoch(budget, num_images, batch_size)
    named = re.search(r"the smallest budget that works is (\S+)$", str(caught.value))
    assert named, "no budget is named"
    smallest = float(named[1])
    assert 0 < smallest <= 1
    assert steps_per_epoch(smallest, num_images, batch_size) == 1
    below = round(smallest - 1e-6, 6)  # budgets are named to six decimals
    if below > 0:
        with pytest.raises(UsageError):
            steps_per_epoch(below, num_images, batch_size)


@pytest.mark.parametrize("budget", [0.5, 1.0])
def test_too_large_a_batch_names_one_that_works(budget):
    """No budget would help, so none is named; the batch size named works with the one given."""
    with pytest.raises(UsageError, match="`batch_size` 101: ") as caught:
        steps_per_epoch(budget, 100, 101)
    assert "budget" not in str(caught.value)
    largest = int(re.search(r"give at most (\d+)$", str(caught.value))[1])
    assert largest == 100 * budget
    assert steps_per_epoch(budget, 100, largest) == 1


@pytest.mark.parametrize("total", [2, 3, 10, 15_600])
def test_linear_rate_goes_from_first_to_end(total):
    assert LR_END == 1e-6
    rates = [linear_rate(step, total, 0.1) for step in range(total)]
    assert rates[0] == 0.1
    assert rates[-1] == pytest.approx(1e-6, rel=1e-9)
    formula = [0.1 + (1e-6 - 0.1) * step / (total - 1) for step in range(total)]
    assert rates == pytest.approx(formula, rel=1e-9)


@pytest.mark.parametrize("of_compute", [False, True])
def test_a_budget_without_scoring_is_one_of_steps(of_compute):
    budget = Budget(make_task(21, 3, 1.0, epochs=11), of_compute)
    for step in range(7 * 11 + 1):
        spent = budget.spent(step, images_scored=0)
        assert budget.position(spent) == step
        assert budget.epoch(spent) == step // 7
        assert spent / budget.total == step / 77


def test_scored_images_are_paid_for_with_compute_alone():
    """Ten candidates for each image of a step: 13 instead of 3 for each."""
    compute = Budget(make_task(52, 4, 1.0, epochs=3), of_compute=True)
    for step in range(12):
        spent = compute.spent(step, images_scored=40 * step)
        assert spent == 52 * step
        assert compute.position(spent) == pytest.approx(step * 13 / 3)
        assert compute.epoch(spent) == min(step // 3, 3)
    steps = Budget(make_task(52, 4, 1.0, epochs=3))
    assert steps.spent(5, images_scored=200) == 60


def test_linear_rate_beyond_the_last_step_is_that_of_the_last():
    assert linear_rate(9.5, 10, 0.1) == linear_rate(9, 10, 0.1)
    assert linear_rate(8.5, 10, 0.1) > linear_rate(9, 10, 0.1)


def test_linear_rate_of_a_single_step():
    assert linear_rate(0, 1, 0.3) == 0.3


@pytest.mark.parametrize("per_epoch", [1, 78])
def test_step_rate_falls_at_milestones(per_epoch):
    """Milestones are epochs, of S steps each: a budget places them by steps, not by images."""
    rates = [step_rate(step, per_epoch, 0.1, [3, 5], 0.2) for step in range(7 * per_epoch)]
    expected = [0.1] * 3 * per_epoch + [0.02] * 2 * per_epoch + [0.004] * 2 * per_epoch
    assert rates == pytest.approx(expected)


def test_step_rate_in_any_order_and_without_milestones():
    assert step_rate(20, 10, 0.1, [2, 1], 0.1) == pytest.approx(0.001)
    assert step_rate(10**6, 10, 0.1, [], 0.1) == 0.1

"""The budget in steps and the learning rate of each: pure functions of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal

from errors import UsageError

LR_END = 1e-6  # of the linear schedule's last step (Li et al. 2020, "Budgeted Training")


def subset_size(budget: float, num_images: int) -> int:
    """floor(budget * N), of the decimal number that was written, not of its binary neighbour."""
    return int(Decimal(repr(budget)) * num_images)


def steps_per_epoch(budget: float, num_images: int, batch_size: int) -> int:
    """S = floor(floor(b * N) / B); a UsageError that names a remedy where that is zero."""
    steps = subset_size(budget, num_images) // batch_size
    if steps:
        return steps
    if batch_size > num_images:
        raise UsageError(
            f"--batch-size {batch_size}: the training set has only {num_images} images; "
            f"give at most {subset_size(budget, num_images)}"
        )
    smallest = Decimal(batch_size) / num_images
    smallest = smallest.quantize(Decimal("0.000001"), rounding=ROUND_CEILING).normalize()
    raise UsageError(
        f"--budget {budget}: {budget} of {num_images} images is not one batch of {batch_size}; "
        f"the smallest budget that works is {smallest}"
    )


def linear_rate(step: int, total: int, first: float) -> float:
    """Learning rate of step 0..total-1, linear from `first` to LR_END (Li et al. 2020)."""
    return first + (LR_END - first) * step / max(total - 1, 1)


def step_rate(
    step: int, per_epoch: int, first: float, milestones: Sequence[int], gamma: float
) -> float:
    """Learning rate of a step, multiplied by gamma at each milestone (in budgeted epochs)."""
    return first * gamma ** sum(step >= milestone * per_epoch for milestone in milestones)

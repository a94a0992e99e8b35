"""The budget, in steps or in compute, and the learning rate: pure functions of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from errors import UsageError

LR_END = 1e-6  # of the linear schedule's last step (Li et al. 2020, "Budgeted Training")
TRAINING_COST = 3  # an image's forward and backward pass, in forward passes


@dataclass(frozen=True)
class Budget:
    """How far a run has come, in optimizer steps or in the compute that these have cost.

    Cost is counted in forward passes of one image: 1 for an image that is only scored,
    TRAINING_COST for one that is trained on. A budget of compute is what plain SGD would spend on
    its steps; a method that scores then makes fewer. A budget of steps leaves scoring out.
    """

    steps_per_epoch: int  # S
    epochs: int  # E
    batch_size: int  # B
    of_compute: bool = False
    paid_before: int = 0  # of the compute, by earlier runs that this one builds on

    @property
    def steps(self) -> int:
        """T, that plain SGD makes."""
        return self.epochs * self.steps_per_epoch

    @property
    def total(self) -> int:
        """What all of the run may spend."""
        return self.steps * self.batch_size * TRAINING_COST - self.paid_before

    def spent(self, step: int, images_scored: int) -> int:
        """What counts as spent after so many steps and scored images."""
        return step * self.batch_size * TRAINING_COST + self.of_compute * images_scored

    def epoch(self, spent: int) -> int:
        """Budgeted epochs that are complete."""
        return min(spent * self.epochs // self.total, self.epochs)

    def position(self, spent: int) -> float:
        """The steps that plain SGD would have made for the same fraction of its own budget."""
        return spent * self.steps / self.total


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


def linear_rate(step: float, total: int, first: float) -> float:
    """Learning rate of step 0..total-1, linear from `first` to LR_END (Li et al. 2020)."""
    last = max(total - 1, 1)
    return first + (LR_END - first) * min(step, last) / last


def step_rate(
    step: float, per_epoch: int, first: float, milestones: Sequence[int], gamma: float
) -> float:
    """Learning rate of a step, multiplied by gamma at each milestone (in budgeted epochs)."""
    return first * gamma ** sum(step >= milestone * per_epoch for milestone in milestones)

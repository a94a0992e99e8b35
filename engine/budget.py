"""The budget, in steps or in compute, and the learning rate: pure functions of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from errors import UsageError
from methods import Task

LR_END = 1e-6  # of the linear schedule's last step (Li et al. 2020, "Budgeted Training")
TRAINING_COST = 3  # an image's forward and backward pass, in forward passes


@dataclass(frozen=True)
class Budget:
    """Converts optimizer steps and scored images to the fraction of a run that they pay for.

    Cost is counted in forward passes of one image: 1 for an image that is only scored,
    TRAINING_COST for one that is trained on. A budget of compute is what plain SGD would spend on
    its steps; a method that scores then makes fewer. A budget of steps leaves scoring out.
    """

    task: Task  # says how many steps plain SGD makes, of how many images
    of_compute: bool = False
    paid_before: int = 0  # of the compute, by earlier runs that this one builds on

    @property
    def total(self) -> int:
        """Forward passes that the whole run may spend."""
        return self.task.steps * self.task.batch_size * TRAINING_COST - self.paid_before

    def spent(self, step: int, images_scored: int) -> int:
        """Return what counts as spent after so many steps and scored images."""
        return step * self.task.batch_size * TRAINING_COST + self.of_compute * images_scored

    def epoch(self, spent: int) -> int:
        """Return how many budgeted epochs are complete."""
        return min(spent * self.task.epochs // self.total, self.task.epochs)

    def position(self, spent: int) -> float:
        """Return the steps that plain SGD would have made for that fraction of its own budget."""
        return spent * self.task.steps / self.total


def check_steps(task: Task) -> None:
    """Raise a UsageError, with a remedy, where an epoch's budget is less than one step."""
    if task.steps_per_epoch:
        return
    budget, num_images, batch_size = task.budget, task.num_images, task.batch_size
    if batch_size > num_images:
        raise UsageError(
            f"`batch_size` {batch_size}: the training set has only {num_images} images; "
            f"give at most {task.subset_size}"
        )
    smallest = Decimal(batch_size) / num_images
    smallest = smallest.quantize(Decimal("0.000001"), rounding=ROUND_CEILING).normalize()
    raise UsageError(
        f"`budget` {budget}: {budget} of {num_images} images is not one batch of {batch_size}; "
        f"the smallest budget that works is {smallest}"
    )


def linear_rate(step: float, total: int, first: float) -> float:
    """Return the rate of step 0..total-1, linear from `first` to LR_END (Li et al. 2020)."""
    last = max(total - 1, 1)
    return first + (LR_END - first) * min(step, last) / last


def step_rate(
    step: float, per_epoch: int, first: float, milestones: Sequence[int], gamma: float
) -> float:
    """Return the rate of a step, multiplied by gamma at each milestone (in budgeted epochs)."""
    return first * gamma ** sum(step >= milestone * per_epoch for milestone in milestones)

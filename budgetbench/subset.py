"""A fresh subset of the training set every epoch, drawn by the predicted probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .drawing import draw_without_replacement
from .sampler import BatchSampler

ROUNDING = 1e-3  # by which probabilities may exceed 1
ROUNDING_OF_SUMS = 1e-2  # by which those of all classes, in half precision, may differ from 1


class PSGDSampler(BatchSampler):
    """Every epoch a fresh subset that favours images whose class gets a low predicted probability.

    The importance of an image is the mean, over its visits, of 1 - p(its class), measured in
    the training forward pass itself; one not yet visited has the highest importance of those
    visited (Chang et al. 2017, as used by Arazo et al. 2021). Every epoch draws `subset_size`
    images without replacement, proportionally to importance + smoothing * mean(importance).

    A draw takes O(N) work once an epoch. An image takes 8 bytes, and while a subset is handed out
    each of its images 8 bytes more.

    Args:
        num_samples, batch_size, num_replicas, rank, device, generator: as for `BatchSampler`.
        subset_size: images drawn per epoch (of all processes together), floor(b * N) for a
            budget b; by default all.
        smoothing: multiple of the mean importance added to every image's.
        averaging: whether an image's importance is of all its visits, not of the last alone.

    >>> sampler = PSGDSampler(100, batch_size=8, subset_size=30)  # a budget of 0.3
    >>> for batch in sampler:  # or DataLoader(dataset, batch_sampler=sampler)
    ...     sampler.update(batch, torch.full((8,), 0.5))  # p(own class), of the forward pass
    >>> len(sampler), len(batch)
    (3, 8)
    """

    total: Tensor  # float32 [N], sum over visits of 1 - p(class)
    visits: Tensor  # float32 [N]

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        subset_size: int | None = None,
        smoothing: float = 1.0,
        averaging: bool = True,
        num_replicas: int = 1,
        rank: int = 0,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ):
        super().__init__(num_samples, batch_size, None, num_replicas, rank, device, generator)
        self.subset_size = num_samples if subset_size is None else subset_size
        if not self.draw_size <= self.subset_size <= num_samples:
            raise ValueError(
                f"subset_size {subset_size}: give {self.draw_size}, one batch, to {num_samples}"
            )
        if not 0 <= smoothing < math.inf:
            raise ValueError("smoothing has to be at least 0 and finite")
        self.smoothing, self.averaging = smoothing, averaging
        self.register_buffer("total", torch.zeros(num_samples, device=self.device))
        self.register_buffer("visits", torch.zeros(num_samples, device=self.device))

    def __len__(self) -> int:
        """Batches of an epoch; the last incomplete one of its subset is dropped."""
        return self.subset_size // self.draw_size

    def draw(self) -> Tensor:
        """The batches of an epoch: int64 [len(self), draw_size], no index twice."""
        drawn = draw_without_replacement(self.weights(), self.subset_size, self.rng)
        order = torch.randperm(self.subset_size, generator=self.rng, device=self.device)
        size = self.draw_size
        return drawn[order[: len(self) * size]].view(-1, size)

    def weights(self) -> Tensor:
        """Weights [N] that the draw is proportional to."""
        importance = self.importance(self.total / self.visits.clamp(min=1))
        visited = self.visits > 0
        highest = importance.where(visited, -torch.inf).max()
        # While nothing is visited all are equal; a tensor condition, to stay on the device.
        highest = highest.where(visited.any(), 1.0)
        importance = importance.where(visited, highest)
        return importance + self.smoothing * importance.mean()

    def importance(self, error: Tensor) -> Tensor:
        """Importance [N] from the running means [N] of 1 - p(class)."""
        return error

    def update(self, indices: Tensor, probabilities: Tensor) -> None:
        """Learn from a batch that was trained on.

        Args:
            indices: [b] int64.
            probabilities: [b] that the network gave to the images' own classes, in that forward
                pass; or [b, ...] per pixel or voxel, which are averaged.

        Raises:
            ValueError: for values that are not one per image or, on a CPU, outside [0, 1], and for
                indices outside the data set.
        """
        index, probabilities = self.check(indices, probabilities)
        self.record(index, probabilities)
        self.count_update(len(index))

    def update_by_losses(self, indices: Tensor, losses: Tensor) -> None:
        """`update` by cross-entropies [b]: exp(-loss) is the probability of an image's own class.

        Of another loss that is never negative it is at least a number in [0, 1] that falls with it.
        """
        self.update(indices, torch.exp(-torch.as_tensor(losses).detach()))

    def check(self, indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As for any sampler, and on a CPU that values are probabilities."""
        rows = torch.as_tensor(values)
        if self.on_cpu and rows.ndim == 2 and rows.shape[1] > 1 and sum_to_one(rows):
            raise ValueError(
                f"values {list(rows.shape)} are of all classes; give each image's own, as "
                "logits.softmax(1).gather(1, labels[:, None]).squeeze(1)"
            )
        indices, values = super().check(indices, values)
        if self.on_cpu and len(values):
            low, high = values.aminmax()
            if low < 0 or high > 1 + ROUNDING:
                raise ValueError(
                    f"values from {low:.4g} to {high:.4g} are no probabilities; of losses, call "
                    "update_by_losses"
                )
        return indices, values

    def record(self, index: Tensor, probability: Tensor) -> None:
        """`update` without its checks: indices [b], probabilities [b] float32, on this device."""
        if not self.averaging:  # so that each sum begins anew, of as many as are in the batch
            self.total.index_fill_(0, index, 0)
            self.visits.index_fill_(0, index, 0)
        self.total.index_add_(0, index, 1 - probability)
        self.visits.index_add_(0, index, torch.ones_like(probability))


def sum_to_one(rows: Tensor) -> bool:
    rounding = ROUNDING if rows.dtype in (torch.float32, torch.float64) else ROUNDING_OF_SUMS
    return bool(((rows.float().sum(1) - 1).abs() < rounding).all())


class CSGDSampler(PSGDSampler):
    """A `PSGDSampler` that favours images whose running mean error a is near 0.5 (uncertain).

    Importance is a * (1 - a) (Chang et al. 2017). An unvisited image takes the highest such
    importance; the published code takes the highest a instead, whose a * (1 - a) is near zero.

    >>> sampler = CSGDSampler(100, batch_size=8, subset_size=30)
    >>> sampler.update(range(8), torch.linspace(0.1, 0.9, 8))
    >>> len(list(sampler))
    3
    """

    def importance(self, error: Tensor) -> Tensor:
        return error * (1 - error)

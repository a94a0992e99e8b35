"""Hardness weighted sampling: each batch drawn by the last known losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .drawing import draw_without_replacement
from .race_tree import RaceTree
from .sampler import BatchSampler

FLOOR = 1e-4  # weight of the uniform distribution (Fidon et al. 2022, their code)
CLIP = (0.1, 10.0)  # of importance weights (Fidon et al. 2022, their code)


class HardnessWeightedSampler(BatchSampler):
    """Draws each batch from softmax(beta * stale losses), as they are at that moment.

    Fidon et al. 2022, "Distributionally Robust Deep Learning using Hardness Weighted Sampling",
    Algorithm 1. The stale loss of an image is the one of its last visit (or, with momentum, a
    moving mean): to know all losses as they are now, every step would take a forward pass of all
    images. beta = 0 is uniform sampling, beta -> infinity trains on the worst case.

    The published sampler floors probabilities at 1e-4 / N; here they are mixed with that much
    of the uniform distribution, (p + 1e-4 / N) / (1 + 1e-4). For the first image of a batch that
    differs by less than 1e-4 in total variation, for a batch by more: once the hardest images are
    drawn, what is left may be near to the floor, and one just above it counts for up to twice as
    much. The probability to be among 128 of 1,000 images of exponential losses differed by up to
    0.08, at beta = 10.

    On a CPU a draw takes O(B log N) work in a `RaceTree`, and an image 13.1 bytes. On CUDA it is
    one pass over all N probabilities, which takes the device microseconds and the host none, and
    an image takes 4 bytes. A tree there would be slower: each of its many small steps is a launch.

    Args:
        num_samples, batch_size, max_ahead, num_replicas, rank, device, generator: as for
            `BatchSampler`.
        beta: robustness, per unit of loss, at least 0.
        initial_loss: assumed for images not yet visited, for example log(C) for the cross-entropy
            of C classes; 0.1% of noise breaks ties. Or one value for each image [N], for example
            of an earlier training, which is used as it is.
        momentum: weight in [0, 1) of the old stale loss in its update.
        replacement: whether an image may be drawn twice in a batch.

    >>> sampler = HardnessWeightedSampler(100, batch_size=8, beta=1.0, initial_loss=2.3)
    >>> for batch in sampler:  # or DataLoader(dataset, batch_sampler=sampler)
    ...     sampler.update(batch, torch.rand(8))  # losses of the forward pass
    >>> len(sampler), sampler.hardest(5).shape
    (12, torch.Size([5]))
    """

    losses: Tensor  # float32 [N], stale: of each image's last visit

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        beta: float = 1.0,
        initial_loss: float | Tensor = 1.0,
        momentum: float = 0.0,
        replacement: bool = False,
        max_ahead: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ):
        super().__init__(num_samples, batch_size, max_ahead, num_replicas, rank, device, generator)
        initial = torch.as_tensor(initial_loss, dtype=torch.float32, device=self.device)
        if not (0 <= beta < math.inf and 0 <= momentum < 1 and initial.isfinite().all()):
            raise ValueError("beta has to be at least 0, momentum in [0, 1), all of them finite")
        if initial.ndim and initial.shape != (num_samples,):
            raise ValueError(
                f"initial_loss {list(initial.shape)}: give one number, or one for each image "
                f"[{num_samples}]"
            )
        self.beta, self.momentum, self.replacement = beta, momentum, replacement
        if initial.ndim:
            losses = initial.clone()
        else:
            noise = torch.randn(num_samples, generator=self.rng, device=self.device)
            losses = initial * (1 + 0.001 * noise)
        self.register_buffer("losses", losses)
        self.build_tree()

    def build_tree(self) -> None:
        """On a CPU, make the tree of the losses as they are and a generator for it."""
        self.tree: RaceTree | None = None
        if self.on_cpu:
            seed = torch.randint(2**63 - 1, (), generator=self.rng, device=self.rng.device)
            # The fastest of NumPy's generators; its state is four numbers.
            self.tree_rng = np.random.Generator(np.random.SFC64(int(seed)))
            self.fill_tree()

    def fill_tree(self) -> None:
        self.tree = RaceTree(self.beta * self.losses.double().numpy(), FLOOR)

    def move(self, device: torch.device) -> None:
        super().move(device)
        self.build_tree()

    @property
    def stale(self) -> Any:
        """The losses [N], as `native` gives them; writing to the array changes the buffer."""
        return self.native(self.losses)

    def __len__(self) -> int:
        """Batches of one pass through a DataLoader: as many as images make whole ones."""
        return self.num_samples // self.draw_size

    def draw(self, size: int | None = None) -> Tensor:
        """Draw from the present state: indices [size] int64, in the order of drawing.

        Args:
            size: images to draw, by default those of a batch (of all processes together).

        Raises:
            ValueError: for less than one image or, without replacement, more than there are.
        """
        size = self.draw_size if size is None else size
        if size < 1 or (size > self.num_samples and not self.replacement):
            raise ValueError(f"size {size}: give 1 to {self.num_samples}, the images")
        if self.tree is not None:
            draw = self.tree.draw_with_replacement if self.replacement else self.tree.draw
            return torch.from_numpy(draw(size, self.tree_rng))
        probabilities = self.probabilities()
        if not self.replacement:
            return draw_without_replacement(probabilities, size, self.rng, ordered=True)
        sums = probabilities.cumsum(0)
        points = torch.rand(size, dtype=sums.dtype, generator=self.rng, device=self.device)
        return torch.searchsorted(sums, points * sums[-1], right=True).clamp(
            max=self.num_samples - 1
        )

    def update(self, indices: Tensor, losses: Tensor) -> None:
        """Learn the losses of a batch that was trained on.

        Args:
            indices: [b] int64.
            losses: [b], or [b, ...] per pixel or voxel, which are averaged. Those of an index
                that comes more than once (with replacement) are averaged too.

        Raises:
            ValueError: for losses that are not one per image or, on a CPU, not finite, and for
                indices outside the data set.
        """
        index, losses = self.check(indices, losses)
        number = len(index)
        if self.replacement:
            same = (index[:, None] == index).float()
            losses = same @ losses / same.sum(1)
        self.record(index, losses)
        self.count_update(number)

    def update_by_losses(self, indices: Tensor, losses: Tensor) -> None:
        """The same as `update`: every sampler has this name."""
        self.update(indices, losses)

    def record(self, index: Tensor, losses: Tensor) -> None:
        """`update` without its checks: indices [b], losses [b] float32, on this device."""
        places, new, stale = self.native(index), self.native(losses), self.stale
        if self.momentum:
            new = self.momentum * stale[places] + (1 - self.momentum) * new
        stale[places] = new
        if self.tree is not None:
            self.tree.update(places, self.beta * new.astype(np.float64))

    def importance_weights(
        self, indices: Tensor, losses: Tensor, clip: tuple[float, float] = CLIP
    ) -> Tensor:
        """exp(beta * (1 - momentum) * (loss - stale loss)), clipped: [b] on this device.

        A batch is drawn by losses of earlier steps. This is the factor by which its images' weights
        in the softmax would change if it knew their losses of now; multiply the losses by it. Ask
        before `update`, which makes the losses stale ones.
        """
        index, losses = self.match(indices, losses)
        try:
            return self.weigh(index, losses, clip)
        except IndexError:
            raise ValueError(f"an index is outside 0 to {self.num_samples - 1}") from None

    def weigh(self, index: Tensor, losses: Tensor, clip: tuple[float, float] = CLIP) -> Tensor:
        """`importance_weights` without its checks."""
        change = self.native(losses) - self.stale[self.native(index)]
        change *= self.beta * (1 - self.momentum)
        # Clipped before the exponential, which can then not overflow.
        low, high = (math.log(bound) if bound > 0 else -math.inf for bound in clip)
        exp: Any = torch.exp if self.tree is None else np.exp
        return torch.as_tensor(exp(change.clip(low, high)))

    def native(self, tensor: Tensor) -> Any:
        """On a CPU the tensor's memory as an array: NumPy is several times as quick on a batch."""
        return tensor if self.tree is None else tensor.numpy()

    def probabilities(self) -> Tensor:
        """Probability of each image to be the first one drawn: [N] float64."""
        softmax = (self.beta * self.losses.double()).softmax(0)
        return (softmax + FLOOR / self.num_samples) / (1 + FLOOR)

    def hardest(self, k: int) -> Tensor:
        """Indices of the k images with the highest stale losses, highest first: [k] int64."""
        return self.losses.topk(k).indices

    def get_extra_state(self) -> dict:
        state = super().get_extra_state()
        if self.tree is not None:
            bits = self.tree_rng.bit_generator.state["state"]["state"]
            state["tree_rng"] = torch.from_numpy(bits.view(np.int64).copy())
        return state

    def set_extra_state(self, state: dict) -> None:
        super().set_extra_state(state)
        if self.tree is not None and "tree_rng" not in state:  # saved on another kind of device
            self.build_tree()
        elif self.tree is not None:
            self.fill_tree()
            whole = self.tree_rng.bit_generator.state
            whole["state"]["state"] = state["tree_rng"].numpy().view(np.uint64)
            self.tree_rng.bit_generator.state = whole

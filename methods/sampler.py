"""What the samplers that plug into other training code have in common."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


class Sampler(nn.Module):
    """Random draws with a complete `state_dict`. It needs PyTorch and NumPy, not this driver.

    State lives in buffers on one device, the generator's state beside it, so that
    `load_state_dict` goes on with the very same draws.

    Args:
        device: where state is kept and draws are made.
        generator: source of all randomness, on `device`; by default a new one, seeded from
            PyTorch's global generator.

    Raises:
        ValueError: when the generator is on another device.
    """

    def __init__(self, device: torch.device | str, generator: torch.Generator | None):
        super().__init__()
        self.device = torch.device(device)
        self.on_cpu = self.device.type == "cpu"
        if generator is None:
            seed = int(torch.randint(2**63 - 1, ()))
            generator = torch.Generator(self.device).manual_seed(seed)
        if generator.device.type != self.device.type:
            raise ValueError(
                f"generator is on {generator.device}, the sampler on {self.device}; make it with "
                f"torch.Generator({str(self.device)!r})"
            )
        self.rng = generator

    def get_extra_state(self) -> dict:
        return {"rng": self.rng.get_state()}

    def set_extra_state(self, state: dict) -> None:
        self.rng.set_state(state["rng"].cpu())


class BatchSampler(Sampler):
    """A `batch_sampler` for any DataLoader over N images, which learns from what it is shown.

    A DataLoader with workers draws ahead of training: it asks for `num_workers * prefetch_factor`
    batches more than it has handed out, so a batch is drawn without what that many batches before
    it will show. Without workers (`num_workers=0`) each is drawn when it is needed. `max_ahead`
    turns a bound on this into an error.

    Args:
        num_samples: N, images of the data set.
        batch_size: B, images of a batch.
        max_ahead: most draws that may await their `update`; None for any number.
        device, generator: as for `Sampler`.

    Raises:
        ValueError: for a batch larger than the data set.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        max_ahead: int | None,
        device: torch.device | str,
        generator: torch.Generator | None,
    ):
        super().__init__(device, generator)
        if not 0 < batch_size <= num_samples:
            raise ValueError(f"batch_size {batch_size}: give 1 to {num_samples}, the images")
        self.num_samples, self.batch_size, self.max_ahead = num_samples, batch_size, max_ahead
        self.ahead = 0  # batches drawn that no update has followed yet

    def count_draw(self) -> None:
        """Note that a batch is drawn, unless that would be too far ahead of training."""
        if self.max_ahead is not None and self.ahead > self.max_ahead:
            raise RuntimeError(
                f"{self.ahead} batches are drawn and not yet followed by update(), more than "
                f"max_ahead={self.max_ahead}; a DataLoader draws num_workers * prefetch_factor "
                "ahead: lower these, and call update() after every batch"
            )
        self.ahead += 1

    def count_update(self) -> None:
        """Note that a batch is learnt from."""
        if self.ahead:
            self.ahead -= 1

    def matched(self, indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Indices [b] and one number per image [b] float32, on this device, or a ValueError."""
        indices = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        values = per_image(torch.as_tensor(values, device=self.device).detach())
        if indices.shape != values.shape:
            raise ValueError(
                f"indices {list(indices.shape)} and one value for each image of a batch "
                f"{list(values.shape)} differ in number"
            )
        return indices, values

    def checked(self, indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `matched`, and on a CPU of images that are there, and finite.

        On CUDA that is not looked at, because to look is to wait for the device.
        """
        indices, values = self.matched(indices, values)
        if self.on_cpu:
            # One pass each: a negative index is a huge unsigned one, and a sum passes NaN on.
            if indices.numpy().view(np.uint64).max(initial=0) >= self.num_samples:
                raise ValueError(f"an index is outside 0 to {self.num_samples - 1}")
            if not math.isfinite(values.numpy().sum()):
                raise ValueError("a value is NaN or infinite; has the training diverged?")
        return indices, values


def per_image(values: Tensor) -> Tensor:
    """One number for each image: losses [b, ...] per pixel or voxel are averaged to [b] float32.

    The mean can be backpropagated, and trained on.

    Raises:
        ValueError: for a single number, of which no image's share can be told.
    """
    if values.ndim == 0:
        raise ValueError(
            "one number for the whole batch; what is needed is one for each image: compute "
            "losses with reduction='none'"
        )
    return values.float() if values.ndim == 1 else values.float().flatten(1).mean(1)

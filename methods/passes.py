"""Full passes over the images, handed out in pieces."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Passes(nn.Module):
    """Passes in fresh random orders, one after the other, in pieces of any size.

    No image is left out between two pieces, also where a piece spans two passes (only there may
    an image come twice in it) or is longer than a pass.

    Args:
        num_images: N, images of a pass.
        rng: the method's generator, which saves its own state.
    """

    order: Tensor  # int64 [N], of the present pass

    def __init__(self, num_images: int, rng: torch.Generator):
        super().__init__()
        self.rng = rng
        self.position = num_images  # of the next image in the pass, which is over
        self.register_buffer("order", torch.arange(num_images, device=rng.device))

    def take(self, count: int) -> Tensor:
        """The next indices: int64 [count]."""
        pieces, size = [], len(self.order)
        while count:
            if self.position == size:
                self.order = torch.randperm(size, generator=self.rng, device=self.order.device)
                self.position = 0
            pieces.append(self.order[self.position : self.position + count])
            self.position += len(pieces[-1])
            count -= len(pieces[-1])
        return torch.cat(pieces)

    def get_extra_state(self) -> dict:
        return {"position": self.position}

    def set_extra_state(self, state: dict) -> None:
        self.position = state["position"]

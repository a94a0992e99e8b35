"""Exact draws without replacement, in one vectorised pass."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_without_replacement(
    weights: Tensor, k: int, rng: torch.Generator, ordered: bool = False
) -> Tensor:
    """Draw k of N distinct indices, each draw proportional to the weights not yet drawn.

    This is successive sampling, the law of `numpy.random.Generator.choice(replace=False, p=...)`
    (Efraimidis & Spirakis 2006): give each image an exponential arrival time of rate `weights`
    and take the k earliest. Times are compared as logarithms so that no weight under- or
    overflows. Images of weight zero come after all others, in uniform order.

    Args:
        weights: [N] non-negative numbers, not necessarily normalised.
        k: how many to draw, at most N.
        rng: generator on the device of `weights`.
        ordered: whether the order matters, which costs a sort.

    Returns:
        [k] int64 indices, in the order of drawing if `ordered`, else in no particular one.

    >>> weights, rng = torch.tensor([0.0, 1.0, 3.0, 0.0]), torch.Generator().manual_seed(0)
    >>> sorted(draw_without_replacement(weights, 2, rng).tolist())
    [1, 2]
    """
    # Unlike `torch.multinomial`, which takes at most 2**24 weights. Zeros become the smallest
    # number, whose logarithm is finite.
    if weights.dtype not in (torch.float32, torch.float64):  # half precision has too few of them
        weights = weights.float()
    tiny = torch.finfo(weights.dtype).tiny
    arrival = torch.empty_like(weights).exponential_(generator=rng)
    log_arrival = arrival.clamp_(min=tiny).log_().sub_(weights.clamp(min=tiny).log_())
    return log_arrival.topk(k, largest=False, sorted=ordered).indices

"""Choosing which images of a scored batch to train on, or how much each of its losses counts."""

from __future__ import annotations

import torch
from torch import Tensor

from .sampler import Sampler, per_image


class SelectiveBackpropSelector(Sampler):
    """Keeps a scored image with probability percentile(loss) ** beta; batches what it keeps.

    Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers". The
    percentile is the fraction of the last 1,024 scored losses, the batch's own included, that are
    strictly lower; until there are as many, everything is kept. Kept images wait in a queue and
    each B of them make a batch. If percentiles are uniform, 1 / (beta + 1) of the images is kept.
    If nearly all losses are equal, as when every image has a loss of zero, nearly none is:
    `patience` is a way out of that.

    Whether a batch is full depends on how many images were kept, so one number per scored batch
    is read back from the device.

    How often a process steps depends on what it kept, so several processes that train one model
    together (`DistributedDataParallel`) cannot each have a selector.

    Args:
        batch_size: B, images of a batch to train on.
        beta: exponent of the percentile, at least 0; 1/b - 1 keeps a fraction of b.
        patience: number of images scored without a batch, such as three times that of all images,
            after which every image is kept until the batch is full; None is without end.
        device, generator: as for `Sampler`.

    >>> selector = SelectiveBackpropSelector(batch_size=8, beta=2.0)
    >>> images, losses = torch.rand(20, 3, 8, 8), torch.rand(20)  # losses of a scoring pass
    >>> for kept, kept_losses in selector.select(losses, images, losses):
    ...     print(kept.shape, kept_losses.shape)  # none is dropped before 1,024 were scored
    torch.Size([8, 3, 8, 8]) torch.Size([8])
    torch.Size([8, 3, 8, 8]) torch.Size([8])
    """

    history: Tensor  # float32 [HISTORY], the last losses; infinite where there is none yet

    HISTORY = 1024

    def __init__(
        self,
        batch_size: int,
        *,
        beta: float,
        patience: int | None = None,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ):
        super().__init__(device, generator)
        if batch_size < 1 or not beta >= 0:
            raise ValueError("batch_size has to be at least 1 and beta at least 0")
        self.batch_size, self.beta, self.patience = batch_size, beta, patience
        self.scored = 0  # losses seen
        self.fruitless = 0  # of these, since the last batch
        self.register_buffer("history", torch.full((self.HISTORY,), torch.inf, device=self.device))
        self.pieces: list[list[Tensor]] = []  # kept rows of each column, joined when B wait
        self.waiting = 0  # kept rows in all

    def select(self, losses: Tensor, *columns: Tensor) -> list[tuple[Tensor, ...]]:
        """Pick from a scored batch; the batches to train on now, none while too few are kept.

        Args:
            losses: [b], or [b, ...] per pixel or voxel, which are averaged; on this device.
            columns: what to train with, for example images and labels: each [b, ...].

        Returns:
            Any number of batches, each with B rows of every column, in the order scored.

        Raises:
            ValueError: for losses or columns that are not one per image.
        """
        self.keep(losses, *columns)
        return list(iter(self.take, None))

    def keep(self, losses: Tensor, *columns: Tensor) -> None:
        """Pick from a scored batch, as `select` does, and leave it in the queue."""
        losses = per_image(losses.detach())
        if not columns or any(len(column) != len(losses) for column in columns):
            raise ValueError(f"give columns of {len(losses)} rows each, one for each loss")
        chosen = self.kept(losses)
        if self.patience is not None and self.fruitless >= self.patience:
            chosen = torch.ones_like(chosen)
        self.fruitless += len(losses)
        rows = chosen.nonzero().squeeze(1)
        # index_select, because indexing with [] costs several times as much.
        kept = [column.index_select(0, rows.to(column.device)) for column in columns]
        self.pieces.append(kept)
        self.waiting += len(rows)

    def take(self) -> tuple[Tensor, ...] | None:
        """The B images that have waited longest, or None while there are fewer."""
        size = self.batch_size
        if self.waiting < size:
            return None
        columns = self.queue()
        self.pieces = [[column[size:] for column in columns]]
        self.waiting -= size
        self.fruitless = 0
        return tuple(column[:size] for column in columns)

    def queue(self) -> list[Tensor]:
        """The kept rows that wait, a tensor for each column; none before the first are kept."""
        return list(map(torch.cat, zip(*self.pieces)))

    def learn(self, losses: Tensor) -> None:
        """Append the losses [b] of a batch to the history."""
        self.scored += len(losses)
        self.history = torch.cat([self.history, losses])[-self.HISTORY :]

    def kept(self, losses: Tensor) -> Tensor:
        """Record the losses [b] of a scored batch and draw which to keep: bool [b]."""
        self.learn(losses)
        uniform = torch.rand(len(losses), generator=self.rng, device=losses.device)
        if self.scored < self.HISTORY:
            return uniform < 1
        # By bisection, because comparing every loss with every other takes twenty times as long.
        # A NaN comes after all others: it is kept, trained on and found.
        lower = torch.searchsorted(self.history.sort().values, losses)
        return uniform < (lower / self.HISTORY) ** self.beta

    def move(self, device: torch.device) -> None:
        super().move(device)
        self.pieces = [[column.to(device) for column in columns] for columns in self.pieces]

    def get_extra_state(self) -> dict:
        # Cloned, because a slice would be saved with all of the storage behind it.
        queue = [column.clone() for column in self.queue()]
        return super().get_extra_state() | {
            "scored": self.scored,
            "fruitless": self.fruitless,
            "queue": queue,
        }

    def set_extra_state(self, state: dict) -> None:
        super().set_extra_state(state)
        self.scored, self.fruitless = state["scored"], state["fruitless"]
        queue = [column.to(self.device) for column in state["queue"]]
        self.pieces = [queue] if queue else []
        self.waiting = len(queue[0]) if queue else 0


def nearest_mean_subset(losses: Tensor, k: int) -> Tensor:
    """k of n losses whose mean is near to the mean of all, from their whole range.

    First those at evenly spaced ranks, the middles of k equal parts of the sorted losses. Then
    of all k * (n - k) exchanges of one of these for one of the others, the one that brings the
    mean nearest to that of all is made, if it brings it nearer. Nothing of this waits for the
    device.

    Args:
        losses: [n], or [n, ...] per pixel or voxel, which are averaged.
        k: how many to keep, 1 to n.

    Returns:
        [k] int64 rows, none twice, from the lowest loss to the highest but for the exchanged one.

    Raises:
        ValueError: for a k out of these bounds, and for a single number as losses.

    >>> nearest_mean_subset(torch.arange(10.0), 2).tolist()  # the mean of all is 4.5
    [2, 7]
    """
    losses = per_image(losses.detach()).double()
    n = len(losses)
    if not 1 <= k <= n:
        raise ValueError(f"k {k}: give 1 to {n}, the number of losses")
    order = losses.argsort()
    if k == n:
        return order
    places = (2 * torch.arange(k, device=order.device) + 1) * n // (2 * k)
    is_kept = torch.zeros(n, device=order.device).index_fill_(0, places, 1)
    # A stable sort, because picking rows by a mask would wait for the device.
    kept, others = order[is_kept.argsort(descending=True, stable=True)].split([k, n - k])
    excess = losses - losses.mean()
    gap = excess[kept].sum()
    # For each that is kept, only the two others on both sides of the loss that would close the gap.
    above = torch.searchsorted(excess[others], excess[kept] - gap)
    nearest = others[torch.cat([above - 1, above]).clamp(0, n - k - 1)]
    left = (gap - excess[kept].repeat(2) + excess[nearest]).abs()  # the gap after each exchange
    best = left.argmin(0, keepdim=True)
    exchanged = kept.index_copy(0, best % k, nearest[best])
    return torch.where(left[best] < gap.abs(), exchanged, kept)


def cvar_weights(losses: Tensor, alpha: float) -> Tensor:
    """Weights with which the mean of a batch's losses is their conditional value at risk.

    CVaR at level alpha is the mean of the worst fraction alpha of the losses: the greatest
    sum of q * loss over all distributions q on the batch with q <= 1 / (alpha * b) (Levy et al.
    2020, section 2). So the floor(alpha * b) highest losses weigh 1 / alpha, the next one what is
    left to a sum of b, the others nothing; of equal losses, those that come first weigh more.

    Args:
        losses: [b], or [b, ...] per pixel or voxel, which are averaged.
        alpha: fraction of the batch that counts, in (0, 1]; 1 is the plain mean.

    Returns:
        [b] float32 that sum to b, to multiply losses with; constant in the gradient.

    Raises:
        ValueError: for an alpha that is no such fraction, and for a single number as losses.

    >>> losses = torch.tensor([1.0, 4.0, 2.0, 3.0])
    >>> cvar_weights(losses, 0.5).tolist()
    [0.0, 2.0, 0.0, 2.0]
    >>> (cvar_weights(losses, 0.5) * losses).mean()  # of the worst two
    tensor(3.5000)
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha {alpha}: give a fraction above 0, at most 1")
    order = per_image(losses.detach()).argsort(descending=True, stable=True)
    places = torch.arange(len(order), device=order.device)
    weights = (alpha * len(order) - places).clamp(0, 1) / alpha
    return torch.empty_like(weights).scatter_(0, order, weights)

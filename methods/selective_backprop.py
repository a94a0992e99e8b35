"""Selective backprop: a scoring pass decides which images are worth a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from .base import Selecting, Task, UniformEpochs
from .batch import Batch
from .sampler import Sampler, per_image


class SelectiveBackpropSelector(Sampler):
    """Keeps a scored image with probability percentile(loss) ** beta; batches what it keeps.

    Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers". The
    percentile is the share of the last 1,024 scored losses, the batch's own included, that are
    strictly lower; until there are as many, everything is kept. Kept images wait in a queue and
    each B of them make a batch. If percentiles are uniform, 1 / (beta + 1) of the images is kept.

    Whether a batch is full depends on how many images were kept, so one number per scored batch
    is read back from the device.

    How often a process steps depends on what it kept, so several processes that train one model
    together (`DistributedDataParallel`) cannot each have a selector.

    Args:
        batch_size: B, images of a batch to train on.
        beta: exponent of the percentile, at least 0; 1/b - 1 keeps a share of b.
        device, generator: as for `Sampler`.
    """

    HISTORY = 1024

    def __init__(
        self,
        batch_size: int,
        *,
        beta: float,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ):
        super().__init__(device, generator)
        if batch_size < 1 or not beta >= 0:
            raise ValueError("batch_size has to be at least 1 and beta at least 0")
        self.batch_size, self.beta = batch_size, beta
        self.scored = 0  # losses seen
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
        rows = self.kept(losses).nonzero().squeeze(1)
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
        return tuple(column[:size] for column in columns)

    def queue(self) -> list[Tensor]:
        """The kept rows that wait, a tensor for each column; none before the first are kept."""
        return list(map(torch.cat, zip(*self.pieces)))

    def learn(self, losses: Tensor) -> None:
        """Append the losses [b] of a batch to the history."""
        self.scored += len(losses)
        self.history = torch.cat([self.history, losses])[-self.HISTORY :]

    def kept(self, losses: Tensor) -> Tensor:
        """Record the losses [b] of a scored batch and toss its coins: bool [b]."""
        self.learn(losses)
        coins = torch.rand(len(losses), generator=self.rng, device=losses.device)
        if self.scored < self.HISTORY:
            return coins < 1
        # By bisection, because comparing every loss with every other takes twenty times as long.
        # A NaN comes after all others: it is kept, trained on and found.
        lower = torch.searchsorted(self.history.sort().values, losses)
        return coins < (lower / self.HISTORY) ** self.beta

    def move(self, device: torch.device) -> None:
        super().move(device)
        self.pieces = [[column.to(device) for column in columns] for columns in self.pieces]

    def get_extra_state(self) -> dict:
        # Cloned, because a slice would be saved with all of the storage behind it.
        queue = [column.clone() for column in self.queue()]
        return super().get_extra_state() | {"scored": self.scored, "queue": queue}

    def set_extra_state(self, state: dict) -> None:
        super().set_extra_state(state)
        self.scored = state["scored"]
        queue = [column.to(self.device) for column in state["queue"]]
        self.pieces = [queue] if queue else []
        self.waiting = len(queue[0]) if queue else 0


class SelectiveBackprop(Selecting):
    """The `SelectiveBackpropSelector` at work (Jiang et al. 2019).

    beta = 1/b - 1 (the default) spends the budget in about as many passes as epochs. As in the
    authors' code, a first pass trains on every image; here that is at most a tenth of the run, and
    its training losses begin the history.
    """

    def __init__(
        self,
        task: Task,
        *,
        sb_beta: Annotated[
            float | None,
            dict(
                low=0,
                high=1e6,
                help="selective-backprop: exponent of the percentile; default 1/budget - 1, "
                "which keeps a share of `budget` (Jiang et al. 2019)",
            ),
        ] = None,
        uniform_epochs: UniformEpochs = None,
    ):
        super().__init__(task, uniform_epochs=uniform_epochs)
        self.num_candidates = task.batch_size
        self.selector = SelectiveBackpropSelector(
            task.batch_size,
            beta=1 / task.budget - 1 if sb_beta is None else sb_beta,
            device=task.device,
            generator=self.rng,
        )
        self.offered = self.kept = 0  # images scored, and of these kept

    def choose(self, batch: Batch, score: Callable[[Batch], Tensor]) -> Batch | None:
        waiting = self.selector.waiting
        self.selector.keep(batch.losses(score(batch)), *vars(batch).values())
        self.offered += len(batch)
        self.kept += self.selector.waiting - waiting
        ready = self.selector.take()
        return None if ready is None else Batch(*ready)

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        # From then on the history is of the images scored, of which not all are trained on.
        if self.selector.scored < self.uniform_steps * self.task.batch_size:
            self.selector.learn(losses.float())

    def summary(self) -> dict[str, float]:
        return {"realised_fraction": self.kept / self.offered} if self.offered else {}

    def get_extra_state(self) -> dict:
        return super().get_extra_state() | {"offered": self.offered, "kept": self.kept}

    def set_extra_state(self, state: dict) -> None:
        super().set_extra_state(state)
        self.offered, self.kept = state["offered"], state["kept"]

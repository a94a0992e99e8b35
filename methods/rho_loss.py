"""RHO-loss: of many candidates, those whose loss can still be reduced most."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from .base import OptionError, Score, Selecting, Task
from .batch import Batch
from .scores.file import HOW, read_score


class RhoLoss(Selecting):
    """Steps on the B of n * B candidates whose loss exceeds their irreducible loss by most.

    Mindermann et al. 2022, "Prioritized Training on Points that are Learnable, Worth Learning, and
    Not Yet Learnt", Algorithm 1 and its n_b / n_B = 0.1. Candidates are full passes over the images
    that have an irreducible loss, cut in blocks of n * B; a last incomplete one is dropped.

    The irreducible loss of an image is that under a network that was not trained on it, from a
    file made of another run, which held the image out by `validation` (see `methods/scores`).
    Images that no such run held out have none and are never drawn, so that, as in the paper, the
    two networks share no images (unless the file is of several runs, or there are uniform epochs,
    which are of all images).

    Under `label_noise` and `imbalance` the irreducible loss is of the label that this run trains
    on: give both runs the same settings and `data_seed`. A wrong label is one that the other
    network does not expect either, so its irreducible loss is high and the image is seldom chosen.

    Candidates come augmented, irreducible losses are of images as they are.
    Of a mixed image the loss is that of its mixed target, the irreducible one its owner's.
    """

    importance = True

    irreducible_losses: Tensor  # float32 [N]; NaN where an image has none
    scored: Tensor  # int64, images that have one

    def __init__(
        self,
        task: Task,
        *,
        rho_file: Annotated[
            str | None,
            dict(
                metavar="FILE",
                needed=f"a file of irreducible losses; make one with {HOW} from a run with "
                "`validation`",
                help="rho-loss: irreducible losses, made by python -m engine.scores from a run "
                "with `validation`",
            ),
        ] = None,
        rho_candidates: Annotated[
            int,
            dict(
                low=1,
                high=10_000,
                help="rho-loss: batches scored for each one trained on (Mindermann et al. 2022)",
            ),
        ] = 10,
        **options: Any,
    ):
        super().__init__(task, **options)
        values, file = read_score(task, "rho_file", rho_file, "irreducible-loss")
        self.files = {"rho_file": file.sha256}
        self.scoring_cost, self.scoring_seconds = file.cost, file.seconds
        losses = torch.from_numpy(values)
        self.register_buffer("irreducible_losses", losses.to(task.device))
        self.register_buffer("scored", (~losses.isnan()).nonzero().squeeze(1).to(task.device))
        self.num_candidates = rho_candidates * task.batch_size
        if len(self.scored) < self.num_candidates:
            raise OptionError(
                "rho_file",
                f"has irreducible losses of {len(self.scored)} images, fewer than the "
                f"{self.num_candidates} candidates of a step; lower `rho_candidates` or "
                "`batch_size`, or hold out more images with `validation`",
            )

    def draw(self, progress: float) -> Tensor:
        blocks = len(self.scored) // self.num_candidates
        order = self.permutation(len(self.scored))[: blocks * self.num_candidates]
        return self.scored[order].view(blocks, self.num_candidates)

    def choose(self, batch: Batch, score: Score) -> Batch | None:
        reducible = batch.losses(score(batch)) - self.irreducible_losses[batch.index]
        return batch[reducible.topk(self.task.batch_size).indices]

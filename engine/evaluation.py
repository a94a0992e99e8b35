"""Evaluation on the test part of a data set, class by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data import Dataset

from .images import Normalise, place
from .network import Network

Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Evaluation:
    """Results of a model on the test part, summed over the images of each of C classes."""

    counts: np.ndarray  # int64 [C], images; 0 where the test part has none of a class
    correct: np.ndarray  # float64 [C], images classified correctly
    losses: np.ndarray  # float64 [C], cross-entropies in nats
    groups: Evaluation | None = None  # the same images, of each of G groups in place of classes

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all images, in nats."""
        return float(self.losses.sum() / self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Percentage of all images."""
        return float(100 * self.correct.sum() / self.counts.sum())

    @property
    def class_accuracies(self) -> np.ndarray:
        """Percent [K], of the K classes that have test images."""
        tested = self.counts > 0
        return 100 * self.correct[tested] / self.counts[tested]

    def columns(self) -> dict[str, float]:
        """Columns of the curve that come from an evaluation."""
        columns = dict(
            test_loss=self.loss,
            test_accuracy=self.accuracy,
        )
        for kind, found in (("class", self), ("group", self.groups)):
            if found is not None:
                accuracies = found.class_accuracies
                columns[f"worst_{kind}_accuracy"] = float(accuracies.min())
                columns[f"{kind}_accuracy_p5"] = float(np.percentile(accuracies, 5))
        return columns


class Evaluator:
    """Evaluates networks on the test part of a data set.

    Args:
        dataset: of which the test part is used, and the class counts of the training part.
        device: that networks are on.
        resident_limit: GiB of images that may lie on the device, as in `place`.
    """

    def __init__(self, dataset: Dataset, device: torch.device, resident_limit: float | None = None):
        self.images = place(dataset.test_images, device, resident_limit)
        self.labels = torch.tensor(dataset.test_labels, device=device)
        self.normalise = Normalise(dataset, device)
        self.image_shape = dataset.test_images.shape[1:]
        self.classes, self.groups = dataset.classes, dataset.groups
        self.train_counts, self.counts = (
            np.bincount(labels, minlength=len(self.classes))
            for labels in (dataset.train_labels, dataset.test_labels)
        )
        if dataset.test_groups is not None:
            # Groups are summed up like further classes.
            offset = torch.tensor(dataset.test_groups + len(self.classes), device=device)
            self.places = torch.stack([self.labels, offset])
            self.group_counts = np.bincount(dataset.test_groups, minlength=len(self.groups))
        else:
            self.places = self.labels[None]

    def evaluate(self, network: Network) -> Evaluation:
        """Evaluate a network as it is now; each process takes a part of the images."""
        evaluation = self.sum_up(network)
        if network.scaler.is_enabled() and not math.isfinite(evaluation.loss):
            with network.in_float32():  # the range of fp16 may have been too small
                evaluation = self.sum_up(network)
        return evaluation

    @torch.no_grad()
    def sum_up(self, network: Network) -> Evaluation:
        """Evaluate in the network's own precision."""
        network.model.eval()
        n, rank, size = len(self.images), network.world.rank, network.world.size
        own = n * rank // size, n * (rank + 1) // size
        # Correct ones and losses of each class, and of each group.
        shape = 2, len(self.classes) + len(self.groups)
        sums = torch.zeros(shape, dtype=torch.float64, device=network.device)

        def forward(start: int, stop: int) -> tuple[Tensor, Tensor]:
            labels = self.labels[start:stop]
            logits = network.run(network.model, self.normalise(self.images.between(start, stop)))
            losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            places = self.places[:, start:stop]
            return places, torch.stack([logits.argmax(1) == labels, losses]).double()

        for places, results in network.parts.over(*own, self.image_shape, forward):
            for row in places:
                sums.index_add_(1, row, results)
        network.world.all_reduce_sum(sums)
        network.model.train()
        classes = len(self.classes)
        correct, losses = sums.cpu().numpy()
        groups = None
        if self.groups:
            groups = Evaluation(self.group_counts, correct[classes:], losses[classes:])
        return Evaluation(self.counts, correct[:classes], losses[:classes], groups)

    def per_group(self, evaluation: Evaluation) -> list[Row]:
        """Return rows of per_group.csv, one for each group; none without groups."""
        found = evaluation.groups
        return [] if found is None else rows_of("group", self.groups, found)

    def per_class(self, evaluation: Evaluation) -> list[Row]:
        """Return rows of per_class.csv, one for each class."""
        rows = rows_of("class", self.classes, evaluation)
        counts = self.train_counts.tolist()
        return [row | {"train_count": count} for row, count in zip(rows, counts)]


def rows_of(kind: str, names: Sequence[str], found: Evaluation) -> list[Row]:
    """Return a row for each class or group, whose names come in order."""
    numbers = (found.counts, found.correct, found.losses)
    return [
        {
            kind: name,
            "test_count": count,
            "test_accuracy": 100 * correct / count if count else None,
            "test_loss": loss / count if count else None,
        }
        for name, count, correct, loss in zip(names, *(each.tolist() for each in numbers))
    ]

"""The six methods as training loops are usually written, which `end_to_end` times too.

A Dataset of PIL images with torchvision's transforms, a DataLoader made anew every epoch, losses
and accuracies read back every step, NumPy and Python for what a method keeps. Nothing is slowed
down on purpose, and the work is that of the suite: the same network, batches, numbers of steps and
images. Methods have their default options, the schedule is linear, the augmentation standard.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler, Subset
from torchvision import transforms

from budgetbench.hardness_weighted import FLOOR
from data import Dataset
from engine.budget import linear_rate
from engine.models import create_model
from methods import subset_size


class NumberedImages(torch.utils.data.Dataset):
    """Augmented images with their labels and their places in the training set."""

    def __init__(self, dataset: Dataset):
        height, width = dataset.train_images.shape[2:]
        steps = [
            transforms.RandomCrop((height, width), padding=dataset.padding),
            transforms.RandomHorizontalFlip(dataset.flip),
            transforms.ToTensor(),
            transforms.Normalize(dataset.mean, dataset.std),
        ]
        self.transform = transforms.Compose(steps)
        self.images = np.ascontiguousarray(dataset.train_images.transpose(0, 2, 3, 1))
        self.labels = dataset.train_labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index], index


class PlainSGD:
    """SGD: passes over the shuffled images, as far as the budget goes.

    Args:
        dataset: for the shape of its images and its classes.
        images: its training images; several loops may share them.
        settings: train.py's, of which those of task and optimizer are used.
        device: of the network.
        workers: processes of the DataLoader; 0 for none.
    """

    def __init__(
        self,
        dataset: Dataset,
        images: NumberedImages,
        settings: argparse.Namespace,
        device: torch.device,
        workers: int,
    ):
        self.images, self.device, self.workers = images, device, workers
        self.batch_size, self.budget = settings.batch_size, settings.budget
        self.subset_size = subset_size(settings.budget, len(images))
        self.steps_per_epoch = self.subset_size // self.batch_size
        self.classes = len(dataset.classes)
        torch.manual_seed(settings.seed)
        channels, *size = dataset.train_images.shape[1:]
        self.model = create_model(settings.model, channels, self.classes, tuple(size)).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        total, lr = settings.epochs * self.steps_per_epoch, settings.lr
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: linear_rate(min(step, total - 1), total, lr) / lr
        )
        self.images_trained = self.images_scored = 0
        self.loss = self.accuracy = 0.0  # sums over an epoch's steps

    def run_epoch(self, log: Path) -> None:
        """A budgeted epoch, with a line in the log."""
        self.loss = self.accuracy = 0.0
        self.model.train()
        self.make_steps()
        with open(log, "a", newline="") as file:
            means = (self.loss / self.steps_per_epoch, self.accuracy / self.steps_per_epoch)
            csv.writer(file).writerow([self.images_trained, *means])

    def make_steps(self) -> None:
        for images, labels, index in self.loader():
            self.make_step(images, labels, index)

    def loader(self) -> DataLoader:
        """The epoch's batches."""
        count = self.steps_per_epoch * self.batch_size
        sampler = RandomSampler(self.images, num_samples=count)
        return DataLoader(self.images, self.batch_size, sampler=sampler, num_workers=self.workers)

    def shuffled(self, images: torch.utils.data.Dataset) -> DataLoader:
        """A pass over images; the last incomplete batch is dropped."""
        return DataLoader(
            images, self.batch_size, shuffle=True, drop_last=True, num_workers=self.workers
        )

    def make_step(self, images: Tensor, labels: Tensor, index: Tensor) -> None:
        images, labels = images.to(self.device), labels.to(self.device)
        logits = self.model(images)
        losses = F.cross_entropy(logits, labels, reduction="none")
        loss = losses.mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.learn(index, labels, logits.detach(), losses.detach())
        self.loss += loss.item()
        self.accuracy += (logits.argmax(1) == labels).float().mean().item()
        self.images_trained += len(labels)

    def learn(self, index: Tensor, labels: Tensor, logits: Tensor, losses: Tensor) -> None:
        """Learn from a step."""


class PlainUnifSGD(PlainSGD):
    """unif-SGD: a DataLoader over a fresh subset every epoch."""

    def loader(self) -> DataLoader:
        return self.shuffled(Subset(self.images, self.draw().tolist()))

    def draw(self) -> np.ndarray:
        return np.random.permutation(len(self.images))[: self.subset_size]


class PlainPSGD(PlainUnifSGD):
    """p-SGD: NumPy's draw without replacement, by the mean of 1 - p and its mean on top."""

    def __init__(self, *task):
        super().__init__(*task)
        self.total, self.visits = np.zeros((2, len(self.images)))

    def draw(self) -> np.ndarray:
        weights = self.weights()
        return np.random.choice(
            len(weights), self.subset_size, replace=False, p=weights / weights.sum()
        )

    def weights(self) -> np.ndarray:
        weights = np.ones(len(self.images))
        seen = self.visits > 0
        if seen.any():
            weights[seen] = self.importance(self.total[seen] / self.visits[seen])
            weights[~seen] = weights[seen].max()
        return weights + weights.mean()

    def importance(self, error: np.ndarray) -> np.ndarray:
        return error

    def learn(self, index: Tensor, labels: Tensor, logits: Tensor, losses: Tensor) -> None:
        probability = logits.softmax(1).gather(1, labels[:, None]).squeeze(1).cpu().numpy()
        self.total[index.numpy()] += 1 - probability
        self.visits[index.numpy()] += 1


class PlainCSGD(PlainPSGD):
    """c-SGD: as p-SGD, by a * (1 - a)."""

    def importance(self, error: np.ndarray) -> np.ndarray:
        return error * (1 - error)


@dataclass
class Candidate:
    """A scored image that may be trained on."""

    image: Tensor
    label: Tensor
    index: Tensor
    loss: float
    percentile: float = 0.0


class PlainSelectiveBackprop(PlainSGD):
    """selective-backprop: an object per scored image, a coin for each, a list of those kept."""

    HISTORY = 1024

    def __init__(self, *task):
        super().__init__(*task)
        self.beta = 1 / self.budget - 1
        self.history: deque[float] = deque(maxlen=self.HISTORY)
        self.kept: list[Candidate] = []

    def make_steps(self) -> None:
        steps = 0
        while True:
            for scored in self.shuffled(self.images):
                self.kept += [each for each in self.score(*scored) if self.keeps(each)]
                if len(self.kept) >= self.batch_size:
                    batch, self.kept = self.kept[: self.batch_size], self.kept[self.batch_size :]
                    columns = ((each.image, each.label, each.index) for each in batch)
                    self.make_step(*map(torch.stack, zip(*columns)))
                    steps += 1
                if steps == self.steps_per_epoch:
                    return

    def score(self, images: Tensor, labels: Tensor, index: Tensor) -> list[Candidate]:
        self.model.eval()
        with torch.no_grad():
            logits = self.model(images.to(self.device))
            losses = F.cross_entropy(logits, labels.to(self.device), reduction="none")
        self.model.train()
        self.images_scored += len(labels)
        rows = zip(images, labels, index, losses)
        candidates = [Candidate(*row, loss.item()) for *row, loss in rows]
        self.history.extend(each.loss for each in candidates)
        for each in candidates:
            lower = sum(loss < each.loss for loss in self.history)
            each.percentile = lower / len(self.history)
        return candidates

    def keeps(self, candidate: Candidate) -> bool:
        if len(self.history) < self.HISTORY:
            return True
        return random.random() < candidate.percentile**self.beta


class HardBatches(Sampler[list[int]]):
    """A batch for each step, drawn from a softmax over all stale losses.

    With workers the DataLoader asks some batches ahead, which then lack the losses of these steps.
    """

    def __init__(self, stale: np.ndarray, batch_size: int, steps: int):
        self.stale, self.batch_size, self.steps = stale, batch_size, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.steps):
            exponentials = np.exp(self.stale - self.stale.max())
            probabilities = np.maximum(exponentials / exponentials.sum(), FLOOR / len(self.stale))
            probabilities /= probabilities.sum()
            drawn = np.random.choice(
                len(self.stale), self.batch_size, replace=False, p=probabilities
            )
            yield drawn.tolist()


class PlainDRO(PlainSGD):
    """dro: NumPy's draw from a softmax every step, losses written back one by one."""

    def __init__(self, *task):
        super().__init__(*task)
        noise = 1 + 0.001 * np.random.standard_normal(len(self.images))
        self.stale = np.log(self.classes) * noise

    def loader(self) -> DataLoader:
        batches = HardBatches(self.stale, self.batch_size, self.steps_per_epoch)
        return DataLoader(self.images, batch_sampler=batches, num_workers=self.workers)

    def learn(self, index: Tensor, labels: Tensor, logits: Tensor, losses: Tensor) -> None:
        for image, loss in zip(index, losses):
            self.stale[image.item()] = loss.item()


PLAIN_LOOPS: dict[str, Callable[..., PlainSGD]] = {
    "SGD": PlainSGD,
    "unif-SGD": PlainUnifSGD,
    "p-SGD": PlainPSGD,
    "c-SGD": PlainCSGD,
    "selective-backprop": PlainSelectiveBackprop,
    "dro": PlainDRO,
}

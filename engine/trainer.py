"""The training loop: it owns budget, schedule, logging; a method only answers its questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data import Dataset
from errors import Diverged
from methods import Batch, Method

from .budget import TRAINING_COST, Budget
from .clock import Clock
from .images import place
from .loader import Stream
from .network import Network

DROPOUT = 3  # keeps its draws apart from those of the stream and of the method, which use 0 to 2


@dataclass(frozen=True)
class Evaluation:
    """How a model does on the test part, summed over the images of each of C classes."""

    counts: np.ndarray  # int64 [C], images; 0 where the test part has none of a class
    hits: np.ndarray  # float64 [C], images classified right
    losses: np.ndarray  # float64 [C], cross-entropies in nats

    @property
    def loss(self) -> float:
        """Mean cross-entropy over all images, in nats."""
        return float(self.losses.sum() / self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Of all images, in percent."""
        return float(100 * self.hits.sum() / self.counts.sum())

    @property
    def class_accuracies(self) -> np.ndarray:
        """Percent [K], of the K classes that have test images."""
        tested = self.counts > 0
        return 100 * self.hits[tested] / self.counts[tested]

    def columns(self) -> dict[str, float]:
        """What the curve says of it."""
        return dict(
            test_loss=self.loss,
            test_accuracy=self.accuracy,
            worst_class_accuracy=float(self.class_accuracies.min()),
            class_accuracy_p5=float(np.percentile(self.class_accuracies, 5)),
        )


class Trainer:
    """One run, and where it stands.

    Args:
        network: the model and how it is run; on the method's device.
        method: where to spend the budget.
        stream: makes augmented batches of the indices that the method draws.
        dataset: its test part is evaluated, class by class.
        budget: when an epoch ends.
        rate: learning rate of a step, counted from 0.
        momentum, weight_decay: of SGD.
    """

    PARTS = ("model", "optimizer", "scaler", "method", "stream", "clock")
    COUNTERS = ("step", "logged_step", "images_scored", "uses", "tally", "good_steps")

    def __init__(
        self,
        network: Network,
        method: Method,
        stream: Stream,
        dataset: Dataset,
        budget: Budget,
        rate: Callable[[float], float],
        momentum: float,
        weight_decay: float,
    ):
        self.network, self.method, self.stream = network, method, stream
        self.model, self.scaler, self.world = network.model, network.scaler, network.world
        self.budget, self.rate = budget, rate
        self.task = method.task
        device = self.task.device
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=rate(0),
            momentum=momentum,
            weight_decay=weight_decay,
            fused=True,
        )
        if momentum:
            # PyTorch's fused SGD would take these from uninitialised memory where the gradient
            # scaler skips the first step. From zeros, the first step is the same.
            for parameter in self.model.parameters():
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.test_images = place(dataset.test_images, device, stream.resident_limit)
        self.test_labels = torch.tensor(dataset.test_labels, device=device)
        self.classes = dataset.classes
        self.train_counts = np.bincount(dataset.train_labels, minlength=len(self.classes))
        self.test_counts = np.bincount(dataset.test_labels, minlength=len(self.classes))
        self.evaluation: Evaluation | None = None  # at the end of the last epoch
        self.step = 0  # optimizer steps made
        self.logged_step = 0  # the last one of the epoch before
        self.images_scored = 0  # images forwarded only to choose among them
        self.uses = torch.zeros(self.task.num_images, device=device)  # trainings on each image
        self.tally = torch.zeros(2, dtype=torch.float64, device=device)  # losses, hits of an epoch
        self.good_steps = torch.zeros((), dtype=torch.int64, device=device)  # with finite sums
        self.ones = torch.ones(self.task.batch_size, device=device)
        self.clock = Clock(device)

    @property
    def spent(self) -> int:
        """What counts as spent so far, of `budget.total`."""
        return self.budget.spent(self.step, self.images_scored)

    @property
    def position(self) -> float:
        """The steps that plain SGD would have made for what is spent."""
        return self.budget.position(self.spent)

    @property
    def epoch(self) -> int:
        """Budgeted epochs that are complete."""
        return self.budget.epoch(self.spent)

    @property
    def finished(self) -> bool:
        return self.epoch == self.budget.epochs

    @property
    def starts_uniformly(self) -> bool:
        """Whether the next step is one of those at the start that are plain SGD's."""
        return self.step < self.method.uniform_steps

    def start(self) -> None:
        """Get ready for steps; time spent before this is nobody's."""
        self.model.train()
        self.clock.restart()

    def warm_up(self) -> float:
        """Compile the network; the seconds that took. No state changes."""
        image = self.test_images.between(0, 1)
        images, candidates = (
            self.stream.normalise(image.expand(count, -1, -1, -1)) if count else None
            for count in (self.task.batch_size, self.method.num_candidates)
        )
        return self.network.warm_up(images, candidates)

    def next_batch(self) -> Batch:
        """The next B images to step on, however many candidates that takes."""
        while True:
            if self.stream.exhausted:
                self.stream.refill(self.draw())
                self.clock.lap("select")
            candidates = self.stream.next()
            self.clock.lap("data")
            if self.starts_uniformly:
                return candidates
            batch = self.method.choose(candidates, self.score)
            self.clock.lap("select")
            if batch is not None:
                return batch

    def draw(self) -> Tensor:
        """The method's next block; while it starts uniformly, plain SGD's, up to the last step."""
        progress = self.spent / self.budget.total
        if self.starts_uniformly:
            return self.method.plain.draw(progress)[: self.method.uniform_steps - self.step]
        return self.method.draw(progress)

    def score(self, batch: Batch) -> Tensor:
        """Logits [b, C] of candidates in eval mode, without gradient; counted as scored."""
        self.images_scored += len(batch)
        return self.network.score(batch.images)

    def make_step(self, batch: Batch) -> None:
        """One optimizer step on a batch of B images, each process training on its part of it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.position)
        while (seen := self.try_step(batch)) is None:
            if self.scaler.get_scale() < 1:
                raise Diverged(
                    f"the loss or its gradient became NaN or infinite at step {self.step + 1}, in "
                    f"float16 even without scaling; the curve up to epoch {self.epoch} is kept; "
                    "try a lower --lr, or --amp bf16"
                )
        logits, losses = seen
        self.count(batch, logits, losses)
        self.step += 1
        self.clock.lap("train")
        self.method.observe(batch, logits, losses)
        self.clock.lap("select")

    def try_step(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """The logits [B, C] and losses [B] of a step; None if it overflowed and was not made.

        Whatever is drawn in a forward pass, such as dropout's masks, is drawn from generators that
        depend on seed, step and process alone: a run can go on from any step, in any number of
        processes, and no two of these drop the same.
        """
        seed_torch([self.stream.seed, DROPOUT, self.step, self.world.rank], self.task.device)
        mine = self.world.part(batch)
        own_logits = self.network(mine.images)
        own_losses = mine.losses(own_logits)
        # What the step shows of every image, the same in all processes.
        logits = self.world.gather(own_logits.detach())
        losses = self.world.gather(own_losses.detach())
        self.clock.lap("train")
        weights = None if self.starts_uniformly else self.method.reweigh(batch, losses)
        self.clock.lap("select")
        weighted = own_losses if weights is None else self.world.part(weights) * own_losses
        made = self.network.update(weighted.mean(), self.optimizer)
        return (logits, losses) if made else None

    def count(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        """Add a step to the epoch's sums, on the device."""
        hits = (logits.argmax(1) == batch.labels).sum()
        total = losses.sum(dtype=torch.float64)
        self.tally += torch.stack([total, hits])
        self.uses.index_add_(0, batch.index, self.ones)
        # Once a loss is not finite, neither is any later sum.
        self.good_steps += self.tally[0].isfinite()

    def finish_epoch(self, evaluate: bool = True) -> dict[str, float]:
        """Return the epoch's row of the curve, with test columns if so wished; sums start again."""
        kept = f"the curve up to epoch {self.epoch - 1} is kept; try a lower --lr"
        good_steps = int(self.good_steps)
        if good_steps < self.step:
            raise Diverged(f"the loss became NaN or infinite at step {good_steps + 1}; {kept}")
        self.clock.lap("train")
        results = {}
        if evaluate:
            self.evaluation = self.evaluate()
            if self.scaler.is_enabled() and not math.isfinite(self.evaluation.loss):
                with self.network.in_float32():  # the range of fp16 may have been too small
                    self.evaluation = self.evaluate()
            results = self.evaluation.columns()
            self.clock.lap("eval")
            if not math.isfinite(self.evaluation.loss):
                raise Diverged(f"the test loss is NaN or infinite after step {self.step}; {kept}")
        images = (self.step - self.logged_step) * self.task.batch_size
        self.logged_step = self.step
        images_trained = self.step * self.task.batch_size
        train_loss, hits = self.tally.tolist()
        self.tally.zero_()
        share = self.uses.double() / self.uses.sum()
        self.world.check_alike(share)
        return dict(
            epoch=self.epoch,
            step=self.step,
            lr=self.optimizer.param_groups[0]["lr"],
            train_loss=train_loss / images,
            train_accuracy=100 * hits / images,
            **results,
            images_scored=self.images_scored,
            images_trained=images_trained,
            cost=self.images_scored + TRAINING_COST * images_trained,
            count_entropy=-float(torch.special.xlogy(share, share).sum()),
            select_seconds=self.clock.seconds("select"),
            data_seconds=self.clock.seconds("data"),
            train_seconds=self.clock.seconds("train"),
            eval_seconds=self.clock.seconds("eval"),
        )

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """How the model does on the test part now; each process takes some of it."""
        self.model.eval()
        n, rank, size = len(self.test_images), self.world.rank, self.world.size
        mine = n * rank // size, n * (rank + 1) // size
        shape = 2, len(self.classes)  # hits and losses of each class
        sums = torch.zeros(shape, dtype=torch.float64, device=self.task.device)

        def forward(start: int, stop: int) -> tuple[Tensor, Tensor]:
            images = self.test_images.between(start, stop)
            labels = self.test_labels[start:stop]
            logits = self.network.run(self.model, self.stream.normalise(images))
            losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            return labels, torch.stack([logits.argmax(1) == labels, losses]).double()

        image = self.test_images.images.shape[1:]
        for labels, seen in self.network.parts.over(*mine, image, forward):
            sums.index_add_(1, labels, seen)
        self.world.sum(sums)
        self.model.train()
        hits, losses = sums.cpu().numpy()
        return Evaluation(self.test_counts, hits, losses)

    def per_class(self) -> list[dict[str, str | int | float | None]]:
        """The last epoch's evaluation as rows of per_class.csv, one for each class."""
        test = self.evaluation
        numbers = (self.train_counts, test.counts, test.hits, test.losses)
        return [
            {
                "class": name,
                "train_count": train_count,
                "test_count": count,
                "test_accuracy": 100 * hits / count if count else None,
                "test_loss": loss / count if count else None,
            }
            for name, train_count, count, hits, loss in zip(
                self.classes, *(each.tolist() for each in numbers)
            )
        ]

    def state_dict(self) -> dict:
        """All that the rest of the run depends on."""
        state = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return state | {name: getattr(self, name) for name in self.COUNTERS}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict` made on the same kind of device: generators differ by kind."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self.COUNTERS:
            value = state[name]
            setattr(self, name, value.to(self.task.device) if torch.is_tensor(value) else value)


def seed_torch(words: Sequence[int], device: torch.device) -> None:
    """Seed PyTorch's own generator of a device by some numbers together."""
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)

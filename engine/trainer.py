"""State of a run: all that the loop changes and a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from errors import Diverged, UsageError
from methods import Batch, Method

from .answers import check_block
from .budget import TRAINING_COST, Budget
from .clock import Clock
from .evaluation import Evaluation, Evaluator
from .loader import Loader
from .network import Network
from .optimizer import SGD

PATIENCE = 10  # passes over the data set whose images a method may turn down before a step
DROPOUT = 3  # keeps its draws apart from those of the loader and of the method, which use 0 to 2


class Trainer:
    """The parts and counts of one run; `engine.loop.train` makes its steps.

    Args:
        network: the model and how it is run.
        method: where to spend the budget; on the network's device, like all that follows.
        loader: makes augmented batches of the indices that the method draws.
        evaluator: has the test images.
        budget: when an epoch ends.
        rate: learning rate of a step, counted from 0.
        momentum, weight_decay: of SGD.
    """

    PARTS = ("model", "optimizer", "scaler", "method", "loader", "clock")
    COUNTERS = (
        "step",
        "logged_step",
        "images_scored",
        "sample_counts",
        "epoch_sums",
        "finite_steps",
    )

    def __init__(
        self,
        network: Network,
        method: Method,
        loader: Loader,
        evaluator: Evaluator,
        budget: Budget,
        rate: Callable[[float], float],
        momentum: float,
        weight_decay: float,
    ):
        self.network, self.method, self.loader = network, method, loader
        self.evaluator, self.budget, self.rate = evaluator, budget, rate
        self.model, self.scaler, self.world = network.model, network.scaler, network.world
        self.task, self.device = budget.task, network.device
        self.optimizer = SGD(
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
        self.clock = Clock(self.device)
        self.evaluation: Evaluation | None = None  # the last one
        self.step = 0  # optimizer steps made
        self.logged_step = 0  # the last one of the epoch before
        self.turned_down = 0  # candidates since the last step
        self.images_scored = 0  # images forwarded only to choose among them
        # Counts stay on the device, where adding to them makes nothing wait.
        self.sample_counts = torch.zeros(self.task.num_images, device=self.device)
        self.epoch_sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # losses, correct
        self.finite_steps = torch.zeros((), dtype=torch.int64, device=self.device)
        self.ones = torch.ones(self.task.batch_size, device=self.device)
        self.score = Scoring(self)

    @property
    def spent(self) -> int:
        """Compute spent so far, of `budget.total`."""
        return self.budget.spent(self.step, self.images_scored)

    @property
    def progress(self) -> float:
        """Fraction of the budget that is spent, in [0, 1]."""
        return self.spent / self.budget.total

    @property
    def position(self) -> float:
        """Steps that plain SGD would have made for what is spent."""
        return self.budget.position(self.spent)

    @property
    def epoch(self) -> int:
        """Budgeted epochs that are complete."""
        return self.budget.epoch(self.spent)

    @property
    def finished(self) -> bool:
        return self.epoch == self.task.epochs

    @property
    def starts_uniformly(self) -> bool:
        """True while the next step is one of those at the start that are plain SGD's."""
        return self.step < self.method.uniform_steps

    def start(self) -> None:
        """Get ready for steps; the time spent before this is untimed."""
        self.model.train()
        self.clock.restart()

    def warm_up(self) -> float:
        """Compile the network and return the seconds that took; no state changes."""
        image = self.evaluator.images.between(0, 1)
        images, candidates = (
            self.evaluator.normalise(image.expand(count, -1, -1, -1))
            for count in (self.task.batch_size, self.method.num_candidates or 1)
        )
        return self.network.warm_up(images, candidates if self.method.num_candidates else None)

    def draw(self) -> Tensor:
        """Return the next block of indices [k, b] to draw, in a uniform start that of plain SGD.

        The last block of the start is cut, so that the method's own first draw is made when its
        own steps begin.
        """
        if self.starts_uniformly:
            left = self.method.uniform_steps - self.step
            return self.method.plain.draw(self.progress)[:left]
        return check_block(self.method.draw(self.progress), self.task)

    def turn_down(self, candidates: Batch) -> None:
        """Count candidates that the method has chosen none of, for a step is never to come."""
        self.turned_down += len(candidates)
        if self.turned_down > PATIENCE * max(self.task.num_images, len(candidates)):
            raise UsageError(
                f"`method`: choose gave None for {self.turned_down} images in a row; it has to "
                "give a batch at times"
            )

    def set_learning_rate(self) -> None:
        """Set the rate by what is spent, so that it ends where it should under any budget."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.position)

    def seed_step(self) -> None:
        """Seed what a forward pass draws, such as dropout's masks, by seed, step and process alone.

        A run can resume at any step, in any number of processes, and no two of these drop the
        same.
        """
        seed_torch([self.loader.seed, DROPOUT, self.step, self.world.rank], self.device)

    def check_scale(self, updated: bool) -> None:
        """Raise Diverged where an fp16 step was not made, and a lower scale would not help."""
        if not updated and self.scaler.get_scale() < 1:
            raise Diverged(
                f"the loss or its gradient became NaN or infinite at step {self.step + 1}, in "
                f"float16 even without scaling; the curve up to epoch {self.epoch} is kept; "
                "try a lower `lr`, or `amp` bf16"
            )

    def count_step(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        """Count a step that was made, on the device."""
        correct = (logits.argmax(1) == batch.labels).sum()
        total = losses.sum(dtype=torch.float64)
        self.epoch_sums += torch.stack([total, correct])
        self.sample_counts.index_add_(0, batch.index, self.ones)
        # Once a loss is not finite, neither is any later sum.
        self.finite_steps += self.epoch_sums[0].isfinite()
        self.step += 1
        self.turned_down = 0

    def check_losses(self) -> None:
        """Raise Diverged if any training loss was not finite; the host waits for the device."""
        finite_steps = int(self.finite_steps)
        if finite_steps < self.step:
            raise Diverged(
                f"the loss became NaN or infinite at step {finite_steps + 1}; {self.kept}"
            )

    def evaluate(self) -> Evaluation:
        """Evaluate the model on the test part; Diverged if its loss is not finite."""
        self.evaluation = self.evaluator.evaluate(self.network)
        if not math.isfinite(self.evaluation.loss):
            raise Diverged(f"the test loss is NaN or infinite after step {self.step}; {self.kept}")
        return self.evaluation

    @property
    def kept(self) -> str:
        """End of a message: what is left of a run that diverged, and what to try."""
        return f"the curve up to epoch {self.epoch - 1} is kept; try a lower `lr`"

    def finish_epoch(self, evaluation: Evaluation | None) -> dict[str, float]:
        """Return the epoch's row of the curve, without test columns if there is no evaluation."""
        images = (self.step - self.logged_step) * self.task.batch_size
        self.logged_step = self.step
        images_trained = self.step * self.task.batch_size
        train_loss, correct = self.epoch_sums.tolist()
        self.epoch_sums.zero_()
        fractions = self.sample_counts.double() / self.sample_counts.sum()
        self.world.check_in_sync(fractions)
        return dict(
            epoch=self.epoch,
            step=self.step,
            lr=self.optimizer.param_groups[0]["lr"],
            train_loss=train_loss / images,
            train_accuracy=100 * correct / images,
            **(evaluation.columns() if evaluation else {}),
            images_scored=self.images_scored,
            images_trained=images_trained,
            cost=self.images_scored + TRAINING_COST * images_trained,
            count_entropy=-float(torch.special.xlogy(fractions, fractions).sum()),
            select_seconds=self.clock.seconds("select"),
            data_seconds=self.clock.seconds("data"),
            train_seconds=self.clock.seconds("train"),
            eval_seconds=self.clock.seconds("eval"),
        )

    def per_class(self) -> list[dict[str, str | int | float | None]]:
        """Return the last evaluation as rows of per_class.csv."""
        assert self.evaluation is not None, "a run ends with an evaluation"
        return self.evaluator.per_class(self.evaluation)

    def per_group(self) -> list[dict[str, str | int | float | None]]:
        """Return it as rows of per_group.csv; none without groups."""
        assert self.evaluation is not None, "a run ends with an evaluation"
        return self.evaluator.per_group(self.evaluation)

    def state_dict(self) -> dict:
        """All that the rest of the run depends on."""
        state = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return state | {name: getattr(self, name) for name in self.COUNTERS}

    def load_state_dict(self, state: Mapping) -> None:
        """Resume from a `state_dict` made on the same kind of device: generators differ by kind."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self.COUNTERS:
            value = state[name]
            setattr(self, name, value.to(self.device) if torch.is_tensor(value) else value)


class Scoring:
    """The network of a run as its method asks it about candidates, see `methods.Score`.

    Args:
        trainer: of the run; counts what was scored.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def __call__(self, batch: Batch) -> Tensor:
        self.trainer.images_scored += len(batch)
        return self.trainer.network.score(batch.images)

    def with_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.trainer.images_scored += len(batch)
        return self.trainer.network.score_with_features(batch.images)


def seed_torch(words: Sequence[int], device: torch.device) -> None:
    """Seed PyTorch's own generator of a device by some numbers together."""
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)

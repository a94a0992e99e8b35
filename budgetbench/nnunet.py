"""Trainers for nnU-Net v2 that choose the training cases of every batch.

    python -m budgetbench.nnunet install FOLDER
    export nnUNet_extTrainer=FOLDER
    nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerHWS

nnU-Net draws cases in worker processes, which would never see what training learns. Here all draws
are made in the main process and travel to the workers as names of cases, through a queue: one
state, one generator. A batch is drawn `draws_ahead` steps before it is trained on.

Put `HardnessWeighted` before any other trainer to have it there, in a file of the same folder:

    from budgetbench.nnunet import HardnessWeighted
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class MyTrainer(HardnessWeighted, nnUNetTrainer):
        beta = 5.0
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import shlex
import sys
from collections.abc import Iterable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from .hardness_weighted import HardnessWeightedSampler
from .sampler import BatchSampler, mean_per_index
from .subset import PSGDSampler
from .unreduced import unreduced

VARIABLE = "nnUNet_extTrainer"  # folders in which nnU-Net looks for trainers
HARDEST = 5  # cases that the log names
Base: Any = object  # of the mixins: nnU-Net's trainers have no types


class CaseQueue:
    """Names of the cases of the next batches; a loader's `get_indices`, in whichever process."""

    def __init__(self) -> None:
        self.queue: Queue = multiprocessing.Queue()
        self.queue.cancel_join_thread()  # a training that fails does not wait for its readers

    def put(self, cases: list[str] | None) -> None:
        self.queue.put(cases)

    def __call__(self) -> list[str]:
        cases = self.queue.get()
        if cases is None:
            raise KeyboardInterrupt  # on which workers of batchgenerators end, without a word
        return cases


class CaseSampling(Base):
    """Trains an nnU-Net trainer on cases that a sampler draws; the base of those below.

    Attributes:
        draws_ahead: steps from the draw of a batch to its training, at least 1; workers idle where
            it is smaller than their number.
    """

    draws_ahead = 16
    sampler: Any
    loss: Any
    checkpoint: str | None = None  # that training continues from

    # --- What differs between samplers ---

    def make_sampler(self, cases: int, batch_size: int, generator: torch.Generator) -> BatchSampler:
        """A sampler for so many cases, and batches of all processes together."""
        raise NotImplementedError

    def draw_batches(self) -> list[list[int]]:
        """The cases of the next batches, one or more, of all processes together."""
        raise NotImplementedError

    def training_loss(self, outputs: Any, targets: Any) -> Tensor:
        """The loss to train on; notes in `measured` [b] what the sampler is to learn."""
        raise NotImplementedError

    def describe(self) -> str:
        """Settings, for the log."""
        raise NotImplementedError

    # --- Drawing ---

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's, of which that of the training cases takes them from the queue."""
        train, val = super().get_dataloaders()
        alone = isinstance(train, SingleThreadedAugmenter)
        loader = train.data_loader if alone else train.generator
        if not alone:
            train._finish()  # it starts again when the first batch is asked for
            module = sys.modules.get(CaseQueue.__module__)
            if getattr(module, "CaseQueue", None) is not CaseQueue:
                end(
                    "worker processes cannot import the trainer: install the package, and let "
                    "`python -m budgetbench.nnunet install FOLDER` write the file"
                )
        self.name_cases(map(str, loader.indices))
        sizes = self.gathered(self.batch_size)
        first = sum(sizes[: self.local_rank])
        self.part = slice(first, first + self.batch_size)
        seed = self.gathered(int(torch.randint(2**63 - 1, ())))[0]
        generator = torch.Generator().manual_seed(seed)
        self.sampler = self.make_sampler(len(self.cases), sum(sizes), generator)
        self.batches: list[list[int]] = []  # drawn and not yet handed out, of all processes
        self.waiting: list[list[str]] = []  # handed out and not yet trained on
        if self.checkpoint is not None:
            self.restore(state_file(self.checkpoint))
        self.queue = CaseQueue()
        for cases in self.waiting:
            self.queue.put(cases)
        self.draw()
        loader.get_indices = self.queue
        self.print_to_log_file(
            f"{self.describe()}; {len(self.cases)} cases, each batch drawn "
            f"{self.draws_ahead} steps before it is trained on"
        )
        return train, val

    def name_cases(self, cases: Iterable[str]) -> None:
        """Number the training cases, in the order that the sampler has them."""
        self.cases = list(cases)
        self.place = {case: i for i, case in enumerate(self.cases)}

    def draw(self) -> None:
        """Draw until as many batches wait as are to be drawn ahead."""
        while len(self.waiting) < self.draws_ahead:
            self.batches = self.batches or self.draw_batches()
            cases = [self.cases[i] for i in self.batches.pop(0)[self.part]]
            self.waiting.append(cases)
            self.queue.put(cases)

    def gathered(self, value: Any) -> list[Any]:
        """A value of each process, in the order of their ranks."""
        if not self.is_ddp:
            return [value]
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    # --- Training ---

    def initialize(self) -> None:
        """nnU-Net's, and its loss once more, for one case at a time."""
        super().initialize()
        loss = self._build_loss()
        for module in loss.modules():
            if hasattr(module, "ddp"):
                module.ddp = False  # a case is of this process alone: nothing is to be gathered
        self.case_loss = unreduced(loss)

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's, with `training_loss` in place of its loss; then learn, and draw once more."""
        cases = list(map(str, batch["keys"]))
        self.waiting.remove(cases)
        self.trained = [self.place[case] for case in cases]
        self.batch_loss, self.loss = self.loss, self.training_loss
        try:
            result = super().train_step(batch)
        finally:
            self.loss = self.batch_loss
        self.learn(self.trained, self.measured)
        self.draw()
        return result

    def learn(self, cases: list[int], measured: Tensor) -> None:
        """Let the sampler learn from a batch, and from those of the other processes."""
        pairs = [pair for part in self.gathered([*zip(cases, measured.tolist())]) for pair in part]
        index, values = (torch.tensor(column) for column in zip(*pairs))
        # Half precision overflows at times; nnU-Net leaves out the step then.
        finite = values.isfinite()
        if finite.any():
            # A case may come twice: within a batch, or in batches of two processes.
            self.sampler.update(*mean_per_index(index[finite], values[finite]))
        self.seen.extend(case for case, _ in pairs)

    # --- The log ---

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.seen: list[int] = []  # cases trained on in this epoch

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """nnU-Net's, and one line in the log and in `sampling.csv`."""
        super().on_train_epoch_end(train_outputs)
        share = torch.bincount(torch.tensor(self.seen), minlength=len(self.cases)) / len(self.seen)
        row = {
            "epoch": self.current_epoch,
            "draws": len(self.seen),
            "distinct": round((share > 0).float().mean().item(), 4),
            "entropy": round(torch.special.entr(share).sum().item(), 4),
            "highest_entropy": round(torch.tensor(len(self.cases)).log().item(), 4),
            "most_drawn": self.names(share),
            "hardest": self.names(self.hardness()),
        }
        self.print_to_log_file(
            f"{row['distinct']:.1%} of cases drawn, entropy {row['entropy']:.3f} of "
            f"{row['highest_entropy']:.3f}; hardest: {row['hardest'].replace(';', ', ')}"
        )
        if self.local_rank == 0:
            file = Path(self.output_folder, "sampling.csv")
            # A training that continues from a checkpoint makes later epochs anew.
            rows = [*csv.DictReader(file.open())] if file.exists() else []
            rows = [old for old in rows if int(old["epoch"]) < self.current_epoch]
            with file.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, row)
                writer.writeheader()
                writer.writerows([*rows, row])

    def hardness(self) -> Tensor:
        """How hard the sampler takes each case to be: [N]."""
        raise NotImplementedError

    def names(self, values: Tensor) -> str:
        """Names of the cases with the highest values, highest first."""
        highest = values.topk(min(HARDEST, len(values))).indices.tolist()
        return ";".join(self.cases[i] for i in highest)

    # --- Stopping and going on ---

    def wake_workers(self) -> None:
        """Let the worker processes end, which else would wait for a draw that never comes."""
        train = self.dataloader_train
        if getattr(train, "results_loop_thread", None):
            # First the thread that takes their batches, which complains if they end before it.
            train.abort_event.set()
            train.results_loop_thread.join()
            for _ in range(train.num_processes):
                self.queue.put(None)

    def on_train_end(self) -> None:
        self.wake_workers()
        super().on_train_end()
        if self.local_rank == 0:
            state_file(os.path.join(self.output_folder, "checkpoint_latest.pth")).unlink(True)

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's, and the sampler's state in a file beside it."""
        super().save_checkpoint(filename)
        if self.disable_checkpointing:
            return
        waiting = self.gathered(self.waiting)
        if self.local_rank == 0:
            state = {
                "cases": self.cases,
                "epoch": self.current_epoch + 1,
                "sampler": self.sampler.state_dict(),
                "batches": self.batches,
                "waiting": waiting,
            }
            torch.save(state, state_file(filename))

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """nnU-Net's; the sampler's state is loaded when there are cases to draw."""
        super().load_checkpoint(filename_or_checkpoint)
        self.checkpoint = filename_or_checkpoint

    def restore(self, file: Path) -> None:
        """Load what `save_checkpoint` saved, or end with a line that says why not."""
        if not file.exists():
            end(f"{file} is missing: start without --c, or with the trainer that was trained with")
        state = torch.load(file, weights_only=True)
        ranks = len(state["waiting"])
        if set(state["cases"]) != set(self.cases):
            end(f"{file} is of other training cases: start without --c, or with its own fold")
        if ranks != len(self.gathered(0)):
            end(f"{file} is of {ranks} processes: give -num_gpus {ranks}")
        if state["epoch"] != self.current_epoch:
            end(f"{file} is of epoch {state['epoch']}, its checkpoint of {self.current_epoch}")
        self.name_cases(state["cases"])
        self.sampler.load_state_dict(state["sampler"])
        self.batches, self.waiting = state["batches"], state["waiting"][self.local_rank]


class HardnessWeighted(CaseSampling):
    """Draws each batch from softmax(beta * last known losses of the cases).

    Fidon et al. 2022, "Distributionally Robust Deep Learning using Hardness Weighted Sampling", by
    the `HardnessWeightedSampler`. The loss of a case is nnU-Net's own, of the patch of it that was
    trained on (see `unreduced` for what `batch_dice` makes of it).

    Attributes:
        beta: robustness, per unit of loss, at least 0: 0 is uniform sampling, towards
            infinity the worst case.
        initial_loss: assumed of cases not yet drawn; above what training begins with, so that each
            is drawn early.
        momentum: weight in [0, 1) of the old loss of a case in its update.
        importance_weights: whether to multiply losses by exp(beta * (new - old loss)), clipped to
            [0.1, 10].
    """

    beta = 10.0
    initial_loss = 1.0
    momentum = 0.0
    importance_weights = False

    def make_sampler(self, cases, batch_size, generator):
        self.drawn_at_once = batch_size
        return HardnessWeightedSampler(
            cases,
            batch_size=1,  # draws are of `drawn_at_once`, which may be more than there are cases
            beta=self.beta,
            initial_loss=self.initial_loss,
            momentum=self.momentum,
            replacement=batch_size > cases,
            generator=generator,
        )

    def draw_batches(self):
        drawn = self.sampler.draw(self.drawn_at_once)
        # nnU-Net treats places of a batch differently: the last ones have foreground for sure.
        return [drawn[torch.randperm(len(drawn), generator=self.sampler.rng)].tolist()]

    def training_loss(self, outputs, targets):
        losses = self.case_loss(outputs, targets)
        self.measured = losses.detach()
        if not self.importance_weights:
            return losses.mean()
        weights = self.sampler.importance_weights(self.trained, self.measured)
        return (weights.to(losses.device) * losses).mean()

    def hardness(self):
        return self.sampler.losses

    def describe(self):
        return (
            f"hardness weighted sampling: beta {self.beta:g}, initial loss {self.initial_loss:g}, "
            f"momentum {self.momentum:g}, importance weights "
            f"{'on' if self.importance_weights else 'off'}, "
            f"{'with' if self.sampler.replacement else 'without'} replacement in a batch"
        )


class FreshSubset(CaseSampling):
    """p-SGD: fresh subsets of the cases, favouring those whose voxels get low probabilities.

    Chang et al. 2017 as used by Arazo et al. 2021, by the `PSGDSampler`. A subset is trained on
    once, case by case, and then drawn anew. What counts is the mean, over the voxels of a patch, of
    the probability of the right label.

    Attributes:
        subset: fraction of the cases in (0, 1], a batch at least.
    """

    subset = 0.5

    def make_sampler(self, cases, batch_size, generator):
        size = int(round(self.subset * cases, 9))  # 0.29 * 100 is a little less than 29
        if (
            size < batch_size
            or self.label_manager.has_regions
            or self.label_manager.has_ignore_label
        ):
            end(
                f"a subset of {size} cases for batches of {batch_size}: it has to hold a batch, "
                "and labels can be neither regions nor ignored"
            )
        return PSGDSampler(cases, batch_size, subset_size=size, generator=generator)

    def draw_batches(self):
        return self.sampler.draw().tolist()

    def training_loss(self, outputs, targets):
        logits, labels = (
            (outputs[0], targets[0]) if self.enable_deep_supervision else (outputs, targets)
        )
        right = logits.detach().softmax(1).gather(1, labels.long())
        self.measured = right.flatten(1).mean(1)
        return self.batch_loss(outputs, targets)

    def hardness(self):
        return self.sampler.weights()

    def describe(self):
        return f"p-SGD: fresh subsets of {self.sampler.subset_size} cases"


class nnUNetTrainerHWS(HardnessWeighted, nnUNetTrainer):
    """nnU-Net's default trainer with hardness weighted sampling."""


class nnUNetTrainerHWS_beta1(nnUNetTrainerHWS):
    beta = 1.0


class nnUNetTrainerHWS_beta10(nnUNetTrainerHWS):
    beta = 10.0


class nnUNetTrainerHWS_beta100(nnUNetTrainerHWS):
    beta = 100.0


class nnUNetTrainerHWS_importance(nnUNetTrainerHWS):
    importance_weights = True


class nnUNetTrainerPSGD(FreshSubset, nnUNetTrainer):
    """nnU-Net's default trainer with p-SGD."""


TRAINERS = [
    name for name in globals() if name.startswith("nnUNetTrainer") and name != "nnUNetTrainer"
]


def state_file(checkpoint: str) -> Path:
    """Where the sampler's state is, of a checkpoint of nnU-Net."""
    return Path(checkpoint).with_suffix(".sampler.pth")


def end(message: str) -> NoReturn:
    print(f"budgetbench.nnunet: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def main() -> None:
    """Write the file by which nnU-Net finds the trainers."""
    parser = argparse.ArgumentParser(
        prog="python -m budgetbench.nnunet", description="Trainers: " + ", ".join(TRAINERS)
    )
    commands = parser.add_subparsers(required=True)
    install = commands.add_parser("install", help=main.__doc__)
    install.add_argument("folder", type=Path, help="made if it is not there")
    folder = parser.parse_args().folder.absolute()
    file = folder / "budgetbench_trainers.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(f"from budgetbench.nnunet import {', '.join(TRAINERS)}  # noqa\n")
    except OSError as error:
        end(f"{error.filename}: {error.strerror}; name another folder")
    known = os.environ.get(VARIABLE, "").split(os.pathsep)
    print(f"{file} is written")
    if str(folder) not in known:
        paths = os.pathsep.join(filter(None, [str(folder), *known]))
        print(f"now, and in your shell's profile: export {VARIABLE}={shlex.quote(paths)}")


if __name__ == "__main__":
    main()

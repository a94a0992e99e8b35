"""nnU-Net's trainers with a training that two CPU cores finish in half an hour."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from budgetbench.nnunet import HardnessWeighted
from engine.network import choose_precision

Base: Any = object  # nnU-Net's trainers have no types


class Short(Base):
    """400 steps of nnU-Net's own batches, patches, network, schedule and augmentation.

    Its momentum of 0.99 is made for 250,000 steps: after 400 of them, Dice is 0.75. With 0.9 and
    twice the learning rate it is 0.84 after 250 already, as with Adam. All trainers begin a fold
    with the same weights.
    """

    draws_ahead = 2

    def initialize(self) -> None:
        self.num_epochs = 16
        self.num_iterations_per_epoch = 25
        self.num_val_iterations_per_epoch = 2
        self.save_every = 4
        # nnU-Net takes all cores, whatever else runs.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        torch.manual_seed(self.fold)
        np.random.seed(self.fold)
        super().initialize()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        self.initial_lr = 0.02
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.initial_lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=self.weight_decay,
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def precision(self) -> torch.autocast:
        """Half precision on a CPU that is faster with it, as nnU-Net has it on a GPU."""
        on_cpu = self.device.type == "cpu"
        half = on_cpu and choose_precision("auto", self.device).amp is not None
        return torch.autocast("cpu", torch.bfloat16, enabled=half)

    def train_step(self, batch: dict) -> dict:
        with self.precision():
            return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        with self.precision():
            return super().validation_step(batch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self.precision():
            super().perform_actual_validation(save_probabilities)


class nnUNetTrainerShort(Short, nnUNetTrainer):
    pass


class nnUNetTrainerShort_beta1(Short, HardnessWeighted, nnUNetTrainer):
    beta = 1.0


class nnUNetTrainerShort_beta10(Short, HardnessWeighted, nnUNetTrainer):
    beta = 10.0


class nnUNetTrainerShort_beta100(Short, HardnessWeighted, nnUNetTrainer):
    beta = 100.0


class nnUNetTrainerShort_importance(Short, HardnessWeighted, nnUNetTrainer):
    beta = 10.0
    importance_weights = True

"""A finished run, read again: its settings, its data and its network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from augmentations.geometry import normalise
from data import Dataset, Rows
from errors import UsageError
from methods.scores import ScoreFile, digest

from .build import load_dataset
from .config import RunConfig
from .config_file import BadRun
from .models import classifier_of, create_model, inputs_of
from .parts import Parts
from .run_folder import SCORES_FILE, TRAINING_SECONDS, training_seconds
from .runs import StoredRun, find_run
from .status import find_file


@dataclass(frozen=True)
class FinishedRun:
    """Settings, data and network of a finished run. Each is read when it is first needed."""

    stored: StoredRun
    settings: RunConfig
    num_images: int
    data_sha256: str | None  # `Dataset.sha256`; None for runs of older versions
    scoring_cost: float | None  # of the runs that this one took scores from; None if unknown
    device: torch.device

    @classmethod
    def read(cls, folder: Path, data_dir: str | None, device: torch.device) -> FinishedRun:
        """Read a run's settings; a UsageError if there is no finished run.

        Args:
            folder: of the run.
            data_dir: where its data lie now, if elsewhere than then.
            device: for its network.
        """
        try:
            stored = find_run(folder)
            status = stored.status() if stored else None
        except BadRun as error:
            raise UsageError(f"{error}; restore that file or move it away") from None
        if stored is None or status != "finished":
            what = f"holds a run that is {status}" if status else "holds no run"
            raise UsageError(f"{folder}: {what}; give the folder of a finished one")
        try:
            config = stored.config()
        except BadRun as error:
            raise UsageError(f"{error}; make the run again") from None
        settings = dict(config.settings)
        settings["data_dir"] = data_dir or settings["data_dir"]
        corrupted = settings["imbalance"] or settings["label_noise"]
        if config.data_sha256 is None and settings["validation"] and corrupted:
            raise UsageError(
                f"{folder}: of an older version, which held other images out under `imbalance` "
                "and `label_noise`; make the run again"
            )
        given = RunConfig(**{name: settings[name] for name in vars(RunConfig())})
        facts = (config.num_images, config.data_sha256, config.scoring_cost)
        return cls(stored, given, *facts, device)

    @property
    def folder(self) -> Path:
        return self.stored.folder

    @cached_property
    def cost(self) -> int | None:
        """Cost in forward passes of one image, that of earlier runs included; None if unknown."""
        if self.scoring_cost is None:
            return None
        return int(self.last_row["cost"]) + int(self.scoring_cost)

    @cached_property
    def seconds(self) -> float:
        """Time that its training took, evaluation left out."""
        return training_seconds(self.last_row)

    @property
    def last_row(self) -> dict[str, str]:
        """The last row of its curve; BadRun where columns of costs are missing or damaged."""
        row, needed = self.stored.last_row(), ("cost", *TRAINING_SECONDS)
        for name in needed:
            try:
                float(row[name])
            except (KeyError, TypeError, ValueError):
                where = self.stored.where("curve.csv")
                raise BadRun(f"{where}: no number in column {name}; make the run again") from None
        return row

    @cached_property
    def dataset(self) -> Dataset:
        """Data as the run had them, what it held out, left out or relabelled included."""
        dataset = load_dataset(self.settings)
        if len(dataset.train_labels) != self.num_images:
            raise UsageError(
                f"{self.folder}: trained on {self.num_images} images, and the data now have "
                f"{len(dataset.train_labels)}; give `data_dir`"
            )
        if self.data_sha256 not in (None, dataset.sha256):
            raise UsageError(
                f"{self.folder}: the data now are other images than it was trained on; give "
                "`data_dir`"
            )
        return dataset

    @cached_property
    def undivided(self) -> Dataset:
        """The data before any images were held out for validation."""
        return load_dataset(replace(self.settings, validation=None))

    @cached_property
    def model(self) -> nn.Module:
        """The network after the last epoch, in eval mode."""
        channels, *size = self.dataset.train_images.shape[1:]
        classes = len(self.dataset.classes)
        model = create_model(self.settings.model, channels, classes, tuple(size)).to(self.device)
        path = find_file(self.folder, "model.pt")
        try:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError("no regular file")
            model.load_state_dict(torch.load(path, map_location=self.device, weights_only=True))
        except Exception as error:  # a damaged file leads to errors of many kinds
            raise UsageError(f"{path}: damaged; make the run again") from error
        return model.eval()

    @cached_property
    def parts(self) -> Parts:
        """Parts in which the network forwards images."""
        return Parts(self.device)

    @cached_property
    def recorded(self) -> dict[str, np.ndarray]:
        """The scores noted while the run trained, float32 [N] each."""
        path = find_file(self.folder, SCORES_FILE)
        if not path.exists():
            return {}
        try:
            file = ScoreFile.read(path)
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from None
        if file.labels_sha256 != digest(self.dataset.train_labels):
            raise UsageError(f"{path}: the data now have other labels; give `data_dir`")
        return file.values

    @property
    def classifier(self) -> nn.Linear:
        """The network's last layer."""
        layer = classifier_of(self.model)
        if not isinstance(layer, nn.Linear):
            raise UsageError(
                f"{self.folder}: the last layer of {self.settings.model} is not linear, as these "
                "scores take it to be; give a run of another `model`"
            )
        return layer

    @cached_property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Outputs of `forward` for the training images."""
        return self.forward(self.dataset.train_images)

    @torch.no_grad()
    def forward(self, images: np.ndarray | Rows) -> tuple[Tensor, Tensor]:
        """Logits [n, C] of images as they are, and the last layer's input [n, d], on the CPU."""
        facts = self.dataset.mean, self.dataset.std
        mean, std = (torch.tensor(each, device=self.device) for each in facts)
        with inputs_of(self.classifier) as given:

            def forward(start: int, stop: int) -> tuple[Tensor, Tensor]:
                part = torch.tensor(np.asarray(images[start:stop]), device=self.device)
                logits = self.model(normalise(part, mean, std))
                return logits.cpu(), given[0].cpu()

            outputs = list(self.parts.over(0, len(images), images.shape[1:], forward))
        logits, features = map(torch.cat, zip(*outputs))
        if not (logits.isfinite().all() and features.isfinite().all()):
            raise UsageError(
                f"{self.folder / 'model.pt'}: the network's outputs are NaN or infinite; give "
                "another run, or make it again with a lower `lr`"
            )
        return logits, features

"""Score files: a number per training image, and what it is a number of."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..base import OptionError, Task

FORMAT = 1  # of a file's contents; another one is refused
SCORES = {
    "forgetting": "how often an image was forgotten while training (Toneva et al. 2019)",
    "el2n": "norm of the error of the network's probabilities (Paul et al. 2021)",
    "aum": "mean margin of an image's class over training, low is hard (Pleiss et al. 2020)",
    "dyn-unc": "how much its probability varies within ten epochs (He et al. 2024)",
    "dual": "the same times one minus its mean, of the first 30 epochs (Cho et al. 2025)",
    "dual-mean": "mean probability of its class in these epochs, low is hard (Cho et al. 2025)",
    **{
        f"tdds-{share}": "how much the changes of its probabilities vary, late above all; for "
        f"core-sets without {share}% of the images (Zhang et al. 2024)"
        for share in (30, 50, 70, 80, 90)
    },
    "grand": "norm of the gradient of the last layer (Paul et al. 2021)",
    "entropy": "entropy of the network's probabilities",
    "margin": "one minus the gap between the two largest probabilities",
    "least-confidence": "one minus the largest probability",
    "moderate": "distance to the median of its class in feature space (Xia et al. 2023)",
    "k-center": "place in a greedy order that covers all images (Sener & Savarese 2018)",
    "irreducible-loss": "loss of a network that was not trained on it (Mindermann et al. 2022)",
}
#: Scores of which the hardest images have the lowest.
LOW_IS_HARD = {"aum", "dual-mean"}
HOW = "python -m engine.scores RUN --score NAME --out FILE"
MOST_BYTES = 2**30  # of a score file and what it unpacks to: 10 million images and 20 scores


@dataclass(frozen=True)
class ScoreFile:
    """Scores of all training images of one data set, as its runs number them."""

    dataset: str  # its name
    labels_sha256: str  # of the images' labels, which differ for other images and numberings
    values: dict[str, np.ndarray]  # float32 [N] of each score; NaN where an image has none
    sources: Sequence[dict] = field(default_factory=list)  # the runs that they come from
    data_sha256: str | None = None  # `Dataset.sha256`; None in files of older versions
    sha256: str | None = None  # of the file itself, if it was read from one

    @property
    def num_images(self) -> int:
        return len(next(iter(self.values.values())))

    @property
    def cost(self) -> int | None:
        """Cost of the scores' runs and of scoring, in forward passes of one image.

        None where the file does not say, as those of older versions.
        """
        costs = [source.get("cost") for source in self.sources]
        known = [cost for cost in costs if isinstance(cost, int)]
        return sum(known) if costs and len(known) == len(costs) else None

    def to_bytes(self) -> bytes:
        """The file's content: an .npz archive, the same for the same scores."""
        file = io.BytesIO()
        values: dict[str, Any] = {
            name: np.asarray(value, dtype=np.float32) for name, value in self.values.items()
        }
        np.savez(
            file,
            format=FORMAT,
            dataset=self.dataset,
            num_images=self.num_images,
            labels_sha256=self.labels_sha256,
            data_sha256=self.data_sha256 or "",
            sources=json.dumps(list(self.sources), sort_keys=True),
            scores=list(self.values),
            **values,
        )
        return file.getvalue()

    @classmethod
    def read(cls, path: Path | str) -> ScoreFile:
        """A file's content; a ValueError says in a few words what is wrong with it."""
        try:
            facts = os.stat(path)
            if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for
                raise ValueError(f"not a regular file; make one with {HOW}")
            if facts.st_size > MOST_BYTES:
                raise ValueError(f"larger than any score file; make one with {HOW}")
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise ValueError(f"{error.strerror}; make one with {HOW}") from None
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                    raise ValueError("unpacks to more than any score file")
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                found = int(archive["format"])
                if found == FORMAT:
                    arrays = {name: archive[name] for name in archive.files}
                    return cls.of_archive(arrays, hashlib.sha256(content).hexdigest())
        except Exception:  # a damaged file leads to errors of many kinds
            raise ValueError(f"damaged, or not a score file; make it again with {HOW}") from None
        raise ValueError(f"of format {found}, where this is {FORMAT}; make it again with {HOW}")

    @classmethod
    def of_archive(cls, arrays: dict[str, np.ndarray], sha256: str) -> ScoreFile:
        values = {str(name): arrays[str(name)] for name in arrays["scores"]}
        shape = (int(arrays["num_images"]),)
        whole = all(
            each.shape == shape and each.dtype == np.float32 and not np.isinf(each).any()
            for each in values.values()
        )
        if not values or not whole:
            raise ValueError("not one number per image")
        data_sha256 = str(arrays.get("data_sha256", "")) or None
        return cls(
            str(arrays["dataset"]),
            str(arrays["labels_sha256"]),
            values,
            json.loads(str(arrays["sources"])),
            data_sha256,
            sha256,
        )


def digest(labels: np.ndarray) -> str:
    """SHA-256 of labels [N] as little-endian 64-bit integers, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def read_score(
    task: Task, option: str, path: str | None, score: str | None
) -> tuple[np.ndarray, ScoreFile]:
    """A score of the task's training images from a file, which is refused if it is of others.

    Args:
        task: whose data set's name, number of images and labels the file has to have.
        option: name of the method's option that gave the path.
        path: of the file.
        score: its name; None for the only one in the file.

    Returns:
        float32 [N], NaN where an image has no score; and the file that it was read from.

    Raises:
        OptionError: for no file, an unreadable or damaged one, one of other data or other scores.
    """
    if path is None:
        raise OptionError(option, f"not given; make a score file with {HOW}")
    try:
        file = ScoreFile.read(path)
    except ValueError as error:
        raise OptionError(option, str(error)) from None
    remedy = "give one that was made from a run on the same training images, or make it with " + HOW
    if file.dataset != task.dataset:
        raise OptionError(option, f"of {file.dataset}, where this is {task.dataset}; {remedy}")
    if file.num_images != task.num_images:
        counts = f"of {file.num_images} training images, where this run has {task.num_images}"
        raise OptionError(option, f"{counts}; {remedy}")
    if None not in (file.data_sha256, task.data_sha256) and file.data_sha256 != task.data_sha256:
        raise OptionError(option, f"of other images, in another `data_dir`; {remedy}")
    if file.labels_sha256 != digest(task.labels):
        settings = "`data_seed`, `train_images`, `validation`, `imbalance` or `label_noise`"
        raise OptionError(
            option, f"of images with other labels, as another {settings} gives; {remedy}"
        )
    names = ", ".join(file.values)
    if score is None and len(file.values) > 1:
        raise OptionError(option, f"has {names}; choose one with `coreset_score`")
    if score is not None and score not in file.values:
        raise OptionError(option, f"has {names}, not {score}; make one that has it with {HOW}")
    return file.values[score or names], file

"""Score files: a number per training image, and what it is a number of."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..base import OptionError, Task

FORMAT = 1  # of a file's contents; another one is refused
SCORES = {
    "forgetting": "how often an image was forgotten while training (Toneva et al. 2019)",
    "el2n": "norm of the error of the network's probabilities (Paul et al. 2021)",
    "aum": "mean margin of an image's class over training, low is hard (Pleiss et al. 2020)",
    "dyn-unc": "how much the probability of an image's class varies in ten epochs (He et al. 2024)",
    "dual": "the same times one minus its mean, of the first 30 epochs (Cho et al. 2025)",
    "dual-mean": "mean probability of an image's class in these, low is hard (Cho et al. 2025)",
    **{
        f"tdds-{share}": "how much an image's probabilities change unevenly, late above all; for "
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
HOW_FEATURES = "python -m engine.scores RUN --score NAME --features --out FILE"
MOST_BYTES = 2**30  # of a score file and what it unpacks to: 10 million images and 20 scores


@dataclass(frozen=True)
class ScoreFile:
    """Scores of all training images of one data set, as its runs number them."""

    dataset: str  # its name
    labels_sha256: str  # of the images' labels, which differ for other images and numberings
    values: dict[str, np.ndarray]  # float32 [N] of each score; NaN where an image has none
    sources: Sequence[dict] = field(default_factory=list)  # the runs that they come from
    data_sha256: str | None = None  # `Dataset.sha256`; None in files of older versions
    sha256: str | None = None  # of the file itself, if it was read from one, but for its seconds
    labels: np.ndarray | None = None  # int64 [N]; None in files of older versions
    features: np.ndarray | None = None  # float16 [N, d], the last layer's input, of one run
    errors: np.ndarray | None = None  # float16 [N, C], softmax minus target, of the same run

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

    @property
    def seconds(self) -> float | None:
        """Seconds that the scores' runs and scoring took; None where the file does not say."""
        each = [source.get("seconds") for source in self.sources]
        known = [seconds for seconds in each if isinstance(seconds, (int, float))]
        return sum(known) if each and len(known) == len(each) else None

    def score(self, option: str, name: str | None) -> tuple[str, np.ndarray]:
        """Return a score, by default the only one, with its name; an OptionError if it has none."""
        names = ", ".join(self.values)
        if name is None and len(self.values) > 1:
            raise OptionError(option, f"has {names}; choose one with `coreset_score`")
        if name is not None and name not in self.values:
            raise OptionError(option, f"has {names}, not {name}; make one that has it with {HOW}")
        return name or names, self.values[name or names]

    def to_bytes(self, half: bool = False) -> bytes:
        """The file's content: an .npz archive, the same for the same scores.

        Args:
            half: whether to write scores as float16, but for the places of k-center, which it does
                not have.
        """
        file = io.BytesIO()
        values: dict[str, Any] = {
            name: np.asarray(value, np.float16 if half and name != "k-center" else np.float32)
            for name, value in self.values.items()
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
            **self.outputs,
        )
        return file.getvalue()

    @property
    def outputs(self) -> dict[str, Any]:
        """Labels, and what the network made of the images, where the file has them."""
        labels = None if self.labels is None else smallest_integers(self.labels)
        given = {"labels": labels, "features": self.features, "errors": self.errors}
        return {name: each for name, each in given.items() if each is not None}

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
                    read = cls.of_archive({name: archive[name] for name in archive.files})
                    return replace(read, sha256=hashlib.sha256(read.timeless(content)).hexdigest())
        except Exception:  # a damaged file leads to errors of many kinds
            raise ValueError(f"damaged, or not a score file; make it again with {HOW}") from None
        raise ValueError(f"of format {found}, where this is {FORMAT}; make it again with {HOW}")

    def timeless(self, content: bytes) -> bytes:
        """Return the file's content as it would be of runs whose time was not taken.

        Runs that differ in nothing else have the same scores, and are the same for later ones.
        """
        if not any("seconds" in source for source in self.sources):
            return content
        without = [{k: v for k, v in each.items() if k != "seconds"} for each in self.sources]
        return replace(self, sources=without).to_bytes()

    @classmethod
    def of_archive(cls, arrays: dict[str, np.ndarray]) -> ScoreFile:
        values = {str(name): arrays[str(name)] for name in arrays["scores"]}
        shape = (int(arrays["num_images"]),)
        whole = all(
            each.shape == shape
            and each.dtype in (np.float16, np.float32)
            and not np.isinf(each).any()
            for each in values.values()
        )
        values = {name: each.astype(np.float32, copy=False) for name, each in values.items()}
        labels = arrays.get("labels")
        if labels is not None:
            labels = labels.astype(np.int64)
            whole &= digest(labels) == str(arrays["labels_sha256"])
        features, errors = arrays.get("features"), arrays.get("errors")
        whole &= all(
            each.dtype == np.float16
            and each.ndim == 2
            and each.shape[:1] == shape
            and np.isfinite(each).all()
            for each in (features, errors)
            if each is not None
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
            labels=labels,
            features=features,
            errors=errors,
        )


def smallest_integers(labels: np.ndarray) -> np.ndarray:
    """Labels in the fewest bytes that hold them."""
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))


def digest(labels: np.ndarray) -> str:
    """SHA-256 of labels [N] as little-endian 64-bit integers, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def read_score(
    task: Task, option: str, path: str | None, score: str | None
) -> tuple[np.ndarray, ScoreFile]:
    """A score of the task's training images from a file, see `read_file`.

    Args:
        task, option, path: as for `read_file`.
        score: its name; None for the only one in the file.

    Returns:
        float32 [N], NaN where an image has no score; and the file that it was read from.

    Raises:
        OptionError: as `read_file`, and for a file without that score.
    """
    file = read_file(task, option, path)
    return file.score(option, score)[1], file


def read_file(task: Task, option: str, path: str | None) -> ScoreFile:
    """A file of scores of the task's training images, which is refused if it is of others.

    Args:
        task: whose data set's name, number of images and labels the file has to have.
        option: name of the method's option that gave the path.
        path: of the file.

    Raises:
        OptionError: for no file, an unreadable or damaged one, and one of other data.
    """
    if path is None:
        raise OptionError(option, f"not given; make a score file with {HOW}")
    try:
        file = ScoreFile.read(path)
    except ValueError as error:
        raise OptionError(option, str(error)) from None
    remedy = "give one that was made from a run on the same training images, or make it with " + HOW
    # Without its folder, because a data set is what it holds, not where its code lies.
    if Path(file.dataset).name != Path(task.dataset).name:
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
    return file

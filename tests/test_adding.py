"""Adding a method, an augmentation or a data set is one file and one line, and all tests pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

METHOD = '''"""toy: every batch of one class more often, as a method of somebody else's would."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from .base import Selecting, Task
from .batch import Batch


class Toy(Selecting):
    """Draws images by how often they have been seen, the least seen first."""

    importance = True
    seen: Tensor  # float32 [N]

    def __init__(
        self,
        task: Task,
        *,
        toy_noise: Annotated[
            float, dict(low=0, high=10, help="toy: size of the noise that breaks ties")
        ] = 0.5,
        **options: Any,
    ):
        super().__init__(task, **options)
        self.noise = toy_noise
        self.register_buffer("seen", torch.zeros(task.num_images, device=task.device))

    def draw(self, progress: float) -> Tensor:
        noise = torch.rand(len(self.seen), generator=self.rng, device=self.task.device)
        order = (self.seen + self.noise * noise).argsort()
        return order[: self.task.batch_size][None]

    def observe(self, batch: Batch, logits: Tensor, losses: Tensor) -> None:
        self.seen.index_add_(0, batch.index, torch.ones_like(losses))
'''
AUGMENTATION = '''"""toy-noise: noise on every image of the batch."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from .base import Augmentation, Mixed


class ToyNoise(Augmentation):
    """Adds one number to each image."""

    def __init__(
        self,
        *,
        toy_size: Annotated[float, dict(low=0, help="toy-noise: standard deviation")] = 0.1,
    ):
        self.size = toy_size

    def mix(self, images: Tensor, rng: np.random.Generator) -> Mixed:
        noise = torch.from_numpy(rng.standard_normal((len(images), 1, 1, 1)))
        noise = (self.size * noise).float().to(images.device, non_blocking=True)
        return Mixed(images + noise)
'''
DATASET = '''"""toy-shapes: bright squares at one of four places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Dataset, channel_statistics, content_digest


def load(root: Path, **_: Any) -> Dataset:
    """400 training and 100 test images of 8x8."""
    rng = np.random.default_rng(0)
    labels = np.arange(500) % 4
    images = rng.integers(0, 100, (500, 1, 8, 8), dtype=np.uint8)
    for place in range(4):
        row, column = divmod(place, 2)
        images[labels == place, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 100
    MEAN_STD
    return Dataset(
        images[:400],
        labels[:400],
        images[400:],
        labels[400:],
        classes=("a", "b", "c", "d"),
        mean=mean,
        std=std,
        flip=0.0,
        padding=1,
        sha256=content_digest({"images": images, "labels": labels}),
    )
'''.replace("MEAN_STD", "mean, std = channel_statistics(images[:400])")
#: Of tests with parameters, leaves those of what was added; the others run outside the copy.
PLUGIN = """
ADDED = {"toy", "toy-noise", "toy-shapes"}


def is_new(item):
    values = item.callspec.params.values() if hasattr(item, "callspec") else ADDED
    return any(value in ADDED for value in values if isinstance(value, str))


def pytest_collection_modifyitems(config, items):
    config.hook.pytest_deselected(items=[item for item in items if not is_new(item)])
    items[:] = [item for item in items if is_new(item)]
"""
#: File, its content, and registry, what comes before its last line, and the line.
ADDED = [
    ("methods/toy.py", METHOD, "from .toy import Toy", '"toy": Toy'),
    (
        "augmentations/toy_noise.py",
        AUGMENTATION,
        "from .toy_noise import ToyNoise",
        '"toy-noise": ToyNoise',
    ),
    (
        "data/toy_shapes.py",
        DATASET,
        "from . import toy_shapes",
        '"toy-shapes": Source(toy_shapes.load, model="resnet10-w8", epochs=3)',
    ),
]
REGISTRIES = {"methods": "METHODS", "augmentations": "AUGMENTATIONS", "data": "DATASETS"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with all three added."""
    copy = tmp_path_factory.mktemp("copy")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for name, content, imported, line in ADDED:
        (copy / name).write_text(content)
        registry = copy / Path(name).parent / "__init__.py"
        head, start, rest = registry.read_text().partition(
            f"\n{REGISTRIES[registry.parent.name]}: "
        )
        entries, end, tail = rest.partition("\n}\n")
        assert rest
        assert end
        registry.write_text(f"{head}\n{imported}\n{start}{entries}\n    {line},{end}{tail}")
    (copy / "tests" / "only_new.py").write_text(PLUGIN)
    return copy


def run(copy: Path, *words: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy / "tests")}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_suite_passes(copy: Path) -> None:
    """All quick tests in the files that go by the registries, of what was added."""
    files = [
        path.name
        for path in sorted((copy / "tests").glob("test_*.py"))
        if any(name in path.read_text() for name in (*REGISTRIES.values(), "build_parser"))
        and path.name != "test_adding.py"
    ]
    assert len(files) > 10
    words = (
        "-q",
        "-n",
        "2",
        "-p",
        "only_new",
        "-m",
        "not slow",
        *(f"tests/{name}" for name in files),
    )
    outcome = run(copy, "-m", "pytest", *words)
    assert outcome.returncode == 0, outcome.stdout[-4000:]


@pytest.mark.slow
def test_all_three_train_together_and_are_in_tables_figures_and_claims(copy: Path) -> None:
    words = ["--dataset", "toy-shapes", "--augmentation", "toy-noise", "--batch-size", "32"]
    words += ["--method", "toy", "unif-SGD", "--budget", "0.5", "--seed", "1", "2", "3"]
    outcome = run(copy, "sweep.py", *words, "--jobs", 2, "--results-dir", "results/mine")
    assert outcome.returncode == 0, outcome.stderr
    outcome = run(copy, "-m", "plots", "results/mine")
    assert outcome.returncode == 0, outcome.stderr
    assert re.search(r"\| toy +\|", (copy / "results/mine/tables.md").read_text())
    assert list((copy / "results/mine/figures").glob("toy-shapes_*.png"))
    outcome = run(copy, "-m", "plots.claims", "results/mine")
    assert outcome.returncode == 0, outcome.stderr
    assert "toy - unif-SGD" in outcome.stdout

"""What the runs of two methods share if their seed is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from steps import make_steps
from test_methods import CPU, make_dataset, make_method, make_task, make_trainer

from augmentations import AUGMENTATIONS
from benchmarks.score_files import noise_options
from engine.build import build, load_dataset
from engine.flags import parse
from engine.loader import Loader
from engine.trainer import Trainer
from methods import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

#: Whose first images are drawn uniformly, for nothing is learnt.
UNIFORM_AT_FIRST = (
    *("SGD", "unif-SGD", "p-SGD", "c-SGD"),
    *("selective-backprop", "infobatch", "grad-norm", "cvar"),
)


def make_run(name: str, folder: Path, *words: str) -> Trainer:
    settings, _ = parse(["--method", name, "--batch-size", "32", "--model", "resnet10-w8", *words])
    dataset = load_dataset(settings)
    settings.method_options |= noise_options(
        name, "digits", dataset.train_labels, folder / f"{name}.npz"
    )
    return build(settings, dataset, CPU)


def test_all_methods_start_with_the_same_weights_and_labels(tmp_path: Path) -> None:
    words = ("--label-noise", "0.3", "--seed", "4")
    first = make_run("SGD", tmp_path, *words)
    for name in METHODS:
        run = make_run(name, tmp_path, *words)
        states = first.model.state_dict(), run.model.state_dict()
        assert all(torch.equal(*pair) for pair in zip(*(state.values() for state in states)))
        assert torch.equal(run.loader.labels, first.loader.labels)
    other = make_run("SGD", tmp_path, "--label-noise", "0.3", "--seed", "5")
    assert not torch.equal(other.model.classifier.weight, first.model.classifier.weight)
    assert torch.equal(other.loader.labels, first.loader.labels), "of the data seed"


@pytest.mark.parametrize("augmentation", ["randaugment", "ricap"])
@pytest.mark.parametrize("name", UNIFORM_AT_FIRST)
def test_first_epochs_of_uniform_draws_are_the_same(name: str, augmentation: str) -> None:
    """The images, their order, and what was cropped, changed and mixed: an epoch's steps."""
    task = make_task(num_images=320, batch_size=16, budget=0.35, epochs=40)
    dataset = make_dataset(num_images=320)
    ours, sgd = (
        make_trainer(make_method(method, task), dataset, augmentation) for method in (name, "SGD")
    )
    steps = (make_steps(trainer, task.steps_per_epoch) for trainer in (ours, sgd))
    for (batch, _), (other, _) in zip(*steps, strict=True):
        assert torch.equal(batch.index, other.index)
        assert torch.equal(batch.images, other.images)
        assert torch.equal(batch.targets, other.targets)
    assert all(map(torch.equal, ours.model.parameters(), sgd.model.parameters())) or name == "cvar"


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_nth_batch_is_augmented_alike_whatever_is_drawn_at_once(augmentation: str) -> None:
    """So also where two methods train on different images."""
    dataset = make_dataset(num_images=96)
    index = torch.arange(96).view(12, 8)
    images = []
    for lengths in ([12], [1] * 12, [5, 1, 6]):
        stream = Loader(dataset, AUGMENTATIONS[augmentation](), CPU, seed=3)
        made = []
        for block in index.split(lengths):
            stream.refill(block)
            made += [stream.next().images for _ in range(len(block))]
        images.append(torch.cat(made))
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


@pytest.mark.parametrize("name", ["p-SGD", "c-SGD"])
def test_later_subsets_are_weighted(name: str) -> None:
    """Only the first is unif-SGD's."""
    ours, uniform = (make_method(method, make_task()) for method in (name, "unif-SGD"))
    assert torch.equal(ours.draw(0.0), uniform.draw(0.0))
    assert not np.array_equal(ours.draw(0.5), uniform.draw(0.5))

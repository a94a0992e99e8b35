"""The suite on a GPU: no step waits for it, runs go on there, and files of scores come from it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Completed
from steps import make_steps

from augmentations import AUGMENTATIONS
from benchmarks.score_files import noise_flags
from engine.build import build, load_dataset
from engine.flags import parse
from engine.machine import find_device
from engine.trainer import Trainer
from methods import METHODS
from methods.scores import ScoreFile

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Take back what a run sets for its whole process on a GPU."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A trainer on the GPU, of the handwritten digits; low thresholds make methods score."""
    options = {"grad-norm": "--gradnorm-tau 0.5", "dro": "--dro-importance"}

    def make(method: str, *words: str) -> Trainer:
        common = ["--epochs", "20", "--budget", "0.5", "--method", method, "--batch-size", "32"]
        common += options.get(method, "").split()
        dataset = load_dataset(parse([])[0])
        file = tmp_path / "scores.npz"
        common += noise_flags(method, "digits", dataset.train_labels, file)
        trainer = build(parse([*common, *words])[0], dataset, find_device("cuda"))
        return trainer

    return make


@contextmanager
def waits_are_errors(on: bool = True) -> Iterator[None]:
    """PyTorch raises where the host would wait for the device."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error" if on else "default")
    yield
    torch.cuda.set_sync_debug_mode(mode)


def may_wait(owner: object, name: str) -> None:
    """Let a method of an object wait for the device, as it is documented to."""
    work = getattr(owner, name)

    def waiting(*arguments: object) -> object:
        with waits_are_errors(False):
            return work(*arguments)

    setattr(owner, name, waiting)


@pytest.mark.parametrize("augmentation", ["standard", "mixup", "randaugment"])
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_gpu(
    method: str, augmentation: str, make_trainer: Callable[..., Trainer]
) -> None:
    """But in `draw`, for a number, and selective-backprop for the number of images it keeps."""
    trainer = make_trainer(method, "--augmentation", augmentation)
    make_steps(trainer, 45)  # selective-backprop keeps the first 1,024 images without a look
    may_wait(trainer.method, "draw")
    if method == "selective-backprop":
        may_wait(trainer.method.selector, "keep")
    try:
        with waits_are_errors():
            make_steps(trainer, 15)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == 60
    assert torch.isfinite(trainer.epoch_sums).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_state_goes_on_with_the_same_images(
    method: str, make_trainer: Callable[..., Trainer]
) -> None:
    """Images and candidates exactly; losses to a last digit, as kernels add in varying order."""
    trainer, fresh = (make_trainer(method, "--augmentation", "ricap") for _ in range(2))
    make_steps(trainer, 23)
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, map_location="cpu", weights_only=True)
    ((_, losses),), scored = make_steps(trainer, 1), trainer.images_scored
    counts = trainer.sample_counts.clone()
    fresh.load_state_dict(state)
    ((_, again),) = make_steps(fresh, 1)
    assert float(again.sum()) == pytest.approx(float(losses.sum()), rel=1e-3)
    assert fresh.images_scored == scored
    assert torch.equal(fresh.sample_counts, counts)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_images_in_their_file_make_the_same_batches(
    augmentation: str, make_trainer: Callable[..., Trainer]
) -> None:
    words, file = ["--augmentation", augmentation, "--amp", "off"], ["--resident-limit", "0"]
    lazy, resident = (make_trainer("unif-SGD", *words, *more) for more in (file, ()))
    steps = (make_steps(trainer, 30) for trainer in (lazy, resident))
    for (one, _), (other, _) in zip(*steps, strict=True):
        torch.testing.assert_close(one.images, other.images)
        assert torch.equal(one.index, other.index)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_run_learns_in_every_precision(
    amp: str, train_here: Callable[..., Completed], tmp_path: Path
) -> None:
    words = ["--epochs", "8", "--device", "cuda", "--amp", amp, "--experiment-name", "run"]
    outcome = train_here(*words, "--record", "forgetting,el2n")
    assert outcome.returncode == 0, outcome.stderr
    curve = pd.read_csv(tmp_path / "results" / "run" / "curve.csv")
    assert curve["test_accuracy"].iloc[-1] > 80
    assert (curve["train_seconds"].diff()[1:] > 0).all()


def test_scores_of_a_run_are_those_of_the_cpu(
    train_here: Callable[..., Completed], scores_here: Callable[..., Completed]
) -> None:
    words = ["--epochs", "2", "--device", "cuda", "--amp", "off", "--experiment-name", "run"]
    assert train_here(*words).returncode == 0
    values = []
    for device in ("cpu", "cuda"):
        path = Path(f"{device}.npz")
        words = ["results/run", "--score", "el2n,grand", "--out", path, "--device", device]
        assert scores_here(*words).returncode == 0
        values.append(ScoreFile.read(path).values)
    for name in ("el2n", "grand"):
        np.testing.assert_allclose(values[1][name], values[0][name], rtol=0.02, atol=0.02)


def test_what_fits_is_found_out(make_trainer: Callable[..., Trainer]) -> None:
    """An evaluation that runs out of memory is done in smaller parts, with the same results."""
    trainer = make_trainer("SGD", "--amp", "off", "--model", "resnet10-w16")
    whole = trainer.evaluate()
    device, total = trainer.device, torch.cuda.get_device_properties(trainer.device)
    torch.cuda.empty_cache()
    free = torch.cuda.memory_allocated(device) + 2**22  # 4 MiB, less than all images need
    torch.cuda.set_per_process_memory_fraction(free / total.total_memory, device)
    try:
        again = trainer.evaluate()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert trainer.network.parts.fitting < len(trainer.evaluator.labels) * 64
    np.testing.assert_array_equal(again.correct, whole.correct)
    np.testing.assert_allclose(again.losses, whole.losses, rtol=1e-3)

"""Faster ways to run a network give the same answer; so do images that stay in their file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, Completed
from steps import make_steps

from augmentations import AUGMENTATIONS
from data import DATASETS, Rows
from engine.build import build, load_dataset
from engine.distributed import World
from engine.flags import parse
from engine.images import AHEAD, MappedImages, ResidentImages, memory, place
from engine.loader import Loader
from engine.machine import find_device
from engine.models import Block, create_model
from engine.network import Network
from engine.parts import FORWARD_VALUES
from engine.trainer import Trainer

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def make_trainer(*words: str) -> Trainer:
    settings, _ = parse(["--epochs", "4", "--lr", "0.001", "--device", "cpu", *words])
    return build(settings, load_dataset(settings), CPU)


def first_losses(trainer: Trainer, steps: int = 20) -> np.ndarray:
    """The training loss of each of the first steps."""
    return np.array([step.losses.double().mean().item() for step in make_steps(trainer, steps)])


@cache
def plain_losses(steps: int = 20) -> np.ndarray:
    """As `first_losses`, of float32 in PyTorch's own order of channels and with its plain SGD."""
    trainer = make_trainer("--amp", "off")
    trainer.model.to(memory_format=torch.contiguous_format)
    for group in trainer.optimizer.param_groups:
        group["fused"] = None
    return first_losses(trainer, steps)


def test_channels_last_and_a_fused_step_keep_the_mathematics() -> None:
    """Float32 to 0.1% of each loss, at a rate low enough that rounding does not multiply."""
    losses = first_losses(make_trainer("--amp", "off"))
    np.testing.assert_allclose(losses, plain_losses(), rtol=1e-3)


@pytest.mark.slow
def test_a_compiled_network_keeps_the_mathematics() -> None:
    """Float32 to 0.1% of each loss; the warm-up leaves no trace."""
    trainer = make_trainer("--amp", "off", "--compile", "--method", "selective-backprop")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    random = torch.get_rng_state()
    assert trainer.warm_up() > 0
    assert all(
        torch.equal(before[name], value) for name, value in trainer.model.state_dict().items()
    )
    assert torch.equal(torch.get_rng_state(), random)
    assert trainer.images_scored == trainer.step == 0
    plain = make_trainer("--amp", "off", "--method", "selective-backprop")
    np.testing.assert_allclose(first_losses(trainer), first_losses(plain), rtol=1e-3)
    np.testing.assert_allclose(trainer.evaluate().losses, plain.evaluate().losses, rtol=1e-2)


def test_a_warm_up_adds_nothing_to_gradients() -> None:
    """On a GPU they are in a graph's own memory, where adding to them raised a RuntimeError."""
    trainer, seen = make_trainer("--amp", "off"), []
    parameter = next(trainer.model.parameters())
    trainer.model.register_forward_pre_hook(lambda *_: seen.append(parameter.grad))
    trainer.warm_up()
    assert seen == [None] * 3
    assert parameter.grad is None


@pytest.mark.slow
def test_without_a_compiler_there_is_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    words = ["--epochs", "1", "--compile", "--device", "cpu", "--results-dir", str(tmp_path)]
    outcome = subprocess.run(
        [sys.executable, "train.py", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 2
    assert outcome.stderr.splitlines()[-1].startswith("train.py: --compile: PyTorch could not")
    assert "Traceback" not in outcome.stderr


def test_bfloat16_stays_near_float32() -> None:
    """Eight bits of a number: 5% of each loss over 20 steps; weights and logits are float32."""
    trainer = make_trainer("--amp", "bf16")
    losses = first_losses(trainer)
    np.testing.assert_allclose(losses, plain_losses(), rtol=0.05)
    assert not np.allclose(losses, plain_losses(), rtol=1e-4), "it was float32"
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    assert trainer.network(
        trainer.loader.normalise(trainer.evaluator.images.between(0, 4))
    ).dtype == (torch.float32)


def test_float16_scales_its_loss_and_keeps_the_scale() -> None:
    trainer = make_trainer("--amp", "fp16")
    np.testing.assert_allclose(first_losses(trainer, 5), plain_losses()[:5], rtol=0.05)
    state = trainer.state_dict()
    assert state["scaler"]["scale"] > 1
    state["scaler"]["scale"] = 8.0
    fresh = make_trainer("--amp", "fp16")
    fresh.load_state_dict(state)
    assert fresh.scaler.get_scale() == 8


@pytest.mark.slow
def test_small_runs_end_alike_in_every_precision(train_here: Callable, tmp_path: Path) -> None:
    """Ten epochs of digits: within three points of float32, as seeds are of each other."""
    accuracy = {}
    for amp in ("off", "bf16"):
        for seed in ("1", "2"):
            name = f"{amp}{seed}"
            words = [
                "--epochs",
                "10",
                "--amp",
                amp,
                "--seed",
                seed,
                "--model",
                "resnet10-w8",
                "--device",
                "cpu",
            ]
            assert train_here(*words, "--experiment-name", name).returncode == 0
            folder = tmp_path / "results" / name
            accuracy[name] = pd.read_csv(folder / "curve.csv")["test_accuracy"].iloc[-1]
            precision = json.loads((folder / "config.json").read_text())["precision"]
            assert precision == {"off": "float32", "bf16": "bfloat16"}[amp]
    assert max(accuracy.values()) - min(accuracy.values()) < 3
    assert accuracy["off1"] > 90


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_gpu_has_an_index(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device refuses a device without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device(name) == torch.device("cuda:0")
    assert find_device("cuda:1") == torch.device("cuda:1")
    assert find_device("cuda", World(rank=3, size=4, local_rank=1)) == torch.device("cuda:1")


@pytest.mark.parametrize("index", [None, 0, 1])
def test_the_reading_thread_uses_the_gpu_of_its_images(
    index: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    lazy = MappedImages(np.zeros((4, 3, 2, 2), np.uint8), torch.device("cuda", index))
    lazy.thread.submit(int).result()
    assert chosen == [1 if index is None else index]


@pytest.mark.parametrize("count", [1, 5, 128])
def test_scores_do_not_depend_on_how_many_are_forwarded_at_once(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = Network(create_model("resnet10-w16", 1, 10, (8, 8)), CPU)
    images = torch.randn(50, 1, 8, 8)
    whole = network.score(images)
    monkeypatch.setitem(FORWARD_VALUES, "cpu", 64 * count)
    torch.testing.assert_close(network.score(images), whole)
    assert network.model.training
    assert not whole.requires_grad


class SmallMemory:
    """Fails as a GPU does in passes of more images than it has memory for; counts passes."""

    def __init__(self, model: torch.nn.Module, images: int):
        self.images, self.sizes = images, []
        model.register_forward_pre_hook(self.check)

    def check(self, module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self.sizes.append(len(inputs[0]))
        if self.sizes[-1] > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_scoring_and_evaluation_take_parts_that_fit() -> None:
    """Halved until it fits, once for all; a training batch fits all along."""
    trainer = make_trainer("--method", "selective-backprop", "--batch-size", "48")
    whole, images = trainer.evaluate(), torch.randn(48, 1, 8, 8)
    logits = trainer.network.score(images)
    memory = SmallMemory(trainer.model, 20)
    torch.testing.assert_close(trainer.network.score(images), logits)
    assert memory.sizes == [48, 24, 12, 12, 12, 12]
    assert trainer.model.training
    memory.sizes.clear()
    again = trainer.evaluate()
    assert set(memory.sizes) - {12} <= {len(trainer.evaluator.labels) % 12}
    np.testing.assert_array_equal(again.correct, whole.correct)
    np.testing.assert_allclose(again.losses, whole.losses, rtol=1e-5)


def test_one_image_that_does_not_fit_is_an_error() -> None:
    network = Network(create_model("resnet10-w16", 1, 10, (8, 8)), CPU)
    memory = SmallMemory(network.model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        network.score(torch.randn(5, 1, 8, 8))
    assert memory.sizes == [5, 2, 1]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_evaluate_each_image_once_whatever_fits(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of them has less free memory than the others."""
    trainer = make_trainer()
    whole, sums = trainer.evaluate(), []
    monkeypatch.setattr(World, "all_reduce_sum", lambda self, numbers: sums.append(numbers.clone()))
    for rank in range(size):
        trainer.network.world = World(rank, size)
        trainer.network.parts.fitting = 64 * (7 + rank)
        trainer.evaluate()
    correct, losses = sum(sums).numpy()
    np.testing.assert_array_equal(correct, whole.correct)
    np.testing.assert_allclose(losses, whole.losses, rtol=1e-5)


# --- Images that stay in their file ---


@pytest.fixture
def mapped(tmp_path: Path) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (500, 3, 4, 5), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    return np.load(tmp_path / "images.npy", mmap_mode="r")


def test_mapped_images_are_the_resident_ones(mapped: np.ndarray) -> None:
    index = torch.randint(500, (3 * AHEAD + 1, 16), generator=torch.Generator().manual_seed(0))
    resident, lazy = ResidentImages(mapped, CPU), MappedImages(mapped, CPU)
    for _ in range(2):
        lazy.prefetch(list(index), 0, index.shape[1])
        for row in index[:-2]:  # what is left is given up
            assert torch.equal(lazy.next(row), resident.next(row))
    assert torch.equal(lazy.between(7, 30), resident.between(7, 30))
    assert len(lazy) == len(resident) == 500


def test_mapped_images_are_read_ahead_and_no_further(mapped: np.ndarray) -> None:
    lazy, reads = MappedImages(mapped, CPU), []
    gather = lazy.gather
    lazy.gather = lambda index: reads.append(index) or gather(index)
    lazy.prefetch(list(torch.arange(100).view(50, 2)), 0, 2)
    lazy.thread.submit(int).result()  # the thread is through with what it was given
    assert len(reads) == AHEAD
    lazy.next(torch.tensor([0, 1]))
    lazy.thread.submit(int).result()
    assert len(reads) == AHEAD + 1


def test_rows_are_chosen_without_being_read(mapped: np.ndarray) -> None:
    rows = Rows.of(mapped)
    mask = np.arange(500) % 3 == 0
    chosen = Rows.of(rows[mask])[np.array([5, 2, 2])][1:]
    assert isinstance(chosen, Rows)
    assert chosen.array is mapped
    assert chosen.shape == (2, 3, 4, 5)
    assert (len(chosen), chosen.dtype, chosen.nbytes) == (2, np.uint8, 120)
    np.testing.assert_array_equal(chosen, mapped[[6, 6]])
    out = np.empty((3, 3, 4, 5), dtype=np.uint8)
    rows[mask].take(np.array([1, 0, 9]), out)
    np.testing.assert_array_equal(out, mapped[[3, 0, 27]])


def test_the_limit_decides_where_images_are(
    mapped: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = mapped.nbytes / 2**30
    assert isinstance(place(mapped, CPU, gib), ResidentImages)
    assert isinstance(place(mapped, CPU, gib * 0.999), MappedImages)
    assert isinstance(place(mapped, CPU, None), ResidentImages)
    monkeypatch.setattr("engine.images.memory", lambda device: 2 * mapped.nbytes - 2)
    assert isinstance(place(mapped, CPU, None), MappedImages)
    assert memory(CPU) > 2**28


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_stream_from_a_file_gives_the_same_batches(augmentation: str) -> None:
    """In the middle of a block too, where a run goes on."""
    digits = DATASETS["digits"].load(Path("nowhere"))
    lazy, resident, resumed = (
        Loader(digits, AUGMENTATIONS[augmentation](), CPU, 0, limit) for limit in (0, None, 0)
    )
    block = torch.randperm(1400, generator=torch.Generator().manual_seed(0)).view(40, 35)
    for stream in (lazy, resident):
        stream.refill(block)
    for number in range(40):
        if number == 21:
            resumed.load_state_dict(lazy.state_dict())
        batch = lazy.next()
        assert torch.equal(batch.images, resident.next().images)
        if number >= 21:
            assert torch.equal(batch.images, resumed.next().images)
    assert lazy.exhausted


@pytest.mark.parametrize("method", ["unif-SGD", "dro"])
def test_a_run_from_a_file_is_the_same_run(
    method: str, train_here: Callable[..., Completed], tmp_path: Path
) -> None:
    words = ["--epochs", "2", "--method", method, "--validation", "100", "--device", "cpu"]
    curves = []
    for name, limit in (("resident", ()), ("file", ("--resident-limit", "0"))):
        assert train_here(*words, *limit, "--experiment-name", name).returncode == 0
        curve = pd.read_csv(tmp_path / "results" / name / "curve.csv")
        curves.append(curve[[column for column in curve if not column.endswith("_seconds")]])
    pd.testing.assert_frame_equal(*curves)


@pytest.mark.parametrize("channels, size", [(8, (64, 64)), (8, (7, 9)), (16, (84, 84))])
def test_a_shortcut_is_the_strided_convolution(channels: int, size: tuple[int, int]) -> None:
    """Output and gradients, in double precision, without a strided 1x1 convolution in it."""
    torch.manual_seed(0)
    block = Block(channels, 2 * channels, 2).double().eval()
    assert [module.stride for module in block.shortcut if hasattr(module, "stride")] == [(1, 1)]
    assert {"shortcut.0.weight", "shortcut.1.weight"} <= block.state_dict().keys()
    images = torch.randn(3, channels, *size, dtype=torch.float64)
    images = images.to(memory_format=torch.channels_last)
    outcomes = []
    for strided in (False, True):
        inputs = images.clone().requires_grad_()
        if strided:
            skipped = block.shortcut[1](F.conv2d(inputs, block.shortcut[0].weight, stride=2))
            hidden = F.relu(block.norm1(block.conv1(inputs)))
            output = F.relu(block.norm2(block.conv2(hidden)) + skipped)
        else:
            output = block(inputs)
        block.zero_grad()
        (output**2).sum().backward()
        weights = [parameter.grad.clone() for parameter in block.parameters()]
        outcomes.append([output, inputs.grad, *weights])
    for ours, theirs in zip(*outcomes):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-10)

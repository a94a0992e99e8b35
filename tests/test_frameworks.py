"""Samplers in Lightning, transformers, accelerate and MONAI, each the real one.

Each trains on, saves in the middle of an epoch, and goes on in a new trainer with the same draws.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TORCHRUN
from test_samplers import assert_same_state
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from budgetbench import HardnessWeightedSampler, PSGDSampler
from budgetbench.sampler import BatchSampler

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
N, BATCH, EPOCHS = 48, 6, 3
STOP = 11  # steps, of 8 an epoch
HARD, AHEAD = 7, 8  # a point; batches that are drawn ahead, at most
BY_SIXES = {"remove_unused_columns": False, "per_device_train_batch_size": 6}
#: Trains to the end in one go, or from the checkpoint in the folder if it is there; returns the
#: batches that were trained on.
Training = Callable[[BatchSampler, Path], list[list[int]]]
workers = pytest.mark.parametrize("num_workers", [0, 2])
kinds = pytest.mark.parametrize("kind", ["dro", "p-SGD"])


class Points(Dataset):
    """Points of two classes."""

    def __init__(self, **more: Any):
        rng = torch.Generator().manual_seed(0)
        self.labels = torch.arange(N) % 2
        self.points = torch.randn(N, 4, generator=rng) + 2 * self.labels[:, None]

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"points": self.points[i], "labels": self.labels[i], "index": i}


def make_sampler(seed: int = 1, kind: str = "dro") -> BatchSampler:
    world: Any = {
        "num_replicas": int(os.environ.get("WORLD_SIZE", 1)),
        "rank": int(os.environ.get("RANK", 0)),
        "generator": torch.Generator().manual_seed(seed),
    }
    if kind == "p-SGD":
        return PSGDSampler(N, BATCH, **world)
    return HardnessWeightedSampler(N, BATCH, beta=3.0, initial_loss=1.0, **world)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 2)


def watched(sampler: BatchSampler) -> list[list[int]]:
    """A list that grows by the indices of every update, in each of which HARD has a high loss."""
    seen: list[list[int]] = []
    # A PSGDSampler calls its own `update`, which takes probabilities.
    name = "update" if isinstance(sampler, HardnessWeightedSampler) else "update_by_losses"
    learn = getattr(sampler, name)

    def note(index: Tensor, values: Tensor) -> None:
        index = torch.as_tensor(index)
        seen.append(index.tolist())
        learn(index, values + 5 * (index == HARD))

    setattr(sampler, name, note)
    return seen


def assert_learnt(sampler: BatchSampler) -> None:
    """HARD is known to be the hardest."""
    if isinstance(sampler, PSGDSampler):
        assert int(sampler.weights().argmax()) == HARD
    else:
        assert int(sampler.hardest(1)) == HARD


def assert_drawn(seen: list[list[int]]) -> None:
    """Once its loss was seen, HARD is in every batch that was drawn from then on."""
    first = next(number for number, batch in enumerate(seen) if HARD in batch)
    assert all(HARD in batch for batch in seen[first + AHEAD :])
    assert sum(HARD not in batch for batch in seen) > 0


def assert_goes_on(
    make: Training,
    tmp_path: Path,
    kind: str = "dro",
    stop: int = STOP,
    epoch: int | None = None,
) -> list[list[int]]:
    """Train to the end in one go, and from the checkpoint at `stop`; returns the batches."""
    sampler, fresh = make_sampler(1, kind), make_sampler(2, kind)
    seen = make(sampler, tmp_path)
    assert len(seen) == EPOCHS * (epoch or len(sampler))
    again = make(fresh, tmp_path)
    assert again == seen[stop:]
    state, same = copy.deepcopy(fresh.state_dict()), copy.deepcopy(sampler.state_dict())
    assert_same_state(state, same)
    assert_learnt(sampler)
    if kind == "dro" and sampler.num_replicas == 1:
        assert_drawn(seen)
    return seen


# --- Lightning ---


def lightning_training(num_workers: int, limit: int | None = None) -> Training:
    lightning = pytest.importorskip("lightning.pytorch")
    from budgetbench.lightning import SamplerCallback

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make_model()

        def training_step(self, batch, _):
            losses = cross_entropy(self.model(batch["points"]), batch["labels"], reduction="none")
            return {"loss": losses.mean(), "losses": losses.detach(), "index": batch["index"]}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def make(sampler: BatchSampler, folder: Path) -> list[list[int]]:
        seen, stop = watched(sampler), limit or STOP
        saving = lightning.callbacks.ModelCheckpoint(
            folder, "at-{step}", every_n_train_steps=stop, save_top_k=-1
        )
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            devices=sampler.num_replicas,
            callbacks=[SamplerCallback(sampler), saving],
            limit_train_batches=limit,
            use_distributed_sampler=sampler.num_replicas == 1,  # as it is by default
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(Points(), batch_sampler=sampler, num_workers=num_workers)
        file = folder / f"at-step={stop}.ckpt"
        trainer.fit(Model(), loader, ckpt_path=str(file) if file.exists() else None)
        return seen

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [None, 5], ids=["whole epochs", "short epochs"])
@workers
def test_lightning(num_workers: int, limit: int | None, tmp_path: Path) -> None:
    """In the middle of an epoch, and at the end of one that is cut short."""
    make = lightning_training(num_workers, limit)
    assert_goes_on(make, tmp_path, stop=limit or STOP, epoch=limit)


@pytest.mark.filterwarnings("ignore")
def test_lightning_that_draws_by_another_sampler_is_told() -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.demos.boring_classes import BoringModel

    from budgetbench.lightning import SamplerCallback

    options = dict(max_steps=1, logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer = lightning.Trainer(callbacks=[SamplerCallback(make_sampler())], **options)
    with pytest.raises(Exception, match="use_distributed_sampler=False"):
        trainer.fit(BoringModel())


# --- transformers ---


class Classifier(nn.Module):
    """A model as the Trainer of transformers takes it."""

    def __init__(self):
        super().__init__()
        self.model = make_model()

    def forward(self, points: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.model(points)}


def transformers_training(num_workers: int) -> Training:
    transformers = pytest.importorskip("transformers")
    from budgetbench.transformers import SamplerMixin

    class Trainer(SamplerMixin, transformers.Trainer):
        pass

    def make(sampler: BatchSampler, folder: Path) -> list[list[int]]:
        seen = watched(sampler)
        arguments = transformers.TrainingArguments(
            str(folder),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            dataloader_num_workers=num_workers,
            learning_rate=0.1,
            save_steps=STOP,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(Classifier(), arguments, train_dataset=Points(), sampler=sampler)
        file = folder / f"checkpoint-{STOP}"
        trainer.train(resume_from_checkpoint=str(file) if file.exists() else None)
        return seen

    return make


@pytest.mark.filterwarnings("ignore")
@workers
@kinds
def test_transformers(num_workers: int, kind: str, tmp_path: Path) -> None:
    assert_goes_on(transformers_training(num_workers), tmp_path, kind)


def test_transformers_that_would_remove_the_index_is_told(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from budgetbench.transformers import SamplerMixin

    class Trainer(SamplerMixin, transformers.Trainer):
        pass

    for more, text in (
        ({}, "remove_unused_columns=False"),
        ({"remove_unused_columns": False, "gradient_accumulation_steps": 2}, "larger batch"),
        ({"remove_unused_columns": False, "per_device_train_batch_size": 8}, "batches are of 6"),
    ):
        arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, **more)
        with pytest.raises(ValueError, match=text):
            Trainer(Classifier(), arguments, train_dataset=Points(), sampler=make_sampler())
    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, **BY_SIXES)
    parts = dict(train_dataset=Points(), sampler=make_sampler(), compute_loss_func=cross_entropy)
    with pytest.raises(ValueError, match="override sample_losses"):
        Trainer(Classifier(), arguments, **parts)
    type("Own", (Trainer,), {"sample_losses": cross_entropy})(Classifier(), arguments, **parts)


def test_transformers_has_its_loader_and_its_predictions(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from budgetbench.transformers import SamplerMixin

    class Trainer(SamplerMixin, transformers.Trainer):
        pass

    arguments = transformers.TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        dataloader_num_workers=1,
        dataloader_prefetch_factor=3,
        dataloader_persistent_workers=True,
        disable_tqdm=True,
        **BY_SIXES,
    )
    sampler, points = make_sampler(), Points()
    trainer = Trainer(Classifier(), arguments, train_dataset=points, sampler=sampler)
    loader = trainer.get_train_dataloader()
    assert (loader.prefetch_factor, loader.persistent_workers) == (3, True)
    assert loader.worker_init_fn is not None
    unlabelled = [{"points": points[i]["points"], "index": i} for i in range(N)]
    with torch.no_grad():
        expected = trainer.model(points.points)["logits"]
    assert torch.from_numpy(trainer.predict(unlabelled).predictions).allclose(expected)


def test_one_output_is_no_classification() -> None:
    pytest.importorskip("transformers")
    from budgetbench.transformers import SamplerMixin

    trainer = SamplerMixin.__new__(SamplerMixin)
    with pytest.raises(ValueError, match="override sample_losses"):
        trainer.sample_losses({"logits": torch.ones(3, 1)}, {"labels": torch.ones(3)})


def test_losses_of_tokens_are_averaged_over_those_that_count() -> None:
    pytest.importorskip("transformers")
    from budgetbench.transformers import SamplerMixin

    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    trainer = SamplerMixin.__new__(SamplerMixin)
    trainer.next_token = False
    found = trainer.sample_losses({"logits": logits}, {"labels": labels})
    expected = [cross_entropy(logits[i], labels[i]) for i in range(2)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_loss_of_a_language_model_is_its_own(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from budgetbench.transformers import SamplerMixin

    class Trainer(SamplerMixin, transformers.Trainer):
        pass

    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    ).eval()
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        remove_unused_columns=False,
        per_device_train_batch_size=BATCH,
    )
    trainer = Trainer(model, arguments, train_dataset=Points(), sampler=make_sampler())
    tokens = torch.randint(20, (3, 8))
    inputs = {"input_ids": tokens, "labels": tokens}
    with torch.no_grad():
        outputs = model(**inputs)
        losses = trainer.sample_losses(outputs, inputs)
        alone = [model(input_ids=each[None], labels=each[None]).loss for each in tokens]
    torch.testing.assert_close(losses, torch.stack(alone))
    torch.testing.assert_close(losses.mean(), outputs.loss)


# --- accelerate ---


def accelerate_training(num_workers: int) -> Training:
    """The sampler registers itself: there is nothing to adapt."""
    accelerate = pytest.importorskip("accelerate")

    def make(sampler: BatchSampler, folder: Path) -> list[list[int]]:
        accelerate.state.AcceleratorState._reset_state(True)
        accelerator = accelerate.Accelerator(cpu=True)
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(Points(), batch_sampler=sampler, num_workers=num_workers)
        model, optimizer = accelerator.prepare(model, optimizer)
        if sampler.num_replicas == 1:  # with several processes it would split batches once more
            loader = accelerator.prepare(loader)
        accelerator.register_for_checkpointing(sampler)
        seen, file = watched(sampler), folder / "state"
        done = 0
        if file.exists():
            accelerator.load_state(str(file))
            done = STOP
        while done < EPOCHS * len(sampler):
            for batch in loader:
                losses = cross_entropy(model(batch["points"]), batch["labels"], reduction="none")
                optimizer.zero_grad()
                accelerator.backward(losses.mean())
                optimizer.step()
                sampler.update(batch["index"], losses.detach())
                done += 1
                if done == STOP:
                    accelerator.save_state(str(file))
        return seen

    return make


@workers
def test_accelerate(num_workers: int, tmp_path: Path) -> None:
    assert_goes_on(accelerate_training(num_workers), tmp_path)


# --- Several processes ---


@pytest.mark.parametrize("framework", ["lightning", "transformers", "accelerate"])
def test_two_processes(framework: str, tmp_path: Path) -> None:
    """Both go on with the same draws, and train on disjoint parts of what one sampler drew."""
    pytest.importorskip(framework)
    command = [
        *TORCHRUN,
        "--nproc-per-node=2",
        "tests/framework_ranks.py",
        framework,
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, check=True, timeout=300, env=environment)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    seen = [first + second for first, second in zip(*ranks, strict=True)]
    assert len(seen) == EPOCHS * N // (2 * BATCH)
    assert all(len(set(batch)) == 2 * BATCH for batch in seen)
    assert_drawn(seen)


# --- PyTorch alone ---


@workers
@kinds
def test_a_plain_loop_goes_on_in_the_middle_of_an_epoch(num_workers: int, kind: str) -> None:
    """By the state_dict of the sampler alone."""
    sampler, fresh = make_sampler(1, kind), make_sampler(2, kind)

    def train(sampler: BatchSampler, steps: int) -> list:
        seen = []
        while len(seen) < steps:
            for batch in DataLoader(Points(), batch_sampler=sampler, num_workers=num_workers):
                seen.append(batch["index"].tolist())
                sampler.update(batch["index"], batch["index"] % 5 / 5)
                if len(seen) == STOP and steps > STOP:
                    saved.append(copy.deepcopy(sampler.state_dict()))
        return seen

    saved: list[dict] = []
    total = EPOCHS * len(sampler)
    seen = train(sampler, total)
    fresh.load_state_dict(saved[0])
    steps = total - STOP
    assert train(fresh, steps) == seen[STOP:]
    assert_same_state(fresh.state_dict(), sampler.state_dict())


# --- MONAI ---


class Volumes(Points):
    """Cases of three crops each, as a transform with several samples makes them."""

    crops = 3

    def __getitem__(self, i: int) -> list[dict[str, Any]]:
        rng = torch.Generator().manual_seed(i)
        label = (torch.arange(64).view(1, 4, 4, 4) % 3 == 0).long()
        image = label + 0.3 * torch.randn(1, 4, 4, 4, generator=rng)
        return [{"image": image, "label": label, "index": i}] * self.crops


@pytest.mark.filterwarnings("ignore")
@workers
@kinds
def test_monai(num_workers: int, kind: str, tmp_path: Path) -> None:
    monai = pytest.importorskip("monai")
    pytest.importorskip("ignite")
    from monai.data import DataLoader as MonaiLoader
    from monai.engines import SupervisedTrainer
    from monai.handlers import CheckpointLoader, CheckpointSaver

    from budgetbench.monai import SamplerHandler

    def make(sampler: BatchSampler, folder: Path) -> list:
        torch.manual_seed(0)
        model = nn.Conv3d(1, 2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        seen = watched(sampler)
        kept = {"model": model, "optimizer": optimizer, "sampler": sampler}
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=EPOCHS,
            train_data_loader=MonaiLoader(
                Volumes(), batch_sampler=sampler, num_workers=num_workers
            ),
            network=model,
            optimizer=optimizer,
            loss_function=monai.losses.DiceCELoss(to_onehot_y=True, softmax=True),
        )
        file = folder / f"checkpoint_iteration={STOP}.pt"
        handlers = [SamplerHandler(sampler)]
        kept["trainer"] = trainer
        if file.exists():
            handlers.append(CheckpointLoader(str(file), kept))
        else:
            handlers.append(
                CheckpointSaver(str(folder), kept, save_interval=STOP, epoch_level=False)
            )
        for handler in handlers:
            handler.attach(trainer)
        trainer.run()
        return [sorted(batch) for batch in seen]

    assert_goes_on(make, tmp_path, kind)


def test_the_mean_of_monais_loss_is_that_of_the_batch() -> None:
    monai = pytest.importorskip("monai")
    from budgetbench import unreduced

    rng = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 2, 4, 4, 4, generator=rng)
    targets = torch.randint(2, (3, 1, 4, 4, 4), generator=rng)
    loss = monai.losses.DiceCELoss(to_onehot_y=True, softmax=True)
    torch.testing.assert_close(unreduced(loss)(outputs, targets).mean(), loss(outputs, targets))
    whole = monai.losses.DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    assert (unreduced(whole)(outputs, targets).mean() - whole(outputs, targets)).abs() > 1e-4

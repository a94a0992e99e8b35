"""The trainers for nnU-Net, in nnU-Net itself, on a small data set of balls."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

pytest.importorskip("nnunetv2", reason="needs nnU-Net (requirements-dev.txt)")
import SimpleITK
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from budgetbench import nnunet
from budgetbench.nnunet import nnUNetTrainerHWS, nnUNetTrainerPSGD, state_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
DATASET = "Dataset001_Balls"
CASES = 10  # of which nnU-Net trains on 8 and validates on 2
SIDE = 20


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nnU-Net's folders with a preprocessed data set: balls in noise, in 3D and 2D."""
    root = tmp_path_factory.mktemp("nnunet")
    folder = root / "raw" / DATASET
    for name in (folder / "imagesTr", folder / "labelsTr", root / "preprocessed", root / "results"):
        name.mkdir(parents=True)
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
    for number in range(CASES):
        centre, radius = rng.uniform(7, 13, (3, 1, 1, 1)), rng.uniform(3, 6)
        ball = ((grid - centre) ** 2).sum(0) < radius**2
        image = (100 * ball + rng.normal(0, 20, ball.shape)).astype(np.float32)
        for array, path in (
            (image, folder / f"imagesTr/ball_{number:02}_0000.nii.gz"),
            (ball.astype(np.uint8), folder / f"labelsTr/ball_{number:02}.nii.gz"),
        ):
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), path)
    described = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}}
    described |= {"numTraining": CASES, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(described))
    program(
        "nnUNetv2_plan_and_preprocess",
        root,
        *["-d", "1", "-c", "3d_fullres", "2d", "-np", "1", "-npfp", "1"],
    )
    return root


def program(name: str, home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """Run one of nnU-Net's programs; it has to succeed."""
    folders = {f"nnUNet_{part}": str(home / part) for part in ("raw", "preprocessed", "results")}
    root = Path(nnunet.__file__).parents[1]
    result = subprocess.run(
        [str(Path(sys.executable).with_name(name)), *words],
        env=os.environ | folders | {"PYTHONPATH": str(root)} | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """nnU-Net in this process, with results of this test alone, and no worker processes."""
    monkeypatch.setenv("nnUNet_raw", str(home / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(home / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setattr(module, "get_allowed_n_proc_DA", lambda: 0)
    return home


def make(kind: type, home: Path, configuration: str = "3d_fullres", fold: int = 0, **attributes):
    """A trainer as nnU-Net makes it, initialized; attributes are those of its class."""
    folder = home / "preprocessed" / DATASET
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    described = json.loads((folder / "dataset.json").read_text())
    kind = type(kind.__name__, (kind,), attributes)
    torch.manual_seed(0)
    trainer = kind(plans, configuration, fold, described, torch.device("cpu"))
    trainer.initialize()
    return trainer


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps without a network: the loss of a case is what `losses` says."""
    monkeypatch.setattr(nnUNetTrainer, "train_step", lambda self, batch: self.loss(None, None))


def step(trainer: Any, batch: dict, losses: Callable[[str], float]) -> list[str]:
    """One step in which cases have such losses; the cases that it was on."""
    cases = list(map(str, batch["keys"]))
    trainer.case_loss = lambda outputs, targets: torch.tensor([losses(case) for case in cases])
    trainer.seen = getattr(trainer, "seen", [])
    trainer.train_step(batch)
    return cases


@pytest.fixture(params=["fork", "spawn"])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("workers", [0, 2, 12])
def test_an_update_reaches_the_draws(
    workers: int, start_method: str, here: Path, stubbed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once one case is known to be hard, every batch drawn from then on has it."""
    if workers == 12 and start_method == "spawn":
        pytest.skip("twelve imports of PyTorch: two workers show what spawning does")
    monkeypatch.setattr(module, "get_allowed_n_proc_DA", lambda: workers)
    ahead = max(3, workers)
    trainer = make(nnUNetTrainerHWS, here, beta=100.0, draws_ahead=ahead)
    train, val = trainer.get_dataloaders()
    hard = trainer.cases[5]
    seen = [
        step(trainer, next(train), lambda case: 5.0 if case == hard else 0.0)
        for _ in range(4 * len(trainer.cases) + ahead)
    ]
    assert any(hard not in batch for batch in seen[:ahead])
    assert all(hard in batch for batch in seen[-10:])
    assert len(trainer.waiting) == ahead
    assert trainer.names(trainer.hardness()).startswith(hard)
    if workers:
        trainer.dataloader_train = train
        began = time.monotonic()
        trainer.wake_workers()
        train._finish()
        assert time.monotonic() - began < 8, "no worker waits for a draw"
        val._finish(force=True)


def test_a_batch_is_drawn_so_many_steps_before_it_is_trained_on(here: Path, stubbed: None) -> None:
    """What a step shows changes the draw after the ones that wait, and none before."""
    sequences = []
    for surprise in (0.5, 9.0):
        trainer = make(nnUNetTrainerHWS, here, beta=100.0, draws_ahead=4)
        train, _ = trainer.get_dataloaders()
        hard = trainer.cases[0]
        sequence = []
        for number in range(60):
            losses = dict.fromkeys(trainer.cases, 0.5) | {hard: surprise if number >= 20 else 0.5}
            sequence.append(step(trainer, next(train), losses.__getitem__))
        sequences.append(sequence)
    same, other = sequences
    first = next(number for number in range(20, 60) if hard in same[number])
    differs = next(number for number in range(60) if same[number] != other[number])
    assert differs > first + 4 - 1
    assert all(hard in batch for batch in other[first + 5 : first + 15])


def parameters(trainer: Any) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in trainer.network.parameters()])


def test_a_step_is_nnunets(here: Path) -> None:
    """The mean of the losses of cases is the loss of the batch, where batch_dice is off."""
    ours, theirs = (make(kind, here) for kind in (nnUNetTrainerHWS, nnUNetTrainer))
    assert torch.equal(parameters(ours), parameters(theirs))
    before = parameters(ours)
    train, _ = ours.get_dataloaders()
    ours.seen = []
    for _ in range(2):
        batch = next(train)
        results = [trainer.train_step(batch)["loss"] for trainer in (ours, theirs)]
        np.testing.assert_allclose(*results, rtol=1e-5)
    torch.testing.assert_close(parameters(ours), parameters(theirs), rtol=1e-3, atol=1e-5)
    assert (parameters(ours) - before).abs().max() > 1e-3
    losses = ours.sampler.losses[ours.trained]
    np.testing.assert_allclose(losses.mean().item(), results[0], rtol=1e-5)


def test_importance_weights_multiply_the_losses(here: Path) -> None:
    trainer = make(nnUNetTrainerHWS, here, importance_weights=True, beta=2.0, initial_loss=0.5)
    trainer.get_dataloaders()
    losses = torch.tensor([0.8, 0.1])
    trainer.case_loss = lambda outputs, targets: losses
    trainer.trained = [2, 6]
    found = trainer.training_loss(None, None)
    stale = trainer.sampler.losses[[2, 6]]
    expected = ((2 * (losses - stale)).exp().clamp(0.1, 10) * losses).mean()
    torch.testing.assert_close(found, expected)
    assert (stale - 0.5).abs().max() < 0.01


def test_slices_in_2d_may_take_a_case_several_times(here: Path) -> None:
    """A batch there is larger than the number of cases; the losses of a case are averaged."""
    trainer = make(nnUNetTrainerHWS, here, "2d")
    train, _ = trainer.get_dataloaders()
    trainer.seen = []
    batch = next(train)
    assert len(batch["keys"]) == 10 > len(trainer.cases)
    trainer.train_step(batch)
    measured = pd.Series(trainer.measured.numpy()).groupby(trainer.trained).mean()
    found = trainer.sampler.losses[list(measured.index)]
    np.testing.assert_allclose(found, measured, rtol=1e-5)


def test_losses_that_overflow_are_left_out(here: Path, stubbed: None) -> None:
    trainer = make(nnUNetTrainerHWS, here)
    train, _ = trainer.get_dataloaders()
    before = trainer.sampler.losses.clone()
    step(trainer, next(train), lambda case: float("nan"))
    assert torch.equal(trainer.sampler.losses, before)
    cases = step(trainer, next(train), lambda case: 3.0)
    assert trainer.sampler.losses[[trainer.place[case] for case in cases]].tolist() == [3, 3]


# --- Going on ---


@pytest.mark.parametrize("kind", [nnUNetTrainerHWS, nnUNetTrainerPSGD])
def test_a_training_goes_on_with_the_same_draws(kind: type, here: Path, tmp_path: Path) -> None:
    """From a file beside nnU-Net's checkpoint, with the batches that were drawn ahead."""

    def go_on(trainer: Any, train: Any, steps: int) -> list[list[str]]:
        found = []
        for _ in range(steps):
            batch = next(train)
            found.append(list(batch["keys"]))
            place = torch.tensor([trainer.place[case] for case in batch["keys"]])
            trainer.waiting.remove(found[-1])
            trainer.seen = []
            trainer.learn(place.tolist(), place / 10)
            trainer.draw()
        return found

    trainer = make(kind, here, draws_ahead=5)
    train, _ = trainer.get_dataloaders()
    go_on(trainer, train, 7)
    file = str(tmp_path / "checkpoint_latest.pth")
    trainer.save_checkpoint(file)
    expected = go_on(trainer, train, 20)
    resumed = make(kind, here, draws_ahead=5)
    resumed.load_checkpoint(file)
    train, _ = resumed.get_dataloaders()
    assert go_on(resumed, train, 20) == expected
    for name, value in trainer.sampler.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed.sampler.state_dict()[name])


def test_a_state_of_another_training_is_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainer = make(nnUNetTrainerHWS, here)
    trainer.get_dataloaders()
    file = str(tmp_path / "checkpoint_latest.pth")
    trainer.save_checkpoint(file)
    state = torch.load(state_file(file), weights_only=True)

    def refused(fold: int = 0) -> str:
        other = make(nnUNetTrainerHWS, here, fold=fold)
        other.load_checkpoint(file)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            other.get_dataloaders()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "is of other training cases" in refused(fold=1)
    torch.save(state | {"waiting": [[], []]}, state_file(file))
    assert "is of 2 processes: give -num_gpus 2" in refused()
    torch.save(state | {"epoch": 7}, state_file(file))
    assert "is of epoch 7, its checkpoint of 1" in refused()
    state_file(file).unlink()
    assert "is missing: start without --c" in refused()


def test_a_trainer_that_workers_cannot_import_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As that of a file copied into the folder of trainers, which nnU-Net forgets again."""
    monkeypatch.setattr(module, "get_allowed_n_proc_DA", lambda: 1)
    trainer = make(nnUNetTrainerHWS, here)
    monkeypatch.setattr(nnunet.CaseQueue, "__module__", "forgotten")
    with pytest.raises(SystemExit):
        trainer.get_dataloaders()
    assert "install the package" in capsys.readouterr().err


# --- p-SGD ---


def test_subsets_favour_cases_with_many_wrong_voxels(here: Path) -> None:
    trainer = make(nnUNetTrainerPSGD, here, subset=0.5)
    train, _ = trainer.get_dataloaders()
    trainer.seen = []
    batch = next(train)
    trainer.train_step(batch)
    assert trainer.measured.shape == (2,)
    right = trainer.measured
    assert 0 < right.min() <= right.max() < 1
    weights = trainer.sampler.weights()[trainer.trained]
    assert weights.argmax() == right.argmin(), "the worse case of the two has the higher weight"
    logits = torch.tensor([0.2, 0.9]).logit().view(2, 1, 1, 1, 1) * torch.tensor([-0.5, 0.5]).view(
        1, 2, 1, 1, 1
    )
    outputs = [logits.expand(2, 2, 3, 3, 3)]
    trainer.training_loss(outputs * 2, [torch.ones(2, 1, 3, 3, 3)] * 2)
    torch.testing.assert_close(trainer.measured, torch.tensor([0.2, 0.9]))
    subset = trainer.sampler.draw()
    assert subset.shape == (2, 2), "half of eight cases, two at a time"
    assert len(subset.unique()) == 4
    with pytest.raises(SystemExit):
        make(nnUNetTrainerPSGD, here, subset=0.1).get_dataloaders()


# --- Several processes ---


def be_a_rank(rank: int, ranks: int, home: str, results: str) -> None:
    """Train some steps as one of two processes on a CPU, which nnU-Net has for GPUs alone."""
    folders = {"raw": f"{home}/raw", "preprocessed": f"{home}/preprocessed", "results": results}
    os.environ |= {f"nnUNet_{part}": folder for part, folder in folders.items()}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{results}/rendezvous", rank=rank, world_size=ranks)
    wrap = torch.nn.parallel.DistributedDataParallel
    module.DDP = lambda network, device_ids: wrap(network)
    module.get_allowed_n_proc_DA = lambda: 0
    nnUNetTrainer.__init__ = on_cpu(nnUNetTrainer.__init__)
    trainer = make(nnUNetTrainerHWS, Path(home), draws_ahead=3, beta=20.0)
    assert trainer.is_ddp
    train, _ = trainer.get_dataloaders()
    trainer.seen = []
    drawn = []
    for _ in range(6):
        batch = next(train)
        drawn.append(list(batch["keys"]))
        trainer.train_step(batch)
    trainer.save_checkpoint(f"{results}/checkpoint_latest.pth")
    found = {"drawn": drawn, "losses": trainer.sampler.losses, "seen": trainer.seen}
    torch.save(found | {"waiting": trainer.waiting}, f"{results}/{rank}.pt")
    dist.destroy_process_group()


def on_cpu(make_one: Callable) -> Callable:
    def init(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):  # noqa: B008
        make_one(self, plans, configuration, fold, dataset_json, device)
        self.device = torch.device("cpu")

    return init


def test_processes_draw_together_and_learn_from_each_other(here: Path, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(be_a_rank, (2, str(here), str(tmp_path)), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(one["losses"], other["losses"])
    assert one["seen"] == other["seen"]
    assert len(one["seen"]) == 12
    assert all(not set(mine) & set(theirs) for mine, theirs in zip(one["drawn"], other["drawn"]))
    state = torch.load(tmp_path / "checkpoint_latest.sampler.pth", weights_only=True)
    assert state["waiting"] == [one["waiting"], other["waiting"]]


# --- As users meet it ---

TINY = """
from budgetbench.nnunet import HardnessWeighted
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class Tiny(HardnessWeighted, nnUNetTrainer):
    beta = 5.0
    draws_ahead = 3
    epochs = 2

    def initialize(self):
        self.num_epochs, self.save_every = self.epochs, 1
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 1
        super().initialize()
"""


def test_nnunetv2_train_finds_trains_validates_and_goes_on(home: Path, tmp_path: Path) -> None:
    """By the commands of the documentation, with two worker processes."""
    folder = tmp_path / "trainers"
    command = [sys.executable, "-m", "budgetbench.nnunet", "install", str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != nnunet.VARIABLE}
    root = Path(nnunet.__file__).parents[1]
    said = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert f"export nnUNet_extTrainer={folder}" in said
    (folder / "tiny.py").write_text(TINY)
    variables = {"nnUNet_extTrainer": str(folder), "nnUNet_n_proc_DA": "2"}
    variables |= {"nnUNet_def_n_proc": "1", "nnUNet_results": str(tmp_path / "results")}
    words = ["1", "3d_fullres", "0", "-tr", "Tiny", "-device", "cpu"]
    said = program("nnUNetv2_train", home, *words, **variables).stdout
    line = "hardness weighted sampling: beta 5, initial loss 1, momentum 0, importance weights off"
    assert f"{line}, without replacement in a batch; 8 cases, each batch drawn 3 steps" in said
    (run,) = (tmp_path / "results").glob("*/Tiny__*/fold_0")
    assert (run / "validation/summary.json").exists()
    table = pd.read_csv(run / "sampling.csv")
    assert table["epoch"].tolist() == [0, 1]
    assert table["draws"].tolist() == [6, 6]
    assert table["distinct"].between(0.25, 0.75).all()
    assert (table["entropy"] <= np.log(6) + 1e-4).all()
    assert table["hardest"].str.split(";").map(len).tolist() == [5, 5]
    assert state_file(str(run / "checkpoint_final.pth")).exists()
    assert not state_file(str(run / "checkpoint_latest.pth")).exists()
    (folder / "tiny.py").write_text(TINY.replace("epochs = 2", "epochs = 3"))
    program("nnUNetv2_train", home, *words, "--c", "--val_best", **variables)
    assert pd.read_csv(run / "sampling.csv")["epoch"].tolist() == [0, 1, 2]


def test_a_folder_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["nnunet", "install", str(tmp_path / "file" / "folder")])
    with pytest.raises(SystemExit) as ended:
        nnunet.main()
    assert ended.value.code == 2
    assert "name another folder" in capsys.readouterr().err

"""Mixed precision and compilation: what is float32, steps that overflow, and what is compiled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import Completed, assert_refused
from steps import Rows, make_steps
from test_network import CPU, make_trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.models import create_model
from engine.network import Network, Precision, choose_precision
from engine.trainer import Trainer
from errors import Diverged, UsageError

CUDA = torch.device("cuda")
BF16 = Precision(torch.bfloat16, "")
pytestmark = pytest.mark.usefixtures("one_thread")


# --- bf16: the last layer is float32 ---


class Operations(TorchDispatchMode):
    """Notes the name and the types of all tensors of each operation."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, set[torch.dtype]]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        dtypes = {each.dtype for each in args if torch.is_tensor(each)}
        self.seen.append((operation.__name__, dtypes))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["resnet10-w8", "resnet10t", "mobilenetv3_small_050"])
def test_the_last_layer_is_float32_and_the_others_are_not(name: str) -> None:
    """Logits of bfloat16 would all be numbers of eight bits."""
    model = create_model(name, 1, 10, (8, 8))
    keys = list(model.state_dict())
    network = Network(model, CPU, precision=BF16)
    with Operations() as operations:
        logits = network(torch.randn(8, 1, 8, 8))
    products = [dtypes for name, dtypes in operations.seen if name.startswith("addmm")]
    assert products == [{torch.float32}]
    convolutions = [dtypes for name, dtypes in operations.seen if "convolution" in name]
    assert {torch.bfloat16} in convolutions
    assert not torch.equal(logits, logits.bfloat16().float())
    logits.sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    assert list(network.model.state_dict()) == keys


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile as --compile does, but for the last part, the code: that takes half a minute."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_the_last_layer_is_float32_where_the_network_is_compiled(quick_compiler: None) -> None:
    network = Network(create_model("resnet10-w8", 1, 10, (8, 8)), CPU, precision=BF16)
    compiled = Network(network.model, CPU, precision=BF16, compiled=True)
    images = torch.randn(8, 1, 8, 8)
    logits = compiled(images)
    assert not torch.equal(logits, logits.bfloat16().float())
    torch.testing.assert_close(compiled.score(images), network.score(images))


# --- auto ---


@pytest.mark.parametrize(
    "flags, amp, reason",
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16, "amx_bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16, "avx512_bf16"),
        ({"amx_bf16": False, "avx512_bf16": False}, None, "neither amx_bf16 nor avx512_bf16"),
        ({}, None, "neither amx_bf16 nor avx512_bf16"),
    ],
)
def test_auto_takes_bf16_where_the_processor_has_instructions_for_it(
    flags: dict, amp: torch.dtype | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert choose_precision("auto", CPU) == Precision(amp, reason)
    assert choose_precision("off", CPU) == Precision(None, "amp off")
    assert choose_precision("bf16", CPU) == Precision(torch.bfloat16, "amp bf16")
    assert choose_precision("fp16", CPU) == Precision(torch.float16, "amp fp16")


@pytest.mark.parametrize("hardware", [False, True])
def test_auto_takes_bf16_on_a_gpu_that_has_it(
    hardware: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: hardware)
    precision = choose_precision("auto", CUDA, compiled=True)
    assert precision.amp == (torch.bfloat16 if hardware else None)
    assert precision.reason == f"the GPU has {'' if hardware else 'no '}bf16"


def test_a_cpu_does_not_compile_for_bf16(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trained 16 times as slowly as without --compile; auto takes float32 then."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert choose_precision("auto", CPU, compiled=True) == Precision(None, "compile on a CPU")
    assert choose_precision("off", CPU, compiled=True).amp is None
    with pytest.raises(UsageError, match="`amp` fp16: with `compile`"):
        choose_precision("fp16", CPU, compiled=True)
    outcome = train_here("--compile", "--amp", "bf16", "--device", "cpu")
    assert_refused(outcome, "--amp bf16", "--compile", absent="results")


# --- What config.json says of it, and where a run goes on ---


@pytest.fixture
def interrupted(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Start a run of four epochs named `run`, and stop it in the third."""

    def start(*words: str) -> None:
        with monkeypatch.context() as patch:
            finish = Trainer.finish_epoch

            def stop_in_third(self: Trainer, *rest: object) -> dict:
                if self.epoch == 3:
                    raise KeyboardInterrupt
                return finish(self, *rest)

            patch.setattr(Trainer, "finish_epoch", stop_in_third)
            assert train_here(*RUN, *words).returncode == 130

    return start


RUN = ["--epochs", "4", "--budget", "0.2", "--device", "cpu", "--experiment-name", "run"]


def test_a_run_does_not_go_on_in_another_precision(
    interrupted: Callable, train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `auto` is something else on the machine that it goes on on."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    interrupted()
    config = json.loads(Path("results/run/config.json").read_text())
    assert (config["precision"], config["precision_reason"]) == ("bfloat16", "avx512_bf16")
    before = {path: path.read_bytes() for path in Path("results/run").glob("c*")}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    outcome = train_here(*RUN)
    assert_refused(outcome, "amp was bf16, is off", "--no-resume --overwrite")
    assert before == {path: path.read_bytes() for path in before}
    assert train_here(*RUN, "--amp", "bf16").returncode == 0


def test_config_says_with_what_each_start_was_made(
    interrupted: Callable, train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    interrupted()
    monkeypatch.setattr("engine.identity.commit", lambda: "another")
    assert train_here(*RUN).returncode == 0
    config = json.loads(Path("results/run/config.json").read_text())
    first, second = config["starts"]
    assert (first["step"], second["step"]) == (0, 4)
    assert first["versions"]["commit"] != second["versions"]["commit"] == "another"
    assert config["versions"] == second["versions"]
    for start in (first, second):
        assert start["time"].startswith("20")
        assert start["device"].startswith("cpu")
        assert (start["processes"], start["precision"]) == (1, "float32")
    again = train_here(*RUN, "--overwrite")
    assert again.returncode == 0
    assert len(json.loads(Path("results/run/config.json").read_text())["starts"]) == 1


# --- fp16: a step that overflows is made again ---


def with_scale(scale: float, *words: str) -> Trainer:
    small = ["--model", "resnet10-w8", "--batch-size", "16"]  # CPUs without fp16 are slow in it
    trainer = make_trainer("--amp", "fp16", *small, *words)
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": scale})
    return trainer


def state_of(trainer: Trainer) -> list[Tensor]:
    momentum = [each["momentum_buffer"] for each in trainer.optimizer.state.values()]
    return [
        *trainer.model.state_dict().values(),
        *momentum,
        trainer.epoch_sums,
        trainer.sample_counts,
    ]


@pytest.fixture
def torn_memory() -> Iterator[None]:
    """Memory that nobody wrote to is full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_a_step_that_overflows_first_is_made_again(torn_memory: None) -> None:
    """To the bit the run that starts with a scale at which nothing overflows."""
    trainer = with_scale(2.0**30)
    make_steps(trainer, 2)
    scale = trainer.scaler.get_scale()
    assert 1 < scale < 2**25
    other = with_scale(scale)
    make_steps(other, 2)
    assert all(map(torch.equal, state_of(trainer), state_of(other)))
    assert all(value.isfinite().all() for value in state_of(trainer))


@pytest.mark.parametrize("method", ["SGD", "selective-backprop", "dro"])
def test_a_run_that_overflows_makes_all_its_steps(method: str, torn_memory: None) -> None:
    trainer = with_scale(2.0**30, "--method", method, "--epochs", "1", "--budget", "0.05")
    log = Rows()
    while not trainer.finished:
        before = [weight.clone() for weight in trainer.model.parameters()]
        make_steps(trainer, 1, log=log)
        assert not any(map(torch.equal, before, trainer.model.parameters()))
    assert trainer.step == trainer.task.steps
    (row,) = log.rows
    assert row["images_trained"] == trainer.task.steps * trainer.task.batch_size
    assert 0 < row["train_loss"] < 10


def test_an_overflow_of_the_forward_pass_is_no_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no trace in the statistics of batch normalisation either."""
    trainer, calls = with_scale(1024.0), []
    run = trainer.network.run

    def overflow_twice(model: nn.Module, images: Tensor) -> Tensor:
        calls.append(None)
        return run(model, images * (torch.inf if len(calls) < 3 else 1))

    monkeypatch.setattr(trainer.network, "run", overflow_twice)
    make_steps(trainer, 1)
    assert len(calls) == 3
    assert trainer.scaler.get_scale() == 256
    other = with_scale(256.0)
    make_steps(other, 1)
    assert all(map(torch.equal, state_of(trainer), state_of(other)))


def test_a_loss_that_is_infinite_at_scale_1_is_a_divergence() -> None:
    trainer = with_scale(16.0)
    with torch.no_grad():
        trainer.model.classifier.weight.fill_(torch.inf)
    with pytest.raises(Diverged, match=r"step 1, in float16 even without scaling; .*`amp` bf16"):
        make_steps(trainer, 1)
    assert trainer.scaler.get_scale() == 0.5


def test_an_overflow_of_an_evaluation_is_no_divergence() -> None:
    """Float16 ends at 65,504; here the first layer gives some 100,000."""
    trainer = with_scale(16.0)
    make_steps(trainer, 1)
    with torch.no_grad():
        trainer.model.stem.weight.mul_(3e5)
    assert not trainer.evaluator.sum_up(trainer.network).loss < torch.inf
    assert trainer.finish_epoch(trainer.evaluate())["test_loss"] < torch.inf


def test_an_overflow_of_a_scoring_pass_is_repeated_in_float32() -> None:
    trainer = with_scale(16.0)
    images = trainer.evaluator.normalise(trainer.evaluator.images.between(0, 64))
    with torch.no_grad():
        trainer.model.stem.weight.mul_(3e5)
    with trainer.network.in_float32():
        expected = trainer.network.score(images)
    assert expected.isfinite().all()
    assert torch.equal(trainer.network.score(images), expected)
    assert trainer.network.precision.amp == torch.float16


# --- Compilation ---

COMPILED = {
    "SGD": [],
    "obftf": [],
    "grad-norm": ["--gradnorm-tau", "0", "--gradnorm-candidates", "2"],
    "selective-backprop": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["standard", "ricap"])
@pytest.mark.parametrize("method", COMPILED)
def test_nothing_is_compiled_after_the_warm_up(
    method: str, augmentation: str, quick_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates scored in several parts, of which the last is smaller, included."""
    monkeypatch.setattr("engine.parts.FORWARD_VALUES", {"cpu": 64 * 50})
    words = ["--method", method, "--augmentation", augmentation, *COMPILED[method]]
    trainer = make_trainer("--compile", "--amp", "off", "--model", "resnet10-w8", *words)
    trainer.warm_up()
    compilations = torch._dynamo.utils.counters["stats"]
    before = compilations["unique_graphs"]
    assert before >= (1 if method == "SGD" else 2)
    make_steps(trainer, 13)
    assert (trainer.images_scored > 0) == (method != "SGD")
    assert compilations["unique_graphs"] == before

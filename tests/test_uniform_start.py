"""The uniform start of methods that select: plain SGD's steps, from which they already learn."""

from __future__ import annotations

import pytest
import torch
from steps import make_steps
from test_methods import make_dataset, make_method, make_task, make_trainer, saved_and_loaded
from torch import Tensor

from engine.build import create_method
from engine.config_file import read_options
from engine.flags import parse
from engine.options import options_of
from engine.sweep.runs import name_of
from engine.trainer import Trainer
from errors import UsageError
from methods import METHODS, Method, OptionError, Selecting, Task
from methods.scores import Recording
from methods.scores.forgetting import Forgetting

pytestmark = pytest.mark.usefixtures("one_thread")

SELECTING = [name for name in METHODS if issubclass(METHODS[name], Selecting)]
#: 14 batches in a pass and 7 in an epoch, so that two epochs are not whole blocks of most methods.
SIZES = dict(num_images=230, batch_size=16, budget=0.5, epochs=6)


def make_run(name: str, augmentation: str = "ricap", **options: float | None) -> Trainer:
    task = make_task(**SIZES)
    return make_trainer(make_method(name, task, **options), make_dataset(230), augmentation)


def trained(trainer: Trainer, steps: int) -> list[Tensor]:
    """The indices [B] of each of the next steps."""
    return [step.batch.index for step in make_steps(trainer, steps)]


def test_the_methods_that_select() -> None:
    """Known methods only: one that is added may be of either kind."""
    others = {"SGD", "unif-SGD", "random-subset", "coreset"}
    selecting = {"p-SGD", "c-SGD", "selective-backprop", "dro", "infobatch", "grad-norm"}
    assert selecting | {"rho-loss", "obftf", "cvar"} <= {*SELECTING}
    assert others.isdisjoint(SELECTING)


@pytest.mark.parametrize("epochs", [1, 3, 6])
@pytest.mark.parametrize("name", SELECTING)
def test_uniform_epochs_are_plain_sgds(name: str, epochs: int) -> None:
    """Exactly epochs * S steps: the images, the order, the losses and the network of SGD."""
    run, sgd = make_run(name, uniform_epochs=epochs), make_run("SGD")
    steps = 7 * epochs
    assert run.method.uniform_steps == steps
    asked = []
    run.method.draw = lambda progress, draw=run.method.draw: (
        asked.append(run.step) or draw(progress)
    )
    for ours, theirs in zip(trained(run, steps), trained(sgd, steps)):
        assert torch.equal(ours, theirs)
    assert all(map(torch.equal, run.model.parameters(), sgd.model.parameters()))
    assert run.images_scored == 0
    assert asked == []
    if epochs < 6:
        trained(run, 1)
        assert asked[0] == steps
        assert run.finish_epoch(None)["images_scored"] == run.images_scored


@pytest.mark.parametrize("name", SELECTING)
def test_passes_after_a_uniform_start_do_not_repeat_it(name: str) -> None:
    """They'd be in the very same order if both were drawn from one seed."""
    run, plain = make_run(name, uniform_epochs=2), make_run(name, uniform_epochs=0)
    trained(run, 14)
    assert not torch.equal(*trained(run, 1), *trained(plain, 1))


@pytest.mark.parametrize("name", SELECTING)
def test_a_loaded_run_goes_on_within_and_after_its_uniform_start(name: str) -> None:
    straight = make_run(name, uniform_epochs=3)
    states = {}
    while not straight.finished:
        if straight.step in (5, 17, 21, 30):  # within, in the second pass of, at the end of, after
            states[straight.step] = saved_and_loaded(straight.state_dict())
        trained(straight, 1)
    for state in states.values():
        resumed = make_run(name, uniform_epochs=3)
        resumed.load_state_dict(state)
        make_steps(resumed)
        assert resumed.images_scored == straight.images_scored
        assert all(map(torch.equal, resumed.model.parameters(), straight.model.parameters()))


@pytest.mark.parametrize("name", SELECTING)
def test_uniform_epochs_are_as_many_at_equal_compute(name: str) -> None:
    method = make_method(name, make_task(**SIZES), uniform_epochs=2)
    run = make_trainer(method, make_dataset(230), of_compute=True)
    trained(run, 14)
    assert (run.epoch, run.images_scored) == (2, 0)
    assert not run.starts_uniformly


def test_what_is_learnt_meanwhile() -> None:
    """As from any other step: running means, stale losses and how spread the gradients are."""
    for name in ("p-SGD", "c-SGD"):
        run = make_run(name, uniform_epochs=2)
        trained(run, 14)
        assert torch.equal(run.method.sampler.visits, run.sample_counts)
        assert run.method.sampler.total.sum() > 0
    run = make_run("dro", uniform_epochs=2, augmentation="standard")
    before = run.method.sampler.losses.clone()
    trained(run, 14)
    assert torch.equal(run.method.sampler.losses != before, run.sample_counts > 0)
    run = make_run("infobatch", uniform_epochs=2, augmentation="standard")
    trained(run, 14)
    assert torch.equal(run.method.losses.isfinite(), run.sample_counts > 0)
    run = make_run("grad-norm", uniform_epochs=2)
    trained(run, 14)
    assert run.method.tau > 0.5


def test_selective_backprop_learns_its_history_from_the_training_losses() -> None:
    run = make_run("selective-backprop", uniform_epochs=5, augmentation="standard")
    selector, losses = run.method.selector, []
    inner = run.method.observe
    run.method.observe = lambda batch, logits, loss: (
        losses.append(loss) or inner(batch, logits, loss)
    )
    trained(run, 35)
    assert selector.scored == 35 * 16
    assert torch.equal(selector.history[-35 * 16 :], torch.cat(losses))
    trained(run, 1)  # from then on only what is scored
    assert selector.scored == 35 * 16 + run.images_scored
    assert run.images_scored >= 16


@pytest.mark.parametrize(
    "epochs, budget, steps",
    [
        (200, 1.0, 390),  # a pass of 50,000 images in batches of 128
        (200, 0.2, 390),
        (6, 0.2, 46),  # a tenth of 6 * 78 steps
        (1, 0.02, 0),
    ],
)
def test_selective_backprop_starts_with_a_pass_or_a_tenth(epochs, budget, steps) -> None:
    sizes = dict(num_images=50_000, batch_size=128, budget=budget, epochs=epochs)
    task = make_task(**sizes)
    assert METHODS["selective-backprop"](task).uniform_steps == steps
    assert METHODS["selective-backprop"](task, uniform_epochs=0).uniform_steps == 0
    assert METHODS["selective-backprop"](task, uniform_epochs=1).uniform_steps == (
        task.steps_per_epoch
    )


@pytest.mark.parametrize("name", [name for name in SELECTING if name != "selective-backprop"])
def test_the_other_methods_select_from_the_start(name: str) -> None:
    assert make_method(name, make_task(**SIZES)).uniform_steps == 0


def test_a_recorded_method_starts_uniformly_too() -> None:
    method = make_method("dro", make_task(**SIZES), uniform_epochs=2)
    notes = Forgetting(method.task, 1)
    run = make_trainer(Recording(method, {"forgetting": notes}), make_dataset(230))
    sgd = make_run("SGD", "standard")
    assert all(map(torch.equal, trained(run, 14), trained(sgd, 14)))
    assert torch.equal(notes.visits, run.sample_counts)


class Later(Selecting):
    """A method of somebody else's, with an option of its own or without."""


def test_a_later_method_has_the_option_by_inheriting_it() -> None:
    task: Task = make_task(**SIZES)
    run = make_trainer(Later(task, uniform_epochs=4), make_dataset(230))
    assert run.starts_uniformly
    assert Method(task).uniform_steps == 0


def test_more_uniform_epochs_than_the_run_has_are_refused() -> None:
    task = make_task(**SIZES)
    with pytest.raises(OptionError, match="6 epochs; give at most that many"):
        METHODS["dro"](task, uniform_epochs=7)
    settings, _ = parse(["--method", "dro", "--uniform-epochs", "7"])
    with pytest.raises(UsageError, match="`uniform_epochs` 7: the run ends after 6 epochs"):
        create_method(settings, task)


@pytest.mark.parametrize("flag", ["--uniform-epochs", "--warmup-epochs", "--warmup_epochs"])
@pytest.mark.parametrize("name", SELECTING)
def test_names_of_the_flag(flag: str, name: str) -> None:
    settings, notes = parse(["--method", name, flag, "3"])
    assert settings.method_options["uniform_epochs"] == 3
    assert notes == []


def test_the_published_flag_says_what_it_does_here() -> None:
    settings, notes = parse(["--method", "c-SGD", "--c_sgd_warmup", "5"])
    assert settings.method_options["uniform_epochs"] == 5
    (note,) = notes
    assert note.startswith("--c-sgd-warmup 5: 5 uniform epochs")
    assert "4 of them" in note


@pytest.mark.parametrize(
    "method, theirs, epochs",
    [
        ("p-SGD", {"smoothing": 1.0, "warmup_epochs": 0}, 0),
        ("c-SGD", {"smoothing": 1.0, "warmup_epochs": 4}, 4),
        ("selective-backprop", {"sb_beta": None}, 0),
        ("dro", {"dro_beta": 1.0}, 0),
        ("selective-backprop", {"sb_beta": None, "uniform_epochs": None}, None),
    ],
)
def test_settings_of_runs_without_the_option(method, theirs, epochs) -> None:
    """Selective backprop had no uniform start, whatever its default is now."""
    options = read_options("method_options", method, options_of(METHODS[method]), theirs)
    assert options["uniform_epochs"] == epochs
    assert "warmup_epochs" not in options


def test_folders_of_earlier_runs_keep_their_names() -> None:
    words = ["--method", "selective-backprop", "--budget", "0.2"]
    before = name_of(vars(parse([*words, "--uniform-epochs", "0"])[0]))
    now = name_of(vars(parse(words)[0]))
    assert before == "digits_selective-backprop_standard_b0.2_s1"
    assert now == f"{before}_uniform-epochs-default"


# --- What is told of the rest ---


@pytest.mark.parametrize("name", ["selective-backprop", "grad-norm", "infobatch"])
def test_the_realised_fraction_is_of_what_comes_after_the_uniform_start(name: str) -> None:
    """Counted anew here; none of it is told while nothing is selected; a checkpoint keeps it."""
    options = {"gradnorm_tau": 0.0} if name == "grad-norm" else {}
    run = make_run(name, uniform_epochs=3, **options)
    trained(run, 21)
    assert run.method.summary() == {}
    handed_on = run.loader.number
    blocks = []
    run.method.draw = lambda progress, draw=run.method.draw: (
        blocks.append(draw(progress)) or blocks[-1]
    )
    trained(run, 21)
    if name == "selective-backprop":
        waiting = len(run.method.selector.queue()[0])
        expected = (21 * 16 + waiting) / run.images_scored
        assert run.images_scored == 16 * (run.loader.number - handed_on)
    elif name == "grad-norm":
        assert run.images_scored == 21 * 48
        expected = 1.0
    else:
        expected = run.method.kept / (230 * len(blocks))
        assert sum(block.numel() for block in blocks) <= run.method.kept
        assert run.method.kept < sum(block.numel() for block in blocks) + 16 * len(blocks)
    summary = run.method.summary()
    assert summary == {"realised_fraction": pytest.approx(expected)}
    fresh = make_run(name, uniform_epochs=3, **options)
    fresh.load_state_dict(saved_and_loaded(run.state_dict()))
    assert fresh.method.summary() == summary


def test_a_grad_norm_that_never_scores_says_so() -> None:
    run = make_run("grad-norm", gradnorm_tau=1e6)
    trained(run, 42)
    assert run.method.summary() == {"realised_fraction": 0.0}

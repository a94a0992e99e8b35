"""The samplers as parts of other people's models, loaders and process groups.

Comparisons of frequencies use fixed seeds; each fails a right implementation at FALSE_ALARM.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from laws import assert_outcomes, order_probabilities
from test_methods import saved_and_loaded
from test_samplers import (
    CUDA,
    KINDS,
    SAMPLERS,
    Places,
    assert_same_state,
    expected_probabilities,
    journey,
    make_kind,
    make_sampler,
    pairs,
    selections,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from budgetbench import (
    CSGDSampler,
    HardnessWeightedSampler,
    PSGDSampler,
    SelectiveBackpropSelector,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("error")]

each_kind = pytest.mark.parametrize(
    "kind", ["dro", "dro with replacement", "dro with momentum", "p-SGD", "c-SGD"]
)


# --- Part of a model that changes its type or device ---


def in_a_model(change: Callable[[nn.Module], object]) -> Callable[[nn.Module], object]:
    def change_model(part: nn.Module) -> None:
        model = nn.Linear(2, 2)
        model.part = part
        change(model)

    return change_model


def load_assigned(part: nn.Module, dtype=torch.float32) -> None:
    state = saved_and_loaded(part.state_dict())
    state = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
    }
    given = copy.deepcopy(state)
    part.load_state_dict(state, assign=True)
    for buffer in part.buffers():
        buffer.mul_(1)  # also where it is the given tensor, which would be written to below
    assert_same_state(state, given)


CHANGES = {
    "double": lambda part: part.double(),
    "half": lambda part: part.half(),
    "to bfloat16": lambda part: part.to(torch.bfloat16),
    "type": lambda part: part.type(torch.float64),
    "a model's bfloat16": in_a_model(lambda model: model.bfloat16()),
    "a model's double and back": in_a_model(lambda model: model.double().float()),
    "to the same device": lambda part: part.to("cpu"),
    "share_memory": lambda part: part.share_memory(),
    "assign": load_assigned,
    "assign numbers of half precision": lambda part: load_assigned(part, torch.float16),
}
each_change = pytest.mark.parametrize("change", CHANGES)


def coarse(part: nn.Module) -> nn.Module:
    """With numbers that half precision holds as well, so that all changes leave them alike."""
    for buffer in part.buffers():
        buffer.copy_(buffer.half())
    part.load_state_dict(saved_and_loaded(part.state_dict()))  # for what was made of them
    return part


@each_change
@each_kind
def test_a_sampler_goes_on_alike_whatever_becomes_of_its_model(kind, change):
    """What it knew and what it learns afterwards, in the float32 that it began with."""
    sampler = make_kind(kind)
    journey(sampler, 9)
    twin = copy.deepcopy(coarse(sampler))
    CHANGES[change](sampler)
    assert all(buffer.dtype == torch.float32 for buffer in sampler.buffers())
    assert_same_state(sampler.state_dict(), twin.state_dict())
    assert journey(sampler, 12, first=9) == journey(twin, 12, first=9)
    assert_same_state(sampler.state_dict(), twin.state_dict())


@each_change
def test_learnt_losses_are_seen_whatever_becomes_of_the_model(change):
    sampler = make_sampler(num_samples=24)
    CHANGES[change](sampler)
    sampler.update([7, 3], torch.tensor([9.0, 8.0]))
    assert sampler.hardest(2).tolist() == [7, 3]
    assert sampler.state_dict()["losses"][[7, 3]].tolist() == [9, 8]
    probabilities = sampler.probabilities()
    assert probabilities.argsort(descending=True)[:2].tolist() == [7, 3]
    torch.testing.assert_close(
        sampler.importance_weights([7, 3], torch.tensor([9.0, 8.5])).cpu(),
        torch.tensor([0.0, 0.5]).exp(),
    )


@each_change
def test_a_selector_goes_on_alike_whatever_becomes_of_its_model(change):
    def make():
        generator = torch.Generator().manual_seed(1)
        return SelectiveBackpropSelector(16, beta=1.5, generator=generator)

    selector = make()
    selections(selector, 30, seed=1)
    twin = copy.deepcopy(coarse(selector))
    CHANGES[change](selector)
    assert selector.history.dtype == torch.float32
    assert selections(selector, 20, seed=2) == selections(twin, 20, seed=2)
    assert_same_state(selector.state_dict(), twin.state_dict())


@pytest.mark.parametrize("device", [CUDA])
@each_kind
def test_a_sampler_follows_its_model_to_a_device_and_back(kind, device):
    sampler = make_kind(kind)
    journey(sampler, 9)
    learnt = [buffer.clone() for buffer in sampler.buffers()]
    for there in (device, "cpu"):
        nn.ModuleList([sampler]).to(there)
        for buffer, known in zip(sampler.buffers(), learnt):
            assert buffer.device.type == sampler.device.type == there
            assert torch.equal(buffer.cpu(), known)
        assert len(journey(copy.deepcopy(sampler), 12)) == 12


@each_kind
def test_a_sampler_can_be_pickled(kind):
    """As processes that are spawned get it, also in the middle of a pass."""
    sampler = make_kind(kind)
    under_way = iter(sampler)
    next(under_way)
    twin = pickle.loads(pickle.dumps(sampler))
    del under_way
    assert journey(twin, 9) == journey(sampler, 9)


# --- Stopped in the middle of a pass ---


@pytest.mark.parametrize("at", [0, 1, 2, 5])
@each_kind
def test_a_pass_goes_on_from_its_state(kind, at):
    """And what follows the pass, too: the next one, and all that is learnt."""

    def learn(sampler, batch):
        sampler.update(torch.tensor(batch), torch.tensor([i % 7 / 7 for i in batch]))
        return batch

    sampler, fresh = make_kind(kind, seed=1), make_kind(kind, seed=2)
    journey(sampler, 3)
    journey(fresh, 2)
    batches = iter(sampler)
    for _ in range(at):
        learn(sampler, next(batches))
    states = saved_and_loaded({"sampler": sampler.state_dict(), "pass": batches.state_dict()})
    fresh.load_state_dict(states["sampler"])
    resumed = iter(fresh)
    resumed.load_state_dict(states["pass"])
    rest = [learn(sampler, next(batches)) for _ in range(len(sampler) - at)]
    assert [learn(fresh, next(resumed)) for _ in range(len(sampler) - at)] == rest
    for ended in (batches, resumed):
        assert next(ended, None) is None
    assert journey(fresh, 8) == journey(sampler, 8)
    assert_same_state(fresh.state_dict(), sampler.state_dict())


@each_kind
def test_a_state_of_a_batch_has_what_came_before_it_was_saved(kind):
    """A loader with workers asks at the draw, and saves when the batch is trained on."""
    ahead, at = 3, 2
    sampler, fresh = make_kind(kind, seed=1), make_kind(kind, seed=2)
    values = torch.linspace(0, 1, 6)

    def run(batches, sampler, waiting, states, seen):
        """Draw one, train on one; until the end."""
        while waiting:
            if (batch := next(batches, None)) is not None:
                waiting.append(batch)
                states.append((sampler.state_dict(), batches.state_dict()))
            seen.append(waiting.pop(0))
            sampler.update(torch.tensor(seen[-1]), values)
            yield

    batches = iter(sampler)
    waiting, states, seen = [], [], []
    for _ in range(ahead):
        waiting.append(next(batches))
        states.append((sampler.state_dict(), batches.state_dict()))
    training = run(batches, sampler, waiting, states, seen)
    for _ in range(at):
        next(training)
    saved = saved_and_loaded(dict(enumerate(states[at - 1])))
    list(training)
    assert len(seen) == len(sampler)

    fresh.load_state_dict(saved[0])
    resumed = iter(fresh)
    resumed.load_state_dict(saved[1])
    waiting, again = [next(resumed) for _ in range(ahead)], []
    list(run(resumed, fresh, waiting, [], again))
    assert again == seen[at:]
    assert_same_state(fresh.state_dict(), sampler.state_dict())


@pytest.mark.parametrize("change", [dict(batch_size=8), dict(num_replicas=2)])
@each_kind
def test_the_middle_of_a_pass_goes_on_in_batches_of_its_size_alone(kind, change):
    """Refused, and nothing is changed; the state of the end of a pass fits any batches."""
    sampler_class, options = KINDS[kind]
    sampler = make_kind(kind)
    numbers = dict(num_samples=40, batch_size=6) | options | change
    fresh = sampler_class(**numbers, generator=torch.Generator().manual_seed(1))
    batches = iter(sampler)
    sampler.update(torch.tensor(next(batches)), torch.full((6,), 0.5))
    draws = fresh.rng.get_state()
    with pytest.raises(
        ValueError, match=r"of \d batches of 6 images, this sampler's passes are of"
    ):
        fresh.load_state_dict(sampler.state_dict())
    assert torch.equal(fresh.rng.get_state(), draws)
    for batch in batches:
        sampler.update(torch.tensor(batch), torch.full((6,), 0.5))
    fresh.load_state_dict(sampler.state_dict())
    assert len(list(fresh)) == len(fresh)


@each_kind
def test_an_update_of_several_batches_stands_for_all_of_them(kind):
    sampler, fresh = make_kind(kind), make_kind(kind, seed=1)
    batches = iter(sampler)
    two = torch.tensor([*next(batches), *next(batches)])
    assert sampler.ahead == 2
    sampler.update(two, two % 7 / 7)
    assert sampler.ahead == 0
    fresh.load_state_dict(sampler.state_dict())
    assert [*fresh] == [*batches]


@each_kind
def test_a_pass_that_is_left_is_over(kind):
    """Its iterator lives on, as that of a loader with persistent workers."""
    sampler, fresh = make_kind(kind), make_kind(kind, seed=1)
    batches = iter(sampler)
    batch = torch.tensor(next(batches))
    sampler.update(batch, batch % 7 / 7)
    sampler.end_pass()
    fresh.load_state_dict(sampler.state_dict())
    assert journey(fresh, len(fresh) + 1) == journey(sampler, len(sampler) + 1)


@each_kind
def test_batches_that_no_update_followed_are_told(kind):
    """As where a loader takes every second batch; not where nothing is learnt, or all."""
    sampler = make_kind(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(sampler)
        train(sampler, sampler)
        list(itertools.islice(sampler, 2))
    for number, batch in enumerate(sampler):
        if number % 2:
            sampler.update(torch.tensor(batch), torch.full((6,), 0.5))
    half, whole = len(sampler) // 2, len(sampler)
    with pytest.warns(UserWarning, match=rf"followed {half} of the {whole} batches of the last"):
        next(iter(sampler))


@each_kind
def test_a_state_of_another_kind_of_device_goes_on_with_other_draws(kind):
    """What was learnt is kept, and a state gives the same draws each time."""
    sampler = make_kind(kind)
    journey(sampler, 9)
    state = copy.deepcopy(sampler.state_dict())
    extra = state["_extra_state"]
    extra |= {"device": "cuda", "rng": torch.arange(16, dtype=torch.uint8)}
    extra.pop("tree_rng", None)
    first, second = make_kind(kind, seed=1), make_kind(kind, seed=2)
    for fresh in (first, second):
        fresh.load_state_dict(state)
        assert all(map(torch.equal, fresh.buffers(), sampler.buffers()))
    draws = journey(first, 9)
    assert draws == journey(second, 9)
    extra["rng"] += 1
    first.load_state_dict(state)
    assert journey(first, 9) != draws


def stateful_loader(sampler, workers: int, every: int):
    module = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="needs torchdata (requirements-dev.txt)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls something of PyTorch that is deprecated
        return module.StatefulDataLoader(
            Places(sampler.num_samples),
            batch_sampler=sampler,
            num_workers=workers,
            snapshot_every_n_steps=every,
        )


def train(loader, sampler, batches: int | None = None) -> list[list[int]]:
    seen = []
    for batch in itertools.islice(loader, batches):
        batch = torch.as_tensor(batch)
        seen.append(batch.tolist())
        sampler.update(batch, batch % 7 / 7)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("workers, every", [(0, 1), (2, 1), (2, 3)])
@each_kind
def test_a_stateful_loader_goes_on_where_it_stopped(kind, workers, every):
    """With torchdata's own, with and without workers that have drawn ahead; over three passes."""
    sampler, fresh = make_kind(kind, seed=1), make_kind(kind, seed=2)
    loader, resumed = (stateful_loader(each, workers, every) for each in (sampler, fresh))
    train(loader, sampler)
    batches, stop = iter(loader), 2
    seen = []
    for number in range(len(sampler)):
        if number == stop:
            state = saved_and_loaded(loader.state_dict())
        batch = next(batches)
        seen.append(batch.tolist())
        sampler.update(batch, batch % 7 / 7)
    resumed.load_state_dict(state)
    assert train(resumed, fresh) == seen[stop:]
    assert_same_state(fresh.state_dict(), sampler.state_dict())
    assert train(resumed, fresh) == train(loader, sampler)


# --- Several processes ---


def make_parts(kind: str, processes: int, seed=0):
    sampler_class, options = {
        "dro": (HardnessWeightedSampler, dict(beta=2.0, momentum=0.3)),
        "p-SGD": (PSGDSampler, dict(subset_size=44)),
        "c-SGD": (CSGDSampler, {}),
    }[kind]
    return [
        sampler_class(
            60,
            12 // processes,
            num_replicas=processes,
            rank=rank,
            generator=torch.Generator().manual_seed(seed),
            **options,
        )
        for rank in range(processes)
    ]


each_part_kind = pytest.mark.parametrize("kind", ["dro", "p-SGD", "c-SGD"])


@pytest.mark.parametrize("processes", [2, 3])
@each_part_kind
def test_parts_of_several_processes_are_the_batches_of_one(kind, processes):
    (whole,), parts = make_parts(kind, 1), make_parts(kind, processes)
    assert [len(part) for part in parts] == [len(whole)] * processes
    for batch, *shares in zip(whole, *parts, strict=True):
        assert [len(share) for share in shares] == [12 // processes] * processes
        assert [i for row in zip(*shares) for i in row] == batch


def values_of(batch: list[int], turn: int) -> torch.Tensor:
    return torch.tensor([(i * 7 + turn) % 23 / 23 for i in batch])


def train_together(sampler, loader) -> list[list[int]]:
    seen = []
    for turn, batch in enumerate(itertools.chain(loader, loader)):
        seen.append(batch.tolist())
        sampler.update(batch, values_of(seen[-1], turn))
    return seen


def be_a_rank(rank: int, processes: int, folder: str) -> None:
    """What each process of the test below does."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    results = {}
    for kind in ("dro", "p-SGD", "c-SGD"):
        sampler = make_parts(kind, processes)[rank]
        seen = train_together(sampler, DataLoader(Places(60), batch_sampler=sampler))
        messages = []
        for values in ([0.5], [float("nan") if rank else 0.5]):
            try:
                sampler.update([rank], values)
            except ValueError as error:
                messages.append(str(error))
        results[kind] = (seen, sampler.state_dict(), messages)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_keep_one_state(tmp_path):
    """Two processes see and learn what one alone does with batches of both."""
    torch.multiprocessing.spawn(be_a_rank, (2, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for kind in ("dro", "p-SGD", "c-SGD"):
        (alone,) = make_parts(kind, 1)
        expected = train_together(alone, DataLoader(Places(60), batch_sampler=alone))
        alone.update([0, 1], [0.5, 0.5])
        (one, state, messages), (other, same, other_messages) = (rank[kind] for rank in ranks)
        assert [[i for pair in zip(*both) for i in pair] for both in zip(one, other)] == expected
        assert_same_state(state, same)
        assert_same_state(state, saved_and_loaded(alone.state_dict()))
        # One that is NaN ends the training of all, where one process alone would wait for ever.
        assert len(messages) == 1
        assert messages == other_messages
        assert "NaN or infinite" in messages[0]


@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_processes_that_would_not_agree_are_an_error(sampler_class):
    rng = torch.Generator()
    for rank, processes in ((2, 2), (-1, 2), (1, 1), (0, 0)):
        with pytest.raises(ValueError, match=f"rank {rank}: give 0 to num_replicas - 1"):
            sampler_class(20, 4, num_replicas=processes, rank=rank, generator=rng)
    with pytest.raises(ValueError, match=r"num_replicas=2 .* give each generator=.* same seed"):
        sampler_class(20, 4, num_replicas=2, rank=1)
    with pytest.raises(ValueError, match="batch_size 11: give 1 to 10, the images for each of 2"):
        sampler_class(20, 11, num_replicas=2, rank=1, generator=rng)
    sampler = sampler_class(20, 4, num_replicas=2, rank=1, generator=rng)
    with pytest.raises(RuntimeError, match=r"num_replicas=2, but torch\.distributed joins 1 "):
        sampler.update([3], [0.5])


@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_samplers_are_batch_samplers_of_pytorch(sampler_class):
    """By which frameworks know what they have; Accelerate, for one."""
    assert isinstance(sampler_class(20, 4), torch.utils.data.BatchSampler)


# --- Given to a DataLoader in the wrong place ---


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_a_sampler_of_batches_in_the_place_of_one_of_images_is_refused(
    sampler_class, drop_last, workers
):
    sampler = sampler_class(40, 4)
    loader = DataLoader(
        TensorDataset(torch.arange(40)),
        sampler=sampler,
        batch_size=8,
        drop_last=drop_last,
        num_workers=workers,
    )
    with pytest.raises(ValueError, match="give it to the DataLoader as batch_sampler="):
        next(iter(loader))
    assert sampler.ahead == 0


@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_updates_of_batches_of_batches_are_refused(sampler_class):
    """Also where a loader of another make has drawn them."""
    sampler = sampler_class(40, 4)
    with pytest.raises(ValueError, match=r"indices \[8, 4\] .* as batch_sampler="):
        sampler.update(torch.arange(32).view(8, 4), torch.ones(8))


@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_a_data_set_may_be_given_whole_batches(sampler_class):
    """As PyTorch's documentation has it: `sampler=` a sampler of batches, `batch_size=None`."""
    images = TensorDataset(torch.arange(40))
    batches = list(DataLoader(images, sampler=sampler_class(40, 4), batch_size=None))
    assert [len(images) for (images,) in batches] == [4] * 10


@pytest.mark.parametrize("sampler_class", SAMPLERS)
def test_a_pass_can_be_taken_up_again(sampler_class):
    """By a loop over what is left of it."""
    batches = iter(sampler_class(40, 4))
    first = next(batches)
    assert len([first, *batches]) == 10
    assert list(batches) == []


# --- As the published sampler takes it ---


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_an_initial_loss_of_each_image_is_taken_as_it_is(kind):
    given = kind([10.0, 2.0, 14.0, 6.0])
    sampler = HardnessWeightedSampler(4, 2, initial_loss=given)
    assert sampler.losses.tolist() == [10, 2, 14, 6]
    assert sampler.hardest(2).tolist() == [2, 0]
    sampler.update([2], [1.0])
    assert sampler.losses.tolist() == [10, 2, 1, 6]
    assert list(given) == [10, 2, 14, 6]


def test_draws_follow_the_initial_losses_of_images():
    losses = torch.tensor([0.0, 2, 4, 6, 1])
    sampler = make_sampler(num_samples=5, batch_size=2, beta=0.4, initial_loss=losses)
    drawn = np.stack([sampler.draw().numpy() for _ in range(3000)])
    assert_outcomes(pairs(drawn), order_probabilities(expected_probabilities(sampler), 2))


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (1,)])
def test_initial_losses_of_other_images_are_an_error(shape):
    with pytest.raises(ValueError, match=r"initial_loss \[.*\]: give one number, or one for each"):
        HardnessWeightedSampler(4, 2, initial_loss=torch.ones(shape))


def test_an_initial_loss_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="all of them finite"):
        HardnessWeightedSampler(2, 1, initial_loss=torch.tensor([1.0, torch.nan]))


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("path", ["tree", "vector", CUDA])
def test_any_number_of_images_can_be_drawn(path, replacement):
    """Not only a batch; the first two by the law of two, however many follow."""
    losses = torch.linspace(0, 2, 6)
    sampler = make_sampler(path, 6, 4, initial_loss=losses, replacement=replacement)
    probabilities = expected_probabilities(sampler)
    for size in (1, 2, 5, 6):
        drawn = np.stack([sampler.draw(size).cpu().numpy() for _ in range(1500)])
        assert drawn.shape == (1500, size)
        if size >= 2 and not replacement:
            assert_outcomes(pairs(drawn), order_probabilities(probabilities, 2))
        else:
            assert_outcomes(drawn[:, 0].tolist(), dict(enumerate(probabilities)))
    assert len(sampler.draw()) == 4
    if replacement:
        assert len(sampler.draw(100)) == 100


@pytest.mark.parametrize("path", ["tree", "vector"])
def test_a_draw_of_more_images_than_there_are_is_an_error(path):
    for size in (0, -1, 7):
        with pytest.raises(ValueError, match=f"size {size}: give 1 to 6, the images"):
            make_sampler(path, 6, 4).draw(size)

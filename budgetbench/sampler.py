"""The common base of the samplers, which plug into any training loop."""

from __future__ import annotations

import hashlib
import math
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.distributed as dist
import torch.utils.data
from torch import Tensor, nn

MISUSED = (
    "a sampler of whole batches, given as sampler= or asked to iterate a pass that has not begun: "
    "give it to the DataLoader as batch_sampler=, without batch_size, or loop over the sampler"
)


class Sampler(nn.Module):
    """Random draws with a complete `state_dict`.

    State lives in float32 buffers on one device, the generator's state beside it, so that
    `load_state_dict` continues with the very same draws. Draws are made where the state is: on the
    host they would take a copy of N numbers, and a wait for the device, each time.

    A sampler that is part of a model follows it to another device, where draws continue from a new
    generator, seeded by the old one; so does a state that is loaded on another kind of device. Its
    numbers stay float32, whatever type the model takes.

    Args:
        device: where state is kept and draws are made.
        generator: source of all randomness, on `device`; by default a new one, seeded from
            PyTorch's global generator.

    Raises:
        ValueError: when the generator is on another device.
    """

    def __init__(self, device: torch.device | str, generator: torch.Generator | None):
        super().__init__()
        self.device = torch.device(device)
        if generator is None:
            seed = int(torch.randint(2**63 - 1, ()))
            generator = torch.Generator(self.device).manual_seed(seed)
        if generator.device.type != self.device.type:
            raise ValueError(
                f"generator is on {generator.device}, the sampler on {self.device}; make it with "
                f"torch.Generator({str(self.device)!r})"
            )
        self.rng = generator

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Sampler:
        """Take part in `.to()`, `.cuda()`, `.half()` and the like: the device changes, no type."""
        before = next(self.buffers()).device
        super()._apply(lambda state: state.to(fn(state).device), recurse)
        device = next(self.buffers()).device
        if device != before:
            self.move(device)
        return self

    def move(self, device: torch.device) -> None:
        """Move what is kept beside the buffers to another device, where they are already."""
        seed = torch.randint(2**63 - 1, (), generator=self.rng, device=self.rng.device)
        self.device = device
        self.rng = torch.Generator(device).manual_seed(int(seed))

    def get_extra_state(self) -> dict:
        return {"rng": self.rng.get_state(), "device": self.device.type}

    def set_extra_state(self, state: dict) -> None:
        if state["device"] == self.device.type:
            self.rng.set_state(state["rng"].cpu())
        else:  # where generators are of another kind
            digest = hashlib.sha256(state["rng"].cpu().numpy()).digest()
            self.rng.manual_seed(int.from_bytes(digest[:7]))
        # The buffers are loaded by now; `assign=True` has put the given tensors in their place.
        for name, buffer in self.named_buffers(recurse=False):
            setattr(self, name, buffer.to(self.device, torch.float32, copy=True))


class BatchSampler(Sampler, torch.utils.data.BatchSampler):
    """A `batch_sampler` for any DataLoader over N images, which learns from `update`.

    A DataLoader with workers draws ahead of training: it asks for `num_workers * prefetch_factor`
    batches more than it has handed out, so a batch is drawn without what that many batches before
    it will show. Without workers (`num_workers=0`) each is drawn when it is needed. `max_ahead`
    turns a bound on this into an error.

    A `state_dict` saved in the middle of a pass, after an update, is of what was trained on: once
    it is loaded, the next pass begins with the batches that were drawn and not yet trained on, and
    goes on from there, with workers and without. Each `update` stands for the batches handed out
    first, as many as its indices make up: call it after every batch, also where its step was
    skipped, and look at a batch beforehand through another loader. A pass that a loop leaves while
    its iterator lives on (as a loader's with `persistent_workers` does) has to be ended by
    `end_pass`, or a state goes on with it.

    Where R processes train one model together, each has a sampler of its own with the same
    arguments but for `rank`, and a generator of the same seed. All draw the same R * B images and
    hand out B of them each, no image twice; `update` exchanges what the processes learnt, through
    the default group of `torch.distributed`, so that all keep the same state. Every process has
    to call `update` equally often, with as many images.

    Args:
        num_samples: N, images of the data set.
        batch_size: B, images of a batch (of each process, as for PyTorch's loaders).
        max_ahead: most draws that no `update` has followed yet; None for any number.
        num_replicas: R, processes that train together.
        rank: which of them this one is, from 0.
        device, generator: as for `Sampler`; with several processes the generator has to be given.

    Raises:
        ValueError: for a batch (of all processes) larger than the data set, a rank that is none,
            and several processes without a generator.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        max_ahead: int | None,
        num_replicas: int,
        rank: int,
        device: torch.device | str,
        generator: torch.Generator | None,
    ):
        super().__init__(device, generator)
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank {rank}: give 0 to num_replicas - 1, {num_replicas - 1}")
        if num_replicas > 1 and generator is None:
            raise ValueError(
                f"num_replicas={num_replicas} processes have to draw alike: give each "
                "generator=torch.Generator().manual_seed(SEED), with the same seed"
            )
        if not 0 < batch_size <= num_samples // num_replicas:
            raise ValueError(
                f"batch_size {batch_size}: give 1 to {num_samples // num_replicas}, the images"
                + f" for each of {num_replicas} processes" * (num_replicas > 1)
            )
        self.num_samples, self.batch_size, self.max_ahead = num_samples, batch_size, max_ahead
        self.num_replicas, self.rank = num_replicas, rank
        self.ahead = 0  # batches drawn that no update has followed yet
        self.handed_out = 0  # batches of the latest pass
        self.current: weakref.ref[Pass] | None = None  # the latest pass, while it is used
        self.unfinished: dict | None = None  # the state in which the next pass begins

    @property
    def draw_size(self) -> int:
        """Images of a step, of all processes together."""
        return self.batch_size * self.num_replicas

    def __iter__(self) -> Pass:
        following = Pass(self)
        if self.unfinished is not None:
            following.load_state_dict(self.unfinished)
        # A pass that a loop has left is forgotten: no state is to go on with it.
        self.current = weakref.ref(following)
        return following

    def end_pass(self) -> None:
        """Leave the pass that is under way: what is left of it is not trained on."""
        self.current, self.handed_out = None, 0

    def __getstate__(self) -> dict:
        """For pickles and copies, which have no part in the pass that is under way."""
        return self.__dict__ | {"current": None}

    def get_extra_state(self) -> dict:
        current = None if self.current is None else self.current()
        if current is not None:
            return super().get_extra_state() | {"unfinished": current.not_trained_on()}
        return super().get_extra_state() | {"unfinished": self.unfinished}

    def set_extra_state(self, state: dict) -> None:
        if state["unfinished"] is not None:
            self.check_pass(state["unfinished"])
        super().set_extra_state(state)
        self.current, self.unfinished = None, state["unfinished"]

    def check_pass(self, state: dict) -> None:
        """Refuse the state of the middle of a pass in other batches, or in more or fewer."""
        theirs, own = (state["length"], state["draw_size"]), (len(self), self.draw_size)
        if theirs != own:
            raise ValueError(
                "the state is of the middle of a pass of {} batches of {} images, this sampler's "
                "passes are of {} of {} (of all processes); load it in one with its settings, or "
                "a state of the end of a pass".format(*theirs, *own)
            )

    def draw(self) -> Tensor:
        """Batches of all processes together, at least one: int64 [..., draw_size]."""
        raise NotImplementedError

    def count_draw(self) -> None:
        """Note that a batch is drawn, unless that would be too far ahead of training."""
        if self.max_ahead is not None and self.ahead > self.max_ahead:
            raise RuntimeError(
                f"{self.ahead} batches are drawn and not yet followed by update(), more than "
                f"max_ahead={self.max_ahead}; a DataLoader draws num_workers * prefetch_factor "
                "ahead: lower these, and call update() after every batch"
            )
        self.ahead += 1

    def count_update(self, images: int) -> None:
        """Note that a batch is learnt from, or several at once, by their number of images."""
        self.ahead -= min(self.ahead, max(1, images // self.draw_size))

    def match(self, indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Indices [b] and one number per image [b] float32, on this device, or a ValueError."""
        indices = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        values = per_image(torch.as_tensor(values, device=self.device).detach())
        if indices.ndim > 1:
            raise ValueError(f"indices {list(indices.shape)} are of several batches: {MISUSED}")
        if indices.shape != values.shape:
            raise ValueError(
                f"indices {list(indices.shape)} and one value for each image of a batch "
                f"{list(values.shape)} differ in number"
            )
        return indices, values

    def check(self, indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Match, gather from all processes, and check that indices exist and values are finite.

        The last only on a CPU: on CUDA the host would wait for the device.
        """
        # Exchanged before they are looked at, so that all processes fail together.
        indices, values = self.all_gather(*self.match(indices, values))
        if self.on_cpu:
            # One pass each: a negative index is a huge unsigned one, and a sum passes NaN on.
            if indices.numpy().view(np.uint64).max(initial=0) >= self.num_samples:
                raise ValueError(f"an index is outside 0 to {self.num_samples - 1}")
            if not math.isfinite(values.numpy().sum()):
                raise ValueError("a value is NaN or infinite; has the training diverged?")
        return indices, values

    def all_gather(self, indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and values of all processes, from those of this one: [b] each to [R * b] each."""
        if self.num_replicas == 1:
            return indices, values
        joined = dist.is_available() and dist.is_initialized()
        processes = dist.get_world_size() if joined else 1
        if processes != self.num_replicas:
            raise RuntimeError(
                f"num_replicas={self.num_replicas}, but torch.distributed joins {processes} "
                "(init_process_group): a sampler learns from all processes, through it"
            )
        # As doubles, which hold any index exactly, both go in one exchange. A group of NCCL alone
        # exchanges nothing from a CPU.
        where = self.device if self.device.type in dist.get_backend_config() else "cuda"
        part = torch.stack([indices.double(), values.double()]).to(where)
        parts = [torch.empty_like(part) for _ in range(processes)]
        dist.all_gather(parts, part)
        whole = torch.cat(parts, 1).to(self.device)
        return whole[0].long(), whole[1].float()


class Pass(Iterator[list[int]]):
    """One pass through a sampler's batches, with a `state_dict` from which another continues.

    Loaders that can stop in the middle of a pass ask for it (torchdata's StatefulDataLoader), next
    to the sampler's own, which has to be loaded first. A loader with workers asks when it draws a
    batch and saves the answer once that batch is handed out. By then other batches are drawn and
    updates made, and a state has to be of that moment: it shares the buffers, as any module's does,
    and the list of the batches drawn. A state is thus to be saved, or copied, at once.
    """

    def __init__(self, sampler: BatchSampler):
        self.sampler = sampler
        self.position = 0  # batches handed out
        self.drawn: list[Tensor] = []  # what `draw` gave, int64 [k, draw_size] each
        self.taken = 0  # batches of these that are handed out
        self.rows: deque[Tensor] = deque()  # those that are not, [draw_size] each
        self.recording = False  # whether all draws are kept, because a state refers to them
        self.given: deque[Tensor] = deque()  # the last batches handed out, of all processes

    def __iter__(self) -> Pass:
        # A DataLoader and a loop over the sampler call only next() here. A DataLoader's own
        # BatchSampler, put around a `sampler=`, asks for an iterator again, and would make batches
        # of batches. In a pass that has begun it is a user who continues.
        if not self.position:
            raise ValueError(MISUSED)
        return self

    def __next__(self) -> list[int]:
        sampler = self.sampler
        if self.position == len(sampler):
            raise StopIteration
        if not self.position:
            self.warn_of_gaps()
            sampler.ahead = 0  # what an abandoned pass has drawn is never trained on
        sampler.unfinished = None  # only now: a DataLoader asks for a pass twice, and uses one
        sampler.count_draw()
        if not self.rows:
            if not self.recording:
                self.drawn, self.taken = [], 0
            self.drawn.append(sampler.draw().reshape(-1, sampler.draw_size).cpu())
            self.rows.extend(self.drawn[-1])
        batch = self.rows.popleft()
        self.position += 1
        sampler.handed_out = self.position
        self.taken += 1
        self.given.append(batch)
        while len(self.given) > sampler.ahead:
            self.given.popleft()
        return batch[sampler.rank :: sampler.num_replicas].tolist()

    def warn_of_gaps(self) -> None:
        """Warn where a whole pass was handed out and half of it learnt from, or less."""
        number, missing = self.sampler.handed_out, self.sampler.ahead
        # Fewer are missing where a loop left a loader that had drawn ahead.
        if number == len(self.sampler) and number <= 2 * missing < 2 * number:
            warnings.warn(
                f"update() followed {number - missing} of the {number} batches of the last pass: "
                "call it after each batch; of several processes, each takes all that its sampler "
                "hands out (accelerate: leave the loader out of prepare())",
                stacklevel=3,
            )

    def state_dict(self) -> dict:
        self.recording = True
        return self.state(self.position, self.taken, self.drawn)

    def not_trained_on(self) -> dict | None:
        """A state of what is drawn and waits for its `update`.

        None of a pass that has ended, or whose state a loader saves by itself.
        """
        ahead = self.sampler.ahead
        rows = [*self.given, *self.rows][len(self.given) - ahead :]
        if self.recording or (not rows and self.position in (0, len(self.sampler))):
            return None
        return self.state(self.position - ahead, 0, [torch.stack(rows)] if rows else [])

    def state(self, position: int, taken: int, drawn: list[Tensor]) -> dict:
        return {
            "position": position,
            "taken": taken,
            "draws": len(drawn),  # made when the sampler's generator was saved
            "drawn": drawn,
            "length": len(self.sampler),
            "draw_size": self.sampler.draw_size,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from a state, once the sampler has loaded its own of the same moment."""
        self.sampler.check_pass(state)
        self.position, self.taken = state["position"], state["taken"]
        self.drawn = list(state["drawn"])
        # A draw takes as many random numbers whatever is learnt: this moves the generator past
        # those made later, which are handed out as they were.
        for _ in self.drawn[state["draws"] :]:
            self.sampler.draw()
        batches = [batch for block in self.drawn for batch in block]
        self.rows = deque(batches[self.taken :])
        self.sampler.ahead = 0


def mean_per_index(indices: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The different ones of some indices [b], and the mean of the values [b] of each."""
    different, place, counts = indices.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(different), device=values.device)
    return different, sums.index_add_(0, place, values) / counts


def per_image(values: Tensor) -> Tensor:
    """One number for each image: losses [b, ...] per pixel or voxel are averaged to [b] float32.

    The mean can be backpropagated, and trained on.

    Raises:
        ValueError: for a single number, which is of no image.

    >>> per_image(torch.ones(8, 1, 32, 32)).shape
    torch.Size([8])
    """
    if values.ndim == 0:
        raise ValueError(
            "one number for the whole batch; what is needed is one for each image: compute "
            "losses with reduction='none'"
        )
    return values.float() if values.ndim == 1 else values.float().flatten(1).mean(1)

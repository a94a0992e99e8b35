"""Processes that share a run: the only file that knows of their number.

`torchrun --nproc-per-node=N train.py ...` starts N of them. Every process draws the same batches
and keeps the same state; each sends its own part of a batch through the network.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from errors import Failed, UsageError
from methods import Batch

T = TypeVar("T")
Rows = TypeVar("Rows", Tensor, Batch)
SYNC_EVERY = 10  # steps between exchanges of signals that one process may have got
SAY_AFTER = 10.0  # seconds of waiting for the other processes, after which a note says so
GIVE_UP_AFTER = 300.0  # seconds of waiting for them in all


@dataclass(frozen=True)
class World:
    """N processes, of which this is number `rank`. One process alone exchanges nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine

    @property
    def is_main(self) -> bool:
        """True for the process that writes and reports."""
        return self.rank == 0

    def part(self, batch: Rows) -> Rows:
        """Return this process's rows of a batch (or tensor), whose number N divides."""
        if self.size == 1:
            return batch
        rows = len(batch) // self.size
        return batch[self.rank * rows : (self.rank + 1) * rows]

    def gather(self, part: Tensor) -> Tensor:
        """Return the whole batch [b, ...], of which every process gives its part [b / N, ...]."""
        if self.size == 1:
            return part
        whole = part.new_empty(self.size * len(part), *part.shape[1:])
        dist.all_gather_into_tensor(whole, part.contiguous())
        return whole

    def all_reduce_sum(self, numbers: Tensor) -> None:
        """Add up tensors of one shape over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(numbers)

    def all_reduce_max(self, *numbers: float) -> list[float]:
        """Return the maximum of each number over all processes."""
        if self.size == 1:
            return list(numbers)
        together = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(together, dist.ReduceOp.MAX)
        return together.tolist()

    def should_sync(self, step: int) -> bool:
        """True after every SYNC_EVERY-th step: to agree with the others costs some 0.1 ms."""
        return self.size == 1 or step % SYNC_EVERY == 0

    def broadcast(self, value: T) -> T:
        """Return the main process's value in all processes."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        return values[0]

    def broadcast_buffers(self, buffers: Sequence[Tensor]) -> None:
        """Give all processes the main one's running statistics of batch normalisation.

        Whole numbers among a model's buffers, such as counts of batches, are alike without that.
        """
        if self.size == 1:
            return
        floats = [buffer for buffer in buffers if buffer.is_floating_point()]
        if floats:
            together = torch.cat([buffer.reshape(-1) for buffer in floats])
            dist.broadcast(together, 0)
            parts = together.split([buffer.numel() for buffer in floats])
            views = [part.view_as(buffer) for part, buffer in zip(parts, floats)]
            torch._foreach_copy_(floats, views)

    def check_in_sync(self, fractions: Tensor) -> None:
        """Fail if states [N] that should be equal, such as fractions of the samples, differ."""
        if self.size == 1:
            return
        places = torch.arange(len(fractions), dtype=fractions.dtype, device=fractions.device)
        digest = (fractions @ places).item()
        highest, lowest = self.all_reduce_max(digest, -digest)
        if highest != -lowest:
            raise Failed(
                "the processes of this run no longer agree on which images were used; are they on "
                "machines of different kinds? Start the same command again on machines of one kind"
            )

    def check_batch_size(self, size: int) -> None:
        if size % self.size or size < 2 * self.size:
            raise UsageError(
                f"`batch_size` {size}: it is split over the {self.size} processes; give a multiple "
                f"of that number, at least {2 * self.size}"
            )

    @contextmanager
    def process_group(self, device: torch.device) -> Iterator[None]:
        """Exchange with the other processes; one that is lost ends the run in one line."""
        if self.size == 1:
            yield
            return
        # DistributedDataParallel imports it, and its functions would hold a group that is there.
        import torch._dynamo  # noqa: F401

        try:
            store = self.meet()
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        except (ValueError, OverflowError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise UsageError(
                f"cannot join the {self.size} processes of WORLD_SIZE ({reason}); start "
                "them with torchrun, or unset WORLD_SIZE for one"
            ) from error
        try:
            yield
        except RuntimeError as error:
            if not is_of_an_exchange(error):
                raise
            raise Failed(
                "another process of this run is gone; start the same command again to resume from "
                "the last checkpoint"
            ) from error
        finally:
            LEFT_GROUPS.append(dist.group.WORLD)
            dist.destroy_process_group()

    def meet(self) -> dist.Store:
        """Wait for the other processes, with a note if that takes long; where they exchange.

        In another thread, because Ctrl-C is not heard while PyTorch waits.
        """
        outcome: list = []

        def wait() -> None:
            try:
                limit = timedelta(seconds=GIVE_UP_AFTER)
                outcome.append(next(dist.rendezvous("env://", self.rank, self.size, timeout=limit)))
            except Exception as error:  # whatever it is, the other thread raises it
                outcome.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(SAY_AFTER)
        if thread.is_alive():
            where = ":".join(os.environ.get(f"MASTER_{part}", "?") for part in ("ADDR", "PORT"))
            print(
                f"note: waiting for the {self.size} processes of WORLD_SIZE to meet at "
                f"{where} (MASTER_ADDR, MASTER_PORT), for {GIVE_UP_AFTER / 60:g} minutes at most",
                file=sys.stderr,
                flush=True,
            )
            thread.join()
        (result,) = outcome
        if isinstance(result, Exception):
            raise result
        return result[0]


ALONE = World()
LEFT_GROUPS: list[dist.ProcessGroup | None] = []


@atexit.register
def end_threads() -> None:
    """End gloo's threads before Python does; with tensors still in their hands, it would abort.

    They end with the last that holds their group. It must not be the network, which is collected
    here: it would wait for them without letting go of the lock (GIL) that they may need.
    """
    if LEFT_GROUPS:
        gc.collect()
        LEFT_GROUPS.clear()


def find_world() -> World:
    """Read the environment that `torchrun` sets; a UsageError if it cannot be right."""
    numbers = {}
    for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        text = os.environ.get(name, default)
        try:
            numbers[name] = int(text)
            possible = int(name == "WORLD_SIZE") <= numbers[name]
        except ValueError:
            possible = False
        if not possible:
            raise UsageError(
                f"{name}={text[:20]} in the environment: not a number of processes; start several "
                f"with torchrun, or unset {name}"
            )
    for name in ("RANK", "LOCAL_RANK"):
        if numbers[name] >= numbers["WORLD_SIZE"]:
            raise UsageError(
                f"{name}={numbers[name]} in the environment: WORLD_SIZE is "
                f"{numbers['WORLD_SIZE']}; start several processes with torchrun, or unset {name}"
            )
    return World(numbers["RANK"], numbers["WORLD_SIZE"], numbers["LOCAL_RANK"])


def is_of_an_exchange(error: RuntimeError) -> bool:
    """Return whether an exchange between processes failed; gloo has no exception of its own."""
    words = ("gloo", "Connection", "NCCL", "Socket")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)

"""A model with its precision, its compilation, and the processes that share a batch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from errors import UsageError

from .distributed import ALONE, World
from .models import classifier_of, inputs_of, keep_classifier_in_float32
from .parts import Parts

#: CPU features with which bf16 is faster than float32, as `torch.cpu.get_capabilities` names them.
BF16_FLAGS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class Precision:
    """The number format that networks compute in, and the reason for it."""

    amp: torch.dtype | None  # of autocast; None is float32
    reason: str  # what decided: a setting, or a feature of the processor

    @property
    def option(self) -> str:
        """The value of `amp` that gives it on any machine."""
        return {None: "off", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.amp]

    @property
    def type_name(self) -> str:
        """Such as "float32"."""
        return str(self.amp or torch.float32).removeprefix("torch.")


FLOAT32 = Precision(None, "the default")


class Network:
    """A model as the loop calls it.

    Its last layer is float32 whatever the precision before it: with logits of 8 or 11 bits, losses
    that differ would often be equal, and methods that rank or weigh images go by their losses.

    Args:
        model: returns logits [b, classes] of images [b, c, h, w].
        device: that the model is on.
        precision: of all layers but the last.
        compiled: whether to compile the model, which `warm_up` does ahead of use.
        sync_batchnorm: whether batch normalisation sees the batches of all processes.
        world: the processes that share a batch; gradients are averaged over them.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        precision: Precision = FLOAT32,
        compiled: bool = False,
        sync_batchnorm: bool = False,
        world: World = ALONE,
    ):
        if sync_batchnorm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if precision.amp:
            keep_classifier_in_float32(model)
        self.model, self.device, self.world = model, device, world
        self.precision, self.compiled = precision, compiled
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision.amp == torch.float16)
        self.buffers = list(model.buffers())
        self.buffers_before: list[Tensor] = []  # the step that is under way; of fp16 alone
        if self.scaler.is_enabled():
            self.buffers_before = [buffer.clone() for buffer in self.buffers]
        self.parts = Parts(device)
        self.trained: Callable[[Tensor], Tensor] = model  # as it is called in train mode
        if world.size > 1:
            devices = [device] if device.type == "cuda" else None
            # `update` makes the buffers of all processes alike after each step, not DDP before it,
            # because scoring and checkpoints come in between.
            self.trained = DistributedDataParallel(model, devices, broadcast_buffers=False)
        self.scored: Callable[[Tensor], Tensor] = model  # as it is called in eval mode by a method
        if compiled:
            # CUDA graphs, because a batch of small images is over before its kernels are launched.
            mode = "reduce-overhead" if device.type == "cuda" else None
            self.trained = torch.compile(self.trained, mode=mode)
            self.scored = torch.compile(model, mode=mode)

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits of this process's part of a batch, in train mode, to be backpropagated."""
        if self.buffers_before:  # to be put back if the step overflows and is made again
            torch._foreach_copy_(self.buffers_before, self.buffers)
        return self.run(self.trained, images)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Return logits [b, classes] of a batch in eval mode; each process forwards a part."""
        (logits,) = self.in_eval_mode(images, lambda part: (self.run(self.scored, part),))
        return logits

    @torch.no_grad()
    def score_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, as `score` does, and the last layer's input [b, d].

        Never compiled: compiled code would not call the hook that takes that input.
        """
        classifier = classifier_of(self.model)
        assert isinstance(classifier, nn.Module), "build lets no other network come here"
        with inputs_of(classifier) as given:
            logits, features = self.in_eval_mode(
                images, lambda part: (self.run(self.model, part), given[0].float())
            )
        return logits, features

    def in_eval_mode(
        self, images: Tensor, forward: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """Return what a function gives for a batch, of parts of this process's part of it."""
        mine = self.world.part(images)
        shape = mine.shape[1:]
        self.model.eval()
        parts = list(
            self.parts.over(0, len(mine), shape, lambda start, stop: forward(mine[start:stop]))
        )
        self.model.train()
        whole = [self.world.gather(torch.cat(column)) for column in zip(*parts)]
        if self.scaler.is_enabled() and self.precision.amp and not all_finite(whole):
            with self.in_float32():  # the range of fp16 may have been too small
                return self.in_eval_mode(images, forward)
        return whole

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> bool:
        """Backpropagate the mean loss of this process's part, and make a step on that of all.

        Returns:
            Whether the step was made. Under fp16 it is not where something overflowed: then nothing
            has changed but the scale, now half of what it was, and the step is to be made again. To
            know that, the host waits for the device once a step, under fp16 alone.
        """
        optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        scale = self.scaler.get_scale()
        self.scaler.update()
        if self.scaler.get_scale() < scale:
            if self.buffers:
                torch._foreach_copy_(self.buffers, self.buffers_before)
            return False
        self.world.broadcast_buffers(self.buffers)
        return True

    def run(self, model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return float32 logits of a model, as it is called in training or in evaluation."""
        if self.compiled:
            images = in_one_layout(images)
            torch.compiler.cudagraph_mark_step_begin()
        amp = self.precision.amp
        with torch.autocast(self.device.type, amp) if amp else nullcontext():
            logits = model(images)
        logits = logits.float()
        # A CUDA graph puts the next batch's logits in the same place.
        return logits.clone() if self.compiled else logits

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Compute in float32 here, whatever the precision."""
        precision, self.precision = self.precision, FLOAT32
        try:
            yield
        finally:
            self.precision = precision

    def warm_up(self, images: Tensor, candidates: Tensor | None) -> float:
        """Compile ahead of use; the seconds that took. The model learns nothing.

        Args:
            images: such as a step is made on [B, c, h, w].
            candidates: such as a method has scored at once [n, c, h, w], if it does.
        """
        started = time.perf_counter()
        before = copy.deepcopy(self.model.state_dict())
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for _ in range(3):  # as many as CUDA graphs need to be recorded
                self(self.world.part(images)).sum().backward()
                self.model.zero_grad()  # no graph adds to gradients that an earlier run of it made
                if candidates is not None:
                    self.score(candidates)
        self.model.load_state_dict(before)
        return time.perf_counter() - started


def all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def in_one_layout(images: Tensor) -> Tensor:
    """Images [b, c, h, w] in channels-last order, with the strides that this order has by the book.

    Where c is 1, both orders are the same in memory and differ in strides that nothing depends on,
    but compiled code is made for one of them. Only images in another order are copied.
    """
    _, c, h, w = images.shape
    images = images.contiguous(memory_format=torch.channels_last)
    return images.as_strided(images.shape, (c * h * w, 1, c * w, c))


def choose_precision(option: str, device: torch.device, compiled: bool = False) -> Precision:
    """Resolve `amp`; auto is bf16 where the processor gains from it, else float32.

    A GPU gains that has it in hardware, a CPU that has instructions for it: matrix tiles (AMX), or
    AVX512-BF16, with which narrow networks train 1.6 times as fast (resnet10-w16: 2,231 images/s
    against 1,423). Compiled for such a CPU, that one makes 137.

    Raises:
        UsageError: for bf16 or fp16 in a network that is compiled for a CPU.
    """
    on_cpu = device.type == "cpu"
    if option != "auto":
        if on_cpu and compiled and option != "off":
            raise UsageError(
                f"`amp` {option}: with `compile` a CPU trains many times slower in it; leave "
                "one of the two out"
            )
        amp = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[option]
        return Precision(amp, f"amp {option}")
    if not on_cpu:
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(torch.bfloat16, "the GPU has bf16")
        return Precision(None, "the GPU has no bf16")
    if compiled:
        return Precision(None, "compile on a CPU")
    has = torch.cpu.get_capabilities()
    for flag in BF16_FLAGS:
        if has.get(flag):
            return Precision(torch.bfloat16, flag)
    return Precision(None, f"neither {' nor '.join(BF16_FLAGS)}")

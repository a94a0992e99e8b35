"""How a model is run: its precision, its compilation, and the processes that share a batch."""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .distributed import ALONE, World
from .parts import Parts


class Network:
    """A model as the loop calls it. Logits are float32 whatever the precision inside.

    Args:
        model: returns logits [b, classes] of images [b, c, h, w].
        device: that the model is on.
        amp: type of autocast, or None for float32.
        compiled: whether to compile the model, which `warm_up` does ahead of use.
        sync_batchnorm: whether batch normalisation sees the batches of all processes.
        world: the processes that share a batch; gradients are averaged over them.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        amp: torch.dtype | None = None,
        compiled: bool = False,
        sync_batchnorm: bool = False,
        world: World = ALONE,
    ):
        if sync_batchnorm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model, self.device, self.world = model, device, world
        self.amp, self.compiled = amp, compiled
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
        self.parts = Parts(device)
        self.trained: nn.Module = model  # as it is called in train mode
        if world.size > 1:
            devices = [device] if device.type == "cuda" else None
            self.trained = DistributedDataParallel(model, devices)
        self.scored: nn.Module = model  # as it is called in eval mode by a method
        if compiled:
            # CUDA graphs, because a batch of small images is over before its kernels are launched.
            mode = "reduce-overhead" if device.type == "cuda" else None
            self.trained = torch.compile(self.trained, mode=mode)
            self.scored = torch.compile(model, mode=mode)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of this process's part of a batch, in train mode, to be backpropagated."""
        return self.run(self.trained, images)

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Logits [b, classes] of a whole batch in eval mode, shared out among the processes."""
        mine = self.world.part(images)

        def forward(start: int, stop: int) -> Tensor:
            return self.run(self.scored, mine[start:stop])

        self.model.eval()
        logits = list(self.parts.over(0, len(mine), mine.shape[1:], forward))
        self.model.train()
        return self.world.gather(torch.cat(logits))

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Backpropagate the mean loss of this process's part, and make a step on that of all."""
        optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()

    def run(self, model: nn.Module, images: Tensor) -> Tensor:
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.device.type, self.amp) if self.amp else nullcontext():
            logits = model(images)
        logits = logits.float()
        # A CUDA graph puts the next batch's logits in the same place.
        return logits.clone() if self.compiled else logits

    def warm_up(self, images: Tensor, scores: bool) -> float:
        """Compile for a batch like `images` [B, c, h, w]; the seconds that took. It learns nothing.

        With `scores`, for being called by a method that scores candidates too.
        """
        started = time.perf_counter()
        before = copy.deepcopy(self.model.state_dict())
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for _ in range(3):  # as many as CUDA graphs need to be recorded
                self(self.world.part(images)).sum().backward()
                if scores:
                    self.score(images)
        self.model.zero_grad()
        self.model.load_state_dict(before)
        return time.perf_counter() - started


def choose_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast for --amp; auto is bf16 where the processor gains from it.

    A GPU does that has it in hardware. A CPU does with matrix tiles (AMX); with AVX-512 alone
    narrow networks took longer than in float32.
    """
    if name == "auto":
        if device.type == "cuda":
            gains = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            gains = torch.cpu.get_capabilities().get("amx_bf16", False)
        name = "bf16" if gains else "off"
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]

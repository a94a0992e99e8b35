"""The device and the process that a run is made on."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

import torch

from errors import UsageError

from .config import RunConfig
from .distributed import ALONE, World

threads_before: int | None = None  # of this process, once a run has had a number of its own

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def find_device(name: str, world: World = ALONE) -> torch.device:
    """The device of that name, a GPU with its index: the first one of the machine by default.

    Raises:
        UsageError: for what PyTorch or this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if world.size > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise UsageError(f"`device` {name}: of several processes each has its own; give cuda")
        name = f"cuda:{world.local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"`device` {name}: no such device; give cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"`device` {name}: not supported; give cpu, cuda or cuda:N")
    if device.type == "cpu":
        if device.index is not None:
            raise UsageError(f"`device` {name}: processors have no number; give cpu")
        return device
    device, found = torch.device("cuda", device.index or 0), torch.cuda.device_count()
    if device.index >= found:
        raise UsageError(f"`device` {name}: this machine has {found} CUDA devices; try cpu")
    return device


def check_device(settings: RunConfig, device: torch.device) -> None:
    """Refuse settings that the device is not for."""
    if settings.sync_batchnorm and device.type == "cpu":
        raise UsageError("`sync_batchnorm`: PyTorch has it for CUDA alone; leave it out")


def set_up_torch(settings: RunConfig, device: torch.device) -> None:
    """Settings that hold for the whole process, until the next run there."""
    global threads_before
    check_device(settings, device)
    if settings.num_threads:
        threads_before = threads_before or torch.get_num_threads()
        torch.set_num_threads(settings.num_threads)
    elif threads_before:
        torch.set_num_threads(threads_before)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        torch.cuda.set_device(device)  # where timing events are recorded
        torch.set_float32_matmul_precision("high")  # TF32, of convolutions too
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = not settings.deterministic
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as PyTorch asks for
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(settings.deterministic)  # which imports the compiler


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones.

    Else large ones go back to the operating system at once, and taking their pages anew makes up a
    tenth of a step of a narrow network on a CPU. Only for glibc; other libraries stay as they are.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # 32 MiB, the most that is allowed
        mallopt(M_TOP_PAD, 2**26)

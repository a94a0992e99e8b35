"""Kernels that a training step runs, and the gaps between them, by PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Sequence

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from data import Dataset

from .ours import WARM_UP, make_steps, make_trainer, print_table, read_settings, wait

TOP = 12  # kernels that are listed


def measure_kernels(words: list[str], dataset: Dataset, steps: int) -> None:
    """The kernels of SGD's steps that take longest (on a CPU: operators), and what lies between."""
    trainer = make_trainer(read_settings(words), dataset)
    device = trainer.device
    make_steps(trainer, WARM_UP)
    wait(device)
    kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=activities) as recorded:
        make_steps(trainer, steps)
        wait(device)
    # Names with # are marks around kernels.
    events = [e for e in recorded.events() if e.device_type == kind and "#" not in e.name]
    spans = [(e.time_range.start, e.time_range.end, e.name) for e in events]
    busy, gaps = occupied(spans)
    times: dict[str, list[float]] = {}
    for event in events:
        own = event.self_cpu_time_total if kind == DeviceType.CPU else event.time_range.elapsed_us()
        times.setdefault(event.name, []).append(own)
    total = sum(map(sum, times.values()))
    rows = [
        [
            name[:60].replace("|", "/"),
            f"{len(each) / steps:.1f}",
            f"{sum(each) / steps / 1e3:.3f}",
            f"{sum(each) / total:.1%}",
        ]
        for name, each in sorted(times.items(), key=lambda item: -sum(item[1]))[:TOP]
    ]
    heads = ["kernel", "calls per step", "ms per step", "fraction"]
    print_table(f"kernels on {device}, SGD, under the profiler", heads, rows)
    longest, name = max(gaps, default=(0.0, "none"))
    print(
        f"\nbusy {busy:.1%} of the time; {len(gaps) / steps:.1f} gaps per step, the "
        f"longest {longest / 1e3:.3f} ms, after {name[:60]}"
    )


def occupied(spans: Sequence[tuple[float, float, str]]) -> tuple[float, list[tuple[float, str]]]:
    """Return the fraction of the time in spans (start, end, name), and the gaps after them."""
    spans = sorted(spans)
    begun, (_, end, name) = spans[0][0], spans[0]
    gaps = []
    for start, stop, following in spans[1:]:
        if start > end:
            gaps.append((start - end, name))
        if stop > end:
            end, name = stop, following
    idle = sum(length for length, _ in gaps)
    return 1 - idle / (end - begun), gaps

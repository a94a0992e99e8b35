"""Seconds spent in each phase of a run."""

from __future__ import annotations

import time
from collections import defaultdict

import torch


class Clock:
    """A lap timer: each lap's time goes to one phase, so phases add up to the whole.

    On CUDA, laps are events on the stream, read only when `seconds` is called, so that timing
    does not make the host wait for the device.
    """

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"
        self.totals: defaultdict[str, float] = defaultdict(float)
        self.laps: list[tuple[str, torch.cuda.Event]] = []
        self.restart()

    def restart(self) -> None:
        """Start a lap; the time since the last one stays untimed."""
        self.settle()
        self.last = self.now()

    def lap(self, phase: str) -> None:
        """Give the time since the last lap to `phase`."""
        now = self.now()
        if self.on_cuda:
            self.laps.append((phase, now))
        else:
            self.totals[phase] += now - self.last
            self.last = now

    def now(self):
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        """Add up the laps whose events are still on the device."""
        if self.laps:
            torch.cuda.synchronize()
        for phase, event in self.laps:
            self.totals[phase] += self.last.elapsed_time(event) / 1000
            self.last = event
        self.laps.clear()

    def seconds(self, phase: str) -> float:
        self.settle()
        return self.totals[phase]

    def state_dict(self) -> dict[str, float]:
        self.settle()
        return dict(self.totals)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.totals.update(state)

"""Places beside the run's folder where its curve is shown. To add one: a file here, and a line."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from errors import UsageError, say

#: Name -> the package that it needs, and what installs it.
PACKAGES = {
    "tensorboard": ("tensorboard", "-r requirements-tensorboard.txt"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
}


class Tracker(Protocol):
    """Made with the run's folder and its settings by each module here, as `open`."""

    def restart(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Begin, or go on, where these rows of the curve are known already."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Show a row of the curve, at its optimizer step."""

    def close(self, status: str | None) -> None:
        """End, with the status of the run."""


class Trackers:
    """All trackers of a run. One that fails is left out from then on; the run goes on.

    Raises:
        UsageError: when the package of one is not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]):
        for name in names:
            package, source = PACKAGES[name]
            if importlib.util.find_spec(package) is None:
                raise UsageError(f"`log` {name}: not installed; pip install {source}")
        self.waiting = [(name, folder, settings) for name in names]
        self.open: dict[str, Tracker] = {}

    def restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Open all, of a run that has these rows of its curve already."""
        for name, folder, settings in self.waiting:
            self.attempt(name, partial(self.start, name, folder, settings, rows))

    def start(self, name: str, folder: Path, settings: Any, rows: Any) -> None:
        module = importlib.import_module(f".{name}", __package__)
        self.open[name] = module.open(folder, settings)
        self.open[name].restart(rows)

    def add(self, row: Mapping[str, Any]) -> None:
        for name, tracker in list(self.open.items()):
            self.attempt(name, partial(tracker.add, row))

    def close(self, status: str | None) -> None:
        for name, tracker in list(self.open.items()):
            self.attempt(name, partial(tracker.close, status))

    def attempt(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # of any kind: network, quota, disk, the tracker's own faults
            self.open.pop(name, None)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            say(f"note: {name} failed and is left out from here on ({reason}); the run goes on")

"""The driver: everything between a configuration and the folder that a run leaves.

`run(RunConfig(method="dro", budget=0.2))` makes a run.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import RunConfig
    from .driver import run

__all__ = ["RunConfig", "run"]


def __getattr__(name: str) -> object:
    """Import what is asked for only then: it needs PyTorch, which takes seconds to import."""
    if name == "RunConfig":
        from .config import RunConfig

        return RunConfig
    if name == "run":
        from .driver import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

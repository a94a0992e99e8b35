"""Joining a Ray cluster, with this code for its nodes."""

from __future__ import annotations

import logging
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import ray

from errors import UsageError

from ..source import ROOT, commit


def connect(address: str) -> None:
    """Join the cluster and send it this code, without what lies beside it."""
    with tempfile.TemporaryDirectory(prefix="sweep-") as code:
        for path in sources():
            copy = Path(code) / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        try:
            try_to_reach(address)
            ray.init(
                address or None,
                runtime_env={"working_dir": code, "env_vars": {"SOURCE_COMMIT": commit() or ""}},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"--ray {address}: cannot join that cluster ({reason}); give the address that "
                "ray start printed"
            ) from error


def sources() -> list[Path]:
    """The files of this code: top-level modules, and packages with those inside them."""
    packages = [path.parent for path in ROOT.glob("*/__init__.py")]
    return [*ROOT.glob("*.py"), *(path for folder in packages for path in folder.rglob("*.py"))]


def try_to_reach(address: str) -> None:
    """Raise an OSError if nothing listens there, which Ray takes minutes to find out."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def warn_if_too_large(cpus: float, gpus: float) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        print(
            f"note: no node has {cpus:g} cores and {gpus:g} GPUs free for a run, so runs wait for "
            "one that does; lower --cpus-per-run or --gpus-per-run",
            file=sys.stderr,
        )

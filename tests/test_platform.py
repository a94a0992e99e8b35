"""Platforms without POSIX file locks are refused, in one line, by every command."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

WITHOUT_FCNTL = """
import runpy, sys
sys.modules["fcntl"] = None
sys.path.insert(0, "")
name = sys.argv.pop(1)
run = runpy.run_path if name.endswith(".py") else runpy.run_module
run(name, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, words",
    [
        ("train.py", []),
        ("sweep.py", ["--dry-run"]),
        ("engine.scores", ["run", "--score", "el2n", "--out", "scores.npz"]),
        ("plots", []),
        ("plots.claims", []),
    ],
)
def test_no_file_locks(name: str, words: list[str]) -> None:
    command = [sys.executable, "-c", WITHOUT_FCNTL, name, *words]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 2, outcome
    assert outcome.stdout == ""
    program = name if name.endswith(".py") else f"python -m {name}"
    assert outcome.stderr == (
        f"{program}: {sys.platform}: has no file locks (fcntl), which runs need; use Linux or "
        "macOS, on Windows WSL\n"
    )

"""Results stay what they were: the curve of every method with every augmentation."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from curves import PORTABLE

RECORDED = json.loads((ROOT / "tests" / "curves.json").read_text())


def test_recorded_curves_differ_from_each_other():
    """Else a method that did nothing would go unnoticed."""
    digests = RECORDED["curves"].values()
    assert len(set(digests)) == len(digests)


@pytest.mark.slow
def test_curves_are_those_recorded():
    """On the CPU, in float32, in all columns but the seconds.

    A run is only comparable where PyTorch rounds as it did when the curves were recorded, which a
    network of PyTorch's own tells. What is newer than the record has no part in this.
    """
    output = subprocess.run(
        [sys.executable, "-m", "tests.curves"],
        cwd=ROOT,
        env=os.environ | PORTABLE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    made = json.loads(output)
    if made["kernels"] != RECORDED["kernels"]:
        pytest.skip(f"PyTorch here rounds otherwise: {made['kernels']}, not {RECORDED['kernels']}")
    recorded = RECORDED["curves"]
    assert {name: made["curves"].get(name) for name in recorded} == recorded

"""A sweep on a real Ray cluster of two nodes, on this machine, one of which is lost."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_command_line import CPU
from test_durability import has_checkpoint, wait_until

from engine.source import commit
from engine.status import read_status

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ONE_CORE = dict(num_cpus=1, object_store_memory=100 * 2**20)
SEEDS = (1, 2, 3, 4)
GRID = ("--seed", *SEEDS, "--epochs", 40, "--budget", 0.5, *CPU)
#: sweep.py, but for how often it is sent checkpoints: here as soon as they are written.
SWEEP = """
import sys, sweep, engine.sweep.ray_cluster
engine.sweep.ray_cluster.POST_EVERY = 0
sys.exit(sweep.main(sys.argv[1:]))
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator:
    """One node with a core, which the sweep joins; nodes keep their files in `tmp_path`/nodes."""
    from ray.cluster_utils import Cluster

    (tmp_path / "nodes").mkdir()
    with tempfile.TemporaryDirectory() as short:  # as the names of sockets have to be
        monkeypatch.setenv("RAY_TMPDIR", short)
        monkeypatch.setenv(
            "RAY_worker_niceness", "0"
        )  # with Ray's own, a busy machine starves runs
        monkeypatch.setenv("TMPDIR", str(tmp_path / "nodes"))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        cluster = Cluster(initialize_head=True, head_node_args=ONE_CORE)
        yield cluster
        cluster.shutdown()


def start(cluster, tmp_path: Path) -> subprocess.Popen:
    words = ("--ray", cluster.address, "--data-dir", "data", *GRID)
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP, *map(str, words)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def under_way(tmp_path: Path) -> list[Path]:
    """The folders on nodes of the runs that are being made there."""
    return list(filter(is_locked, (tmp_path / "nodes").glob("sweep-*/*/run.lock")))


def is_locked(path: Path) -> bool:
    try:
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass  # the run has ended and its folder is gone
    return False


def test_a_sweep_survives_the_loss_of_a_node_and_being_stopped(cluster, tmp_path: Path) -> None:
    folders = [tmp_path / f"results/digits_SGD_standard_b0.5_s{seed}_epochs40" for seed in SEEDS]
    node = cluster.add_node(**ONE_CORE)
    first = start(cluster, tmp_path)
    try:
        wait_until(lambda: sum(map(has_checkpoint, folders)) == 2, seconds=240)
        assert len(under_way(tmp_path)) == 2  # as many as there are cores
        cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: len(under_way(tmp_path)) == 1)  # nobody goes on with the lost one
        wait_until(lambda: any(read_status(folder) == "finished" for folder in folders), 240)
        wait_until(lambda: len(under_way(tmp_path)) == 1, seconds=240)
        first.send_signal(signal.SIGINT)
        out, errors = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 130, errors
    assert "lost with its node, starting again: " in out
    assert "sweep.py: stopped by SIGINT" in errors
    assert under_way(tmp_path) == []
    finished = [folder for folder in folders if read_status(folder) == "finished"]
    assert 1 <= len(finished) < 4
    models = [(folder / "model.pt").stat().st_mtime_ns for folder in finished]

    cluster.add_node(**ONE_CORE)
    second = start(cluster, tmp_path)
    try:
        out, errors = second.communicate(timeout=240)
    finally:
        second.kill()
    assert second.returncode == 0, errors
    assert [read_status(folder) for folder in folders] == ["finished"] * 4
    assert [(folder / "model.pt").stat().st_mtime_ns for folder in finished] == models
    names = {"config.json", "curve.csv", "log.txt", "model.pt", "per_class.csv", "run.toml"}
    names |= {"run.lock", "status"}
    assert [{path.name for path in folder.iterdir()} for folder in folders] == [names] * 4
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert [config["versions"]["commit"] for config in configs] == [commit()] * 4
    assert [config["settings"]["results_dir"] for config in configs] == ["results"] * 4
    names = [config["settings"]["experiment_name"] for config in configs]
    assert names == [folder.name for folder in folders]
    assert all("--results-dir results" in config["command"] for config in configs)
    logs = [(folder / "log.txt").read_text() for folder in folders]
    assert [log.count("accuracy after the last epoch") for log in logs] == [1] * 4
    assert [log.count("epoch 40/40") for log in logs] == [1] * 4
    assert sum("resuming after step" in log for log in logs) >= 1


def test_folders_of_trackers_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "curve.csv").write_bytes(b"epoch")
    from engine.sweep.remote import read_files  # which imports Ray

    assert read_files(tmp_path, ["wandb", "curve.csv", "gone"]) == {"curve.csv": b"epoch"}


def test_nodes_get_all_of_the_code() -> None:
    from engine.sweep.ray_connection import sources

    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {ROOT / name for name in listed.stdout.split()}
    assert {*sources()} >= {path for path in tracked if path.parts[len(ROOT.parts)] != "tests"}
    assert not any(".venv" in path.parts for path in sources())


def test_a_cluster_that_is_not_there() -> None:
    outcome = subprocess.run(
        [sys.executable, "sweep.py", "--ray", "127.0.0.1:9", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert outcome.returncode == 2
    assert "sweep.py: --ray 127.0.0.1:9: cannot join that cluster" in outcome.stderr


def test_a_method_of_ones_own_is_found_by_the_nodes(cluster, tmp_path: Path) -> None:
    """And a table of labels: both by relative paths, from the folder one is in."""
    source = "from methods import Method\n\n\nclass Mine(Method):\n    pass\n"
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "labels.csv").write_text("image,label\n0,3\n")
    words = ("--ray", cluster.address, "--method", "mine.py:Mine", "--labels", "labels.csv")
    words += ("--seed", 1, 2, "--epochs", 1, "--budget", 0.5, *CPU)
    outcome = subprocess.run(
        [sys.executable, "-c", SWEEP, *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    folders = list((tmp_path / "results").glob("digits_Mine_*"))
    assert [read_status(folder) for folder in folders] == ["finished"] * 2

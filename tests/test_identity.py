"""Runs are told apart by what their data and files hold, not by where these lie; odd names."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_files
from conftest import Completed, assert_refused

from engine.run_folder import RunFolder
from errors import UsageError, exit_status_of
from methods.scores import ScoreFile, digest
from plots.study import read_study

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("--model", "resnet10-w8", "--epochs", 2, "--batch-size", 8, "--device", "cpu")
FOLDER = ("--dataset", "folder", *SHORT, "--data-dir")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stopped(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Start a run called `run` that stops after its first epoch."""
    append = RunFolder.append_row

    def append_and_stop(folder: RunFolder, row: dict) -> None:
        append(folder, row)
        signal.raise_signal(signal.SIGTERM)

    def make(*words: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "append_row", append_and_stop)
            assert train_here(*words, "--experiment-name", "run").returncode == 143

    return make


def config_of(name: str) -> dict:
    return json.loads((Path("results") / name / "config.json").read_text())


def setups_of(*names: str) -> int:
    """How many setups the plots divide some of the runs into."""
    for name in names:
        shutil.copytree(Path("results") / name, Path("chosen") / name)
    study = read_study(Path("chosen"))
    shutil.rmtree("chosen")
    assert len(study.runs) == len(names)
    return study.runs["setup"].nunique()


@pytest.mark.parametrize("writer", ["folder", "mini-imagenet"])
def test_a_checkpoint_goes_on_with_the_same_images_alone(writer: str, stopped, train_here) -> None:
    for seed, name in ((1, "a"), (2, "b")):
        small_files.WRITERS[writer](Path(name), seed=seed)
    shutil.copytree("a", "copy")
    words = ("--dataset", writer, *SHORT, "--budget", 1 if writer == "folder" else 0.04)
    stopped(*words, "--data-dir", "a")
    outcome = train_here(*words, "--data-dir", "b", "--experiment-name", "run")
    assert_refused(outcome, "of a run with other settings (data_sha256 was ", ", is ")
    assert train_here(*words, "--data-dir", "copy", "--experiment-name", "run").returncode == 0


def test_plots_keep_runs_on_different_folders_apart(make_run) -> None:
    for seed, name in ((1, "a"), (2, "b")):
        small_files.write_folder(Path(name), seed=seed)
    shutil.copytree("a", "copy")
    for seed, name in enumerate(("a", "copy", "b", "old")):
        make_run(name, *FOLDER, "a" if name == "old" else name, "--seed", seed)
    digests = [config_of(name)["data_sha256"] for name in ("a", "copy", "b")]
    assert len({*digests}) == 2
    assert digests[0] == digests[1]
    assert setups_of("a", "copy") == 1
    assert setups_of("a", "copy", "b") == 2

    older = config_of("old")  # of a version that did not write the digest
    del older["data_sha256"], older["files_sha256"]
    (Path("results/old/config.json")).write_text(json.dumps(older))
    assert setups_of("a", "old") == 1
    assert setups_of("a", "b", "old") == 3, "of which data it is is not known"


def test_scores_of_other_images_are_refused(make_run, train_here, scores_here) -> None:
    """Though they are as many, with the same labels."""
    for seed, name in ((1, "a"), (2, "b")):
        small_files.write_folder(Path(name), seed=seed)
    make_run("run", *FOLDER, "a", "--record", "el2n", "--record-epochs", 1)
    words = ("--method", "coreset", "--budget", 0.5, "--coreset-file")
    for file in ("results/run/scores.npz", "made.npz"):
        if file == "made.npz":
            make = ("results/run", "--score", "grand", "--out", file, "--device", "cpu")
            assert scores_here(*make).returncode == 0
        assert ScoreFile.read(file).data_sha256 == config_of("run")["data_sha256"]
        outcome = train_here(*FOLDER, "b", *words, file)
        assert_refused(outcome, f"--coreset-file {file}: of other images, in another --data-dir")
    make_run("fits", *FOLDER, "a", *words, "made.npz")
    outcome = scores_here(
        "results/run", "--score", "grand", "--out", "out.npz", "--device", "cpu", "--data-dir", "b"
    )
    assert_refused(outcome, "results/run: the data now are other images", "--data-dir")


def test_a_score_file_of_an_older_version_is_read(make_run) -> None:
    labels = small_files.write_folder(Path("a")).train_labels
    scores = {"el2n": np.arange(24, dtype=np.float32)}
    Path("new.npz").write_bytes(ScoreFile("folder", digest(labels), scores).to_bytes())
    with np.load("new.npz") as archive:
        arrays = {name: archive[name] for name in archive.files if name != "data_sha256"}
    np.savez("old.npz", **arrays)
    assert ScoreFile.read("old.npz").data_sha256 is None
    make_run("run", *FOLDER, "a", "--method", "coreset", "--coreset-file", "old.npz")


def test_a_score_file_is_what_it_holds(stopped, train_here, make_run) -> None:
    """Two paths of one content are one run for a checkpoint and one cell for the plots."""
    labels = small_files.write_folder(Path("a")).train_labels
    for name in ("one", "other"):
        values = np.arange(24, dtype=np.float32) if name == "one" else -np.arange(24.0)
        file = ScoreFile("folder", digest(labels), {"el2n": values})
        Path(f"{name}.npz").write_bytes(file.to_bytes())
    shutil.copy("one.npz", "copy.npz")
    words = (*FOLDER, "a", "--method", "coreset", "--budget", 0.5, "--coreset-file")
    stopped(*words, "one.npz")
    outcome = train_here(*words, "other.npz", "--experiment-name", "run")
    assert_refused(outcome, "of a run with other settings (method_options was ")
    assert train_here(*words, "copy.npz", "--experiment-name", "run").returncode == 0

    for seed, name in enumerate(("one", "copy", "other"), 2):
        make_run(name, *words, f"{name}.npz", "--seed", seed)
    config = config_of("copy")
    assert config["settings"]["method_options"]["coreset_file"] == "copy.npz"
    assert config["files_sha256"] == config_of("one")["files_sha256"]
    study = read_study(Path("results"))
    cells = study.runs.groupby("method_options")["folder"].agg(set).tolist()
    assert sorted(cells, key=len) == [{"other"}, {"run", "one", "copy"}]


# Names


def test_an_error_is_one_printable_line(capsys: pytest.CaptureFixture) -> None:
    def work() -> int:
        raise UsageError(f"a\nb\t\x1b[31m{os.fsdecode(b'c' + bytes([255]))} é: no such thing")

    assert exit_status_of("program", work) == 2
    expected = "program: a\\nb\\t\\x1b[31mc\\udcff é: no such thing\n"
    assert capsys.readouterr().err == expected


def test_what_is_printed_needs_no_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with PYTHONIOENCODING=ascii."""
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding="ascii"))

    def work() -> int:
        print("é", os.fsdecode(b"\xff"), flush=True)
        return 0

    assert exit_status_of("program", work) == 0
    assert stream.getvalue() == b"\\xe9 \\udcff\n"


def test_classes_of_any_name_are_trained_on(train_here) -> None:
    names = [os.fsdecode(name) for name in (b"a\xff", b"b\nc", "é".encode())]
    small_files.write_folder(Path("a"), classes=names)
    outcome = train_here(*FOLDER, "a", "--experiment-name", "run")
    assert outcome.returncode == 0, outcome.stderr
    table = Path("results/run/per_class.csv").read_text(encoding="utf-8")
    assert "a\\udcff," in table
    outcome = train_here(*FOLDER, "a", "--experiment-name", "other", "--num-classes", 7)
    assert_refused(outcome, "--num-classes 7: folder has 3 classes")
    next((Path("a/train") / names[1]).iterdir()).write_bytes(b"no image")
    outcome = train_here(*FOLDER, "a", "--experiment-name", "other")
    assert_refused(outcome, "a/train/b\\nc/", "truncated or not an image")

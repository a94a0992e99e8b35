"""Packed runs: they say what their folders said, and everything reads them alike."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, Completed
from synthetic_results import write_run
from test_sweep import write_ended

import sweep
from engine import packs
from engine.finished import FinishedRun
from engine.packs import (
    OPTIONAL,
    cell_of_text,
    cell_of_value,
    text_of_cell,
    value_of_cell,
    write_pack,
)
from engine.runs import PackedRun, StoredRun, find_run, find_runs
from engine.sweep.estimate import Estimator
from engine.sweep.grid import expand
from engine.sweep.options import read_command_line
from engine.sweep.runs import Run, list_runs
from engine.sweep.sweep import grids
from errors import UsageError
from plots import __main__ as command
from plots import claims
from plots.study import read_study

PACK_FILES = [name for name in packs.PACK_FILES if name not in OPTIONAL]
FILES = ("config.json", "status", "curve.csv", "per_class.csv")
CLASSES = "class,train_count,test_count,test_accuracy,test_loss\n"


@pytest.fixture
def plots(main_here: Callable[..., Completed]) -> Callable[..., Completed]:
    return partial(main_here, command.main)


@pytest.fixture
def sweep_here(main_here: Callable[..., Completed]) -> Callable[..., Completed]:
    return partial(main_here, sweep.main)


def assert_refused(outcome: Completed, *fragments: str) -> None:
    assert outcome.returncode == 2, outcome
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("python -m plots pack: ")
    for fragment in fragments:
        assert fragment in line


def said(folder: Path) -> tuple:
    """All that a run's files say, read by other means than the project's."""
    tables = []
    for name in FILES[2:]:
        path = folder / name
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                tables.append(list(csv.reader(file)))
        else:
            tables.append(None)
    content = json.loads((folder / "config.json").read_text())
    return (folder / "status").read_text().strip(), json.dumps(content, sort_keys=True), tables


def packed_says(results: Path, name: str) -> tuple:
    """The same of a packed run, in the order of its own columns."""
    run = find_run(results / name)
    assert isinstance(run, PackedRun)
    tables = [run.table(name) if run.has(name) else None for name in FILES[2:]]
    rows = [None if table is None else [table.columns, *table.rows] for table in tables]
    return run.status(), json.dumps(run.content(), sort_keys=True), rows


def runs_of(*words: str) -> list[Run]:
    options, flags = read_command_line(words)
    return list_runs(expand(grids(options.grid, flags)))[0]


def last_accuracies(results: Path) -> list[float]:
    """Of all runs, in the order of their folders."""
    runs, faults = find_runs(results)
    assert not faults
    return [float(run.last_row()["test_accuracy"]) for run in runs]


def add_classes(folder: Path, *names: str) -> None:
    with open(folder / "per_class.csv", "w", newline="", encoding="utf-8") as file:
        file.write(CLASSES)
        for place, name in enumerate(names):
            csv.writer(file).writerow([name, 500 - place, 0, "", ""])


def edit_config(folder: Path, values: Mapping) -> None:
    config = json.loads((folder / "config.json").read_text()) | dict(values)
    (folder / "config.json").write_text(json.dumps(config))


def drop_columns(folder: Path, *names: str) -> None:
    with open(folder / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "curve.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in names])
        writer.writeheader()
        writer.writerows({k: v for k, v in row.items() if k not in names} for row in rows)


# What a pack says


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", " a ", "1", "1.0", "-0", "1e999", "true", "null", "NaN", "[1]", "[1", "{}"),
        *('"a"', '"a', "a,b", "a\nb", "a\r\nb", "\t", "\0", "é", "\u2028", "\udcff", "\\udcff"),
        *("[" * 100_000, "9" * 5000),
    ],
)
def test_any_text_is_read_back(text: str) -> None:
    assert text_of_cell(cell_of_text(text)) == value_of_cell(cell_of_value(text)) == text
    assert cell_of_value(text)
    cell_of_value(text).encode()


@pytest.mark.parametrize("value", [None, True, 1, 1.0, -0.0, 1e-300, 10**400, [], {}, ["a", [1.5]]])
def test_values_keep_their_types(value: object) -> None:
    assert repr(value_of_cell(cell_of_value(value))) == repr(value)


STRANGE = {
    "a": {"b.c": 1, "": {"x": "y"}, 'qu"ote': [None], "line\nbreak": {}, "\udcff": "\udcfe"},
    "status": "1",
    "folder": {"last": 2},
    "last": {"epoch": 3},
    "curve.rows": None,
    "command": 'train.py --experiment-name "a, b"\n',
    "method_summary": {"kept": 0.1 + 0.2},
}


def write_study(folder: Path) -> list[str]:
    """Runs of several versions, with names and contents of every kind; their names."""
    for name in ("plain", "a, b", 'quo"te', "line\nbreak", "12", "deep/er/run", "tuning/trial"):
        add_classes(write_run(folder / name, 80, dict(seed=len(name))), "cat", "dog, wolf", '"q"')
    write_run(folder / os.fsdecode(b"latin-\xe9"), 70)
    edit_config(write_run(folder / "strange", 60), STRANGE)
    drop_columns(write_run(folder / "old", 50), "worst_class_accuracy", "class_accuracy_p5")
    dro = dict(method="dro", method_options={"dro_beta": 10.0}, validation=None)
    write_run(folder / "dro", 70, dro, facts={"starts": [{"time": "2026", "torch": "2.11.0"}]})
    text = (write_run(folder / "diverged", 20, status="diverged") / "curve.csv").read_text()
    (folder / "diverged" / "curve.csv").write_text(text.splitlines()[0] + "\n")
    (write_run(folder / "at once", 20, status="diverged") / "curve.csv").unlink()
    sparse = write_run(folder / "sparse", 20, status="diverged") / "curve.csv"
    sparse.write_text("epoch,test_loss,test_accuracy,note\n1,,,\\udcff\n2,,,\n")
    add_classes(folder / "old", "\\udcff", "a\nb", "")
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("status"))


def test_a_pack_says_all_that_the_folders_said(tmp_path, plots) -> None:
    names = write_study(tmp_path / "study")
    before = {name: said(tmp_path / "study" / name) for name in names}
    done = plots("pack", "study", "--remove")
    assert done.returncode == 0, done.stderr
    assert f"packed now: {len(names)}, folders removed: {len(names)}" in done.stdout
    assert {path.name for path in (tmp_path / "study").iterdir()} == {*PACK_FILES}
    for name in names:
        assert packed_says(tmp_path / "study", name) == before[name], name

    with open("study/runs.csv", newline="") as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    assert rows["dro"]["settings.method_options.dro_beta"] == "10.0"
    assert rows["dro"]["settings.validation"] == "null"
    assert rows["plain"]["settings.method_options"] == "{}"
    assert rows["plain"]["settings.method_options.dro_beta"] == ""
    assert rows["plain"]["versions.torch"] == "2.11.0"
    assert rows["plain"]["last.test_accuracy"] == "80.0"
    assert rows['"12"']["status"] == "finished"


def test_packing_again_changes_nothing(tmp_path, plots) -> None:
    write_study(tmp_path / "study")
    contents = []
    for flag in ((), ("--remove",), ()):
        assert plots("pack", "study", *flag).returncode == 0
        contents.append([(tmp_path / "study" / name).read_bytes() for name in PACK_FILES])
    assert contents[0] == contents[1] == contents[2]


def test_a_folder_goes_only_if_all_of_it_is_packed(tmp_path, plots) -> None:
    for name in ("a", "b", "c", "d", "e"):
        write_run(tmp_path / "study" / "in" / name, 80)
    (tmp_path / "study/in/a/log.txt").touch()
    (tmp_path / "study/in/a/run.lock").touch()
    (tmp_path / "study/in/b/model.pt").touch()
    (tmp_path / "study/in/c/model.pt").touch()
    (tmp_path / "study/in/c/notes").mkdir()
    (tmp_path / "study/in/d/status").write_text("running\n")
    done = plots("pack", "study", "--remove")
    assert done.returncode == 0
    assert "packed now: 4, folders removed: 2" in done.stdout
    assert done.stderr.splitlines() == [
        "note: left out what has not ended: 1 running",
        "note: 2 folders stay for what a pack does not hold: model.pt (2), notes (1); remove these "
        "files if they may go, and pack again",
    ]
    assert {path.name for path in Path("study/in").iterdir()} == {"b", "c", "d"}


def test_by_default_all_folders_stay(tmp_path, plots) -> None:
    write_run(tmp_path / "study" / "a", 80)
    before = said(tmp_path / "study" / "a")
    assert plots("pack", "study").returncode == 0
    assert said(tmp_path / "study" / "a") == before


def test_a_pack_keeps_what_it_has_but_a_folder_supersedes_it(tmp_path, plots) -> None:
    for name, accuracy in (("a", 80), ("b", 70)):
        write_run(tmp_path / "study" / name, accuracy)
    assert plots("pack", "study", "--remove").returncode == 0
    write_run(tmp_path / "study" / "b", 60, dict(epochs=7))
    write_run(tmp_path / "study" / "c", 50)
    assert last_accuracies(Path("study")) == [80, 60, 50]
    done = plots("pack", "study", "--remove")
    assert "study: 3 runs in " in done.stdout
    assert "packed now: 2, folders removed: 2" in done.stdout
    assert last_accuracies(Path("study")) == [80, 60, 50]
    assert len(find_run(Path("study/b")).table("curve.csv").rows) == 7


def test_of_several_packs_the_nearest_to_a_run_counts(tmp_path, plots) -> None:
    write_run(tmp_path / "all" / "study" / "a", 80)
    assert plots("pack", "all/study", "--remove").returncode == 0
    write_run(tmp_path / "all" / "study" / "a", 70)
    write_run(tmp_path / "all" / "study" / "b", 60, dict(seed=2))
    assert plots("pack", "all").returncode == 0
    shutil.rmtree("all/study/a")
    shutil.rmtree("all/study/b")
    for where in ("all", "all/study", "."):
        accuracies = read_study(Path(where)).runs["test_accuracy"]
        assert sorted(accuracies) == [60, 80]
    assert float(find_run(Path("all/study/a")).last_row()["test_accuracy"]) == 80


# Damage


def cut(path: Path, size: int = 5) -> None:
    path.write_bytes(path.read_bytes()[:-size])


def drop_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def replace(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


DAMAGES = [
    ("runs.csv", cut, "its end is missing"),
    ("runs.csv", drop_line, "rows of a run that runs.csv lacks"),
    ("runs.csv", lambda path: path.write_text(""), "not a CSV (it is empty)"),
    ("runs.csv", replace("folder,", "<<<<<<< HEAD\nfolder,"), "cells in row"),
    ("runs.csv", replace("folder,", "where,"), "not what python -m plots pack writes"),
    ("runs.csv", replace("\nb,", "\na,"), "twice"),
    ("runs.csv", replace("\nb,", "\n../b,"), "not below it"),
    ("runs.csv", replace("settings.lr", "settings.method.lr"), "is a value and a table"),
    ("runs.csv", replace("settings.lr", "settings..lr"), "names no value"),
    ("runs.csv", replace("\nb,", "\nc,"), "rows of a run that runs.csv lacks"),
    ("curves.csv", cut, "its end is missing"),
    ("curves.csv", drop_line, "3 rows, and runs.csv says 4"),
    ("curves.csv", Path.unlink, "No such file"),
    ("per_class.csv", drop_line, "1 rows, and runs.csv says 2"),
    ("per_class.csv", lambda path: path.write_bytes(b"\xff\n"), "not a CSV"),
]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("file, damage, fragment", DAMAGES)
def test_a_damaged_pack_is_refused_and_left_as_it_is(tmp_path, plots, file, damage, fragment):
    for name in ("a", "b"):
        add_classes(write_run(tmp_path / "study" / name, 80), "cat", "dog")
    assert plots("pack", "study", "--remove").returncode == 0
    damage(tmp_path / "study" / file)
    write_run(tmp_path / "study" / "c", 80)
    before = contents(Path("study"))
    refused = plots("pack", "study", "--remove")
    assert_refused(refused, "study", fragment)
    assert refused.returncode == 2
    assert {
        path: path.read_bytes() for path in Path("study").rglob("*") if path.is_file()
    } == before


@pytest.mark.parametrize(
    "file, damage",
    [
        ("config.json", cut),
        ("config.json", replace('"cifar10"', '"cifar11"')),
        ("curve.csv", drop_line),
        ("curve.csv", replace(",", ";")),
        ("curve.csv", Path.unlink),
        ("per_class.csv", replace(",", ",,")),
    ],
)
def test_a_damaged_run_is_not_packed(tmp_path, plots, file, damage):
    for name in ("a", "b"):
        add_classes(write_run(tmp_path / "study" / name, 80), "cat", "dog")
    damage(tmp_path / "study" / "b" / file)
    refused = plots("pack", "study", "--remove")
    assert_refused(refused, f"study/b/{file}", "nothing was removed")
    assert not Path("study/runs.csv").exists()
    assert Path("study/a/config.json").exists()


def test_tables_name_a_damaged_pack_and_runs_of_damaged_rows(tmp_path, plots) -> None:
    for seed, name in enumerate(("a", "b"), 1):
        write_run(tmp_path / "study" / name, 80, dict(seed=seed))
    write_run(tmp_path / "study" / "c", 80, dict(seed=3))
    assert plots("pack", "study", "--remove").returncode == 0
    replace("\nb,finished,SGD", "\nb,finished,SG")(Path("study/runs.csv"))
    study = read_study(Path("study"))
    assert study.runs["folder"].tolist() == ["a", "c"]
    (note,) = study.notes
    assert note.startswith("study/runs.csv: b: not what train.py writes: method: 'SG'")
    assert note.endswith("make it again or remove its rows")
    drop_line(Path("study/runs.csv"))
    notes = read_study(Path("study")).notes
    assert notes == ["study/curves.csv: c: rows of a run that runs.csv lacks; the pack is left out"]
    Path("study/runs.csv").write_text("")
    write_run(tmp_path / "study" / "d", 80, dict(seed=3))
    study = read_study(Path("study"))
    assert study.runs["folder"].tolist() == ["d"]
    assert study.notes == ["study/runs.csv: not a CSV (it is empty); the pack is left out"]


def test_a_runs_csv_of_someone_else_is_never_overwritten(tmp_path, plots) -> None:
    write_run(tmp_path / "study" / "a", 80)
    Path("study/runs.csv").write_text("mine\n1\n")
    refused = plots("pack", "study", "--remove")
    assert_refused(refused, "study/runs.csv: not what python -m plots pack writes")
    assert Path("study/runs.csv").read_text() == "mine\n1\n"
    assert find_run(Path("study/b")) is None  # and is no hindrance to a sweep


def test_a_broken_off_packing_is_done_again(tmp_path, plots) -> None:
    """Whichever of the tables were new, the folders are there and count."""
    for name in ("a", "b"):
        write_run(tmp_path / "study" / name, 80)
    assert plots("pack", "study").returncode == 0
    old = {name: Path("study", name).read_bytes() for name in PACK_FILES}
    write_run(tmp_path / "study" / "b", 70, dict(epochs=5))
    write_run(tmp_path / "study" / "c", 60)
    assert plots("pack", "study").returncode == 0
    for name in reversed(PACK_FILES[1:]):
        Path("study", name).write_bytes(old[name])
        assert last_accuracies(Path("study")) == [80, 70, 60]
    assert plots("pack", "study", "--remove").returncode == 0
    assert [float(r.last_row()["test_accuracy"]) for r in find_runs(Path("study"))[0]] == [
        80,
        70,
        60,
    ]


@pytest.mark.parametrize(
    "words, fragments",
    [
        (["pack", "none"], ["none: no such folder"]),
        (["pack", "empty"], ["empty: no run there that has ended"]),
        (["pack", "run"], ["run: a run's own folder"]),
        (["pack"], ["FOLDER"]),
        (["pack", "run", "--delete"], ["--delete"]),
    ],
)
def test_wrong_words_are_one_line(tmp_path, plots, words, fragments) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run", 80)
    assert_refused(plots(*words), *fragments)


def test_a_folder_named_pack_has_its_tables(tmp_path, plots, monkeypatch) -> None:
    monkeypatch.setattr(command, "KINDS", {})
    write_run(tmp_path / "pack" / "a", 80)
    assert plots("./pack").returncode == 0
    assert Path("pack/tables.md").exists()
    assert not Path("pack/runs.csv").exists()


# Who reads them


MADE = ("summary.csv", "differences.csv", "tables.md", "tables.tex", "costs.md")


def grid_of_two_methods(folder: Path, **settings: object) -> None:
    for method in ("unif-SGD", "dro"):
        for seed in (1, 2, 3):
            for budget in (0.2, 0.5):
                own = dict(method=method, seed=seed, budget=budget, **settings)
                accuracy = 80 + seed + 10 * budget + (method == "dro")
                write_run(folder / f"{method} {budget} {seed}", accuracy, own)


def test_tables_and_claims_of_both_forms_are_equal(tmp_path, plots, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "KINDS", {})  # figures are made of the same study
    grid_of_two_methods(tmp_path / "folders")
    write_run(tmp_path / "folders" / "tuning" / "trial", 99, dict(budget=0.2))
    write_run(tmp_path / "folders" / "lost", 20, status="diverged")
    drop_columns(tmp_path / "folders" / "dro 0.2 1", "worst_class_accuracy", "class_accuracy_p5")
    shutil.copytree("folders", "packed")
    assert plots("pack", "packed", "--remove").returncode == 0
    shutil.copytree("packed", "mixed")
    shutil.copytree("folders/dro 0.2 2", "mixed/dro 0.2 2")
    outcomes = []
    for folder in ("folders", "packed", "mixed"):
        made = plots(folder)
        tables = [Path(folder, name).read_text() for name in MADE]
        assert claims.main([folder]) == 0
        text = f"{made.stdout}{made.stderr}{tables}{capsys.readouterr()}"
        outcomes.append(text.replace(folder, "FOLDER"))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert "1 diverged" in outcomes[0]


def test_a_sweep_makes_no_packed_run_again(tmp_path, plots, sweep_here, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--method", "SGD", "dro", "--seed", "1", "2", "--epochs", "3")
    runs = runs_of(*flags)
    for run in runs[:3]:
        write_ended(run, status="diverged" if run is runs[2] else "finished", train_seconds=100)
    lines = sweep_here(*flags, "--dry-run").stdout
    pack(Path("results"))
    assert not runs[0].path.exists()
    assert runs[0].has_finished()
    assert sweep_here(*flags, "--dry-run").stdout == lines
    assert lines.splitlines()[:4] == [
        f"{status:<10}{run.path}"
        for status, run in zip(("finished", "finished", "diverged", "to make"), runs)
    ]
    other = ("--method", "SGD", "--epochs", "3", "--lr", "0.5")
    refused = sweep_here(*other, "--experiment-name", runs[0].path.name, "--dry-run")
    assert refused.returncode == 2
    assert "lr 0.1 and 0.5" in refused.stderr
    assert "delete its rows in results/runs.csv" in refused.stderr
    cut(Path("results/runs.csv"))
    refused = sweep_here(*flags, "--dry-run")
    assert refused.returncode == 2
    assert "results/runs.csv: not a CSV" in refused.stderr


def pack(folder: Path) -> None:
    """Pack runs whose curves are too short to have tables made of them."""
    runs, _ = find_runs(folder)
    write_pack(folder, {r.folder.relative_to(folder).as_posix(): r.record() for r in runs})
    for run in runs:
        shutil.rmtree(run.folder)


def test_estimates_are_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = runs_of("--method", "SGD", "--seed", "1", "2", "--budget", "0.2", "1.0")
    for seconds, run in zip((100, 200), runs):
        write_ended(run, train_seconds=seconds, eval_seconds=3)
    before = Estimator([Path("results")]).total(runs[2:])
    assert before[0] is not None
    pack(Path("results"))
    assert Estimator([Path("results")]).total(runs[2:]) == before


def test_trials_are_found_in_the_pack_above_their_folder(tmp_path, plots) -> None:
    write_run(tmp_path / "study" / "tuning" / "trial", 80)
    write_run(tmp_path / "study" / "run", 70)
    assert plots("pack", "study", "--remove").returncode == 0
    assert not Path("study/tuning").exists()
    assert float(find_run(Path("study/tuning/trial")).last_row()["test_accuracy"]) == 80
    assert [run.folder.name for run in find_runs(Path("study/tuning"))[0]] == ["trial"]
    assert read_study(Path("study")).runs["folder"].tolist() == ["run"]


def test_scores_ask_the_pack_too(tmp_path, plots) -> None:
    write_run(tmp_path / "study" / "a", 80)
    write_run(tmp_path / "study" / "b", 80, status="diverged")
    assert plots("pack", "study", "--remove").returncode == 0
    run = FinishedRun.read(Path("study/a"), None, "cpu")
    assert (run.settings.budget, run.num_images) == (1.0, 50_000)
    with pytest.raises(UsageError, match="holds a run that is diverged"):
        FinishedRun.read(Path("study/b"), None, "cpu")
    with pytest.raises(UsageError, match="holds no run"):
        FinishedRun.read(Path("study/c"), None, "cpu")


def test_every_version_of_the_committed_runs_stays_readable(tmp_path, plots) -> None:
    """Packed runs written out as folders are packed to the same tables."""
    for run in find_runs(ROOT / "results" / "rivals")[0]:
        write_out(run, tmp_path / "study" / run.folder.name)
    assert plots("pack", "study").returncode == 0
    for name in PACK_FILES:
        assert Path("study", name).read_bytes() == (ROOT / "results/rivals" / name).read_bytes()


def write_out(run: StoredRun, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "status").write_text(run.status())
    (folder / "config.json").write_text(json.dumps(run.content(), indent=2))
    for name in FILES[2:]:
        (folder / name).write_bytes(run.read(name))


def test_a_class_may_have_the_name_of_a_missing_value(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 70)
    rows = [f"{name},10,10,50.0,1.0" for name in ("NA", "null", "01", "")]
    columns = "class,train_count,test_count,test_accuracy,test_loss"
    (run / "per_class.csv").write_text("\n".join([columns, *rows, ""]))
    stored = find_run(run)
    assert stored is not None
    assert stored.data_frame("per_class.csv")["class"].tolist() == ["NA", "null", "01", ""]

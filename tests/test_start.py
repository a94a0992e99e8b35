"""What the start of a program costs: nothing is imported before it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from engine import registries
from engine.flags import build_parser

HEAVY = {"torch", "numpy", "pandas", "scipy", "sklearn", "timm", "matplotlib", "torchvision"}
#: A program's main, and then which modules it has imported.
PROGRAM = """
import json, sys
from {module} import main
status = main(sys.argv[1:])
print("imported", json.dumps([status, sorted(sys.modules)]))
"""


def imported_by(module: str, *words: str) -> tuple[int, set[str]]:
    """The exit status of a command line in a new process, and the modules that it imports."""
    command = [sys.executable, "-c", PROGRAM.format(module=module), *words]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    status, modules = json.loads(output.rpartition("imported ")[2])
    return status, set(modules)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The file of the registries, in a folder of the test's own; made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    registries.remembered.cache_clear()
    registries.remembered()
    yield registries.cache_file()
    registries.remembered.cache_clear()


@pytest.mark.parametrize(
    "module, words, status",
    [
        ("engine.flags", ["--budget", "3"], 2),
        ("engine.flags", ["--metod", "dro"], 2),
        ("engine.flags", ["--method", "dro", "--milestones", "3"], 2),
        ("engine.flags", ["--image-size", "32"], 2),
        ("sweep", ["--method", "dro", "SDG"], 2),
        ("sweep", ["--method", "dro", "--seed", "1", "2", "--dry-run"], 0),
        ("sweep", ["--grid", "configs/cpu.toml", "--dry-run"], 0),
    ],
)
def test_what_needs_no_network_imports_nothing_for_one(
    module: str, words: list[str], status: int, cache: Path
) -> None:
    if "--milestones" in words:
        words = [*words, "--schedule", "step", "--epochs", "2"]
    found, modules = imported_by(module, *words)
    assert found == status
    assert modules & HEAVY == set()


def test_a_run_imports_no_compiler_and_no_tables(cache: Path, tmp_path: Path) -> None:
    words = ["--epochs", "1", "--results-dir", str(tmp_path), "--device", "cpu"]
    status, modules = imported_by("engine.flags", *words)
    assert status == 0
    assert "torch" in modules
    assert modules & {"torch._dynamo", "pandas", "scipy", "sklearn", "timm", "matplotlib"} == set()


def test_help_is_the_same_without_the_registries(cache: Path) -> None:
    program = "from engine.flags import build_parser; import sys; build_parser().print_help(); "
    program += "assert not {'torch', 'methods'} & sys.modules.keys()"
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    import augmentations  # noqa: F401 - now the parser is made of the registries themselves
    import data  # noqa: F401
    import methods.scores  # noqa: F401

    assert output == build_parser().format_help()


def test_a_change_of_a_method_is_noticed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads(cache.read_text())
    content["registries"]["methods"] = {"remembered": {}}
    cache.write_text(json.dumps(content))
    registries.remembered.cache_clear()
    assert list(registries.remembered()["methods"]) == ["remembered"]  # as nothing has changed
    changed = [["methods/new.py", 1, 2]]
    monkeypatch.setattr(registries, "version_of_sources", lambda: changed)
    registries.remembered.cache_clear()
    assert "p-SGD" in registries.remembered()["methods"]
    assert json.loads(cache.read_text())["version"] == changed


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 1, "registries": {}}', "\0"])
def test_a_damaged_file_of_the_registries_is_made_anew(content: str, cache: Path) -> None:
    whole = cache.read_text()
    cache.write_text(content)
    registries.remembered.cache_clear()
    assert "p-SGD" in registries.remembered()["methods"]
    assert cache.read_text() == whole


def test_a_home_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    registries.remembered.cache_clear()
    assert "p-SGD" in registries.remembered()["methods"]
    registries.remembered.cache_clear()


@pytest.mark.parametrize(
    "line, completed",
    [
        ("train.py --method p", {"p-SGD"}),
        ("train.py --augmentation r", {"ricap", "randaugment"}),
        ("train.py --augm", {"--augmentation"}),
        ("sweep.py --method SGD un", {"unif-SGD"}),
        ("sweep.py --iso", {"--isolate"}),
    ],
)
def test_a_shell_completes_flags_and_names(line: str, completed: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line}
    asked |= {"COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    command = [sys.executable, line.split()[0]]
    subprocess.run(
        command, cwd=ROOT, env=os.environ | asked, stdout=subprocess.DEVNULL, check=False
    )
    assert {word.strip() for word in answer.read_text().split("\n")} == completed

"""Pages: links lead somewhere, commands are understood, examples run as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml  # a requirement of Ray
from conftest import ROOT

import plots.__main__
import plots.claims
import sweep
from engine import scores
from engine.flags import parse

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += [*sorted(ROOT.glob("results/*.md")), ROOT / "benchmarks/README.md"]
MAINS = {
    "plots": plots.__main__.main,
    "plots.claims": plots.claims.main,
    "engine.scores": scores.main,
}


@pytest.mark.slow
def test_a_method_of_ones_own_by_its_page(tmp_path: Path) -> None:
    """What docs/own.md tells to do, done: the file, the run, the sweep, figures and page."""
    page = ROOT / "docs/own.md"
    code, data = blocks(page, "python")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/stubborn.py").write_text(code)
    (tmp_path / "mine/bars.py").write_text(data)
    words = "--dataset ~/mine/bars.py:load --model resnet10-w8 --epochs 2 --batch-size 32"
    script = "\n".join(["set -e", *blocks(page, "sh"), f"python train.py {words}"])
    for program in ("train.py", "sweep.py"):
        script = script.replace(f"python {program}", f"python {ROOT / program}")
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "stubborn: how strongly to prefer" in result.stdout
    assert (tmp_path / "results/bars_SGD_standard_b1_s1/curve.csv").exists()
    results = tmp_path / "results/stubborn"
    assert len(list(results.glob("*/curve.csv"))) == 24
    assert "| standard     | Stubborn" in (results / "tables.md").read_text()
    assert (results / "figures/digits_difference_standard.png").exists()
    assert (results / "report.html").exists()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


EXAMPLES = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "python"), 1)
    if "budgetbench" not in text
    and page.name != "own.md"  # those that use it alone run in test_package.py
]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)  # not comments of examples
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command on a page that runs a program of ours, without `python`.

    Commands with gaps (`...`) are left out; variables of the shell are 1.
    """
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    program = re.compile(r"\b(?:python|torchrun \S+) +((?:train|sweep)\.py|-m \S+)(.*)")
    found = []
    for line in lines:
        for command in re.split(r"&&|;", re.sub(r"\$\w+", "1", line.partition(" # ")[0])):
            match = program.search(command)
            if match and "..." not in command and match[1] != "-m venv":
                found.append([match[1], *shlex.split(match[2])])
    return found


COMMANDS = [
    pytest.param(words, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, words in enumerate(commands(page), 1)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_are_understood(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, *arguments = words
    monkeypatch.chdir(tmp_path)
    if program == "train.py" and "--help" in arguments:
        assert arguments == ["--help"]
    elif program == "train.py":
        _, notes = parse(arguments)
        assert notes == []
    elif program == "sweep.py":
        assert sweep.main([*arguments, "--dry-run"]) == 0
    else:
        # Nothing is there to work on: every error but one of the command line itself is fine.
        main = MAINS[program.removeprefix("-m ")]
        assert main(arguments) != 0
        error = capsys.readouterr().err
        assert error
        assert "--help" not in error


def test_pages_have_commands_of_each_program() -> None:
    programs = {command.values[0][0] for command in COMMANDS}
    assert programs == {"train.py", "sweep.py", *(f"-m {module}" for module in MAINS)}
    assert len(COMMANDS) > 15


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    assert max(map(len, text.splitlines())) < 240


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_from_python_run_as_written(example: str, tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""


# What comes with a repository


@pytest.mark.parametrize(
    "name", [".github/workflows/tests.yml", ".pre-commit-config.yaml", "CITATION.cff"]
)
def test_files_are_valid_yaml(name: str) -> None:
    assert isinstance(yaml.safe_load((ROOT / name).read_text()), dict)


def test_the_hosted_workflow_runs_what_continuous_integration_runs() -> None:
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    assert "run: bash .ci/run" in workflow
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert re.search(r'python: \["([\d.]+)"', workflow)[1] == supported.removeprefix(">=")


def test_hooks_are_checks_of_the_tests() -> None:
    hooks = re.findall(r"entry: \.venv/bin/(.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    script = (ROOT / "run_tests.sh").read_text()
    assert hooks
    for hook in hooks:
        assert hook in script


def test_citation_and_changelog_are_of_this_version() -> None:
    import budgetbench

    version = budgetbench.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert "cff-version: 1.2.0" in citation
    assert f"\nversion: {version}\n" in citation
    assert citation.count("url: https://arxiv.org/abs/") == 2
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version

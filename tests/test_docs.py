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

from engine.flags import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += [*sorted(ROOT.glob("results/*.md")), ROOT / "benchmarks/README.md"]
FROM_PYTHON = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
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
    """Return the command lines of our programs on a page, those with gaps left out."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if "..." not in line]
    return [each for each in words if any(word.endswith(("train.py", "sweep.py")) for word in each)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_flags_that_exist(page: Path) -> None:
    from engine.sweep.options import build_parser as build_sweep_parser

    of_runs, of_sweeps = build_parser().known_flags(), build_sweep_parser().known_flags()
    for words in commands(page):
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        sweeps = any(word.endswith("sweep.py") for word in words)
        assert flags <= {*of_runs, *(of_sweeps if sweeps else ()), "--nproc-per-node"}, words


def test_pages_have_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 10


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    assert max(map(len, text.splitlines())) < 240


@pytest.mark.slow
@pytest.mark.parametrize("example", FROM_PYTHON, ids=range(len(FROM_PYTHON)))
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

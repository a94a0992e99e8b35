"""The package that other projects install, and the README's examples of its use, as written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `pip install .` has put the package, from a copy of what it is made of."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("package", "methods", "augmentations"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return target


def run(code: str, installed: Path, folder: Path) -> subprocess.CompletedProcess:
    """Run code in a folder from which nothing of the checkout can be imported."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_readme_has_an_example_of_each_sampler():
    text = "\n".join(EXAMPLES)
    for name in ("HardnessWeightedSampler(", "PSGDSampler(", "SelectiveBackpropSelector("):
        assert name in text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.search(r"(\w+)\(", text)[1])
def test_readme_example_runs_as_written(example, installed, tmp_path):
    result = run(example, installed, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_package_is_the_code_of_the_checkout_and_needs_nothing_else(installed, tmp_path):
    code = """
        import sys, budgetbench
        from budgetbench import methods
        strangers = ["torchvision", "pandas", "sklearn", "run", "trainer", "augmentations"]
        assert not set(strangers) & set(sys.modules), set(strangers) & set(sys.modules)
        assert budgetbench.HardnessWeightedSampler is methods.HardnessWeightedSampler
        assert all(getattr(budgetbench, name) is not None for name in budgetbench.__all__)
        print(budgetbench.__version__)
    """
    result = run("\n".join(line.strip() for line in code.splitlines()), installed, tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", result.stdout)
    for folder in ("methods", "methods/scores", "augmentations"):
        for path in (ROOT / folder).glob("*.py"):
            copy = installed / "budgetbench" / folder / path.name
            if path.name == "__main__.py":
                assert not copy.exists()
            else:
                assert copy.read_bytes() == path.read_bytes()


def test_every_module_of_the_package_can_be_imported(installed, tmp_path):
    """Where nothing of the checkout can: also those that no other module of it imports."""
    code = """
import importlib, pkgutil, sys, budgetbench
for module in pkgutil.walk_packages(budgetbench.__path__, "budgetbench."):
    importlib.import_module(module.name)
    print(module.name)
"""
    result = run(code, installed, tmp_path)
    assert result.returncode == 0, result.stderr
    files = (path.relative_to(installed) for path in installed.rglob("budgetbench/**/*.py"))
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    assert set(result.stdout.split()) == modules - {"budgetbench"}
    assert len(modules) > 20


def test_the_package_has_no_commands(installed):
    """None that `pip` makes, and none for `python -m`: they are the driver's."""
    assert not list(installed.rglob("__main__.py"))
    assert not list(installed.glob("bin/*"))
    assert not list(installed.rglob("entry_points.txt"))

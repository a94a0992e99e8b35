"""The library that other projects install, and the examples of its use in the documentation."""

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import budgetbench

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
#: Modules for another framework each, which the others do not import, and what they need.
ADAPTERS = {
    "nnunet": {"nnunetv2", "batchgenerators"},
    "lightning": {"lightning"},
    "transformers": {"transformers"},
    "monai": {"monai"},
}
EXAMPLES = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), start=1
    )
    if "budgetbench" in text  # others are of the driver
]
MODULES = [module.name for module in pkgutil.iter_modules(budgetbench.__path__, "budgetbench.")]
PUBLIC = [name for name in budgetbench.__all__ if name != "__version__"]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `pip install .` has put the package, from a copy of what it is made of."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "budgetbench", source / "budgetbench")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
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


# --- The documentation's examples ---


def test_documentation_has_an_example_of_each_sampler():
    text = "\n".join(example.values[0] for example in EXAMPLES)
    for name in ("HardnessWeightedSampler(", "PSGDSampler(", "SelectiveBackpropSelector("):
        assert name in text


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_example_of_the_documentation_runs_as_written(example, installed, tmp_path):
    result = run(example, installed, tmp_path)
    assert result.returncode == 0, result.stderr
    if not any(f"budgetbench.{name}" in example for name in ADAPTERS):  # frameworks talk
        assert result.stderr == ""


# --- The public names ---


def test_public_names_are_these():
    """A change here is a decision: a name taken away, or changed, breaks the code of users.

    The package's docstring says which number of the version has to go up with it.
    """
    assert budgetbench.__all__ == [
        "CSGDSampler",
        "HardnessWeightedSampler",
        "MixedBatch",
        "PSGDSampler",
        "SelectiveBackpropSelector",
        "__version__",
        "cutmix",
        "cvar_weights",
        "distance_to_median",
        "draw_without_replacement",
        "el2n",
        "entropy",
        "grand",
        "k_center",
        "margin",
        "mixup",
        "nearest_mean_subset",
        "per_image",
        "ricap",
        "unreduced",
    ]
    assert "__version__" not in PUBLIC
    for name in PUBLIC:
        assert re.search(rf"\b{name}\b", budgetbench.__doc__), f"the docstring has to name {name}"


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.filterwarnings("error")
def test_example_in_the_docstring_of_each_public_name_is_right(name):
    """With any seed: what is random in an example does not show."""
    public = getattr(budgetbench, name)
    module = sys.modules[public.__module__]
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    test = parser.get_doctest(inspect.getdoc(public), vars(module).copy(), name, None, 0)
    assert test.examples, "it needs an example"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        runner.run(test)
    assert runner.summarize(verbose=False) == (0, len(test.examples))


@pytest.mark.parametrize("name", MODULES)
def test_all_other_examples_in_docstrings_are_right(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


# --- What it needs ---


def imported(path: Path) -> set[str]:
    """First parts of the names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path.name} imports from above the package"
            names.add(node.module if node.level == 0 else "budgetbench")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted((ROOT / "budgetbench").rglob("*.py")), ids=lambda p: p.name)
def test_library_imports_pytorch_numpy_and_itself_alone(path):
    allowed = {"budgetbench", "numpy", "torch"} | ADAPTERS.get(path.stem, set())
    assert imported(path) <= allowed | sys.stdlib_module_names


def test_installed_package_is_the_code_of_the_checkout_and_needs_nothing_else(installed, tmp_path):
    code = """
import sys, budgetbench
strangers = ["torchvision", "pandas", "sklearn", "engine", "methods", "augmentations", "data"]
strangers += ["nnunetv2", "lightning", "transformers", "monai"]
assert not set(strangers) & set(sys.modules), set(strangers) & set(sys.modules)
assert all(getattr(budgetbench, name) is not None for name in budgetbench.__all__)
print(budgetbench.__version__)
"""
    result = run(code, installed, tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", result.stdout)
    for path in (ROOT / "budgetbench").rglob("*.py"):
        assert (installed / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


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
    assert set(result.stdout.split()) == modules - {"budgetbench"} == set(MODULES)
    assert len(modules) > 9


def test_the_package_is_all_that_is_installed_and_has_no_commands(installed):
    """None that `pip` makes, and none of the package itself: they are the driver's."""
    assert [path.name for path in installed.iterdir() if "dist-info" not in path.name] == [
        "budgetbench"
    ]
    assert not list(installed.rglob("__main__.py"))
    assert not list(installed.glob("bin/*"))
    assert not list(installed.rglob("entry_points.txt"))

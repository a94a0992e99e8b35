"""Parts of a user's own, in the place of registered ones: FILE.py:NAME or package.module:NAME."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from .source import ROOT

if TYPE_CHECKING:
    from .options import Option

#: Settings that take such a part, and what it has to be.
WANTED = {
    "method": "a class derived from methods.Method",
    "augmentation": "a class derived from augmentations.Augmentation",
    "dataset": "a function that returns a data.Dataset, or a data.Source",
    "model": "a function of channels, classes and (height, width) that returns a torch.nn.Module",
}
#: What many files call their part.
NAMELESS = {"load", "make"}
#: Parts seen so far in this process, for whose options there are flags: setting, name.
SEEN: dict[tuple[str, str], None] = {}
#: Folders of the files that were imported.
FOLDERS: set[Path] = set()


def is_own(name: object) -> bool:
    """Return whether a name is of the form, be there such a part or not."""
    return isinstance(name, str) and re.fullmatch(r"(?s:.+\.py|[\w.]+):\w*", name) is not None


def label(name: str) -> str:
    """Return what folders, tables and figures call a part: without its file.

    Or by its file, where its own name is one that says nothing.
    """
    if not is_own(name):
        return name
    where, _, own_name = name.rpartition(":")
    stem = Path(where).stem if where.endswith(".py") else where.rpartition(".")[2]
    return stem if own_name in NAMELESS else own_name


def canonical(text: str) -> str:
    """Return a part's name with the file's absolute path; a ValueError for no such form."""
    where, _, name = text.rpartition(":")
    if not where or not name.isidentifier():
        raise ValueError(f"{text!r} is not FILE.py:NAME or package.module:NAME")
    return f"{Path(where).expanduser().absolute()}:{name}" if where.endswith(".py") else text


def canonical_or_same(name: str) -> str:
    return canonical(name) if is_own(name) else name


def note(axis: str, name: str) -> None:
    """Import a part and remember it, so that its options become flags; a ValueError as `load`."""
    if is_own(name):
        name = canonical(name)
        load(axis, name)
        SEEN[axis, name] = None


def options(axis: str) -> dict[str, Mapping[str, Option]]:
    """Return the options of the parts seen so far, by their names."""
    from .options import options_of

    return {name: options_of(load(seen, name)) for seen, name in SEEN if seen == axis}


def load(axis: str, name: str) -> Any:
    """Import a part.

    Args:
        axis: the setting that it is given for.
        name: of the part, as `canonical` returns it.

    Raises:
        ValueError: in one line, for a file or name that is not there, code that fails, and what is
            not `WANTED`.
    """
    where, _, attribute = name.rpartition(":")
    try:
        module = imported(where).module
    except Exception as error:  # whatever a user's code raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{name}: cannot be imported ({reason}); mend it") from error
    if not hasattr(module, attribute):
        raise ValueError(f"{name}: no {attribute} in {where}; it has to be {WANTED[axis]}")
    part = getattr(module, attribute)
    if not fits(axis, part):
        raise ValueError(f"{name}: not {WANTED[axis]}")
    return part


class Imported(NamedTuple):
    """A user's own module, its file, and a digest of that and of what it imported beside it."""

    module: ModuleType
    file: Path
    sha256: str


@functools.cache
def imported(where: str) -> Imported:
    """Import a file, which may import others beside it, or a module by its name."""
    if not where.endswith(".py"):
        module = importlib.import_module(where)
        return Imported(module, path := Path(inspect.getfile(module)), digest_of(path))
    path = Path(where)
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError("no such file")
    module = importlib.util.module_from_spec(spec)
    beside = helpers(path)
    digests = [digest_of(file) for file in (path, *beside)]
    sys.modules[spec.name] = module  # as annotations and pickles look it up there
    for file in beside:
        known = getattr(sys.modules.get(file.stem), "__file__", None)
        if known and Path(known) != file and Path(known).parent in FOLDERS:
            del sys.modules[file.stem]  # another part's file of that name
    # After the project, whose modules have names such as `data`.
    place = sys.path.index(str(ROOT)) + 1 if str(ROOT) in sys.path else 0
    sys.path.insert(place, str(path.parent))
    FOLDERS.add(path.parent)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    sha256 = hashlib.sha256("".join(digests).encode()).hexdigest() if beside else digests[0]
    return Imported(module, path, sha256)


def helpers(path: Path) -> list[Path]:
    """The files beside a part's that it imports, and that these import, in order of their names."""
    found: set[Path] = set()
    waiting = [path] if path.parent != ROOT else []
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            files = {path.parent / f"{name.partition('.')[0]}.py" for name in names}
            new = {file for file in files - found - {path} if file.is_file()}
            found |= new
            waiting += new
    return sorted(found)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fits(axis: str, part: Any) -> bool:
    if axis == "method":
        from methods import Method

        return inspect.isclass(part) and issubclass(part, Method)
    if axis == "augmentation":
        from augmentations import Augmentation

        return inspect.isclass(part) and issubclass(part, Augmentation)
    if axis == "dataset":
        from data import Source

        return isinstance(part, Source) or inspect.isfunction(part)
    return callable(part)


def facts(axis: str, name: str) -> dict[str, Any]:
    """Return what config.json keeps of a part: its file, the file's SHA-256, default options."""
    _, path, sha256 = imported(name.rpartition(":")[0])
    known: dict[str, Any] = {"file": str(path), "sha256": sha256}
    if axis in ("method", "augmentation"):
        from .options import options_of

        declared = options_of(load(axis, name))
        known["defaults"] = {key: option.default for key, option in declared.items()}
    return known

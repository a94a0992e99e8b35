"""Lists of the parts that there are: names, what they are, options and where they come from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from methods.scores import SCORES

from .config import RESNETS
from .flags import flag_of
from .options import options_of

PAPER = re.compile(r"[A-Z][\w-]+(?: (?:et al\.|and|&) ?[A-Z]?[\w-]*)? \d{4}")


def list_parts(kind: str) -> str:
    """Return a line for each part of a kind of `flags.LISTS`."""
    rows = list(rows_of(kind))
    width = max(len(name) for name, *_ in rows)
    lines = []
    for name, text, options, paper in rows:
        line = f"{name:<{width}}  {text}"
        line += f"  [{', '.join(options)}]" if options else ""
        lines.append(line + (f"  ({paper})" if paper else ""))
    return "\n".join(lines)


def rows_of(kind: str) -> Iterator[tuple[str, str, list[str], str]]:
    """Name, what it is, flags of its options, and paper, of each part."""
    if kind == "models":
        for name, (depths, width) in RESNETS.items():
            yield name, f"ResNet of {depths} blocks, base width {width}", [], "He et al. 2016"
        yield "...", "any network of timm by its name, or FILE.py:FUNCTION", [], ""
        return
    if kind == "scores":
        yield from ((name, text, [], "") for name, text in SCORES.items())
        return
    for name, part in registry_of(kind).items():
        documented = part if inspect.isclass(part) or inspect.isfunction(part) else part.load
        text = inspect.getdoc(documented) or ""
        module = inspect.getmodule(documented)
        if kind == "datasets" and module:
            text = f"{inspect.getdoc(module) or ''}\n{text}"
            name += f":{part.argument}" if part.argument else ""
        options = options_of(part) if inspect.isclass(part) else {}
        flags = [flag_of(option) for option in options]
        papers = PAPER.findall(text) or PAPER.findall(inspect.getdoc(module) or "")
        yield name, text.split("\n")[0], flags, papers[0] if papers else ""


def registry_of(kind: str) -> dict[str, Any]:
    if kind == "methods":
        from methods import METHODS

        return METHODS
    if kind == "augmentations":
        from augmentations import AUGMENTATIONS

        return dict(AUGMENTATIONS)
    from data import DATASETS

    return dict(DATASETS)

"""Make the tables and figures of the finished runs in a results folder.

python -m plots [RESULTS_DIR]

Or another command: python -m plots report, leaderboard, list, compare, pack, correlations,
published, gains.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.values import closest
from errors import UsageError, say

from . import correlations, gains, packing, published, report, shell
from .command import run_command
from .figures import KINDS, save_figures
from .study import Study, summarise, summarise_differences
from .tables import latex, markdown, markdown_costs

COMMANDS = {
    "report": report.main,
    "leaderboard": shell.leaderboard,
    "list": shell.list_runs,
    "compare": shell.compare,
    "pack": packing.main,
    "correlations": correlations.main,
    "published": published.main,
    "gains": gains.main,
}
DESCRIPTION = (
    "Write RESULTS_DIR/summary.csv, differences.csv, tables.md, tables.tex, costs.md and figures/ "
    "from the finished runs in RESULTS_DIR. Other commands, each with --help: report, one page for "
    "a browser; leaderboard; list; compare RUN RUN; pack FOLDER; published, published differences "
    "next to measured ones; gains, gain over uniform sampling against training accuracy; "
    "correlations FILE, between scores. Claims: python -m plots.claims. A results folder with the "
    "name of a command is ./NAME."
)


def make_all(study: Study, results: Path) -> None:
    """Write tables and figures, and show the Markdown."""
    summarise(study).to_csv(results / "summary.csv", index=False)
    summarise_differences(study).to_csv(results / "differences.csv", index=False)
    text = markdown(study)
    (results / "tables.md").write_text(text, encoding="utf-8")
    (results / "costs.md").write_text(markdown_costs(study), encoding="utf-8")
    (results / "tables.tex").write_text(latex(study), encoding="utf-8")
    print(text)
    print(
        f"summary.csv, differences.csv, tables.md, tables.tex and costs.md: {results}", flush=True
    )
    plotted: list[Path] = []
    for kind in KINDS:
        stems, gaps = save_figures(study, kind, results / "figures")
        plotted += stems
        for gap in gaps:
            say(f"note: {gap}")
    print(f"{len(plotted)} figures, each as PNG and PDF: {results / 'figures'}")
    others = {path.name for path in results.glob("figures/*.p[nd][gf]")} - {
        f"{stem.name}.{ending}" for stem in plotted for ending in ("png", "pdf")
    }
    if others:
        say(
            f"note: {results / 'figures'}: {len(others)} files are not of these runs, such as "
            f"{min(others)}; remove what you do not need"
        )


def main(arguments: list[str]) -> int:
    for name, command in COMMANDS.items():
        if arguments[:1] == [name]:
            return command(arguments[1:])
    if arguments and not Path(arguments[0]).exists() and (meant := closest(arguments[0], COMMANDS)):
        say(f"python -m plots: no folder or command {arguments[0]}{meant}")
        return UsageError.exit_status
    return run_command("plots", DESCRIPTION, make_all, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

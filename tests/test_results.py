"""The results that are reported, against the runs that they are of."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT

from engine.runs import find_runs
from plots.claims import report
from plots.study import read_study, summarise, summarise_differences
from plots.tables import latex, markdown, markdown_costs

RESULTS = ROOT / "results"
REPORTED = (
    "by_heart",
    "cpu",
    "fresh",
    "lengths",
    "long",
    "priming",
    "regimes",
    "rivals",
    "robustness",
    "tuned",
)
RUNS = dict(cpu=243, lengths=7, long=45, priming=9, rivals=216, robustness=33, scoring=2)
RUNS |= dict(by_heart=33, fresh=18, regimes=8, scores=3, tuned=36)
AUGMENTED = ("| standard ", "| mixup ", "| ricap ", "| randaugment ")  # how rows of tables begin


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_packed_whole(name: str) -> None:
    runs, faults = find_runs(RESULTS / name)
    assert not faults
    assert len(runs) == RUNS[name]
    for run in runs:
        assert run.status() == "finished"
        config = run.config()
        assert len(run.curve(config)) == config.settings["epochs"]
        classes = run.table("per_class.csv").records()
        assert len(classes) == run.content()["num_classes"]
        assert sum(int(row["train_count"]) for row in classes) == config.num_images


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTED)
def test_what_is_reported_is_what_the_runs_say(name: str) -> None:
    folder = RESULTS / name
    study = read_study(folder)
    assert (folder / "tables.md").read_text() == markdown(study)
    assert (folder / "tables.tex").read_text() == latex(study)
    assert (folder / "costs.md").read_text() == markdown_costs(study)
    claims = folder / "claims.txt"
    assert not claims.exists() or claims.read_text() == f"{report(study)}\n"
    for file, table in (
        ("summary.csv", summarise(study)),
        ("differences.csv", summarise_differences(study)),
    ):
        again = pd.read_csv(StringIO(table.to_csv(index=False)))
        pd.testing.assert_frame_equal(pd.read_csv(folder / file), again, rtol=1e-9)


def rows(*files: Path) -> list[str]:
    """The rows of results in the tables of some Markdown files."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if line.startswith(AUGMENTED)]


def test_tables_of_the_findings_are_those_of_the_runs() -> None:
    made = {*rows(*RESULTS.glob("*/tables.md"), *RESULTS.glob("*/costs.md"))}
    told = rows(*RESULTS.glob("*.md"), ROOT / "README.md")
    assert len(told) > 50
    assert [row for row in told if row not in made] == []

"""The page of results, in a real browser where one is installed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Completed

from plots.__main__ import main as plots_main
from plots.report import WATCH_SECONDS, page, reached, state_of
from plots.study import read_study
from plots.tables import EMPTY

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
LARGEST = 6_000_000  # bytes


def content_of(text: str) -> dict[str, Any]:
    (line,) = re.findall(r"^const DATA = (.*);$", text, re.MULTILINE)
    return json.loads(line)


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all committed studies."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert plots_main(["report", str(ROOT / "results"), "--out", str(out)]) == 0
    return out


def test_the_numbers_are_those_of_the_tables(committed: Path) -> None:
    from plots.study import summarise

    content = content_of(committed.read_text())
    cells = [cell for setup in content["setups"] for cell in setup["cells"]]
    summary = summarise(read_study(ROOT / "results"))
    assert len(cells) == len(summary)
    means = [cell["mean"] for cell in cells]
    np.testing.assert_allclose(means, summary["test_accuracy_mean"], atol=6e-4)
    assert [cell["n"] for cell in cells] == summary["n"].tolist()
    assert all(run["command"].startswith("python train.py") for run in content["runs"][:5])


def test_the_page_is_small_and_asks_for_nothing(committed: Path) -> None:
    text = committed.read_text()
    assert len(text.encode()) < LARGEST
    ours = text.replace(text[text.index("<script>") : text.index("const DATA")], "")
    assert not re.findall(r'(?:src|href)="(?!data:,")', ours)


def test_cost_to_a_target_is_the_mean_of_the_first_times() -> None:
    rows = pd.DataFrame(
        {
            "run": [1, 1, 1, 2, 2, 2],
            "test_accuracy": [50, 80, 90, 70, np.nan, 85],
            "step": [10, 20, 30, 10, 20, 30],
            "images_processed": [1, 2, 3, 1, 2, 3],
            "seconds": [1.0, 2, 3, 1, 2, 3],
        }
    )
    assert reached(rows, 75) == {"step": 25, "images": 2.5, "seconds": 2.5}
    assert reached(rows, 88) is None, "one seed does not get there"
    assert reached(rows, float("nan")) is None, "there is no full training"


def test_a_name_cannot_end_the_script(
    train_here: Callable[..., Completed], main_here: Callable[..., Completed]
) -> None:
    words = ("--epochs", 1, "--model", "resnet10-w8", "--device", "cpu")
    assert train_here(*words, "--experiment-name", "a</script><b>").returncode == 0
    text = page(read_study(Path("results")), Path("results"))
    assert content_of(text)["runs"][0]["folder"] == "a</script><b>"
    assert "a</script><b>" not in text


def test_watching_notices_that_a_run_went_on(make_run: Callable[..., Path]) -> None:
    words = ("--epochs", 1, "--model", "resnet10-w8", "--device", "cpu")
    make_run("one", *words)
    before = state_of(Path("results"))
    assert state_of(Path("results")) == before
    make_run("two", *words)
    assert state_of(Path("results")) != before
    assert WATCH_SECONDS > 0


def test_a_damaged_table_is_told_in_one_line(make_run, main_here) -> None:
    make_run("one", "--epochs", 1, "--model", "resnet10-w8", "--device", "cpu")
    Path("results/one/per_class.csv").write_text("class,class\n")
    outcome = main_here(plots_main, "report", "results")
    assert outcome.returncode == 2
    (line,) = outcome.stderr.splitlines()
    assert "per_class.csv" in line


def test_a_folder_without_runs_is_told(main_here: Callable[..., Completed]) -> None:
    for folder in (".", "nowhere"):
        outcome = main_here(plots_main, "report", folder)
        assert outcome.returncode == 2
        assert folder in outcome.stderr


# --- In a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("needs Chromium (apt install chromium)")
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as started:
        # In a container, as root, Chromium has no sandbox.
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def one_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a committed study of two data sets."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert plots_main(["report", str(ROOT / "results/cpu"), "--out", str(out)]) == 0
    return out


@pytest.fixture(params=["desktop", "narrow"])
def shown(browser: Any, one_study: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """That page, at whose end nothing was asked for or complained of."""
    width, height = (1440, 900) if request.param == "desktop" else (390, 844)
    tab = browser.new_page(viewport={"width": width, "height": height})
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(one_study.as_uri())
    tab.wait_for_selector("#board tbody tr")
    yield tab
    assert said == []
    assert asked == [one_study.as_uri()]
    tab.close()


def column(tab: Any, number: int) -> list[str]:
    return tab.locator(f"#board tbody tr td:nth-child({number})").all_inner_texts()


@pytest.mark.slow
def test_filters_choose_rows(shown: Any) -> None:
    assert set(column(shown, 2)) == {"standard"}
    shown.select_option("#augmentation", "ricap")
    assert set(column(shown, 2)) == {"ricap"}
    shown.select_option("#augmentation", "all")
    shown.select_option("#budget", "all")
    everything = len(column(shown, 1))
    assert everything > 40
    shown.get_by_role("button", name="dro", exact=True).click()
    assert "dro" not in column(shown, 1)
    assert len(column(shown, 1)) < everything
    title = shown.inner_text("#explain")
    shown.select_option("#setup", "1")
    assert shown.inner_text("#explain") != title


@pytest.mark.slow
def test_a_click_on_a_heading_sorts(shown: Any) -> None:
    accuracies = [float(text) for text in column(shown, 4)]
    assert accuracies == sorted(accuracies, reverse=True)
    shown.locator("#board th", has_text="accuracy").first.click()
    assert [float(text) for text in column(shown, 4)] == sorted(accuracies)
    shown.locator("#board th", has_text="method").click()
    assert column(shown, 1) == sorted(column(shown, 1), key=str.lower)


@pytest.mark.slow
def test_a_point_says_its_numbers_when_the_mouse_is_over_it(shown: Any) -> None:
    point = shown.locator("#budgets .scatterlayer .point").first
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    shown.wait_for_selector("#budgets .hoverlayer .hovertext")
    assert "budget" in shown.locator("#budgets .hoverlayer .hovertext").first.text_content()


@pytest.mark.slow
def test_every_chart_is_drawn_within_the_window(shown: Any) -> None:
    assert "12 of 14 cells" in shown.locator("#left").inner_text()
    assert "unif-SGD" in shown.evaluate("document.querySelector('#bars').data[0].name")
    for chart in ("budgets", "costs", "differences", "bars"):
        assert shown.locator(f"#{chart} .js-line, #{chart} .point").count() > 0
    widths = shown.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    shown.select_option("#budget", "all")
    assert any(text != EMPTY for text in shown.locator("#times td:nth-child(4)").all_inner_texts())
    shown.fill("#search", "dro")
    folders = shown.locator("#runs summary").all_inner_texts()
    assert folders
    assert all("dro" in folder for folder in folders)


@pytest.mark.slow
def test_light_and_dark(shown: Any) -> None:
    colours = []
    for _ in range(2):
        colours.append(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
        shown.click("#theme")
    assert colours[0] != colours[1]

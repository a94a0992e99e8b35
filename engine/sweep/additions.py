"""Files that flags ask for now and that finished runs lack: added, or reported."""

from __future__ import annotations

from collections.abc import Iterable

from errors import UsageError

from ..config_file import BadRun
from ..run_folder import SCORES_FILE
from .runs import Run


def lacks_scores(run: Run) -> bool:
    """Return whether a run has finished without the scores that --record asks for."""
    wanted = run.settings["record"]
    if not wanted or run.status() != "finished":
        return False
    from methods.scores import ScoreFile  # which imports PyTorch

    try:
        file = ScoreFile.read(run.path / SCORES_FILE)
    except ValueError:
        return True
    epochs = {source.get("settings", {}).get("record_epochs") for source in file.sources}
    other_epochs = "el2n" in wanted and epochs != {run.settings["record_epochs"]}
    return other_epochs or not file.values.keys() >= set(wanted)


def add_boards(runs: Iterable[Run]) -> None:
    """Make TensorBoard's files of finished runs that have none, from their curves.

    Raises:
        UsageError: when TensorBoard is not installed, and for a damaged curve.
    """
    made = 0
    for run in runs:
        if "tensorboard" not in (run.settings["log"] or ()) or run.status() != "finished":
            continue
        from ..trackers.tensorboard import EVENTS, Board  # which imports PyTorch

        if any(run.path.glob(EVENTS)):
            continue
        board = Board(run.path)
        stored = run.stored()
        try:
            rows = [numbers(row) for row in stored.curve_rows()]
        except (BadRun, ValueError, TypeError, AttributeError):
            raise UsageError(
                f"{stored.where('curve.csv')}: damaged; delete {stored.deletion} to make the run "
                "again"
            ) from None
        board.restart(rows)
        board.close("finished")
        made += 1
    if made:
        print(f"TensorBoard files made from the curves of {made} finished runs", flush=True)


def numbers(row: dict[str, str]) -> dict[str, float]:
    """A row of a curve, without what --eval-every left out."""
    values = {name: float(value) for name, value in row.items() if value != ""}
    return values | {"step": int(values["step"])}

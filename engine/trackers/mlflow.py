"""The rows of the curve in MLflow, at MLFLOW_TRACKING_URI or where MLflow keeps its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

EXPERIMENT = "budgetbench"
STATUS = {"finished": "FINISHED", "interrupted": "KILLED"}  # else FAILED
KEPT = "mlflow-run"  # in the run's folder: the name of its run there


class MLflow:
    """A run there for the run's folder, which a run that is resumed goes on with."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.client, file = MlflowClient(), folder / KEPT
        self.last_step = -1  # that is there already
        try:
            self.run = self.client.get_run(file.read_text().strip()).info.run_id
            steps = [metric.step for metric in self.client.get_metric_history(self.run, "epoch")]
            self.last_step = max(steps, default=-1)
        except (OSError, MlflowException):
            found = self.client.get_experiment_by_name(EXPERIMENT)
            place = found.experiment_id if found else self.client.create_experiment(EXPERIMENT)
            self.run = self.client.create_run(place, run_name=folder.name).info.run_id
            params = [Param(name, str(value)) for name, value in settings.items()]
            self.client.log_batch(self.run, params=params)
            file.write_text(f"{self.run}\n")

    def restart(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        if int(row["step"]) <= self.last_step:
            return  # it was made, and shown, before a resumption
        metrics = [
            Metric(name, float(row[name]), 0, int(row["step"])) for name in row.keys() - {"step"}
        ]
        self.client.log_batch(self.run, metrics=metrics)

    def close(self, status: str | None) -> None:
        self.client.set_terminated(self.run, STATUS.get(status or "", "FAILED"))


def open(folder: Path, settings: Mapping[str, Any]) -> MLflow:
    return MLflow(folder, settings)

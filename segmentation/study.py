"""Train nnU-Net with and without hardness weighted sampling on the hippocampus of the Decathlon.

    python -m segmentation.study Task04_Hippocampus

It converts and preprocesses the cases, makes the runs that are not made yet, `--jobs` at a time,
and collects the Dice of every case in `results/hippocampus`. Started again it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from engine.flags import Parser
from engine.source import ROOT, processor_name
from engine.values import number
from errors import Failed, UsageError, exit_status_of

from .shift import shifted

TRAINERS = {
    "default": "nnUNetTrainerShort",
    "beta 1": "nnUNetTrainerShort_beta1",
    "beta 10": "nnUNetTrainerShort_beta10",
    "beta 100": "nnUNetTrainerShort_beta100",
    "beta 10, importance": "nnUNetTrainerShort_importance",
}
SHIFTED_TRAINERS = ("default", "beta 10", "beta 100")
FOLDS = (0, 1, 2)
PLAIN, MINORITY = "Dataset904_Hippocampus", "Dataset905_HippocampusShifted"
STUDIES = {PLAIN: "as they are", MINORITY: "10% shifted"}
SHARE = 0.1  # of the training cases of a fold, that are shifted
SEED = 4
SUFFIX = "_shifted"


@dataclass(frozen=True)
class Run:
    """One training and its validation."""

    KEY: ClassVar = ("study", "trainer", "fold")
    dataset: str
    trainer: str
    fold: int

    def names(self) -> dict[str, Any]:
        """Its place in the tables, by `KEY`."""
        return dict(zip(self.KEY, (STUDIES[self.dataset], self.trainer, self.fold)))

    def folder(self, home: Path) -> Path:
        name = f"{TRAINERS[self.trainer]}__nnUNetPlans__3d_fullres"
        return home / "results" / self.dataset / name / f"fold_{self.fold}"

    def command(self, home: Path, device: str) -> list[str]:
        command = ["nnUNetv2_train", self.dataset, "3d_fullres", str(self.fold)]
        command += ["-tr", TRAINERS[self.trainer], "-device", device]
        # Without a checkpoint nnU-Net begins anew, and says so.
        return [*command, "--c"] if self.folder(home).exists() else command

    def made(self, home: Path) -> bool:
        return (self.folder(home) / "validation" / "summary.json").exists()


def runs() -> list[Run]:
    """All runs, fold by fold, so that whatever is finished compares trainers on the same cases."""
    return [
        Run(dataset, trainer, fold)
        for fold in FOLDS
        for dataset, trainers in ((PLAIN, TRAINERS), (MINORITY, SHIFTED_TRAINERS))
        for trainer in trainers
    ]


# --- The data sets ---


def environment(home: Path, threads: int) -> dict[str, str]:
    """Where nnU-Net has its files and finds the trainers."""
    paths = {
        "nnUNet_raw": home / "raw",
        "nnUNet_preprocessed": home / "preprocessed",
        "nnUNet_results": home / "results",
        "nnUNet_extTrainer": ROOT / "segmentation" / "trainers",
    }
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        paths[name].mkdir(parents=True, exist_ok=True)
    own = {name: str(path) for name, path in paths.items()}
    own |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | own


def prepare(source: Path, home: Path, env: dict[str, str]) -> None:
    """Make both data sets of the Decathlon's folder, unless they are there."""
    plain, minority = (home / "raw" / name for name in (PLAIN, MINORITY))
    if not (home / "preprocessed" / PLAIN / "splits_final.json").exists():
        convert(source, plain)
        preprocess(904, env)
        write_splits(plain, home)
    if not (home / "preprocessed" / MINORITY / "splits_final.json").exists():
        add_shifted(plain, minority)
        preprocess(905, env)
        # Twice the images would have made nnU-Net plan larger batches.
        plans = [home / "preprocessed" / name / "nnUNetPlans.json" for name in STUDIES]
        same, other = (json.loads(path.read_text()) for path in plans)
        batch_size = same["configurations"]["3d_fullres"]["batch_size"]
        other["configurations"]["3d_fullres"]["batch_size"] = batch_size
        plans[1].write_text(json.dumps(other))
        write_splits(plain, home)  # last, because by these a set counts as made


def convert(source: Path, target: Path) -> None:
    """Copy the Decathlon's training cases to nnU-Net's layout."""
    if not (source / "dataset.json").exists():
        raise UsageError(
            f"{source}: no dataset.json; give the Decathlon's folder Task04_Hippocampus "
            "(medicaldecathlon.com)"
        )
    described = json.loads((source / "dataset.json").read_text())
    shutil.rmtree(target, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in source.glob("labelsTr/h*.nii.gz"))
    for case in cases:
        shutil.copy(source / f"imagesTr/{case}.nii.gz", target / f"imagesTr/{case}_0000.nii.gz")
        shutil.copy(source / f"labelsTr/{case}.nii.gz", target / "labelsTr")
    labels = {name: int(label) for label, name in described["labels"].items()}
    write_description(target, labels, len(cases))


def add_shifted(plain: Path, target: Path) -> None:
    """The same cases, and each once more as of another scanner."""
    import SimpleITK

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(plain, target)
    for place, case in enumerate(cases_of(plain)):
        image = SimpleITK.ReadImage(plain / f"imagesTr/{case}_0000.nii.gz")
        array = shifted(SimpleITK.GetArrayFromImage(image), np.random.default_rng((SEED, place)))
        other = SimpleITK.GetImageFromArray(array)
        other.CopyInformation(image)
        SimpleITK.WriteImage(other, target / f"imagesTr/{case}{SUFFIX}_0000.nii.gz")
        labels = target / "labelsTr"
        shutil.copy(labels / f"{case}.nii.gz", labels / f"{case}{SUFFIX}.nii.gz")
    labels = json.loads((plain / "dataset.json").read_text())["labels"]
    write_description(target, labels, 2 * len(cases_of(plain)))


def write_description(folder: Path, labels: dict[str, int], cases: int) -> None:
    described = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": cases}
    (folder / "dataset.json").write_text(json.dumps(described | {"file_ending": ".nii.gz"}))


def cases_of(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir())


def preprocess(number: int, env: dict[str, str]) -> None:
    command = ["nnUNetv2_plan_and_preprocess", "-d", str(number), "-c", "3d_fullres"]
    result = subprocess.run(
        [*command, "-np", "2", "-npfp", "2"], env=env, capture_output=True, text=True
    )
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["nothing said"]
        raise Failed(f"{' '.join(command)} failed: {said[-1]}")


def write_splits(plain: Path, home: Path) -> None:
    """The same five folds of both data sets, those of nnU-Net.

    In the second, 10% of a fold's training cases are there as of another scanner only, and each of
    its other cases both ways.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    splits = generate_crossval_split(cases_of(plain), seed=12345, n_splits=5)
    other = []
    for fold, split in enumerate(splits):
        train, val = map(list, (split["train"], split["val"]))
        rng = np.random.default_rng((SEED, 1000 + fold))
        chosen = set(rng.choice(train, round(SHARE * len(train)), replace=False).tolist())
        other.append(
            {
                "train": [case + SUFFIX * (case in chosen) for case in train],
                "val": [*val, *(case + SUFFIX for case in val)],
            }
        )
    for name, content in ((PLAIN, splits), (MINORITY, other)):
        folder = home / "preprocessed" / name
        if folder.exists():
            (folder / "splits_final.json").write_text(json.dumps(content, default=list))


# --- Runs and what they found ---


def make(run: Run, home: Path, env: dict[str, str], device: str) -> None:
    """Make one run, its output in a file beside it."""
    folder = run.folder(home)
    command = run.command(home, device)
    folder.mkdir(parents=True, exist_ok=True)
    # Worker processes win nothing on a CPU of which every core computes.
    env = env | ({"nnUNet_n_proc_DA": "0"} if device == "cpu" else {})
    began = time.monotonic()
    with (folder / "output.txt").open("a") as output:
        result = subprocess.run(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    seconds = time.monotonic() - began
    if result.returncode or not run.made(home):
        print(f"failed: {' '.join(command)}: see {output.name}", file=sys.stderr)
        return
    (folder / "seconds.txt").open("a").write(f"{seconds:.0f}\n")
    print(f"{seconds / 60:.0f} min: {STUDIES[run.dataset]}, {run.trainer}, fold {run.fold}")


def dice(run: Run, home: Path) -> Iterator[dict]:
    """The Dice of each case and label of a run's validation."""
    summary = json.loads((run.folder(home) / "validation" / "summary.json").read_text())
    for entry in summary["metric_per_case"]:
        case = Path(entry["prediction_file"]).name.removesuffix(".nii.gz")
        for label, metrics in entry["metrics"].items():
            yield run.names() | {
                "case": case.removesuffix(SUFFIX),
                "image": "shifted" if case.endswith(SUFFIX) else "plain",
                "label": int(label),
                "dice": round(metrics["Dice"], 5),
            }


def epochs(run: Run, home: Path) -> Iterator[dict]:
    """What was drawn in each epoch of a run with hardness weighting."""
    file = run.folder(home) / "sampling.csv"
    for row in pd.read_csv(file).to_dict("records") if file.exists() else ():
        yield run.names() | row


def training(run: Run, home: Path) -> Iterator[dict]:
    """How long a run took, and on what."""
    file = run.folder(home) / "seconds.txt"
    seconds = sum(map(int, file.read_text().split())) if file.exists() else None
    yield run.names() | {"seconds": seconds, "processor": processor_name()}


#: File -> its rows of a run. The first says which runs are made.
FOUND = {"dice.csv": dice, "sampling.csv": epochs, "trainings.csv": training}


def found(results: Path, name: str) -> pd.DataFrame:
    """A file's rows so far, which may be of runs that are not in nnU-Net's folders any more."""
    try:
        return pd.read_csv(results / name)
    except (OSError, pd.errors.EmptyDataError):
        return pd.DataFrame(columns=[*Run.KEY])


def made(home: Path, results: Path) -> set[Run]:
    """The runs that are finished, in nnU-Net's folders or in the results."""
    known = set(found(results, "dice.csv")[[*Run.KEY]].itertuples(index=False, name=None))
    return {run for run in runs() if run.made(home) or tuple(run.names().values()) in known}


def collect(home: Path, results: Path) -> None:
    """Write what all finished runs found."""
    here = [run for run in runs() if run.made(home)]
    if not here:
        return
    results.mkdir(parents=True, exist_ok=True)
    anew = pd.DataFrame([run.names() for run in here])
    for name, rows_of in FOUND.items():
        rows = pd.DataFrame([row for run in here for row in rows_of(run, home)])
        old = found(results, name).merge(anew, how="left", indicator=True)
        old = old[old.pop("_merge") == "left_only"]
        if parts := [part for part in (old, rows) if len(part)]:
            pd.concat(parts).to_csv(results / name, index=False)


def build_parser() -> Parser:
    parser = Parser(prog="python -m segmentation.study", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "source",
        type=Path,
        metavar="FOLDER",
        help="Task04_Hippocampus of the Medical Segmentation Decathlon (medicaldecathlon.com), "
        "unpacked",
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=Path("datasets/nnunet"),
        metavar="DIR",
        help="for nnU-Net's own files [default: datasets/nnunet]",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results/hippocampus"),
        metavar="DIR",
        help="for what is found [default: results/hippocampus]",
    )
    parser.add_argument(
        "--jobs",
        type=number(int, low=1, high=64),
        default=1,
        metavar="N",
        help="runs at once, which share the cores [default: 1]",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="[default: cpu]")
    parser.add_argument("--dry-run", action="store_true", help="only print the runs")
    return parser


def main(arguments: list[str]) -> int:
    def work() -> int:
        return study(build_parser().parse_args(arguments))

    return exit_status_of("python -m segmentation.study", work)


def study(options: argparse.Namespace) -> int:
    """Make what is left to make; the exit status is 1 if a run failed."""
    home = options.home.absolute()
    done = made(home, options.results)
    waiting = [run for run in runs() if run not in done]
    print(f"{len(runs())} runs, {len(waiting)} left to make", flush=True)
    if options.dry_run:
        for run in waiting:
            print(f"cases {STUDIES[run.dataset]}, {run.trainer}, fold {run.fold}")
        return 0
    env = environment(home, max(1, (os.cpu_count() or 1) // options.jobs))
    prepare(options.source, home, env)
    collect(home, options.results)

    collecting = threading.Lock()

    def make_and_collect(run: Run) -> None:
        make(run, home, env, options.device)
        with collecting:
            collect(home, options.results)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(make_and_collect, waiting))
    return int(len(made(home, options.results)) < len(runs()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

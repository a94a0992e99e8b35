"""Hostile input by the hundred: each case is refused in one line, and leaves the disk as it was.

A case is a command line of one of the programs, and what is made of the disk or the environment
before it. All are run in this process, because importing PyTorch takes longer than all of them.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import small_files
import torch
from conftest import Completed

import sweep
from data import DATASETS
from engine import checkpoint
from engine.flags import build_parser
from engine.flags import main as train_main
from engine.run_folder import FILES, RunFolder
from engine.scores import main as make_scores
from methods.scores import ScoreFile, digest
from plots.__main__ import main as plot
from plots.claims import main as judge_claims

pytestmark = pytest.mark.usefixtures("one_thread")
MAINS = {
    "train.py": train_main,
    "sweep.py": sweep.main,
    "plots": plot,
    "plots.claims": judge_claims,
    "engine.scores": make_scores,
}
SHORT = ["--epochs", "3", "--budget", "0.2", "--batch-size", "32", "--device", "cpu"]
MANY = "9" * 5000  # digits that Python refuses to read as one number


class Case(NamedTuple):
    """A command line, and what the one line of error has to name."""

    program: str
    words: list[str]
    named: str
    prepare: Callable[[], object] = lambda: None  # in the folder of the case
    environment: tuple[tuple[str, str], ...] = ()
    status: int = 2


CASES: dict[str, Case] = {}


def add(name: str, *case: object, **more: object) -> None:
    assert name not in CASES, name
    CASES[name] = Case(*case, **more)


def write(path: str, content: str | bytes = b"") -> Callable[[], object]:
    def prepare() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


# Command lines of train.py: every flag that takes a number, whoever declares it.


def wants_number(convert: Callable[[str], object] | None) -> bool:
    try:
        return convert is not None and convert("no number") and False
    except Exception as error:
        return " number" in str(error)


for action in build_parser()._actions:
    flag = action.option_strings[-1]
    if wants_number(action.type):
        for value in ("", "nan", "-1e9", "1,5", MANY):
            add(f"{flag}={value[:9]}", "train.py", [f"{flag}={value}"], flag)
    elif action.type not in (None, str) and flag != "--checkpoint-every":  # one of some names
        for value in ("", "no such thing", "SGD\u00fc"):
            add(f"{flag}={value}", "train.py", [f"{flag}={value}"], flag)
    if action.nargs != 0 and action.nargs != "?":
        add(f"{flag} without a value", "train.py", [flag], flag)
    if action.nargs == 0 and flag != "--help":
        add(f"{flag} with a value", "train.py", [f"{flag}=yes"], flag)

for value in (
    "",
    "0",
    "-1",
    "10s",
    "s",
    "1.5",
    "3 weeks",
    "stepss",
    "1e3",
    "x",
    "10minutess",
    MANY,
):
    words = [f"--checkpoint-every={value}"]
    add(f"checkpoints: {value[:9]}", "train.py", words, "--checkpoint-every")
for value in (
    "",
    "gpu",
    "cpu:7",
    "cpu:0",
    "cuda:-1",
    "cuda:x",
    "cuda:99",
    "meta",
    "CPU",
    "0",
    "cpu ",
):
    add(f"device: {value}", "train.py", ["--device", value], "--device")
for value in ("", ".", "..", "/x", "a/../..", "n" * 300, "../x", "a/../../b"):
    words = ["--experiment-name", value]
    add(f"experiment name: {value[:9]}", "train.py", words, "--experiment-name")
for value in (
    "nosuchnet",
    "",
    "../resnet18",
    "resnet18 ",
    "RESNET18",
    "resnet10-w",
    "vit_tiny_patch16_224",
):
    add(f"model: {value}", "train.py", ["--model", value], "--model")
for words in ("x", "-x", "---", "--lr-", "--buget 1", "-epochs 3", "--no-overwrite", "-"):
    add(f"no flag: {words}", "train.py", words.split(), words.split()[0].lstrip("-"))
for words in (
    "--num-classes 11",
    "--batch-size 1443",
    "--budget 0.001",
    "--validation 1442",
    "--validation",
    "--image-size 8",
    "--sync-batchnorm",
    "--milestones 5 3 --schedule step",
    "--milestones 900 --schedule step",
    "--cutout-size 9 --augmentation cutout",
    "--randaugment-n 0 --augmentation randaugment",
    "--randaugment-m 31 --augmentation randaugment",
    "--data-dir none --dataset folder",
    "--data-dir none --dataset mini-imagenet",
    "--coreset-file none --method coreset",
    "--rho-file none --method rho-loss",
    "--coreset-file --method coreset",
):
    add(words, "train.py", words.split(), words.split()[0])
for where in ("/dev/null", "/dev/null/x", "/proc/none", "plain", "plain/below"):
    words = [*SHORT, "--results-dir", where]
    add(f"results in {where}", "train.py", words, "--results-dir", write("plain"))

# The environment

for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
    for value in ("", "x", "-1", "1.5", "nan", "2,", MANY):
        add(f"{name}={value[:9]}", "train.py", SHORT, name, environment=((name, value),))
for setting in ("RANK=1", "RANK=2 WORLD_SIZE=2", "WORLD_SIZE=0", "LOCAL_RANK=1", "LOCAL_RANK=9"):
    pairs = tuple(tuple(pair.split("=")) for pair in setting.split())
    add(setting, "train.py", SHORT, pairs[0][0], environment=pairs)
for setting in (
    "RANK=0",
    "RANK=0 MASTER_ADDR=127.0.0.1",
    "RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=x",
    "RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=-1",
    "RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=99999999",
    "RANK=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=9",  # where nobody listens
):
    pairs = (("WORLD_SIZE", "2"), *(tuple(pair.split("=")) for pair in setting.split()))
    add(f"WORLD_SIZE=2 {setting}", "train.py", SHORT, "WORLD_SIZE", environment=pairs)

# Folders of runs: `finished` and `stopped` are there, see `runs`.

FINISHED = [*SHORT, "--experiment-name", "finished"]
STOPPED = [*SHORT, "--experiment-name", "stopped"]
NEW = [*SHORT, "--experiment-name", "new"]


def in_place_of(path: str, kind: str) -> Callable[[], object]:
    def prepare() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        os.mkfifo(path) if kind == "a pipe" else Path(path).mkdir()

    return prepare


for file in FILES:
    for kind in ("a folder", "a pipe"):
        for run in (FINISHED, STOPPED, NEW):
            path = f"results/{run[-1]}/{file}"
            words = [*run, "--overwrite"]
            add(f"{path}: {kind}", "train.py", words, path, in_place_of(path, kind))
for content in (b"\0\xff\xfe", b"x" * 10**6, b"Finished", b"finished but", "\u00fc".encode(), b"0"):
    run = write("results/finished/status", content)
    for name, program, words in (
        ("train", "train.py", FINISHED),
        ("scores", "engine.scores", ["results/finished", "--score=el2n", "--out=out.npz"]),
    ):
        add(f"status {content[:9]}: {name}", program, words, "results/finished", run)
for words in ("", "--no-resume", "--lr 0.05", "--seed 3"):
    add(f"finished: {words}", "train.py", [*FINISHED, *words.split()], "results/finished")
for words in ("--lr 0.05", "--seed 3", "--method dro", "--record el2n", "--no-resume"):
    add(f"stopped: {words}", "train.py", [*STOPPED, *words.split()], "results/stopped")


def change(**parts: object) -> Callable[[dict], object]:
    """A checkpoint with other parts; `a__b` is the part b of its part a, and None takes it out."""

    def changed(content: dict) -> dict:
        for name, value in parts.items():
            *outer, last = name.split("__")
            part = content
            for each in outer:
                part = part[each]
            if value is None:
                del part[last]
            else:
                part[last] = value(part[last]) if callable(value) else value
        return content

    return changed


CHECKPOINTS: dict[str, Callable[[dict], object]] = {
    "a list": lambda content: [1, 2],
    "a number": lambda content: 3,
    "a tensor": lambda content: torch.ones(3),
    "no settings": change(settings=None),
    "settings: a list": change(settings=[1]),
    "no state": change(state=None),
    "state: a text": change(state="x"),
    "state: empty": change(state={}),
    "no format": change(format=None),
    "format: a text": change(format="2"),
    "no model": change(state__model=None),
    "model: empty": change(state__model={}),
    "model: a list": change(state__model=[1]),
    "model: another size": change(
        state__model=lambda model: model | {"stem.weight": torch.ones(3)}
    ),
    "model: too much": change(state__model=lambda model: model | {"more": torch.ones(3)}),
    "step: a text": change(state__step="five"),
    "step: a fraction": change(state__step=1.5),
    "step: negative": change(state__step=-5),
    "step: beyond the end": change(state__step=10**6),
    "no optimizer": change(state__optimizer=None),
    "optimizer: no groups": change(state__optimizer__param_groups=[]),
    "momentum of another size": change(
        state__optimizer__state=lambda state: {
            number: {"momentum_buffer": torch.ones(3)} for number in state
        }
    ),
    "method's generator: short": change(
        state__method___extra_state__rng=torch.ones(3, dtype=torch.uint8)
    ),
    "no method": change(state__method=None),
    "images used: another number": change(state__sample_counts=torch.ones(7)),
    "rows: a text": change(state__rows="x"),
    "rows: numbers": change(state__rows=[1]),
    "rows: of other columns": change(state__rows=[{"x": 1}]),
    "no rows": change(state__rows=None),
    "block: of other images": change(state__loader__block=lambda block: block + 10**6),
    "block: flat": change(state__loader__block=torch.arange(5)),
    "position: beyond": change(state__loader__position=10**6),
}
BODIES = {
    "empty": b"",
    "garbage": b"\0garbage" * 99,
    "an empty archive": b"PK\5\6" + bytes(18),
    "a pickle of nothing": b"\x80\x02N.",
    "code": b"cposix\nsystem\n(S'touch harm'\ntR.",
}


def spoil(names: tuple[str, ...], fault: str) -> Callable[[], object]:
    """Put a checkpoint of right checksum and wrong content in place of some."""

    def prepare() -> None:
        for name in names:
            path = Path("results/stopped") / name
            if fault in BODIES:
                body = BODIES[fault]
            else:
                buffer = io.BytesIO()
                torch.save(CHECKPOINTS[fault](checkpoint.read(path)), buffer)
                body = buffer.getvalue()
            path.write_bytes(checkpoint.MAGIC + zlib.crc32(body).to_bytes(4, "big") + body)

    return prepare


BOTH = (checkpoint.CURRENT, checkpoint.PREVIOUS)
for fault in (*BODIES, *CHECKPOINTS):
    add(f"checkpoint: {fault}", "train.py", STOPPED, "checkpoint.pt", spoil(BOTH, fault))
for fault in ("", "x", checkpoint.MAGIC.decode()):
    prepare = [write(f"results/stopped/{name}", fault) for name in BOTH]
    both = lambda prepare=prepare: [each() for each in prepare]  # noqa: E731
    add(f"checkpoint that is only {fault!r}", "train.py", STOPPED, "checkpoint.pt", both)

# Score files


def score_file(**changes: object) -> bytes:
    """A good one of digits, but for some of its arrays; None takes one out."""
    labels = DATASETS["digits"].load(Path()).train_labels
    values = {"el2n": np.arange(len(labels), dtype=np.float32)}
    with np.load(io.BytesIO(ScoreFile("digits", digest(labels), values).to_bytes())) as archive:
        arrays = {name: archive[name] for name in archive.files} | changes
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return file.getvalue()


def bomb() -> bytes:
    """A small archive that unpacks to 3 GiB."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("el2n.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(3):
            member.write(bytes(2**20))
    content = file.getvalue()
    return content.replace((3 * 2**20).to_bytes(8, "little"), (3 * 2**30).to_bytes(8, "little"))


def claims_many() -> bytes:
    """Its array is said to have more numbers than there is memory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("format", "el2n"):
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                head, dict(descr="<i8", fortran_order=False, shape=(10**15,))
            )
            archive.writestr(f"{name}.npy", head.getvalue())
    return file.getvalue()


def sparse() -> None:
    with open("scores.npz", "wb") as file:
        file.truncate(2**40)


ones = np.ones(1442, dtype=np.float32)
SCORE_FILES: dict[str, bytes | Callable[[], bytes]] = {
    "empty": b"",
    "garbage": b"harm" * 99,
    "an archive of nothing": b"PK\5\6" + bytes(18),
    "an array": lambda: np.save(file := io.BytesIO(), ones) or file.getvalue(),
    "truncated": lambda: score_file()[:-300],
    "bomb": bomb,
    "more numbers than memory": claims_many,
    "of a pickle": lambda: score_file(el2n=np.array([{}], dtype=object)),
} | {
    f"{name}: {value if np.ndim(value) == 0 else np.shape(value)}": (
        lambda name=name, value=value: score_file(**{name: value})
    )
    for name, value in (
        ("format", None),
        ("format", 99),
        ("format", "x"),
        ("format", np.array([1, 1])),
        ("dataset", None),
        ("dataset", "cifar10"),
        ("num_images", 7),
        ("num_images", "x"),
        ("num_images", -1),
        ("labels_sha256", "x"),
        ("labels_sha256", None),
        ("sources", "[" * 5000),
        ("sources", "x"),
        ("scores", None),
        ("scores", np.array([], dtype=str)),
        ("scores", np.array(["grand"])),
        ("el2n", None),
        ("el2n", ones[:-1]),
        ("el2n", ones[:, None]),
        ("el2n", np.float32(1)),
        ("el2n", ones * np.inf),
        ("el2n", ones.astype(str)),
    )
}
for flag, method in (("--coreset-file", "coreset"), ("--rho-file", "rho-loss")):
    words = [*SHORT, "--method", method, flag, "scores.npz"]
    for fault, content in SCORE_FILES.items():

        def put(content: bytes | Callable[[], bytes] = content) -> None:
            Path("scores.npz").write_bytes(content() if callable(content) else content)

        add(f"{method}: {fault}", "train.py", words, f"{flag} scores.npz", put)
    for kind in ("a folder", "a pipe"):
        prepare = in_place_of("scores.npz", kind)
        add(f"{method}: {kind}", "train.py", words, f"{flag} scores.npz", prepare)
    add(f"{method}: a terabyte", "train.py", words, f"{flag} scores.npz", sparse)
    for file in ("/dev/zero", "/dev/null", "/proc/self/mem", ".", "n" * 300):
        words = [*SHORT, "--method", method, flag, file]
        add(f"{method}: {file[:9]}", "train.py", words, f"{flag} {file[:9]}")

# Making score files

GOOD = ["results/finished", "--score=el2n", "--device=cpu"]


def link_to_null() -> None:
    Path("link").symlink_to("/dev/null")


def weights(value: float) -> Callable[[], object]:
    """The network of the finished run with all of its weights that number."""

    def prepare() -> None:
        path = Path("results/finished/model.pt")
        state = torch.load(path, weights_only=True)
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor.fill_(value)
        torch.save(state, path)

    return prepare


for out in ("/dev/null", "/dev/full", ".", "none/x.npz", "", "n" * 300, "link"):
    words = [*GOOD, "--out", out]
    add(f"scores into {out[:9]}", "engine.scores", words, out[:9], link_to_null)
add(
    "scores into a pipe",
    "engine.scores",
    [*GOOD, "--out=p"],
    "--out p",
    in_place_of("p", "a pipe"),
)
for score in ("el2n", "grand", "k-center"):
    for value in (float("nan"), float("inf"), 1e38):
        words = ["results/finished", f"--score={score}", "--out=out.npz", "--device=cpu"]
        add(f"{score} of weights {value}", "engine.scores", words, "model.pt", weights(value))
for kind in ("a folder", "a pipe"):
    prepare = in_place_of("results/finished/model.pt", kind)
    add(f"scores of {kind}", "engine.scores", [*GOOD, "--out=out.npz"], "model.pt", prepare)
for content in (b"", b"harm", b"\x80\x02N.", b"cposix\nsystem\n(S'touch harm'\ntR."):
    prepare = write("results/finished/model.pt", content)
    words = [*GOOD, "--out=out.npz"]
    add(f"scores of a network {content[:9]}", "engine.scores", words, "model.pt", prepare)
for words, named in {
    "": "RUN",
    "results/finished": "--score",
    "results/finished --score el2n": "--out",
    "results/finished --score x --out out.npz": "--score",
    "results/finished --score= --out out.npz": "--score",
    "results/finished --score forgetting --out out.npz": "forgetting",
    "results/finished --score irreducible-loss --out out.npz": "--validation",
    "results/stopped --score el2n --out out.npz": "results/stopped",
    "none --score el2n --out out.npz": "none",
    "/dev/null --score el2n --out out.npz": "/dev/null",
    "results --score el2n --out out.npz": "results",
    "results/finished --score el2n --out out.npz --device gpu": "--device",
    "results/finished --score el2n --out out.npz --device cpu:7": "--device",
    "results/finished --score el2n --out out.npz --x": "--x",
    "results/finished results/finished --score k-center --out out.npz": "given twice",
}.items():
    add(f"scores: {words}", "engine.scores", words.split(), named)

# Data


def edit(write_data: Callable[[Path], object], path: str, content: bytes) -> Callable[[], object]:
    def prepare() -> None:
        write_data(Path("data"))
        write(f"data/{path}", content)()

    return prepare


for dataset, writer, paths in (
    ("cifar10", small_files.write_cifar10, ("data_batch_3", "test_batch", "batches.meta")),
    ("cifar100", small_files.write_cifar100, ("train", "test", "meta")),
):
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[dataset]
    for path in paths:
        for content in (b"", b"harm", b"\x80\x02N.", b"\x80\x02]."):
            words = [*SHORT, "--dataset", dataset, "--data-dir", "data"]
            file = f"{folder}/{path}"
            add(f"{file}: {content[:9]}", "train.py", words, path, edit(writer, file, content))
for name, path in {
    "a file": "data",
    "train a file": "data/train",
    "no class": "data/train/.hidden/1.png",
    "an image that is none": "data/train/cat/1.png",
}.items():
    words = [*SHORT, "--dataset", "folder", "--data-dir", "data"]
    add(f"folder: {name}", "train.py", words, "data", write(path, b"harm"))

# Sweeps

for words in (
    "--jobs 0 --lr 1",
    "--jobs x --lr 1",
    f"--jobs {MANY} --lr 1",
    "--shard 0/3 --lr 1",
    "--shard 4/3 --lr 1",
    "--shard x --lr 1",
    "--shard 1 --lr 1",
    "--cpus-per-run 2 --lr 1",
    "--gpus-per-run 1 --lr 1",
    "--grid",
    "--grid none",
    "--grid .",
    "--lr 1 --lr 2",
    "--buget 0.2",
    "--lr 0.1 x",
    "--budget 0.2 7",
    "--epochs 1 0",
    "--method SGD p-SDG",
    "--overwrite",
    "--no-resume",
    "--seed 1 -1",
    "--dataset cifar-11",
    "--results-dir /dev/null",
    "--checkpoint-every 1 10s",
    "--record el3n",
):
    named = words.split()[0]
    add(f"sweep: {words[:40]}", "sweep.py", words.split(), named)
add("sweep: no flag", "sweep.py", ["x"], "'x'")
for content in (
    "[grid",
    "lr = 1",
    "x",
    "[other]\nlr = 1",
    "grid = 3",
    "grid = [1]",
    "[grid]\nbuget = 0.2",
    "[grid]\nlr = []",
    "[grid]\nlr = [[[1]]]",
    "[grid]\nlr = [{}]",
    "[grid]\nlr = 2020-01-01",
    "[grid]\nlr = -1",
    "[grid]\nlr = nan",
    "[grid]\nlr = 'x'",
    "[grid]\noverwrite = true",
    "[grid]\njobs = 2",
    "[grid]\nlr = 1\nlr = 2",
    "[grid]\nbatch-size = 8\nbatch_size = 8",
    "[grid]\nmethod = 'p-SDG'",
    "[grid]\n[grid]",
    b"\xff\xfe",
    b"\0",
):
    shown = content if isinstance(content, str) else repr(content)
    prepare = write("grid.toml", content)
    line = {"lr = -1", "lr = nan", "lr = 'x'", "method = 'p-SDG'", "buget = 0.2"}
    line |= {"overwrite = true", "jobs = 2"}
    named = "--" if shown.removeprefix("[grid]\n") in line else "grid.toml"
    add(f"grid: {shown!r}", "sweep.py", ["--grid", "grid.toml"], named, prepare)

# Plots and claims

for program in ("plots", "plots.claims"):
    for where in ("none", "/dev/null", "plain", "empty", "results/stopped", "/proc/self/none"):

        def make() -> None:
            Path("empty").mkdir()
            Path("plain").touch()

        add(f"{program} {where}", program, [where], where, make)
    for file, content in (
        ("config.json", b""),
        ("config.json", b"harm"),
        ("config.json", b"[]"),
        ("config.json", b"{}"),
        ("config.json", b'{"settings": {}}'),
        ("curve.csv", b""),
        ("curve.csv", b"harm"),
        ("curve.csv", b"\0\xff"),
        ("curve.csv", b"epoch\n1\n"),
        ("status", b"\0\xff"),
    ):
        prepare = write(f"results/finished/{file}", content)
        name = f"{program}: {file} {content[:9]}"
        add(name, program, ["results/finished"], "results/finished", prepare)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `finished`, and `stopped` with two checkpoints."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("hostile")
    append = RunFolder.append_row

    def append_and_stop(folder: RunFolder, row: dict) -> None:
        append(folder, row)
        if folder.path.name == "stopped" and row["epoch"] == 2:
            signal.raise_signal(signal.SIGTERM)

    number = signal.SIGTERM
    handler = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "append_row", append_and_stop)
        patch.chdir(root)
        assert train_main(FINISHED) == 0
        assert train_main([*STOPPED, "--checkpoint-every", "5steps"]) == 143
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, handler if number == signal.SIGTERM else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert all((root / "results" / "stopped" / name).exists() for name in BOTH)
    return root / "results"


def tree(root: Path) -> dict[str, bytes | str]:
    """All that lies there: contents of files, kinds of everything else."""
    found: dict[str, bytes | str] = {}
    for path in root.rglob("*"):
        if path.suffix == ".lock" and path.is_file():  # stays, for those who come later
            continue
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "special"
        whole = kind == "special" and path.is_file()
        small = whole and path.stat().st_size < 2**30
        found[str(path.relative_to(root))] = path.read_bytes() if small else kind
    return found


@pytest.fixture
def place(runs: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty folder but for the runs, of which links to the same files would be changed too."""
    shutil.copytree(runs, tmp_path / "results")
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line_and_nothing_is_lost(
    name: str,
    main_here: Callable[..., Completed],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = CASES[name]
    for variable, value in case.environment:
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("engine.distributed.GIVE_UP_AFTER", 0.5)
    for start in ("engine.driver.train", "engine.sweep.schedule.Schedule.make"):
        monkeypatch.setattr(start, lambda *_: pytest.fail("it was let start"))
    case.prepare()
    before = tree(place)
    outcome = main_here(MAINS[case.program], *case.words)
    assert outcome.returncode == case.status, outcome
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith((case.program, f"python -m {case.program}"))
    assert case.named in lines[0]
    assert "Traceback" not in lines[0]
    assert tree(place) == before


def test_there_are_several_hundred_cases() -> None:
    assert len(CASES) >= 300


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*BODIES, *CHECKPOINTS])
def test_the_previous_checkpoint_stands_in_for_a_wrong_one(
    fault: str, train_here: Callable[..., Completed], place: Path
) -> None:
    spoil((checkpoint.CURRENT,), fault)()
    outcome = train_here(*STOPPED)
    assert outcome.returncode == 0, outcome.stderr
    notes = outcome.stderr.splitlines()
    assert "results/stopped/checkpoint.pt: " in notes[0]
    assert "resuming from checkpoint.previous.pt" in notes[0]
    assert "resuming after step 15" in notes[1]
    assert not Path("harm").exists()

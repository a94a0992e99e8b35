"""Data sets of torchvision, npz files and the library `datasets`; tables of labels and groups."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import conftest
import numpy as np
import pandas as pd
import pytest
import small_files
from conftest import Completed
from PIL import Image

import sweep
from data.loose import decode_parts
from errors import UsageError
from plots.__main__ import main as plots_main
from plots.claims import main as claims_main
from plots.study import read_study

SHORT = ("--epochs", 1, "--batch-size", 16, "--model", "resnet10-w8", "--device", "cpu")
RNG = np.random.default_rng(0)


def pixels(count: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count: int, classes: int = 3) -> np.ndarray:
    return RNG.permutation(np.arange(count) % classes)


def data_of(name: str) -> dict:
    return json.loads((Path("results") / name / "config.json").read_text())["data"]


# --- npz ---


def medmnist(**changes: np.ndarray) -> Path:
    """A file in MedMNIST's layout; an array that is None is left out."""
    arrays = {
        "train_images": pixels(64, 28, 28, 3),
        "train_labels": labels(64)[:, None].astype(np.uint8),
        "val_images": pixels(8, 28, 28, 3),
        "val_labels": labels(8)[:, None].astype(np.uint8),
        "test_images": pixels(16, 28, 28, 3),
        "test_labels": labels(16)[:, None].astype(np.uint8),
    } | changes
    np.savez("small.npz", **{name: array for name, array in arrays.items() if array is not None})
    return Path("small.npz")


@pytest.mark.parametrize("grey", [False, True])
def test_a_file_of_medmnist(grey: bool, train_here: Callable[..., Completed]) -> None:
    shape = (28, 28) if grey else (28, 28, 3)
    medmnist(train_images=pixels(64, *shape), test_images=pixels(16, *shape))
    outcome = train_here("--dataset", "npz:small.npz", *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    colour = "grey" if grey else "colour"
    line = f"64 images to train on, 16 to evaluate on, 3 classes, 28x28 in {colour}"
    assert line in outcome.stdout
    found = data_of("small.npz_SGD_standard_b1_s1")
    assert (found["train"], found["test"]) == (64, 16)
    assert found["image"] == [1 if grey else 3, 28, 28]
    assert len(found["mean"]) == len(found["std"]) == found["image"][0]


def test_images_and_labels_are_those_of_the_file(main_here) -> None:
    from data import npz

    main_here(lambda words: 0)
    path = medmnist()
    found = npz.load(Path("nowhere"), name=str(path))
    with np.load(path) as file:
        assert np.array_equal(found.train_images, file["train_images"].transpose(0, 3, 1, 2))
        assert np.array_equal(found.test_labels, file["test_labels"][:, 0])
        values = file["train_images"] / 255
    np.testing.assert_allclose(found.mean, values.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.std, values.std((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    "changes, fragment",
    [
        (dict(train_images=None), "no array train_images"),
        (dict(train_images=pixels(64, 28, 28, 28, 3)), "give uint8 [n, height, width]"),
        (dict(train_images=pixels(64, 28, 28, 3) / 255), "give uint8 [n, height, width]"),
        (dict(train_labels=labels(128).reshape(64, 2)), "one whole number for each image"),
        (dict(train_labels=labels(60)), "64 train_images and 60 train_labels"),
        (dict(test_images=pixels(16, 32, 32, 3)), "different shapes"),
        (dict(train_labels=labels(64) - 1), "labels from -1"),
    ],
)
def test_what_is_no_such_file_is_refused(
    changes: dict, fragment: str, train_here: Callable[..., Completed]
) -> None:
    medmnist(**changes)
    conftest.assert_refused(train_here("--dataset", "npz:small.npz", *SHORT), fragment)


def test_other_files_of_numpy_are_refused(train_here: Callable[..., Completed]) -> None:
    np.save("one.npy", pixels(4, 8, 8))
    Path("empty.npz").write_bytes(b"")
    np.savez("several.npz", a=labels(4))
    Path("several.npz").rename("several.npy")
    for name in ("one.npy", "empty.npz"):
        refused = train_here("--dataset", f"npz:{name}", *SHORT)
        conftest.assert_refused(refused, f"{name}: not an npz file", absent="results")
    Path("empty.npz").rename("empty.npy")
    for name in ("several.npy", "empty.npy"):
        refused = train_here("--labels", name, *SHORT)
        conftest.assert_refused(refused, f"{name}: cannot be read", absent="results")


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.fromarray(pixels(32, 32, 3)).save(file)
    files[1].write_bytes(files[1].read_bytes()[:1000])
    part = [(Image.open(file), 0) for file in files]
    with pytest.raises(UsageError, match=r"hf:x: image 1 cannot be decoded \(.*truncated"):
        decode_parts([part], tmp_path, None, "hf:x")


# --- torchvision ---


def write_aircraft(root: Path) -> None:
    """FGVC-Aircraft as torchvision unpacks it: JPEGs of several sizes, and lists of variants."""
    folder = root / "FGVCAircraft" / "fgvc-aircraft-2013b" / "data"
    (folder / "images").mkdir(parents=True)
    names = ("707-320", "A300B4")
    (folder / "variants.txt").write_text("\n".join(names))
    for part, count in (("trainval", 24), ("test", 8)):
        lines = []
        for number in range(count):
            name = f"{part}{number:03}"
            image = Image.fromarray(pixels(1, 20 + number % 3, 30, 3)[0])
            image.save(folder / "images" / f"{name}.jpg")
            lines.append(f"{name} {names[number % 2]}")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines))


def test_a_set_of_torchvision(train_here: Callable[..., Completed], tmp_path: Path) -> None:
    write_aircraft(tmp_path / "datasets")
    words = ("--dataset", "torchvision:FGVCAircraft", *SHORT)
    outcome = train_here(*words)
    conftest.assert_refused(outcome, "images of 3 sizes; give --image-size")
    for _ in range(2):  # the second time from the cache
        outcome = train_here(*words, "--image-size", 16, "--overwrite")
        assert outcome.returncode == 0, outcome.stderr
    assert "24 images to train on, 8 to evaluate on, 2 classes, 16x16 in colour" in outcome.stdout
    per_class = pd.read_csv("results/FGVCAircraft_SGD_standard_b1_s1/per_class.csv")
    assert list(per_class["class"]) == ["707-320", "A300B4"]


def test_new_images_behind_a_link_are_noticed(tmp_path: Path) -> None:
    from data.torchvision_sets import load

    write_aircraft(tmp_path / "store")
    (tmp_path / "root" / "FGVCAircraft").mkdir(parents=True)
    inner = Path("FGVCAircraft", "fgvc-aircraft-2013b")
    (tmp_path / "root" / inner).symlink_to(tmp_path / "store" / inner, target_is_directory=True)
    first, again = (load(tmp_path / "root", name="FGVCAircraft", image_size=8) for _ in range(2))
    assert first.sha256 == again.sha256
    changed = tmp_path / "store" / inner / "data" / "images" / "trainval000.jpg"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(changed)
    other = load(tmp_path / "root", name="FGVCAircraft", image_size=8)
    assert other.sha256 != first.sha256
    assert not np.asarray(other.train_images[0]).any()
    assert first.flip == 0.5


def test_a_damaged_image_of_a_set_is_named(
    train_here: Callable[..., Completed], tmp_path: Path
) -> None:
    write_aircraft(tmp_path / "datasets")
    (damaged,) = (tmp_path / "datasets").rglob("test003.jpg")
    damaged.write_bytes(damaged.read_bytes()[:300])
    outcome = train_here("--dataset", "torchvision:FGVCAircraft", "--image-size", 16, *SHORT)
    assert outcome.returncode == 2
    (line,) = outcome.stderr.splitlines()
    assert "torchvision:FGVCAircraft: image 27 cannot be decoded" in line


def test_a_set_that_is_not_there_is_told(train_here: Callable[..., Completed]) -> None:
    outcome = train_here("--dataset", "torchvision:KMNIST", *SHORT)
    assert outcome.returncode == 2
    last = outcome.stderr.splitlines()[-1]
    assert "not in datasets/KMNIST, and the download failed" in last
    outcome = train_here("--dataset", "torchvision:Imagenet", *SHORT)
    conftest.assert_refused(outcome, "not one of MNIST")


def test_every_set_is_torchvisions_and_takes_its_arguments() -> None:
    import inspect

    import torchvision.datasets

    from data.torchvision_sets import SETS

    for name, parts in SETS.items():
        signature = inspect.signature(getattr(torchvision.datasets, name))
        assert parts[0] != parts[1]
        for arguments in parts:
            # Those that it passes on to a base class, by **kwargs, bind too.
            signature.bind("root", download=False, **arguments)


# --- datasets ---


def test_a_local_copy_of_a_set_of_the_hub(
    train_here: Callable[..., Completed], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )

    def split(count: int):
        images = [Image.fromarray(each) for each in pixels(count, 12, 12, 3)]
        rows = {"img": images, "label": labels(count, 2).tolist()}
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict({"train": split(32), "validation": split(8)}).save_to_disk(
        str(tmp_path / "pets")
    )
    outcome = train_here("--dataset", "hf:pets", *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    assert "32 images to train on, 8 to evaluate on, 2 classes, 12x12 in colour" in outcome.stdout
    per_class = pd.read_csv("results/pets_SGD_standard_b1_s1/per_class.csv")
    assert list(per_class["class"]) == ["cat", "dog"]
    datasets.DatasetDict({"train": split(32)}).save_to_disk(str(tmp_path / "half"))
    conftest.assert_refused(train_here("--dataset", "hf:half", *SHORT), "splits train; it needs")


def test_without_the_library_it_is_told(
    train_here: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    outcome = train_here("--dataset", "hf:any", *SHORT)
    conftest.assert_refused(outcome, "pip install -r requirements-hf.txt")


@pytest.mark.parametrize("name", ["npz", "npz:", "torchvision", "hf:"])
def test_a_family_without_a_name_is_told(name: str, train_here: Callable[..., Completed]) -> None:
    conftest.assert_refused(train_here("--dataset", name), f"give {name.partition(':')[0]}:")


# --- Labels ---


def write_table(path: str, columns: list[str], rows: list) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def train_counts(folder: str) -> list[int]:
    return list(pd.read_csv(f"results/{folder}/per_class.csv")["train_count"])


def test_cifar10_with_other_labels(train_here: Callable[..., Completed], tmp_path: Path) -> None:
    """In the three forms; the test set and the images stay."""
    written = small_files.write_cifar10(tmp_path / "datasets")
    count = len(written.train_labels)
    names = [written.classes[label] for label in (written.train_labels + 1) % 10]
    words = ("--dataset", "cifar10", *SHORT)
    assert train_here(*words, "--experiment-name", "clean").returncode == 0
    write_table("named.csv", ["image", "label"], list(enumerate(names)))
    write_table("ordered.csv", ["label"], [[name] for name in names])
    np.save("array.npy", (written.train_labels + 1) % 10)
    curves = []
    for file in ("named.csv", "ordered.csv", "array.npy"):
        outcome = train_here(*words, "--labels", file, "--experiment-name", file)
        assert outcome.returncode == 0, outcome.stderr
        assert "another label for 100.00% of the training images" in outcome.stderr
        curves.append(pd.read_csv(f"results/{file}/curve.csv")["train_loss"].tolist())
    assert curves[0] == curves[1] == curves[2]
    clean = pd.read_csv("results/clean/per_class.csv")
    noisy = pd.read_csv("results/named.csv/per_class.csv")
    assert list(noisy["train_count"]) == list(np.roll(clean["train_count"], 1))
    assert list(noisy["test_count"]) == list(clean["test_count"])
    write_table("few.csv", ["image", "label"], [[count - 1, 3], [0, "frog"]])
    assert train_here(*words, "--labels", "few.csv", "--overwrite").returncode == 0


def test_labels_of_files(train_here: Callable[..., Completed], tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number, image in enumerate(pixels(10, 8, 8, 3)):
                Image.fromarray(image).save(tmp_path / f"images/{part}/{name}/{number}.png")
    words = ("--dataset", "folder", "--data-dir", "images", *SHORT)
    write_table(str(tmp_path / "labels.csv"), ["image", "label"], [["a/3.png", "b"]])
    outcome = train_here(*words, "--labels", "labels.csv")
    assert outcome.returncode == 0, outcome.stderr
    assert train_counts("folder_SGD_standard_b1_s1") == [9, 11]
    write_table("labels.csv", ["image", "label"], [["c/3.png", "b"]])
    outcome = train_here(*words, "--labels", "labels.csv", "--overwrite")
    conftest.assert_refused(outcome, "no image 'c/3.png'; give a path")


@pytest.mark.parametrize(
    "rows, fragment",
    [
        ([["image", "klass"], [0, 1]], "no column 'label'"),
        ([["image", "label"], [0, "10"]], "line 2: '10' is no class of 10"),
        ([["image", "label"], [5000, 1]], "no image '5000'; give a number up to"),
        ([["label"], [1]], "1 labels for"),
        ([["image", "label"], [0]], "another number of cells"),
        ([["image", "label"], [0, 3], [4, 5], [0, 5]], "image 0 twice"),
    ],
)
def test_a_table_of_labels_that_is_wrong(
    rows: list, fragment: str, train_here: Callable[..., Completed]
) -> None:
    write_table("labels.csv", rows[0], rows[1:])
    conftest.assert_refused(train_here("--labels", "labels.csv"), fragment, absent="results")
    conftest.assert_refused(train_here("--labels", "none.csv"), "none.csv", absent="results")


def test_some_of_the_classes(train_here: Callable[..., Completed]) -> None:
    Path("classes.txt").write_text("7\n1\n\n4\n")
    outcome = train_here("--classes", "classes.txt", *SHORT)
    assert outcome.returncode == 0, outcome.stderr
    per_class = pd.read_csv("results/digits_SGD_standard_b1_s1/per_class.csv", dtype={"class": str})
    assert list(per_class["class"]) == ["7", "1", "4"]
    for text, fragment in (("7\nx\n", "x: no class"), ("7\n7\n", "7: twice"), ("7", "1 classes")):
        Path("classes.txt").write_text(text)
        conftest.assert_refused(train_here("--classes", "classes.txt", "--overwrite"), fragment)
    medmnist(test_labels=np.zeros(16, np.uint8))
    Path("classes.txt").write_text("1\n2\n")
    refused = train_here("--dataset", "npz:small.npz", "--classes", "classes.txt", *SHORT)
    conftest.assert_refused(refused, "classes.txt: no test images of these classes")


def test_a_file_of_labels_may_move_and_may_not_change(main_here) -> None:
    """A sweep goes by what it says, not by where it lies."""
    write_table("labels.csv", ["image", "label"], [[3, 4]])
    words = ("--isolate", *SHORT, "--experiment-name", "run", "--labels")
    assert main_here(sweep.main, *words, "labels.csv").returncode == 0
    Path("elsewhere").mkdir()
    Path("labels.csv").rename("elsewhere/labels.csv")
    again = main_here(sweep.main, *words, "elsewhere/labels.csv")
    assert again.returncode == 0, again.stderr
    assert " 0 left to make" in again.stdout
    write_table("elsewhere/labels.csv", ["image", "label"], [[3, 5]])
    changed = main_here(sweep.main, *words, "elsewhere/labels.csv")
    conftest.assert_refused(changed, "elsewhere/labels.csv has changed")


# --- Groups ---


def write_groups(train: bool = False, count: int = 355) -> None:
    rows = [["test", number, ("left", "right", "odd")[number % 3]] for number in range(count)]
    rows += [["train", number, ("left", "odd")[number % 2]] for number in range(1442 * train)]
    write_table("groups.csv", ["part", "image", "group"], rows)


def test_accuracy_over_groups(
    train_here: Callable[..., Completed], main_here: Callable[..., Completed]
) -> None:
    """It is the one that the predictions have, and the rest of the curve is as without groups."""
    write_groups()
    outcome = train_here("--groups", "groups.csv", *SHORT, "--epochs", 2)
    assert outcome.returncode == 0, outcome.stderr
    folder = Path("results/digits_SGD_standard_b1_s1")
    curve, per_group = (pd.read_csv(folder / name) for name in ("curve.csv", "per_group.csv"))
    assert list(per_group["group"]) == ["left", "odd", "right"]
    assert per_group["test_count"].sum() == 355
    last = curve.iloc[-1]
    assert last["worst_group_accuracy"] == pytest.approx(per_group["test_accuracy"].min())
    p5 = np.percentile(per_group["test_accuracy"], 5)
    assert last["group_accuracy_p5"] == pytest.approx(p5)
    weighted = np.average(per_group["test_accuracy"], weights=per_group["test_count"])
    assert last["test_accuracy"] == pytest.approx(weighted)
    assert train_here(*SHORT, "--epochs", 2, "--experiment-name", "without").returncode == 0
    without = pd.read_csv("results/without/curve.csv")
    assert list(without.columns) == list(curve.columns[:-2])
    columns = [name for name in without if not name.endswith("_seconds")]
    pd.testing.assert_frame_equal(curve[columns], without[columns])
    assert not Path("results/without/per_group.csv").exists()
    # Accuracies over groups are compared with those over the same groups alone.
    setups = read_study(Path("results")).runs["setup"]
    assert setups.nunique() == 2
    Path("other").mkdir()
    write_groups(train=True)
    Path("groups.csv").rename("other/groups.csv")
    words = ("--groups", "other/groups.csv", *SHORT, "--epochs", 2, "--experiment-name", "other")
    assert train_here(*words).returncode == 0
    setups = read_study(Path("results")).runs["setup"]
    assert setups.nunique() == 3


def test_groups_are_the_ones_of_the_images(train_here: Callable[..., Completed]) -> None:
    """A group of the images that a network gets right has 100%."""
    import torch

    from engine.config import RunConfig
    from engine.finished import FinishedRun

    write_groups()
    # In float32, as FinishedRun computes: half precision decides otherwise between near equals.
    words = (*SHORT, "--epochs", 2, "--amp", "off")
    assert train_here("--groups", "groups.csv", *words).returncode == 0
    folder = Path("results/digits_SGD_standard_b1_s1")
    run = FinishedRun.read(folder, None, torch.device("cpu"))
    logits, _ = run.forward(run.dataset.test_images)
    right = (logits.argmax(1).numpy() == run.dataset.test_labels).astype(bool)
    rows = [["test", number, "right" if good else "wrong"] for number, good in enumerate(right)]
    write_table("groups.csv", ["part", "image", "group"], rows)
    assert train_here("--groups", "groups.csv", *words, "--overwrite").returncode == 0
    accuracy = pd.read_csv(folder / "per_group.csv", index_col="group")["test_accuracy"]
    assert accuracy["right"] > 99
    assert accuracy["wrong"] < 1
    assert RunConfig().groups is None


def test_groups_of_images_that_are_held_out(train_here: Callable[..., Completed]) -> None:
    write_groups()
    words = ("--groups", "groups.csv", "--validation", 200, *SHORT)
    conftest.assert_refused(train_here(*words), "names no group for some training images")
    write_groups(train=True)
    assert train_here(*words).returncode == 0
    folder = "results/digits_SGD_standard_b1_s1"
    assert pd.read_csv(f"{folder}/per_group.csv")["test_count"].sum() == 200
    write_groups(count=300)
    outcome = train_here("--groups", "groups.csv", *SHORT, "--overwrite")
    conftest.assert_refused(outcome, "no group for 55 of the test images")


def test_folders_inside_of_the_classes_are_groups(
    train_here: Callable[..., Completed], tmp_path: Path
) -> None:
    for part in ("train", "test"):
        for place in ("a/land", "a/water", "b/land", "b/water"):
            folder = tmp_path / "birds" / part / place
            folder.mkdir(parents=True)
            for number, image in enumerate(pixels(6, 8, 8, 3)):
                Image.fromarray(image).save(folder / f"{number}.png")
    words = ("--dataset", "folder", "--data-dir", "birds", "--groups", "folders", *SHORT)
    assert train_here(*words).returncode == 0
    groups = pd.read_csv("results/folder_SGD_standard_b1_s1/per_group.csv")
    assert list(groups["group"]) == ["land", "water"]
    assert list(groups["test_count"]) == [12, 12]
    conftest.assert_refused(train_here("--groups", "folders"), "only of --dataset folder")


def test_figures_claims_and_packs_have_groups(
    train_here: Callable[..., Completed], main_here: Callable[..., Completed]
) -> None:
    write_groups()
    for method in ("SGD", "dro"):
        for seed in (1, 2, 3):
            words = ("--method", method, "--seed", seed, "--groups", "groups.csv", *SHORT)
            assert train_here(*words).returncode == 0
    outcome = main_here(plots_main, "results")
    assert outcome.returncode == 0, outcome.stderr
    assert Path("results/figures/digits_worst-group.png").exists()
    assert pd.read_csv("results/summary.csv")["worst_group_accuracy_mean"].notna().all()
    text = main_here(claims_main, "results").stdout
    (claim,) = [block for block in text.split("\n\n") if "better worst-group accuracy" in block]
    assert "n = 3 seeds" in claim
    before = Path("results/summary.csv").read_text()
    for path in Path("results").glob("*/model.pt"):
        path.unlink()
    outcome = main_here(plots_main, "pack", "results", "--remove")
    assert "folders removed: 6" in outcome.stdout
    assert Path("results/per_group.csv").exists()
    assert main_here(plots_main, "results").returncode == 0
    assert Path("results/summary.csv").read_text() == before

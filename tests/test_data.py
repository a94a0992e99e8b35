"""Every data set's loader on small files of the real formats; splits; the cache of images."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_files
import torch
from conftest import ROOT
from PIL import Image
from scipy.io import loadmat, savemat
from sklearn.datasets import load_digits

from data import (
    DATASETS,
    Dataset,
    cache,
    cifar,
    fashion_mnist,
    folder,
    hold_out,
    image_files,
    mini_imagenet,
)
from data import svhn as svhn_module
from data.dataset import PART, channel_statistics
from data.image_files import decode_images
from errors import UsageError

PARTS = ("train_images", "train_labels", "test_images", "test_labels")
#: mean, std, flip and padding
FACTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 0.5, 4),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 0.5, 4),
    "svhn": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0, 4),
    "fashion-mnist": ((0.2860,), (0.3530,), 0.5, 4),
    "mini-imagenet": ((0.4728, 0.4487, 0.4031), (0.2744, 0.2663, 0.2806), 0.5, 4),
}
#: The function that reads the files of a data set.
DECODERS = {
    "cifar10": (cifar, "read_batch"),
    "cifar100": (cifar, "read_batch"),
    "svhn": (svhn_module, "read"),
    "fashion-mnist": (fashion_mnist, "read"),
    "mini-imagenet": (mini_imagenet, "decode_images"),
    "folder": (folder, "decode_images"),
}


def load(name: str, root: Path, data_seed: int = 42, image_size: int | None = None) -> Dataset:
    return DATASETS[name].load(root, data_seed=data_seed, image_size=image_size)


def assert_equal(loaded: Dataset, expected: Dataset | small_files.Written) -> None:
    for part in PARTS:
        np.testing.assert_array_equal(getattr(loaded, part), getattr(expected, part), part)
    assert loaded.classes == expected.classes


def cache_entries(root: Path) -> list[Path]:
    return sorted((root / "cache").iterdir())


def forbid_decoding(name: str, patch: pytest.MonkeyPatch) -> None:
    def decoder(*arguments):
        raise AssertionError("decoded again")

    patch.setattr(*DECODERS[name], decoder)


# Loaders


@pytest.mark.parametrize("name", small_files.WRITERS)
def test_a_loader_gives_arrays_of_one_kind(name: str, tmp_path: Path) -> None:
    small_files.WRITERS[name](tmp_path)
    dataset = load(name, tmp_path)
    channels, side = {"fashion-mnist": (1, 28), "mini-imagenet": (3, 84), "folder": (3, 16)}.get(
        name, (3, 32)
    )
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        assert images.shape == (len(labels), channels, side, side)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert labels.ndim == 1
        assert 0 <= labels.min() <= labels.max() < len(dataset.classes)
    assert len(set(dataset.classes)) == len(dataset.classes)
    assert all(type(label) is str for label in dataset.classes)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion-mnist", "folder"])
def test_a_loader_gives_what_was_written(name: str, tmp_path: Path) -> None:
    written = small_files.WRITERS[name](tmp_path, seed=3)
    assert_equal(load(name, tmp_path), written)


@pytest.mark.parametrize("name", FACTS)
def test_statistics_flip_and_padding_of(name: str, tmp_path: Path) -> None:
    small_files.WRITERS[name](tmp_path)
    dataset = load(name, tmp_path)
    facts = (dataset.mean, dataset.std, dataset.flip, dataset.padding)
    assert facts == FACTS[name]


def test_files_are_called_as_torchvision_downloads_them() -> None:
    from torchvision import datasets

    for files in (cifar.CIFAR10, cifar.CIFAR100):
        source = getattr(datasets, files.source)
        assert files.folder == source.base_folder
        assert list(files.train) == [file for file, _ in source.train_list]
        assert list(files.test) == [file for file, _ in source.test_list]
        assert files.meta == source.meta["filename"]
    assert list(fashion_mnist.CLASSES) == datasets.FashionMNIST.classes
    for part in ("train", "test"):
        assert datasets.SVHN.split_list[part][1] == f"{part}_32x32.mat"


def test_torchvision_is_not_imported_for_what_is_there(tmp_path: Path) -> None:
    program = "import sys, engine.driver; from pathlib import Path; from data import DATASETS\n"
    for name, write in small_files.WRITERS.items():
        write(tmp_path / name)
        load(name, tmp_path / name)  # into the cache
        root = f"Path({str(tmp_path / name)!r})"
        program += f"DATASETS[{name!r}].load({root}, data_seed=42, image_size=None)\n"
    program += "assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_svhn_calls_ten_zero(tmp_path: Path) -> None:
    written = small_files.write_svhn(tmp_path)
    assert (written.train_labels == 0).any()
    assert set(load("svhn", tmp_path).train_labels) == set(range(10))


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    dataset, source = load("digits", tmp_path), load_digits()
    assert len(dataset.train_images) + len(dataset.test_images) == 1797
    assert dataset.train_images.shape[1:] == dataset.test_images.shape[1:] == (1, 8, 8)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int64
    assert dataset.classes == tuple("0123456789")
    assert (dataset.padding, dataset.flip) == (1, 0)
    for label in range(10):
        images = source.images[source.target == label] * 255 / 16
        test = len(images) // 5
        mine = dataset.train_images[dataset.train_labels == label]
        assert np.abs(mine[:, 0] - images[:-test]).max() <= 0.5
        mine = dataset.test_images[dataset.test_labels == label]
        assert np.abs(mine[:, 0] - images[-test:]).max() <= 0.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_statistics_that_are_computed_are_of_the_train_part(name: str, tmp_path: Path) -> None:
    small_files.write_folder(tmp_path)
    for path in tmp_path.glob("test/*/*"):  # so that the test part's are others
        Image.new("RGB", (16, 16), (250, 250, 250)).save(path)
    dataset = load(name, tmp_path)
    values = dataset.train_images / 255
    np.testing.assert_allclose(dataset.mean, values.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(dataset.std, values.std((0, 2, 3)), rtol=1e-9)


def test_a_folder_is_mirrored_and_padded(tmp_path: Path) -> None:
    small_files.write_folder(tmp_path)
    dataset = load("folder", tmp_path)
    assert (dataset.flip, dataset.padding) == (0.5, 4)


def test_a_constant_folder_has_a_std_to_divide_by(tmp_path: Path) -> None:
    for part in ("train/a/x.png", "train/b/x.png", "test/a/x.png", "test/b/x.png"):
        (tmp_path / part).parent.mkdir(parents=True)
        Image.new("L", (8, 8), 51).save(tmp_path / part)
    dataset = load("folder", tmp_path)
    assert dataset.mean == pytest.approx((0.2,))
    assert dataset.std[0] > 0


# mini-ImageNet


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """A mini-ImageNet to read only: its root, and the filename and label of every image."""
    root = tmp_path_factory.mktemp("mini")
    return root, small_files.write_mini_imagenet(root)


def numbers_of(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Which of the images that were written are in train and in test."""
    return tuple(
        small_files.mini_imagenet_number(images).tolist()
        for images in (dataset.train_images, dataset.test_images)
    )


def test_an_image_that_mini_imagenet_names_twice_is_told(tmp_path: Path) -> None:
    small_files.write_mini_imagenet(tmp_path)
    table = tmp_path / "mini-imagenet" / "test.csv"
    row = (tmp_path / "mini-imagenet" / "train.csv").read_text().splitlines()[3]
    table.write_text(f"\ufeff{table.read_text()}{row}\n", encoding="utf-8")  # as Excel begins it
    with pytest.raises(UsageError, match=rf"images/{row.partition(',')[0]} 2 times"):
        load("mini-imagenet", tmp_path)


def test_rows_of_a_view_are_read_alone() -> None:
    from data.rows import Rows

    stored = np.arange(10 * 4 * 5 * 3, dtype=np.uint8).reshape(10, 4, 5, 3)
    rows = Rows.of(stored.transpose(0, 3, 1, 2))[np.array([9, 2, 4])]
    out = np.zeros((2, 3, 4, 5), np.uint8)
    rows.take(np.array([2, 0]), out)
    np.testing.assert_array_equal(out, stored[[4, 9]].transpose(0, 3, 1, 2))


def test_mini_imagenet_joins_the_tables_and_cuts_five_to_one(mini) -> None:
    root, rows = mini
    dataset = load("mini-imagenet", root)
    train, test = numbers_of(dataset)
    assert (len(train), len(test)) == (250, 50)
    assert sorted(train + test) == list(range(300))
    labels = [*dataset.train_labels, *dataset.test_labels]
    named = [dataset.classes[label] for label in labels]
    assert named == [rows[number][1] for number in train + test]
    assert dataset.classes == tuple(small_files.MINI_IMAGENET_CLASSES)
    for table in small_files.MINI_IMAGENET_SPLIT.values():  # all three are in both parts
        assert set(dataset.train_labels) & set(table)
        assert set(dataset.test_labels) & set(table)


def test_mini_imagenet_can_be_resized(mini) -> None:
    """The same images in the same order, each size with a cache of its own."""
    root, _ = mini
    whole, small, again = (load("mini-imagenet", root, image_size=s) for s in (None, 32, 84))
    assert small.train_images.shape[1:] == small.test_images.shape[1:] == (3, 32, 32)
    assert (small.train_labels == whole.train_labels).all()
    sizes = {path.name.rpartition("-")[0] for path in (root / "cache").iterdir()}
    assert sizes == {"mini-imagenet-84", "mini-imagenet-32"}, "none made another go"
    colours = np.asarray(whole.train_images)[:, :, 40, 40].astype(int)
    assert np.abs(np.asarray(small.train_images)[:, :, 16, 16] - colours).max() <= 2
    assert again.sha256 == whole.sha256 != small.sha256


def test_mini_imagenet_is_split_by_the_data_seed(mini) -> None:
    root, _ = mini
    first, again, other = (numbers_of(load("mini-imagenet", root, seed)) for seed in (42, 42, 43))
    assert first == again
    assert sorted(first[1]) != sorted(other[1])
    assert first[0] != sorted(first[0])


@pytest.mark.parametrize("per_class, cut", [(1, 83), (2, 166)])
def test_mini_imagenet_of_another_size_is_cut_alike(
    per_class: int, cut: int, tmp_path: Path
) -> None:
    small_files.write_mini_imagenet(tmp_path, per_class=per_class)
    dataset = load("mini-imagenet", tmp_path)
    assert len(dataset.train_labels) == cut
    assert len(dataset.test_labels) == 100 * per_class - cut


def test_mini_imagenet_of_one_table_alone(tmp_path: Path) -> None:
    small_files.write_mini_imagenet(tmp_path, per_class=1)
    for table in ("val.csv", "test.csv"):
        (tmp_path / "mini-imagenet" / table).write_text("filename,label\n")
    dataset = load("mini-imagenet", tmp_path)
    assert len(dataset.classes) == 64
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (53, 11)


def test_mini_imagenet_has_three_channels_even_if_all_is_grey_or_is_refused(
    tmp_path: Path,
) -> None:
    small_files.write_mini_imagenet(tmp_path, per_class=1)
    for path in (tmp_path / "mini-imagenet" / "images").iterdir():
        Image.new("L", (84, 84), 100).save(path)
    try:
        images = load("mini-imagenet", tmp_path).train_images
    except UsageError as error:
        assert "mini-imagenet" in str(error)  # noqa: PT017, either is right
    else:
        assert images.shape == (83, 3, 84, 84)


# Folders of images


def test_a_folder_may_call_its_test_part_val(tmp_path: Path) -> None:
    written = small_files.write_folder(tmp_path, evaluated="val")
    assert_equal(load("folder", tmp_path), written)


def test_a_folder_with_both_is_tested_on_test(tmp_path: Path) -> None:
    small_files.write_folder(tmp_path, seed=1, evaluated="val")
    written = small_files.write_folder(tmp_path, seed=2, evaluated="test")
    assert_equal(load("folder", tmp_path), written)


def test_a_grey_folder_has_one_channel(tmp_path: Path) -> None:
    written = small_files.write_folder(tmp_path, mode="L")
    dataset = load("folder", tmp_path)
    assert dataset.train_images.shape == (24, 1, 16, 16)
    assert len(dataset.mean) == len(dataset.std) == 1
    assert_equal(dataset, written)


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_colour_image_makes_a_folder_coloured(part: str, tmp_path: Path) -> None:
    written = small_files.write_folder(tmp_path, mode="L")
    coloured = tmp_path / part / "bee" / "zzz.png"
    Image.new("RGB", (16, 16), (255, 0, 10)).save(coloured)
    dataset = load("folder", tmp_path)
    images = {"train": dataset.train_images, "test": dataset.test_images}[part]
    labels = {"train": dataset.train_labels, "test": dataset.test_labels}[part]
    assert dataset.train_images.shape[1] == dataset.test_images.shape[1] == 3
    assert images[labels == 1][-1, :, 5, 5].tolist() == [255, 0, 10]
    greys = getattr(written, f"{part}_images")[0, 0]
    for channel in images[0]:
        np.testing.assert_array_equal(channel, greys)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_other_kinds_of_colour_become_red_green_blue(mode: str, tmp_path: Path) -> None:
    small_files.write_folder(tmp_path, mode="L", train=6, test=3)
    for path in tmp_path.rglob("*.png"):
        image = Image.new("RGB", (16, 16), (200, 100, 50))
        (image.quantize(4) if mode == "P" else image.convert(mode)).save(path)
    images = load("folder", tmp_path).train_images
    assert images.shape == (6, 3, 16, 16)
    assert images[:, :, 0, 0].tolist() == [[200, 100, 50]] * 6


def test_grey_of_sixteen_bits_keeps_its_shades_or_is_refused(tmp_path: Path) -> None:
    small_files.write_folder(tmp_path, mode="L", train=6, test=3)
    shades = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for path in tmp_path.rglob("*.png"):
        Image.fromarray(shades).save(path)
    try:
        images = load("folder", tmp_path).train_images
    except UsageError as error:
        assert ".png" in str(error)  # noqa: PT017, either is right
    else:
        np.testing.assert_allclose(images[0, 0].astype(int).ravel(), np.arange(256), atol=1)


def test_a_folder_is_resized(tmp_path: Path) -> None:
    small_files.write_folder(tmp_path)
    Image.new("RGB", (40, 24), (10, 20, 30)).save(tmp_path / "train" / "ant" / "zzz.png")
    dataset = load("folder", tmp_path, image_size=12)
    assert dataset.train_images.shape == (25, 3, 12, 12)
    assert dataset.test_images.shape == (6, 3, 12, 12)
    assert dataset.train_images[8, :, 6, 6].tolist() == [10, 20, 30]


def test_each_image_size_has_its_own_cache(tmp_path: Path) -> None:
    written = small_files.write_folder(tmp_path)
    assert load("folder", tmp_path, image_size=8).train_images.shape[2:] == (8, 8)
    assert_equal(load("folder", tmp_path), written)
    assert load("folder", tmp_path, image_size=8).train_images.shape[2:] == (8, 8)


def test_a_folder_may_be_of_oblong_images(tmp_path: Path) -> None:
    written = small_files.write_folder(tmp_path, size=(12, 20))
    assert_equal(load("folder", tmp_path), written)


def test_hidden_files_are_no_images_and_no_classes(tmp_path: Path) -> None:
    written = small_files.write_folder(tmp_path)
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / "train" / "ant" / ".DS_Store").write_bytes(b"\0\1")
    assert_equal(load("folder", tmp_path), written)


# Holding out


def tagged(labels: list[int] | np.ndarray) -> Dataset:
    """A data set whose images tell their position: the first two of their pixels."""
    positions = np.arange(len(labels))
    images = np.zeros((len(labels), 1, 1, 2), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = positions // 256, positions % 256
    nothing = np.zeros((1, 1, 1, 2), dtype=np.uint8)
    return Dataset(
        images, np.array(labels), nothing, np.zeros(1, np.int64), ("a", "b", "c"), (0.5,), (0.25,)
    )


def positions_of(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]


@pytest.mark.parametrize("count", [1, 3, 10, 30, 31, 299])
def test_what_is_held_out_is_balanced_disjoint_and_complete(count: int) -> None:
    dataset = tagged(np.random.default_rng(0).permutation(np.arange(300) % 3))
    parted = hold_out(dataset, count, seed=7)
    train, held = positions_of(parted.train_images), positions_of(parted.test_images)
    assert len(held) == len(parted.test_labels) == count
    assert sorted([*train, *held]) == list(range(300))
    np.testing.assert_array_equal(parted.train_labels, dataset.train_labels[train])
    np.testing.assert_array_equal(parted.test_labels, dataset.train_labels[held])
    counts = np.bincount(parted.test_labels, minlength=3)
    assert counts.max() - counts.min() <= 1


def test_a_rare_class_does_not_give_all_that_it_has() -> None:
    dataset = tagged([0] * 50 + [1] * 50 + [2] * 2)
    parted = hold_out(dataset, 22, seed=1)
    assert np.bincount(parted.train_labels).tolist() == [39, 39, 2]


def test_holding_out_depends_on_the_seed_alone() -> None:
    dataset = tagged(np.arange(300) % 3)
    first, again, other = (
        positions_of(hold_out(dataset, 30, seed).test_images).tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert set(first) != set(other)


def test_holding_out_keeps_the_facts() -> None:
    dataset = tagged(np.arange(30) % 3)
    parted = hold_out(dataset, 6, seed=1)
    for fact in ("classes", "mean", "std", "flip", "padding"):
        assert getattr(parted, fact) == getattr(dataset, fact)


@pytest.mark.parametrize("count", [0, -1, 30, 31])
def test_holding_out_everything_or_nothing_is_refused(count: int) -> None:
    dataset = tagged(np.arange(30) % 3)
    with pytest.raises(UsageError, match=f"`validation` {count}: .* 30 images; .* 3$"):
        hold_out(dataset, count, seed=1)


# The cache


@pytest.mark.parametrize("name", small_files.WRITERS)
def test_a_second_load_does_not_decode(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_files.WRITERS[name](tmp_path)
    first = load(name, tmp_path)
    forbid_decoding(name, monkeypatch)
    assert_equal(load(name, tmp_path), first)
    assert len(cache_entries(tmp_path)) == 1


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion-mnist", "folder"])
def test_changed_files_are_noticed(name: str, tmp_path: Path) -> None:
    before = small_files.WRITERS[name](tmp_path, seed=1)
    load(name, tmp_path)
    after = small_files.WRITERS[name](tmp_path, seed=2)
    for file in after.files:  # a clock may be too coarse to tell the second writing
        status = file.stat()
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert not np.array_equal(before.train_images, after.train_images)
    assert_equal(load(name, tmp_path), after)


def test_one_changed_image_is_noticed(tmp_path: Path) -> None:
    small_files.write_mini_imagenet(tmp_path, per_class=1)
    before, _ = numbers_of(load("mini-imagenet", tmp_path))
    victim = tmp_path / "mini-imagenet" / "images" / "n0000003100000000.jpg"
    status = victim.stat()
    Image.new("RGB", (84, 84), (252, 4, 0)).save(victim)  # of a number that no other has
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    dataset = load("mini-imagenet", tmp_path)
    after = [*small_files.mini_imagenet_number(dataset.train_images)]
    after += [*small_files.mini_imagenet_number(dataset.test_images)]
    assert 31 not in after
    assert 30 * 31 in after
    assert len(before) == len(dataset.train_images)


def test_images_that_come_go_or_change_class_are_noticed(tmp_path: Path) -> None:
    written = small_files.write_folder(tmp_path)
    assert len(load("folder", tmp_path).train_labels) == 24
    ants = tmp_path / "train" / "ant"
    (ants / "0000.png").rename(tmp_path / "train" / "bee" / "0000.png")
    moved = load("folder", tmp_path)
    assert np.bincount(moved.train_labels).tolist() == [7, 9, 8]
    np.testing.assert_array_equal(moved.train_images[7], written.train_images[0])
    (ants / "0001.png").unlink()
    assert len(load("folder", tmp_path).train_labels) == 23
    Image.new("RGB", (16, 16)).save(ants / "zzz.png")
    assert len(load("folder", tmp_path).train_labels) == 24


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_last_bit_flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES = {
    "images cut in half": ("train_images.npy", half),
    "images without their last byte": ("train_images.npy", lambda content: content[:-1]),
    "images of which only a header is left": ("train_images.npy", lambda content: content[:128]),
    "images with half a header": ("train_images.npy", lambda content: content[:64]),
    "no bytes of images": ("train_images.npy", lambda content: b""),
    "one bit of the images": ("train_images.npy", with_last_bit_flipped),
    "a bit of the labels": ("test_labels.npy", lambda content: content[:-8] + b"\1" * 8),
    "garbage for labels": ("test_labels.npy", lambda content: b"garbage\n" * 40),
    "zeros for labels": ("test_labels.npy", lambda content: bytes(len(content))),
    "no labels": ("test_labels.npy", None),
    "half of the checksums": ("checksums.json", half),
    "no bytes of checksums": ("checksums.json", lambda content: b""),
    "zeros for checksums": ("checksums.json", lambda content: bytes(len(content))),
    "garbage for checksums": ("checksums.json", lambda content: b"\xff\xfe garbage"),
    "checksums of nothing": ("checksums.json", lambda content: b"{}"),
    "a list of checksums": ("checksums.json", lambda content: b'["train_images"]'),
    "null for checksums": ("checksums.json", lambda content: b"null"),
    "no checksums": ("checksums.json", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = small_files.write_svhn(tmp_path)
    load("svhn", tmp_path)
    name, change = DAMAGES[damage]
    victim = cache_entries(tmp_path)[0] / name
    content = victim.read_bytes()
    victim.unlink()  # not written in place: the arrays loaded may still be mapped
    if change is not None:
        assert change(content) != content
        victim.write_bytes(change(content))
    assert_equal(load("svhn", tmp_path), written)
    forbid_decoding("svhn", monkeypatch)
    assert_equal(load("svhn", tmp_path), written)
    assert len(cache_entries(tmp_path)) == 1


def test_no_single_bit_of_a_cached_header_goes_unnoticed(tmp_path: Path) -> None:
    arrays = {"labels": np.arange(300)}
    cache.store(tmp_path / "made", arrays)
    file = tmp_path / "made" / "labels.npy"
    content = file.read_bytes()
    unnoticed = []
    for bit in range(8 * 128):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.unlink()
        file.write_bytes(damaged)
        try:
            loaded = cache.load(tmp_path / "made")
        except Exception as error:
            unnoticed.append(f"byte {bit // 8}, bit {bit % 8}: {type(error).__name__}")
            continue
        if loaded is not None and (
            loaded["labels"].dtype != np.int64
            or not np.array_equal(loaded["labels"], arrays["labels"])
        ):
            unnoticed.append(f"byte {bit // 8}, bit {bit % 8}: other values")
    assert unnoticed == []


#: Loads a folder once a file appears; each decoding adds a line to a log.
ONE_OF_SEVERAL = """
import sys, time, zlib
from pathlib import Path
from data import folder

root, gate, log = map(Path, sys.argv[1:])
decode = folder.decode_images

def slowly(*arguments):
    with open(log, "a") as file:
        file.write("decoded\\n")
    time.sleep(0.3)
    return decode(*arguments)

folder.decode_images = slowly
print("ready", flush=True)
while not gate.exists():
    time.sleep(0.001)
dataset = folder.load(root, image_size=None)
print(*(zlib.crc32(part) for part in (dataset.train_images, dataset.test_images)))
"""


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_that_start_together_share_one_cache(count: int, tmp_path: Path) -> None:
    root, gate, log = tmp_path / "root", tmp_path / "gate", tmp_path / "log"
    written = small_files.write_folder(root)
    command = [sys.executable, "-c", ONE_OF_SEVERAL, *map(str, (root, gate, log))]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(count)]
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * count
        gate.touch()
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    sums = [zlib.crc32(part) for part in (written.train_images, written.test_images)]
    assert outputs == [(" ".join(map(str, sums)) + "\n", "")] * count
    assert log.read_text().count("decoded") == 1
    assert [path.name.partition("-")[0] for path in cache_entries(root)] == ["folder"]


def forbid_writing(root: Path, patch: pytest.MonkeyPatch) -> None:
    def save(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    patch.setattr(np, "save", save)


OBSTACLES = {
    "a file is where the cache should be": lambda root, patch: (root / "cache").touch(),
    "a folder is where the lock should be": lambda root, patch: (root / ".svhn.lock").mkdir(),
    "the cache cannot be written": forbid_writing,
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_without_a_cache_images_are_decoded_in_memory(
    obstacle: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    written = small_files.write_svhn(tmp_path)
    OBSTACLES[obstacle](tmp_path, monkeypatch)
    assert_equal(load("svhn", tmp_path), written)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith(f"note: no cache in {tmp_path / 'cache'} (")
    assert list(tmp_path.glob("cache/*")) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a read-only folder")
def test_a_read_only_folder_is_decoded_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written = small_files.write_svhn(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert_equal(load("svhn", tmp_path), written)
    finally:
        tmp_path.chmod(0o755)
    assert capsys.readouterr().err.startswith("note: no cache in ")


def test_a_decoder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    written = small_files.write_svhn(tmp_path)
    written.files[1].write_bytes(b"garbage\n" * 40)
    with pytest.raises(UsageError, match=r"test_32x32\.mat"):
        load("svhn", tmp_path)
    assert list(tmp_path.glob("cache/*")) == []


@pytest.mark.parametrize("count", [1, PART - 1, PART, PART + 1, 2 * PART + 7])
def test_statistics_are_those_of_all_images(count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 2, 3), dtype=np.uint8)
    images[:, 1] //= 4
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)))
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)))


@pytest.mark.parametrize("writable", [True, False])
def test_decoded_images_are_in_a_file_if_one_can_be_made(writable: bool, tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (5, 4), (number, 100, 200)).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.glob("*.png"))
    images = decode_images(paths, tmp_path if writable else tmp_path / "nowhere")
    assert isinstance(images, np.memmap) == writable
    assert images.shape == (3, 3, 4, 5)
    assert images[:, :, 3, 4].tolist() == [[0, 100, 200], [1, 100, 200], [2, 100, 200]]
    assert len(list(tmp_path.iterdir())) == 3


# Files that are not what they should be


class Harm:
    """Pickled, a call that leaves a file; what an attacker would send."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    "name, file",
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("cifar10", "cifar-10-batches-py/test_batch"),
        ("cifar10", "cifar-10-batches-py/batches.meta"),
        ("cifar100", "cifar-100-python/test"),
        ("cifar100", "cifar-100-python/meta"),
    ],
)
def test_no_code_of_a_pickle_is_run(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_files.WRITERS[name](tmp_path)
    content = pickle.loads((tmp_path / file).read_bytes(), encoding="latin1")
    (tmp_path / file).write_bytes(pickle.dumps(content | {"more": Harm()}))
    with pytest.raises(UsageError, match=rf"{file}: .* calls .*\.mkdir"):
        load(name, tmp_path)
    assert not Path("harm").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist])
def test_cifar_as_python_3_writes_it_is_read(protocol: int, kind, tmp_path: Path) -> None:
    """Of a copy that somebody made smaller, with arrays or lists, numbers of NumPy's and bytes."""
    written = small_files.write_cifar10(tmp_path)
    for path in written.files[:-1]:
        content = pickle.loads(path.read_bytes(), encoding="latin1")
        content = {
            "data": kind(content["data"]),
            "labels": [np.int64(label) for label in content["labels"]],
            "filenames": [name.encode() for name in content["filenames"]],
        }
        path.write_bytes(pickle.dumps(content, protocol))
    assert_equal(load("cifar10", tmp_path), written)


def change_cifar(file: str, **content: object) -> Callable[[Path], None]:
    """Replace entries of a file of CIFAR-10, by values or what a function makes of the old ones."""

    def change(root: Path) -> None:
        small_files.write_cifar10(root)
        path = root / "cifar-10-batches-py" / file
        old = pickle.loads(path.read_bytes(), encoding="latin1")
        new = {key: make(old[key]) if callable(make) else make for key, make in content.items()}
        small_files.write_pickle(path, old | new)

    return change


def change_svhn(**content: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = small_files.write_svhn(root).files[1]
        old = loadmat(path)
        savemat(path, {key: content.get(key, np.asarray)(old[key]) for key in ("X", "y")})

    return change


def fashion_of(side: int, count: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        images, labels = small_files.write_fashion_mnist(root).files[2:]
        pixels = bytes(count * side * side)
        images.write_bytes(struct.pack(">4i", 0x803, count, side, side) + pixels)
        labels.write_bytes(struct.pack(">2i", 0x801, count) + bytes(count))

    return change


NO_IMAGES = dict(data=np.zeros((0, 3072), np.uint8), labels=[])
#: what is wrong: the data set, what makes it so, and what the message says
WRONG_ARRAYS = {
    "floats from 0 to 1": (
        "cifar10",
        change_cifar("test_batch", data=lambda data: data / 255),
        ["test_batch", "no whole number from 0 to 255"],
    ),
    "values above 255": (
        "cifar10",
        change_cifar("test_batch", data=lambda data: data.astype(int) + 1),
        ["test_batch", "256 is no whole number from 0 to 255"],
    ),
    "values below 0": (
        "cifar10",
        change_cifar("data_batch_1", data=lambda data: data.astype(int) - 1),
        ["data_batch_1", "-1 is no whole number from 0 to 255"],
    ),
    "text for images": (
        "cifar10",
        change_cifar("data_batch_1", data=["a", "b"]),
        ["data_batch_1", "images of"],
    ),
    "smaller images": (
        "cifar10",
        change_cifar("data_batch_2", data=lambda data: data.reshape(-1, 768)),
        ["data_batch_2", "images of 768, not of 3 x 32 x 32"],
    ),
    "half labels": (
        "cifar10",
        change_cifar("data_batch_2", labels=lambda labels: [1.5, *labels[1:]]),
        ["data_batch_2", "1.5 is no whole number from 0 to 9"],
    ),
    "labels that are not numbers": (
        "cifar10",
        change_cifar("data_batch_2", labels=lambda labels: [float("nan"), *labels[1:]]),
        ["data_batch_2", "nan is no whole number from 0 to 9"],
    ),
    "an empty test set": ("cifar10", change_cifar("test_batch", **NO_IMAGES), ["no images in it"]),
    "no names of classes": (
        "cifar10",
        change_cifar("batches.meta", label_names=7),
        ["batches.meta", "no label_names in it"],
    ),
    "SVHN of another size": (
        "svhn",
        change_svhn(X=lambda images: images[:28, :28]),
        ["test_32x32.mat", "images of 3 x 28 x 28, not of 3 x 32 x 32"],
    ),
    "SVHN of floats": (
        "svhn",
        change_svhn(X=lambda images: images / 255),
        ["test_32x32.mat", "no whole number from 0 to 255"],
    ),
    "SVHN of half labels": (
        "svhn",
        change_svhn(y=lambda labels: labels + 0.5),
        ["test_32x32.mat", "no whole number from 0 to 9"],
    ),
    "SVHN without test images": (
        "svhn",
        change_svhn(X=lambda images: images[..., :0], y=lambda labels: labels[:0]),
        ["test_32x32.mat", "no images in it"],
    ),
    "Fashion-MNIST of another size": (
        "fashion-mnist",
        fashion_of(32, 5),
        ["t10k-images-idx3-ubyte", "images of 1 x 32 x 32, not of 1 x 28 x 28"],
    ),
    "Fashion-MNIST without test images": (
        "fashion-mnist",
        fashion_of(28, 0),
        ["t10k-images-idx3-ubyte"],
    ),
}


@pytest.mark.parametrize("fault", WRONG_ARRAYS)
def test_arrays_of_wrong_values_or_sizes_are_refused(fault: str, tmp_path: Path) -> None:
    name, change, fragments = WRONG_ARRAYS[fault]
    change(tmp_path)
    with pytest.raises(UsageError) as caught:
        load(name, tmp_path)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert list(tmp_path.glob("cache/*")) == []


def test_arrays_of_another_type_but_right_values_are_read(tmp_path: Path) -> None:
    written = small_files.write_svhn(tmp_path)
    for path in written.files:
        old = loadmat(path)
        savemat(path, {key: old[key].astype(float) for key in ("X", "y")})
    assert_equal(load("svhn", tmp_path), written)


def test_one_image_alone_has_no_test_part(tmp_path: Path) -> None:
    small_files.write_mini_imagenet(tmp_path, per_class=1)
    for table, rows in (("train.csv", 1), ("val.csv", 0), ("test.csv", 0)):
        path = tmp_path / "mini-imagenet" / table
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: 1 + rows]))
    with pytest.raises(UsageError, match="tables name 1 images, and training and testing need one"):
        load("mini-imagenet", tmp_path)


# Links, and names that are no plain text


LINKS = {
    "a class linked to nothing": ("train/dog", "../nowhere", "train/dog: a link to nothing"),
    "a class linked to itself": ("train/dog", "dog", "train/dog: a link to nothing"),
    "an image linked to nothing": ("test/ant/x.png", "x", "test/ant/x.png: a link to nothing"),
    "an image linked to itself": ("train/ant/x.png", "x.png", "ant/x.png: a link to nothing"),
    "a link upwards": ("train/ant/up", "..", "train/ant/up: a link to a folder inside of a class"),
}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_would_be_skipped_is_refused(link: str, tmp_path: Path) -> None:
    path, target, message = LINKS[link]
    small_files.write_folder(tmp_path)
    (tmp_path / path).symlink_to(target)
    with pytest.raises(UsageError, match=message):
        load("folder", tmp_path)


def test_links_to_classes_and_images_are_followed(tmp_path: Path) -> None:
    written = small_files.write_folder(tmp_path)
    (tmp_path / "train/bee").rename(tmp_path / "elsewhere")
    (tmp_path / "train/bee").symlink_to("../elsewhere")
    (tmp_path / "train/ant/0000.png").rename(tmp_path / "image")
    (tmp_path / "train/ant/0000.png").symlink_to(tmp_path / "image")
    assert_equal(load("folder", tmp_path), written)


def test_a_pipe_among_images_is_refused(tmp_path: Path) -> None:
    small_files.write_folder(tmp_path)
    os.mkfifo(tmp_path / "train/ant/pipe.png")
    with pytest.raises(UsageError, match=r"pipe\.png: not a file"):
        load("folder", tmp_path)


def test_a_mini_imagenet_image_that_is_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    small_files.write_mini_imagenet(tmp_path, per_class=1)
    image = tmp_path / "mini-imagenet/images/n0000000000000000.jpg"
    image.unlink()
    image.symlink_to(image.name)
    with pytest.raises(UsageError, match=rf"{image.name}: cannot be read \(Too many levels"):
        load("mini-imagenet", tmp_path)


def test_names_need_not_be_utf_8(tmp_path: Path) -> None:
    names = [os.fsdecode(name) for name in (b"a\xff", b"b\nc", "é".encode())]
    written = small_files.write_folder(tmp_path, classes=names)
    assert_equal(load("folder", tmp_path), written)
    small_files.write_mini_imagenet(tmp_path, per_class=1)
    mini = tmp_path / "mini-imagenet"
    image = mini / "images" / "n0000000000000000.jpg"
    image.rename(mini / "images" / os.fsdecode(b"\xff.jpg"))
    table = (mini / "train.csv").read_bytes()
    (mini / "train.csv").write_bytes(table.replace(image.name.encode(), b"\xff.jpg"))
    assert len(load("mini-imagenet", tmp_path).train_labels) == 83


# Identity


@pytest.mark.parametrize("name", [*small_files.WRITERS, "digits"])
def test_data_are_told_by_their_content(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by where they lie, nor whether they were decoded anew; and not by splits."""
    found = {}
    for seed, root in ((1, "a"), (1, "b"), (2, "c")):
        if name in small_files.WRITERS:
            small_files.WRITERS[name](tmp_path / root, seed=seed)
        found[root] = load(name, tmp_path / root).sha256
    assert len(found["a"]) == 64
    assert found["a"] == found["b"]
    assert (found["a"] == found["c"]) == (name == "digits")
    assert load(name, tmp_path / "a", data_seed=7).sha256 == found["a"]
    if name != "digits":
        forbid_decoding(name, monkeypatch)
        monkeypatch.setattr(cache, "content_digest", None)  # is not worked out at each start
        assert load(name, tmp_path / "a").sha256 == found["a"]


def test_labels_are_part_of_the_content(tmp_path: Path) -> None:
    small_files.write_folder(tmp_path)
    before = load("folder", tmp_path).sha256
    (tmp_path / "train/bee").rename(tmp_path / "train/ants")  # its images come in the same order
    (tmp_path / "test/bee").rename(tmp_path / "test/ants")
    assert load("folder", tmp_path).sha256 == before
    last = tmp_path / "train/ant/0007.png"
    last.rename(tmp_path / "train/ants/0000.png")
    assert load("folder", tmp_path).sha256 != before


@pytest.mark.parametrize("threads", [1, 3])
def test_images_are_decoded_by_the_threads_of_pytorch(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(image_files, "TASK", 2)
    written = small_files.write_folder(tmp_path)
    working, decode = set(), image_files.decode_image

    def decode_slowly(*arguments) -> np.ndarray:
        working.add(threading.get_ident())
        time.sleep(0.01)  # so that each of the threads gets a part of the work
        return decode(*arguments)

    monkeypatch.setattr(image_files, "decode_image", decode_slowly)
    assert_equal(load("folder", tmp_path), written)
    assert len(working) == threads

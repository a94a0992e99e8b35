"""Image files in one pack: the pixels, the crops, what is damaged, and runs on them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_refused
from PIL import Image
from torchvision.transforms import v2

from augmentations import AUGMENTATIONS
from augmentations.geometry import random_resized_boxes
from data import DATASETS, PackedRows
from data.packed import MODES, SCALES, SHORTER, open_images, packed, read_jpeg
from engine.images import PackedImages
from engine.loader import Loader
from errors import Failed, UsageError

SIDE = 16
KINDS = ("jpg", "jpg", "png", "jpg")  # of the images of a class, in turn


def write_folder(root: Path, count: int = 24) -> Path:
    """Two classes of smooth images of many sizes, which a network can tell apart."""
    rng = np.random.default_rng(0)
    for part, images in (("train", count), ("test", 8)):
        for label in range(2):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(images):
                width, height = rng.integers(40, 90, 2)
                coarse = rng.integers(0, 128, (4, 4, 3), dtype=np.uint8)
                coarse[..., label] += 120
                image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
                image.save(folder / f"{number:02}.{KINDS[number % len(KINDS)]}", quality=95)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images")


def load(folder: Path) -> PackedRows:
    images = DATASETS["folder"].load(folder, data_seed=0, image_size=SIDE, cache="jpeg")
    assert isinstance(images.train_images, PackedRows)
    return images.train_images


def files(folder: Path) -> list[Path]:
    return sorted((folder / "train").rglob("*.*"))


def test_a_whole_image_is_what_pillow_makes_of_it(folder: Path) -> None:
    """Where the box is too small for a JPEG file to be decoded at half its size."""
    rows = load(folder)
    for row, path in enumerate(files(folder)):
        image = Image.open(path).convert("RGB")
        expected = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(5, 3, 33, 33))
        out = np.empty((3, SIDE, SIDE), np.uint8)
        rows.decode(row, (3, 5, 30, 28), out)  # top, left, height, width
        np.testing.assert_array_equal(out, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1, *SCALES])
@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_file_is_read_as_pillow_reads_it(mode: str, scale: int, kind: dict) -> None:
    rng = np.random.default_rng(2)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((77, 131), Image.Resampling.BICUBIC).convert(mode).save(file, "jpeg", **kind)
    expected = Image.open(file)
    expected.draft(None, (77 // scale, 131 // scale))
    found = read_jpeg(file.getvalue(), mode, (77, 131), scale)
    assert found.mode == mode
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_a_jpeg_decoded_at_reduced_scale_is_nearly_the_whole_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    large = coarse.resize((400, 320), Image.Resampling.BICUBIC)
    path = tmp_path / "train" / "a" / "large.jpg"
    path.parent.mkdir(parents=True)
    large.save(path, quality=95)
    rows = PackedRows(packed(tmp_path, "folder", [path]), np.arange(1), SIDE)
    out = np.empty((3, SIDE, SIDE), np.uint8)
    rows.decode(0, (20, 40, 256, 256), out)
    whole = Image.open(path).convert("RGB").crop((40, 20, 296, 276))
    expected = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(out.astype(int) - expected).mean() < 2


def test_evaluation_sees_the_centre_as_torchvision_crops_it(folder: Path) -> None:
    """But for its rounding of the crop's place to whole pixels."""
    rows, side = load(folder), 112
    large = PackedRows(rows.pack, rows.index, side)
    transform = v2.Compose([v2.Resize(round(side * SHORTER)), v2.CenterCrop(side)])
    for image, path in zip(np.asarray(large), files(folder)):
        expected = np.asarray(transform(Image.open(path).convert("RGB"))).transpose(2, 0, 1)
        assert np.abs(image.astype(int) - expected).mean() < 2


def test_boxes_follow_torchvisions_law() -> None:
    """Means and quantiles of 20,000 boxes each; a false alarm in fewer than 1 of 1,000 runs."""
    sizes, count = (120, 200), 20_000
    ours = random_resized_boxes(np.tile(sizes, (count, 1)), np.random.default_rng(0))
    torch.manual_seed(0)
    image = torch.empty(3, *sizes)
    get = v2.RandomResizedCrop(SIDE).make_params
    theirs = np.array(
        [[get([image])[name] for name in ("top", "left", "height", "width")] for _ in range(count)]
    )
    for mine, their in zip(ours.T, theirs.T):
        scale = their.std()
        assert abs(mine.mean() - their.mean()) < 4 * scale * np.sqrt(2 / count)
        for share in (0.1, 0.5, 0.9):
            below = (
                (mine <= np.quantile(their, share)).mean(),
                (their <= np.quantile(their, share)).mean(),
            )
            assert abs(below[0] - below[1]) < 4.5 * np.sqrt(share * (1 - share) * 2 / count)


def test_boxes_lie_in_their_images_and_a_long_one_gets_its_centre() -> None:
    sizes = np.array([[4, 400], [400, 4], [30, 31], [1, 1]] * 50)
    top, left, tall, wide = random_resized_boxes(sizes, np.random.default_rng(0)).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (tall > 0).all()
    assert (wide > 0).all()
    assert (top + tall <= sizes[:, 0]).all()
    assert (left + wide <= sizes[:, 1]).all()


def draws(rows: PackedRows, start: int, monkeypatch: pytest.MonkeyPatch, threads: int) -> list:
    """The images of the batches from one on, as many threads decode them."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    images = PackedImages(rows, torch.device("cpu"), seed=5)
    images.ahead = threads - 1  # as on a GPU, where there are several
    batches = [torch.arange(number, number + 8) % len(rows) for number in range(0, 48, 8)]
    images.prefetch(batches[start:], start, 4)
    images.prefetch(batches[start:], 2 * start, 4)  # anew, as a method's next draw does
    return [images.next(batch) for batch in batches[start:]]


def test_what_is_seen_depends_on_no_thread_and_on_no_resumption(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = load(folder)
    one, four = (draws(rows, 0, monkeypatch, threads) for threads in (1, 4))
    assert all(map(torch.equal, one, four))
    assert all(map(torch.equal, one[2:], draws(rows, 2, monkeypatch, 4)))
    assert not torch.equal(one[0], one[-1])


def test_a_loader_goes_on_at_the_end_of_a_block(folder: Path) -> None:
    """As on a GPU, where images are decoded ahead; the block has as many batches as a group."""
    dataset = DATASETS["folder"].load(folder, data_seed=0, image_size=SIDE, cache="jpeg")
    loaders = [Loader(dataset, AUGMENTATIONS["standard"](), torch.device("cpu"), 0) for _ in "ab"]
    block = torch.arange(8).view(4, 2)
    batches = []
    for loader in loaders:
        loader.images.ahead = 4
    first, fresh = loaders
    first.refill(block)
    for _ in range(4):
        first.next()
    fresh.load_state_dict(first.state_dict())
    for loader in loaders:
        loader.refill(block)
        batches.append(loader.next().images)
    assert torch.equal(*batches)


def test_a_pack_is_closed_with_the_last_that_reads_it(folder: Path) -> None:
    import gc

    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        rows = load(folder)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        del rows
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("ahead", [0, 4])
def test_evaluation_in_parts_is_the_whole(ahead: int, folder: Path) -> None:
    rows = load(folder)
    images = PackedImages(rows, torch.device("cpu"), seed=5)
    images.ahead = ahead
    parts = [images.between(0, 20), images.between(20, 40), images.between(40, 48)]
    np.testing.assert_array_equal(torch.cat(parts), np.asarray(rows))
    assert torch.equal(images.between(5, 7), torch.cat(parts)[5:7])


def test_a_pack_is_made_once_and_anew_for_changed_files(folder: Path) -> None:
    load(folder)
    (pack,) = (folder / "cache").glob("*.pack")
    before = pack.stat().st_mtime_ns
    load(folder)
    assert pack.stat().st_mtime_ns == before
    Image.new("RGB", (50, 50)).save(files(folder)[0])
    load(folder)
    (changed,) = (folder / "cache").glob("*.pack")
    assert changed.name != pack.name


@pytest.mark.parametrize("place", [-1, -20, -60, "cut", "empty"])
def test_a_pack_whose_index_is_damaged_is_made_anew(place: int | str, folder: Path) -> None:
    expected = np.asarray(load(folder))
    (pack,) = (folder / "cache").glob("*.pack")
    content = bytearray(pack.read_bytes())
    if place == "cut":
        del content[-1000:]
    elif place == "empty":
        content.clear()
    else:
        content[place] ^= 255
    pack.write_bytes(content)
    assert open_images(pack) is None
    np.testing.assert_array_equal(np.asarray(load(folder)), expected)


def test_damaged_bytes_are_not_decoded(folder: Path) -> None:
    load(folder)
    (pack,) = (folder / "cache").glob("*.pack")
    content = bytearray(pack.read_bytes())
    content[200] ^= 255
    pack.write_bytes(content)
    with pytest.raises(Failed, match="damaged; remove it"):
        np.asarray(load(folder))


def test_what_is_not_an_image_is_named(folder: Path) -> None:
    files(folder)[3].write_text("no image")
    with pytest.raises(UsageError, match="truncated or not an image"):
        load(folder)
    cut = files(folder)[3]
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(stream, "JPEG")
    cut.write_bytes(stream.getvalue()[:-400])
    with pytest.raises(Failed, match=f"{cut.name}: truncated or not an image"):
        np.asarray(load(folder))


SMALL = ("--dataset", "folder", "--cache", "jpeg", "--image-size", str(SIDE), "--epochs", "6")
SMALL += ("--model", "resnet10-w8", "--batch-size", "8", "--budget", "0.5", "--device", "cpu")


def test_a_run_on_a_pack_learns_and_goes_on_to_the_byte(
    train_here: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*SMALL, "--data-dir", folder, "--lr", "0.02", "--validation", "8")
    whole = train_here(*words, "--experiment-name", "whole")
    assert whole.returncode == 0, whole.stderr
    for method in ("dro", "selective-backprop"):
        made = train_here(*words, "--method", method, "--augmentation", "ricap")
        assert made.returncode == 0, made.stderr
    from engine.log import RunLog

    end_step = RunLog.end_step

    def stop(self, trainer, epoch_before) -> None:
        end_step(self, trainer, epoch_before)
        if trainer.step == 5:
            self.signals.note(15, None)
            self.signals.checkpoint = True

    monkeypatch.setattr(RunLog, "end_step", stop)
    train_here(*words, "--experiment-name", "stopped", "--checkpoint-every", "1steps")
    monkeypatch.setattr(RunLog, "end_step", end_step)
    again = train_here(*words, "--experiment-name", "stopped")
    assert again.returncode == 0, again.stderr
    models = [Path("results", name, "model.pt").read_bytes() for name in ("whole", "stopped")]
    assert models[0] == models[1]


def test_where_a_pack_makes_no_sense(train_here: Callable, folder: Path) -> None:
    assert_refused(train_here("--cache", "jpeg"), "--cache jpeg: only of folder")
    words = ("--dataset", "folder", "--data-dir", folder, "--cache", "jpeg")
    assert_refused(train_here(*words), "--cache jpeg: crops need a size", "--image-size")
    assert_refused(train_here("--cache", "png"), "--cache", "uint8, jpeg")

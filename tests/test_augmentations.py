"""Augmentations against slow references, and the stream of batches made with them.

Images are painted so that every pixel tells where it comes from. Comparisons of frequencies use
fixed seeds; each fails a right implementation at the rate FALSE_ALARM.
"""

import functools
import inspect
import io
import itertools
import typing
from collections import Counter

import numpy as np
import pytest
import torch
from laws import FALSE_ALARM, assert_law, assert_outcomes
from scipy import stats

from augmentations import (
    AUGMENTATIONS,
    RICAP,
    Augmentation,
    CutMix,
    Cutout,
    Mixup,
    RandAugment,
    TrivialAugment,
    randaugment,
    trivialaugment,
)
from augmentations.geometry import CropAndFlip, normalise
from augmentations.operations import apply_each, operations
from budgetbench.mixing import Mixed
from data import Dataset
from engine.loader import Loader

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


# --- Helpers ---


def painted(count: int, height: int, width: int) -> torch.Tensor:
    """uint8 [count, 3, height, width]: number of the image, row and column, each plus one."""
    image, row, column = np.indices((count, height, width)) + 1
    return torch.from_numpy(np.stack([image, row, column], 1).astype(np.uint8))


def noise(*shape: int, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def is_permutation(rows: torch.Tensor) -> bool:
    return sorted(rows.tolist()) == list(range(len(rows)))


# --- Crop and flip ---


def crop_slowly(image: np.ndarray, padding: int, top: int, left: int, mirror: bool) -> np.ndarray:
    """One crop [c, h, w] of a zero-padded image, pixel by pixel, then mirrored."""
    height, width = image.shape[1:]
    crop = np.zeros_like(image)
    for y, x in itertools.product(range(height), range(width)):
        from_y, from_x = top + y - padding, left + x - padding
        if 0 <= from_y < height and 0 <= from_x < width:
            crop[:, y, width - 1 - x if mirror else x] = image[:, from_y, from_x]
    return crop


def explanations(image: torch.Tensor, result: torch.Tensor, padding: int) -> list[tuple]:
    """All (top, left, mirrored) by which the result can come from the image."""
    places = range(2 * padding + 1)
    return [
        (top, left, mirror)
        for top, left, mirror in itertools.product(places, places, (False, True))
        if np.array_equal(crop_slowly(image.numpy(), padding, top, left, mirror), result)
    ]


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "channels, height, width, padding",
    [(3, 6, 6, 2), (1, 8, 8, 1), (3, 5, 9, 2), (1, 9, 4, 2), (2, 5, 4, 0)],
)
def test_crop_and_flip_against_a_slow_reference(channels, height, width, padding, flip):
    """Each image is one crop of its own zero-padded self, of all channels alike."""
    images = noise(12, channels, height, width)
    given = images.clone()
    results = CropAndFlip(padding, flip)(images, np.random.default_rng(0))
    assert results.dtype == torch.uint8
    assert results.shape == images.shape
    assert torch.equal(images, given), "the training set was changed"
    for image, result in zip(images, results):
        found = explanations(image, result, padding)
        assert len(found) == 1
        assert flip == 0.5 or found[0][2] == (flip == 1)


def test_one_batch_leaves_nothing_for_the_next():
    """Also of another size: the padded batch is kept from one to the next."""
    used = CropAndFlip(2, 0.5)
    for seed, size in enumerate([(9, 3, 6, 6), (9, 3, 6, 6), (4, 3, 6, 6), (4, 1, 8, 7)]):
        images = noise(*size, seed=seed)
        results = used(images, np.random.default_rng(seed))
        assert torch.equal(results, CropAndFlip(2, 0.5)(images, np.random.default_rng(seed)))


def test_padding_is_zero():
    """At the far corner, half of a white image has turned black."""
    white = torch.full((200, 1, 4, 4), 255, dtype=torch.uint8)
    results = CropAndFlip(2, 0.0)(white, np.random.default_rng(0))
    assert set(results.unique().tolist()) == {0, 255}
    area = (results == 255).sum((1, 2, 3))
    assert area.min() == 4
    assert area.max() == 16


@functools.cache
def crops_of_one_image() -> tuple[tuple, ...]:
    """What happened to each of 3,000 copies of an image, in three batches of one generator."""
    image, rng = noise(1, 1, 5, 5), np.random.default_rng(4)
    meaning = {
        crop_slowly(image[0].numpy(), 2, top, left, mirror).tobytes(): (top, left, mirror)
        for top, left, mirror in itertools.product(range(5), range(5), (False, True))
    }
    assert len(meaning) == 50
    copies = image.expand(1000, -1, -1, -1)
    crop_and_flip = CropAndFlip(2, 0.5)
    batches = [crop_and_flip(copies, rng) for _ in range(3)]
    return tuple(meaning[result.numpy().tobytes()] for result in torch.cat(batches))


def test_crop_places_and_flips_are_uniform_and_independent():
    """Within a batch: each image has its own place and its own coin."""
    counts = Counter(crops_of_one_image())
    cells = itertools.product(range(5), range(5), (False, True))
    assert_law([counts[cell] for cell in cells], np.ones(50))


def test_neighbours_in_a_batch_are_cropped_independently():
    drawn = crops_of_one_image()
    pairs = Counter((one[0], other[0]) for one, other in zip(drawn[::2], drawn[1::2]))
    assert_law([pairs[cell] for cell in itertools.product(range(5), repeat=2)], np.ones(25))
    coins = Counter((one[2], other[2]) for one, other in zip(drawn[::2], drawn[1::2]))
    assert_law([coins[cell] for cell in itertools.product((False, True), repeat=2)], np.ones(4))
    assert drawn[:1000] != drawn[1000:2000], "two batches were cropped alike"


def test_flip_follows_its_probability():
    images = torch.tensor([1, 2], dtype=torch.uint8).expand(4000, 1, 1, 2)
    mirrored = CropAndFlip(0, 0.2)(images, np.random.default_rng(0))[:, 0, 0, 0] == 2
    assert_law([mirrored.sum(), (~mirrored).sum()], [0.2, 0.8])


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise(channels):
    """All 256 values of each channel, with its own mean and std."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, channels, 16, 16)
    mean, std = np.array([0.5, 0.1, 0.9])[:channels], np.array([0.25, 1.0, 0.03])[:channels]
    results = normalise(images, torch.tensor(mean).float(), torch.tensor(std).float())
    values = np.arange(256).reshape(16, 16) / 255
    expected = (values - mean[:, None, None]) / std[:, None, None]
    assert results.dtype == torch.float32
    assert results.shape == images.shape
    np.testing.assert_allclose(results[0], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(results[0], results[1])


# --- Options, and what holds for every mixing ---


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_options_are_complete(name):
    """The command line is made of them: type, default, help and bounds."""
    constructor = AUGMENTATIONS[name]
    hints = typing.get_type_hints(constructor.__init__, include_extras=True)
    for parameter in inspect.signature(constructor).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not parameter.empty
        assert typing.get_origin(hints[parameter.name]) is typing.Annotated
        kind, facts = typing.get_args(hints[parameter.name])
        kinds = typing.get_args(kind) or (kind,)
        assert len(set(kinds) & {int, float, bool}) == 1
        assert type(parameter.default) in kinds
        assert set(facts) <= {"help", "low", "high", "above", "below"}
        assert len(facts["help"]) > 20


def test_published_defaults():
    defaults = {
        name: {
            option: parameter.default
            for option, parameter in inspect.signature(constructor).parameters.items()
        }
        for name, constructor in AUGMENTATIONS.items()
    }
    published = {
        "standard": {},
        "mixup": {"alpha": 0.3},
        "ricap": {"alpha": 0.3},
        "cutmix": {"cutmix_alpha": 1.0},
        "cutout": {"cutout_size": None},
        "randaugment": {"randaugment_n": 2, "randaugment_m": 4},
        "trivialaugment": {},
    }
    assert {name: defaults[name] for name in published} == published


def sources_of(mixed: Mixed) -> torch.Tensor:
    """Rows [K, b] that images are made of, also where nothing is mixed."""
    return mixed.owners()[None] if mixed.sources is None else mixed.sources


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("batch_size", [1, 2, 31])
def test_every_image_owns_exactly_one_mixed_image(name, batch_size):
    images = painted(batch_size, 5, 7).float()
    rng = np.random.default_rng(0)
    for _ in range(50):
        given = images.clone()
        mixed = AUGMENTATIONS[name]().mix(given, rng)
        assert torch.equal(given, images), "the batch was changed, of which sources are read"
        assert mixed.images.shape == images.shape
        assert mixed.images.dtype == torch.float32
        sources = sources_of(mixed)
        assert sources.shape == (len(mixed.fractions), batch_size)
        assert all(map(is_permutation, sources))
        assert sum(mixed.fractions) == pytest.approx(1, abs=1e-9)
        assert min(mixed.fractions) >= 0
        largest = int(np.argmax(mixed.fractions))
        assert torch.equal(mixed.owners(), sources[largest])


@pytest.mark.parametrize("name", ["standard", "randaugment", "trivialaugment"])
def test_augmentations_that_do_not_mix(name):
    images = painted(9, 4, 4).float()
    mixed = AUGMENTATIONS[name]().mix(images, np.random.default_rng(0))
    assert torch.equal(mixed.images, images)
    assert sources_of(mixed).tolist() == [list(range(9))]
    assert mixed.owners().tolist() == list(range(9))
    assert mixed.fractions == (1.0,)


@pytest.mark.parametrize("name", ["standard", "mixup", "ricap", "cutmix", "cutout"])
def test_augmentations_that_do_not_transform(name):
    images = noise(9, 3, 4, 4)
    assert torch.equal(AUGMENTATIONS[name]().transform(images, np.random.default_rng(0)), images)


@pytest.mark.cuda
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_gpu_has_the_draws_and_results_of_a_cpu(name):
    """But for pixels half-way between two, where a last digit decides."""
    images, augmentation = noise(300, 3, 32, 32), AUGMENTATIONS[name]()
    changed, changed_there = (
        augmentation.transform(images.to(device), np.random.default_rng(0))
        for device in ("cpu", "cuda")
    )
    assert changed_there.device.type == "cuda"
    assert (levels_apart(changed, changed_there.cpu()) > 1).float().mean() < 0.01
    mixed, mixed_there = (
        augmentation.mix(images.float().to(device), np.random.default_rng(0))
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(mixed_there.images.cpu(), mixed.images, atol=1e-3, rtol=0)
    assert torch.equal(sources_of(mixed_there).cpu(), sources_of(mixed))
    assert mixed_there.fractions == mixed.fractions


# --- mixup ---


@pytest.mark.parametrize("shape", [(16, 3, 5, 7), (3, 1, 4, 4)])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_mixup_pixel_by_pixel(shape, alpha):
    """lambda of the image itself and the rest of its partner, at every pixel."""
    images, rng = noise(*shape).float(), np.random.default_rng(1)
    for _ in range(20):
        mixed = Mixup(alpha=alpha).mix(images, rng)
        assert len(mixed.fractions) == 2
        assert mixed.sources[0].tolist() == list(range(len(images)))
        for row in range(len(images)):
            one, other = (images[source].double() for source in mixed.sources[:, row])
            expected = mixed.fractions[0] * one + mixed.fractions[1] * other
            np.testing.assert_allclose(mixed.images[row], expected, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_mixup_share_follows_the_beta_distribution(alpha):
    images, rng, mixup = torch.zeros(2, 1, 1, 1), np.random.default_rng(2), Mixup(alpha=alpha)
    shares = [mixup.mix(images, rng).fractions[0] for _ in range(3000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > FALSE_ALARM


def test_mixup_partners_are_uniform():
    images, rng = torch.zeros(4, 1, 1, 1), np.random.default_rng(3)
    partners = Counter(tuple(Mixup().mix(images, rng).sources[1].tolist()) for _ in range(2400))
    assert_law([partners[order] for order in itertools.permutations(range(4))], np.ones(24))


@pytest.mark.parametrize("name", ["mixup", "ricap"])
def test_extreme_shares(name):
    """Beta(0.001, 0.001) gives shares of zero and one, and for RICAP quadrants without pixels."""
    images, rng = painted(8, 6, 5).float(), np.random.default_rng(0)
    augmentation = AUGMENTATIONS[name](alpha=0.001)
    winners = set()
    for _ in range(60):
        mixed = augmentation.mix(images, rng)
        if max(mixed.fractions) > 1 - 1e-6:
            winners.add(int(np.argmax(mixed.fractions)))
            torch.testing.assert_close(mixed.images, images[mixed.owners()], atol=1e-3, rtol=0)
    assert winners == set(range(len(mixed.fractions))), "not every extreme was seen"


# --- RICAP ---


def split_of(patched: torch.Tensor) -> tuple[int, int]:
    """Height and width [pixels] of the upper left quadrant of painted images.

    A border shows in the image number (of some image) or in a jump of its row or column. One at
    the edge of the image leaves no trace: it is given as height or width.
    """
    number, row, column = patched.unbind(1)
    across = (number.diff(dim=1) != 0) | (row.diff(dim=1) != 1)
    along = (number.diff(dim=2) != 0) | (column.diff(dim=2) != 1)
    below = across.any(2).any(0).nonzero().flatten().tolist()
    right = along.any(1).any(0).nonzero().flatten().tolist()
    assert len(below) <= 1
    assert len(right) <= 1
    height, width = patched.shape[-2:]
    return (below[0] + 1 if below else height), (right[0] + 1 if right else width)


@pytest.mark.parametrize("shape", [(16, 6, 6), (16, 5, 8), (5, 9, 4)])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_ricap_pixel_by_pixel(shape, alpha):
    """Four crops of the sources, each of its quadrant's size, inside its image, whole."""
    height, width = shape[1:]
    images, rng = painted(*shape).float(), np.random.default_rng(1)
    seen = Counter()
    for _ in range(40):
        mixed = RICAP(alpha=alpha).mix(images, rng)
        patched = mixed.images.int().numpy()
        split = split_of(mixed.images)
        # A border at the edge of the image shows in no pixel; the shares tell which edge it is.
        edges = [(0, height) if split[0] == height else (split[0],)]
        edges += [(0, width) if split[1] == width else (split[1],)]
        h, w = next(
            (h, w)
            for h, w in itertools.product(*edges)
            if np.allclose(mixed.fractions, shares_of(h, w, height, width))
        )
        quadrants = [
            (0, h, 0, w),
            (0, h, w, width),
            (h, height, 0, w),
            (h, height, w, width),
        ]
        for number, (top, bottom, left, right) in enumerate(quadrants):
            if bottom == top or right == left:
                continue
            places = set()
            for image, source in zip(patched, mixed.sources[number].tolist()):
                y, x = image[1:, top, left] - 1
                places.add((y, x))
                assert 0 <= y <= height - (bottom - top)
                assert 0 <= x <= width - (right - left)
                for i, j in itertools.product(range(bottom - top), range(right - left)):
                    expected = (source + 1, y + i + 1, x + j + 1)
                    assert tuple(image[:, top + i, left + j]) == expected
            assert len(places) == 1, "places are drawn once per batch"
            seen[number] += 1
    assert min(seen[number] for number in range(4)) > 5


def shares_of(h: int, w: int, height: int, width: int) -> np.ndarray:
    """Shares of the area of the four quadrants, by rows, that meet at (h, w)."""
    return np.outer([h, height - h], [w, width - w]).reshape(-1) / (height * width)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_ricap_corner_is_a_rounded_beta(alpha):
    """Both coordinates, independently: round(H * beta) and round(W * beta), of unlike H and W."""
    height, width = 4, 5
    images, rng, ricap = (
        torch.zeros(1, 1, height, width),
        np.random.default_rng(5),
        RICAP(alpha=alpha),
    )
    corners = Counter()
    for _ in range(3000):
        shares = ricap.mix(images, rng).fractions
        corners[
            round((shares[0] + shares[1]) * height), round((shares[0] + shares[2]) * width)
        ] += 1
    cells = list(itertools.product(range(height + 1), range(width + 1)))
    law = np.outer(*(rounded_beta(alpha, side) for side in (height, width))).reshape(-1)
    assert_law([corners[cell] for cell in cells], law)


def rounded_beta(alpha: float, side: int) -> np.ndarray:
    """Probability that round(side * beta) is 0..side."""
    bounds = np.clip((np.arange(side + 2) - 0.5) / side, 0, 1)
    return np.diff(stats.beta(alpha, alpha).cdf(bounds))


def test_ricap_crop_places_are_uniform():
    """Of the upper left quadrant: every place at which it fits, for each of its sizes."""
    images, rng, ricap = painted(2, 4, 4).float(), np.random.default_rng(6), RICAP(alpha=1.0)
    counts = Counter()
    for _ in range(3000):
        mixed = ricap.mix(images, rng)
        h = round((mixed.fractions[0] + mixed.fractions[1]) * 4)
        w = round((mixed.fractions[0] + mixed.fractions[2]) * 4)
        if h and w:
            counts[(h, w, *(mixed.images[0, 1:, 0, 0].int() - 1).tolist())] += 1
    for h, w in itertools.product((1, 2, 3), repeat=2):
        places = list(itertools.product(range(5 - h), range(5 - w)))
        assert_law([counts[h, w, *place] for place in places], np.ones(len(places)))
    assert set(counts) <= set(
        (h, w, y, x)
        for h, w in itertools.product(range(1, 5), repeat=2)
        for y, x in itertools.product(range(5 - h), range(5 - w))
    )


def test_ricap_permutations_are_independent():
    images, rng = torch.zeros(2, 1, 2, 2), np.random.default_rng(7)
    firsts = Counter(tuple(RICAP().mix(images, rng).sources[:, 0].tolist()) for _ in range(1600))
    assert_law([firsts[rows] for rows in itertools.product((0, 1), repeat=4)], np.ones(16))


# --- CutMix ---


def box_of(mixed: Mixed, images: torch.Tensor) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right of the box in painted images, the same in all; None: no box.

    Every pixel has to be the image's own or, inside, its partner's from the same place.
    """
    own, partners = mixed.sources
    assert own.tolist() == list(range(len(images)))
    assert (own != partners).any(), "nothing shows where each image is its own partner"
    pasted = (mixed.images != images).any(1)
    assert torch.equal(pasted, pasted.any(0) & (own != partners)[:, None, None])
    expected = torch.where(pasted[:, None], images[partners], images)
    assert torch.equal(mixed.images, expected)
    rows, columns = (pasted.any(0).any(side).nonzero().flatten() for side in (1, 0))
    if not len(rows):
        return None
    box = (rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1)
    assert len(rows) * len(columns) == pasted.any(0).sum() == area_of(box)
    return box


def area_of(box: tuple[int, int, int, int] | None) -> int:
    return (box[1] - box[0]) * (box[3] - box[2]) if box else 0


def box_law(alpha: float, height: int, width: int) -> dict:
    """Probability of each box: by intervals of lambda between whose ends both sizes are fixed."""
    ends = {1 - (2 * k / side) ** 2 for side in (height, width) for k in range(side // 2 + 1)}
    ends = sorted(ends | {0.0})
    law = Counter()
    for low, high in itertools.pairwise(ends):
        chance = np.diff(stats.beta(alpha, alpha).cdf([low, high])).item()
        scale = np.sqrt(1 - (low + high) / 2)
        h, w = int(height * scale / 2), int(width * scale / 2)
        for y, x in itertools.product(range(height), range(width)):
            box = (max(y - h, 0), min(y + h, height), max(x - w, 0), min(x + w, width))
            law[box if h and w else None] += chance / (height * width)
    assert sum(law.values()) == pytest.approx(1)
    return dict(law)


@pytest.mark.parametrize("height, width", [(7, 5), (5, 11), (9, 8)])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmix_boxes_follow_their_law_and_shares_are_what_is_left_in_the_image(
    alpha, height, width
):
    images, rng = painted(8, height, width).float(), np.random.default_rng(1)
    cutmix, boxes, winners = CutMix(cutmix_alpha=alpha), [], Counter()
    for _ in range(1500):
        mixed = cutmix.mix(images, rng)
        boxes.append(box_of(mixed, images))
        share = area_of(boxes[-1]) / (height * width)
        assert mixed.fractions == [1 - share, share]
        winners[torch.equal(mixed.owners(), mixed.sources[1])] += 1
    assert_outcomes(boxes, box_law(alpha, height, width))
    assert min(winners[True], winners[False]) > 20, "not both sources came to own images"


def test_cutmix_shares_are_those_of_torchvision():
    """Another implementation, by the distribution of its shares at CIFAR's size."""
    from torchvision.transforms.v2 import CutMix as Reference

    images, rng = torch.zeros(1, 1, 32, 32), np.random.default_rng(2)
    shares = [CutMix().mix(images, rng).fractions[0] for _ in range(2000)]
    reference = Reference(alpha=1.0, num_classes=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = [reference.make_params([images])["lam_adjusted"] for _ in range(2000)]
    assert stats.ks_2samp(shares, theirs).pvalue > FALSE_ALARM


def test_cutmix_partners_are_uniform():
    images, rng = torch.zeros(4, 1, 2, 2), np.random.default_rng(3)
    partners = Counter(tuple(CutMix().mix(images, rng).sources[1].tolist()) for _ in range(2400))
    assert_law([partners[order] for order in itertools.permutations(range(4))], np.ones(24))


# --- Cutout ---


def cut_slowly(height: int, width: int, size: int, y: int, x: int) -> np.ndarray:
    """What is left [height, width] of ones when a square about (y, x) is cut, pixel by pixel."""
    left = np.ones((height, width), np.float32)
    for i, j in itertools.product(range(size), repeat=2):
        row, column = y - size // 2 + i, x - size // 2 + j
        if 0 <= row < height and 0 <= column < width:
            left[row, column] = 0
    return left


@functools.cache
def cut_images(height: int, width: int, size: int) -> tuple[tuple[int, int], ...]:
    """The centre at which each of 4,000 images was cut, in two batches of one generator."""
    centres = list(itertools.product(range(height), range(width)))
    meaning = {cut_slowly(height, width, size, *place).tobytes(): place for place in centres}
    assert len(meaning) == len(centres)
    rng, images = np.random.default_rng(0), torch.ones(2000, 2, height, width)
    results = torch.cat([Cutout(cutout_size=size).mix(images, rng).images for _ in range(2)])
    assert torch.equal(results[:, 0], results[:, 1])
    return tuple(meaning[result[0].numpy().tobytes()] for result in results)


@pytest.mark.parametrize("height, width, size", [(5, 7, 1), (5, 7, 2), (6, 5, 3), (8, 8, 4)])
def test_cutout_centres_are_uniform_over_all_pixels(height, width, size):
    places = itertools.product(range(height), range(width))
    assert_outcomes(cut_images(height, width, size), dict.fromkeys(places, 1.0))


def test_cutout_squares_are_independent_of_their_neighbours():
    drawn = cut_images(5, 7, 2)
    for axis, side in enumerate((5, 7)):
        pairs = [(one[axis], other[axis]) for one, other in zip(drawn[::2], drawn[1::2])]
        assert_outcomes(pairs, dict.fromkeys(itertools.product(range(side), repeat=2), 1.0))
    assert drawn[:2000] != drawn[2000:], "two batches were cut alike"


def test_cutout_leaves_the_rest_and_the_owner():
    images = painted(50, 9, 6).float()
    mixed = Cutout(cutout_size=3).mix(images, np.random.default_rng(0))
    cut = mixed.images == 0
    assert cut.any((1, 2, 3)).all()
    assert torch.equal(mixed.images, images.masked_fill(cut, 0))
    assert sources_of(mixed).tolist() == [list(range(50))]
    assert mixed.fractions == (1.0,)


@pytest.mark.parametrize(
    "height, width, expected", [(32, 32, 16), (28, 28, 14), (84, 84, 42), (8, 8, 4), (9, 12, 4)]
)
def test_cutout_takes_half_of_the_side_by_default(height, width, expected):
    images = torch.ones(400, 1, height, width)
    cut = (Cutout().mix(images, np.random.default_rng(0)).images == 0).sum((1, 2, 3))
    assert cut.max() == expected**2


def test_cutout_in_the_stream_is_the_mean_colour():
    """On white images, which the crop does not change without padding."""
    white = torch.full((30, 3, 8, 8), 255, dtype=torch.uint8)
    dataset = make_dataset(white, mean=0.4, std=0.2)
    stream = Loader(dataset, Cutout(), CPU, seed=1)
    stream.refill(torch.arange(30).view(1, 30))
    images = stream.next().images
    cut = images == 0
    assert 4 <= cut[:, 0].sum((1, 2)).min() <= cut[:, 0].sum((1, 2)).max() == 16
    np.testing.assert_allclose(images[~cut], 3.0, rtol=1e-5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_takes_any_size_by_default(name):
    for size in ((8, 8), (5, 7), (84, 84)):
        AUGMENTATIONS[name]().check(*size)


def test_cutout_refuses_a_square_larger_than_the_image():
    Cutout(cutout_size=9).check(9, 12)
    with pytest.raises(ValueError, match=r"`cutout_size` 10.*9x12 pixels; give at most 9"):
        Cutout(cutout_size=10).check(9, 12)


# --- The operations of RandAugment and TrivialAugment ---


def reference_of(policy: str) -> type:
    from torchvision.transforms import v2

    return {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[policy]


def ranges_of(policy: str, height: int, width: int) -> dict[str, torch.Tensor]:
    return randaugment.ranges(height, width) if policy == "randaugment" else trivialaugment.ranges()


each_policy = pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])


def torchvision_forced(name: str, magnitude: int, sign: int, policy="randaugment"):
    """torchvision's policy, made to draw one operation: that one, magnitude and sign."""
    Reference = reference_of(policy)
    magnitudes, signed = Reference._AUGMENTATION_SPACE[name]
    assert signed or sign == 1
    transform = Reference(num_ops=1) if policy == "randaugment" else Reference()

    def only(*arguments):
        values = magnitudes(*arguments)
        return None if values is None else (sign * values[magnitude]).expand(31)

    transform._AUGMENTATION_SPACE = {name: (only, False)}
    return transform


def signed_names() -> list[tuple[str, int]]:
    """Every operation of torchvision's RandAugment, with each sign that it can take."""
    from torchvision.transforms.v2 import RandAugment as Reference

    space = Reference._AUGMENTATION_SPACE.items()
    return [(name, sign) for name, (_, signed) in space for sign in ((1, -1) if signed else (1,))]


@each_policy
def test_operations_are_those_of_torchvision(policy):
    space = reference_of(policy)._AUGMENTATION_SPACE
    assert list(operations()) == list(space)
    signed = {name for name, operation in operations().items() if operation.signed}
    assert signed == {name for name, (_, signed) in space.items() if signed}


@pytest.mark.parametrize("height, width", [(32, 32), (28, 28), (84, 84), (8, 8), (20, 331)])
@each_policy
def test_amounts_are_those_of_torchvision(policy, height, width):
    """Exactly: a rounding error would cost a whole pixel, or bit, here and there."""
    ranges = ranges_of(policy, height, width)
    space = reference_of(policy)._AUGMENTATION_SPACE
    assert ranges.keys() == space.keys()
    for name, (magnitudes, _) in space.items():
        values = magnitudes(31, height, width)
        expected = torch.zeros(31) if values is None else values.float()
        assert torch.equal(ranges[name], expected), name


@pytest.mark.parametrize("channels, height, width", [(3, 32, 32), (1, 28, 28), (3, 10, 17)])
@each_policy
def test_operations_do_what_torchvision_does(policy, channels, height, width):
    """At every magnitude and sign in one batch each, against single images, some of few values."""
    images = noise(4, channels, height, width)
    images[1] = images[1] // 4 + 100  # of low contrast
    images[2, :, : height // 2] = 221  # a threshold of Solarize
    images[3] = 30
    ranges = ranges_of(policy, height, width)
    for number, (name, operation) in enumerate(operations().items()):
        signs = (1, -1) if operation.signed else (1,)
        cells = list(itertools.product(range(31), signs, range(4)))
        levels, drawn_signs, rows = np.array(cells).T
        results = apply_each(
            images[torch.from_numpy(rows)],
            np.full(len(cells), number),
            levels,
            drawn_signs < 0,
            ranges,
        )
        expected = torch.cat(
            [
                torchvision_forced(name, level, sign, policy)(images)
                for level, sign in itertools.product(range(31), signs)
            ]
        )
        assert results.dtype == torch.uint8
        # Bit for bit but for the order of sums in blends.
        apart = levels_apart(results, expected)
        assert apart.max() <= (1 if name in ("Color", "Contrast", "Sharpness") else 0), name
        assert (apart > 0).float().mean() < 0.02, name


def levels_apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one.short() - other.short()).abs()


@functools.cache
def randaugmented(count: int, copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image, and what one batch of copies of it became at full magnitude."""
    # Not of all 256 values, for AutoContrast, and of more pixels than that, for Equalize.
    image = noise(1, 3, 16, 20, seed=8)[0] // 4 * 3 + 20
    augmentation = RandAugment(randaugment_n=count, randaugment_m=30)
    batch = image.expand(copies, -1, -1, -1).contiguous()
    return image, augmentation.transform(batch, np.random.default_rng(0))


def outcomes(image: torch.Tensor) -> torch.Tensor:
    """What each operation and sign of torchvision makes of an image, in their order: [23, ...]."""
    return torch.stack([torchvision_forced(name, 30, sign)(image) for name, sign in signed_names()])


def nearest(results: torch.Tensor, possible: torch.Tensor) -> torch.Tensor:
    """Position of the possible image that each result is; a few pixels may be rounded apart."""
    found = []
    for result in results:
        differing = (levels_apart(result, possible) > 1).float().flatten(1).mean(1)
        found.append(differing.argmin())
        assert differing.min() < 0.02, "this result comes from no operation of torchvision"
    return torch.stack(found)


def test_randaugment_draws_operations_and_signs_uniformly_per_image():
    image, results = randaugmented(1, copies=2800)
    possible = outcomes(image)
    apart = [
        (levels_apart(one, other) > 1).float().mean().item()
        for one, other in itertools.combinations(possible, 2)
    ]
    assert min(apart) > 0.1, "two operations look alike on this image"
    drawn = nearest(results, possible)
    signs = Counter(name for name, _ in signed_names())
    law = [1 / 14 / signs[name] for name, _ in signed_names()]
    assert_law(drawn.bincount(minlength=23), law)
    # Neighbours in a batch draw each their own: 9.5 in 196 pairs are equal by chance.
    equal = (drawn[1::2] == drawn[::2]).sum().item()
    chance = sum(share**2 for share in law)
    assert stats.binomtest(equal, 1400, chance).pvalue > FALSE_ALARM


def test_randaugment_applies_several_operations_with_replacement():
    """Every result is a composition of two operations, now and then of one with itself."""
    copies = 600
    image, results = randaugmented(2, copies)
    names = [name for name, _ in signed_names()]
    possible = torch.cat([outcomes(first) for first in outcomes(image)])
    pairs = list(itertools.product(names, repeat=2))
    assert len(possible) == len(pairs) == 23 * 23
    # Some compositions look alike: an image counts as twice the same if all its makings are.
    makings = dict()
    for look, pair in zip(possible, pairs):
        makings.setdefault(look.numpy().tobytes(), []).append(pair)
    twice_the_same = torch.tensor(
        [all(one == other for one, other in makings[look.numpy().tobytes()]) for look in possible]
    )
    signs = Counter(names)
    share = torch.tensor([1 / 14**2 / signs[one] / signs[other] for one, other in pairs])
    chance = (share * twice_the_same).sum().item()
    assert chance > 0.04

    seen = twice_the_same[nearest(results, possible)].sum().item()
    assert stats.binomtest(seen, copies, chance).pvalue > FALSE_ALARM


def drawn_by_trivialaugment(images: torch.Tensor, monkeypatch, batches: int) -> tuple:
    """Results, and the numbers, levels and signs [n] that the augmentation drew for them."""
    draws = []

    def spy(images, numbers, levels, negative, ranges):
        draws.append((numbers, levels, negative))
        return apply_each(images, numbers, levels, negative, ranges)

    monkeypatch.setattr(trivialaugment, "apply_each", spy)
    rng = np.random.default_rng(0)
    results = [TrivialAugment().transform(images, rng) for _ in range(batches)]
    return torch.cat(results), *map(np.concatenate, zip(*draws))


def test_trivialaugment_applies_to_each_image_what_it_drew(monkeypatch):
    images = noise(200, 3, 16, 20)
    results, *draws = drawn_by_trivialaugment(images, monkeypatch, 1)
    for image, result, number, level, negative in zip(images, results, *draws):
        name, operation = list(operations().items())[number]
        sign = -1 if negative and operation.signed else 1
        expected = torchvision_forced(name, level, sign, "trivialaugment")(image)
        assert levels_apart(result, expected).max() <= 1, name


def test_trivialaugment_draws_operation_magnitude_and_sign_uniformly_per_image(monkeypatch):
    _, numbers, levels, negative = drawn_by_trivialaugment(noise(6000, 1, 3, 3), monkeypatch, 2)
    drawn = list(zip(numbers.tolist(), levels.tolist(), negative.tolist()))
    cells = itertools.product(range(14), range(31), (False, True))
    assert_outcomes(drawn, dict.fromkeys(cells, 1.0))
    neighbours = Counter(zip(numbers[::2].tolist(), numbers[1::2].tolist()))
    pairs = itertools.product(range(14), repeat=2)
    assert_law([neighbours[pair] for pair in pairs], np.ones(14 * 14))
    assert drawn[:6000] != drawn[6000:], "two batches were changed alike"


def test_randaugment_of_no_operations_is_the_identity():
    images = noise(6, 3, 8, 8)
    results = RandAugment(randaugment_n=0).transform(images, np.random.default_rng(0))
    assert torch.equal(results, images)


@pytest.mark.parametrize("shape", [(64, 1, 8, 8), (64, 3, 6, 9), (1, 1, 28, 28)])
@pytest.mark.parametrize("magnitude", [0, 30])
def test_randaugment_takes_any_shape_and_leaves_the_originals(shape, magnitude):
    images = noise(*shape)
    given = images.clone()
    augmentation = RandAugment(randaugment_n=3, randaugment_m=magnitude)
    results = augmentation.transform(images, np.random.default_rng(0))
    assert results.shape == images.shape
    assert results.dtype == torch.uint8
    assert torch.equal(images, given)


# --- The stream ---


def make_dataset(images: torch.Tensor, mean=0.0, std=1.0, flip=0.0, padding=0) -> Dataset:
    """Labels are drawn of five classes; the test part is not used here."""
    channels = images.shape[1]
    return Dataset(
        train_images=images.numpy(),
        train_labels=np.random.default_rng(0).integers(5, size=len(images)),
        test_images=images[:1].numpy(),
        test_labels=np.zeros(1, dtype=np.int64),
        classes=tuple("abcde"),
        mean=(mean,) * channels,
        std=(std,) * channels,
        flip=flip,
        padding=padding,
    )


def lamps() -> torch.Tensor:
    """36 black images; number i has one white pixel, the i-th."""
    return (torch.eye(36).view(36, 1, 6, 6) * 255).to(torch.uint8)


def shades() -> torch.Tensor:
    """36 images of one value each, their own number."""
    return torch.arange(36, dtype=torch.uint8).view(36, 1, 1, 1).expand(36, 1, 6, 6).contiguous()


def shares_by_lamps(images: torch.Tensor) -> torch.Tensor:
    """Share [b, 36] of each training image, for images blended at every pixel."""
    return images.flatten(1)


def shares_by_shades(images: torch.Tensor) -> torch.Tensor:
    """Share [b, 36] of each training image, for images patched from parts."""
    numbers = (images.flatten(1) * 255).round().long()
    return torch.nn.functional.one_hot(numbers, 36).float().mean(1)


@pytest.mark.parametrize(
    "augmentation, images, shares",
    [
        (Augmentation(), lamps(), shares_by_lamps),
        (Augmentation(), shades(), shares_by_shades),
        (RandAugment(randaugment_n=0), lamps(), shares_by_lamps),
        (Mixup(alpha=1.0), lamps(), shares_by_lamps),
        (RICAP(alpha=1.0), shades(), shares_by_shades),
        (CutMix(), shades(), shares_by_shades),
    ],
)
def test_targets_are_what_the_pixels_show(augmentation, images, shares):
    """Soft labels by the share of each training image that is really in a mixed image."""
    dataset = make_dataset(images)
    stream = Loader(dataset, augmentation, CPU, seed=3)
    block = torch.randperm(36, generator=torch.Generator().manual_seed(0)).view(4, 9)
    stream.refill(block)
    one_hot = torch.eye(5)[torch.from_numpy(dataset.train_labels)]
    for index in block:
        batch = stream.next()
        shown = shares(batch.images)
        torch.testing.assert_close(batch.targets, shown @ one_hot, atol=1e-5, rtol=0)
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(9))
        assert (shown.gather(1, batch.index[:, None]) > 0).all()
        assert set(shown.any(0).nonzero().flatten().tolist()) == set(index.tolist())
        if not isinstance(augmentation, RICAP):  # where one image can fill two quadrants
            assert torch.equal(shown.argmax(1), batch.index)
    assert stream.exhausted


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_rows_belong_to_the_owner(name):
    """Label and index are those of the source with the largest share; each source owns one row."""
    dataset = make_dataset(noise(40, 3, 8, 8), flip=0.5, padding=2)
    augmentation, seen = AUGMENTATIONS[name](), []
    mix = augmentation.mix
    augmentation.mix = lambda images, rng: seen.append(mix(images, rng)) or seen[-1]
    stream = Loader(dataset, augmentation, CPU, seed=1)
    block = torch.randperm(40, generator=torch.Generator().manual_seed(0)).view(4, 10)
    stream.refill(block)
    labels = torch.from_numpy(dataset.train_labels)
    for index in block:
        batch = stream.next()
        mixed = seen[-1]
        for row in range(10):
            places = [index[source[row]].item() for source in sources_of(mixed)]
            owner = places[int(np.argmax(mixed.fractions))]
            assert batch.index[row] == owner
            assert batch.labels[row] == labels[owner]
            target = np.zeros(5)
            for place, share in zip(places, mixed.fractions):
                target[labels[place]] += share
            np.testing.assert_allclose(batch.targets[row], target, atol=1e-6)
        assert sorted(batch.index.tolist()) == sorted(index.tolist())
        assert batch.images.dtype == batch.targets.dtype == torch.float32
        assert batch.labels.dtype == batch.index.dtype == torch.int64


def test_stream_crops_and_normalises():
    """Against the training images themselves: zero padding is black before normalisation."""
    images = noise(30, 3, 6, 6)
    dataset = make_dataset(images, mean=0.4, std=0.2, flip=0.5, padding=2)
    stream = Loader(dataset, Augmentation(), CPU, seed=1)
    stream.refill(torch.arange(30).view(2, 15))
    found = []
    for _ in range(2):
        batch = stream.next()
        restored = ((batch.images * 0.2 + 0.4) * 255).round().to(torch.uint8)
        for result, index in zip(restored, batch.index):
            found += explanations(images[index], result, padding=2)
    assert len(found) == 30
    assert len(set(found)) > 10
    assert {mirror for _, _, mirror in found} == {False, True}


def blocks(seed=0) -> list[torch.Tensor]:
    """Two blocks of batches as a method would draw them; the first outlasts a look-ahead."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(40, (length, 6), generator=rng) for length in (20, 7)]


def make_stream(name: str, seed: int) -> Loader:
    dataset = make_dataset(noise(40, 3, 8, 8), mean=0.5, std=0.25, flip=0.5, padding=2)
    return Loader(dataset, AUGMENTATIONS[name](), CPU, seed)


def columns_of(stream: Loader, refills: list[torch.Tensor]) -> list[torch.Tensor]:
    """All that the stream still gives, with further blocks after the one that it is in."""
    columns = []
    for block in [None, *refills]:
        if block is not None:
            stream.refill(block)
        while not stream.exhausted:
            columns += vars(stream.next()).values()
    return columns


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_same_seed_same_batches(name):
    one, same, other = (columns_of(make_stream(name, seed), blocks()) for seed in (1, 1, 2))
    assert len(one) == 4 * 27
    assert all(map(torch.equal, one, same))
    assert not any(torch.equal(a, b) for a, b in zip(one[::4], other[::4]))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_equal_draws_are_augmented_afresh(name):
    """The same batch drawn again: within a block and in the next one."""
    block = torch.arange(8).expand(18, 8)
    images = columns_of(make_stream(name, 1), [block, block])[::4]
    assert len(images) == 36
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(images, 2))


@pytest.mark.parametrize("policy", [RandAugment, TrivialAugment])
def test_operations_in_the_stream_are_drawn_afresh_for_each_batch_and_seed(policy):
    """Without crop and flip, whose draws would hide operations drawn twice alike."""
    dataset = make_dataset(noise(40, 3, 8, 8))
    block, images = torch.arange(12).expand(18, 12), []
    for seed in (1, 2):
        stream = Loader(dataset, policy(), CPU, seed)
        images += columns_of(stream, [block, block])[::4]
    assert len(images) == 72
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(images, 2))


@pytest.mark.parametrize("number", [0, 1, 5, 15, 16, 17, 19, 20])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_loaded_stream_goes_on_alike(name, number):
    """Bit for bit, also from the middle of batches that were transformed together."""
    first, second = blocks()
    stream = make_stream(name, 1)
    stream.refill(first)
    for _ in range(number):
        stream.next()
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    fresh = make_stream(name, 1)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    expected = columns_of(stream, [second, first])
    resumed = columns_of(fresh, [second, first])
    assert len(resumed) == len(expected) == 4 * (20 - number + 7 + 20)
    assert all(map(torch.equal, resumed, expected))


@pytest.mark.parametrize("number", [3, 17])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_used_stream_can_be_loaded(name, number):
    """Nothing stays behind of the block that it was in."""
    first, second = blocks()
    stream, used = make_stream(name, 1), make_stream(name, 1)
    stream.refill(first)
    used.refill(second)
    for _ in range(number):
        stream.next()
    for _ in range(5):
        used.next()
    used.load_state_dict(stream.state_dict())
    assert all(map(torch.equal, columns_of(used, []), columns_of(stream, [])))

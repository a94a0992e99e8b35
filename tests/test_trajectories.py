"""aum, dyn-unc, dual, tdds and the scores of uncertainty: against formulas, image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from test_methods import make_batch, make_task
from test_scores import recording_of

from budgetbench import distance_to_median, el2n, entropy, margin
from methods import Method
from methods.scores import RECORDED, SCORES

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 4


def record(
    names: Sequence[str],
    probabilities: np.ndarray,
    skipped: frozenset[tuple[int, int]] = frozenset(),
) -> dict[str, np.ndarray]:
    """Scores of images of class 0 with given probabilities [epochs, N, C], visited once an epoch.

    Args:
        names: which to record.
        probabilities: of each image at its visit in each epoch.
        skipped: epochs and images without a visit.
    """
    epochs, n, _ = probabilities.shape
    recording = recording_of(Method(make_task(n, 1, 1.0, CLASSES, epochs)), names, epochs)
    for epoch in range(epochs):
        for i in range(n):
            if (epoch, i) in skipped:
                recording.step += 1  # as a step on another image
                continue
            logits = torch.tensor(probabilities[epoch, i]).log().float()[None]
            recording.observe(make_batch([i], [0]), logits, torch.zeros(1))
    return {name: value.numpy() for name, value in recording.values().items()}


def random_probabilities(epochs: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(CLASSES), (epochs, n))


def deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def test_aum_is_the_mean_margin_over_the_other_classes() -> None:
    p = random_probabilities(7, 5)
    expected = [np.mean([p[t, i, 0] - max(p[t, i, 1:]) for t in range(7)]) for i in range(5)]
    np.testing.assert_allclose(record(["aum"], p)["aum"], expected, rtol=1e-5)


@pytest.mark.parametrize("epochs", [10, 23, 45])
def test_dyn_unc_and_dual_are_means_over_windows_of_ten(epochs: int) -> None:
    p = random_probabilities(epochs, 6)
    found = record(["dyn-unc", "dual"], p)
    for i in range(6):
        own = p[:, i, 0].tolist()
        windows = [own[k : k + 10] for k in range(epochs - 9)]
        assert found["dyn-unc"][i] == pytest.approx(np.mean([*map(deviation, windows)]), rel=1e-4)
        early = [own[k : k + 10] for k in range(min(epochs, 30) - 9)]
        values = [deviation(window) * (1 - np.mean(window)) for window in early]
        assert found["dual"][i] == pytest.approx(np.mean(values), rel=1e-4)
        assert found["dual-mean"][i] == pytest.approx(np.mean(own[:30]), rel=1e-4)


def kd(p: np.ndarray, q: np.ndarray) -> float:
    """From probabilities p of one epoch to q of the next."""
    return sum(abs(b * (math.log(b) - math.log(a))) for a, b in zip(p.tolist(), q.tolist()))


def tdds(p: np.ndarray, epochs: int, window: int) -> float:
    """Of one image's probabilities [epochs, C]."""
    changes = [kd(p[t], p[t + 1]) for t in range(epochs - 1)]
    total = 0.0
    for k in range(epochs - window):
        part = changes[k : k + window]
        mean = sum(part) / window
        norm = math.sqrt(sum((change - mean) ** 2 for change in part))
        total += 0.9 * 0.1 ** (epochs - window - k) * norm
    return total


@pytest.mark.parametrize("epochs", [95, 60, 15, 6])
def test_tdds_is_the_sum_over_windows(epochs: int) -> None:
    p = random_probabilities(epochs, 3)
    spans = {30: (90, 10), 50: (70, 10), 70: (60, 20), 80: (20, 10), 90: (10, 5)}
    found = record(["tdds"], p)
    fitting = {share for share, (_, window) in spans.items() if window < epochs}
    assert set(found) == {f"tdds-{share}" for share in fitting}
    assert fitting == {95: {*spans}, 60: {*spans}, 15: {30, 50, 80, 90}, 6: {90}}[epochs]
    for share in fitting:
        span, window = spans[share]
        expected = [tdds(p[:, i], min(span, epochs), window) for i in range(3)]
        np.testing.assert_allclose(found[f"tdds-{share}"], expected, rtol=1e-3)


def test_further_visits_in_an_epoch_say_nothing_to_tdds() -> None:
    p = random_probabilities(20, 3)
    recording = recording_of(Method(make_task(3, 1, 1.0, CLASSES, 40)), ["tdds"], 40)
    for epoch in range(20):
        for twice in (p[epoch], random_probabilities(1, 3, seed=epoch + 1)[0]):
            recording.step = 3 * epoch
            logits = torch.tensor(twice).log().float()
            recording.observe(make_batch(range(3), [0] * 3), logits, torch.zeros(3))
    changes = recording.recorders["tdds"].changes[:19]
    expected = (p[1:] * np.log(p[1:] / p[:-1])).__abs__().sum(2)
    np.testing.assert_allclose(changes, expected, rtol=1e-4)


def test_late_epochs_decide_in_tdds_and_the_last_of_its_span() -> None:
    """Two images alike but for one stretch of epochs, in which one of them is restless."""
    calm = np.broadcast_to([0.7, 0.1, 0.1, 0.1], (70, 2, CLASSES))
    restless = random_probabilities(70, 1)[:, 0]
    differences = {}
    for name, epochs in (
        ("early", slice(0, 15)),
        ("late", slice(50, 60)),
        ("after", slice(61, 70)),
    ):
        p = calm.copy()
        p[epochs, 1] = restless[epochs]
        scores = record(["tdds"], p)["tdds-70"]  # of 60 epochs, in windows of 20
        differences[name] = scores[1] - scores[0]
    assert differences["late"] > 0.01
    assert 0 <= differences["early"] < 1e-6 * differences["late"]
    assert differences["after"] == 0


@pytest.mark.parametrize("name", ["dyn-unc", "aum"])
def test_late_epochs_count_as_early_ones_do(name: str) -> None:
    p = random_probabilities(40, 1).repeat(2, 1)
    p[30:, 1] = [0.97, 0.01, 0.01, 0.01]
    scores = record([name], p)[name]
    assert abs(scores[1] - scores[0]) > 0.02


def test_epochs_without_a_visit_do_not_count() -> None:
    p = random_probabilities(40, 4)
    gone = frozenset({(t, 1) for t in range(3, 40, 4)} | {(t, 2) for t in range(1, 40)})
    gone |= {(t, 3) for t in range(40)}
    found = record(list(RECORDED), p, gone)
    whole = record(list(RECORDED), p)
    for name, values in found.items():
        assert values[0] == pytest.approx(whole[name][0], rel=1e-5, nan_ok=True)
        assert np.isfinite(values[1])
        assert np.isnan(values[3])
    seen = [t for t in range(40) if (t, 1) not in gone]
    windows = [[p[t, 1, 0] for t in range(k, k + 10) if t in seen] for k in range(31)]
    assert found["dyn-unc"][1] == pytest.approx(np.mean([*map(deviation, windows)]), rel=1e-4)
    assert np.isnan(found["dyn-unc"][2]), "a single visit does not vary"
    assert np.isnan(found["tdds-70"][2])
    assert found["dual-mean"][2] == pytest.approx(p[0, 2, 0], rel=1e-5)


# --- What they say of images whose nature is known ---

EASY, HARD, WRONG = 0, 1, 2  # learnt at once; learnt late and forgotten again; mislabelled


def known() -> np.ndarray:
    """Probabilities [60, 3, C] of an easy, a hard and a mislabelled image of class 0."""
    p = np.full((60, 3, CLASSES), 0.01)
    for t in range(60):
        p[t, EASY, 0] = min(0.96, 0.5 + 0.05 * t)
        p[t, HARD, 0] = 0.5 + 0.3 * math.sin(1.7 * t)
        p[t, WRONG, 0] = 0.02 + 0.01 * math.sin(t)
        p[t, :, 1] = 0.98 - p[t, :, 0]  # the other class, that of the wrong one
    return p / p.sum(2, keepdims=True)


def test_directions_of_scores_over_training() -> None:
    found = record(list(RECORDED), known())
    assert found["aum"][EASY] > found["aum"][HARD] > 0 > found["aum"][WRONG] + 0.5
    for name in ("dyn-unc", "dual", *(f"tdds-{share}" for share in (30, 50, 70))):
        assert found[name].argmax() == HARD, name
    assert found["dual"][WRONG] > 0
    assert found["dual-mean"][EASY] > found["dual-mean"][HARD] > found["dual-mean"][WRONG]
    for name in ("forgetting", "el2n"):
        assert found[name][WRONG] > found[name][HARD] > found[name][EASY], name


def test_directions_of_scores_of_the_network_at_the_end() -> None:
    sure, undecided, sure_and_wrong = torch.tensor(
        [[0.97, 0.01, 0.01, 0.01], [0.4, 0.4, 0.1, 0.1], [0.01, 0.97, 0.01, 0.01]]
    ).log()
    for score in (entropy, lambda logits: 1 - margin(logits)):
        values = score(torch.stack([sure, undecided, sure_and_wrong]))
        assert values[1] > max(values[0], values[2])
    errors = el2n(torch.stack([sure, undecided, sure_and_wrong]), torch.eye(4)[[0, 0, 0]])
    assert errors[2] > errors[1] > errors[0]


def test_the_moderate_ones_are_in_the_middle_of_their_class() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(3, size=90)
    features = random.normal(size=(90, 5)) + 10 * labels[:, None]
    found = distance_to_median(torch.tensor(features), torch.tensor(labels))
    for label in range(3):
        own = features[labels == label]
        expected = np.sqrt(((own - np.median(own, axis=0)) ** 2).sum(1))
        np.testing.assert_allclose(found[labels == label], expected, rtol=1e-4)


def test_every_recorded_score_has_a_name_that_is_known() -> None:
    assert set(record(list(RECORDED), random_probabilities(95, 2))) <= set(SCORES)


def test_notes_take_a_number_per_image_and_epoch() -> None:
    task = make_task(num_images=1000, epochs=50)
    sizes = {name: recording_of(Method(task), [name], 1).num_bytes for name in RECORDED}
    assert sizes["dyn-unc"] == 4 * 1000 * 50
    assert sizes["dual"] == 4 * 1000 * 30
    assert sizes["tdds"] == 4 * 1000 * (49 + 4 + 1)
    assert max(sizes["aum"], sizes["el2n"], sizes["forgetting"]) <= 16 * 1000

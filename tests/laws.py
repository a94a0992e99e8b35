"""Tests that draws follow their law. Seeds are fixed; each fails a right one at FALSE_ALARM."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
from scipy import stats

FALSE_ALARM = 1e-4  # probability that chance alone fails one comparison of frequencies


def assert_law(counts, probabilities) -> None:
    """Chi-square test that counts of outcomes follow their probabilities."""
    counts, probabilities = np.asarray(counts), np.asarray(probabilities)
    expected = probabilities / probabilities.sum() * counts.sum()
    assert expected.min() >= 5, "too few draws for the chi-square distribution"
    chance = stats.chisquare(counts, expected).pvalue
    assert chance > FALSE_ALARM, f"such counts have a probability of {chance}"


def assert_outcomes(drawn, law: dict) -> None:
    """Test that outcomes, an iterable of keys of `law`, follow it; rare ones count as one."""
    counts = Counter(drawn)
    assert set(counts) <= set(law), "something was drawn that can't be"
    expected = counts.total() / math.fsum(law.values())
    seldom_first = sorted(law, key=law.get)
    rare = [probability * expected < 5 for probability in law.values()].count(True)
    while 0 < rare < len(law) and expected * sum(map(law.get, seldom_first[:rare])) < 5:
        rare += 1
    groups = [seldom_first[:rare]] if rare else []
    groups += [[outcome] for outcome in seldom_first[rare:]]
    assert len(groups) > 1, "the law is too narrow, or draws too few, to test anything"
    assert_law(
        [sum(counts[outcome] for outcome in group) for group in groups],
        [sum(law[outcome] for outcome in group) for group in groups],
    )


def assert_inclusion(drawn: np.ndarray, expected: np.ndarray, draws_behind=math.inf) -> None:
    """Test how often each index was in one of the rows of `drawn` [draws, k], by Bonferroni.

    `expected` are the inclusion probabilities [N], or frequencies seen in `draws_behind` draws.
    """
    frequency = np.bincount(drawn.reshape(-1), minlength=len(expected)) / len(drawn)
    share = len(drawn) / draws_behind
    both = (expected + share * frequency) / (1 + share)
    variance = both * (1 - both) * (1 / len(drawn) + 1 / draws_behind)
    bound = stats.norm.isf(FALSE_ALARM / (2 * len(expected)))
    excess = np.abs(frequency - expected) - bound * np.sqrt(variance)
    assert (excess <= 1e-12).all(), f"of {excess.argmax()}: {frequency} but expected {expected}"


def numpy_inclusion(weights, k: int, draws: int) -> np.ndarray:
    """Frequency [N] with which NumPy's weighted choice without replacement takes each index."""
    weights = np.asarray(weights, dtype=np.float64)
    random = np.random.default_rng(1)
    choices = [
        random.choice(len(weights), k, replace=False, p=weights / weights.sum())
        for _ in range(draws)
    ]
    return np.bincount(np.concatenate(choices), minlength=len(weights)) / draws


def order_probabilities(weights, k: int) -> dict[tuple[int, ...], float]:
    """Exact law of the first k that successive sampling draws, in the order of drawing."""
    weights, law = list(map(float, weights)), {}
    for order in itertools.permutations(range(len(weights)), k):
        left, probability = dict(enumerate(weights)), 1.0
        for index in order:
            probability *= left[index] / math.fsum(left.values())
            del left[index]
        law[order] = probability
    return law


def set_probabilities(weights, k: int) -> dict[frozenset, float]:
    """Exact law of the set that successive sampling draws, summed over all orders of drawing."""
    law = Counter()
    for order, probability in order_probabilities(weights, k).items():
        law[frozenset(order)] += probability
    return law

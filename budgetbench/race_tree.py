"""Draws by weights that change, without replacement, at a cost that hardly grows with N."""

from __future__ import annotations

import numpy as np

# A level costs a few NumPy calls, whose overhead outweighs k * FAN_OUT draws: a few wide levels are
# faster than many narrow ones. A power of 2, because rows are reduced by halves.
FAN_OUT = 8
# Nodes of the highest level, all of which every draw visits: so many exponentials in one call cost
# less than another level would.
LARGEST_TOP = 4096
NEVER = 1e-300  # rate of a missing image: above 0, to divide by, and it arrives after all others
LARGEST_LOG = 1e300  # that of an infinite weight, or of NaN


class RaceTree:
    """Weights of N images, kept so that drawing k of them takes O(k log N) work.

    Drawing without replacement is a race: each image arrives after an exponential time whose rate
    is its weight, and the k earliest are drawn (Efraimidis & Spirakis 2006). The first arrival of
    a group of images is exponential too, at the sum of their rates, so the race can be run from
    the top of a tree of sums. Where a group is expanded, its members' exponential times are drawn
    again and moved so that the earliest is the group's own: whatever the winner's time, the
    others are ahead of it by exponential times still. Only the k earliest groups of a level can
    hold one of the k earliest images, so each level costs k * FAN_OUT draws.

    No arrival time is kept from one draw to the next, so a changed weight changes nothing but the
    sums above it. Sums are kept as logarithms and made anew from their parts: weights may span any
    range, and errors don't add up.

    The probability of an image is (its fraction of the weights + floor / N) / (1 + floor), so one
    whose weight underflows beside the others' still has its floor.

    Args:
        log_weights: [N] float64. A training that diverged may give infinite ones or NaN: draws
            then mean nothing, but continue.
        floor: weight of the uniform distribution that is mixed in, above 0.
    """

    def __init__(self, log_weights: np.ndarray, floor: float):
        self.size = len(log_weights)
        self.floor = floor / self.size  # of one image
        self.levels: list[np.ndarray] = []  # logarithms of sums [nodes, FAN_OUT], leaves first
        self.widths = [1]  # leaves below a node of each level and of the top
        top = clip(np.asarray(log_weights, dtype=np.float64))
        while len(top) > LARGEST_TOP:
            missing = -len(top) % FAN_OUT
            rows = np.append(top, np.full(missing, -np.inf)).reshape(-1, FAN_OUT)
            self.levels.append(rows)
            self.widths.append(self.widths[-1] * FAN_OUT)
            top = log_sums(rows)
        self.top = top
        self.missing = [self.missing_of_last(rows, w) for rows, w in zip(self.levels, self.widths)]

    def missing_of_last(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Leaves that the nodes [FAN_OUT] of a level's last row lack of a full `width`."""
        ends = ((len(rows) - 1) * FAN_OUT + np.arange(1, FAN_OUT + 1)) * width
        return np.clip(ends - self.size, 0, width)

    def update(self, index: np.ndarray, log_weights: np.ndarray) -> None:
        """Set the log weights [b] of images [b]; of one that comes twice, the last counts."""
        log_weights = clip(log_weights)
        for rows in self.levels:
            rows.reshape(-1)[index] = log_weights
            index = index // FAN_OUT
            log_weights = log_sums(rows.take(index, 0))
        self.top[index] = log_weights

    def draw(self, k: int, rng: np.random.Generator) -> np.ndarray:
        """Draw k distinct images, in the order of drawing: int64 [k]."""
        rates, unit, floor = self.top_rates()
        arrivals = rng.standard_exponential(len(rates)) / rates
        nodes = earliest(arrivals, k)
        arrivals = arrivals.take(nodes)
        for level in reversed(range(len(self.levels))):
            rates = self.rates(level, nodes, unit, floor)
            race = rng.standard_exponential(rates.shape)
            race /= rates
            race += (arrivals - by_halves(np.minimum, race))[:, None]
            race = race.reshape(-1)
            present = -(-self.size // self.widths[level])  # nodes; those missing aren't expanded
            first = earliest(race, min(k, present))
            arrivals = race.take(first)
            nodes = nodes.take(first // FAN_OUT) * FAN_OUT + first % FAN_OUT
        return nodes.take(arrivals.argsort())

    def draw_with_replacement(self, k: int, rng: np.random.Generator) -> np.ndarray:
        """Draw k images independently of each other: int64 [k]."""
        rates, unit, floor = self.top_rates()
        sums = rates.cumsum()
        nodes = sums.searchsorted(rng.random(k) * sums[-1], side="right")
        for level in reversed(range(len(self.levels))):
            sums = self.rates(level, nodes, unit, floor).cumsum(1)
            reached = rng.random((k, 1)) * sums[:, -1:] >= sums
            nodes = nodes * FAN_OUT + reached.sum(1)
        return nodes.clip(max=self.size - 1)  # for a random number that was rounded up to one

    def top_rates(self) -> tuple[np.ndarray, float, float]:
        """Rates of the highest level, in units of its largest weight.

        Returns:
            The rates; the logarithm of the unit; the floor of one image in that unit.
        """
        unit = self.top.max()
        rates = np.exp(self.top - unit)
        floor = self.floor * rates.sum()
        rates += floor * self.widths[-1]
        rates[-1] -= floor * (len(rates) * self.widths[-1] - self.size)
        return rates, unit, floor

    def rates(self, level: int, nodes: np.ndarray, unit: float, floor: float) -> np.ndarray:
        """Rates of the children [k, FAN_OUT] of nodes [k], in the unit of the highest level."""
        rows = self.levels[level]
        rates = rows.take(nodes, 0)
        rates -= unit
        np.exp(rates, out=rates)
        rates += floor * self.widths[level]
        last = nodes == len(rows) - 1
        if last.any():
            rates[last] = np.maximum(rates[last] - floor * self.missing[level], NEVER)
        return rates


def clip(log_weights: np.ndarray) -> np.ndarray:
    """A copy that is finite, so that sums and differences are numbers."""
    return np.fmax(np.fmin(log_weights, LARGEST_LOG), -LARGEST_LOG)


def log_sums(rows: np.ndarray) -> np.ndarray:
    """log(sum(exp(rows))) of each row [n, FAN_OUT], without overflow: [n]."""
    highest = by_halves(np.maximum, rows)
    return highest + np.log(by_halves(np.add, np.exp(rows - highest[:, None])))


def by_halves(reduce: np.ufunc, rows: np.ndarray) -> np.ndarray:
    """Reduce each row [n, FAN_OUT] to one number: [n]. Quicker than NumPy's row by row."""
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = reduce(rows[:, :half], rows[:, half:])
    return rows[:, 0]


def earliest(arrivals: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k smallest of `arrivals` [n] (all, if they are fewer), in any order."""
    if len(arrivals) <= k:
        return np.arange(len(arrivals))
    return arrivals.argpartition(k - 1)[:k]

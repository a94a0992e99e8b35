"""GradMatch: images whose weighted gradients add up to that of all."""

from __future__ import annotations

import numpy as np

from .candidates import Candidates


def grad_match(candidates: Candidates, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Weighted gradients that best match the sum of all.

    Killamsetty et al. 2021, "GRAD-MATCH: Gradient Matching based Data Subset Selection for
    Efficient Deep Model Training": orthogonal matching pursuit on gradients of the last layer, and
    non-negative least squares at the end. Images that get no weight there are not taken. Once the
    sum is matched, or all that help are taken, it begins anew among the images that are left, whose
    weights have the same mean.
    """
    products = candidates.gradient_products().astype(np.float64)
    target = products.sum(1)
    left = np.arange(len(products))
    chosen, weights = [], []
    while size:
        rows, weight = pursue(products[np.ix_(left, left)], target[left], size)
        if not len(rows):  # nothing in common with the sum: any do
            rows, weight = np.arange(size), np.ones(size)
        chosen.append(left[rows])
        weights.append(weight / weight.mean())
        left = np.delete(left, rows)
        size -= len(rows)
    return np.concatenate(chosen), np.concatenate(weights)


def pursue(products: np.ndarray, target: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthogonal matching pursuit in inner products; rows that get a weight, and the weights.

    Args:
        products: of the gradients with each other, [n, n].
        target: of each with the sum to be matched, [n].
        size: of rows, at most.
    """
    from scipy.optimize import nnls

    size = min(size, len(products))
    smallest = 1e-9 * products.diagonal().max(initial=0)  # squared length that is rounding
    residual = target.copy()  # inner products with it
    parts = np.zeros((size, len(products)))  # of each along the orthonormal directions
    rows: list[int] = []
    along: list[float] = []  # of the target along them
    waiting = np.ones(len(products), bool)
    while len(rows) < size:
        row = int(np.where(waiting, residual, -np.inf).argmax())
        if not waiting[row] or residual[row] <= 1e-6 * target.max():
            break
        waiting[row] = False
        step = len(rows)
        part = products[row] - parts[:step].T @ parts[:step, row]
        if part[row] <= smallest:  # in the span of those taken: adds nothing
            continue
        parts[step] = part / np.sqrt(part[row])
        along.append(residual[row] / np.sqrt(part[row]))
        residual -= parts[step] * along[-1]
        rows.append(row)
    taken = np.array(rows, dtype=np.int64)
    if not rows:
        return taken, np.zeros(0)
    weights, _ = nnls(parts[: len(taken), taken], np.array(along), maxiter=30 * len(taken))
    return taken[weights > 0], weights[weights > 0]

"""Scores of images that take one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor


def el2n(logits: Tensor, targets: Tensor) -> Tensor:
    """EL2N: L2 norm of softmax minus target (Paul et al. 2021, "Deep Learning on a Data Diet").

    Args:
        logits: [b, C].
        targets: [b, C], one-hot, or the soft labels of mixed images.

    Returns:
        [b] float32, between 0 and the square root of 2.

    >>> logits = torch.tensor([[0.0, 0.0], [9.0, -9.0]])
    >>> [round(score, 3) for score in el2n(logits, torch.eye(2)).tolist()]
    [0.707, 1.414]
    """
    return (logits.float().softmax(1) - targets).norm(dim=1)


def grand(logits: Tensor, targets: Tensor, features: Tensor, bias: bool = True) -> Tensor:
    """GraNd (Paul et al. 2021) of the last layer: norm of the loss's gradient by its parameters.

    The gradient of cross-entropy by the logits is softmax minus target; that by the weights of the
    linear layer is the outer product of it and the features, that by its bias is itself. The norm
    is therefore EL2N * sqrt(|features|^2 + 1). The paper takes all layers' gradients.

    Args:
        logits, targets: as for `el2n`.
        features: [b, d], the last layer's input.
        bias: whether the layer has one.

    Returns:
        [b] float32.

    >>> grand(torch.zeros(5, 2), torch.eye(2)[[0, 1, 0, 1, 0]], torch.ones(5, 16)).shape
    torch.Size([5])
    """
    return el2n(logits, targets) * torch.sqrt(features.float().square().sum(1) + bias)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the network's probabilities, in nats: logits [b, C] -> [b] float32.

    >>> [round(score, 3) for score in entropy(torch.tensor([[0.0, 0.0], [9.0, -9.0]])).tolist()]
    [0.693, 0.0]
    """
    logs = logits.float().log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def margin(logits: Tensor) -> Tensor:
    """How much the largest probability exceeds the second: logits [b, C] -> [b] float32, 0 to 1.

    >>> [round(score, 3) for score in margin(torch.tensor([[0.0, 0.0], [9.0, -9.0]])).tolist()]
    [0.0, 1.0]
    """
    largest = logits.float().softmax(1).topk(2, dim=1).values
    return largest[:, 0] - largest[:, 1]


def distance_to_median(features: Tensor, labels: Tensor) -> Tensor:
    """Distance of each image to the median of its class: [n] float32.

    The score of Moderate (Xia et al. 2023, "Moderate Coreset"), which keeps the images in the
    middle of it. The median is that of each coordinate; of an even number of images it lies
    half-way between the two in the middle.

    Args:
        features: [n, d], the last layer's input.
        labels: [n] int64.

    >>> distance_to_median(torch.tensor([[0.0], [1.0], [5.0], [7.0]]), torch.tensor([0, 0, 0, 1]))
    tensor([1., 0., 4., 0.])
    """
    features = features.float()
    distances = torch.empty(len(features), device=features.device)
    for label in labels.unique():
        own = labels == label
        medians = features[own].quantile(0.5, dim=0)
        distances[own] = (features[own] - medians).norm(dim=1)
    return distances

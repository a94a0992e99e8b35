"""PyTorch's SGD, without the import of its compiler."""

from __future__ import annotations

import inspect

import torch


class SGD(torch.optim.SGD):
    """The same optimizer, of which nothing is ever compiled.

    PyTorch wraps these methods so that `torch.compile` treats them well, and the wrappers import
    `torch._dynamo`: a second of every run's start. Here they are without.
    """

    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)

"""A model that a careless measurement would change, and how to see that nothing has."""

import copy
import random

import torch
from torch import nn


class Noisy(nn.Module):
    """Everything at once: running statistics, dropout, power iterations, a counter."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8)),
            nn.BatchNorm1d(8),
            nn.Dropout(0.5),
            nn.Tanh(),
            nn.Linear(8, 3),
        )
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        return self.body(x)


def state_of(model, optimizer):
    """Return everything that must stay, by value, and the identity of what must stay itself."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = {name: p.grad for name, p in model.named_parameters()}
    return (
        {name: (id(t), t._version, t.detach().clone()) for name, t in tensors.items()},
        {name: None if g is None else (id(g), g._version, g.clone()) for name, g in grads.items()},
        *values_of(model, optimizer),
    )


def values_of(model, optimizer):
    """Return everything that must stay, by value."""
    grads = {name: p.grad for name, p in model.named_parameters()}
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        {name: None if g is None else g.clone() for name, g in grads.items()},
        {name: part.training for name, part in model.named_modules()},
        {name: p.requires_grad for name, p in model.named_parameters()},
        copy.deepcopy(optimizer.state_dict()),
        (torch.get_rng_state(), random.getstate(), torch.is_grad_enabled()),
    )


def same(a, b):
    """Whether two such states are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b

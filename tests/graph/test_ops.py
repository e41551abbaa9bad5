"""Absolute and linear parts of affine ops against their matrices."""

import pytest
import torch
from torch import nn

import holdfast
from holdfast.graph.ops import LINEAR, OPS, absolute, homogeneous
from holdfast.graph.walk import execute

MODULES = {
    "linear": (nn.Linear(4, 3), (4,)),
    "conv": (nn.Conv1d(2, 3, 2, stride=2, padding=1), (2, 4)),
    "conv_transpose": (nn.ConvTranspose1d(2, 3, 2, stride=2), (2, 4)),
    "batch_norm": (nn.BatchNorm1d(2), (2, 4)),
    "avg_pool": (nn.AvgPool1d(2, 1, 1), (2, 4)),
    "adaptive_avg_pool": (nn.AdaptiveAvgPool1d(3), (2, 4)),
}


@pytest.mark.parametrize("name", MODULES)
def test_absolute_is_the_absolute_matrix(name: str) -> None:
    torch.manual_seed(0)
    module, shape = MODULES[name]
    if isinstance(module, nn.BatchNorm1d):
        module.weight.data = torch.tensor([-2.0, 0.5])
        module.bias.data = torch.tensor([1.0, 3.0])
    module = module.double().eval()
    node = holdfast.capture(module, torch.zeros(1, *shape, dtype=torch.float64)).nodes[-1]
    assert node.op == name and name in LINEAR
    count = torch.Size(shape).numel()
    basis = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
    offset = execute(node, [torch.zeros(1, *shape, dtype=torch.float64)])
    matrix = execute(node, [basis]) - offset
    op, params = homogeneous(node.op, node.params)
    torch.testing.assert_close(OPS[op]([basis], params), matrix)
    op, params = absolute(node.op, node.params)
    torch.testing.assert_close(OPS[op]([basis], params), matrix.abs())

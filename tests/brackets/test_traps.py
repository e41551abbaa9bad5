"""Where tools of the field have given wrong constants: the true one is never undercut.

One test for each known trap; the truth comes from a witness or from the dense operator.
"""

import math

import pytest
import torch
from tests.nets import Residual
from torch import nn

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lower.steepest import steepest_pairs
from holdfast.brackets.semidefinite import lipsdp_upper
from holdfast.errors import InvalidInput, Unsupported
from holdfast.types import Ball


def bracket_of(model: nn.Module, *shape: int) -> holdfast.Bracket:
    torch.manual_seed(1)
    return holdfast.lipschitz(model.eval(), torch.randn(16, *shape), seconds=0.5)


def dense(model: nn.Module, *shape: int) -> torch.Tensor:
    """Return the matrix of a linear model by pushing every unit vector through it."""
    count = math.prod(shape)
    model = model.double()
    with torch.no_grad():
        offset = model(torch.zeros(1, *shape).double())
        return (model(torch.eye(count).double().reshape(count, *shape)) - offset).flatten(1).T


def attained(model: nn.Module, *shape: int) -> float:
    """Return the largest Jacobian norm over random points: a lower bound by calculus alone."""
    torch.manual_seed(2)
    model = model.double().eval()
    points = torch.randn(64, *shape).double()
    function = torch.func.vmap(torch.func.jacrev(lambda x: model(x[None])[0].flatten()))
    jacobians = function(points).reshape(64, -1, math.prod(shape))
    return float(torch.linalg.matrix_norm(jacobians.detach(), 2).max())


def test_convolutions_count() -> None:  # T1
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model[0].weight.data *= 20.0
    bound = bracket_of(model, 1, 4, 4).upper
    assert bound >= attained(model, 1, 4, 4) > 5.0


def test_skip_connections_count() -> None:  # T2
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), Residual(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)))
    model[1].body[2].weight.data *= 1e-6
    bound = bracket_of(model, 6).upper
    assert bound >= attained(model, 6) > 1e-3  # more than the norms along the block's inside


@pytest.mark.parametrize(("layer", "steepest"), [(nn.SiLU(), 1.0998), (nn.GELU(), 1.1289)])
def test_slopes_above_one_count(layer: nn.Module, steepest: float) -> None:  # T3
    bracket = bracket_of(nn.Sequential(nn.Identity(), layer), 1)
    assert bracket.upper >= steepest
    assert attained(layer, 1) <= bracket.upper


def test_layers_without_bias_are_taken() -> None:  # T4
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    bracket = bracket_of(model, 4)
    assert attained(model, 4) <= bracket.upper and bracket.ratio < 1.5


def test_a_solver_that_lies_proves_nothing() -> None:  # T5, T10
    from holdfast.sdp.dense.interior import solve
    from holdfast.sdp.lift import normal_form
    from holdfast.sdp.proof import prove
    from holdfast.sdp.reduction import reduce

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    form = reduce(normal_form(holdfast.capture(model, torch.zeros(1, 4).double()), 100))
    best = solve(form, 1e-6, 20.0)
    truth = attained(model, 4)
    for factor in (0.0, 1e-3, 0.5, 0.999, 1.001, 1e3):
        assert prove(form, best * factor) >= truth
    assert prove(form, -best) == math.inf


def test_the_reshaped_kernel_is_not_the_operator() -> None:  # T6
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 8, 3, padding=1)
    true = float(torch.linalg.matrix_norm(dense(conv, 1, 8, 8), 2))
    reshaped = float(torch.linalg.matrix_norm(conv.weight.detach().double().reshape(8, -1), 2))
    graph = holdfast.capture(conv.float(), torch.zeros(1, 1, 8, 8))
    assert reshaped < 0.9 * true <= true <= gain_upper(graph, 2.0)


def test_power_iteration_stops_below_the_truth() -> None:  # T7
    values = torch.linspace(0.9, 1.0, 60).double()
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(60, 60).double())[0]
    model = nn.Linear(60, 60, bias=False).double()
    model.weight.data = rotation @ torch.diag(values) @ torch.linalg.qr(rotation + 1.0)[0]
    u = torch.ones(60).double()
    for _ in range(10):
        u = torch.nn.functional.normalize(model.weight.data.T @ (model.weight.data @ u), dim=0)
    stopped = float((model.weight.data @ u).norm())
    graph = holdfast.capture(model, torch.zeros(1, 60).double())
    *_, witness = steepest_pairs(graph, torch.randn(8, 60).double(), 2.0, None)
    assert stopped < witness.slope <= gain_upper(graph, 2.0)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_small_grids_and_strides(mode: str, stride: int, dilation: int, groups: int) -> None:  # T8
    torch.manual_seed(0)
    settings = {"stride": stride, "padding": 1, "dilation": dilation, "groups": groups}
    conv = nn.Conv2d(2, 4, 3, padding_mode=mode, **settings)
    graph = holdfast.capture(conv, torch.zeros(1, 2, 7, 7))
    assert gain_upper(graph, 2.0) >= float(torch.linalg.matrix_norm(dense(conv, 2, 7, 7), 2))


def test_the_radius_of_a_ball_is_that_of_its_norm() -> None:  # T9
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 2)).double()
    graph = holdfast.capture(model, torch.zeros(1, 9).double())
    center = torch.randn(9).double()
    bounds = {
        norm: min(lipsdp_upper(graph, 1e-4, 20.0, Ball(center, 0.5, norm)))
        for norm in (1.0, 2.0, math.inf)
    }
    # the l1 ball lies in the l2 ball, and that in the linf ball
    assert bounds[1.0] <= bounds[2.0] * 1.001 and bounds[2.0] <= bounds[math.inf] * 1.001


def test_training_mode_is_refused() -> None:  # T11
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    with pytest.raises(Unsupported, match="eval"):
        holdfast.lipschitz(model, torch.randn(4, 3))


def test_a_module_used_twice_counts_twice() -> None:  # T11
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    model = Twice().double()
    model.layer.weight.data = torch.tensor([[0.0, 4.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    bracket = holdfast.lipschitz(model.double(), torch.randn(4, 3).double())
    assert bracket.lower <= 4.0 <= bracket.upper  # the layer's square is 4 times the identity


def test_overlapping_windows_count() -> None:  # T11
    pool = nn.MaxPool2d(3, stride=1)
    bracket = bracket_of(pool, 1, 5, 5)
    spike = torch.zeros(1, 1, 5, 5)
    spike[0, 0, 2, 2] = 1.0
    assert float((pool(spike) - pool(0 * spike)).norm()) == 3.0 <= bracket.upper


def test_float32_weights_are_what_is_certified() -> None:  # T11
    single = nn.Linear(3, 3, bias=False)
    single.weight.data = torch.eye(3) * 0.1
    stored = float(torch.tensor(0.1).double())
    assert stored > 0.1 and bracket_of(single, 3).upper >= stored


def test_a_region_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidInput, match="region"):
        holdfast.lipschitz(nn.Linear(3, 2), torch.zeros(1, 3), region=Ball(torch.zeros(4), 1.0))

"""Operations that are written with others: the graph is the model, and its bounds hold."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdfast
from holdfast.arguments import check_model
from holdfast.brackets.gain import gain_upper
from holdfast.errors import Unsupported
from holdfast.graph.capture import capture
from holdfast.graph.ir import Graph
from holdfast.graph.walk import run

Function = Callable[[Tensor], Tensor]

ROW = (3, 4)
MASK = torch.tensor([True, False, False, True])
_NUMBERS = torch.Generator().manual_seed(0)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_NUMBERS)


A, C, V, BATCHED = numbers(3, 3), numbers(5, 4), numbers(4), numbers(3, 4, 2)
SQRT2 = math.sqrt(2)


def norm2(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.double(), 2))


class Case(NamedTuple):
    """A function of rows of shape [3, 4], and its Lipschitz constant in l2 where it is known."""

    function: Function
    constant: float | None = None


def written(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, [0, 2], 1] = 3.0
    y[:, 1] = 0.0
    y[:, :, 3] = x[:, :, 0]
    y[:, [0, 1]] = x[:, [2, 2]]
    return y


WIRED: Mapping[str, Case] = {
    "columns": Case(lambda x: x[:, [2, 0]], 1.0),
    "columns from the end": Case(lambda x: x[:, :, [-1, 0, -3]], 1.0),
    "columns twice": Case(lambda x: x[:, [2, 0, 2]], SQRT2),
    "columns by a mask": Case(
        lambda x: F.linear(x[:, torch.tensor([True, False, True])].flatten(1), torch.eye(8)), 1.0
    ),
    "two indices": Case(lambda x: x[:, [2, 0, 2], [1, -1, 1]], SQRT2),
    "a grid of indices": Case(
        lambda x: x[:, torch.tensor([[0], [2]]), torch.tensor([[3, 1]])], 1.0
    ),
    "an index of indices": Case(lambda x: x.flatten(1)[:, torch.tensor([[0, 3], [5, 5]])], SQRT2),
    "gather": Case(
        lambda x: x.gather(1, torch.tensor([[[0, 1, 2, 1]]]).expand(x.shape[0], -1, -1)), 1.0
    ),
    "gather along the last": Case(
        lambda x: x.gather(-1, torch.tensor([1, 1]).expand(x.shape[0], 3, 2)), SQRT2
    ),
    "repeat": Case(lambda x: x.repeat(1, 2, 3), math.sqrt(6)),
    "repeat each": Case(lambda x: x.repeat_interleave(2, -1), SQRT2),
    "tile": Case(lambda x: x.tile((2,)), SQRT2),
    "roll": Case(lambda x: x.roll((1, -2), (1, -1)), 1.0),
    "turn": Case(lambda x: x.rot90(3, (1, 2)), 1.0),
    "negative step": Case(lambda x: x[:, :, ::2].flip(-1), 1.0),
    "diagonal": Case(lambda x: x.diagonal(1, 1, 2), 1.0),
    "windows": Case(lambda x: x.unfold(2, 2, 1), SQRT2),
    "patches": Case(lambda x: F.unfold(x[:, None], (2, 3)), 2.0),
    "smaller pixels": Case(lambda x: F.pixel_unshuffle(x[:, None, :2], 2), 1.0),
    "other channels": Case(lambda x: F.channel_shuffle(x.transpose(1, 2)[..., None], 2), 1.0),
    "written": Case(written),
    "scatter": Case(
        lambda x: x.scatter(2, torch.tensor([[[1], [0], [3]]]).expand(x.shape[0], -1, -1), 5.0), 1.0
    ),
    "index fill": Case(lambda x: x.index_fill(-1, torch.tensor([0, 2]), 2.0), 1.0),
    "index copy": Case(lambda x: x.index_copy(1, torch.tensor([0, 2]), 2 * x[:, :2]), None),
    "triangle": Case(lambda x: x.tril(-1) + x.triu(), None),
}

CONSTANTS: Mapping[str, Case] = {
    "ones like": Case(lambda x: x + torch.ones_like(x), 1.0),
    "zeros beside": Case(lambda x: torch.cat([torch.zeros_like(x), x], 1), 1.0),
    "zeros like what moves": Case(
        lambda x: torch.cat([torch.zeros_like(x.relu()[:, :1]), x], 1), 1.0
    ),
    "full like": Case(lambda x: x * torch.full_like(x, 2.0), 2.0),
    "new zeros": Case(lambda x: torch.cat([x.new_zeros(x.shape[0], 1, 4), x], 1), 1.0),
    "new full": Case(lambda x: x + x.new_full((4,), 2.0) * x.new_ones(3, 1), 1.0),
    "fill": Case(lambda x: torch.maximum(x, x.clone().fill_(0.5)), 1.0),
    "wider product": Case(lambda x: x[:, :, :1] * torch.tensor([3.0, -4.0]), 5.0),
    "wider product of places": Case(
        lambda x: x[:, None] * BATCHED[0, :2, 0].reshape(2, 1, 1), None
    ),
    "wider product by entry": Case(lambda x: x[:, None] * BATCHED.permute(2, 0, 1), None),
    "wider sum": Case(lambda x: x[:, :, :1] + torch.ones(2), SQRT2),
    "wider difference": Case(lambda x: torch.ones(3, 2) - x[:, :1, 1:2], math.sqrt(6)),
    "wider quotient": Case(lambda x: x[:, :, 2:3] / torch.tensor([1.0, 3.0]), None),
    "one number a row": Case(
        lambda x: (x.sum((1, 2)) + torch.zeros(x.shape[0]))[:, None], math.sqrt(12)
    ),
    "product with a mask": Case(lambda x: x * MASK, 1.0),
    "nan to num": Case(lambda x: x.nan_to_num(1.0, 2.0, -2.0), 1.0),
    "masked fill": Case(lambda x: x.masked_fill(MASK, 0.3), 1.0),
    "masked fill by a tensor": Case(lambda x: x.masked_fill(~MASK, torch.tensor(-0.3)), 1.0),
    "where": Case(lambda x: torch.where(MASK, x, torch.zeros(())), 1.0),
    "where of rows": Case(lambda x: torch.where(MASK.reshape(1, 1, 4), 1.0, x), 1.0),
    "where of two": Case(lambda x: torch.where(MASK, x, 2 * x), None),
    "where widens": Case(lambda x: torch.where(MASK, x[:, :, :1], 0.0), None),
    "where with a table": Case(lambda x: torch.where(MASK, x, V.reshape(1, 4)), 1.0),
}

CHOSEN: Mapping[str, Case] = {
    "the larger": Case(lambda x: torch.where(x > x.flip(1), x, x.flip(1)), None),
    "the smaller": Case(lambda x: torch.where(x[:, 0] <= x[:, 1], x[:, 0], x[:, 1]), 1.0),
    "the smaller, turned": Case(lambda x: torch.where(x[:, 0] > x[:, 1], x[:, 1], x[:, 0]), 1.0),
    "not below a number": Case(lambda x: torch.where(x > 0.1, x, 0.1), 1.0),
    "not above a tensor": Case(lambda x: torch.where(x >= torch.tensor(0.5), 0.5, x), 1.0),
    "number first": Case(lambda x: torch.where(torch.tensor(0.5) > x, torch.tensor(0.5), x), 1.0),
    "not below each": Case(lambda x: torch.where(x > V, x, V), 1.0),
    "positive part": Case(lambda x: torch.where(x > 0, x, torch.zeros_like(x)), 1.0),
    "positive part, filled": Case(lambda x: x.masked_fill(x < 0, 0.0), 1.0),
    "negative part": Case(lambda x: torch.where(x < 0, x, 0.0), 1.0),
    "leaky": Case(lambda x: torch.where(x > 0, x, 0.1 * x), 1.0),
    "leaky, turned": Case(lambda x: torch.where(x <= 0, -0.2 * x, x), 1.0),
    "steep below": Case(lambda x: torch.where(x < 0, 3 * x, x), 3.0),
    "bent above": Case(lambda x: torch.where(x > 0, 2.0 * x, x), 2.0),
    "maximum with constants": Case(lambda x: torch.maximum(x, V), 1.0),
    "minimum with one": Case(lambda x: torch.minimum(torch.tensor(0.25), x), 1.0),
    "maximum widens": Case(lambda x: torch.maximum(x[:, :, :1], V), 2.0),
    "clamp by tensors": Case(lambda x: x.clamp(torch.minimum(V, -V), V.abs()), 1.0),
    "clamp below": Case(lambda x: x.clamp_min(V), 1.0),
    "clamp above": Case(lambda x: x.clamp_max(torch.full((3, 1), 0.3)), 1.0),
    "clamp by what moves": Case(lambda x: torch.clamp(x, max=x.abs().flip(1)), None),
    "smallest": Case(lambda x: x.min(1).values, 1.0),
    "smallest of all": Case(lambda x: x.amin((1, -1), keepdim=True), 1.0),
    "smallest kept": Case(lambda x: x.min(-1, keepdim=True)[0], 1.0),
    "both ends": Case(lambda x: torch.cat(torch.aminmax(x, dim=1), 1), None),
    "top": Case(lambda x: x.topk(2, 1).values, 1.0),
    "top one": Case(lambda x: x.topk(1, -1).values, 1.0),
    "bottom": Case(lambda x: x.topk(3, largest=False).values, 1.0),
    "second": Case(lambda x: x.kthvalue(2, 1, keepdim=True).values, 1.0),
    "median": Case(lambda x: x.median(-1).values, 1.0),
    "stable sort": Case(lambda x: torch.sort(x, stable=True, dim=1, descending=True)[0], 1.0),
    "threshold": Case(lambda x: F.threshold(x, 0.2, 0.2), 1.0),
    "leaky by a mean": Case(lambda x: F.rrelu(x, 0.25, 0.5), 1.0),
    "softshrink": Case(lambda x: F.softshrink(x, 0.3), 1.0),
    "l1 norm": Case(lambda x: x.norm(p=1, dim=1), math.sqrt(3)),
    "linf norm": Case(lambda x: torch.linalg.vector_norm(x, math.inf, (1, 2), keepdim=True), 1.0),
    "least size": Case(lambda x: torch.linalg.vector_norm(x, -math.inf, -1), 1.0),
    "pool with places": Case(lambda x: F.max_pool2d(x[:, None], 2, return_indices=True)[0], 1.0),
    "pool of lines with places": Case(
        lambda x: F.max_pool1d(x, 3, 1, return_indices=True)[0], SQRT2
    ),
    "adaptive pool": Case(lambda x: F.adaptive_max_pool1d(x, 2), 1.0),
    "adaptive pool of images": Case(lambda x: F.adaptive_max_pool2d(x[:, None], (1, 4)), 1.0),
}

CONTRACTED: Mapping[str, Case] = {
    "matrix on the left": Case(lambda x: A @ x, norm2(A)),
    "matrix on the left of images": Case(lambda x: A @ x[:, None], norm2(A)),
    "matrix per row": Case(lambda x: torch.bmm(A.expand(x.shape[0], 3, 3), x), norm2(A)),
    "matrix per row on the right": Case(
        lambda x: torch.bmm(x, C.T.expand(x.shape[0], 4, 5)), norm2(C)
    ),
    "vector on the right": Case(lambda x: x @ V, float(V.norm())),
    "vector on the left": Case(lambda x: A[0] @ x, float(A[0].norm())),
    "vector of rows": Case(lambda x: torch.mv(x[:, 0], V)[:, None], float(V.norm())),
    "matrices": Case(lambda x: x[:, :, None] @ BATCHED, max(map(norm2, BATCHED))),
    "one of several": Case(lambda x: x[:, None] @ BATCHED[:1], norm2(BATCHED[0])),
    "several of one": Case(lambda x: x[:, None] @ BATCHED, None),
    "weight": Case(lambda x: torch.einsum("bij,oj->bio", x, C), norm2(C)),
    "adjacency": Case(lambda x: torch.einsum("ij,bjk->bik", A, x), norm2(A)),
    "all": Case(lambda x: torch.einsum("bij,oij->bo", x, BATCHED.permute(2, 0, 1)), None),
    "by entry": Case(lambda x: torch.einsum("bij,ji->bij", x, C[:4, :3].contiguous()), None),
    "by entry, moved": Case(
        lambda x: torch.einsum("bij, i -> bji", x, A[0]), float(A[0].abs().max())
    ),
    "groups": Case(lambda x: torch.einsum("bij,ijk->bik", x, BATCHED), max(map(norm2, BATCHED))),
    "dots": Case(lambda x: torch.einsum("...ij,j->...i", x, V), float(V.norm())),
    "no arrow": Case(lambda x: torch.einsum("bij,kj", x, C), None),
    "outer": Case(lambda x: torch.einsum("bij,k->bijk", x, V), float(V.norm())),
    "alone": Case(lambda x: torch.einsum("bij->bj", x), math.sqrt(3)),
    "tensordot": Case(lambda x: torch.tensordot(x, C, cast(Any, ([-1], [1]))), norm2(C)),
    "twice as wide": Case(lambda x: F.interpolate(x, scale_factor=2, mode="linear"), None),
    "twice as large": Case(
        lambda x: F.interpolate(x[:, None], scale_factor=(4, 2), mode="bilinear"), None
    ),
    "corners": Case(
        lambda x: F.interpolate(x[:, None], (5, 7), mode="bilinear", align_corners=True), None
    ),
    "in space": Case(
        lambda x: F.interpolate(x[:, None, None], scale_factor=2, mode="trilinear"), None
    ),
    "instance norm": Case(lambda x: F.instance_norm(x, eps=0.25), 2.0),
    "stored statistics": Case(
        lambda x: F.instance_norm(x, A[0], A[1].abs(), A[2], A[0], use_input_stats=False), None
    ),
}

CASES = {**WIRED, **CONSTANTS, **CHOSEN, **CONTRACTED}


class Every(nn.Module):
    """Applies all functions, each in a module of its own, and returns their results in a row."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Apply(function) for function in functions.values())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x).reshape(x.shape[0], -1) for part in self.parts], 1)


class Apply(nn.Module):
    """One function."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.fixture(scope="module")
def graphs() -> Mapping[str, Graph]:
    """The graph of every function, out of one capture."""
    whole = capture(Every({k: case.function for k, case in CASES.items()}).eval(), numbers(1, *ROW))
    return {
        name: dataclasses.replace(whole, output=whole.layers[f"parts.{k}"], layers={}).pruned()
        for k, name in enumerate(CASES)
    }


@pytest.mark.parametrize("name", CASES)
def test_the_graph_is_the_model(graphs: Mapping[str, Graph], name: str) -> None:
    graph = graphs[name]
    assert not [node.title for node in graph.nodes if node.op == "aten"]
    for rows in (1, 2, 7):
        x = 2.0 * numbers(rows, *ROW)
        torch.testing.assert_close(run(graph, x), CASES[name].function(x))


@pytest.mark.parametrize("name", CASES)
def test_no_slope_is_above_the_bound(graphs: Mapping[str, Graph], name: str) -> None:
    graph, constant = graphs[name].double(), CASES[name].constant
    x = 2.0 * numbers(200, *ROW).double()
    step = 1e-3 * numbers(200, *ROW).double()
    with torch.no_grad():
        change = (run(graph, x + step) - run(graph, x)).flatten(1)
    for norm in (1.0, 2.0, math.inf):
        slopes = change.norm(norm, 1) / step.flatten(1).norm(norm, 1)
        assert float(slopes.max()) <= gain_upper(graph, norm) * (1 + 1e-9)
    if constant is not None:
        assert gain_upper(graph, 2.0) == pytest.approx(constant, rel=1e-5)


class Net(nn.Module):
    """A function of the rows between layers that make classes of them."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.last = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(x).flatten(1))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.half().float(), "aten.to.dtype: rounds to float16: a step"),
        (lambda x: x.bfloat16().mul(2).float(), "aten.to.dtype: rounds to bfloat16: a step"),
        (lambda x: x.int().float(), "rounds to whole numbers: a step"),
        (lambda x: (x > 0).float(), "gt.Scalar: jumps"),
        (F.hardshrink, "le.Scalar: jumps"),
        (lambda x: F.threshold(x, 0.3, 0.0), "threshold.default: jumps"),
        (lambda x: torch.where(x > 0, x, 0.5), "where.ScalarOther: chooses by a condition"),
        (lambda x: torch.where(x > 0.5, x, 0.1 * x), "gt.Scalar: jumps"),
        (lambda x: torch.where(x.abs() > 0.3, x - 0.2 * x.sign(), x * 0), "where.self: chooses"),
        (lambda x: x.masked_fill(x > 0.5, 0.0), "masked_fill.Scalar: chooses"),
        (lambda x: x.masked_fill(MASK, -math.inf).tanh(), "fills in what is not finite"),
        (lambda x: x.round() + x.floor(), "round.default: jumps"),
        (lambda x: x.div(2, rounding_mode="floor"), "div.Tensor_mode: jumps"),
        (lambda x: 1 / (2 + x.abs()), "reciprocal: has no global Lipschitz constant (its slope"),
        (lambda x: V / (2 + x.abs()), "reciprocal: has no global Lipschitz constant (its slope"),
        (lambda x: x * x.tanh(), "product: has no global Lipschitz constant (a product"),
        (lambda x: x.exp(), "exp: has no global Lipschitz constant (its slope grows"),
        (lambda x: x @ x.mT, "certify(..., method='local')"),
        (lambda x: x.exp() + x.floor(), "floor.default: jumps"),
        (lambda x: torch.einsum("bij,ik->bj", x, A), "einsum.default: no rule for this product"),
        (lambda x: F.interpolate(x, size=7, mode="linear"), "no exact numbers in floating point"),
        (lambda x: F.adaptive_max_pool1d(x, 3), "adaptive_max_pool1d.default: no rule"),
        (lambda x: x.topk(2, 1, sorted=False)[0], "topk.default: no rule"),
        (lambda x: torch.linalg.vector_norm(x, 3, 1), "linalg_vector_norm.default: no rule"),
    ],
)
def test_refusals_name_the_reason(function: Function, words: str) -> None:
    model = Net(function).eval()
    model(torch.zeros(1, *ROW))
    with pytest.raises(Unsupported) as refusal:
        gain_upper(capture(model, numbers(2, *ROW)), 2.0)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.roll(1, 0),
        lambda x: x.flip(0),
        lambda x: x.roll(1),
        lambda x: x.unsqueeze(0).repeat_interleave(2, 1)[0][: x.shape[0]],
        lambda x: x[torch.zeros(x.shape[0], dtype=torch.int64)],
        lambda x: x.gather(0, torch.zeros(1, 3, 4, dtype=torch.int64).expand(x.shape[0], -1, -1)),
        lambda x: x.scatter(1, torch.tensor([[[1], [0], [3]]]) % 3, 5.0),
        lambda x: x - x.amin(0),
        lambda x: x.transpose(0, 1).reshape(-1, 3, 4),
        lambda x: x.flip(0).reshape(-1, 4).reshape(-1, 3, 4),
        lambda x: F.linear(x.permute(1, 2, 0), torch.ones(2, 2)).permute(2, 0, 1),
        lambda x: x.sort(0)[0],
        lambda x: torch.einsum("bij->ij", x) + x,
    ],
)
def test_what_moves_from_row_to_row_is_refused(function: Function) -> None:
    with pytest.raises(Unsupported):
        gain_upper(capture(Apply(function).eval(), numbers(2, *ROW)), 2.0)


def test_a_wrapper_is_its_model() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = numbers(2, 4)
    plain = capture(net, x)
    for wrapped in (nn.DataParallel(net), torch.compile(net), torch.compile(nn.DataParallel(net))):
        graph = capture(cast(nn.Module, wrapped), x)
        assert (graph.fingerprint, graph.layers) == (plain.fingerprint, plain.layers)
    compiled = cast(nn.Module, torch.compile(net))
    measured = holdfast.knowledge(compiled, (x, torch.tensor([0, 1])))
    assert list(measured.layers) == list(holdfast.knowledge(net, (x, torch.tensor([0, 1]))).layers)


def test_a_wrapper_that_computes_something_else_stays() -> None:
    net, x = nn.Sequential(nn.Linear(4, 3)).eval(), numbers(2, 4)
    hooked = nn.DataParallel(net)
    hooked.register_forward_hook(lambda *call: call[-1].neg())

    class DataParallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = net

        def forward(self, x: Tensor) -> Tensor:
            return 2.0 * self.module(x)

    exact = 2.0 * net(x)
    assert torch.allclose(run(capture(DataParallel().eval(), x), x), exact)
    assert check_model(hooked) is hooked


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_is_refused_with_the_way_on() -> None:
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), numbers(2, 4)
    with pytest.raises(Unsupported, match=r"TorchScript: .* give the module that it was made from"):
        capture(cast(nn.Module, torch.jit.trace(net, x)), x)


def test_a_result_without_rows_is_refused() -> None:
    model = Apply(lambda x: torch.einsum("bij,bkl->jl", x, x)).eval()
    with pytest.raises(Unsupported, match=r"5 rows give a result of shape \(4, 4\)"):
        capture(model, numbers(2, *ROW))

"""Translations: every argument of an operation counts, and what has no words is kept as it is."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdfast
from holdfast.graph.capture import capture
from holdfast.graph.walk import hidden_states, run
from holdfast.ops import Kind

Function = Callable[[Tensor], Tensor]

W, W2, W3 = (torch.randn(6, 2, *[3] * rank) for rank in (1, 2, 3))
V = torch.randn(6)

# Functions of images [N, 6, 7, 5], none of whose settings are the default.
TRANSLATED: dict[str, Function] = {
    "scale factor": lambda x: F.interpolate(x, scale_factor=1.6),
    "two scale factors": lambda x: F.interpolate(x, scale_factor=(2.3, 0.7)),
    "scale factor of lines": lambda x: F.interpolate(x.flatten(2), scale_factor=1.7),
    "scale factor of volumes": lambda x: F.interpolate(x[:, None], scale_factor=(0.6, 1.3, 2.0)),
    "new scale factor": lambda x: F.interpolate(x, scale_factor=1.6, recompute_scale_factor=True),
    "sizes": lambda x: F.interpolate(x, size=(11, 3)),
    "crop": lambda x: F.pad(x, (-1, 2, 0, -3)),
    "pad with a value": lambda x: F.pad(x, (1, 2, 0, 1), value=0.3),
    "pad around": lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"),
    "pad reflected": lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "pad replicated": lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
    "narrow": lambda x: x.narrow(2, -3, 2),
    "slice": lambda x: x[:, 1:5:2, -3:],
    "select": lambda x: x[:, :, -2],
    "parts": lambda x: torch.cat([*x.split([1, 4, 2], 2)[::2], *x.chunk(3, 2)[1:]], 2),
    "parts of one size": lambda x: x.split(3, 2)[2],
    "unbind": lambda x: torch.stack(x.unbind(-1)[1:3], 2),
    "flip": lambda x: x.flip((1, -1)),
    "index": lambda x: x.index_select(1, torch.tensor([5, 0, 0])),
    "shuffle": lambda x: F.pixel_shuffle(x[:, :4], 2),
    "shape": lambda x: x.unflatten(1, (2, 3)).transpose(-1, 1).flatten(2, 3).unsqueeze(1),
    "average": lambda x: F.avg_pool2d(x, 3, (2, 1), 1, True, False, 5),
    "average of lines": lambda x: F.avg_pool1d(x.flatten(2), 4, 3, 2, True, False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "maximum": lambda x: F.max_pool2d(x, 2, (2, 1), 1, 2, True),
    "maximum of lines": lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1, 2, True),
    "convolution": lambda x: F.conv2d(x, W2, V, (2, 1), (1, 2), (1, 2), 3),
    "same size": lambda x: F.conv2d(x[:, :2], W2[..., :2], None, 1, "same", (2, 1)),
    "of lines": lambda x: F.conv1d(x.flatten(2), W, V, 2, 3, 2, 3),
    "of volumes": lambda x: F.conv3d(x[:, None].expand(-1, 2, -1, -1, -1), W3, V, 2, 1, 1, 1),
    "transposed": lambda x: F.conv_transpose2d(x, W2, V[:4], (2, 3), 1, (1, 2), 2, 2),
    "add": lambda x: torch.add(x, W2[0, 0, :1, 0], alpha=2.5),
    "subtract": lambda x: torch.sub(x, torch.relu(x), alpha=0.3),
    "from a number": lambda x: torch.rsub(x, 2.0, alpha=0.7),
    "quotient": lambda x: x / V[:, None, None],
    "mean": lambda x: x.mean((1, -1), keepdim=True),
    "sum": lambda x: x.sum((1, 2)),
    "running sum": lambda x: x.cumsum(-2),
    "largest": lambda x: x.amax((1, 3), keepdim=True),
    "largest alone": lambda x: x.max(2, keepdim=True).values,
    "sorted": lambda x: x.sort(1, descending=True).values,
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: x.log_softmax(-2),
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 0.7),
    "leaky": lambda x: F.leaky_relu(x, -0.3),
    "prelu": lambda x: F.prelu(x, V),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "softplus": lambda x: F.softplus(x, 2.5, 30),
    "waves": lambda x: torch.sin(x) + torch.cos(x) + torch.erf(x) + torch.atan(x),
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "softshrink by 0": lambda x: F.softshrink(x, 0.0),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "log1p of no negative number": lambda x: torch.log1p(x.abs()) + torch.log1p(x.sigmoid()),
    "lengths": lambda x: x.norm(dim=(1, -1), keepdim=True) + x.norm(dim=2, keepdim=True),
    "lengths in l1": lambda x: x.norm(p=1, dim=2),
    "lengths in linf": lambda x: torch.linalg.vector_norm(x, math.inf, (2, 3)),
    "lengths by another name": lambda x: torch.linalg.norm(x, dim=(1, 2)),
    "lengths of lines": lambda x: torch.linalg.norm(x, 1, dim=2, keepdim=True),
    "log sum exp": lambda x: x.logsumexp((1, 3), True) + x.logsumexp(2, True),
    "rms norm": lambda x: F.rms_norm(x, (7, 5), None, 0.1),
    "rms norm by default": lambda x: F.rms_norm(x, (5,), V[:5]),
    "clamp": lambda x: x.clamp(-0.4, 0.2) + x.clamp(max=0.1) - x.clamp(min=0.3),
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.8),
    "layer norm": lambda x: F.layer_norm(x, (7, 5), None, None, 0.1),
    "group norm": lambda x: F.group_norm(x, 3, V, None, 0.1),
    "batch norm": lambda x: F.batch_norm(x, V, V.abs(), None, V, False, 0.1, 0.3),
    "dense": lambda x: F.linear(x.flatten(2), torch.ones(2, 35), V[:2]) + x.flatten(2) @ W4,
}
W4 = torch.randn(35, 2)
IN, W5, V5 = torch.randn(84, 28) / 9, torch.randn(28, 28), torch.randn(28)
KEPT = torch.ones(7, 7, dtype=torch.bool).tril()
NEGATIVE = torch.where(KEPT, torch.linspace(-1, 1, 7), -3e38)
TRANSLATED |= {
    "nearly softsign": lambda x: x / (1.5 + x.abs()),
    "another's softsign": lambda x: x.relu() / (1 + x.abs()),
    "log1p": lambda x: torch.log1p(x.tanh()),
    "exponentials": lambda x: torch.exp(x) - torch.expm1(0.1 * x) + torch.log(2.0 + x.tanh()),
    "roots": lambda x: (1.0 + x.square()).sqrt() * torch.rsqrt(2.0 + x.sin()),
    "powers": lambda x: x**3 - x.pow(2) + (x**2 + 1) ** -2 + (x**2 + 1) ** 0.5,
    "quotients": lambda x: 1.0 / (2.0 + x.sin()) + x / (2.0 + x.cos()) - x.reciprocal().clamp(0, 1),
    "products": lambda x: x * x[:, :1] - x.mean(2, keepdim=True) * x,
    "squares": lambda x: (2 * x) * (2 * x),
    "gates": lambda x: x * torch.sigmoid(x) - torch.sigmoid(1.7 * x) * x,
    "products of matrices": lambda x: x @ x.mT + (x.mT[:, :1] @ x).mean(-1, keepdim=True)[:, :, :1],
    "a matrix and vectors": lambda x: torch.einsum("nhij,nhj->nih", x, x[:, :, 0]),
    "sums along both": lambda x: torch.einsum("nhij,nhkj->nki", x, x[:, :, 2:4]),
    "sums of one alone": lambda x: torch.einsum("nhij,nk->nkh", x, x[:, 0, 0]),
    "attention": lambda x: F.scaled_dot_product_attention(x, x[:, :, :4].cos(), x[:, :, 1:5]),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, KEPT, scale=0.3),
    "added attention": lambda x: F.scaled_dot_product_attention(x, x, x, NEGATIVE),
    "grouped attention": lambda x: F.scaled_dot_product_attention(
        x, x[:, :3], x[:, 3:], enable_gqa=True
    ),
    "softmax filled": lambda x: (x @ x.mT).masked_fill(~KEPT, -math.inf).softmax(-1),
    "softmax chosen": lambda x: torch.where(KEPT, x @ x.mT, torch.tensor(-math.inf)).softmax(-1),
    "softmax with a mask added": lambda x: (x @ x.mT + NEGATIVE).softmax(-1),
    "softmax of few": lambda x: (x @ x.mT).masked_fill(~KEPT, -3e38).softmax(-1),
    "rows in the middle": lambda x: F.linear(x.flatten(2).transpose(0, 1), W4.T).transpose(0, 1),
    "rows in the end": lambda x: x.permute(1, 2, 3, 0).reshape(6, 35, -1)[2].contiguous().mT,
    "rows and channels": lambda x: torch.addmm(V[:2], x.reshape(-1, 35), W4).view(-1, 6, 2),
    "rows and heads": lambda x: (
        x.permute(1, 0, 2, 3).reshape(6, x.shape[0] * 7, 5).transpose(0, 1).reshape(-1, 7, 6, 5)
    ),
    "attention in heads": lambda x: F.multi_head_attention_forward(
        *[x[:, :, :, :4].flatten(2).transpose(0, 1)] * 3,
        *(28, 4, IN, None, None, None, False, 0.0, W5, V5),
        training=False,
    )[0].transpose(0, 1),
    "RMS in pieces": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-2),
    "RMS by a quotient": lambda x: x / (x.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt(),
    "lengths by einsum": lambda x: torch.einsum("nhij,nhij->nj", x, x),
}

OPAQUE: dict[str, Function] = {
    "bias per row": lambda x: F.linear(x, torch.ones(3, 5), x[..., :3]),
    "indices of sort": lambda x: x + x.sort(1).indices,
    "indices of max": lambda x: x + x.max(1, keepdim=True)[1],
    "integers": lambda x: x.long().float().mean(1, True) + (x > 0).float(),
    "division by zero": lambda x: (x / 0.0).clamp(-1, 1),
    "nearly softshrink": lambda x: torch.where(x.abs() > 0.3, x - x.sign() * 0.2, x * 0),
    "half a softshrink": lambda x: torch.where(x.abs() > 0.3, x - x.sign() * 0.3, x * 0.5),
    "lengths in l3": lambda x: x.norm(p=3, dim=1),
    "bilinear": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "nearest exact": lambda x: F.interpolate(x, scale_factor=1.6, mode="nearest-exact"),
    "pad cut around": lambda x: F.pad(x, (-1, 2, 0, 0), mode="circular"),
}


class Every(nn.Module):
    """Applies all functions, each in a module of its own, and returns their results in a row."""

    def __init__(self, functions: dict[str, Function]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: Apply(function) for name, function in functions.items()})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x).flatten(1) for part in self.parts.values()], 1)


class Apply(nn.Module):
    """One function."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("functions", [TRANSLATED, OPAQUE], ids=["translated", "opaque"])
def test_every_argument_counts(functions: dict[str, Function]) -> None:
    torch.manual_seed(0)
    graph = capture(Every(functions).eval(), torch.randn(1, 6, 7, 5))
    x = torch.randn(4, 6, 7, 5)
    layers = hidden_states(graph, x, list(graph.layers))[1]
    assert set(layers) == {f"parts.{name}" for name in functions}
    for name, function in functions.items():
        torch.testing.assert_close(layers[f"parts.{name}"], function(x), msg=name)
    outside = {node.path.removeprefix("parts.") for node in graph.nodes if node.op == "aten"}
    assert outside == (set() if functions is TRANSLATED else set(functions))


def test_pieces_are_put_together_again() -> None:
    pieces = ("RMS in pieces", "RMS by a quotient", "gates")
    model = Every({name: TRANSLATED[name] for name in pieces}).eval()
    graph = capture(model, torch.randn(1, 6, 7, 5))
    ops = {node.op for node in graph.nodes if node.kind is not Kind.WIRING}
    assert ops == {"input", "rms_norm", "silu", "scale", "divide", "add"}


def test_a_scale_factor_is_taken_as_it_is() -> None:
    model = Apply(lambda x: F.interpolate(x[:, None], scale_factor=1.6)[:, 0]).eval()
    graph = capture(model, torch.zeros(1, 4))
    assert run(graph, torch.arange(4.0)[None]).tolist() == [[0, 0, 1, 1, 2, 3]]
    assert "index_select" in {node.op for node in graph.nodes}
    doubled = capture(nn.Upsample(scale_factor=2), torch.zeros(1, 1, 4))
    assert [node.op for node in doubled.nodes] == ["input", "upsample_nearest"]


def test_tensors_that_follow_the_batch_have_its_size_outside_the_vocabulary() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x)[0][:, -1]

    torch.manual_seed(0)
    model = Recurrent().eval()
    graph = capture(model, torch.zeros(1, 5, 3))
    for rows in (1, 2, 9):
        x = torch.randn(rows, 5, 3)
        torch.testing.assert_close(run(graph, x), model(x))


def test_what_follows_the_batch_in_steps_is_no_constant() -> None:
    model = Apply(lambda x: x + torch.full((1,), x.shape[0] // 100)).eval()
    x = torch.randn(200, 3)
    assert torch.equal(run(capture(model, x), x), x + 2)
    with pytest.raises(holdfast.Unsupported, match="no rule"):
        holdfast.certify(model, x, torch.zeros(200, dtype=torch.int64))

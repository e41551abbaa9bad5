"""Calls that write in place: read as their twins where nobody else sees it, rewritten elsewhere."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from holdfast.errors import Unsupported
from holdfast.graph.capture import capture
from holdfast.graph.walk import run

WEIGHT = torch.tensor([[0.5, -1.0, 0.25], [2.0, 0.5, -0.75], [-1.5, 1.0, 0.5], [1.0, 3.0, -2.0]])


class Written(nn.Module):
    """A linear layer and what is done with its result h, in sight of the input."""

    def __init__(self, then: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.then = nn.Linear(3, 4, bias=False), then
        with torch.no_grad():
            self.fc.weight.copy_(WEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.fc(x), x)


def seen_before(h: Tensor, x: Tensor) -> Tensor:
    seen = h.view(-1, 2, 2)
    h.relu_()
    return seen.flatten(1)


def read_before(h: Tensor, x: Tensor) -> Tensor:
    y = h + 1.0
    return h.relu_() + y


def cast(h: Tensor, x: Tensor) -> Tensor:
    same = h.to(torch.float32)
    same.relu_()
    return h + same


def added(h: Tensor, x: Tensor) -> Tensor:
    h.add_(x.sum(1, keepdim=True))
    return h


def column(h: Tensor, x: Tensor) -> Tensor:
    h[:, 0].relu_()
    return h


def folded(h: Tensor, x: Tensor) -> Tensor:
    h.view(-1, 2, 2).relu_()
    return h


@pytest.mark.parametrize(
    ("passes", "then"),
    [
        (0, lambda h, x: h.relu_()),
        (0, lambda h, x: h.mul_(2.0).add_(1.0).clamp_(0.0, 3.0)),
        (0, lambda h, x: h * torch.tensor([1.0, 2.0, 3.0, 4.0])),
        (0, added),
        (1, seen_before),
        (1, read_before),
        (1, cast),
        (1, column),
        (1, folded),
    ],
)
def test_what_is_written_is_read(
    passes: int, then: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    rewrite = ExportedProgram.run_decompositions
    monkeypatch.setattr(
        ExportedProgram,
        "run_decompositions",
        lambda program, table: made.append(table) or rewrite(program, table),
    )
    model = Written(then).eval()
    x = torch.tensor([[1.0, -2.0, 0.5], [-0.5, 0.25, 3.0]])
    graph = capture(model, x)
    assert len(made) == passes
    assert torch.equal(run(graph, x), model(x))
    assert all(node.op != "aten" for node in graph.nodes)


def contracted(h: Tensor, x: Tensor) -> Tensor:
    torch.einsum("bi->bi", h).relu_()
    return h


def dropped(h: Tensor, x: Tensor) -> Tensor:
    nn.functional.dropout(h, 0.5, training=False)[:, 0].relu_()
    return h


def gridded(h: Tensor, x: Tensor) -> Tensor:
    (column,) = torch.meshgrid(h[:, 0], indexing="ij")
    column.relu_()
    return h


def in_a_block(h: Tensor, x: Tensor) -> Tensor:
    same = torch.einsum("bi->bi", h)
    with torch.no_grad():
        same.relu_()
    return h


def inside_a_block(h: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        torch.einsum("bi->bi", h).relu_()
    return h


def given(h: Tensor, x: Tensor) -> Tensor:
    torch.einsum("bi->bi", x).clamp_(-9.0, 9.0)
    return h + x.sum(1, keepdim=True)


@pytest.mark.parametrize("then", [contracted, dropped, gridded, in_a_block, inside_a_block, given])
def test_a_write_under_another_name_is_refused(then: Callable[[Tensor, Tensor], Tensor]) -> None:
    """On all rows of the replay these do nothing: it could not tell."""
    model = Written(lambda h, x: then(h + 50.0, x)).eval()
    with pytest.raises(Unsupported, match="writes in place into what is read elsewhere"):
        capture(model, torch.zeros(1, 3))


def once(h: Tensor, x: Tensor) -> Tensor:
    first = torch.einsum("bi->bi", nn.functional.dropout(h, 0.5, training=False)).relu_()
    return nn.functional.dropout(first, 0.0, training=True).mul_(2.0)


def compared(h: Tensor, x: Tensor) -> Tensor:
    chosen = torch.arange(4.0) * 1.0
    return h * (1.0 - chosen.gt_(1.0))


def raised(h: Tensor, x: Tensor) -> Tensor:
    return h * (torch.arange(4.0) * 1.0).pow_(2)


def narrowed(h: Tensor, x: Tensor) -> Tensor:
    factor = torch.arange(4.0) * 1.0
    return h @ factor.add_(torch.arange(4.0).double())[:, None]


@pytest.mark.parametrize("then", [once, compared, raised, narrowed])
def test_what_twins_do_not_do_alike_is_rewritten(then: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Written(then).eval()
    x = torch.tensor([[1.0, -2.0, 0.5], [-0.5, 0.25, 3.0]])
    graph = capture(model, x)
    assert torch.equal(run(graph, x), model(x))
    assert all(node.op != "aten" for node in graph.nodes)

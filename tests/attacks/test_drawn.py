"""No point inside a certified ball is known to be of another class: nets over all operations.

The same attacks find points of another class where balls are larger than was certified.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from tests.attacks.drawn import SHAPES, draw_net, draw_rows, graphs_of
from tests.attacks.losses import losses
from torch import Tensor, nn

import holdfast
from holdfast.arguments import NORMS
from holdfast.bounds.float32 import FLOAT32
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.certify import CertifyOptions, certify_graph
from holdfast.graph.ir import Graph
from holdfast.graph.walk import uncovered
from holdfast.types import dual

METHODS = ("auto", "auto", "global", "local")

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@dataclasses.dataclass(frozen=True)
class Case:
    """A drawn net and what is certified of some rows.

    Attributes:
        seed: Of everything that is drawn.
        net: In float32.
        graph: Of the net.
        x: [N, ...], float32.
        claims: One per row.
    """

    seed: int
    net: nn.Module
    graph: Graph
    x: Tensor
    claims: Certificates

    def lost(self, factor: float = 1.0) -> list[int]:
        """Return the rows lost within their radius times a factor."""
        claims = dataclasses.replace(self.claims, radius=self.claims.radius * factor)
        return losses(self.graph, self.net, self.x, claims).nonzero().flatten().tolist()


def cases(bundle: int, nets: int = 10) -> Iterator[Case]:
    """Yield drawn nets that take rows of one shape; every other net is certified as executed."""
    shape = SHAPES[bundle % len(SHAPES)]
    drawn = [draw_net(nets * bundle + place, shape) for place in range(nets)]
    for place, (net, graph) in enumerate(zip(drawn, graphs_of(drawn, shape), strict=True)):
        seed = nets * bundle + place
        x = draw_rows(seed, net, shape, 28)
        with torch.no_grad():
            labels = net.double()(x.double()).argmax(1)
            net.float()
        executed = seed % 2 == 1 and not uncovered(graph, FLOAT32)
        semantics = "float32" if executed else "real"
        options = CertifyOptions(NORMS[seed // 2 % 3], METHODS[seed // 6 % 4], semantics)
        yield Case(seed, net, graph, x, certify_graph(graph, x, labels, options))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_no_attack_lies_inside_a_ball_of_a_drawn_net(part: int) -> None:
    wrong, counts = [], Counter()
    for case in (case for bundle in range(5 * part, 5 * part + 5) for case in cases(bundle)):
        claims = case.claims
        what = f"net {case.seed}, norm {claims.norm}, {claims.semantics}"
        wrong += [
            f"{what}, row {row}: {claims.method[row]}, radius {float(claims.radius[row])!r}"
            for row in case.lost()
        ]
        counts[claims.semantics] += int((claims.radius > 0).sum())
        counts["nets lost in balls ten times as large"] += bool(case.lost(10.0))
    print(f"part {part}: {dict(counts)}, {len(wrong)} false claims")
    assert not wrong
    assert counts["real"] + counts["float32"] >= 1000  # of 1,400 rows
    assert counts["nets lost in balls ten times as large"] >= 25  # of 50


def test_balls_larger_than_certified_are_lost() -> None:
    real, executed = cases(7, 2)
    assert (real.claims.semantics, executed.claims.semantics) == ("real", "float32")
    for case in (real, executed):
        assert not case.lost()
        assert len(case.lost(4.0)) >= 14  # of 28 rows


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_too_large_by_a_hair_is_lost(norm: float) -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(5, 3).eval(), torch.randn(8, 5)
    with torch.no_grad():
        weight, logits = net.weight.double(), net.double()(x.double())
    labels, graph = logits.argmax(1), holdfast.capture(net.float(), x)
    steepness = torch.linalg.vector_norm(weight[labels][:, None] - weight, dual(norm), dim=2)
    distances = (logits.amax(1, keepdim=True) - logits) / steepness
    exact = distances.scatter(1, labels[:, None], math.inf).amin(1)
    claims = certify_graph(graph, x, labels, CertifyOptions(norm))
    case = Case(0, net, graph, x, dataclasses.replace(claims, radius=exact))
    assert case.lost(1.0 + 1e-6) == list(range(8))
    assert case.lost(1.0 - 1e-6) == []
    claims = dataclasses.replace(claims, radius=exact, semantics="float32")
    assert Case(0, net, graph, x, claims).lost(1.0 + 1e-4) == list(range(8))


class Moody(nn.Module):
    """Of another opinion in batches of one size.

    Args:
        size: Of the batch.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return -x if len(x) == self.size else x


@pytest.mark.parametrize("size", [1, 12])
def test_a_class_that_some_form_of_batch_gives_away_is_lost(size: int) -> None:
    x = torch.eye(4)
    graph = holdfast.capture(nn.Identity(), x)
    claims = certify_graph(graph, x, torch.arange(4), CertifyOptions(semantics="float32"))
    case = Case(0, Moody(size), graph, x, claims)
    assert case.lost() == [0, 1, 2, 3]
    assert dataclasses.replace(case, net=Moody(0)).lost() == []

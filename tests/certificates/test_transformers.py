"""Transformers with small random weights: certified balls, and points in them by the thousand."""

import pytest
import torch
from tests.bounds.zoo import points_in
from tests.families import FAMILIES

import holdfast
from holdfast.certificates.certify import CertifyOptions, certify_graph
from holdfast.types import Ball


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_no_point_in_a_certified_ball_changes_the_class(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = FAMILIES[family](transformers).eval()
    x = torch.randn(3, 1, 8, 8) if family == "ViT" else torch.randn(3, 5, 16)
    labels = model(x).argmax(1)
    graph = holdfast.capture(model, x)
    double = model.double()
    for norm in (2.0, torch.inf):
        found = certify_graph(graph, x, labels, CertifyOptions(norm, "local"))
        assert found.reason == ("certified",) * 3
        assert bool((found.radius > 0).all())
        for row, label, radius in zip(x, labels, found.radius.tolist(), strict=True):
            points = points_in(Ball(row, radius, norm), 2_000)
            with torch.no_grad():
                classes = torch.cat([double(part).argmax(1) for part in points.split(500)])
            assert bool((classes == label).all())

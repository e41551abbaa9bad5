"""Normalisation in front of a model belongs to what is certified."""

import pytest
import torch
from torch import nn

from holdfast.certificates.certify import certify
from holdfast.errors import InvalidInput
from holdfast.graph.capture import capture
from holdfast.sources.models import load_model
from holdfast.sources.units import normalised


def test_a_model_is_put_behind_its_normalisation():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
    wrapped = normalised(model, "0.5,0.4,0.3", "0.25,0.5,2", torch.float32)
    rows = torch.rand(5, 3, 4, 4)
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in ([0.5, 0.4, 0.3], [0.25, 0.5, 2]))
    torch.testing.assert_close(wrapped(rows), model((rows - mean) / std))
    names = [node.op for node in capture(wrapped, rows).nodes]
    assert names == ["input", "shift", "scale", "conv", "reshape", "linear"]


def test_radii_are_in_the_units_before_it():
    """Behind a division by 0.1, a radius is a tenth."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        model.bias.zero_()
    rows, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    plain = certify(model, rows, labels).radius
    tenth = certify(normalised(model, "0", "0.1", torch.float32), rows / 10, labels).radius
    assert float(tenth) == pytest.approx(float(plain) / 10, rel=1e-6)


def test_the_command_line_takes_it_for_every_model():
    loaded = load_model("demo:digits-plain?mean=0.5&std=0.5")
    assert loaded.units == {"mean": "0.5", "std": "0.5"}
    assert "Normalised: mean 0.5, std 0.5." in loaded.description
    rows = torch.rand(3, 64)
    plain = load_model("demo:digits-plain").model
    torch.testing.assert_close(loaded.model(rows), plain((rows - 0.5) / 0.5))


@pytest.mark.parametrize(
    "query",
    [
        "mean=0.5",
        "std=1",
        "mean=0.5&std=0",
        "mean=0.5&std=-1",
        "mean=0.5&std=nan",
        "mean=0,0&std=1",
        "mean=0&std=1e-60",
        "mean=0&std=x",
        "mean=&std=1",
        "mean=0&mean=0&std=1",
        "weights=x&mean=0&std=1",
    ],
)
def test_a_normalisation_that_is_none_is_refused(query):
    with pytest.raises(InvalidInput, match="model: got"):
        load_model(f"demo:digits-plain?{query}")

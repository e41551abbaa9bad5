"""Numbers to be predicted, from files and in every verb that has a use for them."""

import json
import math

import numpy as np
import pytest
import torch
from tests.nets import crossed
from torch import nn

import holdfast
from holdfast import cli
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.states.losses import loss_roundings, row_losses
from holdfast.sources.data import load_data

NORMS = (1.0, 2.0, math.inf)


def net(outputs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs)).eval()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    return x, 2.0 * x[:, 0] + x[:, 1]


def words(argument: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as ending:
        cli.main(argument)
    assert ending.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def files(tmp_path, monkeypatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the rows as a table and as arrays."""
    monkeypatch.chdir(tmp_path)
    x, y = rows()
    lines = [",".join(map(str, row)) for row in torch.cat([x, y[:, None]], 1).tolist()]
    (tmp_path / "t.csv").write_text("a,b,c,d,price\n" + "\n".join(lines) + "\n")
    np.savez("t.npz", inputs=x.numpy(), price=y.numpy())
    return x, y


NAME = "module:tests.test_targets:net"


def test_a_table_and_arrays_hold_targets(files) -> None:
    for spec in ("csv:t.csv?target=price", "npz:t.npz?target=price"):
        data = load_data(spec)
        assert data.labels.dtype == torch.float64
        assert torch.allclose(data.labels.float(), files[1])
        assert torch.equal(data.inputs.float(), files[0])


def test_whole_numbers_can_be_targets(files, tmp_path) -> None:
    (tmp_path / "w.csv").write_text("a,rooms\n0.5,3\n1.5,4\n")
    assert load_data("csv:w.csv?target=rooms").labels.dtype == torch.float64
    assert load_data("csv:w.csv?labels=rooms").labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("csv:t.csv?labels=price", "[?]target=price"),
        ("csv:t.csv?labels=price&target=price", "not both"),
        ("csv:t.csv?target=size", "columns"),
        ("npz:t.npz?target=size", "arrays"),
    ],
)
def test_what_is_no_target_is_refused(files, spec: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        load_data(spec)


def test_every_verb_reads_them(files, capsys) -> None:
    x, y = files
    given = [NAME, "csv:t.csv?target=price"]
    found = json.loads(words(["certify", *given, "--epsilon", "0.1", "--json"], capsys))
    expected = holdfast.certify(net(), x, y)
    assert found["output_change"] == pytest.approx(expected.output_change(0.1).tolist())
    assert found["loss_change"] == pytest.approx(expected.loss_change(0.1).tolist(), rel=1e-3)
    assert "output moves by at most" in words(["certify", *given, "--epsilon", "0.1"], capsys)
    assert json.loads(words(["knowledge", *given, "--json"], capsys))["loss"] == "mse"
    assert "meaningful" in words(["conditions", *given], capsys)
    assert json.loads(words(["descent", *given, "--json"], capsys))["improved"] in (True, False)
    words(["lipschitz", *given, "--seconds", "0.1"], capsys)


@pytest.mark.parametrize(("norm", "size"), crossed(NORMS, (1e-3, 1.0, 1e3)))
def test_conditions_hold_change_against_the_spread(norm: float, size: float) -> None:
    """The verdict is about what is proved, so it may only be better than what happens."""
    x, y = rows()
    model = net()
    model[2].weight.data *= size
    found = holdfast.conditions(model, x, y, norm, seconds=0.1)
    assert found.median_radius is None and found.resolution
    change = holdfast.certify(model, x, y, norm).output_change(found.resolution).median()
    assert found.bounded == ("meaningful" if change <= y.double().std(correction=0) else "vacuous")
    assert size == 1.0 or found.bounded == ("meaningful" if size < 1 else "vacuous")


def test_the_loss_of_targets_is_the_squared_error() -> None:
    x, y = rows()
    result = holdfast.knowledge(net(), (x, y), loss="mse")
    assert result.loss == "mse" and result.accuracy is None
    errors = (net().double()(x.double())[:, 0] - y.double()).square().detach()
    assert torch.allclose(row_losses("mse", net()(x).detach(), y), errors, rtol=1e-5)
    moved = loss_roundings("mse", net()(x).detach(), y)
    assert bool((moved > 0).all()) and float(moved.max()) < 1e-5
    with pytest.raises(InvalidInput, match="loss='mse' for targets"):
        holdfast.knowledge(net(2), (x, y))

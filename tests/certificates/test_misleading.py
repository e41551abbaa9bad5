"""Warnings come where results would mislead, and nowhere else."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.certificates.misleading import few_rows, misleading, uneven, uneven_advice
from holdfast.errors import HoldfastWarning
from holdfast.graph.capture import capture
from holdfast.moves import EVERYTHING, Moves

DRAWN = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


def net(*more: nn.Module, outputs: int = 2) -> nn.Sequential:
    """Return a net whose answer is the sign of the first entry, before what comes last."""
    first = nn.Linear(4, outputs)
    first.weight.data, first.bias.data = torch.zeros(outputs, 4), torch.zeros(outputs)
    first.weight.data[-1, 0] = 1.0
    return nn.Sequential(first, *more).eval()


def said(model: nn.Module, inputs: Tensor = DRAWN, labels: Tensor | None = None, **how) -> str:
    """Return the sentences about rows whose labels are the right ones by default."""
    labels = (inputs.flatten(1)[:, 0] > 0).long() if labels is None else labels
    return "; ".join(misleading(capture(model, inputs[:1]), (inputs, labels), **how))


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.Sigmoid()], ids=["softmax", "sigmoid"])
def test_probabilities_are_no_logits(end: nn.Module) -> None:
    assert f"it ends in {type(end).__name__.lower()}" in said(net(end))
    assert "it ends in" in said(net(end, nn.Flatten(), nn.Identity()))
    last = nn.Linear(2, 2, bias=False)
    last.weight.data = torch.eye(2)
    assert not said(net(end, last))  # not at the end
    assert not said(net(end), labels=torch.rand(40, 2))  # targets may be probabilities


@pytest.mark.parametrize("end", [[], [nn.LogSoftmax(1)], [nn.Tanh()]], ids=["none", "log", "tanh"])
def test_other_ends_are_well(end: list[nn.Module]) -> None:
    assert not said(net(*end))


def test_one_probability_needs_a_threshold_between_0_and_1() -> None:
    model = net(nn.Sigmoid(), outputs=1)
    for flat in (model, nn.Sequential(model, nn.Flatten(0))):
        assert "one side of the threshold 0; say threshold=0.5" in said(flat)
        assert not said(flat, threshold=0.5)
    assert not said(net(outputs=1))


class Divided(nn.Module):
    """A net that divides pixels by 255 itself."""

    def __init__(self) -> None:
        super().__init__()
        self.last = pixel_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x - 3.0) / 255)


def pixel_net(*first: nn.Module) -> nn.Sequential:
    last = nn.Linear(64, 2)
    last.weight.data = torch.zeros(2, 64)
    last.weight.data[1, 0], last.bias.data = 1.0, torch.tensor([0.5, 0.0])
    return nn.Sequential(*first, nn.Flatten(), last).eval()


def test_pixels_that_nobody_scaled() -> None:
    pixels = torch.randint(0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    pixels = pixels.float()
    assert "look like pixels: divide them by 255" in said(pixel_net(), pixels)
    assert "look like pixels" in said(pixel_net(), pixels.flatten(1))
    assert not said(pixel_net(), pixels / 255)
    assert not said(pixel_net(), pixels + 0.25)
    assert not said(pixel_net(), pixels - 128)
    assert not said(pixel_net(), pixels // 16)  # 0 to 15, as the digits of scikit-learn
    assert not said(net(), pixels.flatten(1)[:, :4])  # a table of whole numbers
    assert not said(pixel_net(), pixels, moves=Moves(scale=255 * torch.ones(1, 8, 8)))
    assert not said(Divided().eval(), pixels)
    assert not said(pixel_net(nn.BatchNorm2d(1)), pixels)
    assert "look like pixels" in said(pixel_net(nn.Conv2d(1, 1, 1)), pixels)


def test_labels_of_one_class() -> None:
    rows = DRAWN.abs()
    assert said(net(), rows) == (
        "labels: all 40 are class 1: shares are of that class alone; "
        "give rows of every class, in mixed order"
    )
    assert not said(net(), rows[:29])  # so few may be meant
    assert not said(net(), DRAWN)
    assert not said(net(), rows, labels=torch.ones(40, 2))  # targets


def test_one_answer_to_rows_of_several_classes() -> None:
    labels = torch.arange(40) % 2
    assert "it answers class 1 to all 40 rows" in said(net(), DRAWN.abs(), labels)
    assert "net: it answers class 0" in said(net(outputs=1), -DRAWN.abs(), labels, name="net")
    assert not said(net(), DRAWN, labels)
    assert not said(net(), DRAWN.abs()[:29], labels[:29])
    assert not said(net(outputs=1), DRAWN.abs(), labels, threshold=0.5)
    broken = DRAWN.abs()
    broken[3] = torch.nan
    assert "to all 39 rows" in said(net(), broken, labels)


def test_columns_of_units_that_differ() -> None:
    wide = DRAWN * torch.tensor([1.0, 1000.0, 1.0, 1.0])
    assert 500 < (uneven(wide, EVERYTHING) or 0.0) < 2000
    assert uneven(DRAWN, EVERYTHING) is None
    assert uneven(wide, Moves(scale=[1.0, 1000.0, 1.0, 1.0])) is None
    assert uneven(wide, Moves(free=[0, 2, 3])) is None
    assert uneven(wide[:3], EVERYTHING) is None
    edge = DRAWN.clone()
    edge[:, 1] = 0.0
    edge[7, 1] = 0.001  # a pixel that hardly ever is on
    assert uneven(edge, EVERYTHING) is None
    coded = torch.cat([wide[:, 1:2], torch.eye(2)[torch.arange(40) % 2]], 1)
    assert uneven(coded, EVERYTHING) is not None
    assert uneven(coded, Moves(onehot=[[1, 2]])) is None
    assert uneven_advice(None) == []


@pytest.mark.parametrize(("count", "told"), [(1, "all"), (12, "8.3%"), (29, "3.4%"), (30, "")])
def test_few_rows(count: int, told: str) -> None:
    assert told in "".join(few_rows(count)) and len(few_rows(count)) == bool(told)


VERBS = {
    "certify": holdfast.certify,
    "attack": holdfast.attack,
    "conditions": lambda *rows: holdfast.conditions(*rows, seconds=0.0),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_it_once_and_where_it_was_called(verb: str) -> None:
    labels = (DRAWN[:, 0] > 0).long()
    with pytest.warns(HoldfastWarning) as told:
        VERBS[verb](net(nn.Softmax(1)), DRAWN, labels)
    (one,) = [each for each in told if each.category is HoldfastWarning]  # torch has its own
    assert "it ends in softmax" in str(one.message) and one.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VERBS[verb](net(), DRAWN, labels)


@pytest.mark.parametrize("verb", ["certify", "attack"])
def test_columns_are_told_of_by_verbs_without_advice(verb: str) -> None:
    wide = DRAWN * torch.tensor([1.0, 1000.0, 1.0, 1.0])
    with pytest.warns(HoldfastWarning, match="give each its unit with `scale`"):
        VERBS[verb](net(), wide, (DRAWN[:, 0] > 0).long())


def test_an_audit_says_it_and_keeps_it_for_the_page(tmp_path) -> None:
    from holdfast.audits.audit import AuditOptions
    from holdfast.report.verdict import next_steps

    options, labels = AuditOptions(seconds=0.0), torch.arange(40) % 2
    with pytest.warns(HoldfastWarning, match="it ends in softmax") as told:
        found = holdfast.audit(net(nn.Softmax(1)), (DRAWN, labels), tmp_path / "a", options)
    assert len(told) == 1
    (sentence,) = found.document["warnings"]
    assert next_steps(found.document)[0] == f"{sentence}."
    assert "it ends in softmax" in (tmp_path / "a" / "report.html").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = holdfast.audit(net(), (DRAWN[:20], labels[:20]), tmp_path / "b", options)
    assert found.document["warnings"] == few_rows(20)

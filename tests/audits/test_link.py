"""The two halves check each other: steepest pairs below proved constants, and alarms."""

import math

import pytest
import torch
from torch import nn

import holdfast
from holdfast.audits.link import STEEPEST, Links
from holdfast.brackets.gain import GainReading, gain_upper
from holdfast.errors import InternalError, Unsupported
from holdfast.graph.capture import capture
from holdfast.knowledge_continuity.states.losses import row_losses
from holdfast.norms.node import operator_norm_upper
from holdfast.rounding import mul_up

INPUTS = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(120) % 3


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def slope_between_inputs(knowledge, certified, norm):
    """Return the mean of min(change, cap) / max(distance of inputs, floor) over all pairs."""
    losses = row_losses(knowledge.loss, net()(INPUTS).detach(), LABELS)
    change = (losses[:, None] - losses).abs().clamp(max=certified.cap)
    apart = torch.cdist(INPUTS.double(), INPUTS.double(), p=norm).clamp(min=certified.floor)
    return float((change / apart).sum()) / (len(losses) * (len(losses) - 1))


@pytest.mark.parametrize("distance", ["euclidean", "manhattan", "chebyshev"])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "brier"])
def test_same_label_pairs_never_exceed_the_proved_constant(distance, loss):
    model = net()
    knowledge = holdfast.knowledge(model, (INPUTS, LABELS), loss=loss, distance=distance)
    graph = capture(model, INPUTS[:1])
    for layer in knowledge.layers:
        found = Links(graph, knowledge, INPUTS, LABELS).at(layer)
        assert found.steepest == pytest.approx(knowledge.steepest[layer][0], rel=1e-2)
        assert knowledge.same_label[layer].value <= found.steepest <= found.tail_upper
        volatility = knowledge.volatility[layer].value
        assert found.expected_rate.value == pytest.approx(found.front_upper * volatility)
        certified = knowledge.volatility_certificate(layer, front_upper=found.front_upper)
        assert found.expected_upper == certified and not certified.vacuous
        assert slope_between_inputs(knowledge, certified, found.norm) <= certified.upper


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "brier"])
@pytest.mark.parametrize(("norm", "dual"), [(1.0, math.inf), (2.0, 2.0), (math.inf, 1.0)])
def test_losses_are_no_steeper_than_their_constants(loss, norm, dual):
    generator = torch.Generator().manual_seed(2)
    logits = (3 * torch.randn(4000, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(4, (4000,), generator=generator)
    step = 1e-3 * torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    change = row_losses(loss, logits + step, labels) - row_losses(loss, logits, labels)
    slopes = change.abs() / torch.linalg.vector_norm(step, ord=norm, dim=1)
    assert slopes.max() <= STEEPEST[norm]


def test_the_radius_holds_for_the_loss_of_every_input():
    model = net()
    knowledge = holdfast.knowledge(model, (INPUTS, LABELS))
    found = Links(capture(model, INPUTS[:1]), knowledge, INPUTS, LABELS).at("1")
    radius = found.radius(0.1)
    step = torch.randn(120, 6, generator=torch.Generator().manual_seed(3))
    moved = INPUTS + radius * nn.functional.normalize(step, dim=1)
    with torch.no_grad():
        before, after = (row_losses("cross_entropy", model(x), LABELS) for x in (INPUTS, moved))
    assert 0 < radius < math.inf
    assert (after - before).max() <= 0.1
    assert found.radius(0.0) == 0.0


def test_a_pair_that_is_too_steep_is_an_alarm(monkeypatch):
    model = net()
    knowledge = holdfast.knowledge(model, (INPUTS, LABELS))
    proved = GainReading.after
    monkeypatch.setattr(GainReading, "after", lambda gains, name: 1e-3 * proved(gains, name))
    with pytest.raises(InternalError, match="more than the proved constant"):
        Links(capture(model, INPUTS[:1]), knowledge, INPUTS, LABELS).at("1")


def test_the_norm_of_every_operator_is_computed_once_for_all_layers(monkeypatch):
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    knowledge = holdfast.knowledge(model, (INPUTS, LABELS))
    graph = capture(model, INPUTS[:1])
    parts = [graph.cut(layer) for layer in knowledge.layers]
    alone = [(gain_upper(front, 2.0), gain_upper(back, 2.0)) for front, back in parts]
    computed = []

    def counted(*arguments):
        computed.append(arguments[0])
        return operator_norm_upper(*arguments)

    monkeypatch.setattr("holdfast.norms.node.operator_norm_upper", counted)
    links = Links(graph, knowledge, INPUTS, LABELS)
    found = [links.at(layer) for layer in knowledge.layers]
    assert len(computed) == 3
    assert [one.front_upper for one in found] == [front for front, _ in alone]
    assert [one.tail_upper for one in found] == [mul_up(STEEPEST[2.0], back) for _, back in alone]


def test_both_halves_speak_about_the_same_call_of_a_module():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)
            self.c = nn.Linear(8, 3)
            self.b.weight.data.mul_(10)

        def forward(self, x):
            return self.c(self.act(self.b(self.act(self.a(x)))))

    torch.manual_seed(0)
    model = Twice().eval()
    knowledge = holdfast.knowledge(model, (INPUTS, LABELS))
    graph = capture(model, INPUTS[:1])
    assert knowledge.layers == graph.leaf_layers == ("a", "act", "b", "act@1", "c")
    with torch.no_grad():
        first = model.act(model.a(INPUTS))
        states = {"act": first, "act@1": model.act(model.b(first))}
    links = Links(graph, knowledge, INPUTS, LABELS)
    for layer, value in states.items():
        slopes = torch.pdist(value.double()) / torch.pdist(INPUTS.double())
        assert slopes.max() <= links.at(layer).front_upper
        scale = float(torch.pdist(value).mean())
        assert knowledge.scale[layer] == pytest.approx(scale, rel=1e-4)


@pytest.mark.parametrize("options", [{"loss": "zero_one"}, {"distance": "angular"}])
def test_what_has_no_constant_is_refused(options):
    model = net()
    knowledge = holdfast.knowledge(model, (INPUTS, LABELS), ["0"], **options)
    with pytest.raises(Unsupported, match="a Lipschitz constant for"):
        Links(capture(model, INPUTS[:1]), knowledge, INPUTS, LABELS).at("0")


@pytest.mark.parametrize("argument", ["loss", "distance"])
def test_a_callable_that_is_called_like_a_built_in_one_is_not_taken_for_it(argument):
    def margin(outputs, labels):
        return 100 * row_losses("margin", outputs, labels)

    def euclidean(a, b):
        return torch.cdist(a, b) / 100

    model = net()
    chosen = {"loss": margin} if argument == "loss" else {"distance": euclidean}
    knowledge = holdfast.knowledge(model, (INPUTS, LABELS), **chosen)
    assert getattr(knowledge, argument) == f"{chosen[argument].__name__}()"
    with pytest.raises(Unsupported, match="a Lipschitz constant for"):
        Links(capture(model, INPUTS[:1]), knowledge, INPUTS, LABELS).at(knowledge.layers[0])

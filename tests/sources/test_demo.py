import hashlib
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.errors import InvalidInput, MissingExtra
from holdfast.sources.demo import (
    DEMO_DATA,
    DEMO_MODELS,
    GroupSort,
    demo_architecture,
    demo_data,
    demo_image_shape,
    demo_model,
)


def checksum(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]


def linear_layers(name):
    return [layer for layer in demo_model(name) if isinstance(layer, nn.Linear)]


def spectral_norms(name):
    weights = [layer.weight.detach().double().numpy() for layer in linear_layers(name)[:-1]]
    return [np.linalg.svd(weight, compute_uv=False)[0] for weight in weights]


def certified_radii(name):
    """The obvious way, row by row in float64 NumPy; negative where the answer is wrong."""
    inputs, labels = demo_data()
    with torch.no_grad():
        logits = demo_model(name)(inputs).double().numpy()
    rows = linear_layers(name)[-1].weight.detach().double().numpy()
    gain = np.prod(spectral_norms(name))
    return np.array(
        [
            min(
                (f[y] - f[j]) / (gain * np.linalg.norm(rows[y] - rows[j]))
                for j in range(10)
                if j != y
            )
            for f, y in zip(logits, labels.tolist(), strict=True)
        ]
    )


def test_split_is_disjoint_and_covers_the_digits():
    from sklearn.datasets import load_digits

    train, test = demo_data(split="train")[0], demo_data(split="test")[0]
    assert (len(train), len(test)) == (1437, 360)
    rows = sorted(map(bytes, torch.cat([train, test]).numpy()))
    assert rows == sorted(map(bytes, (load_digits().data / 16).astype(np.float32)))
    assert len(set(rows)) == len(rows)  # no scan occurs twice, so the splits share none


def test_split_is_stratified():
    counts = [torch.bincount(demo_data(split=split)[1]) for split in ("train", "test")]
    assert (counts[1] - (counts[0] + counts[1]) / 5).abs().max() < 1


def test_split_is_stable():
    inputs, labels = demo_data()
    assert checksum(labels) == "9890d027dae2654f"
    assert checksum(inputs) == "15a5345115607989"


@pytest.mark.parametrize("split", ["train", "test"])
def test_data_has_the_stated_types_and_range(split):
    inputs, labels = demo_data("digits", split)
    assert inputs.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert inputs.shape == (len(labels), np.prod(demo_image_shape("digits")))
    assert (inputs.min(), inputs.max()) == (0, 1)
    assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_models_are_plain_float32_and_in_eval_mode(name):
    model = demo_model(name)
    assert not any(module.training for module in model.modules())
    assert {type(layer) for layer in model} <= {nn.Linear, nn.ReLU, GroupSort}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.requires_grad for p in model.parameters())


def test_loading_leaves_the_random_state_alone_and_returns_a_fresh_net():
    before = torch.get_rng_state()
    first, second = demo_model("digits-plain"), demo_model("digits-plain")
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        first[0].weight.zero_()
    assert second[0].weight.abs().max() > 0


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_architecture_matches_the_stored_net(name):
    assert repr(demo_architecture(name)) == repr(demo_model(name))


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_accuracy(name):
    inputs, labels = demo_data()
    with torch.no_grad():
        right = demo_model(name)(inputs).argmax(1) == labels
    assert right.double().mean() >= 0.97


def test_bounded_net_is_orthogonal_up_to_its_last_layer():
    assert max(spectral_norms("digits-bounded")) <= 1 + 1e-6
    rows = linear_layers("digits-bounded")[-1].weight
    assert torch.allclose(rows.norm(dim=1), torch.ones(10), atol=1e-6)


def test_certificates_are_useful_for_the_bounded_net_only():
    bounded, plain = certified_radii("digits-bounded"), certified_radii("digits-plain")
    assert (bounded > 0.25).mean() >= 0.90
    assert (bounded > 0.5).mean() >= 0.74
    assert np.median(bounded) >= 0.66
    assert (plain > 0.1).mean() <= 0.01
    assert np.median(plain) <= 0.05


def test_certificates_survive_steps_of_their_own_size():
    inputs, labels = demo_data()
    model, radii = demo_model("digits-bounded"), certified_radii("digits-bounded")
    right = torch.from_numpy(radii > 0)
    x = inputs[right].requires_grad_()
    nn.functional.cross_entropy(model(x), labels[right], reduction="sum").backward()
    step = torch.nn.functional.normalize(x.grad, dim=1)
    moved = x.detach() + 0.999 * torch.from_numpy(radii).float()[right, None] * step
    assert torch.equal(model(moved).argmax(1), labels[right])


def test_files_are_small():
    folder = files("holdfast.sources").joinpath("demo_nets")
    assert sum(len(entry.read_bytes()) for entry in folder.iterdir()) < 300_000


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: demo_model("digits-bound"), "'digits-bounded'"),
        (lambda: demo_architecture("digit-plain"), "'digits-plain'"),
        (lambda: demo_data("digit"), "'digits'"),
        (lambda: demo_data(split="tests"), "'test'"),
        (lambda: demo_image_shape("mnist"), "one of digits"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(call, near):
    with pytest.raises(InvalidInput, match=near):
        call()


def test_the_table_is_read_as_scikit_learn_reads_it(monkeypatch):
    quick = demo_data()
    monkeypatch.setattr("holdfast.sources.demo.find_spec", lambda name: None)
    assert all(torch.equal(a, b) for a, b in zip(quick, demo_data(), strict=True))


def test_missing_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setattr("holdfast.sources.demo.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"holdfast\[demo\]"):
        demo_data()


@pytest.mark.parametrize("group", [2, 3, 6])
def test_groupsort_permutes_within_groups_and_does_not_expand(group):
    x, y = torch.randn(2, 50, 4, 12, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    sort = GroupSort(group)
    slow = torch.cat([part.sort(-1).values for part in x.split(group, -1)], -1)
    assert torch.equal(sort(x), slow)
    for p in (1, 2, float("inf")):
        moved = torch.linalg.vector_norm(sort(x) - sort(y), p, dim=-1)
        assert (moved <= torch.linalg.vector_norm(x - y, p, dim=-1) + 1e-12).all()


def test_groupsort_refuses_what_does_not_fit():
    with pytest.raises(InvalidInput, match="group"):
        GroupSort(1)
    with pytest.raises(InvalidInput, match="multiple of 2"):
        GroupSort()(torch.zeros(3))


def test_bounded_net_exports_with_a_free_batch():
    batch = torch.export.Dim("batch")
    model, inputs = demo_model("digits-bounded"), demo_data()[0]
    program = torch.export.export(model, (inputs[:3],), dynamic_shapes=({0: batch},))
    assert torch.equal(program.module()(inputs[:7]), model(inputs[:7]))


def test_every_name_has_a_sentence():
    assert all(text.endswith(".") for text in (*DEMO_MODELS.values(), *DEMO_DATA.values()))

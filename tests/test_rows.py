"""Rows of results: those of an index alone, and shares at one distance or at several."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.nets import crossed
from torch import nn

import holdfast
from holdfast.errors import InvalidInput
from holdfast.rows import rows_at

COUNT = 13  # unlike every other size in these results


@functools.cache
def model_and_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    rows = torch.randn(COUNT, 6)
    labels = model(rows).argmax(1)
    labels[3] = (labels[3] + 1) % 3
    rows[5, 0] = torch.nan
    return model, rows, labels


@functools.cache
def certificates(method="auto"):
    return holdfast.certify(*model_and_rows(), method=method)


@functools.cache
def attacks():
    return holdfast.attack(*model_and_rows())


def same(one, other):
    """Whether two results agree in every field, bit by bit; all but the graph behind them."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "changes":
            assert torch.equal(a.inputs.nan_to_num(), b.inputs.nan_to_num())
            assert torch.equal(a.labels, b.labels)
            continue
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


INDICES = [
    slice(None, 3),
    slice(None, None, -2),
    5,
    -1,
    [4, 0, 4],
    np.arange(3, 9),
    np.int64(2),
    torch.tensor([0, 12]),
    torch.arange(COUNT) % 2 == 0,
    [row > 9 for row in range(COUNT)],
]


@pytest.mark.parametrize(("index", "method"), crossed(INDICES, ["auto", "local"]), ids=str)
def test_certificates_of_some_rows_are_those_certified_alone(index, method):
    model, rows, labels = model_and_rows()
    place = rows_at(index, COUNT)
    alone = holdfast.certify(model, rows[place], labels[place], method=method)
    some = certificates(method)[index]
    same(some, alone)
    assert some.coherent() and len(some) == len(place)
    for change in ("output_change", "loss_change"):
        # Both are proved; sums of other batches are rounded differently.
        pair = (getattr(one, change)(0.1) for one in (some, alone))
        torch.testing.assert_close(*pair, rtol=1e-9, atol=0.0)


def test_every_field_of_rows_follows():
    for result in (certificates(), attacks()):
        two = result[[2, 7]]
        for field in dataclasses.fields(result):
            entries = getattr(result, field.name)
            if isinstance(entries, torch.Tensor | tuple) and len(entries) == COUNT:
                assert len(getattr(two, field.name)) == 2, field.name


@given(st.data())
def test_indexing_is_that_of_a_tensor(data):
    lists = st.lists(st.integers(-COUNT, COUNT - 1), min_size=1)
    masks = st.lists(st.booleans(), min_size=COUNT, max_size=COUNT).filter(any)
    index = data.draw(st.one_of(st.slices(COUNT), lists, masks))
    if isinstance(index, slice):
        place = range(COUNT)[index]
    else:
        place = torch.arange(COUNT)[torch.tensor(index)].tolist()
    if not len(place):
        with pytest.raises(InvalidInput, match="no row"):
            certificates()[index]
        return
    for result in (certificates(), attacks()):
        some = result[index]
        assert some.coherent()
        assert some.reason == tuple(result.reason[row] for row in place)
        first = getattr(result, result.PER_ROW[0])
        assert getattr(some, some.PER_ROW[0]).tolist() == [float(first[row]) for row in place]
        assert (some.norm, some.fingerprint) == (result.norm, result.fingerprint)


@pytest.mark.parametrize(
    "index",
    [COUNT, -COUNT - 1, [0, COUNT], True, "3", 1.0, [0.5], None, [True], [[1]], slice("a", None),
     slice(0, 0), [], torch.zeros(COUNT, dtype=torch.bool), 10**30, Ellipsis, slice(None, None, 0)],
    ids=str,
)  # fmt: skip
def test_what_means_no_row_is_refused(index):
    with pytest.raises(InvalidInput, match="rows"):
        attacks()[index]


def test_rows_one_by_one():
    each = list(certificates())
    assert [float(one.radius) for one in each] == certificates().radius.tolist()


def test_a_file_of_some_rows_proves_them(tmp_path):
    pytest.importorskip("flint")
    some = certificates("global")[[7, 2, 3]]
    some.save(tmp_path / "some.json")
    loaded = holdfast.Certificates.load(tmp_path / "some.json")
    assert bool((loaded.radius <= some.radius).all())
    assert torch.allclose(loaded.radius, some.radius, rtol=1e-6)
    assert loaded[1:].radius.tolist() == loaded.radius[1:].tolist()


def test_shares_of_one_distance_or_of_several():
    for share in (certificates().verified_accuracy, attacks().accuracy_under_attack):
        alone = [share(0.0), share(0.1), share("1/4")]
        assert all(isinstance(one, float) for one in alone)
        assert alone == sorted(alone, reverse=True) and alone[0] > alone[2]
        for several in ([0, 0.1, "1/4"], (0.0, "0.1", 0.25)):
            assert share(several) == alone
        halves = [0.0, 0.25, 0.5]
        expected = [share(one) for one in halves]
        assert share(torch.tensor(halves)) == share(np.array(halves)) == expected
        assert share([]) == []
        for wrong in ("far", [0.1, -1.0], torch.ones(2, 2), {0.1}, None):
            with pytest.raises(InvalidInput, match="epsilon"):
                share(wrong)

"""What users hand over as inputs and labels."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from holdfast.batches import join_batches, read_batches
from holdfast.errors import InvalidInput

ROWS, LABELS = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    "data",
    [
        (ROWS, LABELS),
        [ROWS, LABELS],
        [(ROWS[:4], LABELS[:4]), (ROWS[4:], LABELS[4:])],
        DataLoader(TensorDataset(ROWS, LABELS), batch_size=4),
        (pair for pair in [(ROWS, LABELS)]),
        (ROWS.clone().requires_grad_(), LABELS),
    ],
    ids=["pair", "list", "batches", "loader", "generator", "gradient"],
)
def test_every_form_of_data_gives_the_same_rows(data):
    inputs, labels = join_batches(read_batches(data))
    assert torch.equal(inputs, ROWS) and torch.equal(labels, LABELS)
    assert not inputs.requires_grad


BAD = {
    "nothing": ([], "data: got no batch, wanted at least one row"),
    "a number": (3, "data: got 3, wanted (inputs, labels) or batches of them"),
    "None": (None, "data: got None"),
    "a tensor": (ROWS, "data: got Tensor"),
    "a triple": ([(ROWS, LABELS, LABELS)], "data: got tuple"),
    "a dictionary": ([{"inputs": ROWS}], "data: got dict"),
    "no labels": ((ROWS, None), "labels: got None, wanted [6], one per input"),
    "no rows": ((ROWS[:0], LABELS[:0]), "inputs: got shape (0, 2), wanted at least one row"),
    "no columns": ((ROWS[:, :0], LABELS), "inputs: got shape (6, 0)"),
    "bytes": ((ROWS.byte(), LABELS), "inputs: got uint8 values"),
    "short labels": ((ROWS, LABELS[:4]), "labels: got shape (4,), wanted [6]"),
    "one-hot labels": ((ROWS, torch.eye(6)), "labels: got shape (6, 6), wanted [6]"),
    "shifted batches": (
        [(ROWS[:4], LABELS[:2]), (ROWS[4:], LABELS[2:])],
        "labels: got shape (2,), wanted [4]",
    ),
    "two widths": (
        [(ROWS, LABELS), (ROWS[:, :1], LABELS)],
        "data: got rows of shapes [(1,), (2,)], wanted rows of one shape",
    ),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_bad_data_is_refused_by_name(data, said):
    with pytest.raises(InvalidInput) as refusal:
        join_batches(read_batches(data))
    assert str(refusal.value).startswith(said)


def test_batches_are_of_at_most_so_many_rows_and_mappings_are_cut_too():
    named = {"ids": ROWS.long(), "mask": ROWS > 1}
    batches = list(read_batches([(named, LABELS), (named, LABELS)], 4))
    assert [len(labels) for _, labels in batches] == [4, 2, 4, 2]
    assert torch.equal(torch.cat([inputs["ids"] for inputs, _ in batches[:2]]), named["ids"])
    assert torch.equal(batches[1][0]["mask"], named["mask"][4:])
    with pytest.raises(InvalidInput, match=r"inputs: got a mapping with \['ids', 'mask'\]"):
        join_batches(batches)
    with pytest.raises(InvalidInput, match="rows"):
        list(read_batches(({"ids": ROWS, "mask": ROWS[:2]}, LABELS)))

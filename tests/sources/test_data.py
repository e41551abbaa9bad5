"""Data by name."""

import warnings

import numpy as np
import pytest
import torch

from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.data import LoadedData, checked, load_data

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def load(tmp_path, **arrays) -> LoadedData:
    np.savez(tmp_path / "x.npz", **arrays)
    return load_data(f"npz:{tmp_path}/x.npz")


@pytest.mark.parametrize("names", [("inputs", "labels"), ("x", "y"), ("x_test", "y_test")])
def test_arrays_are_found_by_their_names(tmp_path, names):
    data = load(tmp_path, **dict(zip(names, (ROWS, LABELS), strict=True)), other=LABELS)
    assert torch.equal(data.inputs, torch.from_numpy(ROWS))
    assert data.labels.tolist() == LABELS.tolist() and data.labels.dtype == torch.int64


@pytest.mark.parametrize("kind", ["f2", "f4", ">f4", "f8"])
@pytest.mark.parametrize("whole", ["u1", "i4", ">i8", "u8"])
def test_types_of_numbers(tmp_path, kind, whole):
    data = load(tmp_path, inputs=ROWS.astype(kind), labels=LABELS.astype(whole))
    assert data.inputs.tolist() == ROWS.tolist() and data.labels.tolist() == LABELS.tolist()


BAD = {
    "no inputs": ({"labels": LABELS}, "arrays labels, wanted one of inputs, x, x_test"),
    "text": ({"inputs": ROWS.astype(str), "labels": LABELS}, "inputs of type <U32"),
    "complex": ({"inputs": ROWS.astype("c8"), "labels": LABELS}, "inputs of type complex64"),
    "long double": ({"inputs": ROWS.astype("g"), "labels": LABELS}, "inputs of type float128"),
    "integers": ({"inputs": ROWS.astype(int), "labels": LABELS}, "inputs of type torch.int64"),
    "one-hot": ({"inputs": ROWS, "labels": np.eye(6, dtype=int)}, r"labels of shape \[6, 6\]"),
    "floats": ({"inputs": ROWS, "labels": LABELS / 1}, "labels of type torch.float64"),
    "infinity": ({"inputs": ROWS + np.inf, "labels": LABELS}, "NaN or infinity in 6 rows"),
}


@pytest.mark.parametrize(("arrays", "said"), BAD.values(), ids=BAD)
def test_arrays_that_are_not_usable_are_refused(tmp_path, arrays, said):
    with pytest.raises(InvalidInput, match=f"data: got {said}"):
        load(tmp_path, **arrays)


@pytest.mark.parametrize("place", range(10, 700, 60))
def test_a_damaged_file_is_bad_input_or_read_right(tmp_path, place):
    np.savez_compressed(tmp_path / "x.npz", inputs=ROWS, labels=LABELS)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[place : place + 20] = bytes(20)
    (tmp_path / "x.npz").write_bytes(content)
    try:
        data = load_data(f"npz:{tmp_path}/x.npz")
    except InvalidInput as refusal:
        assert refusal.argument == "data"
    else:
        assert data.inputs.tolist() == ROWS.tolist() and data.labels.tolist() == LABELS.tolist()


def test_the_end_of_a_file_may_be_missing(tmp_path):
    np.savez(tmp_path / "x.npz", inputs=ROWS, labels=LABELS)
    content = (tmp_path / "x.npz").read_bytes()
    for size in (0, 1, 100, len(content) - 10):
        (tmp_path / "x.npz").write_bytes(content[:size])
        with pytest.raises(InvalidInput, match="which is something else"):
            load_data(f"npz:{tmp_path}/x.npz")


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((5, 2), None),
        ((5, 1, 8, 8), (8, 8)),
        ((5, 3, 8, 8), (3, 8, 8)),
        ((5, 8, 9), (8, 9)),
        ((5, 4, 8, 8), None),
        ((5, 1, 8), None),
    ],
)
def test_pictures_are_recognised_by_their_shape(shape, image):
    data = checked(torch.zeros(shape), torch.zeros(5, dtype=torch.int64), "x")
    assert data.image == image


def test_rounding_to_another_type_is_said():
    labels = torch.zeros(2, dtype=torch.int64)
    exact = checked(torch.tensor([[0.5], [0.25]], dtype=torch.float64), labels, "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert exact.to(torch.float32).inputs.dtype == torch.float32
        assert exact.to(torch.float32).to(torch.float64).inputs.equal(exact.inputs)
    rough = checked(torch.tensor([[0.1], [0.25]], dtype=torch.float64), labels, "x")
    with pytest.warns(HoldfastWarning, match="float64 were rounded to the model's float32"):
        rough.to(torch.float32)


def test_normal_rows_have_the_shape_and_are_the_same_each_time() -> None:
    first, second = load_data("normal:1x4x3"), load_data("normal:1x4x3")
    assert first.inputs.shape[1:] == (1, 4, 3) and torch.equal(first.inputs, second.inputs)
    for bad in ("normal:", "normal:0", "normal:-3", "normal:2x", "normal:9999x9999x9", "normal:²"):
        with pytest.raises(InvalidInput):
            load_data(bad)

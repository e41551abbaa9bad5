"""Data by name."""

import os
import warnings
import zipfile

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


def test_two_pairs_of_usual_names_ask_which_one_is_meant(tmp_path):
    arrays = {"x": ROWS, "y": LABELS, "inputs": ROWS, "labels": LABELS}
    np.savez(tmp_path / "two.npz", **arrays)
    with pytest.raises(InvalidInput, match=r"inputs=inputs&labels=labels or \?inputs=x&labels=y$"):
        load_data(f"npz:{tmp_path}/two.npz")
    assert len(load_data(f"npz:{tmp_path}/two.npz?inputs=x&labels=y").labels) == len(LABELS)


USUAL = [
    *(("inputs", "labels"), ("x", "y"), ("X", "y"), ("x_test", "y_test"), ("X_test", "y_test")),
    *(("data", "target"), ("images", "labels"), ("test_images", "test_labels")),
]


@pytest.mark.parametrize("names", USUAL)
def test_arrays_are_found_by_their_names(tmp_path, names):
    data = load(tmp_path, **dict(zip(names, (ROWS, LABELS), strict=True)), other=LABELS)
    assert torch.equal(data.inputs, torch.from_numpy(ROWS))
    assert data.labels.tolist() == LABELS.tolist() and data.labels.dtype == torch.int64


@pytest.mark.parametrize("kind", ["f2", "f4", ">f4", "f8"])
@pytest.mark.parametrize("whole", ["u1", "i4", ">i8", "u8"])
def test_types_of_numbers(tmp_path, kind, whole):
    data = load(tmp_path, inputs=ROWS.astype(kind), labels=LABELS.astype(whole))
    assert data.inputs.tolist() == ROWS.tolist() and data.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    "labels",
    [LABELS[:, None], LABELS * 1.0, LABELS[:, None].astype("f4"), LABELS.astype(object).tolist()],
    ids=["a column", "floats", "a column of floats", "a list"],
)
def test_labels_as_arrays_hold_them(tmp_path, labels):
    assert load(tmp_path, inputs=ROWS, labels=labels).labels.tolist() == LABELS.tolist()


def test_truth_values_and_words_are_labels(tmp_path):
    assert load(tmp_path, X=ROWS, y=LABELS > 0).labels.tolist() == [0, 1, 1, 0, 1, 1]
    words = np.array(["no", "yes", "perhaps"])[LABELS]
    np.savez(tmp_path / "w.npz", X=ROWS, y=words)
    data = load_data(f"npz:{tmp_path}/w.npz?classes=no,yes,perhaps")
    assert data.labels.tolist() == LABELS.tolist() and data.classes["perhaps"] == 2
    with pytest.warns(HoldfastWarning, match="0 = 'no', 1 = 'perhaps', 2 = 'yes'"):
        load_data(f"npz:{tmp_path}/w.npz")


def test_truth_values_are_features_of_0_and_1(tmp_path):
    data = load(tmp_path, X=ROWS > 3, y=LABELS)
    assert data.inputs.tolist() == (ROWS > 3).tolist() and data.scale is None


def test_labels_are_not_asked_for_where_none_are_needed(tmp_path):
    for name in ("inputs", "x", "rows"):
        np.savez(tmp_path / "x.npz", **{name: ROWS})
        data = load_data(f"npz:{tmp_path}/x.npz", labelled=False)
        assert data.inputs.tolist() == ROWS.tolist() and data.labels.tolist() == [0] * 6
        with pytest.raises(InvalidInput, match=r"inputs and labels: np.savez\(PATH, inputs="):
            load_data(f"npz:{tmp_path}/x.npz")


def test_other_names_are_said_as_they_would_be_typed(tmp_path):
    np.savez(tmp_path / "x.npz", ROWS, LABELS)
    with pytest.raises(InvalidInput, match=r"such as \?inputs=arr_0&labels=arr_1$"):
        load_data(f"npz:{tmp_path}/x.npz")
    assert len(load_data(f"npz:{tmp_path}/x.npz?inputs=arr_0&labels=arr_1").labels) == 6


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("normal:3,8,8", "wanted normal:3x8x8, for rows of that shape"),
        ("3,8,8", "wanted normal:3x8x8, for random rows of that shape"),
        ("digits", "wanted demo:digits$"),
        ("x.npy", r"npz:PATH of two arrays: np.savez"),
        ("rows.pt", r"npz:PATH \(opening a pickle runs code\)"),
        ("rows.xlsx", "csv:PATH .*save as CSV UTF-8"),
        ("rows.csv.gz", "wanted the file unpacked"),
        ("rows.jsonl", "wanted csv:PATH or parquet:PATH"),
        ("rows", "wanted demo:NAME, npz:PATH, csv:PATH"),
        ("rows.csv", r"'rows.csv' \(No such file"),
        ("csv:", "wanted demo:NAME, npz:PATH, csv:PATH"),
    ],
)
def test_names_that_are_none_say_what_to_type(spec, said):
    with pytest.raises(InvalidInput, match=said):
        load_data(spec)


def test_a_bare_path_has_its_kind_by_its_ending(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=ROWS, y=LABELS)
    assert load_data("x.npz?rows=2").inputs.tolist() == ROWS[:2].tolist()
    for name in ("x.csv", "x.tsv", "x.TXT"):
        (tmp_path / name).write_text("a\tlabel\n0.5\t1\n")
        assert load_data(name).inputs.tolist() == [[0.5]]


BAD = {
    "no inputs": (
        {"labels": LABELS},
        "arrays labels, wanted inputs and labels: np.savez",
    ),
    "text": ({"inputs": ROWS.astype(str), "labels": LABELS}, "inputs of type <U32"),
    "complex": ({"inputs": ROWS.astype("c8"), "labels": LABELS}, "inputs of type complex64"),
    "long double": ({"inputs": ROWS.astype("g"), "labels": LABELS}, "inputs of type float128"),
    "integers": ({"inputs": ROWS.astype(int), "labels": LABELS}, "inputs of type torch.int64"),
    "one-hot": (
        {"inputs": ROWS, "labels": np.eye(6, dtype=int)},
        r"labels of shape \[6, 6\] for 6 inputs, wanted \[6\] class numbers \(labels.argmax",
    ),
    "neither": (
        {"inputs": ROWS, "labels": np.full(6, 3, np.uint8).view(bool)},
        ".*labels of truth values that are neither",
    ),
    "floats": (
        {"inputs": ROWS, "labels": LABELS + 0.5},
        "the label 0.5 in row 0, wanted whole class",
    ),
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


# --- options, units and hostile archives ------------------------------------------------------


def write(tmp_path, **arrays) -> str:
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    return f"npz:{tmp_path}/x.npz"


def test_test_data_comes_before_training_data_unless_asked_for(tmp_path):
    both = {"x_train": ROWS, "y_train": LABELS, "x_test": ROWS[:2] + 1, "y_test": LABELS[:2]}
    spec = write(tmp_path, **both)
    assert load_data(spec).inputs.tolist() == (ROWS[:2] + 1).tolist()
    asked = load_data(f"{spec}?inputs=x_train&labels=y_train&rows=3")
    assert asked.inputs.tolist() == ROWS[:3].tolist() and asked.labels.tolist() == [0, 1, 2]


def test_bytes_are_divided_by_255_and_that_is_said(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) * 23
    spec = write(tmp_path, x=pixels, y=LABELS[:3])
    with pytest.warns(HoldfastWarning, match=r"divided by 255; .* say \?scale="):
        data = load_data(spec)
    assert torch.equal(data.inputs, torch.from_numpy(pixels).float() / 255) and data.scale == 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_data(f"{spec}?scale=2").inputs.max() == 126.5
        exact = load_data(f"{spec}?scale=255", torch.float64)
    assert torch.equal(exact.inputs, torch.from_numpy(pixels).double() / 255)


def test_rows_are_those_of_the_whole_array(tmp_path):
    for order in "CF":
        rows = np.asarray(np.random.default_rng(0).normal(size=(5, 2, 3)), order=order)
        spec = write(tmp_path, x=rows, y=LABELS[:5])
        assert load_data(spec).inputs.tolist() == rows.tolist()
        assert load_data(f"{spec}?rows=2").inputs.tolist() == rows[:2].tolist()
        assert len(load_data(f"{spec}?rows=99").inputs) == 5


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "x", "1,2", ""])
def test_a_scale_that_is_none_is_refused(tmp_path, scale):
    spec = write(tmp_path, x=ROWS, y=LABELS)
    with pytest.raises(InvalidInput, match="data: got"):
        load_data(f"{spec}?scale={scale}")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    spec = write(tmp_path, x=np.zeros((2, 2**23)), y=LABELS[:2])
    assert (tmp_path / "x.npz").stat().st_size < 2**18
    with pytest.raises(InvalidInput, match=r"'x.npy', which unpacks \d+ bytes to"):
        load_data(spec)


def array(shape, kind: str = "<f4", data: bytes = bytes(48)) -> bytes:
    """Return an array file whose header says what it likes."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


LYING = {
    "64 GiB": array((2**34, 1)),
    "overflow": array((2**62, 2**62)),
    "short": array((12, 2)),
    "long": array((2, 2)),
    "negative": array((-12,)),
    "objects": array((6,), "|O"),
    "pickle": array((6,), "|O", b"cos\nsystem\n(S'touch marked'\ntR."),
    "a call": b"\x93NUMPY\x01\x00\x76\x00" + b"__import__('os').system('touch marked')".ljust(118),
    "text": array((12,), "<U1"),
    "no header": b"\x93NUMPY",
    "nothing": b"",
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING)
def test_headers_that_lie_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", array((6,), "<i8"))
    with pytest.raises(InvalidInput, match="data: got"):
        load_data("npz:x.npz")
    assert not (tmp_path / "marked").exists()


def test_an_array_that_comes_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("x.npy", "x.npy", "y.npy"):
            archive.writestr(name, array((6, 2)))
    with pytest.raises(InvalidInput, match="comes twice"):
        load_data(f"npz:{tmp_path}/x.npz")


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", ".", "a\0b"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for kind in ("npz", "csv"):
        with pytest.raises(InvalidInput, match="data: got"):
            load_data(f"{kind}:{name}")

"""Rows from CSV and Parquet files."""

import sys

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidInput, MissingExtra
from holdfast.sources.data import load_data

TABLE = "a,b,label,c\n0.5,1,0,2.5\n-1e-3,2,1,3\n4,5,2,6.25\n"


def write(tmp_path, text: str):
    (tmp_path / "t.csv").write_text(text)
    return f"csv:{tmp_path}/t.csv"


def test_a_column_called_label_is_the_label(tmp_path):
    data = load_data(write(tmp_path, TABLE))
    assert data.inputs.tolist() == [[0.5, 1, 2.5], [-1e-3, 2, 3], [4, 5, 6.25]]
    assert data.labels.tolist() == [0, 1, 2]


def test_columns_and_rows_are_chosen(tmp_path):
    data = load_data(write(tmp_path, TABLE) + "?inputs=c,a&labels=b&rows=2")
    assert data.inputs.tolist() == [[2.5, 0.5], [3, -1e-3]] and data.labels.tolist() == [1, 2]


def test_without_a_header_columns_have_numbers(tmp_path):
    data = load_data(write(tmp_path, "7,0.5\r\n8,1.5\r\n\r\n") + "?labels=0")
    assert data.inputs.tolist() == [[0.5], [1.5]] and data.labels.tolist() == [7, 8]


def test_whole_numbers_ask_for_their_scale(tmp_path):
    spec = write(tmp_path, "label,p,q\n1,0,255\n0,51,102\n")
    with pytest.raises(InvalidInput, match=r"inputs of type torch.int64, wanted .*scale=255"):
        load_data(spec)
    assert load_data(spec + "?scale=255").inputs.tolist() == [
        [0, 1],
        pytest.approx([0.2, 0.4]),
    ]
    assert load_data(spec + "?scale=1").inputs.tolist() == [[0, 255], [51, 102]]


BAD = {
    "": "an empty file",
    "a,label\n": "at least one row|no row",
    "a,b\n1.5,2\n": r"columns a, b, wanted \?labels=COLUMN",
    "a,a,label\n1.5,2,0\n": "comes twice",
    "a,label,y\n1.5,2,0\n": r"columns label, y, .*, wanted \?labels=label or \?labels=y$",
    "Class,a,Target\n1,2.5,0\n": r"wanted \?labels=Class or \?labels=Target$",
    ",a,b,label\n0,1.5,2.5,0\n": r"a column '', which .*, wanted \?inputs=a,b, or",
    "Unnamed: 0,a,label\n0,1.5,0\n": r"index of the rows, wanted \?inputs=a, or",
    "a,label\n1.5,cat\n": "row 0 has the field 'cat'",
    "a,label\n1.5,0,3\n": "row 0 has 3 fields",
    "a,label\n1_0.5,0\n": "row 0 has the field",
    "a,label\nnan,0\n": "NaN or infinity in 1 rows",
    "a,label\n1e999,0\n": "NaN or infinity",
    "a,label\n0.5,1.5\n": "labels of type torch.float64",
    'a,label\n"0.5,1\n': "t.csv",
    "a,label\n" + "9" * 400 + ",0\n": "NaN or infinity|beyond 64 bits",
    f"a,label\n0.5,{2**70}\n": "beyond 64 bits",
}


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=range(len(BAD)))
def test_tables_that_are_not_usable_are_refused(tmp_path, text, said):
    with pytest.raises(InvalidInput, match=said):
        load_data(write(tmp_path, text))


@pytest.mark.parametrize(
    "query", ["labels=no", "inputs=a,no", "rows=0", "rows=x", "no=1", "rows=1&rows=2"]
)
def test_options_that_do_not_fit_are_refused(tmp_path, query):
    with pytest.raises(InvalidInput, match=r"data: got"):
        load_data(write(tmp_path, TABLE) + f"?{query}")


def test_a_binary_file_is_no_table(tmp_path):
    (tmp_path / "t.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InvalidInput, match="wanted a CSV file of numbers"):
        load_data(f"csv:{tmp_path}/t.csv")


# --- Parquet ----------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
    """Return a function that writes columns and returns how to name the file."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    def write(**columns) -> str:
        files.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        return f"parquet:{tmp_path}/t.parquet"

    return write


def test_parquet_columns_are_read(parquet):
    spec = parquet(a=[0.5, 1.5, 2.5], y=[0, 1, 2], b=np.array([1, 2, 3], np.float32))
    data = load_data(spec + "?rows=2")
    assert data.inputs.tolist() == [[0.5, 1], [1.5, 2]] and data.labels.tolist() == [0, 1]


def test_a_column_of_lists_gives_the_features(parquet):
    data = load_data(parquet(pixels=[[0.5, 1.0], [2.0, 3.0]], label=[1, 0]))
    assert torch.equal(data.inputs, torch.tensor([[0.5, 1.0], [2.0, 3.0]], dtype=torch.float64))


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'holdfast\[parquet\]'"):
        load_data(f"parquet:{tmp_path}/t.parquet")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a", "b"], "label": [0, 1]}, "column text of type string"),
        ({"a": [0.5, None], "label": [0, 1]}, "without gaps"),
        ({"a": [[0.5], [1.0, 2.0]], "label": [0, 1]}, "t.parquet"),
        ({"a": [[0.5], [1.0]], "b": [0.5, 1.0], "label": [0, 1]}, "column a of type list"),
        ({"a": [0.5, 1.0]}, "columns a, wanted"),
        ({"a": [0.5], "y": [1], "label": [0]}, r"wanted \?labels=y or \?labels=label$"),
        ({"a": [0.5], "__index_level_0__": [1], "y": [0]}, r"wanted \?inputs=a, or"),
    ],
)
def test_columns_that_hold_no_numbers_are_refused(parquet, columns, said):
    with pytest.raises(InvalidInput, match=said):
        load_data(parquet(**columns))


def test_a_file_of_another_kind_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(50) + b"PAR1")
    with pytest.raises(InvalidInput, match="wanted a Parquet file"):
        load_data(f"parquet:{tmp_path}/t.parquet")


def test_the_shared_tables_are_read(shared):
    data = load_data(f"csv:{shared}/data/iris.csv")
    assert data.inputs.shape == (150, 4) and data.labels.bincount().tolist() == [50, 50, 50]
    pytest.importorskip("pyarrow")
    with pytest.raises(InvalidInput, match="column text of type"):
        load_data(f"parquet:{shared}/data/sst2.parquet")

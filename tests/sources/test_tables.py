"""Rows from CSV and Parquet files."""

import csv
import datetime
import io
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import HoldfastWarning, InvalidInput, MissingExtra
from holdfast.sources.data import load_data

DAY = datetime.date(2026, 1, 2)
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
    "a,label\n": "no row",
    "a,b\n1.5,2\n": r"columns a, b, wanted \?labels=COLUMN.*\?target=COLUMN",
    "a,a,label\n1.5,2,0\n": r"two columns called a, .*\?header=no",
    "a,label,y\n1.5,2,0\n": r"columns label, y, .*, wanted \?labels=label or \?labels=y$",
    "Class,a,Target\n1,2.5,0\n": r"wanted \?labels=Class or \?labels=Target$",
    ",a,label\nr1,1.5,0\nr2,1.5,0\n": r"a column '', which .*, wanted \?inputs=a, or",
    "Unnamed: 0,a,label\n1,1.5,0\n1,1.5,0": r"index of the rows, wanted \?inputs=a, or",
    "a,label\n1.5,0,3\n": "3 fields in line 2, wanted 2",
    "a,label\n\n1.5,0\n\n1.5\n": "1 fields in line 5, wanted 2",
    "a,label\n1_0.5,0\n": "'1_0.5' in column a, line 2, which is no number, wanted a table",
    "a,label\nnan,0\n": r"'nan' for no value in column a, line 2 .*, wanted \?inputs=",
    "a,label\n1e999,0\n": "'1e999' in column a, line 2, which is not finite",
    "a,label\n-inf,0\n": "'-inf' in column a, line 2, which is not finite",
    "a,label\n0.5,1.5\n": r"the label 1.5 in column label, line 2, wanted .*\?target=label",
    "a,label\n0.5,-1\n1.5,1\n": r"the label -1 in column label, line 2, .*\?classes=-1,1",
    'a,label\n1.5,0\n"0.5,1\n': "line 3, where a quoted field goes wrong",
    'a,label\n"x"y,1\n': "line 2, where a quoted field goes wrong",
    "a,label\n" + "9" * 400 + ",0\n": "in column a, line 2, which is not finite",
    f"a,label\n0.5,{2**70}\n": "the label 1.18059e\\+21 in column label, line 2",
    # without a value
    "a,b,label\n1.5,2,0\n,2,0\n": r"no value in column a, line 3 \(1 of 2 rows\), wanted "
    r"\?missing=drop .* or \?missing=median",
    "a,b,label\n1.5,2,\n1,2,0\n": r"no value in column label, line 2 .*, wanted \?missing=drop",
    "a,b,label\n1.5,2,0\n1,NA,0\n": "'NA' for no value in column b, line 3",
    "a,b,label\n1.5,?,0\n1,2,0\n": r"'\?' for no value in column b, line 2",
    # words
    "color,b,label\nred,2.5,0\nblue,1,1\n": r"'red' in column color, line 2, which is no number, "
    r"wanted \?onehot=color \(.* 2 words\), or \?inputs=b without it",
    "a,label\n" + "1.5,0\n" * 5 + "12 kg,1\n": "'12 kg' in column a, line 7, .* wanted a number",
    "name,a,label\n" + "".join(f"n{k},1.5,0\n" for k in range(30)): r"\?inputs=a without it: 30",
    # the form of the file
    "a;b;label\n1,5;2,5;0\n": r"'1,5' in column a, line 2, .*wanted \?decimal=comma",
    'a,label\n"1,234.5",0\n': r"'1,234.5' in column a, line 2, which is no number",
    "1,5;2,5;red\n1,5;3,5;blue": r"columns 0, 1, 2|\?header=no",
    "5.1,3.5,setosa\n4.9,3.0,setosa\n": r"5.1,3.5,setosa as the first row, wanted \?header=yes",
    "0,1,2\n0.5,1.5,1\n": r"0,1,2 as the first row, wanted \?header=yes .*\?header=no",
    "1.5,,0\n1.5,2,0\n": r"as the first row, wanted \?header=yes",
    "a;b|label\n1;2|0\n": r"fields separated by semicolon or pipe, wanted \?separator=semicolon",
    "a b label\nx 2 0\n": r"columns a b label, wanted .*\?separator=comma, semicolon, tab",
    "a,kind\n1.5,0\n": r"wanted \?labels=COLUMN, one of these \(\?target=COLUMN .*\)$",
    "a,label\n1.5,1\n2.5,cat\n": r"the label 'cat' in column label, line 3, among numbers",
    "a,label\n$5,1\n$6,0\n": r"'\$5' in column a, line 2, .*wanted plain numbers such as 1234.5",
    "a,label\n1.5,\n2.5,\n": r"no value in column label, line 2 \(2 of 2 rows\), .*\?labels=COLUMN",
    'a\tlabel\n"5\t1\n6"\t0\n': r"a quoted field with a tab in it, in line 2, wanted \?quotes=yes",
    "PK\x03\x04": "a spreadsheet or a zip archive",
    "PAR1": r"a Parquet file \(parquet:PATH\)",
}


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=range(len(BAD)))
def test_tables_that_are_not_usable_are_refused(tmp_path, text, said):
    with pytest.raises(InvalidInput, match=said):
        load_data(write(tmp_path, text))


SAME = {
    "commas": "a,b,label\n1.5,2,0\n-3,4e2,1\n",
    "semicolons": "a;b;label\n1.5;2;0\n-3;4e2;1\n",
    "tabs": "a\tb\tlabel\n1.5\t2\t0\n-3\t4e2\t1\n",
    "pipes": "a|b|label\n1.5|2|0\n-3|4e2|1",
    "decimal commas": "a;b;label\n1,5;2;0\n-3;4e2;1\n?decimal=comma",
    "Windows": "\ufeffa,b,label\r\n1.5,2,0\r\n-3,4e2,1\r\n\r\n\r\n",
    "old Macintosh": "a,b,label\r1.5,2,0\r-3,4e2,1\r",
    "blanks": "a, b , label\n 1.5, 2 , 0\n-3 ,4e2,  1\n   \n",
    "quotes": '"a","b","label"\n"1.5","2","0"\n"-3","4e2","1"\n',
    "quotes after blanks": '"a", "b", "label"\n1.5, "2", "0"\n-3, "4e2", "1"\n',
    "a spreadsheet": "sep=;\na;b;label\n1.5;2;0\n-3;4e2;1\n;;\n",
    "separators at the ends": "a,b,label,\n1.5,2,0,\n-3,4e2,1,\n",
    "labels of floats": "a,b,label\n1.5,2,0.0\n-3,4e2,1.0\n",
    "truth values": "a,b,label\n1.5,2,False\n-3,4e2,True\n",
    "truth in capitals": "a,b,label\n1.5,2,FALSE\n-3,4e2,TRUE\n",
    "another name": "a,b,kind\n1.5,2,0\n-3,4e2,1\n?labels=kind",
    "no names": "1.5,2,0\n-3,4e2,1\n?labels=2",
    "numbers as names": "0,1,label\n1.5,2,0\n-3,4e2,1\n",
    "letters that look like quotes": 'a\tb\t"kind\n1.5\t2\t"5\n-3\t4e2\t6"\n'
    '?quotes=no&labels="kind&classes="5,6"',
    "numbers as names in a spreadsheet": "sep=;\n0;1;label\n1.5;2;0\n-3;4e2;1\n",
    "blanks between": "a   b label\n 1.5  2 0\n-3 4e2\t1\n",
    "words between blanks": '"a" b label\n1.5 2 "no"\n-3 4e2 yes\n?separator=blank&classes=no,yes',
    "names as numpy writes them": "# a,b,label\n1.5,2,0\n-3,4e2,1\n",
    "numbers alone as names": "0,1,2\n1.5,2,0\n-3,4e2,1\n?header=yes&labels=2",
    "classes in order": "a,b,label\n1.5,2,dog\n-3,4e2,cat\n?classes=dog,cat",
    "classes of numbers": "a,b,label\n1.5,2,-1\n-3,4e2,1\n?classes=-1,1",
    "words without names": "1.5,2,dog\n-3,4e2,cat\n?classes=dog,cat&header=no&labels=2",
    "an unfinished row": "a,b,label\n1.5,2,0\n-3,4e2,1\n7,,1\n?rows=2",
    "a comma in a name": '"a, in cm",b,label\n1.5,2,0\n-3,4e2,1\n?inputs="a, in cm",b',
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_one_table_in_many_forms(tmp_path, text):
    text, mark, query = text.partition("?")
    (tmp_path / "t.csv").write_bytes(text.encode())
    data = load_data(f"csv:{tmp_path}/t.csv{mark}{query}")
    assert data.inputs.tolist() == [[1.5, 2], [-3, 400]] and data.labels.tolist() == [0, 1]


def test_labels_that_are_words_are_numbered_and_that_is_said(tmp_path):
    spec = write(tmp_path, "a,label\n1.5, dog\n2,cat \n3,dog\n")
    with pytest.warns(HoldfastWarning, match=r"0 = 'cat', 1 = 'dog'; if .*say \?classes="):
        data = load_data(spec)
    assert data.labels.tolist() == [1, 0, 1] and data.classes == {"cat": 0, "dog": 1}
    assert data.treatment == {"scale": None, "read": {"classes": {"cat": 0, "dog": 1}}}
    for classes in ("cat", "cat,cat", "cat,,dog"):
        with pytest.raises(
            InvalidInput, match=r"the label 'dog' in column label, line 2|every lab"
        ):
            load_data(f"{spec}?classes={classes}")


def test_names_that_are_nearly_right_are_offered(tmp_path):
    spec = write(tmp_path, "a,b,kind\n1.5,2,0\n")
    for query, meant in {"labels=Kind": "did you mean kind", "label=kind": "mean labels="}.items():
        with pytest.raises(InvalidInput, match=meant):
            load_data(f"{spec}?{query}")


def test_0_and_1_alone_wait_for_no_scale(tmp_path):
    data = load_data(write(tmp_path, "a,b,label\n1,0,0\n0,1,1\n"))
    assert data.inputs.tolist() == [[1, 0], [0, 1]] and data.scale is None


def test_the_index_of_the_rows_is_left_out_and_that_is_said(tmp_path):
    for name, numbers in (("", (0, 1)), ("Unnamed: 0", (7, 3))):
        text = f"{name},a,label\n{numbers[0]},1.5,0\n{numbers[1]},2.5,1\n"
        with pytest.warns(HoldfastWarning, match=f"the column '{name}' numbers the rows and was"):
            data = load_data(write(tmp_path, text))
        assert data.inputs.tolist() == [[1.5], [2.5]] and data.columns == ("a",)
    kept = load_data(write(tmp_path, text) + "?inputs=Unnamed: 0,a")
    assert kept.inputs.tolist() == [[7, 1.5], [3, 2.5]]


def test_a_column_that_counts_the_rows_is_noticed(tmp_path):
    spec = write(tmp_path, "id,a,label\n" + "".join(f"{k},0.5,0\n" for k in range(1, 7)))
    with pytest.warns(HoldfastWarning, match=r"column id counts the rows; .* say \?inputs=a$"):
        assert load_data(spec).inputs.shape == (6, 2)
    assert load_data(f"{spec}?inputs=id,a").inputs.shape == (6, 2)


GAPS = "a,b,label\n1.5,NA,0\n,2,0\n3,4,1\n5,n/a,1\n7,9,\n"


def test_rows_without_a_value_are_dropped_on_request(tmp_path):
    said = r"4 of 5 rows were dropped: no value in label \(1\), a \(1\), b \(2\)"
    with pytest.warns(HoldfastWarning, match=said):
        data = load_data(write(tmp_path, GAPS) + "?missing=drop")
    assert data.inputs.tolist() == [[3, 4]] and data.labels.tolist() == [1]
    assert data.treatment["read"]["missing"] == {"drop": {"a": 1, "b": 2, "label": 1}}


def test_rows_that_are_left_are_read_as_if_they_were_alone(tmp_path):
    spec = write(tmp_path, "a,b,label\nred,,x\n1.5,2,0\n3,4,1\n")
    with pytest.warns(HoldfastWarning, match="1 of 3 rows were dropped.* without them"):
        data = load_data(f"{spec}?missing=drop")
    assert data.inputs.tolist() == [[1.5, 2], [3, 4]] and data.labels.tolist() == [0, 1]
    assert data.classes == {}


def test_medians_take_the_place_of_missing_numbers_on_request(tmp_path):
    text = GAPS.replace("9,\n", "9,1\n")
    with pytest.warns(HoldfastWarning, match=r"a \(1 of 5 rows, 4\), b \(2 of 5 rows, 4\)$"):
        data = load_data(write(tmp_path, text) + "?missing=median")
    assert data.inputs.tolist() == [[1.5, 4], [4, 2], [3, 4], [5, 4], [7, 9]]
    with pytest.raises(
        InvalidInput, match=r"no value in column label, line 6 .*there is no median"
    ):
        load_data(write(tmp_path, GAPS) + "?missing=median")
    with pytest.raises(InvalidInput, match=r"wanted missing=drop or missing=median"):
        load_data(write(tmp_path, GAPS) + "?missing=mean")


COLORS = "a,color,b,label\n1.5,red,2,0\n2.5, blue,3,1\n3.5,red,4,1\n"


@pytest.mark.parametrize(
    ("query", "columns", "first"),
    [
        ("", "a color=blue color=red b", [1.5, 0, 1, 2]),
        ("&inputs=b,color", "b color=blue color=red", [2, 0, 1]),
        (":red|green|blue", "a color=red color=green color=blue b", [1.5, 1, 0, 0, 2]),
        (",b", "a color=blue color=red b=2 b=3 b=4", [1.5, 0, 1, 1, 0, 0]),
    ],
)
def test_categories_become_columns_of_0_and_1(tmp_path, query, columns, first):
    with pytest.warns(HoldfastWarning, match=r"(color|b) is given in entries \d-\d: (color|b)="):
        data = load_data(write(tmp_path, COLORS) + f"?onehot=color{query}")
    assert data.columns == tuple(columns.split()) and data.inputs[0].tolist() == first
    places = data.groups["color"]
    assert all(data.columns[k].startswith("color=") for k in places)
    assert data.inputs[:, list(places)].sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("onehot=colour", "onehot=colour, wanted one of a, color, b"),
        ("onehot=label", "onehot=label, wanted one of a, color, b"),
        ("onehot=color,color", "wanted COLUMN or COLUMN:FIRST"),
        ("onehot=color:red|green", "' ?blue' in column color, line 3, wanted one of red, green"),
        ("onehot=color&rows=1", "1 categories in column color, wanted 2 to 1000"),
        ("target=color", "'red' in column color, line 2 as the target, wanted numbers"),
        ("target=a&labels=b", "labels or target, not both"),
        ("target=b&inputs=b", "features once each, without the label"),
        ("inputs=a,c", r"no column c, wanted \?inputs=COLUMN,COLUMN of a, color, b, label"),
        ("labels=a&target=b", "labels or target, not both"),
        ("decimal=comma", r"'1.5' in column a, line 2, .*without points, as \?decimal=comma says"),
        ("separator=blanks", "wanted comma or semicolon or tab or pipe or blank"),
    ],
)
def test_what_cannot_be_encoded_is_refused(tmp_path, query, said):
    with pytest.raises(InvalidInput, match=said):
        load_data(write(tmp_path, COLORS) + f"?{query}")


def test_targets_are_finite_numbers(tmp_path):
    spec = write(tmp_path, "a,price\n1.5,10\n2.5,inf\n")
    assert load_data(f"{spec}?target=price&rows=1").labels.tolist() == [10.0]
    with pytest.raises(InvalidInput, match="the target inf in column price, line 3, wanted finite"):
        load_data(f"{spec}?target=price")


def test_labels_are_not_asked_for_where_none_are_needed(tmp_path):
    spec = write(tmp_path, "a,b\n1.5,2\n3,4\n")
    assert load_data(spec, labelled=False).inputs.tolist() == [[1.5, 2], [3, 4]]
    spec = write(tmp_path, "a,b,label\n1.5,2,0\n3,4,1\n")
    assert load_data(spec, labelled=False).inputs.tolist() == [[1.5, 2], [3, 4]]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_named(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("größe,label\n1.5,0\n".encode(encoding))
    with pytest.raises(InvalidInput, match=r"UTF-16|line 1 with the byte 0xf6, which is not UTF-8"):
        load_data(f"csv:{tmp_path}/t.csv")


# Words that are neither numbers nor missing, whatever the separator.
WORDS = st.sampled_from(["cat", 'a "b"', "x;y", "x,y", "tab\there", "two\nlines", "ü", "it's"])


@given(
    rows=st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(), WORDS),
        min_size=2,
        max_size=8,
    ),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_what_was_written_is_read(tmp_path_factory, rows, separator, end, quoting, mark):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([("number", "half", "label"), *((x, k + 0.5, word) for x, k, word in rows)])
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes((mark + text.getvalue() + end).encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = load_data(f"csv:{path}?quotes=yes")
    assert data.inputs.tolist() == [[x, k + 0.5] for x, k, _ in rows]
    words = [word for _, _, word in rows]
    assert [sorted({*words})[k] for k in data.labels.tolist()] == words


@pytest.mark.parametrize(
    "query", ["labels=no", "inputs=a,no", "rows=0", "rows=x", "no=1", "rows=1&rows=2"]
)
def test_options_that_do_not_fit_are_refused(tmp_path, query):
    with pytest.raises(InvalidInput, match=r"data: got"):
        load_data(write(tmp_path, TABLE) + f"?{query}")


def test_a_binary_file_is_no_table(tmp_path):
    (tmp_path / "t.csv").write_bytes(bytes(range(256)))
    with pytest.raises(InvalidInput, match="line 2 with the byte 0x80, which is not UTF-8"):
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


FIELDS = {  # Columns as Parquet holds them, and as a CSV file does.
    "whole": st.integers(-(2**53), 2**53),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "truth": st.booleans(),
    "word": st.sampled_from(["red", "blue", "green"]),
}


@given(
    rows=st.lists(st.tuples(*FIELDS.values(), st.sampled_from(["no", "yes"])), min_size=3),
    gap=st.none() | st.tuples(st.integers(0, 2), st.sampled_from(["whole", "float", "word"])),
    treatment=st.sampled_from(["", "&missing=drop", "&missing=median"]),
)
def test_parquet_and_csv_say_the_same(tmp_path_factory, rows, gap, treatment):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    columns = dict(zip([*FIELDS, "label"], map(list, zip(*rows, strict=True)), strict=True))
    if gap is not None:
        columns[gap[1]][gap[0]] = None
    folder = tmp_path_factory.mktemp("t")
    files.write_table(pyarrow.table(columns), folder / "t.parquet")
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    found = []
    for name in ("t.csv", "t.parquet"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                data = load_data(f"{folder / name}?onehot=word:red|blue|green{treatment}")
            except InvalidInput as refusal:
                found.append(re.sub(r"line \d+|row \d+", "place", str(refusal)))
            else:
                read = (data.columns, data.groups, data.classes, data.missing)
                found.append((data.inputs.tolist(), data.labels.tolist(), *read))
    assert found[0] == found[1]


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
        ({"text": ["a", "b"], "label": [0, 1]}, r"'a' in column text, row 0, .*\?onehot=text"),
        ({"a": [0.5, None], "label": [0, 1]}, r"no value in column a, row 1 .*\?missing=median"),
        ({"a": [0.5, np.nan], "label": [0, 1]}, "no value in column a, row 1"),
        ({"a": [0.5, np.inf], "label": [0, 1]}, "inf in column a, row 1, which is not finite"),
        ({"a": [0.5, 1.0], "t": [DAY, DAY], "label": [0, 1]}, r"column t of type date32.*inputs=a"),
        ({"a": [0.5, 1.0], "label": [DAY, DAY]}, "column label of type date32"),
        ({"a": [[0.5], [1.0, 2.0]], "label": [0, 1]}, "t.parquet"),
        ({"a": [[0.5], [1.0]], "b": [0.5, 1.0], "label": [0, 1]}, "column a of type list"),
        ({"a": [0.5, 1.0]}, "columns a, wanted"),
        ({"a": [0.5], "y": [1], "label": [0]}, r"wanted \?labels=y or \?labels=label$"),
        ({"a": [0.5], "__index_level_0__": ["i"], "y": [0]}, r"wanted \?inputs=a, or"),
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
    with pytest.raises(InvalidInput, match="in column text, row 0, which is no number"):
        load_data(f"parquet:{shared}/data/sst2.parquet")

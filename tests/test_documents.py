"""Results are read back bit by bit, and nothing else is taken for one."""

import contextlib
import dataclasses
import enum
import functools
import json
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import holdfast
from holdfast.documents import decode, encode, load_result, save_result
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.measure import measure
from holdfast.smoothness.records import Measurement, line_of, read_measurements
from holdfast_check.files import digest


class Colour(enum.Enum):
    RED = "a red one"
    BLUE = "a blue one"


@dataclass(frozen=True)
class Part:
    """A result inside of another."""

    size: int
    share: float | None


@dataclass(frozen=True, eq=False)
class Whole:
    """A field of every kind."""

    flag: bool
    count: int
    value: float
    name: str
    colour: Colour
    maybe: float | None
    words: tuple[str, ...]
    part: Part
    parts: tuple[Part, ...]
    column: Annotated[Tensor, torch.float64]
    wholes: Annotated[Tensor, torch.int64]
    block: Tensor
    pair: tuple[float, int]
    either: int | float
    table: dict[str, float]
    named: dict[int | float, bool]
    aside: object = field(default=None, repr=False)

    def coherent(self) -> bool:
        return self.count >= 0


FLOATS = st.floats(allow_nan=False)
WHOLES = st.builds(
    Whole,
    flag=st.booleans(),
    count=st.integers(0, 2**63 - 1),
    value=FLOATS,
    name=st.text("abc é÷"),
    colour=st.sampled_from(Colour),
    maybe=st.none() | FLOATS,
    words=st.lists(st.text("xyz"), max_size=3).map(tuple),
    part=st.builds(Part, st.integers(-5, 5), st.none() | FLOATS),
    parts=st.lists(st.builds(Part, st.integers(-5, 5), FLOATS), max_size=2).map(tuple),
    column=st.lists(FLOATS, max_size=4).map(lambda x: torch.tensor(x, dtype=torch.float64)),
    wholes=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(
        lambda x: torch.tensor(x, dtype=torch.int64)
    ),
    block=st.sampled_from(
        [
            torch.rand(2, 0),
            torch.rand(2, 3).double() / 3,
            torch.rand(3),
            torch.rand(2).double(),
            torch.arange(3),
            torch.arange(4).reshape(2, 2),
        ]
    ),
    pair=st.tuples(FLOATS, st.integers(-5, 5)),
    either=st.integers(-5, 5) | FLOATS,
    table=st.dictionaries(st.text("xyz"), FLOATS, max_size=2),
    named=st.dictionaries(st.integers(-5, 5) | FLOATS, st.booleans(), max_size=2),
)


@given(WHOLES)
def test_a_round_trip_is_exact(whole):
    again = decode(Whole, json.loads(json.dumps(encode(whole), allow_nan=False)))
    for each in dataclasses.fields(Whole):
        before, after = getattr(whole, each.name), getattr(again, each.name)
        if isinstance(before, Tensor):
            assert before.dtype == after.dtype and torch.equal(before, after)
        else:
            assert before == after
            assert not isinstance(before, float) or before.hex() == after.hex()


GOOD = Whole(
    flag=True,
    count=3,
    value=0.1,
    name="x",
    colour=Colour.RED,
    maybe=None,
    words=("a",),
    part=Part(1, 0.5),
    parts=(Part(2, None),),
    column=torch.tensor([0.1, math.inf], dtype=torch.float64),
    wholes=torch.tensor([1]),
    block=torch.zeros(2, 2),
    pair=(0.5, 1),
    either=0.5,
    table={"x": 0.5},
    named={1: True, 0.5: False},
)
FAULTS = {
    "pair": [[1, 1], ["0x1.0000000000000p+0"], ["0x1.0000000000000p+0", 1, 1], None, {}],
    "either": ["nan", True, None, "1", [1]],
    "table": [{"x": 0.5}, {"\x1b": "0x0.0p+0"}, None, []],
    "named": [{"x": True}, {"nan": True}, {"01": True}, {"1_0": True}, {"1": 1}, None, []],
    "flag": [1, None, "true"],
    "count": [True, 1.0, 2**63, "3", None],
    "value": [0.1, "0.1", "nan", "0x1p-1", "NaN", "infinity", "0x1.0000000000000p+9999", None, 1],
    "name": [1, None, "a\x1b[2K", "a\nb\x00", ["a"]],
    "colour": ["GREEN", None, "a red one", ["RED"], {}],
    "maybe": ["nan", False],
    "words": ["a", [1], None, {"0": "a"}],
    "part": [None, [], {"size": 1}, {"size": 1, "share": None, "more": 1}],
    "parts": [[{"size": 1.5, "share": None}], {}],
    "column": [[0.5], ["nan"], "0x0.0p+0", [["0x0.0p+0"]], [None]],
    "wholes": [[0.5], [True], [2**63], ["1"]],
    "block": [
        None,
        [],
        {"dtype": "int64", "shape": [1], "base64": ""},
        {"dtype": "float32", "shape": [3], "base64": "AAAAAA=="},
        {"dtype": "float32", "shape": [-1], "base64": "AAAAAA=="},
        {"dtype": "float32", "shape": [2**62, 2**62], "base64": "AAAAAA=="},
        {"dtype": "float32", "shape": "1", "base64": "AAAAAA=="},
        {"dtype": "float32", "shape": [1], "base64": "****"},
        {"dtype": "float32", "shape": [1], "base64": 1},
        {"dtype": ["float32"], "shape": [1], "base64": "AAAAAA=="},
    ],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in FAULTS.items() for value in values],
    ids=repr,
)
def test_a_field_of_another_kind_is_refused_with_file_and_field(tmp_path, name, value):
    path = tmp_path / "r.json"
    save_result(GOOD, "results/1", path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(InvalidInput, match=rf"^path: got '.*r\.json' \(.*({name}|entries)") as why:
        load_result(Whole, "results/1", path)
    assert "a file that Whole.save wrote" in str(why.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("results/1", "results/2"), "format is 'results/2', wanted"),
        (lambda text: text.replace('"flag": true,', ""), "missing or unknown entries flag"),
        (lambda text: text.replace('"flag"', '"more": 1, "flag"'), "unknown entries more"),
        (lambda text: text.replace('"flag"', '"flag": true, "flag"'), "key 'flag' comes twice"),
        (lambda text: text.replace('"count": 3', '"count": NaN'), "NaN is no number"),
        (lambda text: text.replace('"count": 3', '"count": -3'), "contradict each other"),
        (lambda text: "[]", "the document is 'list'"),
        (lambda text: "[" * 10**6, "nested too deeply"),
        (lambda text: "{", "r.json"),
    ],
)
def test_another_document_is_refused(tmp_path, change, said):
    path = tmp_path / "r.json"
    save_result(GOOD, "results/1", path)
    assert load_result(Whole, "results/1", path).name == "x"
    path.write_text(change(path.read_text()))
    with pytest.raises(InvalidInput, match=r"^path: got '.*r\.json'") as why:
        load_result(Whole, "results/1", path)
    assert said in str(why.value)


def test_knowledge_is_read_back_bit_by_bit_with_all_that_it_certifies(tmp_path):
    before, path = measured(40), tmp_path / "r.json"
    before.save(path)
    after = holdfast.Knowledge.load(path)
    assert encode(after) == encode(before)
    for layer in before.layers:
        for method in ("nearest", "pairs"):
            assert after.frontier(layer, method=method) == before.frontier(layer, method=method)
        certified = before.certificate(layer, 0.3, 0.1, method="anchor", anchor=1)
        assert after.certificate(layer, 0.3, 0.1, method="anchor", anchor=1) == certified
        assert after.volatility_certificate(layer) == before.volatility_certificate(layer)
    assert after.rank() == before.rank() and after.worst("a") == before.worst("a")
    assert set(after.by_class["a"]) == {0, 1}


def test_a_changed_result_is_refused_by_its_digest(tmp_path):
    path = tmp_path / "r.json"
    save_result(GOOD, "results/1", path)
    path.write_text(path.read_text().replace('"count": 3', '"count": 4'))
    with pytest.raises(InvalidInput, match="digest is not that of its content"):
        load_result(Whole, "results/1", path)


@pytest.mark.parametrize("value", ["0x1.0000000000000p+0", math.inf, math.nan, True, None])
def test_plain_numbers_are_finite_numbers(value):
    assert decode(tuple[float, ...], [1, 0.5], exact=False) == (1, 0.5)
    with pytest.raises(ValueError, match="finite number"):
        decode(tuple[float, ...], [value], exact=False)


def test_what_is_no_plain_file_is_refused(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none", "."):
        with pytest.raises(InvalidInput, match="path: got"):
            load_result(Whole, "results/1", tmp_path / name)


ODD = (None, True, -1, 2**64, 0.5, "", "nan", "inf", "-inf", "0x1.0000000000000p+0", [], [[]], {})
ODD += (
    {"dtype": "float64", "shape": [1], "base64": "AAAAAAAAAAA="},
    "certified",
    "found",
    "\x1b[2K",
)


def places(document: object) -> list[tuple]:
    """Return the paths of all entries of a document."""
    inner = document.items() if isinstance(document, dict) else ()
    inner = enumerate(document) if isinstance(document, list) else inner
    return [(key, *rest) for key, entry in inner for rest in ((), *places(entry))]


@given(st.data())
def test_results_of_strangers_are_read_or_refused(tmp_path_factory, data):
    """Any entry replaced by anything, with a digest that fits: never another error."""
    kind, document = data.draw(st.sampled_from(list(stored().items())), "kind")
    document = json.loads(document)
    place = data.draw(st.sampled_from(places(document)), "place")
    entry = document
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = data.draw(st.sampled_from(ODD), "value")
    if "digest" in document:
        document["digest"] = digest(document)
    path = tmp_path_factory.mktemp("odd") / "r.json"
    path.write_text(json.dumps(document) + "\n")
    try:
        found = READERS[kind](path)
    except InvalidInput as refusal:
        assert "r.json" in str(refusal)
    else:
        assert kind is Measurement or found.coherent()
        if kind is holdfast.Knowledge:
            with contextlib.suppress(InvalidInput):  # where nothing was counted
                found.frontier(found.layers[0])


def measured(rows: int) -> holdfast.Knowledge:
    """Return knowledge with evidence and with labels that are whole numbers."""
    states = torch.rand(rows, 2, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(rows) % 2
    return measure({"a": states, "b": states.square()}, states.sum(1), labels)


READERS = {
    Measurement: read_measurements,
    holdfast.Attacks: holdfast.Attacks.load,
    holdfast.Certificates: lambda path: holdfast.Certificates.load(path, claimed=True),
    holdfast.Knowledge: holdfast.Knowledge.load,
}


@functools.cache
def stored() -> dict[type, str]:
    """Return files of every kind of result that is read back, as text."""
    model, x = torch.nn.Linear(3, 2), torch.arange(6.0).reshape(2, 3)
    labels = model(x).argmax(1)
    results = [
        holdfast.certify(model.eval(), x, labels),
        holdfast.attack(model.eval(), x, labels, epsilon=1e-3),
        measured(12),
    ]
    one = Measurement(0, 0.1, 1.0, -0.1, -0.2, 3.0, None, 0.5, 0.2, "l2", True)
    texts = {Measurement: line_of(one)}
    with tempfile.TemporaryDirectory() as folder:
        for result in results:
            result.save(f"{folder}/r.json")
            texts[type(result)] = Path(folder, "r.json").read_text()
    return texts

"""Arguments as people type them: read as meant, or refused by their name."""

import math
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import holdfast
from holdfast.arguments import (
    NORMS,
    check_choice,
    check_classes,
    check_distance,
    check_example,
    check_inputs,
    check_labels,
    check_model,
    check_norm,
    check_share,
    check_tensor,
    check_whole,
    fit_inputs,
    look_up,
    shown,
)
from holdfast.errors import HoldfastWarning, InvalidInput

ROWS, LABELS = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


class Duck:
    """What another library's column of numbers looks like."""

    def __array__(self, dtype=None, copy=None):
        return np.array([0, 1, 2, 0, 1, 2], dtype)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *((norm, norm) for norm in NORMS),
        *(("l1", 1.0), ("l2", 2.0), ("linf", math.inf), ("Linf", math.inf), ("L2", 2.0)),
        *(("1", 1.0), ("2", 2.0), ("inf", math.inf), (np.float32(2), 2.0), (np.int64(1), 1.0)),
        *((torch.tensor(2.0), 2.0), (float("inf"), math.inf), (Fraction(2), 2.0)),
    ],
    ids=repr,
)
def test_norms_as_people_type_them(typed, meant):
    assert check_norm(typed) == meant and type(check_norm(typed)) is float


BAD_NUMBERS = (None, True, "", "two", "1/0", "1/2/3", math.nan, "nan", [2], (), {}, 1j, object())


@pytest.mark.parametrize(
    "typed", [*BAD_NUMBERS, 0, 3, -2, 10**400, "l3", "ll2", -math.inf], ids=shown
)
def test_other_norms_are_refused(typed):
    with pytest.raises(InvalidInput, match=r"^norm: got .*, wanted 1, 2 or inf"):
        check_norm(typed)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(("2/255", 2 / 255), ("8/255", 8 / 255), ("0.1", 0.1), ("1e-3", 1e-3), (" 1 / 4 ", 0.25)),
        *((1, 1.0), (np.float64(0.3), 0.3), (torch.tensor(0.5), 0.5), (Fraction(1, 4), 0.25)),
    ],
    ids=repr,
)
def test_distances_as_people_type_them(typed, meant):
    assert check_distance("epsilon", typed) == meant


@pytest.mark.parametrize(
    "typed",
    [*BAD_NUMBERS, Decimal(1), -1, math.inf, "-1/4", "inf", 10**400, "1/" + "0" * 9000],
    ids=lambda v: shown(v)[:20],
)
def test_other_distances_are_refused(typed):
    with pytest.raises(InvalidInput, match=r"^epsilon: got .*, wanted a finite distance, at least"):
        check_distance("epsilon", typed)


@pytest.mark.parametrize("typed", [*BAD_NUMBERS, 0, 1, -0.5], ids=shown)
def test_what_is_no_share_is_refused(typed):
    with pytest.raises(InvalidInput, match="confidence"):
        check_share("confidence", typed)


@pytest.mark.parametrize("typed", [*BAD_NUMBERS, 1.0, 0, "1", 1.5], ids=shown)
def test_what_is_no_whole_number_is_refused(typed):
    with pytest.raises(InvalidInput, match=r"k: got .*, wanted some"):
        check_whole("k", typed, "some", 1)


def test_whole_numbers_of_numpy_are_whole():
    assert type(check_whole("k", np.int32(3), "some")) is int


@pytest.mark.parametrize(
    "typed",
    [
        LABELS,
        LABELS.to(torch.uint8),
        LABELS.to(torch.uint16),
        LABELS[:, None],
        LABELS.tolist(),
        tuple(LABELS.tolist()),
        list(LABELS),
        [[0], [1], [2], [0], [1], [2]],
        LABELS.numpy(),
        LABELS.numpy().astype(">i4"),
        LABELS.numpy().astype(np.uint64),
        LABELS[:, None].numpy(),
        Duck(),
        nn.Parameter(LABELS, requires_grad=False),
    ],
    ids=[
        *("tensor", "bytes", "uint16", "column", "list", "tuple", "tensors", "lists", "array"),
        *("big endian", "uint64", "column of an array", "another library's", "parameter"),
    ],
)
def test_labels_as_people_hold_them(typed):
    read = check_classes(typed, 6, 3)
    assert type(read) is torch.Tensor and read.dtype == torch.int64 and torch.equal(read, LABELS)


@pytest.mark.parametrize("typed", [LABELS > 0, (LABELS > 0).tolist(), (LABELS > 0).numpy()])
def test_truth_values_are_classes_0_and_1(typed):
    assert check_classes(typed, 6, 3).tolist() == [0, 1, 1, 0, 1, 1]


BAD_LABELS = {
    "none": (None, r"None, wanted \[6\], one per input"),
    "a number": (3, "3, wanted"),
    "text": ("012012", "words such as '012012'"),
    "words": (["cat"] * 6, r"words such as 'cat', wanted \[6\], one per input; numbers alone"),
    "an array of words": (np.array(["cat"] * 6), "words such as 'cat'"),
    "ragged": ([[0], [1, 2], 0, 0, 0, 0], "a list that is no array"),
    "a set": ({0, 1}, "set, wanted"),
    "a generator": ((y for y in LABELS), "generator, wanted"),
    "short": (LABELS[:4], r"shape \(4,\), wanted \[6\], one per input"),
    "one-hot": (torch.eye(6).long(), r"shape \(6, 6\), wanted \[6\]"),
    "one number": (torch.tensor(1), r"shape \(\), wanted \[6\]"),
    "complex": (LABELS + 0j, "complex64 values"),
    "sparse": (LABELS.to_sparse(), "a sparse_coo tensor"),
    "meta": (LABELS.to("meta"), "a tensor on the meta device"),
    "targets": (LABELS.double(), "torch.float64 values, wanted integer class numbers"),
    "from 1": (LABELS + 1, "values from 1 to 3, wanted 0 to 2"),
    "negative": (LABELS - 1, "values from -1 to 1, wanted 0 to 2"),
    "beyond int64": (np.full(6, 2**64 - 1, np.uint64), "values from -1 to -1"),
}


@pytest.mark.parametrize(("typed", "said"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels_are_refused(typed, said):
    with pytest.raises(InvalidInput, match=f"^labels: got .*{said}"):
        check_classes(typed, 6, 3)


def test_targets_stay_in_floating_point():
    assert torch.equal(check_labels([0.5, 1, 2], 3), torch.tensor([0.5, 1, 2]).double())
    assert check_labels(torch.rand(3, 4), 3).shape == (3, 4)


BAD_INPUTS = {
    "none": (None, "None, wanted one tensor with batch dimension"),
    "a number": (1.5, "1.5, wanted one tensor"),
    "a mapping": ({"input_ids": ROWS}, r"a mapping with \['input_ids'\]"),
    "one number": (torch.tensor(1.0), r"shape \(\), wanted at least one row"),
    "no rows": (ROWS[:0], r"shape \(0, 2\), wanted at least one row"),
    "no columns": (ROWS[:, :0], r"shape \(6, 0\)"),
    "bytes": (ROWS.byte(), "uint8 values, wanted floating-point values: divide by 255"),
    "sparse": (ROWS.to_sparse(), "a sparse_coo tensor, wanted .* dense"),
    "nested": (torch.nested.nested_tensor([ROWS], layout=torch.jagged), "a nested tensor"),
    "meta": (ROWS.to("meta"), "a tensor on the meta device"),
    "complex": (ROWS + 1j, "complex64 values"),
    "eighths": (ROWS.to(torch.float8_e4m3fn), "float8_e4m3fn values"),
    "words": (np.array(["a"]), "words such as 'a', wanted one tensor with batch dimension; num"),
}


@pytest.mark.parametrize(("typed", "said"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_inputs_are_refused(typed, said):
    with pytest.raises(InvalidInput, match=f"^inputs: got .*{said}"):
        check_inputs(typed)


def test_rows_are_cut_off_from_where_they_come_from():
    with torch.inference_mode():
        made = ROWS * 1
    for rows in (made, nn.Parameter(ROWS), ROWS.numpy(), ROWS.tolist()):
        plain = check_inputs(rows)
        assert type(plain) is torch.Tensor and torch.equal(plain, ROWS.to(plain))
        assert not plain.is_inference() and not plain.requires_grad


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({}, "example: got rows {}"),
        ({"a": ROWS, "b": ROWS[:2]}, "example: got rows {'a': 6, 'b': 2}"),
        ({"a": ROWS, "b": None}, "b: got None"),
        ({"a": torch.tensor(1.0)}, r"a: got \(\), wanted a tensor with at least one row"),
        ({1: ROWS}, "example: got rows {1: 6}, wanted keywords"),
        (ROWS[:0], r"example: got \(0, 2\), wanted a tensor with at least one row"),
        (print, "example: got builtin_function_or_method, wanted a tensor"),
    ],
)
def test_bad_examples_are_refused(typed, said):
    with pytest.raises(InvalidInput, match=f"^{said}"):
        check_example(typed)


@pytest.mark.parametrize(
    "typed",
    [None, 3, "net", lambda x: x, nn.Linear],
    ids=["nothing", "number", "name", "function", "class"],
)
def test_what_is_no_module_is_refused(typed):
    with pytest.raises(InvalidInput, match=r"^model: got .*, wanted a torch\.nn\.Module"):
        check_model(typed)


def test_rows_take_the_precision_of_the_weights():
    narrow, wide = nn.Linear(2, 2), nn.Linear(2, 2).double()
    exact, fine = ROWS.double(), ROWS.double() + 1e-9
    assert fit_inputs(ROWS, wide).dtype == fit_inputs(exact, wide).dtype == torch.float64
    assert fit_inputs(ROWS.half(), narrow).dtype == torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_inputs(exact, narrow).dtype == torch.float32  # nothing is lost
        assert fit_inputs(exact.fill_diagonal_(math.nan), narrow).dtype == torch.float32
    for lost in (fine, exact.fill_(1e300)):
        with pytest.warns(HoldfastWarning, match="float64 rows were rounded to float32"):
            assert fit_inputs(lost, narrow).dtype == torch.float32
    for other in (nn.ReLU(), nn.Sequential(narrow, wide)):
        assert fit_inputs(fine, other) is fine


def test_a_name_that_is_none_is_answered_with_those_there_are():
    assert look_up("loss", "margin", {"margin": 1}) == 1
    for typed in ("margins", None, 3, ["margin"]):
        with pytest.raises(InvalidInput, match=r"loss: got .*, wanted one of margin, brier"):
            check_choice("loss", typed, ["margin", "brier"])


def test_a_refused_value_is_shown_on_one_short_line():
    for value in ("a" * 500, "a\nb\x1b[2J", 10**5000, torch.zeros(500), [1] * 500, object()):
        assert len(shown(value)) < 90 and shown(value).isprintable()


def test_every_verb_reads_labels_and_norms_alike():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3)).eval()
    radii = holdfast.certify(model, ROWS, LABELS, math.inf, "global").radius
    read = holdfast.certify(model, ROWS, LABELS.tolist(), "linf", "global").radius
    assert torch.equal(read, radii)
    attacks = holdfast.attack(model, ROWS, LABELS.numpy(), norm="l2", epsilon="1/255")
    assert (attacks.norm, attacks.epsilon) == (2.0, 1 / 255)
    assert holdfast.knowledge(model, (ROWS, LABELS[:, None])).accuracy is not None
    assert holdfast.descent(model, "cross_entropy", ROWS, LABELS.tolist()).loss > 0


MEANT = torch.tensor([0, 1, 1, 0, 1, 1])
TYPED = {
    "list": MEANT.tolist(),
    "truth values": MEANT > 0,
    "list of truth values": (MEANT > 0).tolist(),
    "array of truth values": (MEANT > 0).numpy(),
    "column": MEANT[:, None],
    "column of an array": MEANT[:, None].numpy(),
    "lists": MEANT[:, None].tolist(),
}


def answers_for(labels) -> dict:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3)).eval()
    verbs = {
        "certify": lambda labels: holdfast.certify(model, ROWS, labels, method="global").radius,
        "attack": lambda labels: holdfast.attack(model, ROWS, labels).distance,
        "conditions": lambda labels: str(holdfast.conditions(model, ROWS, labels)),
        "knowledge": lambda labels: str(holdfast.knowledge(model, ROWS, labels)),
        "knowledge of a pair": lambda labels: str(holdfast.knowledge(model, (ROWS, labels))),
        "descent": lambda labels: holdfast.descent(model, "cross_entropy", ROWS, labels).loss,
    }
    return {name: verb(labels) for name, verb in verbs.items()}


@pytest.fixture(scope="module")
def meant_answers() -> dict:
    return answers_for(MEANT)


@pytest.mark.parametrize("typed", TYPED.values(), ids=TYPED)
def test_every_verb_reads_labels_as_people_hold_them(typed, meant_answers):
    for name, read in answers_for(typed).items():
        meant = meant_answers[name]
        assert torch.equal(read, meant) if isinstance(read, torch.Tensor) else read == meant, name


def test_a_bracket_takes_rows_of_another_precision():
    model = nn.Linear(2, 3).eval()
    for rows in (ROWS.double(), ROWS.tolist(), ROWS.double().numpy()):
        assert holdfast.lipschitz(model, rows, seconds=0.1).upper > 0


def test_rows_in_double_precision_are_certified_as_the_model_reads_them():
    torch.manual_seed(0)
    model, rows = nn.Linear(2, 3).eval(), ROWS.double() + 1e-9
    with pytest.warns(HoldfastWarning, match="rounded to float32"):
        certificates = holdfast.certify(model, rows, LABELS)
    assert torch.equal(certificates.radius, holdfast.certify(model, rows.float(), LABELS).radius)


def test_regions_are_read_from_lists_and_refused_by_name():
    ball = holdfast.Ball([0.0, 1.0], "1/2", "linf")
    assert (ball.radius, ball.norm) == (0.5, math.inf) and ball.center.tolist() == [0.0, 1.0]
    for name, make in {
        "center": lambda: holdfast.Ball(None, 1),
        "radius": lambda: holdfast.Ball([0.0], math.nan),
        "norm": lambda: holdfast.Ball([0.0], 1, 3),
        "low": lambda: holdfast.Box("a", [1.0]),
        "high": lambda: holdfast.Box([0.0], torch.ones(1).to_sparse()),
    }.items():
        with pytest.raises(InvalidInput, match=f"^{name}: got"):
            make()
    with pytest.raises(InvalidInput, match=r"region: got tuple, wanted a holdfast\.Ball"):
        holdfast.lipschitz(nn.Linear(2, 2), ROWS, region=(0, 1))


def test_a_plain_tensor_is_taken_as_it_is():
    assert check_tensor("x", ROWS, "rows").data_ptr() == ROWS.data_ptr()

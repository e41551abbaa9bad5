"""Every trap has its test: those about refusals and single rows, and the table of all of them."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from tests.traps.truth import Function, every_radius, power, with_dyadic
from torch import Tensor, nn

import holdfast
from holdfast.errors import Unsupported

X, LABEL = torch.tensor([[0.5, -0.25]]), torch.tensor([0])


def refusal(model: nn.Module, x: Tensor = X, **choices: object) -> str:
    """Return the words in which certificates are refused; nothing of the model has changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with pytest.raises(Unsupported) as refused:
        holdfast.certify(model, x, LABEL.repeat(len(x)), **choices)
    after = model.state_dict()
    assert all(
        torch.equal(value.nan_to_num(7.0), after[name].nan_to_num(7.0))
        for name, value in before.items()
    )
    assert [module.training for module in model.modules()] == modes
    return str(refused.value)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), nn.Dropout(0.5)])
def test_training_mode_is_refused_and_left_as_it_is(layer: nn.Module) -> None:
    """Traps 1 and 2."""
    said = refusal(nn.Sequential(layer, nn.Linear(2, 2)).train(), torch.cat([X, -X]))
    assert "training mode" in said and "eval()" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [("running_var", -1.0), ("running_var", math.nan), ("running_mean", math.inf)],
)
def test_statistics_that_are_none_are_refused(name: str, value: float) -> None:
    """Trap 4: a variance below zero, NaN or infinity."""
    norm = nn.BatchNorm1d(2).eval()
    getattr(norm, name)[1] = value
    assert name in refusal(norm)


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (torch.round, "jumps"),
        (torch.sign, "jumps"),
        (torch.floor, "floor"),
        (lambda x: (x > 0).to(x.dtype), "gt"),
        (lambda x: x if x[0, 0] > 0 else -x, "control flow"),
    ],
    ids=["round", "sign", "floor", "compare", "branch"],
)
def test_jumps_are_refused(function, word: str) -> None:
    """Trap 16: a jump has no slope; that its gradient is zero proves nothing."""
    assert word in refusal(Function(function))
    said = refusal(Function(function), method="local")
    assert word in said or "no rule" in said


@pytest.mark.parametrize(
    "function",
    [
        torch.square,
        torch.exp,
        lambda x: x * x.flip(1),
        lambda x: (x[:, :, None] * x[:, None]).softmax(2).sum(1) * x,
        lambda x: x.flip(1) / (1 + x.abs()),
    ],
    ids=["square", "exp", "product", "attention", "quotient"],
)
def test_what_has_no_constant_is_refused(function) -> None:
    """Trap 18: what is bounded on a ball is refused everywhere, with the line that works."""
    said = refusal(Function(function), method="global")
    assert "no global Lipschitz constant" in said and "method='local'" in said
    local = holdfast.certify(Function(function), X, LABEL, method="local")
    assert "local" in local.method and not math.isinf(float(local.radius))


def test_low_precision_is_refused_in_both_semantics() -> None:
    """Trap 20."""
    for dtype in (torch.float16, torch.bfloat16):
        model = nn.Linear(2, 2).to(dtype).eval()
        for semantics in ("real", "float32"):
            assert "stored as" in refusal(model, semantics=semantics)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    """Trap 21."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    model[2].bias.data[1] = value
    kind = {math.inf: "inf", -math.inf: "-inf"}.get(value, "NaN")
    assert f"2.bias: weights: holds NaN or infinity ({kind} in 1 of 2 " in refusal(model)


def test_a_mask_of_minus_infinity_is_refused_with_a_way_out() -> None:
    masked = Function(lambda x: x + masked.mask)
    masked.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    assert "(-inf in 1 of 2 entries): nothing can be bounded beside it; in a mask" in refusal(
        masked
    )


def test_rows_that_are_no_numbers_leave_the_others_alone() -> None:
    """Trap 22: NaN and infinity in a row."""
    model = with_dyadic(nn.Linear(2, 2), 2)
    good = torch.tensor([[0.5, -0.25], [-1.0, 2.0]])
    labels = model(good).argmax(1)
    bad = torch.tensor([[math.nan, 0.0], [0.0, math.inf], [-math.inf, math.inf]])
    mixed = torch.cat([good[:1], bad, good[1:]])
    every = torch.cat([labels[:1], torch.zeros(3, dtype=torch.int64), labels[1:]])
    certificates = holdfast.certify(model, mixed, every)
    assert certificates.reason[1:4] == ("not_finite",) * 3
    assert certificates.radius[1:4].tolist() == [0.0] * 3
    alone = holdfast.certify(model, good, labels).radius
    assert torch.equal(certificates.radius[[0, 4]], alone) and bool((alone > 0).all())


@pytest.mark.parametrize("size", [2.0**-149, 2.0**100])
def test_denormal_and_huge_weights_have_their_distance(size: float) -> None:
    """Trap 23: no radius is infinite because a norm vanished in rounding."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).eval()
    model[0].weight.data = torch.eye(2) * size
    model[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    # The logits are x0 and 2 x1 times the size: (1, 1/4) is 1/2 away from 2 x1 - x0 = 0.
    distances = {1.0: Fraction(1, 4), 2.0: Fraction(1, 20), math.inf: Fraction(1, 6)}
    x = torch.tensor([[1.0, 0.25]])
    graph = holdfast.capture(model, x)
    for norm, true in distances.items():
        radii = every_radius(graph, x, LABEL, norm).flatten().tolist()
        assert all(power(Fraction(radius), norm) <= true for radius in radii)
        assert power(Fraction(radii[0]), norm) > true * Fraction(99, 100)


def test_nothing_is_unbounded_without_a_margin() -> None:
    """Trap 24: 0/0 is 0; only a margin strictly above 0 lasts for ever."""
    model = nn.Linear(2, 3)
    model.weight.data.zero_()
    for bias, radius in (
        ([1.0, 1.0, 0.0], 0.0),
        ([1.0, 0.0, 2.0], 0.0),
        ([1e-30, 0.0, 0.0], math.inf),
    ):
        model.bias.data = torch.tensor(bias)
        assert float(holdfast.certify(model.eval(), X, LABEL).radius) == radius


@pytest.mark.parametrize("logits", [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [-0.0, 0.0, 0.0]])
def test_ties_of_two_and_three_have_radius_zero(logits: list[float]) -> None:
    """Trap 25."""
    model = nn.Linear(3, 3, bias=False)
    model.weight.data = torch.eye(3)
    certificates = holdfast.certify(model.eval(), torch.tensor([logits]), LABEL)
    assert (float(certificates.radius), certificates.reason) == (0.0, ("tie",))


def test_outputs_that_are_no_logits_are_refused() -> None:
    """Trap 27: with what to do instead."""
    assert "returns the logits alone" in refusal(Function(lambda x: (x, x)))
    assert "returns the logits alone" in refusal(Function(lambda x: {"logits": x, "more": -x}))
    assert "wanted one row of logits" in refusal(Function(lambda x: x.reshape(-1, 1, 2)))


def test_rows_that_see_each_other_are_refused() -> None:
    """Trap 29: the mean of the batch, attention over the batch."""
    for function in (lambda x: x - x.mean(0), lambda x: (x @ x.T).softmax(1) @ x):
        assert refusal(Function(function))


def test_token_numbers_have_no_distance() -> None:
    """Trap 35."""
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2)).eval()
    with pytest.raises(holdfast.HoldfastError) as refused:
        holdfast.certify(model, torch.tensor([[1, 2, 3]]), LABEL)
    assert "float" in str(refused.value)


_RADIUS = "tests/certificates/test_certify.py"
_CAPTURE = "tests/graph/test_capture.py"
_MODELS = "tests/traps/test_models.py"
_ROWS = "tests/traps/test_rows.py"

TRAPS = {
    1: (f"{_ROWS}::test_training_mode_is_refused_and_left_as_it_is",),
    2: (f"{_CAPTURE}::test_refusals_say_what_and_how_to_go_on",),
    3: (f"{_MODELS}::test_a_tiny_variance_is_a_large_gain",),
    4: (f"{_ROWS}::test_statistics_that_are_none_are_refused",),
    5: (f"{_MODELS}::test_layer_norm_is_steepest_at_a_constant_row",),
    6: (
        f"{_MODELS}::test_other_normalisations_are_as_steep",
        f"{_MODELS}::test_a_normalisation_by_a_power_of_sums_is_bounded_on_balls_alone",
    ),
    7: (
        f"{_MODELS}::test_overlapping_windows_of_a_maximum_add_up",
        f"{_MODELS}::test_mean_pools_are_convolutions",
    ),
    8: (f"{_MODELS}::test_convolutions_of_every_geometry",),
    9: (f"{_MODELS}::test_padding_repeats_pixels",),
    10: (f"{_MODELS}::test_every_use_of_a_weight_counts",),
    11: (f"{_MODELS}::test_copies_of_a_value_add_up",),
    12: (f"{_MODELS}::test_arithmetic_in_forward_counts",),
    13: (f"{_MODELS}::test_hooks_and_parametrisations_count",),
    14: (
        f"{_CAPTURE}::test_weights_that_change_after_capture_are_noticed",
        f"{_MODELS}::test_a_weight_that_changes_in_place_gives_another_radius",
    ),
    15: (f"{_MODELS}::test_values_are_read_and_not_storage",),
    16: (f"{_ROWS}::test_jumps_are_refused",),
    17: (f"{_MODELS}::test_gradients_that_lie_change_nothing",),
    18: (f"{_ROWS}::test_what_has_no_constant_is_refused",),
    19: (
        f"{_MODELS}::test_activations_in_pieces_have_their_own_slopes",
        f"{_MODELS}::test_curved_activations_are_as_steep_as_they_are",
    ),
    20: (
        f"{_ROWS}::test_low_precision_is_refused_in_both_semantics",
        "tests/certificates/test_float32.py::test_every_reason_to_refuse_is_named_at_once",
        "tests/certificates/test_float32.py::test_products_in_less_than_float32_are_refused",
        "tests/certificates/test_float32.py::test_quantised_modules_are_refused",
    ),
    21: (f"{_ROWS}::test_weights_that_are_no_numbers_are_refused",),
    22: (
        f"{_ROWS}::test_rows_that_are_no_numbers_leave_the_others_alone",
        f"{_RADIUS}::test_logits_that_overflow_are_not_finite_and_the_file_can_be_read",
    ),
    23: (f"{_ROWS}::test_denormal_and_huge_weights_have_their_distance",),
    24: (
        f"{_ROWS}::test_nothing_is_unbounded_without_a_margin",
        f"{_RADIUS}::test_a_row_that_nothing_can_change_is_unbounded",
    ),
    25: (f"{_ROWS}::test_ties_of_two_and_three_have_radius_zero",),
    26: (f"{_RADIUS}::test_every_zero_has_its_reason",),
    27: (f"{_ROWS}::test_outputs_that_are_no_logits_are_refused",),
    28: (
        f"{_RADIUS}::test_labels_out_of_range",
        "tests/test_cli.py::test_bad_input_ends_with_code_2_and_one_line_that_says_why",
    ),
    29: (
        f"{_ROWS}::test_rows_that_see_each_other_are_refused",
        f"{_CAPTURE}::test_state_that_the_forward_pass_writes_is_refused",
        f"{_RADIUS}::test_radii_do_not_depend_on_batch_or_order_or_threads",
    ),
    30: (
        "tests/sources/test_units.py::test_radii_are_in_the_units_before_it",
        "tests/test_cli.py::test_bytes_are_scaled_and_radii_shown_in_both_units",
    ),
    31: (f"{_MODELS}::test_clipping_only_shortens_the_way",),
    32: (
        f"{_RADIUS}::test_inputs_that_are_no_rows",
        "tests/sources/test_data.py::test_bytes_are_divided_by_255_and_that_is_said",
    ),
    33: (f"{_MODELS}::test_a_softmax_keeps_the_class",),
    34: (f"{_MODELS}::test_a_mean_of_nets_is_a_net_and_a_vote_is_refused",),
    35: (
        f"{_MODELS}::test_a_mask_is_held_fixed",
        f"{_ROWS}::test_token_numbers_have_no_distance",
    ),
}
"""Number of each trap: what tests it."""


def test_every_trap_has_a_test() -> None:
    """The numbers are complete and the tests exist."""
    assert list(TRAPS) == list(range(1, 36))
    root = Path(__file__).parents[2]
    for name in {name for names in TRAPS.values() for name in names}:
        path, test = name.split("::")
        assert f"\ndef {test}(" in (root / path).read_text(), name

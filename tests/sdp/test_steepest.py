"""The steepest slope that is found, beside all slopes and the bounds that it may not pass."""

import itertools
import math

import numpy as np
import pytest
import torch
from tests.sdp.builders import jacobian

from holdfast.sdp.form import NormalForm
from holdfast.sdp.steepest import steepest_estimate
from holdfast.types import dual

UNITS, INPUTS = 7, 3


def form_of(seed: int, deep: bool) -> NormalForm:
    rng = np.random.default_rng(seed)
    B = rng.normal(size=(UNITS, INPUTS + UNITS))
    B[:, INPUTS:] = np.tril(B[:, INPUTS:], -1) if deep else 0.0
    low = rng.uniform(-0.2, 0.2, UNITS)
    return NormalForm(B, rng.normal(size=(2, INPUTS + UNITS)), low, low + 1.0, INPUTS)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("deep", [False, True])
def test_what_is_found_is_between_the_middle_and_the_steepest(norm: float, deep: bool) -> None:
    ratios = []
    for seed in range(20):
        form = form_of(seed, deep)
        ends = [
            jacobian(form, np.where(choice, form.low, form.high))
            for choice in itertools.product([False, True], repeat=UNITS)
        ]
        steepest = np.linalg.norm(np.stack(ends), ord=dual(norm), axis=2).max(0)
        middle = np.linalg.norm(jacobian(form, (form.low + form.high) / 2), ord=dual(norm), axis=1)
        found = steepest_estimate(form, norm).numpy()
        assert (found <= steepest * (1 + 1e-12)).all() and (found >= middle).all()
        ratios.extend(found / steepest)
    assert np.median(ratios) > 0.9


def test_a_form_without_slopes_to_choose_has_the_length_of_its_rows() -> None:
    form = NormalForm(np.zeros((0, 2)), np.array([[3.0, 4.0]]), np.zeros(0), np.zeros(0), 2)
    assert torch.equal(steepest_estimate(form, 2.0), torch.tensor([5.0], dtype=torch.float64))

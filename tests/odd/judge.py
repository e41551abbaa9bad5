"""What may come of odd calls: an answer without NaN that holds, or a `HoldfastError`."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import holdfast
from holdfast.arguments import fit_inputs
from holdfast.files import plain


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call answers, checked, or None where it is refused.

    Any exception but a `HoldfastError` passes through, and so does any warning but Holdfast's own.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", holdfast.HoldfastWarning)
        # torch.export's and torch.func.jvp's own; see pyproject.toml
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)
        try:
            found = call()
        except holdfast.HoldfastError as refusal:
            assert str(refusal).isprintable() and len(str(refusal)) < 25_000
            return None
        check(found)
    return found


def check(found: Any) -> None:
    """Check that an answer claims nothing that is not a number, and can be shown."""
    assert repr(found)
    if isinstance(found, holdfast.Bracket):
        assert 0 <= found.lower <= found.upper
    elif isinstance(found, holdfast.Certificates):
        assert not found.has_classes or found.coherent()
        assert not found.output_change(0.1).isnan().any()
        assert not found.loss_change(0.1).isnan().any()
    elif isinstance(found, holdfast.Attacks):
        assert bool((found.distance >= 0).all())
    elif isinstance(found, holdfast.Conditions):
        numbers = (found.ratio, found.median_radius, found.resolution, found.quantisation)
        assert all(number is None or number >= 0 for number in numbers)
    elif isinstance(found, holdfast.Knowledge):
        for estimates in (found.volatility, found.normalised, found.clipped):
            assert all(one.low <= one.value <= one.high for one in estimates.values())
    elif isinstance(found, holdfast.Graph):
        assert found.nodes
    else:
        plain(found)


def check_rows(model: nn.Module, rows: Tensor, found: holdfast.Certificates) -> None:
    """Check that the model gives random points in certified balls the label, or all but that."""
    generator, rows = torch.Generator().manual_seed(0), fit_inputs(rows, model)
    for _ in range(4):
        noise = torch.randn(rows.shape, generator=generator).to(rows)
        lengths = torch.linalg.vector_norm(noise.flatten(1), ord=found.norm, dim=1)
        radius = found.radius.clamp(max=1e3).to(rows) * (1 - 1e-3)
        with torch.no_grad():
            logits = model(rows + noise * (radius / lengths).reshape(-1, *[1] * (rows.dim() - 1)))
        logits = (logits if isinstance(logits, Tensor) else next(_tensors(logits))).double()
        own = logits.gather(1, found.labels[:, None]).squeeze(1)
        lead = logits.scatter(1, found.labels[:, None], -math.inf).amax(1) - own
        lost = lead > 1e-3 * logits.abs().amax(1).clamp(min=1e-30)
        assert not bool((lost & (found.radius > 0)).any())


def _tensors(value: Any):
    parts = value.values() if isinstance(value, dict) else value
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif part is not None:
            yield from _tensors(part)

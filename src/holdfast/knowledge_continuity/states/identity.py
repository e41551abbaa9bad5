"""What tells one row from another, in a few numbers: rows that are one have the same.

Rows are compared by their inputs, and not layer by layer, because a layer may map different inputs
to one point. Where only states are at hand, all layers together tell rows apart.
"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Numbers that stand for a row: the random directions that its entries are projected on. That rows
# ten times as far apart as the room for rounding look like one has probability 1e-13.
WIDTH = 16


def row_identity(inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Return the identity of every row of a batch, [b, at most 16] float64.

    Floating-point rows that are close have identities that are close; all else is the same or not.

    Args:
        inputs: [b, ...], or a mapping of such; entries of a mapping that an `attention_mask` leaves
            out do not count, so that padding is not part of a row.
    """
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        return _sketch(inputs.reshape(len(inputs), -1).nan_to_num(0.0, 0.0, 0.0))
    named = {"": inputs} if isinstance(inputs, Tensor) else inputs
    mask = named.get("attention_mask")
    parts = [
        [row.numpy().tobytes() for row in _real(named[name].detach().cpu(), mask)]
        for name in sorted(named)
    ]
    digests = [
        list(hashlib.blake2b(b"|".join(row), digest_size=WIDTH).digest())
        for row in zip(*parts, strict=True)
    ]
    return torch.tensor(digests, dtype=torch.float64)


def _real(values: Tensor, mask: Tensor | None) -> Iterable[Tensor]:
    """Return the rows of a tensor, without what a mask leaves out."""
    rows = values.float() if values.dtype == torch.bfloat16 else values  # numpy has no bfloat16
    if mask is None or values.shape[:2] != mask.shape:
        return rows
    return (row[real] for row, real in zip(rows, mask.detach().cpu().bool(), strict=True))


def states_identity(states: Iterable[Tensor], beside: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the identity of rows of which states are known, and that of others beside them.

    Args:
        states: Of every layer, [n, d] each.
        beside: Of every layer for the others, [m, d] each.

    Returns:
        [n, k] and [m, k], float64, in which all layers weigh the same.
    """
    own, others = [], []
    for here, there in zip(states, beside, strict=True):
        sketch = _sketch(here)
        size = sketch.norm(dim=1).median().clamp(min=torch.finfo(torch.float64).tiny)
        own.append(sketch / size)
        others.append(_sketch(there).to(size.device) / size)
    return torch.cat(own, 1), torch.cat(others, 1)


def _sketch(rows: Tensor) -> Tensor:
    """Return rows projected on a few random directions: lengths and distances are about kept."""
    width = rows.shape[1]
    if width <= WIDTH:
        return rows.double()
    generator = torch.Generator().manual_seed(0)
    frame = torch.randn(width, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5
    frame = frame.to(rows.device)
    # Some rows at a time, as they are copied in float64.
    return torch.cat([part.double() @ frame for part in rows.split(256)])

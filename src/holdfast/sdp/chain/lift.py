"""From the normal form to a chain, where the network is one layer after another."""

import torch

from holdfast.sdp.chain.chain import Block, Chain
from holdfast.sdp.form import NormalForm, levels


def chain_of(form: NormalForm) -> Chain | None:
    """Return the chain that a normal form is, or None where layers are skipped.

    Args:
        form: Not reduced, so that its entries are the network's own.

    Returns:
        The chain, exact; None for networks with skips, without activations or with rounded rows.
    """
    if form.B_error is not None or form.C_error is not None or not form.units:
        return None
    blocks: list[Block] = []
    before = slice(0, form.inputs)
    for first, last in levels(form.B, form.inputs):
        rows = form.B[first:last]
        inner = rows[:, before]
        if (rows != 0).sum() != (inner != 0).sum():
            return None
        low, high = (torch.tensor(side[first:last]) for side in (form.low, form.high))
        blocks.append(Block(torch.tensor(inner), low, high))
        before = slice(form.inputs + first, form.inputs + last)
    output = form.C[:, before]
    if (form.C != 0).sum() != (output != 0).sum():
        return None
    return Chain(tuple(blocks), torch.tensor(output))

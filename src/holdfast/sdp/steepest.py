"""The steepest slope of a normal form that is found: what no bound by LipSDP can go below."""

import torch
from torch import Tensor

from holdfast.sdp.form import NormalForm, levels
from holdfast.types import dual


@torch.no_grad()
def steepest_estimate(form: NormalForm, norm: float) -> Tensor:
    """Search, for every output, for the slopes of the units that make its gradient longest.

    The gradient is linear in the slopes of one level when those of the others are fixed, so that
    every round ends at least as high as it began: from the last level to the first each unit takes
    the end of its range that raises <gradient, direction>, then the direction follows the gradient.

    Args:
        form: The network.
        norm: 1, 2 or inf, on the inputs.

    Returns:
        [outputs]: dual norms of gradients. The slopes need not occur together at any input, so
        these are no lower bounds of Lipschitz constants.
    """
    d = form.inputs
    B, C = torch.tensor(form.B), torch.tensor(form.C)
    low, high = torch.tensor(form.low), torch.tensor(form.high)
    runs = levels(form.B, d)
    slopes = ((low + high) / 2.0).expand(len(C), -1).clone()
    best = torch.zeros(len(C), dtype=torch.float64)
    signs = None
    for _ in range(30):  # at most: a round that hardly rises is the last
        back = C.clone()
        for first, last in reversed(runs):
            own = back[:, d + first : d + last]
            if signs is not None:
                rises = own * signs[:, first:last] > 0
                slopes[:, first:last] = torch.where(rises, high[first:last], low[first:last])
            back = back + (own * slopes[:, first:last]) @ B[first:last]
        gradient = back[:, :d]
        length = torch.linalg.vector_norm(gradient, ord=dual(norm), dim=1)
        if not bool((length > best * (1.0 + 1e-4)).any()):
            break  # such rises decide nothing that the estimate is used for
        best = torch.maximum(best, length)
        point = torch.cat([_along(gradient, norm), torch.zeros_like(slopes)], 1)
        signs = torch.zeros_like(slopes)
        for first, last in runs:
            signs[:, first:last] = point @ B[first:last].T
            point[:, d + first : d + last] = slopes[:, first:last] * signs[:, first:last]
    return best


def _along(gradient: Tensor, norm: float) -> Tensor:
    """Return the direction of unit norm along which each gradient rises fastest."""
    if norm == 2.0:
        return torch.nn.functional.normalize(gradient, dim=1, eps=1e-300)
    if norm == 1.0:
        places = gradient.abs().argmax(1, keepdim=True)
        return torch.zeros_like(gradient).scatter(1, places, gradient.gather(1, places).sign())
    return gradient.sign()

"""ONNX operators that move a window over images: convolutions and pools."""

from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from holdfast.sources.onnx.rows import RowValue, along, per_image, renewed


def window_pads(
    x: RowValue,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    auto_pad: str,
    pads: Sequence[int] | None,
) -> list[tuple[int, int]]:
    """Return (before, after) per spatial axis, `auto_pad` resolved.

    Raises:
        ValueError: When the padding is not one of the known kinds.
    """
    rank = len(kernel)
    if len(x.shape) != rank + 2 or not len(strides) == len(dilations) == rank:
        raise ValueError(f"a window of {rank} axes on a value of shape {list(x.shape)}")
    if auto_pad in ("NOTSET", "VALID"):
        flat = list(pads) if pads and auto_pad == "NOTSET" else [0] * 2 * rank
        if len(flat) != 2 * rank or min(flat, default=0) < 0:
            raise ValueError(f"pads {flat}")
        return list(zip(flat[:rank], flat[rank:], strict=True))
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad {auto_pad!r}")
    found = []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        found.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return found


def flat_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Return paddings as `torch.nn.functional.pad` takes them: last axis first."""
    return [amount for pair in reversed(pads) for amount in pair]


def _kernel(weight: Tensor, stated: list[int] | None) -> list[int]:
    """Return the sizes of a kernel.

    Raises:
        ValueError: When they are not those that the file states.
    """
    kernel = list(weight.shape[2:])
    if stated is not None and stated != kernel:
        raise ValueError(f"kernel_shape {stated} of a weight of shape {list(weight.shape)}")
    return kernel


def conv(  # noqa: PLR0913 - the attributes of the operator
    x: RowValue,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: list[int] | None = None,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> RowValue:
    """Convolve in one, two or three dimensions.

    Returns:
        [N, channels, ...].

    Raises:
        ValueError: When `kernel_shape` is not that of the weight.
    """
    kernel, rank = _kernel(weight, kernel_shape), weight.dim() - 2
    steps, spread = strides or [1] * rank, dilations or [1] * rank
    amounts = window_pads(x, kernel, steps, spread, auto_pad, pads)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    if all(before == after for before, after in amounts):
        padding = [before for before, _ in amounts]
        return per_image(lambda t: function(t, weight, bias, steps, padding, spread, group), x)
    flat = flat_pads(amounts)
    return per_image(lambda t: function(F.pad(t, flat), weight, bias, steps, 0, spread, group), x)


def conv_transpose(  # noqa: PLR0913 - the attributes of the operator
    x: RowValue,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: list[int] | None = None,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    output_padding: list[int] | None = None,
    output_shape: list[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> RowValue:
    """Convolve transposed; padding that is not symmetric is cropped afterwards.

    Returns:
        [N, channels, ...].

    Raises:
        ValueError: When `kernel_shape` is not that of the weight, or a shape does not fit.
    """
    kernel, rank = _kernel(weight, kernel_shape), weight.dim() - 2
    steps, spread = strides or [1] * rank, dilations or [1] * rank
    more = output_padding or [0] * rank
    if output_shape is None and auto_pad in ("NOTSET", "VALID"):
        amounts = window_pads(x, kernel, steps, spread, auto_pad, pads)
    else:
        sizes = x.shape[2:]
        wanted = output_shape or [n * step for n, step in zip(sizes, steps, strict=True)]
        whole = [
            step * (n - 1) + extra + d * (k - 1) + 1
            for n, step, extra, k, d in zip(sizes, steps, more, kernel, spread, strict=True)
        ]
        amounts = _cropped(whole, wanted[-rank:], auto_pad)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    same = all(before == after for before, after in amounts)
    padding = [before for before, _ in amounts] if same else [0] * rank

    def layer(t: Tensor) -> Tensor:
        result = function(t, weight, bias, steps, padding, more, group, spread)
        if same:
            return result
        for axis, (before, after) in enumerate(amounts, 2):
            result = result.narrow(axis, before, result.shape[axis] - before - after)
        return result

    return per_image(layer, x)


def _cropped(whole: Sequence[int], wanted: Sequence[int], auto_pad: str) -> list[tuple[int, int]]:
    """Return how much of every axis is cut off (before, after) to get a size.

    Raises:
        ValueError: When it is too short.
    """
    totals = [size - short for size, short in zip(whole, wanted, strict=True)]
    if min(totals) < 0:
        raise ValueError(f"output_shape {list(wanted)} of only {list(whole)}")
    less = [(total // 2, total - total // 2) for total in totals]
    return less if auto_pad == "SAME_UPPER" else [(after, before) for before, after in less]


def max_pool(  # noqa: PLR0913 - the attributes of the operator
    x: RowValue,
    *,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    ceil_mode: int = 0,
    storage_order: int = 0,
    auto_pad: str = "NOTSET",
) -> RowValue:
    """Return the largest entry of every window."""
    rank = len(kernel_shape)
    steps, spread = strides or [1] * rank, dilations or [1] * rank
    amounts = window_pads(x, kernel_shape, steps, spread, auto_pad, pads)
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    reach = [d * (k - 1) + 1 for k, d in zip(kernel_shape, spread, strict=True)]
    ends = _ends(x, reach, steps, amounts, bool(ceil_mode))
    if ends is not None:
        padding, ceil = ends
        return per_image(lambda t: function(t, kernel_shape, steps, padding, spread, ceil), x)

    def every(t: Tensor, padding: list[int]) -> Tensor:
        return function(t, kernel_shape, 1, padding, spread)

    return per_image(_picked(every, amounts, steps), x)


def average_pool(  # noqa: PLR0913 - the attributes of the operator
    x: RowValue,
    *,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: str = "NOTSET",
) -> RowValue:
    """Return the mean of every window.

    Raises:
        ValueError: For dilation, or padding that counts and ends with a part of a window.
    """
    rank = len(kernel_shape)
    steps = strides or [1] * rank
    if any(d != 1 for d in dilations or []):
        raise ValueError("a dilated average")
    amounts = window_pads(x, kernel_shape, steps, [1] * rank, auto_pad, pads)
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    if count_include_pad and any(after or before for before, after in amounts):
        if ceil_mode:
            raise ValueError("padding that counts, with ceil_mode")
        flat = flat_pads(amounts)
        return per_image(lambda t: function(F.pad(t, flat), kernel_shape, steps), x)
    ends = _ends(x, kernel_shape, steps, amounts, bool(ceil_mode))
    if ends is not None:
        padding, ceil = ends
        return per_image(lambda t: function(t, kernel_shape, steps, padding, ceil, False), x)

    def every(t: Tensor, padding: list[int]) -> Tensor:
        return function(t, kernel_shape, 1, padding, False, False)

    return per_image(_picked(every, amounts, steps), x)


def _picked(
    every: Callable[[Tensor, list[int]], Tensor],
    amounts: Sequence[tuple[int, int]],
    strides: Sequence[int],
) -> Callable[[Tensor], Tensor]:
    """Return a pool with other padding before than after: every window is made, some are taken."""
    padding = [max(pair) for pair in amounts]

    def layer(t: Tensor) -> Tensor:
        result = every(t, padding)
        for axis, (pair, most, stride) in enumerate(zip(amounts, padding, strides, strict=True), 2):
            before, after = pair
            index = [slice(None)] * result.dim()
            index[axis] = slice(most - before, result.shape[axis] - (most - after), stride)
            result = result[tuple(index)]
        return result

    return layer


def _ends(
    x: RowValue,
    reach: Sequence[int],
    strides: Sequence[int],
    amounts: Sequence[tuple[int, int]],
    ceil: bool,
) -> tuple[list[int], bool] | None:
    """Return symmetric padding and the rounding that give the same windows, if there are any.

    A window that hangs over the end takes the entries that are there, which is what more padding
    after than before asks for.

    Raises:
        ValueError: For `ceil_mode` with padding that is not the same before and after.
    """
    padding = [before for before, _ in amounts]
    if all(before == after for before, after in amounts):
        return padding, ceil
    wanted, got = [], []
    for size, k, stride, (before, after) in zip(x.shape[2:], reach, strides, amounts, strict=True):
        wanted.append((size + before + after - k) // stride + 1)
        ends = -(-(size + 2 * before - k) // stride) + 1
        # As torch does it: no window starts beyond the end.
        got.append(ends - 1 if (ends - 1) * stride >= size + before else ends)
    if ceil:
        raise ValueError(f"ceil_mode with pads {amounts}, not the same before and after")
    return (padding, True) if wanted == got else None


def global_average_pool(x: RowValue) -> RowValue:
    """Return the mean of every channel."""
    moved, dims = along(x, range(2, len(x.shape)))
    return renewed(moved, moved.tensor.mean(dims, keepdim=True))


def global_max_pool(x: RowValue) -> RowValue:
    """Return the largest entry of every channel."""
    moved, dims = along(x, range(2, len(x.shape)))
    return renewed(moved, moved.tensor.amax(dims, keepdim=True))


WINDOWS: Mapping[str, Callable[..., RowValue]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
}
"""Functions by operator."""

"""Rows of one shape for a model that takes another of the same size."""

import math

from torch import Tensor

from holdfast.errors import InvalidInput


def channels_first(inputs: Tensor, layout: str | None) -> Tensor:
    """Return images with channels before pixels, where the layout says that they come last.

    Args:
        inputs: [N, H, W, C] if `layout` is "nhwc"; flat rows stay as they are.
        layout: What the user stated.

    Raises:
        InvalidInput: When there is no such layout, or the rows are no images.
    """
    if layout not in (None, "nchw", "nhwc"):
        raise InvalidInput("data", f"layout={layout}", "nchw or nhwc")
    if layout != "nhwc" or inputs.dim() == 2:
        return inputs
    if inputs.dim() != 4:
        got = f"layout=nhwc for rows of shape {list(inputs.shape[1:])}"
        raise InvalidInput("data", got, "rows of shape [height, width, channels]")
    return inputs.movedim(-1, 1).contiguous()


def to_shape(inputs: Tensor, shape: tuple[int, ...], layout: str | None) -> Tensor:
    """Return rows in the shape that a model takes.

    Axes of size one come and go, and images are flattened or made of flat rows. Where two orders
    of the same numbers are possible, nothing is guessed.

    Args:
        inputs: [N, ...].
        shape: Of one row, as the model takes it.
        layout: "nchw", "nhwc", or None where the user stated none.

    Raises:
        InvalidInput: When the sizes differ, or it is open where the channels are.
    """
    row = tuple(inputs.shape[1:])
    if row == shape:
        return inputs
    wanted = f"rows of shape {list(shape)}, as the model takes them"
    if math.prod(row) != math.prod(shape):
        raise InvalidInput("data", f"rows of shape {list(row)}", wanted)
    here, there = (tuple(size for size in sizes if size != 1) for sizes in (row, shape))
    longer = max(here, there, key=len)
    flat = min(len(here), len(there)) <= 1
    if here != there and not flat:
        hint = " (say ?layout=nhwc if channels come last)" if layout is None else ""
        raise InvalidInput("data", f"rows of shape {list(row)}{hint}", wanted)
    # Flat colour images come in both orders; [3, H, W] itself says which one it is.
    open_order = flat and len(longer) > 2 and not (longer == here and here[0] in (2, 3, 4))
    if open_order and layout is None:
        got = f"rows of shape {list(row)} for a model that takes {list(shape)}"
        raise InvalidInput("data", got, "?layout=nchw or ?layout=nhwc: where the channels are")
    if layout == "nhwc" and len(here) <= 1 and len(shape) == 3:
        channels, *pixels = shape
        return inputs.reshape(len(inputs), *pixels, channels).movedim(-1, 1).contiguous()
    return inputs.reshape(len(inputs), *shape)

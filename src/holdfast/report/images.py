"""Inputs as pictures: pixel lists become PNG data addresses that need no file beside the page."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np

from holdfast.errors import MissingExtra


def data_uri(
    pixels: Sequence[float] | None,
    shape: Sequence[int] | None,
    span: Sequence[float] = (0.0, 1.0),
) -> str | None:
    """Return a PNG data address of one input, or None when it is no picture.

    Args:
        pixels: Values in row-major order.
        shape: `[height, width]`, channels first or channels last; 1 or 3 channels.
        span: The values drawn as black and as white.

    Returns:
        `data:image/png;base64,...`, one image pixel per input pixel; the page enlarges it.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    array = _layout(pixels, shape)
    if array is None:
        return None
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "report", "the audit page") from error
    low, high = span
    scaled = (array - low) / ((high - low) or 1.0)
    image = Image.fromarray(np.uint8(np.rint(np.clip(scaled, 0.0, 1.0) * 255)))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _layout(pixels: Sequence[float] | None, shape: Sequence[int] | None) -> np.ndarray | None:
    """Return the pixels as height x width (grey) or height x width x 3 (colour)."""
    if not pixels or not shape or math.prod(shape) != len(pixels):
        return None
    array = np.asarray(pixels, dtype=np.float64).reshape(tuple(shape))
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)
    return array if is_picture else None

"""Rows of one shape for a model that takes another: nothing is guessed."""

import pytest
import torch

from holdfast.errors import InvalidInput
from holdfast.sources.shapes import channels_first, to_shape

FITS = [
    ((28, 28), (784, 1)),
    ((28, 28), (784,)),
    ((784,), (1, 28, 28)),
    ((28, 28), (28, 28, 1)),
    ((1, 28, 28), (28, 28)),
    ((3, 4, 5), (60,)),
    ((4,), (4,)),
]


@pytest.mark.parametrize(("row", "shape"), FITS)
def test_the_order_of_the_numbers_stays(row, shape):
    rows = torch.randn(2, *row)
    fitted = to_shape(rows, shape, None)
    assert fitted.shape == (2, *shape)
    assert torch.equal(fitted.flatten(), rows.flatten())


@pytest.mark.parametrize(
    ("row", "shape", "said"),
    [
        ((28, 28), (3, 28, 28), r"rows of shape \[28, 28\], wanted rows of shape \[3, 28, 28\]"),
        ((32, 32, 3), (3, 32, 32), r"say \?layout=nhwc"),
        ((32, 32, 3), (3072,), r"\?layout=nchw or \?layout=nhwc"),
        ((3072,), (3, 32, 32), r"\?layout=nchw or \?layout=nhwc"),
        ((6, 4), (4, 6), r"rows of shape \[6, 4\]"),
    ],
)
def test_where_two_orders_are_possible_the_user_says_which(row, shape, said):
    with pytest.raises(InvalidInput, match=said):
        to_shape(torch.zeros(2, *row), shape, None)


def test_channels_that_come_last_are_moved():
    images = torch.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3)
    moved = channels_first(images, "nhwc")
    assert moved[1, 2, 3, 4] == images[1, 3, 4, 2]
    flat = to_shape(images.flatten(1), (3, 4, 5), "nhwc")
    assert torch.equal(flat, moved)
    assert torch.equal(to_shape(moved.flatten(1), (3, 4, 5), "nchw"), moved)
    assert channels_first(images, "nchw") is images


@pytest.mark.parametrize(("row", "layout"), [((4, 5), "nhwc"), ((4, 5, 3), "hwc")])
def test_a_layout_that_does_not_fit_is_refused(row, layout):
    with pytest.raises(InvalidInput, match=f"layout={layout}"):
        channels_first(torch.zeros(2, *row), layout)

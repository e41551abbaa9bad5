"""Inputs as pictures: layouts, range and what is no picture."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from holdfast.report.images import data_uri


def decoded(uri):
    head, payload = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(payload))))


def test_grey_pictures_keep_shape_order_and_range():
    array = decoded(data_uri([0.0, 0.5, 1.0, 2.0, -1.0, 1.0], [2, 3], (0.0, 1.0)))
    assert array.tolist() == [[0, 128, 255], [255, 0, 255]]


def test_the_range_decides_what_is_black_and_white():
    assert decoded(data_uri([-1.0, 0.0, 1.0, 1.0], [2, 2], (-1.0, 1.0))).tolist() == [
        [0, 128],
        [255, 255],
    ]


def test_channels_first_and_last_are_the_same_picture():
    first = np.random.default_rng(0).random((3, 4, 5))
    last = np.moveaxis(first, 0, -1)
    one = decoded(data_uri(first.ravel().tolist(), [3, 4, 5]))
    two = decoded(data_uri(last.ravel().tolist(), [4, 5, 3]))
    assert one.shape == (4, 5, 3) and (one == two).all()
    assert decoded(data_uri([0.0, 1.0], [1, 1, 2])).shape == (1, 2)


@pytest.mark.parametrize(
    ("pixels", "shape"),
    [(None, [2, 2]), ([0.0], None), ([0.0] * 3, [2, 2]), ([0.0] * 8, [2, 2, 2]), ([0.0], [1])],
)
def test_what_is_no_picture_gives_none(pixels, shape):
    assert data_uri(pixels, shape) is None

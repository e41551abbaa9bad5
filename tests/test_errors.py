"""Messages are one line that only shows, whatever names out of files stand in it."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import (
    HoldfastWarning,
    InternalError,
    InvalidInput,
    MissingExtra,
    Obstacle,
    Unsupported,
    one_line,
    visible,
)

HOSTILE = "a\x1b[2K\rproved: 3\n\x9b2J\u202e\u2028\x00\ud800\u3164\u2800b"


@given(st.text())
def test_a_line_prints_and_keeps_what_printed_before(text):
    line = one_line(text)
    assert line.isprintable() and one_line(line) == line
    assert all(part.isprintable() for part in visible(text).split("\n"))
    if text.isascii() and text.isprintable():
        assert line.split() == text.split()


@pytest.mark.parametrize(
    "problem",
    [
        InvalidInput(HOSTILE, HOSTILE, HOSTILE),
        Unsupported(HOSTILE, [Obstacle(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)]),
        Obstacle(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),
        MissingExtra(HOSTILE, HOSTILE, HOSTILE),
        InternalError(HOSTILE),
        HoldfastWarning(HOSTILE),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_every_message_is_one_printable_line(problem):
    assert str(problem).isprintable()
    assert not {"\u3164", "\u2800"} & set(str(problem))


def test_warnings_are_lines_too():
    with pytest.warns(HoldfastWarning, match="^a. b$"):
        warnings.warn("a\x1b\nb", HoldfastWarning, stacklevel=1)


def test_a_message_has_an_end():
    assert len(str(InvalidInput("x", "y" * 10**6, "z"))) < 21_000

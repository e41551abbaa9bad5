"""Typing mistakes: words as they are when letters are swapped, left out, doubled or mistyped."""

from collections.abc import Iterator

_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def mistyped(word: str) -> tuple[str, ...]:
    """Return a word with one mistake inside: its first and last letters stay, as people read.

    >>> mistyped("film")[:4]
    ('flim', 'flm', 'fim', 'fiilm')
    """
    return tuple(dict.fromkeys(other for other in _mistakes(word) if other != word))


def _mistakes(word: str) -> Iterator[str]:
    inner = range(1, len(word) - 1)
    for k in inner[:-1]:
        yield word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    for k in inner:
        yield word[:k] + word[k + 1 :]
    for k in inner:
        if word[k].isalpha():
            yield word[:k] + word[k] + word[k:]
    for k in inner:
        for near in _beside(word[k]):
            yield word[:k] + near + word[k + 1 :]


def _beside(letter: str) -> str:
    """Return the letters left and right of one on a keyboard."""
    for row in _KEYBOARD:
        place = row.find(letter.lower())
        if place >= 0:
            near = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            return near.upper() if letter.isupper() else near
    return ""

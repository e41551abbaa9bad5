"""A text as words and what stands between them, so that words can be replaced in place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


@dataclass(frozen=True)
class Words:
    """A text, cut so that it can be put together again.

    Attributes:
        words: In their order; an apostrophe inside belongs to a word, a hyphen does not.
        between: What stands before, between and after them: one more than there are words.

    >>> text = Words.of("It's a well-made film.")
    >>> text.words
    ("It's", 'a', 'well', 'made', 'film')
    >>> text.with_words({2: "badly", 4: "Movie"})
    "It's a badly-made Movie."
    """

    words: tuple[str, ...]
    between: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Words":
        """Return a text, cut into words."""
        found = [*_WORD.finditer(text)]
        ends = [0, *(place for word in found for place in word.span()), len(text)]
        between = tuple(text[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True))
        return cls(tuple(word.group() for word in found), between)

    def with_words(self, changes: Mapping[int, str]) -> str:
        """Return the text with some words replaced, or left out with one of the spaces around them.

        Args:
            changes: What stands instead, by the number of the word; empty where it is left out.

        >>> text = Words.of("a good film")
        >>> text.with_words({1: ""}), text.with_words({0: "", 2: "plot"})
        ('a film', 'good plot')
        """
        found = self.between[0]
        for place, word in enumerate(self.words):
            after = self.between[place + 1]
            other = changes.get(place, word)
            if not other and after[:1].isspace() and (not found or found[-1].isspace()):
                after = after[1:]
            found += other + after
        return found


def as_written(word: str, other: str) -> str:
    """Return a word in capitals as another one is written.

    >>> as_written("Good", "fine"), as_written("GOOD", "fine"), as_written("good", "Paris")
    ('Fine', 'FINE', 'Paris')
    """
    if len(word) > 1 and word.isupper():
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other

"""All texts that differ from a text by at most so many words, in parts that are counted and run."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast.language.substitutions import Choices
from holdfast.language.words import Words

Places = tuple[int, ...]
"""Numbers of the words that are replaced, ascending."""


@dataclass(frozen=True)
class Neighbours:
    """The texts around a text.

    Attributes:
        text: The text, as words.
        choices: What may stand for each word; empty where it may be left out. One word stays.
    """

    text: Words
    choices: Sequence[tuple[str, ...]]

    @classmethod
    def of(cls, text: str, choices: Choices) -> "Neighbours":
        """Return the texts around a text."""
        words = Words.of(text)
        return cls(words, choices.of_text(words))

    @property
    def open(self) -> list[int]:
        """Numbers of the words for which something may stand."""
        return [place for place, others in enumerate(self.choices) if others]

    def count(self, budget: int) -> int:
        """Return how many ways there are to replace at most so many words, none included.

        >>> Neighbours(Words.of("a b c"), [("x", "y"), ("z",), ()]).count(2)
        6
        """
        ways = [1] + [0] * budget
        for others in self.choices:
            for k in range(budget, 0, -1):
                ways[k] += ways[k - 1] * len(others)
        all_go = all("" in others for others in self.choices) and len(self.choices) > 0
        return sum(ways) - (all_go and budget >= len(self.choices))

    def parts(self, size: int) -> Iterator[Places]:
        """Yield every choice of so many words for which something may stand."""
        return itertools.combinations(self.open, size)

    def changes(self, places: Places) -> Iterator[Mapping[int, str]]:
        """Yield every way to replace all of these words."""
        for words in itertools.product(*(self.choices[place] for place in places)):
            if any(words) or len(places) < len(self.choices):
                yield dict(zip(places, words, strict=True))

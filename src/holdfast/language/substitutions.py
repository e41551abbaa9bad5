"""Which words may stand for a word: a table or a function of the user's, asked word by word."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.arguments import shown
from holdfast.errors import InvalidInput
from holdfast.graph.forward import run_function
from holdfast.language.words import Words, as_written

Substitutions = Mapping[str, Iterable[str]] | Callable[[str], Iterable[str]]
"""Words that may stand for a word: a table, or a function of the word."""


@dataclass
class Choices:
    """What may stand for each word of a text.

    Attributes:
        substitutions: As the user gave them. A table is asked for the word as it is written, then
            in small letters, and what it says is then written in capitals as the word is.
        deletions: Whether a word may also be left out: an empty word stands for it.
    """

    substitutions: Substitutions
    deletions: bool = False
    _known: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.substitutions, Mapping) or callable(self.substitutions)):
            wanted = "a table from words to words, or a function of a word"
            raise InvalidInput("substitutions", shown(self.substitutions), wanted)

    def of_text(self, text: Words) -> list[tuple[str, ...]]:
        """Return what may stand for each word: others than itself, each once, in their order."""
        return [self.of_word(word) for word in text.words]

    def of_word(self, word: str) -> tuple[str, ...]:
        """Return what may stand for a word.

        Raises:
            InvalidInput: When the substitutions are no words.
        """
        if word not in self._known:
            self._known[word] = (*self._asked(word), *([""] if self.deletions else []))
        return self._known[word]

    def _asked(self, word: str) -> tuple[str, ...]:
        given = self.substitutions
        if not isinstance(given, Mapping):
            found = _words(word, run_function("substitutions", given, word))
        elif word in given:
            found = _words(word, given[word])
        else:
            found = [as_written(word, other) for other in _words(word, given.get(word.lower(), ()))]
        return tuple(dict.fromkeys(other for other in found if other != word))


def _words(word: str, found: object) -> Sequence[str]:
    """Return what was found for a word as a list of words.

    Raises:
        InvalidInput: When it is something else.
    """
    wanted = "words, each with a letter in it"
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise InvalidInput("substitutions", f"{shown(found)} for {word!r}", f"several {wanted}")
    words = [*found]
    for other in words:
        if not isinstance(other, str) or not other.strip():
            raise InvalidInput("substitutions", f"{shown(other)} for {word!r}", wanted)
    return words

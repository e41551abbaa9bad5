"""Run the texts within a budget, the likeliest to get another answer first."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.errors import InvalidInput
from holdfast.language.answers import Answers, TextModel
from holdfast.language.neighbours import Neighbours, Places
from holdfast.language.result import WordChange

Change = Mapping[int, str]
"""What stands for some words, by their numbers."""


@dataclass
class Search:
    """One text, and what is known of those around it.

    Attributes:
        model: What answers.
        around: The texts.
        label: The answer that they should get.
        spent: Whether the time is over.
        finished: Sets of words all of whose replacements were run.
        predicted: The answer to the text itself.
        base: Its margin and its loss.
        before: How many texts an earlier search had run.
        tried: How many texts were run.
        margin: The smallest one found.
        found: A change with which the text gets another answer.
        most: How many texts may be run.
        single: Margins of the replacements of one word, by its number.
        changes: The replacement of each word that moves the loss most.
    """

    model: TextModel
    around: Neighbours
    label: int
    spent: Callable[[], bool]
    finished: set[Places] = field(default_factory=set)
    predicted: int = -1
    base: tuple[float, float] = (0.0, 0.0)
    before: int = 0
    tried: int = 0
    margin: float = math.inf
    found: Change | None = None
    most: float = math.inf
    single: dict[int, dict[str, float]] = field(default_factory=dict)
    changes: dict[int, WordChange] = field(default_factory=dict)

    @property
    def counterexample(self) -> str | None:
        """A text that gets another answer."""
        return None if self.found is None else self.around.text.with_words(self.found)

    @property
    def over(self) -> bool:
        """Whether the time is over, or all the texts that may be."""
        return self.tried >= self.most or self.spent()

    def begin(self) -> None:
        """Run the text itself.

        Raises:
            InvalidInput: When the model has no class of the label's number.
        """
        answer = self.model.answers([self.around.text.with_words({})], alone=True)
        classes = None if answer.logits is None else answer.logits.shape[1]
        if classes is not None and not 0 <= self.label < classes:
            raise InvalidInput("labels", f"the class {self.label}", f"0 to {classes - 1}")
        self.predicted, self.tried = int(answer.predicted[0]), 1
        ((margin,), (loss,)) = self._read(answer)
        self.base, self.margin = (margin, loss), min(self.margin, margin)
        if self.predicted != self.label:
            self.found = {}

    def replace_one(self, until_found: bool = False) -> None:
        """Run every replacement of one word.

        Args:
            until_found: Stop where one gets another answer.
        """
        for some, ended in self._batches(self.around.parts(1)):
            margins, losses = self.ask(some)
            for change, margin, loss in zip(some, margins, losses, strict=True):
                ((place, word),) = change.items()
                self.single.setdefault(place, {})[word] = margin
                self._note(place, word, loss - self.base[1])
            self.finished.update(ended)
            if self.over or (until_found and self.found is not None):
                break
        self.tried = max(self.tried, self.before)

    def replace_several(self, size: int) -> None:
        """Run every replacement of so many words, until one gets another answer."""
        least = {place: min(margins.values()) for place, margins in self.single.items()}
        # Where the effects of words add up, this is the order of their margins.
        effect = {place: margin - self.base[0] for place, margin in least.items()}
        parts = [places for places in self.around.parts(size) if places not in self.finished]
        parts.sort(key=lambda places: sum(effect.get(place, 0.0) for place in places))
        for some, ended in self._batches(parts):
            self.ask(some)
            self.finished.update(ended)
            if self.found is not None or self.over:
                return

    def climb(self, budget: int, width: int = 4) -> None:
        """Look for another answer among texts with several words replaced, a step at a time.

        First the best replacement of each word, the best words together; then from the texts with
        the smallest margins one word more each time.

        Args:
            budget: Words that may be replaced.
            width: How many texts are kept from step to step.
        """
        best = {place: min(words, key=words.__getitem__) for place, words in self.single.items()}
        order = sorted(best, key=lambda place: self.single[place][best[place]])[:budget]
        together = [{place: best[place] for place in order[:k]} for k in range(2, len(order) + 1)]
        kept = [({place: word}, self.single[place][word]) for place, word in best.items()]
        kept += self._margins(together)
        for _ in range(budget - 1):
            kept = sorted(kept, key=lambda each: each[1])[:width]
            more = {
                tuple(sorted({**change, place: word}.items()))
                for change, _ in kept
                for place in best
                if len({*change, place}) <= budget
                for word in ([best[place]] if place not in change else self.around.choices[place])
            }
            old = [change for change, _ in kept]
            new = [change for change in map(dict, sorted(more)) if change not in old]
            if not new or self.found is not None or self.over:
                return
            kept += self._margins(new)

    def _margins(self, changes: Sequence[Change]) -> list[tuple[Change, float]]:
        changes = changes[: int(min(self.most - self.tried, len(changes)))]
        if not changes or self.found is not None or self.over:
            return []
        margins, _ = self.ask(changes)
        return [*zip(changes, margins, strict=True)]

    def all_run(self, budget: int) -> bool:
        """Return whether every text within a budget was run."""
        sizes = range(1, min(budget, len(self.around.open)) + 1)
        return all(math.comb(len(self.around.open), k) == self._runs(k) for k in sizes)

    def _runs(self, size: int) -> int:
        return sum(len(places) == size for places in self.finished)

    def ask(self, changes: Sequence[Change]) -> tuple[list[float], list[float]]:
        """Return the margins and losses of changed texts, and keep what they say.

        Texts that the model reads as the same tokens are run once. A text close to another answer
        is run alone, since only then the texts beside it cannot have decided.
        """
        if not changes:
            return [], []
        texts = [self.around.text.with_words(change) for change in changes]
        keys = self.model.keys(texts)
        places: dict[object, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)
        order, chosen = {key: k for k, key in enumerate(places)}, [*places.values()]
        answers = self.model.answers([texts[place] for place in chosen])
        margins, losses = self._read(answers)
        for k, room in enumerate(answers.room.tolist()):
            doubtful = abs(margins[k]) <= room
            if doubtful or (margins[k] < 0.0 and self.found is None):
                again = self.model.answers([texts[chosen[k]]], alone=True)
                ((margins[k],), (losses[k],)) = self._read(again)
                if int(again.predicted[0]) != self.label and self.found is None:
                    self.found = changes[chosen[k]]
        self.tried += len(chosen)
        self.margin = min(self.margin, *margins)
        return [margins[order[key]] for key in keys], [losses[order[key]] for key in keys]

    def _read(self, answers: Answers) -> tuple[list[float], list[float]]:
        return answers.margins(self.label).tolist(), answers.losses(self.label).tolist()

    def _note(self, place: int, word: str, moved: float) -> None:
        known = self.changes.get(place)
        if known is None or abs(moved) > abs(known.loss_change):
            self.changes[place] = WordChange(place, self.around.text.words[place], word, moved)

    def _batches(self, parts: Iterable[Places]) -> Iterator[tuple[list[Change], list[Places]]]:
        """Yield changes, and the sets of words that they bring to an end.

        Enough are run at once to group them by length, and few enough to stop soon.
        """
        some: list[Change] = []
        ended: list[Places] = []
        if self.over:
            return
        for places in parts:
            for change in self.around.changes(places):
                if len(some) == min(256, self.most - self.tried):
                    yield some, ended
                    some, ended = [], []
                some.append(change)
            ended.append(places)
        if some or ended:
            yield some, ended

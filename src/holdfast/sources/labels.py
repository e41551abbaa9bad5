"""Labels as files have them: numbers, truth values or words, and the class that each stands for."""

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np

from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.columns import is_number

Place = Callable[[int], str]
"""Says where the label of a row stands."""


def class_numbers(
    labels: np.ndarray,
    place: Place,
    classes: str | None = None,
    name: str = "NAME",
    known: Mapping[str, int] | None = None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Return class numbers, and which word stands for which, where labels are words.

    Args:
        labels: [N]: numbers, truth values, or words.
        place: Says where the label of a row stands, for messages.
        classes: What the user wrote: the labels of class 0, 1, ..., separated by commas.
        name: What the labels are called in the file, for messages.
        known: Numbers of the model's own classes by their names.

    Returns:
        Class numbers [N], int64, and the class of each word; none where labels are numbers.

    Raises:
        InvalidInput: When a label is no class of these, or no whole number.

    Warns:
        HoldfastWarning: When classes were numbered in the order of their words.
    """
    if classes is not None:
        return _looked_up(labels, place, _stated(classes), f"?classes={classes}")
    if labels.dtype.kind in "biuf":
        return _whole(labels, place, name), {}
    words = sorted({*map(str, labels.tolist())})
    numeric = [word for word in words if is_number(word)]
    if numeric:  # as words, 10 would come before 2
        odd = [row for row, label in enumerate(labels.tolist()) if not is_number(str(label))]
        wanted = "class numbers alone or words alone, or ?classes=FIRST,SECOND,... of both"
        got = f"the label {shown(str(labels[odd[0]]))} in {place(odd[0])}, among numbers"
        raise InvalidInput("data", got, wanted)
    # A model without names of classes calls them LABEL_0, LABEL_1, ...
    if known and ({*words} <= {*known} or not all(name.startswith("LABEL_") for name in known)):
        return _looked_up(labels, place, known, "the classes of the model's config.json")
    numbered = {word: number for number, word in enumerate(words)}
    said = ", ".join(f"{number} = {shown(word)}" for word, number in [*numbered.items()][:12])
    more = ", ..." if len(words) > 12 else ""
    order = "if the model has another order, say ?classes=FIRST,SECOND,..."
    said = f"data: labels are words, numbered in their order: {said}{more}; {order}"
    warnings.warn(said, HoldfastWarning, stacklevel=2)
    return np.array([numbered[str(word)] for word in labels.tolist()], dtype=np.int64), numbered


def _stated(classes: str) -> dict[str, int]:
    """Return numbers of classes by the words that the user listed.

    Raises:
        InvalidInput: When one comes twice.
    """
    words = [word.strip() for word in classes.split(",")]
    if len({*words}) < len(words) or "" in words:
        raise InvalidInput("data", f"classes={classes}", "every label once, class 0 first")
    return {word: number for number, word in enumerate(words)}


def _looked_up(
    labels: np.ndarray, place: Place, numbers: Mapping[str, int], source: str
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the numbers of labels that are all known.

    Raises:
        InvalidInput: When one is not.
    """
    folded = {word.casefold(): number for word, number in numbers.items()}
    alike = folded if len(folded) == len(numbers) else {}  # Positive for POSITIVE, if that is clear
    found = []
    for row, label in enumerate(labels.tolist()):
        word = text_of(label)
        number = numbers.get(word, alike.get(word.casefold()))
        if number is None:
            wanted = f"one of {', '.join([*numbers][:12])} ({source}), or other ?classes=..."
            raise InvalidInput("data", f"the label {shown(word)} in {place(row)}", wanted)
        found.append(number)
    return np.array(found, dtype=np.int64), dict(numbers)


def _whole(labels: np.ndarray, place: Place, name: str) -> np.ndarray:
    """Return labels that are all class numbers as int64.

    Raises:
        InvalidInput: When one is not.
    """
    # Whole numbers beyond 2**53 are rounded as floats, and no classes.
    odd = ~np.isfinite(labels) | (labels != np.floor(labels)) | (abs(labels * 1.0) >= 2.0**53)
    if labels.dtype != bool and odd.any():
        row = int(odd.argmax())
        wanted = f"whole class numbers or words, or ?target={name} for numbers to be predicted"
        raise InvalidInput("data", f"the label {labels[row]:g} in {place(row)}", wanted)
    if labels.dtype != bool and (labels < 0).any():
        row = int((labels < 0).argmax())
        several = ",".join(f"{value:g}" for value in np.unique(labels)[:12])
        wanted = f"class numbers from 0, or ?classes={several} for classes 0, 1, ... in that order"
        raise InvalidInput("data", f"the label {labels[row]:g} in {place(row)}", wanted)
    return labels.astype(np.int64)


def text_of(value: object) -> str:
    """Return a field as people write it: 1 for 1.0, and words without blanks around them."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value).strip()


def shown(word: str) -> str:
    """Return a word as messages have it."""
    return repr(word if len(word) <= 40 else f"{word[:40]}...")

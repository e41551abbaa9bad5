"""Attacks on texts: what is found is wrong, and what enumeration refutes is found."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.language.test_substitutions import TABLES, TEXTS, by_chance

import holdfast
from holdfast.language.edits import mistyped
from holdfast.language.words import Words


@settings(max_examples=80)
@given(TEXTS, TABLES, st.integers(1, 4), st.integers(0, 9999))
def test_found_texts_are_wrong_and_within_the_budget(text, table, budget, seed) -> None:
    answer = by_chance(seed, 10)
    attacks = holdfast.attack_texts(answer, None, [text], [1], table, budget)
    exact = holdfast.certify_substitutions(answer, None, [text], [1], table, budget)
    if attacks.reason[0] == "none_found":
        assert attacks.adversarial == (None,)
        return
    other = attacks.adversarial[0]
    assert answer([other]) == [0]
    assert exact.outcome == ("refuted",)
    differing = sum(a != b for a, b in zip(text.split(), other.split(), strict=True))
    assert differing == attacks.changed[0] <= budget


@settings(max_examples=60)
@given(TEXTS, TABLES, st.integers(0, 9999))
def test_one_change_is_always_found(text, table, seed) -> None:
    answer = by_chance(seed, 10)
    attacks = holdfast.attack_texts(answer, None, [text], [1], table, 1)
    exact = holdfast.certify_substitutions(answer, None, [text], [1], table, 1)
    assert (attacks.reason[0] == "none_found") == (exact.outcome[0] == "certified")


def additive(texts: list[str]) -> list[list[float]]:
    """Return logits to which every word adds its own number, from 0 to 1, less half of them."""
    scores = []
    for text in texts:
        words = text.split()
        total = sum(zlib.crc32(word.encode()) % 1000 / 1000 for word in words)
        scores.append([0.0, total - 0.3 * len(words)])
    return scores


@pytest.mark.parametrize("budget", [2, 3, 5])
def test_where_words_add_up_the_best_change_is_found(budget) -> None:
    table = {letter: [f"{letter}{k}" for k in range(6)] for letter in "abcdefgh"}
    text = "a b c d e f g h"
    label = int(additive([text])[0][1] > 0)
    assert label == 1
    attacks = holdfast.attack_texts(additive, None, [text], [label], table, budget)
    drops = []
    for word in text.split():
        values = [zlib.crc32(other.encode()) % 1000 for other in [word, *table[word]]]
        drops.append(values[0] - min(values))
    best = sum(sorted(drops)[-budget:]) / 1000
    assert (attacks.reason[0] == "found") == (additive([text])[0][1] - best < 0)


def test_no_more_texts_are_run_than_allowed() -> None:
    ran: list[str] = []

    def answer(texts: list[str]) -> list[int]:
        ran.extend(texts)
        return [1] * len(texts)

    table = {letter: [f"{letter}{k}" for k in range(9)] for letter in "abcdefgh"}
    for queries in (1, 2, 30, 100, 300):
        ran.clear()
        attacks = holdfast.attack_texts(
            answer, None, ["a b c d e f g h"], [1], table, queries=queries
        )
        assert len(ran) == attacks.queries[0] <= queries


def test_mistakes_stay_inside_a_word() -> None:
    for word in ("a", "of", "the", "wonderful", "don't", "FILM"):
        for other in mistyped(word):
            assert other[0] == word[0]
            assert other[-1] == word[-1]
            assert abs(len(other) - len(word)) <= 1
            assert Words.of(other).words == (other,)
    assert mistyped("of") == ()


def test_a_table_or_mistakes_are_needed() -> None:
    with pytest.raises(holdfast.InvalidInput, match=r"^substitutions"):
        holdfast.attack_texts(lambda texts: [1] * len(texts), None, ["good"], [1])

"""Certificates of substitutions against trying every text one by one."""

import itertools
import math
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_text import WORDS, save_classifier

import holdfast
from holdfast.language import certify
from holdfast.language.words import Words

LETTERS = "abcdef"
TABLES = st.dictionaries(
    st.sampled_from(LETTERS), st.lists(st.sampled_from(LETTERS), max_size=3), max_size=4
)
TEXTS = st.lists(st.text(LETTERS, min_size=1, max_size=1), min_size=1, max_size=5).map(" ".join)


def every_text(text: str, table: dict[str, list[str]], budget: int) -> set[str]:
    """Return all texts within a budget, by choosing something for every word."""
    words = text.split()
    options = [[word, *table.get(word, [])] for word in words]
    return {
        " ".join(chosen)
        for chosen in itertools.product(*options)
        if sum(a != b for a, b in zip(chosen, words, strict=True)) <= budget
    }


def by_chance(seed: int, share: int):
    """Return a classifier that answers 0 to a share of all texts, out of 100."""

    def answer(texts: list[str]) -> list[int]:
        return [int(zlib.crc32(f"{seed} {text}".encode()) % 100 >= share) for text in texts]

    return answer


@settings(max_examples=120)
@given(TEXTS, TABLES, st.integers(0, 4), st.integers(0, 9999), st.sampled_from([0, 2, 10]))
def test_every_text_within_the_budget_decides(text, table, budget, seed, share) -> None:
    answer = by_chance(seed, share)
    found = holdfast.certify_substitutions(answer, None, [text], [1], table, budget)
    texts = every_text(text, table, budget)
    wrong = {text for text, right in zip(texts, answer([*texts]), strict=True) if not right}
    assert found.outcome == (("refuted" if wrong else "certified"),)
    assert found.combinations[0] >= len(texts)
    if wrong:
        assert found.counterexample[0] in wrong
    else:
        assert found.tried[0] >= len(texts)


@settings(max_examples=40)
@given(TEXTS, TABLES, st.integers(0, 3), st.integers(0, 9999))
def test_what_stopped_goes_on_to_the_same_end(text, table, budget, seed) -> None:
    answer = by_chance(seed, 3)
    whole = holdfast.certify_substitutions(answer, None, [text], [1], table, budget)
    found = holdfast.certify_substitutions(answer, None, [text], [1], table, budget, seconds=0.0)
    assert found.outcome[0] in ("unknown", whole.outcome[0])
    again = holdfast.certify_substitutions(
        answer, None, [text], [1], table, budget, resume=found, seconds=math.inf
    )
    assert again.outcome == whole.outcome
    if whole.outcome == ("certified",):
        assert again.tried.tolist() == whole.tried.tolist()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Return a tiny transformer and its tokenizer."""
    transformers = pytest.importorskip("transformers")
    folder = save_classifier(tmp_path_factory.mktemp("tiny"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def test_a_transformer_answers_as_alone(classifier) -> None:
    """Batches of one length and texts alone give one answer, text by text."""
    model, tokenizer = classifier
    table = {"good": ["fine", "great"], "film": ["plot", "cast", "good film"], "bad": ["poor"]}
    texts = ["good film", "bad film, good plot!", "Bad cast good film"]
    for budget in (1, 2):
        labels = []
        for text in texts:
            ids = tokenizer([text], return_tensors="pt")
            labels.append(int(model(**ids).logits.argmax()))
        found = holdfast.certify_substitutions(model, tokenizer, texts, labels, table, budget)
        for text, label, outcome, least in zip(
            texts, labels, found.outcome, found.margin.tolist(), strict=True
        ):
            words = Words.of(text)
            options = [[w, *table.get(w, table.get(w.lower(), []))] for w in words.words]
            margins = []
            for chosen in itertools.product(*options):
                changes = {k: w for k, w in enumerate(chosen) if w != words.words[k]}
                if len(changes) > budget:
                    continue
                ids = tokenizer([words.with_words(changes)], return_tensors="pt")
                with torch.no_grad():
                    z = model(**ids).logits[0].double()
                margins.append(float(z[label] - z[1 - label]))
            assert outcome == ("certified" if min(margins) > 0 else "refuted")
            if outcome == "certified":
                assert least == pytest.approx(min(margins), abs=1e-6)


def test_wrong_texts_are_refuted_by_themselves(classifier) -> None:
    model, tokenizer = classifier
    found = holdfast.certify_substitutions(model, tokenizer, ["good film"], [0], {}, 1)
    other = holdfast.certify_substitutions(model, tokenizer, ["good film"], [1], {}, 1)
    assert {found.outcome[0], other.outcome[0]} == {"certified", "refuted"}
    refuted = found if found.outcome == ("refuted",) else other
    assert refuted.counterexample == ("good film",)


def test_the_change_that_moves_most_is_told_for_every_word(classifier) -> None:
    model, tokenizer = classifier
    table = {word: [other for other in WORDS if other != word] for word in WORDS}
    text = "good film bad end"
    found = holdfast.certify_substitutions(model, tokenizer, [text], [1], table, 1)
    words = text.split()

    def loss(some: list[str]) -> float:
        ids = tokenizer([" ".join(some)], return_tensors="pt")
        with torch.no_grad():
            return float(-model(**ids).logits[0].double().log_softmax(0)[1])

    if found.predicted[0] == 1:
        assert len(found.brittle[0]) == len(words)
        for change in found.brittle[0]:
            moved = [
                loss([*words[: change.place], other, *words[change.place + 1 :]]) - loss(words)
                for other in table[words[change.place]]
            ]
            assert abs(change.loss_change) == pytest.approx(max(map(abs, moved)), abs=1e-6)
            assert change.word == words[change.place]


def test_files_give_back_what_was_found(classifier, tmp_path) -> None:
    model, tokenizer = classifier
    texts = ["good\tfilm \x1b[2J", "bad plot"]
    found = holdfast.certify_substitutions(model, tokenizer, texts, [0, 1], {"plot": ["film"]}, 2)
    found.save(tmp_path / "found.json")
    again = holdfast.SubstitutionCertificates.load(tmp_path / "found.json")
    assert again.document() == found.document()
    assert again[1].texts == ("bad plot",)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"texts": []}, "texts"),
        ({"texts": "good"}, "texts"),
        ({"texts": ["good", " "], "labels": [1, 1]}, "texts"),
        ({"texts": ["good", 3], "labels": [1, 1]}, "texts"),
        ({"labels": [1, 1]}, "labels"),
        ({"labels": [0.5]}, "labels"),
        ({"substitutions": ["good"]}, "substitutions"),
        ({"substitutions": {"good": "fine"}}, "substitutions"),
        ({"substitutions": {"good": [" "]}}, "substitutions"),
        ({"substitutions": lambda word: [3]}, "substitutions"),
        ({"substitutions": lambda word: 1 / 0}, "substitutions"),
        ({"budget": -1}, "budget"),
        ({"budget": 1.5}, "budget"),
        ({"seconds": -1.0}, "seconds"),
        ({"model": torch.nn.Linear(2, 2)}, "tokenizer"),
        ({"model": 3}, "model"),
        ({"model": lambda texts: [0.5, 0.5, 0.5]}, "model"),
        ({"model": lambda texts: ["good"]}, "model"),
        ({"tokenizer": len}, "tokenizer"),
        ({"resume": 3}, "resume"),
    ],
)
def test_what_is_not_usable_is_refused_by_its_name(change, argument) -> None:
    usable = {
        "model": lambda texts: [1] * len(texts), "tokenizer": None, "texts": ["good"],
        "labels": [1], "substitutions": {"good": ["fine"]}, "budget": 1,
    }  # fmt: skip
    with pytest.raises(holdfast.InvalidInput, match=rf"^{argument}") as refusal:
        holdfast.certify_substitutions(**(usable | change))
    assert "\n" not in str(refusal.value)


def test_answers_about_something_else_are_not_continued() -> None:
    def ask(table, **more):
        return holdfast.certify_substitutions(
            lambda texts: [1] * len(texts), None, ["good"], [1], table, **more
        )

    before = ask({"good": ["fine"]})
    with pytest.raises(holdfast.InvalidInput, match="other substitutions"):
        ask({"good": ["great"]}, resume=before)
    with pytest.raises(holdfast.InvalidInput, match="other budget"):
        ask({"good": ["fine"]}, budget=2, resume=before)


def test_words_may_be_left_out() -> None:
    def answer(texts: list[str]) -> list[int]:
        assert all(text.split() for text in texts)
        return [int("good" in text.split()) for text in texts]

    ask = holdfast.certify_substitutions
    found = ask(answer, None, ["a good film", "good"], [1, 1], {}, 2, deletions=True)
    assert found.outcome == ("refuted", "certified")
    assert found.counterexample == ("a film", None)
    assert found.combinations.tolist() == [7, 1]
    assert found.brittle[0][0].word == "good"
    assert found.brittle[0][0].replacement == ""


class _Readings(torch.nn.Module):
    """One logit: what each token is worth, and a shift where it is run beside others."""

    def __init__(
        self, worth: list[float], shift: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.worth = torch.nn.Parameter(torch.tensor(worth, dtype=dtype))
        self.shift = shift

    def forward(self, input_ids: torch.Tensor, capital: torch.Tensor | None = None):
        score = self.worth[input_ids].float().sum(1, keepdim=True)
        score = score if capital is None else score - 9.0 * capital.sum(1, keepdim=True)
        return score + self.shift * (len(input_ids) > 1)


def _letters(texts: list[str], capitals: bool = False, **_: object) -> dict[str, list[list[int]]]:
    """Return the place of each letter in the alphabet, and whether it is a capital."""
    found = {"input_ids": [["abcdef".index(word.lower()) for word in t.split()] for t in texts]}
    if capitals:
        found["capital"] = [[int(word.isupper()) for word in text.split()] for text in texts]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_beside_others_does_not_certify(dtype) -> None:
    # In float32 the terms of "c" cancel but for -1e-6; in bfloat16 what is lost is far larger,
    # though the logits are float32.
    small, shift = (-1e-6, 2e-6) if dtype == torch.float32 else (-0.005, 0.01)
    model = _Readings([1.0, 1.0, small, 1.0, 0.0, 0.0], shift, dtype).eval()
    found = holdfast.certify_substitutions(model, _letters, ["a"], [1], {"a": ["b", "c", "d"]})
    assert found.outcome == ("refuted",)
    assert found.counterexample == ("c",)


def test_what_a_tokenizer_makes_beside_the_tokens_is_read() -> None:
    model = _Readings([1.0] * 6, 0.0).eval()

    def read(texts, **options):
        return _letters(texts, capitals=True, **options)

    found = holdfast.certify_substitutions(model, read, ["a b"], [1], {"a": ["c", "C"]})
    assert found.counterexample == ("C b",)


def test_a_text_without_words_is_counted() -> None:
    found = holdfast.certify_substitutions(
        lambda texts: [1] * len(texts), None, ["?!"], [1], {"a": ["b"]}, deletions=True
    )
    assert (found.outcome, found.combinations.tolist()) == (("certified",), [1])


def test_what_was_found_before_an_interrupt_stays_found(monkeypatch) -> None:
    decided = certify._decided

    def wrong(texts):
        return [int(text != "b b") for text in texts]

    def stopped(*args):
        decided(*args)
        raise KeyboardInterrupt

    call = (wrong, None, ["a a"], [1], {"a": ["b"]}, 2)
    monkeypatch.setattr(certify, "_decided", stopped)
    with pytest.warns(holdfast.HoldfastWarning, match="stopped"):
        found = holdfast.certify_substitutions(*call)
    monkeypatch.undo()
    assert found.coherent()
    assert found.counterexample == ("b b",)
    assert holdfast.certify_substitutions(*call, resume=found).outcome == ("refuted",)

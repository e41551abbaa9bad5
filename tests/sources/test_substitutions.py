"""Tables of words that may stand for each other, from files."""

import gzip
import json

import pytest

import holdfast

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by\n"
NOUNS = """\
00001740 03 n 02 film 0 movie 1 003 ~ 00001930 n 0000 | a film
00001741 03 n 03 picture 0 movie 0 moving_picture 0 001 ~ 00001930 n 0000 | shown
"""
ADJECTIVES = "00002098 00 a 02 able(p) 0 Capable 0 000 | having means\n"


@pytest.fixture
def wordnet(tmp_path):
    """Return a folder of a few meanings, as WordNet writes them."""
    files = {"noun": NOUNS, "verb": "", "adj": ADJECTIVES, "adv": ""}
    for part, lines in files.items():
        (tmp_path / f"data.{part}").write_text(LICENCE + lines)
    return tmp_path


def test_words_of_one_meaning_stand_for_each_other(wordnet) -> None:
    table = holdfast.load_substitutions(f"wordnet:{wordnet}")
    assert table == {
        "film": ("movie",), "movie": ("film", "picture"), "picture": ("movie",),
        "able": ("Capable",), "capable": ("able",),
    }  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_tables_are_read_packed_or_not(tmp_path, packed) -> None:
    content = json.dumps({"good": ["fine"], "it's": []}).encode()
    path = tmp_path / "words"
    path.write_bytes(gzip.compress(content) if packed else content)
    table = holdfast.load_substitutions(f"json:{path}")
    assert table == {"good": ("fine",), "it's": ()}


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b'{"good": "fine"}', b'{"good": [1]}', b'{"good": [" "]}', b'{"a": [], "a": []}',
     b"\x1f\x8b broken", gzip.compress(b"{")],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, content) -> None:
    path = tmp_path / "words.json"
    path.write_bytes(content)
    with pytest.raises(holdfast.InvalidInput, match=r"^substitutions") as refusal:
        holdfast.load_substitutions(f"json:{path}")
    assert str(path) in str(refusal.value)


def test_other_folders_are_refused(wordnet) -> None:
    (wordnet / "data.verb").write_text("not WordNet\n")
    with pytest.raises(holdfast.InvalidInput, match=r"data\.verb"):
        holdfast.load_substitutions(f"wordnet:{wordnet}")
    (wordnet / "data.verb").unlink()
    with pytest.raises(holdfast.InvalidInput, match=r"data\.verb"):
        holdfast.load_substitutions(f"wordnet:{wordnet}")


@pytest.mark.parametrize("spec", ["words.json", "json:", "csv:words", 3])
def test_other_names_are_refused(spec) -> None:
    with pytest.raises(holdfast.InvalidInput, match=r"^substitutions"):
        holdfast.load_substitutions(spec)

"""Which words may stand for a word, from files: a table in JSON, or the data files of WordNet."""

import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from holdfast.arguments import shown
from holdfast.errors import InvalidInput
from holdfast.files import read_file, reason, strict_json

_WANTED = "json:FILE, a table from words to lists of words (also FILE.gz), or wordnet:FOLDER"


def load_substitutions(spec: str) -> Mapping[str, tuple[str, ...]]:
    """Return which words may stand for a word, as a table for `holdfast.certify_substitutions`.

    Args:
        spec: `json:FILE` for an object from words to lists of words, such as counter-fitted
            neighbours, packed with gzip or not; or `wordnet:FOLDER` for a folder with the files
            data.noun, data.verb, data.adj and data.adv of WordNet: two single words may stand for
            each other where any meaning holds both.

    Returns:
        Words by the word that they may stand for.

    Raises:
        InvalidInput: When the file is not that.
    """
    kind, _, path = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if kind not in ("json", "wordnet") or not path:
        raise InvalidInput("substitutions", shown(spec), _WANTED)
    return _from_json(Path(path)) if kind == "json" else _from_wordnet(Path(path))


def _from_json(path: Path) -> Mapping[str, tuple[str, ...]]:
    """Return the table in a file.

    Raises:
        InvalidInput: When there is none.
    """
    wanted = 'a JSON object such as {"good": ["fine", "great"]}'
    content = read_file(path, "substitutions", wanted)
    try:
        table = strict_json(_unpacked(content))
    except (ValueError, RecursionError, zlib.error) as problem:
        raise InvalidInput("substitutions", f"{path} ({reason(problem)})", wanted) from problem
    if not isinstance(table, dict):
        raise InvalidInput("substitutions", f"{path}, which holds a {type(table).__name__}", wanted)
    for word, others in table.items():
        fits = isinstance(others, list) and all(isinstance(o, str) and o.strip() for o in others)
        if not fits:
            got = f"{path}, where {shown(word)} has {shown(others)}"
            raise InvalidInput("substitutions", got, wanted)
    return {word: tuple(others) for word, others in table.items()}


def _unpacked(content: bytes) -> bytes:
    """Return what a file holds, unpacked where gzip packed it.

    Raises:
        ValueError: When that is more than a table of words can be.
    """
    if content[:2] != b"\x1f\x8b":
        return content
    most = 2**28
    unpacked = zlib.decompressobj(wbits=31).decompress(content, most)
    if len(unpacked) == most:
        raise ValueError("it unpacks to more than 256 MiB")
    return unpacked


def _from_wordnet(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """Return the words that share a meaning.

    Raises:
        InvalidInput: When a file is missing, or is none of WordNet.
    """
    wanted = "a folder with the files data.noun, data.verb, data.adj and data.adv of WordNet"
    found: dict[str, dict[str, None]] = {}
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / f"data.{part}"
        content = read_file(path, "substitutions", wanted)
        try:
            for words in _meanings(content.decode("utf-8")):
                for word in words:
                    others = found.setdefault(word.lower(), {})
                    others |= dict.fromkeys(o for o in words if o.lower() != word.lower())
        except (ValueError, IndexError) as problem:
            raise InvalidInput("substitutions", f"{path} ({reason(problem)})", wanted) from problem
    return {word: tuple(others) for word, others in found.items() if others}


def _meanings(text: str) -> Iterator[list[str]]:
    """Yield the single words of every meaning; its lines are described in WordNet's wndb(5)."""
    for line in text.splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.split(" ")
        count = int(fields[3], 16)
        words = (re.sub(r"\((a|p|ip)\)$", "", word) for word in fields[4 : 4 + 2 * count : 2])
        yield [word for word in words if word and "_" not in word]

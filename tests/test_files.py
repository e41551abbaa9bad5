"""Documents hold what JSON knows, and files appear whole or not at all."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InvalidInput
from holdfast.files import plain, read_json, to_json, write_whole
from holdfast.types import Estimate

LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats()
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(DOCUMENTS)
def test_every_document_is_valid_json_without_nan(document):
    def refuse(constant):
        raise AssertionError(constant)

    text = to_json(document)
    assert json.loads(text, parse_constant=refuse) == plain(document)
    assert all(line.isprintable() for line in text.splitlines())


def test_tensors_tuples_and_dataclasses_become_plain():
    document = {"x": torch.tensor([[1.0, math.nan]]), 3: (Estimate(1.0, 0.5, math.inf),)}
    assert plain(document) == {
        "x": [[1.0, None]],
        "3": [{"value": 1.0, "low": 0.5, "high": None, "level": 0.95}],
    }


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "x.json"
    write_whole(path, "first")
    write_whole(path, "zweite Fassung: ÷")
    assert path.read_text(encoding="utf-8") == "zweite Fassung: ÷"
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch, failure):
    path = tmp_path / "x.json"
    write_whole(path, "old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(failure)):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("where", ["none/x.json", ".", "file/x.json"])
def test_a_path_that_cannot_be_written_is_bad_input(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    target = tmp_path / ("folder" if where == "." else where)
    with pytest.raises(InvalidInput, match=r"chosen: got .*, wanted a path that can be written"):
        write_whole(target, "text", "chosen")


@pytest.mark.parametrize("content", ["", "{", b"\xff\xfe\x00"])
def test_a_file_that_is_not_json_is_bad_input(tmp_path, content):
    path = Path(tmp_path / "x.json")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=r"chosen: got .*, wanted a JSON file"):
        read_json(path, "chosen")


def test_a_file_that_is_missing_is_bad_input(tmp_path):
    with pytest.raises(InvalidInput, match=r"chosen: got .*No such file"):
        read_json(tmp_path / "x.json", "chosen")

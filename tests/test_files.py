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
    write_whole(path, "{holdfast: first}")
    write_whole(path, "Holdfast, zweite Fassung: ÷")
    assert path.read_text(encoding="utf-8") == "Holdfast, zweite Fassung: ÷"
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch, failure):
    path = tmp_path / "x.json"
    write_whole(path, "{holdfast: old}")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(failure)):
        write_whole(path, "new")
    assert path.read_text() == "{holdfast: old}"
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


def test_what_holdfast_did_not_write_is_never_replaced(tmp_path):
    data, link = tmp_path / "rows.npz", tmp_path / "link"
    data.write_bytes(b"PK rows")
    link.symlink_to(data)
    for path in (data, link, Path("/dev/null")):
        with pytest.raises(InvalidInput, match=r"out: got .*, wanted a new name, or a file that"):
            write_whole(path, "{}")
    assert data.read_bytes() == b"PK rows" and Path("/dev/null").is_char_device()


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text('{"format": "holdfast.attacks/1"}')
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    (tmp_path / "empty").touch()
    write_whole(tmp_path / "empty", "now")
    assert (tmp_path / "empty").read_text() == "now"

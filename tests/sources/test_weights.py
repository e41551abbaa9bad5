"""Weights from safetensors files."""

import json

import pytest
import torch
from safetensors.torch import save, save_file

from holdfast.errors import InvalidInput
from holdfast.sources.weights import read_weights


def write(tmp_path, header: bytes | dict, data: bytes = b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)
    return path


def test_weights_are_those_of_the_file(tmp_path):
    state = {"a": torch.randn(3, 2), "b": torch.arange(4)}
    save_file(state, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_a_name_that_comes_twice_is_refused(tmp_path):
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    path = write(tmp_path, b'{"a":' + entry + b',"a":' + entry + b"}", bytes(4))
    with pytest.raises(InvalidInput, match="'a' comes twice"):
        read_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    save_file({"a": torch.ones(2), "b": torch.tensor([1.0, value])}, tmp_path / "w.safetensors")
    with pytest.raises(InvalidInput, match="NaN or infinity in b"):
        read_weights(tmp_path / "w.safetensors")


def test_absurdly_many_tensors_are_refused_before_they_are_made(tmp_path):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path = write(tmp_path, {str(k): entry for k in range(70_000)})
    with pytest.raises(InvalidInput, match="70000 tensors, more than 65536"):
        read_weights(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        (2**63).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{]",
        (99_999).to_bytes(8, "little") + b"[" * 99_999,
        b"\x80\x04K*.",
        save({"a": torch.ones(8)})[:-4],
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"weights: got .* wanted a safetensors file"):
        read_weights(tmp_path / "w.safetensors")

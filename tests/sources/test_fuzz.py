"""Damaged and hostile files of every kind: read right, or refused with one of our own errors."""

import contextlib
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from holdfast.errors import HoldfastError
from holdfast.sources.data import load_data
from holdfast.sources.models import load_model
from holdfast.sources.weights import read_weights

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper
from tests.sources.onnx.files import make_model, save
from tests.sources.onnx.test_file import constant, node
from tests.sources.test_exported import save as save_program


def _onnx(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    sizes = {"k": (2, 1, 3, 3), "s": (2,), "w": (18, 3), "b": (3,)}
    tensors = [constant(n, np.abs(draw.normal(size=s)).astype("f4")) for n, s in sizes.items()]
    tensors += [constant("shape", np.array([0, -1])), constant("axes", np.array([1]))]
    nodes = [
        node("Conv", "x k", "c", pads=[0, 0, 0, 0], strides=[1, 1]),
        node("BatchNormalization", "c s s s s", "n"),
        node("MaxPool", "n", "p", kernel_shape=[1, 1]),
        node("Reshape", "p shape", "f"),
        node("Gemm", "f w b", "g"),
        node("Unsqueeze", "g axes", "u"),
        node("Concat", "u u", "d", axis=1),
        node("ReduceMean", "d", "m", axes=[1]),
        helper.make_node("Softmax", ["m"], ["y"], axis=-1),
    ]
    return save(make_model(nodes, ["n", 1, 5, 5], tensors), folder)


def _program(folder: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return save_program(model, (4,), folder / "net.pt2")


def _npz(folder: Path) -> Path:
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.savez_compressed(folder / "x.npz", x=rows, y=np.arange(6))
    return folder / "x.npz"


def _csv(folder: Path) -> Path:
    (folder / "t.csv").write_text("a,b,label\n" + "0.5,-1e3,2\n1.25,7,0\n" * 6)
    return folder / "t.csv"


def _weights(folder: Path) -> Path:
    save_file({"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3)}, folder / "w.safetensors")
    return folder / "w.safetensors"


def _model(kind: str):
    def read(path: Path) -> None:
        loaded = load_model(f"{kind}:{path}")
        with torch.no_grad(), contextlib.suppress(RuntimeError):  # capture names these
            loaded.model(torch.zeros(2, *loaded.shape))

    return read


KINDS = {
    "onnx": (_onnx, _model("onnx")),
    "torch": (_program, _model("torch")),
    "npz": (_npz, lambda path: load_data(f"npz:{path}")),
    "csv": (_csv, lambda path: load_data(f"csv:{path}")),
    "safetensors": (_weights, read_weights),
}


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return content with bytes changed, parts cut, doubled, moved or made extreme."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place, size = draw.randrange(len(data)), draw.randint(1, 24)
        match draw.randrange(6):
            case 0:
                data[place] ^= 1 << draw.randrange(8)
            case 1:
                data[place] = draw.choice((0, 1, 127, 128, 255))
            case 2:
                del data[place : place + size]
            case 3:
                data[place:place] = data[place : place + size]
            case 4:
                data[place : place + size] = draw.randbytes(size)
            case 5:
                other = draw.randrange(len(data))
                data[place : place + size] = data[other : other + size]
        if not data:
            break
    return bytes(data)


def _fuzz(kind: str, folder: Path, rounds: int, seed: int) -> None:
    make, read = KINDS[kind]
    path = make(folder)
    good, draw = path.read_bytes(), random.Random(seed)
    read(path)
    for number in range(rounds):
        path.write_bytes(mutated(good, draw))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(path)
            except HoldfastError as refusal:
                assert len(str(refusal)) < 5000
            except Exception as problem:
                problem.add_note(f"{kind}, seed {seed}, number {number}")
                raise


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_only_our_own_errors(tmp_path, kind):
    _fuzz(kind, tmp_path, 150, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_give_only_our_own_errors(tmp_path, kind):
    _fuzz(kind, tmp_path, 10_000, 1)

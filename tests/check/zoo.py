"""Small classifiers for certificate files, and how to write and change such files."""

import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from tests.nets import MaxMin, Residual
from tests.traps.truth import Function
from torch import Tensor, nn

from holdfast.certificates.certify import CertifyOptions, certify_graph
from holdfast.graph.capture import capture
from holdfast.graph.ir import Graph
from holdfast.sources.demo import GroupSort


class Normalised(nn.Module):
    """Rows are normalised inside the model, with powers of two and without."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - 0.3) / 0.7)


def _dense(act: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), act(), nn.Linear(6, 6), act(), nn.Linear(6, 3))


def _residual() -> nn.Module:
    block = Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    return nn.Sequential(block, nn.Linear(4, 3))


def _trained(*layers: nn.Module) -> nn.Module:
    """Give the batch norms among the layers numbers as after training, and one variance of 0."""
    model = nn.Sequential(*layers)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.0, 0.5)[0] = 0.0
            for numbers in norm.parameters():
                nn.init.normal_(numbers)
    return model


def _batch_norms() -> nn.Module:
    """Batch norms at the input, around activations, in a residual sum and at the output."""
    norm = functools.partial(nn.BatchNorm1d, eps=0.25)
    block = Residual(norm(4), nn.ReLU(), nn.Linear(4, 4), norm(4))
    return _trained(norm(4, affine=False), nn.Linear(4, 4), block, nn.Linear(4, 3), norm(3))


def _in_turn(*functions: Callable[[Tensor], Tensor]) -> nn.Module:
    """Two units of every function, one after the other."""
    layers = [part for f in functions for part in (Function(f), nn.Linear(2, 2))]
    return nn.Sequential(nn.Linear(4, 2), *layers, nn.Linear(2, 3))


def _conv(**settings) -> nn.Module:
    conv = nn.Conv2d(1, 2, 3, **settings)
    width = conv(torch.zeros(1, 1, 6, 6)).numel()
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(width, 3))


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "two linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)), (4,)),
    "no bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "relu": (lambda: _dense(nn.ReLU), (4,)),
    "relu float64": (lambda: _dense(nn.ReLU).double(), (4,)),
    "leaky": (lambda: _dense(lambda: nn.LeakyReLU(0.2)), (4,)),
    "steep leaky": (lambda: _dense(lambda: nn.LeakyReLU(3.0)), (4,)),
    "tanh": (lambda: _dense(nn.Tanh), (4,)),
    "sigmoid": (lambda: _dense(nn.Sigmoid), (4,)),
    "gelu": (lambda: _dense(nn.GELU), (4,)),
    "elu": (lambda: _dense(nn.ELU), (4,)),
    "softplus": (lambda: _dense(nn.Softplus), (4,)),
    "group sort": (lambda: _dense(GroupSort), (4,)),
    "group sort of 3": (lambda: _dense(lambda: GroupSort(3)), (4,)),
    "max min": (lambda: _dense(MaxMin), (4,)),
    "residual": (_residual, (4,)),
    "normalised": (lambda: Normalised(_dense(nn.ReLU)), (4,)),
    "ends in relu": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,)),
    "conv": (lambda: _conv(padding=1), (1, 6, 6)),
    "conv strided": (lambda: _conv(stride=2, padding=(1, 0)), (1, 6, 6)),
    "conv circular": (lambda: _conv(padding=2, padding_mode="circular"), (1, 6, 6)),
    "conv reflect dilated": (
        lambda: _conv(padding=1, padding_mode="reflect", dilation=2),
        (1, 6, 6),
    ),
    "averages of 9 and of 3": (
        lambda: nn.Sequential(
            nn.AvgPool2d(3, 1),
            nn.Flatten(),
            nn.Linear(16, 6),
            nn.ReLU(),
            nn.Unflatten(1, (2, 3)),
            Function(lambda x: x.mean(2)),
            nn.Linear(2, 3),
        ),
        (1, 6, 6),
    ),
    "max pool": (
        lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(9, 3)),
        (1, 6, 6),
    ),
    "average pool": (
        lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(9, 3)),
        (1, 6, 6),
    ),
    "batch norm": (
        lambda: _trained(nn.Linear(4, 6), nn.BatchNorm1d(6, 0.25), nn.ReLU(), nn.Linear(6, 3)),
        (4,),
    ),
    "batch norms": (_batch_norms, (4,)),
    "convolutions in groups and batch norm": (
        lambda: _trained(
            nn.Conv2d(2, 4, 3, groups=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 2, padding=1, groups=4, bias=False),
            nn.BatchNorm2d(4, affine=False),
            nn.AdaptiveAvgPool2d((3, 2)),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        (2, 5, 5),
    ),
    "odd poolings and paddings": (
        lambda: nn.Sequential(
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            nn.ConstantPad2d((1, 0, 0, 2), 0.3),
            nn.ConvTranspose2d(2, 3, (3, 2), 2, 1, 1),
            Function(lambda x: x.cumsum(2) / 3),
            nn.AvgPool2d(2, divisor_override=3),
            nn.Flatten(),
            nn.Linear(45, 3),
        ),
        (2, 5, 5),
    ),
    "smooth functions": (
        lambda: _in_turn(
            torch.sin, torch.cos, torch.atan, torch.erf, F.silu, F.mish, F.softsign, F.logsigmoid
        ),
        (4,),
    ),
    "functions with settings": (
        lambda: _in_turn(
            lambda x: F.gelu(x, approximate="tanh"),
            lambda x: F.softplus(x, 2.5),
            lambda x: F.elu(x, 0.3),
            lambda x: F.prelu(x, torch.tensor([0.25, -1.5], dtype=x.dtype)),
            F.selu,
            F.tanhshrink,
            lambda x: torch.log1p(F.relu(x)),
        ),
        (4,),
    ),
    "functions in pieces": (
        lambda: _in_turn(
            F.hardswish,
            F.hardsigmoid,
            F.relu6,
            lambda x: F.softshrink(x, 0.1),
            lambda x: x.clamp(-0.1, 0.7),
            lambda x: x.clamp(min=-0.3),
            lambda x: x.clamp(max=0.4),
        ),
        (4,),
    ),
    "tokens": (
        lambda: nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)),
        (4, 3),
    ),
}


def example(name: str, rows: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a net of the zoo with rows that it gets right."""
    torch.manual_seed(len(name))
    factory, shape = ZOO[name]
    model = factory().eval()
    inputs = torch.randn(rows, *shape, dtype=next(model.parameters()).dtype)
    return model, inputs, model(inputs).argmax(1)


@functools.cache
def graph(name: str) -> Graph:
    """Return the graph of a net of the zoo, captured once."""
    model, inputs, _ = example(name)
    return capture(model, inputs[:1])


def written(folder: Path, name: str, norm: float = 2.0) -> Path:
    """Write the certificates of a net of the zoo, all of it to be proved by the file."""
    path = folder / "c.json"
    _, inputs, labels = example(name)
    certify_graph(graph(name), inputs, labels, CertifyOptions(norm, "global")).save(path)
    return path


def rewrite(path: Path, change: Callable[[dict, dict[str, Tensor]], None]) -> None:
    """Change a certificate file and its arrays, and make all hashes fit again."""
    document = json.loads(path.read_text())
    place = path.with_name(document["proof"]["file"])
    arrays = load_file(place)
    change(document, arrays)
    packed = save(arrays)
    place.write_bytes(packed)
    document["proof"]["sha256"] = hashlib.sha256(packed).hexdigest()
    del document["digest"]
    document["digest"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(document))


def rehash(document: dict, arrays: dict[str, Tensor]) -> None:
    """Give every tensor and row of a document the hash of its bytes."""
    for entry in document["proof"]["tensors"]:
        entry["sha256"] = sha256(arrays[entry["name"]])
    document["rows"]["inputs"] = [sha256(row) for row in arrays["inputs"]]


def sha256(tensor: Tensor) -> str:
    """Return the hash of type, shape and bytes."""
    kind = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}[tensor.dtype]
    data = tensor.contiguous().numpy().tobytes()
    return hashlib.sha256(f"{kind} {list(tensor.shape)} ".encode() + data).hexdigest()


def numbers(values: list[str]) -> list[float]:
    """Return hexadecimal floats as numbers."""
    return [float.fromhex(value) for value in values]


NORMS = (1.0, 2.0, math.inf)

"""Exported programs: the same answers, and nothing in them that runs."""

import copy
import functools
import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import capture
from holdfast.sources.exported.build import read_exported

BATCH = ({0: torch.export.Dim.DYNAMIC},)


class Branches(nn.Module):
    """Convolution, batch norm, views, chunks, a buffer and a constant."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(18, 6)
        self.register_buffer("shift", torch.arange(6.0))

    def forward(self, x):
        hidden = self.norm(torch.relu(self.conv(x))).view(x.shape[0], -1)
        left, right = self.linear(nn.functional.dropout(hidden, 0.1, self.training)).chunk(2, 1)
        joined = torch.cat([torch.max(left, right), left * 3.0 - right], 1)
        return (joined + self.shift * torch.tensor(2.0)).sort(1).values


class Attention(nn.Module):
    """A transformer's block."""

    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(x).mean(1))


MODELS = {
    "layers": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (4,)),
    "branches": (Branches, (1, 5, 5)),
    "attention": (Attention, (5, 8)),
    "double": (lambda: nn.Linear(4, 3).double(), (4,)),
}


def save(model: nn.Module, row, path: Path, shapes=BATCH) -> Path:
    dtype = next(model.parameters()).dtype
    program = torch.export.export(
        model.eval(), (torch.zeros(3, *row, dtype=dtype),), dynamic_shapes=shapes
    )
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_a_program_answers_as_its_model_does(tmp_path, name):
    torch.manual_seed(0)
    make, row = MODELS[name]
    model = make().eval()
    read, shape = read_exported(save(model, row, tmp_path / "net.pt2"))
    rows = torch.randn(4, *row, dtype=next(model.parameters()).dtype)
    assert shape == row
    torch.testing.assert_close(read(rows), model(rows))
    names = [node.title for node in capture(model, rows).nodes]
    assert [node.title for node in capture(read, rows).nodes] == names


def test_steps_are_named_after_modules_and_weights_kept(tmp_path):
    model = Branches()
    read, _ = read_exported(save(model, (1, 5, 5), tmp_path / "net.pt2"))
    state = dict(read.named_parameters()) | dict(read.named_buffers())
    assert torch.equal(state["conv_conv2d.weight"], model.conv.weight)
    assert torch.equal(state["norm_batch_norm.running_var"], model.norm.running_var)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> dict[str, bytes]:
    """Return the members of a good archive."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("program")
    path = save(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), (4,), folder / "net.pt2")
    with zipfile.ZipFile(path) as stored:
        return {name: stored.read(name) for name in stored.namelist()}


def write(members: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as stored:
        for name, content in members.items():
            stored.writestr(name, content)
    return path


class Evil:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('marked').touch()",))


def test_pickled_sample_inputs_are_never_opened(tmp_path, monkeypatch, archive):
    """`torch.export.load` unpickles them, and without care when it fails with care."""
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    torch.save(Evil(), content)
    changed = {**archive, "net/data/sample_inputs/model.pt": content.getvalue()}
    path = write(changed, tmp_path / "net.pt2")
    model, _ = read_exported(path)
    assert model(torch.zeros(2, 4)).shape == (2, 6)
    assert not (tmp_path / "marked").exists()


def _edit(archive, name: str, change) -> dict[str, bytes]:
    document = json.loads(archive[name])
    change(document)
    return {**archive, name: json.dumps(document).encode()}


WEIGHTS, GRAPH = "net/data/weights/model_weights_config.json", "net/models/model.json"


def _graph(document) -> dict:
    return document["graph_module"]["graph"]


def test_pickled_weights_are_refused_unread(tmp_path, monkeypatch, archive):
    monkeypatch.chdir(tmp_path)

    def pickled(document):
        document["config"]["0.weight"]["use_pickle"] = True

    changed = _edit(archive, WEIGHTS, pickled)
    changed["net/data/weights/weight_0"] = pickle.dumps(Evil())
    with pytest.raises(InvalidInput, match=r"0\.weight stored as a pickle"):
        read_exported(write(changed, tmp_path / "net.pt2"))
    old = {name: content for name, content in archive.items() if name != WEIGHTS}
    old["net/data/weights/model.pt"] = pickle.dumps(Evil())
    with pytest.raises(InvalidInput, match="weights as a pickle"):
        read_exported(write(old, tmp_path / "net.pt2"))
    assert not (tmp_path / "marked").exists()


@pytest.mark.parametrize("path_name", ["custom_obj_0", "opaque_obj_0", "../../x", "/etc/hostname"])
def test_objects_and_places_elsewhere_are_refused(tmp_path, archive, path_name):
    def moved(document):
        document["config"]["0.weight"]["path_name"] = path_name

    with pytest.raises(InvalidInput, match="stored as a pickle"):
        read_exported(write(_edit(archive, WEIGHTS, moved), tmp_path / "net.pt2"))


def test_compiled_code_is_refused(tmp_path, archive):
    changed = {**archive, "net/data/aotinductor/model/lib.so": b"\x7fELF"}
    with pytest.raises(InvalidInput, match="compiled code"):
        read_exported(write(changed, tmp_path / "net.pt2"))


TARGETS = [
    "torch.hub.load",
    "torch.load",
    "torch.ops.aten.from_file.default",
    "torch.ops.aten.__class__.default",
    "torch.ops.higher_order.wrap_with_set_grad_enabled",
    "torch.ops.mylib.op.default",
    "_operator.methodcaller",
    "math.sin",
    "#custom:op",
    "os.system",
]


def test_operations_that_do_more_than_compute_are_refused_all_at_once(tmp_path, archive):
    def add(document):
        (node, *_) = _graph(document)["nodes"]
        _graph(document)["nodes"] += [{**node, "target": target} for target in TARGETS]

    with pytest.raises(Unsupported) as refusal:
        read_exported(write(_edit(archive, GRAPH, add), tmp_path / "net.pt2"))
    assert [each.op for each in refusal.value.obstacles] == TARGETS


def test_expressions_are_not_evaluated(tmp_path, monkeypatch, archive):
    """sympy, which `torch.export.load` asks, evaluates them as Python."""
    monkeypatch.chdir(tmp_path)

    def change(document):
        expression = {"as_expr": {"expr_str": "__import__('pathlib').Path('marked').touch()"}}
        for meta in _graph(document)["tensor_values"].values():
            meta["sizes"] = [expression, *meta["sizes"][1:]]

    read_exported(write(_edit(archive, GRAPH, change), tmp_path / "net.pt2"))
    assert not (tmp_path / "marked").exists()


def test_a_fixed_batch_is_refused_with_the_way_on(tmp_path):
    path = save(nn.Linear(4, 3), (4,), tmp_path / "net.pt2", shapes=None)
    with pytest.raises(Unsupported, match="batch size is fixed; export with dynamic_shapes"):
        read_exported(path)


def test_weights_that_reach_beyond_their_bytes_are_refused(tmp_path, archive):
    for key, value in (("sizes", 2**40), ("strides", 2**40), ("sizes", -1)):

        def change(document, key=key, value=value):
            document["config"]["0.weight"]["tensor_meta"][key][0] = {"as_int": value}

        with pytest.raises(InvalidInput, match=r"0\.weight of shape|a size"):
            read_exported(write(_edit(archive, WEIGHTS, change), tmp_path / "net.pt2"))


class Grown(nn.Module):
    """A linear layer, and the sum of something that grew in small steps."""

    def __init__(self, grow):
        super().__init__()
        self.linear, self.grow = nn.Linear(4, 3), grow

    def forward(self, x):
        return self.linear(x) + self.grow(x).flatten(1).sum(1, keepdim=True)


def _repeated(step, times: int):
    return lambda x: functools.reduce(lambda value, _: step(value), range(times), x)


GROWING = {
    "cat": _repeated(lambda x: torch.cat([x, x], 1), 28),
    "repeat": _repeated(lambda x: x.repeat(1, 64), 5),
    "expand": lambda x: x[:, :, None].expand(-1, -1, 2**28).relu(),
    "pad": lambda x: nn.functional.pad(x, (0, 2**30)),
    "interpolate": _repeated(
        lambda x: nn.functional.interpolate(x.view(-1, 1, *[2] * 2) if x.dim() < 4 else x, None, 2),
        14,
    ),
    "full": lambda x: x + torch.full((2**31,), 0.5)[:4],
}


@pytest.mark.parametrize("name", GROWING)
def test_a_chain_that_grows_beyond_all_measure_is_refused(tmp_path, name):
    path = save(Grown(GROWING[name]), (4,), tmp_path / "net.pt2")
    with pytest.raises(InvalidInput, match=r"net\.pt2' \(too large: more than"):
        read_exported(path)


def test_a_value_that_is_given_twice_is_refused(tmp_path, archive):
    def rename(document):
        first, second, *_ = _graph(document)["nodes"]
        second["outputs"] = first["outputs"]

    with pytest.raises(InvalidInput, match="value 'linear' comes twice"):
        read_exported(write(_edit(archive, GRAPH, rename), tmp_path / "net.pt2"))


def _shared(path: Path, content: bytes, count: int) -> Path:
    """Write an archive with so many names for one member."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stored:
        stored.writestr("net/0", content)
        for k in range(1, count):
            again = copy.copy(stored.filelist[0])
            again.filename = f"net/{k}"
            stored.filelist.append(again)
    return path


def test_members_that_share_their_bytes_are_measured_together(tmp_path):
    path = _shared(tmp_path / "net.pt2", bytes(range(256)) * 2**12, 1000)
    with pytest.raises(InvalidInput, match=r"an archive, which unpacks .* bytes to 1048576000"):
        read_exported(path)


def test_absurdly_many_members_are_refused(tmp_path):
    path = _shared(tmp_path / "net.pt2", b"", 70_000)
    with pytest.raises(InvalidInput, match="70000 members, more than 65536"):
        read_exported(path)


@pytest.mark.parametrize("content", [b"", b"junk" * 99, b"PK\x05\x06" + bytes(18)])
def test_files_of_another_kind_are_refused(tmp_path, content):
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"wanted an exported program|scattered names"):
        read_exported(tmp_path / "net.pt2")


def test_an_old_checkpoint_is_no_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), tmp_path / "net.pt")
    with pytest.raises(InvalidInput):
        read_exported(tmp_path / "net.pt")
    assert not (tmp_path / "marked").exists()

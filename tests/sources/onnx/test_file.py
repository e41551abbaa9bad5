"""ONNX files as strangers write them: folded shapes, data elsewhere, and what is refused."""

import os
import sys

import numpy as np
import pytest
import torch

import holdfast
from holdfast import cli
from holdfast.errors import InvalidInput, MissingExtra, Unsupported
from holdfast.graph.capture import capture
from holdfast.sources.onnx.build import build
from holdfast.sources.onnx.file import read_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.sources.onnx.files import make_model, save, truth


def constant(name: str, value) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def node(op: str, inputs: str, outputs: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def net(**changes) -> onnx.ModelProto:
    """Return Gemm, Relu, Gemm."""
    draw = np.random.default_rng(0)
    sizes = {"w1": (4, 6), "b1": (6,), "w2": (6, 3), "b2": (3,)}
    tensors = [
        constant(name, draw.normal(size=size).astype(np.float32)) for name, size in sizes.items()
    ]
    nodes = [
        node("Gemm", "x w1 b1", "h"),
        node("Relu", "h", "r"),
        node("Gemm", "r w2 b2", "y"),
    ]
    return make_model(nodes, **{"shape": ["n", 4], "initializers": tensors} | changes)


def test_parameters_keep_their_values_and_steps_the_names_of_the_nodes(tmp_path):
    model = net()
    model.graph.node[0].name = "/fc1/Gemm"
    built, row = build(read_onnx(save(model, tmp_path)))
    assert row == (4,)
    assert [name for name, _ in built.named_children()] == ["fc1_Gemm", "Relu_1", "Gemm_2"]
    assert dict(built.named_parameters()).keys() == {
        *("fc1_Gemm.weight", "fc1_Gemm.bias", "Gemm_2.weight", "Gemm_2.bias")
    }
    weight = numpy_helper.to_array(model.graph.initializer[0])
    assert built.fc1_Gemm.weight.tolist() == weight.tolist()
    assert capture(built, torch.zeros(1, 4)).leaf_layers == ("fc1_Gemm", "Relu_1", "Gemm_2")


def test_double_stays_double(tmp_path):
    weight = constant("w", np.ones((4, 2)))
    model = make_model([node("MatMul", "x w", "y")], ["n", 4], [weight], kind=TensorProto.DOUBLE)
    built, _ = build(read_onnx(save(model, tmp_path)))
    assert built(torch.full((1, 4), 0.1, dtype=torch.float64)).dtype == torch.float64


def test_shapes_that_a_file_computes_are_folded(tmp_path):
    """`x.view(x.size(0), -1)` and `ones_like`, as exporters write them."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n first", "n1"),
        node("Concat", "n1 rest", "target", axis=0),
        node("Reshape", "x target", "flat"),
        node("Shape", "flat", "wide"),
        node("ConstantOfShape", "wide", "ones", value=constant("v", np.ones(1, np.float32))),
        node("Size", "rest", "count"),
        node("Cast", "count", "number", to=TensorProto.FLOAT),
        node("Mul", "ones number", "scaled"),
        node("Add", "flat scaled", "y"),
    ]
    tensors = [
        constant("zero", np.int64(0)),
        constant("first", np.array([0])),
        constant("rest", np.array([-1])),
    ]
    path = save(make_model(nodes, ["n", 2, 3], tensors), tmp_path)
    built, _ = build(read_onnx(path))
    rows = torch.randn(3, 2, 3)
    assert torch.equal(built(rows), rows.reshape(3, 6) + 1)
    assert [node.op for node in capture(built, rows).nodes] == ["input", "reshape", "shift"]
    assert truth(path, rows.numpy()).reshape(3, 6).tolist() == built(rows).tolist()


def test_constants_are_folded_by_comparing_and_choosing(tmp_path):
    nodes = [
        node("Equal", "a b", "same"),
        node("Greater", "a b", "more"),
        node("Less", "a b", "less"),
        node("Or", "same more", "some"),
        node("Not", "less", "others"),
        node("And", "some others", "those"),
        node("Where", "those a b", "target"),
        node("Reshape", "x target", "y"),
    ]
    tensors = [constant("a", np.array([1, 2, -1])), constant("b", np.array([1, 9, -5]))]
    # Reshape to [1, 9, -1] of nine entries.
    built, _ = build(read_onnx(save(make_model(nodes, [1, 9], tensors), tmp_path)))
    assert built(torch.zeros(5, 9)).shape == (5, 9, 1)


def test_all_that_is_unknown_is_said_at_once(tmp_path):
    nodes = [
        node("Det", "x", "a", name="wave"),
        node("ImageDecoder", "a", "b"),
        node("Relu", "b", "c"),
        node("NonZero", "c", "y"),
    ]
    with pytest.raises(Unsupported) as refusal:
        build(read_onnx(save(make_model(nodes, [1, 4]), tmp_path)))
    named = [(each.path, each.op) for each in refusal.value.obstacles]
    assert named == [("wave", "Det"), ("b", "ImageDecoder"), ("y", "NonZero")]


def test_names_in_a_file_give_the_terminal_no_commands(tmp_path, capsys):
    nodes = [node("Det", "x", "y", name="\x1b[2J\x1b]0;owned\x07\nholdfast: fine")]
    path = save(make_model(nodes, [1, 4]), tmp_path)
    with pytest.raises(SystemExit) as ending:
        cli.main(["lipschitz", f"onnx:{path}", "normal:4"])
    said = capsys.readouterr().err
    assert ending.value.code == 2 and "Det" in said
    assert said.count("\n") == 1 and said.rstrip("\n").isprintable()


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'holdfast\[onnx\]'"):
        read_onnx(tmp_path / "net.onnx")


def test_rows_that_influence_each_other_are_refused(tmp_path):
    mixing = [
        node("ReduceMean", "x", "m", axes=[0]),
        node("Sub", "x m", "y"),
    ]
    with pytest.raises(Unsupported, match="two rows together give another result"):
        build(read_onnx(save(make_model(mixing, ["n", 4]), tmp_path)))
    mask = constant("mask", np.float32([0.0, 0.0, 0.0, -1e9]))
    masked = make_model(
        [node("ReduceMean", "x", "m", axes=[0]), node("Add", "m mask", "y")], ["n", 4], [mask]
    )
    with pytest.raises(Unsupported, match="two rows together give another result"):
        build(read_onnx(save(masked, tmp_path)))
    # With the batch fixed to one, there is only one row to take the mean of.
    built, _ = build(read_onnx(save(make_model(mixing, [1, 4]), tmp_path)))
    assert built(torch.randn(3, 4)).abs().max() == 0


def two_outputs() -> onnx.ModelProto:
    """Return a net with logits and, beside them, what an operator gives that is refused."""
    model = net()
    model.graph.node.append(node("Hardmax", "h", "odd"))
    model.graph.output.append(helper.make_tensor_value_info("odd", TensorProto.FLOAT, None))
    return model


def test_an_output_is_chosen_and_the_rest_is_not_read(tmp_path):
    path = save(two_outputs(), tmp_path)
    with pytest.raises(Unsupported, match=r"2 of them \(y, odd\), wanted one; .*\?output=NAME"):
        holdfast.load_model(f"onnx:{path}")
    loaded = holdfast.load_model(f"onnx:{path}?output=y&mean=0.5&std=2")
    rows = torch.randn(3, *loaded.shape)
    wanted = truth(path, (rows.numpy() - 0.5) / 2).reshape(3, 3)
    np.testing.assert_allclose(loaded.model(rows).detach().numpy(), wanted, atol=1e-6)


def test_a_model_may_end_at_a_value_inside(tmp_path):
    path = save(two_outputs(), tmp_path)
    built = holdfast.load_model(f"onnx:{path}?output=h").model
    first, bias = map(numpy_helper.to_array, net().graph.initializer[:2])
    assert built(torch.eye(4)).tolist() == (first + bias).tolist()
    with pytest.raises(InvalidInput, match=r"output=h2, wanted an output \(y, odd\) or another"):
        holdfast.load_model(f"onnx:{path}?output=h2")


@pytest.mark.parametrize("op", ["Sign", "ArgMax", "Round"])
def test_what_jumps_is_refused_with_an_end_that_works(tmp_path, op):
    model = net()
    model.graph.node[-1].output[0] = "logits"
    model.graph.node.append(node(op, "logits", "y"))
    path = save(model, tmp_path)
    with pytest.raises(Unsupported, match=r"jumps, .*\?output=logits") as refusal:
        holdfast.load_model(f"onnx:{path}")
    word = refusal.value.obstacles[0].advice.split()[-1]
    whole = holdfast.load_model(f"onnx:{save(net(), tmp_path, 'whole.onnx')}").model
    rows = torch.randn(2, 4)
    assert torch.equal(holdfast.load_model(f"onnx:{path}{word}").model(rows), whole(rows))


def test_what_would_jump_but_does_not_move_is_only_unknown(tmp_path):
    nodes = [node("Sign", "c", "s"), node("Add", "x s", "a"), helper.make_node("Sign", [], ["y"])]
    path = save(make_model(nodes, [1, 4], [constant("c", np.ones(4, np.float32))]), tmp_path)
    with pytest.raises(Unsupported, match=r"\(1\) y: Sign: this operator is not known"):
        holdfast.load_model(f"onnx:{path}")
    at_once = save(make_model([node("Sign", "x", "y")], [1, 4]), tmp_path, "at_once.onnx")
    with pytest.raises(Unsupported, match=r"Sign: its value jumps, .*; leave it out of the model"):
        holdfast.load_model(f"onnx:{at_once}")
    with pytest.raises(Unsupported, match=r"\(1\) s: Sign: this operator is not known"):
        holdfast.load_model(f"onnx:{path}?output=a")


def test_an_output_of_places_is_refused(tmp_path):
    model = make_model([node("TopK", "x k", "v y", axis=1)], [1, 4], [constant("k", [2])])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(Unsupported, match="'y' is of whole numbers or conditions, which jump"):
        build(read_onnx(save(model, tmp_path)))


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32])
def test_whole_numbers_that_are_cast_at_once_are_read_as_what_they_become(tmp_path, kind):
    weight = constant("w", np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    nodes = [node("Cast", "x", "f", to=TensorProto.FLOAT), node("MatMul", "f w", "y")]
    model = make_model(nodes, [1, 4], [weight], kind=kind)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    path = save(model, tmp_path)
    built, row = build(read_onnx(path))
    stored = np.random.default_rng(1).integers(0, 256, (5, *row))
    wanted = truth(path, stored.astype(helper.tensor_dtype_to_np_dtype(kind))).reshape(5, 3)
    ours = built(torch.from_numpy(stored).float()).detach().numpy()
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
    nodes.append(node("Cast", "x", "again", to=TensorProto.DOUBLE))
    nodes.append(node("Cast", "again", "y2", to=TensorProto.FLOAT))
    nodes.append(node("ReduceSum", "y2", "s", keepdims=1))
    nodes.append(node("Add", "y s", "z"))
    model = make_model(nodes, [1, 4], [weight], kind=kind)
    model.graph.output[0].name = "z"
    with pytest.raises(Unsupported, match="not float32 or float64; cast it in the model"):
        read_onnx(save(model, tmp_path))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_are_read_through_their_scales(tmp_path, axis):
    draw = np.random.default_rng(0)
    sizes = () if axis is None else (3,)
    stored = [
        constant("q", draw.integers(-128, 128, (3, 3)).astype(np.int8)),
        constant("s", draw.uniform(0.01, 0.1, sizes).astype(np.float32)),
        constant("z", draw.integers(-5, 6, sizes).astype(np.int8)),
    ]
    settings = {} if axis is None else {"axis": axis}
    nodes = [node("DequantizeLinear", "q s z", "w", **settings), node("MatMul", "x w", "y")]
    path = save(make_model(nodes, [1, 3], stored), tmp_path)
    built, _ = build(read_onnx(path))
    rows = torch.randn(4, 3)
    # Otherwise onnxruntime multiplies in eight bits, too.
    wanted = truth(path, rows.numpy(), optimised=False).reshape(4, 3)
    np.testing.assert_allclose(built(rows).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)


def _with(change) -> onnx.ModelProto:
    model = net()
    change(model)
    return model


def _second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4]))


def _second_output(model):
    model.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 6]))


def _open_size(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "size"


def _whole_input(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def _old(model):
    model.opset_import[0].version = 6


def _other_domain(model):
    model.graph.node[1].domain = "com.microsoft"


def _function(model):
    model.functions.append(onnx.FunctionProto(name="f", domain="mine"))


def _lost_value(model):
    model.graph.node[1].input[0] = "nowhere"


def _constant_output(model):
    model.graph.output[0].name = "w1"


REFUSED = {
    _second_input: r"2 of them \(x, z\), wanted one",
    _second_output: r"2 of them \(y, h\), wanted one",
    _open_size: "its shape .* is not fixed",
    _whole_input: "not float32 or float64",
    _old: "opset 6, wanted 7 to",
    _other_domain: "Relu: an operator of 'com.microsoft'",
    _function: "operators defined in the file",
    _lost_value: "reads \\['nowhere'\\], which nothing gives",
    _constant_output: "does not depend on the input",
}


@pytest.mark.parametrize(
    ("change", "said"), REFUSED.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_models_of_another_kind_are_refused(tmp_path, change, said):
    with pytest.raises(Unsupported, match=said):
        build(read_onnx(save(_with(change), tmp_path)))


@pytest.mark.parametrize("content", [b"", b"junk" * 30, b"\x80\x04K*.", b"PK\x03\x04"])
def test_files_of_another_kind_are_refused(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InvalidInput, match="wanted an ONNX model"):
        read_onnx(tmp_path / "net.onnx")


def _huge(model):
    model.graph.initializer[0].dims[0] = 2**40


def _short(model):
    model.graph.initializer[0].raw_data = b"1234"


def _negative(model):
    model.graph.initializer[0].dims[:] = [-4, -6]


def _text(model):
    model.graph.initializer[0].data_type = TensorProto.STRING


@pytest.mark.parametrize("change", [_huge, _short, _negative, _text])
def test_constants_that_contradict_themselves_are_refused(tmp_path, change):
    with pytest.raises(InvalidInput, match="constant 'w1'"):
        read_onnx(save(_with(change), tmp_path))


# --- data in another file ---------------------------------------------------------------------


def _external(folder, location, offset=0, length=None, name="weights.bin") -> None:
    """Write the net with its first weight in another file."""
    model = net()
    tensor = model.graph.initializer[0]
    content = tensor.raw_data
    (folder / name).write_bytes(b"\0" * offset + content)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = {"location": location, "offset": offset, "length": length or len(content)}
    for key, value in places.items():
        tensor.external_data.add(key=key, value=str(value))
    save(model, folder)


def test_data_beside_the_model_is_read(tmp_path):
    _external(tmp_path, "weights.bin", offset=8)
    built, _ = build(read_onnx(tmp_path / "net.onnx"))
    inside, _ = build(read_onnx(save(net(), tmp_path, "whole.onnx")))
    assert torch.equal(built.Gemm_0.weight, inside.Gemm_0.weight)


@pytest.mark.parametrize(
    "place", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "", "."]
)
def test_data_elsewhere_is_refused(tmp_path, place):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a").mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(96))
    _external(folder, place)
    with pytest.raises(InvalidInput, match="inside the folder of the model"):
        read_onnx(folder / "net.onnx")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_data_elsewhere_are_refused(tmp_path, link):
    folder = tmp_path / "models"
    folder.mkdir()
    _external(folder, "link.bin")
    (tmp_path / "secret").write_bytes(bytes(96))
    link(tmp_path / "secret", folder / "link.bin")
    with pytest.raises(InvalidInput, match=r"leads elsewhere|a second name elsewhere"):
        read_onnx(folder / "net.onnx")


def test_a_linked_folder_is_refused(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    _external(folder, "inner/weights.bin")
    (tmp_path / "outside" / "weights.bin").write_bytes(bytes(96))
    (folder / "inner").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidInput, match="leads elsewhere"):
        read_onnx(folder / "net.onnx")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    _external(tmp_path, "pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="not a plain file"):
        read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("place", [{"offset": 4}, {"length": 2**40}, {"length": 4}])
def test_places_beyond_the_data_are_refused(tmp_path, place):
    _external(tmp_path, "weights.bin", **place)
    (tmp_path / "weights.bin").write_bytes(bytes(96))
    with pytest.raises(InvalidInput, match=r"constant 'w1'|bytes 4 to 100 of 'weights.bin'"):
        read_onnx(tmp_path / "net.onnx")

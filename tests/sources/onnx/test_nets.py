"""The shared networks: onnxruntime's answers, and the accuracy that is published."""

import json

import numpy as np
import pytest
import torch

from holdfast import cli
from holdfast.graph.capture import capture
from holdfast.sources.data import load_data
from holdfast.sources.models import load_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.sources.onnx.files import truth

NETS = (
    "acasxu_1_1",
    "cifar_base_kw",
    "cifar_resnet2b",
    "mnist_attention_pgd",
    "mnist_fc_256x2",
    "mnist_leakyrelu_5x20",
    "mnist_sigmoid_mlp",
)
DATA = {"mnist": "mnist.npz?scale=255", "cifar10": "cifar10_test2000.npz?scale=255&layout=nhwc"}


def entry_of(shared, name: str) -> dict:
    manifest = json.loads((shared / "nets/manifest.json").read_text())
    entries = manifest if isinstance(manifest, list) else manifest.get("nets", manifest)
    listed = entries if isinstance(entries, list) else entries.values()
    return next(each for each in listed if each.get("file") == f"{name}.onnx")


def loaded(shared, name: str, rows: int):
    """Return a net behind its normalisation, its rows and the manifest's entry."""
    entry = entry_of(shared, name)
    spec = f"onnx:{shared}/nets/{name}.onnx"
    units = entry["preprocessing"] or {"mean": [0.0], "std": [1.0]}
    if units["std"] != [1.0]:
        mean, std = (",".join(map(str, units[key])) for key in ("mean", "std"))
        spec += f"?mean={mean}&std={std}"
    model = load_model(spec)
    if entry["dataset"] is None:
        return model, None, entry
    data = load_data(f"npz:{shared}/data/{DATA[entry['dataset']]}&rows={rows}")
    return model, data.shaped(model.shape), entry


@pytest.mark.parametrize("name", NETS)
def test_a_net_answers_as_onnxruntime_does_and_is_captured(shared, name):
    model, data, _ = loaded(shared, name, 20)
    path = shared / "nets" / f"{name}.onnx"
    plain = load_model(f"onnx:{path}").model
    rows = torch.rand(20, *model.shape) if data is None else data.inputs
    with torch.no_grad():
        ours = plain(rows)
    theirs = truth(path, rows.numpy()).reshape(ours.shape)
    assert np.abs(ours.numpy() - theirs).max() <= 1e-5 * max(1.0, np.abs(theirs).max())
    assert capture(model.model, rows[:1]).perturbed_input.shape == model.shape


def _accuracy(model, data) -> float:
    with torch.no_grad():
        parts = [model.model(part).argmax(1) for part in data.inputs.split(500)]
    return float((torch.cat(parts) == data.labels).double().mean())


@pytest.mark.parametrize("name", [name for name in NETS if not name.startswith("acas")])
def test_a_net_is_about_as_accurate_as_published(shared, name):
    model, data, entry = loaded(shared, name, 500)
    assert abs(_accuracy(model, data) - entry["accuracy"]) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETS if not name.startswith("acas")])
def test_a_net_is_as_accurate_as_published(shared, name):
    model, data, entry = loaded(shared, name, entry_of(shared, name)["n_eval"])
    if len(data.labels) == entry["n_eval"]:
        assert _accuracy(model, data) == pytest.approx(entry["accuracy"], abs=1e-9)
        return
    # Of CIFAR-10, the first 2000 of the 10000 test images are there: onnxruntime says how many
    # of those are right.
    mean, std = (
        np.array(entry["preprocessing"][key]).reshape(1, 3, 1, 1) for key in ("mean", "std")
    )
    rows = ((data.inputs.numpy() - mean) / std).astype(np.float32)
    theirs = truth(shared / "nets" / f"{name}.onnx", rows).reshape(len(rows), -1).argmax(1)
    assert _accuracy(model, data) == (theirs == data.labels.numpy()).mean()
    assert abs(_accuracy(model, data) - entry["accuracy"]) < 0.03


def test_the_command_line_needs_no_option(shared, capsys):
    files = (f"onnx:{shared}/nets/mnist_leakyrelu_5x20.onnx", f"npz:{shared}/data/mnist.npz?rows=5")
    with pytest.raises(SystemExit) as ending:
        cli.main(["certify", *files, "--method", "global", "--json"])
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert ending.value.code == 0 and document["clean_accuracy"] == 1.0
    assert document["scale"] == 255 and min(document["radius"]) > 0
    assert "bytes were divided by 255" in err

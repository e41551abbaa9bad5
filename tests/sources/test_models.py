"""Models by name."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from holdfast.errors import InvalidInput, Unsupported
from holdfast.sources.demo import DEMO_MODELS
from holdfast.sources.models import check_fits, default_dtype, load_model, parameters

SOURCE = """
from torch import nn

def small():
    return nn.Linear(2, 3).eval()
"""


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    folder = tmp_path / "garden"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "garden"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_demo_models_come_with_a_sentence(name):
    loaded = load_model(f"demo:{name}")
    assert (loaded.name, loaded.description) == (name, DEMO_MODELS[name])
    assert not loaded.model.training and parameters(loaded.model) > 0


def test_a_factory_in_a_package():
    loaded = load_model("module:garden.nets:small")
    assert isinstance(loaded.model, nn.Linear)
    assert loaded.name == "small" and "garden/nets.py" in loaded.description


def test_weights_are_those_of_the_file(tmp_path):
    state = {"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.ones(3)}
    save_file(state, tmp_path / "w.safetensors")
    loaded = load_model("module:garden.nets:small?weights=w.safetensors")
    assert torch.equal(loaded.model.weight, state["weight"])
    assert loaded.description.endswith("weights from w.safetensors.")


PICKLES = {
    "a pickled state dict": lambda net, path: torch.save(net.state_dict(), path),
    "a pickled checkpoint": lambda net, path: torch.save({"model": net.state_dict()}, path),
    "a pickled module": torch.save,
    "pickled state dict": lambda net, path: torch.save(
        net.state_dict(), path, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.parametrize("spec", ["torch:m.pt", "m.pt", "m.pth"])
@pytest.mark.parametrize(("kind", "save"), PICKLES.items(), ids=[*[*PICKLES][:3], "old"])
def test_pickles_are_named_and_not_opened(spec, kind, save):
    save(nn.Linear(2, 3), spec.removeprefix("torch:"))
    wanted = r"weights=m.safetensors, from safetensors.torch.save_file\(model.state_dict\(\), 'm"
    with pytest.raises(InvalidInput, match=rf"{kind}, and opening one runs code, .*{wanted}"):
        load_model(spec)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_named():
    torch.jit.save(torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2)), "m.pt")
    with pytest.raises(InvalidInput, match=r"a TorchScript program, wanted torch:net.pt2, from"):
        load_model("m.pt")


def test_a_bare_path_has_its_kind_by_what_it_holds():
    model = nn.Sequential(nn.Linear(2, 3))
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (torch.zeros(2, 2),), dynamic_shapes=batch)
    torch.export.save(program, "m.pt2")
    shutil.copy("m.pt2", "m.pt")
    for spec in ("m.pt2", "m.pt", "m.pt?mean=0&std=1"):
        loaded = load_model(spec)
        assert loaded.spec == spec
        assert torch.equal(loaded.model(torch.ones(1, 2)), model(torch.ones(1, 2)))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("digits-plain", "wanted demo:digits-plain$"),
        ("garden/nets.py:small", "wanted module:garden.nets:small, a function"),
        ("garden/nets.py", "wanted module:garden.nets:FACTORY"),
        ("w.safetensors", r"module:package.file:factory\?weights=w.safetensors"),
        ("garden", r"wanted hf:FOLDER with config.json"),
        ("net.keras", "wanted an export of it: onnx:net.onnx"),
        ("no.pt", r"'no.pt' \(No such file"),
        ("no.onnx", r"'no.onnx' \(No such file"),
        ("/dev/zero.pt", "No such file|Not a directory"),
    ],
)
def test_names_that_are_none_say_what_to_type(spec, said):
    with pytest.raises(InvalidInput, match=said):
        load_model(spec)


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "pkl", "ckpt"])
def test_pickled_weights_are_refused_unread(suffix):
    with pytest.raises(InvalidInput, match="no pickled files"):
        load_model(f"module:garden.nets:small?weights=w.{suffix}")


@pytest.mark.parametrize(
    "spec", ["garden.nets:small", "file:garden/nets.py:small", "hf:x", "", ":"]
)
def test_code_runs_only_from_an_explicit_module(spec):
    with pytest.raises(
        InvalidInput,
        match=r"model: got .*, wanted (demo:NAME, |module:garden.nets:small|hf:FOLDER with)",
    ):
        load_model(spec)
    assert "garden.nets" not in sys.modules


@pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(3, 2)}, {"weight": torch.zeros(9)}])
def test_weights_that_do_not_fit_are_refused(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InvalidInput, match=r"weights: got .*, wanted the names and shapes"):
        load_model("module:garden.nets:small?weights=w.safetensors")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.BatchNorm1d(4), "BatchNorm1d: training mode"),
        (nn.Sequential(nn.Linear(4, 4).half()).eval(), "0.weight: weights: stored as float16"),
    ],
    ids=["training", "half"],
)
def test_rows_are_not_to_blame_for_a_model_that_cannot_run(model, said):
    with pytest.raises(Unsupported, match=said):
        check_fits(model, torch.zeros(2, 4))
    with pytest.raises(InvalidInput, match="rows of shape"):
        check_fits(nn.Linear(3, 4).eval(), torch.zeros(2, 4))


def test_the_type_of_the_input_follows_the_weights():
    assert default_dtype(nn.Linear(2, 2)) == torch.float32
    assert default_dtype(nn.Linear(2, 2).double()) == torch.float64
    assert default_dtype(nn.ReLU()) == torch.float32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_classifier_of_transformers_is_read_from_its_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=3,
    )  # fmt: skip
    saved = transformers.BertForSequenceClassification(config)
    saved.save_pretrained(tmp_path / "tiny")
    loaded = load_model(f"hf:{tmp_path}/tiny")
    assert loaded.name == "tiny" and not loaded.model.training
    assert torch.equal(loaded.model.classifier.weight, saved.classifier.weight)
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InvalidInput, match="model: got"):
        load_model(f"hf:{tmp_path}/tiny")
    with pytest.raises(InvalidInput, match="hf:FOLDER with config"):
        load_model(f"hf:{tmp_path}")

"""Models by name."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from holdfast.errors import InvalidInput
from holdfast.sources.demo import DEMO_MODELS
from holdfast.sources.models import default_dtype, load_model, parameters

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
        match=r"model: got .*, wanted (demo:NAME, onnx:PATH, torch:PATH, hf:FOLDER|hf:FOLDER with)",
    ):
        load_model(spec)
    assert "garden.nets" not in sys.modules


@pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(3, 2)}, {"weight": torch.zeros(9)}])
def test_weights_that_do_not_fit_are_refused(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InvalidInput, match=r"weights: got .*, wanted the names and shapes"):
        load_model("module:garden.nets:small?weights=w.safetensors")


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

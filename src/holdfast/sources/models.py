"""Models by name, as the command line takes them: `demo:`, `module:` and `hf:`."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast.errors import InvalidInput, MissingExtra
from holdfast.sources.demo import DEMO_MODELS, demo_model

FORMS = "demo:NAME, hf:FOLDER or module:package.file:factory[?weights=PATH.safetensors]"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        model: The module.
        spec: What the user wrote.
        name: Short name for titles.
        description: One sentence.
    """

    model: nn.Module
    spec: str
    name: str
    description: str = ""


def load_model(spec: str) -> LoadedModel:
    """Load a model named on the command line.

    Args:
        spec: `demo:NAME`, or `module:package.file:factory`, a function without arguments that
            returns a module, found on Python's own path, with `?weights=PATH.safetensors` to load
            its weights. Code runs only from such an explicit `module:`. `hf:FOLDER` is a classifier
            saved by Hugging Face transformers, read from safetensors without network.

    Returns:
        The model.

    Raises:
        InvalidInput: When there is no such model, or it cannot be loaded.
    """
    kind, _, rest = spec.partition(":")
    if kind == "demo":
        model = demo_model(rest)
        return LoadedModel(model, spec, rest, DEMO_MODELS[rest])
    if kind == "module" and rest:
        return _from_module(spec, rest)
    if kind == "hf" and rest:
        return _from_folder(spec, Path(rest))
    raise InvalidInput("model", repr(spec), FORMS)


def _from_folder(spec: str, folder: Path) -> LoadedModel:
    """Return the sequence classifier in a folder of Hugging Face transformers.

    Raises:
        InvalidInput: When there is no such folder, or it holds no classifier of a known kind.
        MissingExtra: When transformers is not installed.
    """
    if not (folder / "config.json").is_file():
        raise InvalidInput("model", repr(spec), "hf:FOLDER with config.json and safetensors")
    try:
        from transformers import AutoModelForSequenceClassification
    except ImportError:
        raise MissingExtra("transformers", "hf", "a model from hf:FOLDER") from None
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            dtype=torch.float32,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        got = f"{folder} ({' '.join(str(problem).split())})"
        wanted = "a sequence classifier in safetensors, of a kind that transformers knows"
        raise InvalidInput("model", got, wanted) from problem
    kind = type(model).__name__
    return LoadedModel(model.eval(), spec, folder.name, f"{kind} from {folder}.")


def _from_module(spec: str, rest: str) -> LoadedModel:
    target, _, query = rest.partition("?")
    module_name, _, factory_name = target.partition(":")
    if not module_name or not factory_name:
        raise InvalidInput("model", repr(spec), FORMS)
    factory = _factory(module_name, factory_name)
    try:
        model = factory()
    except (Exception, SystemExit) as problem:
        got = f"{target} raised {type(problem).__name__}: {problem}"
        raise InvalidInput("model", got, "a factory that works without arguments") from problem
    if not isinstance(model, nn.Module):
        got = f"{target} returned {type(model).__name__}"
        raise InvalidInput("model", got, "a torch.nn.Module")
    source = getattr(sys.modules[module_name], "__file__", module_name)
    description = f"Built by {factory_name} in {source}"
    if query:
        description += f", weights from {_load_weights(model, query)}"
    return LoadedModel(model, spec, factory_name, description + ".")


def _factory(module_name: str, name: str):
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as problem:
        got = f"{module_name} ({type(problem).__name__}: {problem})"
        wanted = "a module on Python's path (for the current folder: PYTHONPATH=. holdfast ...)"
        if not isinstance(problem, ImportError):
            wanted = "a module that can be imported"
        raise InvalidInput("model", got, wanted) from problem
    factory = getattr(module, name, None)
    if not callable(factory):
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise InvalidInput("model", f"no function {name!r} in {module_name}", f"one of {public}")
    return factory


def _load_weights(model: nn.Module, query: str) -> str:
    key, _, path = query.partition("=")
    if key != "weights" or not path.endswith(".safetensors"):
        raise InvalidInput("model", f"?{query}", "?weights=PATH.safetensors (no pickled files)")
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as problem:
        raise InvalidInput("weights", f"{path} ({problem})", "a safetensors file") from problem
    except RuntimeError as problem:
        got = " ".join(str(problem).split())
        raise InvalidInput("weights", got, "the names and shapes of the model") from problem
    return str(Path(path))


def parameters(model: nn.Module) -> int:
    """Return the number of trainable or frozen parameters."""
    return sum(value.numel() for value in model.parameters())


def default_dtype(model: nn.Module) -> torch.dtype:
    """Return the type that a model takes its input in: float64 if it has such weights."""
    types = {value.dtype for value in model.state_dict().values()}
    return torch.float64 if torch.float64 in types else torch.float32


def check_fits(model: nn.Module, inputs: Tensor) -> None:
    """Refuse rows that a model cannot take, before anything is built on them.

    Raises:
        InvalidInput: When the model fails on the first row.
    """
    try:
        with torch.no_grad():
            model(inputs[:1])
    except Exception as problem:
        kind = str(inputs.dtype).removeprefix("torch.")
        got = f"rows of shape {list(inputs.shape[1:])} and type {kind}"
        why = f"{type(problem).__name__}: {problem}"
        raise InvalidInput("data", f"{got} ({why})", "rows that the model takes") from problem

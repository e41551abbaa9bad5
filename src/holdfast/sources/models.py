"""Models by name, as the command line takes them: built in, from a file, or from a factory."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from holdfast.errors import InvalidInput, MissingExtra, Unsupported
from holdfast.graph.capture import training_modes, unusable_weights
from holdfast.results import Result
from holdfast.sources.demo import DEMO_MODELS, demo_model
from holdfast.sources.exported.build import read_exported
from holdfast.sources.names import (
    MODEL_FORMS,
    full_model_name,
    pickled,
    safe_weights,
    torch_file,
)
from holdfast.sources.onnx.build import build
from holdfast.sources.onnx.file import read_onnx
from holdfast.sources.query import split_query
from holdfast.sources.units import normalised
from holdfast.sources.weights import read_weights


@dataclass(frozen=True, eq=False, repr=False)
class LoadedModel(Result):
    """A model and where it came from.

    Attributes:
        model: The module.
        spec: What the user wrote.
        name: Short name for titles.
        description: One sentence.
        shape: Of one input row, where a file says so.
        units: The normalisation in front of the model, as the user wrote it.
        folder: Where its tokenizer lies beside it; None for a model that brings none.
        weights: The safetensors file that the user named; None without one.
    """

    model: nn.Module
    spec: str
    name: str
    description: str = ""
    shape: tuple[int, ...] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    weights: Path | None = None


def load_model(spec: str) -> LoadedModel:
    """Load a model by name, as the command line does.

    >>> loaded = load_model("demo:digits-plain")
    >>> loaded.model(torch.zeros(2, 64)).shape
    torch.Size([2, 10])
    >>> load_model("digits-plain")
    Traceback (most recent call last):
    holdfast.errors.InvalidInput: model: got 'digits-plain', wanted demo:digits-plain

    Args:
        spec: `demo:NAME`; `onnx:PATH`, with `?output=NAME` where the file has several outputs;
            `torch:PATH`, an exported program;
            `hf:FOLDER`, a classifier saved by Hugging Face transformers, read from safetensors
            without network; or
            `module:package.file:factory`, a function without arguments that returns a module,
            found on Python's own path, with `?weights=PATH.safetensors` to load its weights. Code
            runs only from such an explicit `module:`. With `mean=...&std=...`, one number or one
            for every channel, the model is put behind that normalisation, so that distances are
            in the units before it. A bare path has its kind by its ending.

    Returns:
        The model in eval mode and where it came from; verbs take its `model`.

    Raises:
        InvalidInput: When there is no such model, or it cannot be loaded.
        MissingExtra: When it needs a library that is not installed.
        Unsupported: When a file holds what cannot be read, with all the reasons.
    """
    kind, _, rest = full_model_name(spec).partition(":")
    load, own = _LOADERS[kind]
    target, options = split_query("model", rest, (*own, "mean", "std"))
    units = {key: options[key] for key in ("mean", "std") if key in options}
    loaded = load(spec, target, *(options.get(key) for key in own))
    if not units:
        return loaded
    if len(units) < 2:
        raise InvalidInput("model", repr(spec), "mean=... and std=... together")
    model = normalised(loaded.model, **units, dtype=default_dtype(loaded.model))
    said = f"{loaded.description} Normalised: mean {units['mean']}, std {units['std']}."
    return dataclasses.replace(loaded, model=model, description=said.strip(), units=units)


def _from_demo(spec: str, name: str) -> LoadedModel:
    return LoadedModel(demo_model(name), spec, name, DEMO_MODELS[name])


def _from_onnx(spec: str, target: str, output: str | None) -> LoadedModel:
    path = Path(target)
    model, shape = build(read_onnx(path, output))
    return LoadedModel(model, spec, path.stem, f"Read from {target}.", shape)


def _from_exported(spec: str, target: str) -> LoadedModel:
    path = Path(target)
    if (held := torch_file(path)) not in ("program", ""):
        raise InvalidInput("model", *pickled(path, held))
    model, shape = read_exported(path)
    return LoadedModel(model, spec, path.stem, f"Read from {target}.", shape)


def _from_folder(spec: str, target: str) -> LoadedModel:
    """Return the sequence classifier in a folder of Hugging Face transformers.

    Raises:
        InvalidInput: When there is no such folder, or it holds no classifier of a known kind.
        MissingExtra: When transformers is not installed.
    """
    folder = Path(target)
    if not (folder / "config.json").is_file():
        raise InvalidInput("model", repr(spec), "hf:FOLDER with config.json and safetensors")
    try:
        from transformers import AutoModelForSequenceClassification
    except ImportError:
        raise MissingExtra("transformers", "hf", "a model from hf:FOLDER") from None
    try:
        with silently():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        got = f"{folder} ({' '.join(str(problem).split())})"
        wanted = "a sequence classifier in safetensors, of a kind that transformers knows"
        raise InvalidInput("model", got, wanted) from problem
    missing = sorted({*info["missing_keys"]})
    if missing:  # transformers draws them at random: another model at every run
        got = f"{folder}, in whose files the weights {', '.join(missing[:6])} are missing"
        wanted = "a classifier that was trained and saved with its head"
        raise InvalidInput("model", got, wanted)
    kind = type(model).__name__
    return LoadedModel(model.eval(), spec, folder.name, f"{kind} from {folder}.", folder=folder)


@contextmanager
def silently() -> Iterator[None]:
    """Keep transformers from drawing bars, and names out of files, on stderr.

    Yields:
        Once.
    """
    from transformers import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _from_module(spec: str, target: str, weights: str | None) -> LoadedModel:
    module_name, _, factory_name = target.partition(":")
    if not module_name or not factory_name:
        raise InvalidInput("model", repr(spec), MODEL_FORMS)
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
    if weights is not None:
        _load_weights(model, Path(weights))
        description += f", weights from {weights}"
    file = None if weights is None else Path(weights)
    return LoadedModel(model, spec, factory_name, description + ".", weights=file)


_LOADERS: Mapping[str, tuple[Callable[..., LoadedModel], tuple[str, ...]]] = {
    "demo": (_from_demo, ()),
    "onnx": (_from_onnx, ("output",)),
    "torch": (_from_exported, ()),
    "hf": (_from_folder, ()),
    "module": (_from_module, ("weights",)),
}
"""How each kind of model is loaded, and the options that it has of its own."""


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


def _load_weights(model: nn.Module, path: Path) -> None:
    if path.suffix != ".safetensors":
        got = f"?weights={path}, no safetensors (no pickled files: opening one runs code)"
        raise InvalidInput("model", got, safe_weights(path))
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as problem:
        got = " ".join(str(problem).split())
        raise InvalidInput("weights", got, "the names and shapes of the model") from problem


def parameters(model: nn.Module) -> int:
    """Return the number of trainable or frozen parameters."""
    return sum(value.numel() for value in model.parameters())


def default_dtype(model: nn.Module) -> torch.dtype:
    """Return the type that a model takes its input in: float64 if it has such weights."""
    types = {value.dtype for value in model.state_dict().values()}
    return torch.float64 if torch.float64 in types else torch.float32


def check_fits(model: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> None:
    """Refuse rows that a model cannot take, before anything is built on them.

    Raises:
        InvalidInput: When the model fails on the first row.
        Unsupported: When it does, and its mode or its weights are such that rows may be well.
    """
    parts = inputs if isinstance(inputs, Mapping) else {"rows": inputs}
    first = {name: value[:1] for name, value in parts.items()}
    try:
        with torch.no_grad():
            model(**first) if isinstance(inputs, Mapping) else model(first["rows"])
    except Exception as problem:
        if obstacles := [*training_modes(model), *unusable_weights(model)]:
            raise Unsupported("running the model", obstacles) from problem
        kinds = [
            f"{name} of shape {list(value.shape[1:])} and type "
            f"{str(value.dtype).removeprefix('torch.')}"
            for name, value in parts.items()
        ]
        why = f"{type(problem).__name__}: {problem}"
        got = f"{', '.join(kinds)} ({why})"
        raise InvalidInput("data", got, "rows that the model takes") from problem

"""Names of models and data as people type them: a bare path says by its ending what it is."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from holdfast.errors import InvalidInput
from holdfast.files import open_file
from holdfast.sources.demo import DEMO_DATA, DEMO_MODELS

MODEL_FORMS = (
    "demo:NAME, onnx:PATH, torch:PATH, hf:FOLDER or "
    "module:package.file:factory[?weights=PATH.safetensors], "
    "with ?mean=...&std=... where inputs are normalised"
)
DATA_FORMS = "demo:NAME, npz:PATH, csv:PATH, parquet:PATH or normal:3x8x8 (a row's shape)"

_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib", ".th", ".tar")


def full_model_name(spec: str) -> str:
    """Return a model's name with its kind in front.

    >>> full_model_name("net.onnx?output=logits"), full_model_name("demo:digits-plain")
    ('onnx:net.onnx?output=logits', 'demo:digits-plain')

    Raises:
        InvalidInput: When it is none, with what to type instead.
    """
    if re.match("(demo|onnx|torch|hf|module):.", spec):
        return spec
    path = spec.partition("?")[0]
    suffix = Path(path).suffix.lower()
    kinds = {".onnx": "onnx", ".pt2": "torch"}
    if suffix in kinds:
        return f"{kinds[suffix]}:{spec}"
    wanted = MODEL_FORMS
    if suffix in _PICKLES:
        kind = torch_file(Path(path))
        if kind == "program":
            return f"torch:{spec}"
        raise InvalidInput("model", *pickled(Path(path), kind))
    if _is_folder(path):
        if (Path(path) / "config.json").is_file():
            return f"hf:{spec}"
        wanted = "hf:FOLDER with config.json and weights in safetensors"
    elif suffix == ".safetensors":
        wanted = f"module:package.file:factory?weights={path}, as a file of weights has no model"
    elif code := re.fullmatch(r"(?:file:)?([\w/]+)\.py(?::(\w+))?", path):
        dotted = code[1].strip("/").replace("/", ".")
        wanted = f"module:{dotted}:{code[2] or 'FACTORY'}, a function that returns the model"
    elif re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path):
        wanted = f"module:{spec}, or one of {MODEL_FORMS}"
    elif path in DEMO_MODELS:
        wanted = f"demo:{path}"
    elif suffix in (".h5", ".keras", ".tflite", ".pb"):
        wanted = f"an export of it: onnx:{Path(path).with_suffix('.onnx')}"
    raise InvalidInput("model", repr(spec), wanted)


def full_data_name(spec: str) -> str:
    """Return the name of data with its kind in front.

    >>> full_data_name("rows.csv?labels=kind"), full_data_name("npz:rows.npz")
    ('csv:rows.csv?labels=kind', 'npz:rows.npz')

    Raises:
        InvalidInput: When it is none, with what to type instead.
    """
    if spec in ("demo", "demo:") or re.match("(demo|npz|csv|parquet|normal):.", spec):
        return spec
    path = spec.partition("?")[0]
    suffix = Path(path).suffix.lower()
    if suffix in _DATA_KINDS:
        return f"{_DATA_KINDS[suffix]}:{spec}"
    wanted = DATA_FORMS
    if suffix == ".npy":
        wanted = "npz:PATH of two arrays: np.savez(PATH, inputs=..., labels=...)"
    elif suffix in (*_PICKLES, ".mat", ".h5", ".hdf5"):
        wanted = "npz:PATH (opening a pickle runs code): np.savez(PATH, inputs=..., labels=...)"
    elif suffix in (".xlsx", ".xls", ".ods"):
        wanted = "csv:PATH (in the spreadsheet: save as CSV UTF-8)"
    elif suffix in (".gz", ".zip", ".bz2", ".xz", ".zst"):
        wanted = "the file unpacked"
    elif suffix in (".json", ".jsonl", ".arff", ".feather", ".data"):
        wanted = "csv:PATH or parquet:PATH, for a table in one of these forms"
    elif path in DEMO_DATA:
        wanted = f"demo:{path}"
    elif re.fullmatch(r"[1-9]\d*([x,][1-9]\d*)*", path):
        wanted = f"normal:{path.replace(',', 'x')}, for random rows of that shape"
    raise InvalidInput("data", repr(spec), wanted)


_DATA_KINDS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".npz": "npz",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""Kinds of data by the ending of a file."""


def torch_file(path: Path) -> str:
    """Return what a file of torch holds: "program" of torch.export, or what was pickled.

    Nothing of it is unpickled: its first bytes say what the outermost object is.

    Returns:
        "program", "TorchScript program", "pickled state dict", "pickled checkpoint", "pickled
        module", or nothing where it is none of these.

    Raises:
        InvalidInput: When it cannot be read.
    """
    with open_file(path, "model", "a file that can be read") as file:
        head = file.read(2**12)
        try:
            with zipfile.ZipFile(file) as archive:
                parts = {name.partition("/")[2]: name for name in archive.namelist()}
                if any(re.fullmatch(r"models/[^/]+\.json", name) for name in parts):
                    return "program"
                if "constants.pkl" in parts:
                    return "TorchScript program"
                with archive.open(parts["data.pkl"]) as member:
                    head = member.read(2**12)
        except Exception:  # no archive, or a damaged one: its reader says so
            pass
    if head[:1] != b"\x80":
        return ""
    first = re.search(rb"c([\w.]+\n\w+)\n", head)  # the first class that it names
    if head[2:3] == b"}":
        return "pickled checkpoint"
    states = first is not None and first[1] == b"collections\nOrderedDict"
    return "pickled state dict" if states else "pickled module"


def pickled(path: Path, kind: str) -> tuple[str, str]:
    """Return what is said of a file that is not opened, and what to type instead.

    Args:
        path: The file.
        kind: From `torch_file`.
    """
    program = "torch.export.save(torch.export.export(model, (rows,)), 'net.pt2')"
    if kind == "TorchScript program":
        return f"{str(path)!r}, a TorchScript program", f"torch:net.pt2, from {program}"
    got = f"{str(path)!r}, a {kind or 'pickle'}, and opening one runs code"
    return got, f"module:package.file:factory?weights={_saved(path)}"


def safe_weights(path: Path) -> str:
    """Return what to type in place of a pickled file of weights."""
    return f"?weights={_saved(path)}"


def _saved(path: Path) -> str:
    stem = path.with_suffix(".safetensors").name
    return f"{stem}, from safetensors.torch.save_file(model.state_dict(), {stem!r})"


def _is_folder(path: str) -> bool:
    try:
        return bool(path) and Path(path).is_dir()
    except (OSError, ValueError):
        return False

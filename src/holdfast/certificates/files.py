"""Certificate files: what Holdfast printed, and a proof of it for the independent checker."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as pack
from torch import Tensor, nn

from holdfast.arguments import check_norm
from holdfast.certificates.certificate import PER_ROW, Certificates
from holdfast.errors import InvalidInput, MissingExtra, Unsupported
from holdfast.files import read_json, write_together
from holdfast.graph.capture import capture, weights_hash

FORMAT = "holdfast.certificates/2"
_SCALARS = ("norm", "semantics", "guarantee", "fingerprint", "constant", "classes")
_NORMS = {1.0: "1", 2.0: "2", math.inf: "inf"}
_NO_PROOF = {"missing": "", "file": "", "sha256": "", "tensors": [], "graph": [], "cuts": []}

ASSUMPTIONS = (
    "The operations listed in the proof are what the model computes, in eval mode.",
    "The stored weights and rows are taken as exact, and so is arithmetic: nothing is said about "
    "rounding in the network as it is executed.",
)
CITATIONS = (
    "Tsuzuku, Sato, Sugiyama, Lipschitz-margin training, 2018",
    "Fazlyab, Robey, Hassani, Morari, Pappas, Efficient and accurate estimation of Lipschitz "
    "constants for deep neural networks, 2019",
)


def save(certificates: Certificates, path: Path) -> None:
    """Write a certificate file and, where there is a proof, its arrays beside it."""
    radius, proof, arrays = _proved(certificates)
    content: dict[Path, bytes] = {}
    if arrays:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:100] + ".witness.safetensors"
        content[path.with_name(name)] = packed = pack(arrays)
        proof |= {"file": name, "sha256": hashlib.sha256(packed).hexdigest()}
    document = {
        "format": FORMAT,
        "norm": _NORMS[certificates.norm],
        "semantics": certificates.semantics,
        "classes": certificates.classes,
        "guarantee": certificates.guarantee,
        "fingerprint": certificates.fingerprint,
        "constant": float(certificates.constant).hex(),
        "rows": _rows(certificates, radius),
        "proof": proof,
        "assumptions": list(ASSUMPTIONS),
        "citations": list(CITATIONS),
    }
    document["digest"] = _digest(document)
    content[path] = (json.dumps(document, indent=1) + "\n").encode()
    write_together(content, "path")


def _digest(document: dict[str, Any]) -> str:
    """Return the SHA-256 of everything in a document but its own digest."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _rows(certificates: Certificates, radius: list[float]) -> dict[str, Any]:
    known = certificates.changes
    hashes = [""] * len(radius) if known is None else [_hash(row) for row in known.inputs]
    return {
        "radius": [entry.hex() for entry in radius],
        "claimed": [entry.hex() for entry in certificates.radius.tolist()],
        "margin": [entry.hex() for entry in certificates.margin.tolist()],
        "predicted": certificates.predicted.tolist(),
        "labels": certificates.labels.tolist(),
        "reason": list(certificates.reason),
        "method": list(certificates.method),
        "inputs": hashes,
    }


def _hash(tensor: Tensor) -> str:
    """Return the hash of type, shape and bytes, as the checker forms it."""
    kind = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}[tensor.dtype]
    data = tensor.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(f"{kind} {list(tensor.shape)} ".encode() + data).hexdigest()


def _proved(certificates: Certificates) -> tuple[list[float], dict[str, Any], dict[str, Tensor]]:
    """Return the radii that the file proves (zeros without a proof), the proof and its arrays."""
    known = certificates.changes
    try:
        if known is None:
            raise Unsupported("a proof in a file of certificates that were loaded from a file", [])
        if certificates.semantics != "real":
            raise Unsupported(f"a proof in a file of the semantics {certificates.semantics}", [])
        try:
            from holdfast.certificates.proofs.proof import prove
        except ImportError as problem:
            raise MissingExtra("python-flint", "rigorous", "a proof in a file") from problem
        found = prove(known.graph, known.inputs, certificates)
    except (Unsupported, MissingExtra) as problem:
        return [0.0] * len(certificates), _NO_PROOF | {"missing": str(problem)}, {}
    tensors = [{"name": k, "sha256": _hash(v)} for k, v in found.tensors.items()]
    proof = {"tensors": tensors, "graph": found.ops, "cuts": found.cuts}
    return found.radius, _NO_PROOF | proof, found.tensors | found.arrays


def describes(path: Path, model: nn.Module) -> bool:
    """Return whether a file, already checked, is about this model.

    The weights must be those that the file names. Where it holds a proof, the model is captured and
    lowered again, and operations and arrays must be those of the file.

    Args:
        path: The file.
        model: The model.

    Raises:
        Unsupported: When the model cannot be captured, or holds what no proof in a file covers.
    """
    from holdfast.certificates.proofs.lowering import lower

    document = read_json(path, "certificate")
    proof = document["proof"]
    if document["fingerprint"] != weights_hash(model):
        return False
    if proof["missing"]:
        return True
    with safe_open(path.with_name(proof["file"]), "pt") as arrays:
        example = arrays.get_slice("inputs")[:1]
    lowered = lower(capture(model, example))
    hashes = {name: _hash(tensor) for name, tensor in lowered.arrays.items()}
    same = hashes == {entry["name"]: entry["sha256"] for entry in proof["tensors"]}
    return same and lowered.ops == proof["graph"]


def load(path: Path) -> Certificates:
    """Return the certificates in a file; see `Certificates.load`.

    Raises:
        InvalidInput: When the file is not a certificate file of this version.
    """
    document = read_json(path, "path")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidInput("path", f"{str(path)!r}", f"a file with format {FORMAT}")
    wanted = {"format", "digest", "rows", "proof", "assumptions", "citations", *_SCALARS}
    held = document.get("rows")
    rows: dict[str, Any] = held if isinstance(held, dict) else {}
    odd = set(document) ^ wanted | set(rows) ^ {*PER_ROW, "claimed", "inputs"}
    if odd:
        names = ", ".join(sorted(odd))
        raise InvalidInput("path", f"missing or unknown entries {names}", "those of `save`")
    if document["digest"] != _digest(document):
        got = f"{str(path)!r}, whose digest is not that of its content"
        raise InvalidInput("path", got, "a file that nobody changed")
    entries = {name: document[name] for name in _SCALARS} | {name: rows[name] for name in PER_ROW}
    entries["radius"] = rows["claimed"]
    try:
        loaded = Certificates(**{name: _parsed(name, value) for name, value in entries.items()})
    except (TypeError, ValueError, OverflowError, RuntimeError) as problem:
        raise InvalidInput("path", f"{str(path)!r} ({problem})", "valid entries") from problem
    if not loaded.coherent():
        raise InvalidInput("path", f"{str(path)!r}", "entries that do not contradict each other")
    return loaded


def _parsed(name: str, value: Any) -> Any:
    if name in ("radius", "margin"):
        return torch.tensor([float.fromhex(entry) for entry in value], dtype=torch.float64)
    if name in ("predicted", "labels"):
        if not all(isinstance(entry, int) for entry in value):
            raise TypeError(f"{name} are not whole numbers")
        return torch.tensor(value, dtype=torch.int64)
    if name in ("reason", "method"):
        if not isinstance(value, list):
            raise TypeError(f"{name} is not a list")
        return tuple(map(str, value))
    if name == "norm":
        return check_norm(float(value))
    if name == "constant":
        return float.fromhex(value)
    return int(value) if name == "classes" else str(value)

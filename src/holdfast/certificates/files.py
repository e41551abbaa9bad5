"""Certificate files: what Holdfast printed, and a proof of it for the independent checker."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save as pack
from torch import Tensor, nn

from holdfast.certificates.change import Changes
from holdfast.documents import check_digest, digest, encode
from holdfast.errors import InvalidInput, MissingExtra, Obstacle, Unsupported
from holdfast.files import read_json, write_together
from holdfast.graph.capture import capture, weights_hash
from holdfast.graph.ir import Graph
from holdfast.graph.single import with_two_logits
from holdfast.moves import EVERYTHING, Moves
from holdfast.types import norm_name

if TYPE_CHECKING:
    from holdfast_check import Report

FORMAT = "holdfast.certificates/3"
PER_ROW = ("radius", "margin", "predicted", "labels", "reason", "method")
_NORMS = {1.0: "1", 2.0: "2", math.inf: "inf"}


def save(fields: Mapping[str, Any], radius: Tensor, known: Changes | None, path: Path) -> None:
    """Write a certificate file and, where there is a proof, its arrays beside it.

    Args:
        fields: Of the certificates, as `encode` writes them.
        radius: [N], as certified.
        known: The model and the rows, for the proof; None where they are not at hand.
        path: The JSON file.

    Raises:
        InvalidInput: When the path cannot be written.
    """
    proved, proof, arrays = _proof(fields["semantics"], radius, known)
    content: dict[Path, bytes] = {}
    if arrays:
        # One proof for each name: net.v1 and net.v2 have their own.
        stem = path.stem if path.suffix == ".json" else f"{path.name}."
        name = re.sub(r"[^A-Za-z0-9._-]", "_", stem)[:100] + ".witness.safetensors"
        content[path.with_name(name)] = packed = pack(arrays)
        proof |= {"file": name, "sha256": hashlib.sha256(packed).hexdigest()}
    inputs = [""] * len(radius) if known is None else [_hash(row) for row in known.inputs]
    document = {
        "format": FORMAT,
        **{name: value for name, value in fields.items() if name not in PER_ROW},
        "norm": _NORMS[float.fromhex(fields["norm"])],
        "rows": {
            **{name: fields[name] for name in PER_ROW},
            "radius": encode(proved),
            "claimed": fields["radius"],
            "inputs": inputs,
        },
        "proof": proof,
        "assumptions": [
            "The operations listed in the proof are what the model computes, in eval mode, but for "
            "a softmax at its end, which changes no order.",
            "The stored weights and rows are taken as exact, and so is arithmetic: nothing is said "
            "about rounding in the network as it is executed.",
        ],
        "citations": [
            "Tsuzuku, Sato, Sugiyama, Lipschitz-margin training, 2018",
            "Fazlyab, Robey, Hassani, Morari, Pappas, Efficient and accurate estimation of "
            "Lipschitz constants for deep neural networks, 2019",
        ],
    }
    document["digest"] = digest(document)
    content[path] = (json.dumps(document, indent=1) + "\n").encode()
    write_together(content, "path")


def _hash(tensor: Tensor) -> str:
    """Return the hash of type, shape and bytes, as the checker forms it."""
    kind = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}[tensor.dtype]
    data = tensor.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(f"{kind} {list(tensor.shape)} ".encode() + data).hexdigest()


def _proof(
    semantics: str, radius: Tensor, known: Changes | None
) -> tuple[list[float], dict[str, Any], dict[str, Tensor]]:
    """Return the radii that the file proves (zeros without a proof), the proof and its arrays."""
    nothing = {"missing": "", "file": "", "sha256": "", "tensors": [], "graph": [], "cuts": []}
    try:
        if known is None:
            raise Unsupported("a proof in a file of certificates that were loaded from a file", [])
        _check_claim(semantics, known.units is not None)
        found = _proofs().prove(known, radius)
    except (Unsupported, MissingExtra) as problem:
        return [0.0] * len(radius), nothing | {"missing": str(problem)}, {}
    tensors = [{"name": k, "sha256": _hash(v)} for k, v in found.tensors.items()]
    proof = {"tensors": tensors, "graph": found.ops, "cuts": found.cuts}
    return found.radius, nothing | proof, found.tensors | found.arrays


def _check_claim(semantics: str, in_units: bool) -> None:
    """Refuse what no file proves."""
    if in_units:
        why = "a file proves radii in plain distances alone, with every entry free"
        raise Unsupported("a proof of these radii", [Obstacle("", "units", why)])
    if semantics != "real":
        why = "a file proves radii of the exact real function alone"
        raise Unsupported("a proof of float32 radii", [Obstacle("", "semantics", why)])


def _proofs() -> ModuleType:
    """Return the module that writes proofs."""
    try:
        from holdfast.certificates.proofs import proof
    except ImportError as problem:
        raise MissingExtra("python-flint", "rigorous", "a proof in a file") from problem
    return proof


def missing_proof(
    graph: Graph, semantics: str, threshold: float = 0.0, moves: Moves = EVERYTHING
) -> str:
    """Return why files with certificates of a model will hold no proof; "" where they will.

    That is known before the rows are certified. What is left to go wrong are weights so extreme
    that the solvers of floating point find nothing.

    Args:
        graph: The model, as `certify_graph` takes it.
        semantics: `real` or `float32`.
        threshold: As for `certify`.
        moves: What may move, in which units.
    """
    try:
        units = moves.units(graph.perturbed_input.shape)
        _check_claim(semantics, units is not None)
        _proofs().plan(with_two_logits(graph.with_row_output(), threshold))
    except (Unsupported, MissingExtra) as problem:
        return str(problem)
    return ""


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
    proof = document.get("proof")  # of a smoothed model there is none
    if document["fingerprint"] != weights_hash(model):
        return False
    if proof is None or proof["missing"]:
        return True
    with safe_open(path.with_name(proof["file"]), "pt") as arrays:
        example = arrays.get_slice("inputs")[:1]
    threshold = float.fromhex(document["threshold"])
    ops, tensors, _ = lower(with_two_logits(capture(model, example), threshold))
    hashes = {name: _hash(tensor) for name, tensor in tensors.items()}
    same = hashes == {entry["name"]: entry["sha256"] for entry in proof["tensors"]}
    return same and ops == proof["graph"]


def check_file(path: Path, weights: Path | None = None, argument: str = "path") -> "Report":
    """Return what the independent checker finds proved in a file.

    Args:
        path: The file.
        weights: A safetensors file whose arrays must be those of the proof.
        argument: Name of the user's argument that chose the file, for the message.

    Raises:
        InvalidInput: When the checker rejects it.
        MissingExtra: When the checker is not installed.
    """
    try:
        import holdfast_check
    except ImportError as problem:
        raise MissingExtra("python-flint", "rigorous", "a check of a certificate file") from problem
    try:
        return holdfast_check.check(path, weights)
    except holdfast_check.Rejected as why:
        got = f"{str(path)!r}, rejected: {why}"
        raise InvalidInput(argument, got, "a file whose radii are proved") from why


def load_claimed(path: Path) -> dict[str, Any]:
    """Return the fields of the certificates as a file claims them, written as by `encode`.

    Raises:
        InvalidInput: When it is not a certificate file of this version, or was changed after it was
            written.
    """
    return _fields(_read(path), "claimed")


def load_proved(path: Path) -> dict[str, Any]:
    """Return the fields of the certificates that a file proves, written as by `encode`.

    Raises:
        InvalidInput: When it is not a certificate file of this version, was changed after it was
            written, holds no proof, or one that is wrong.
        MissingExtra: When the checker is not installed.
    """
    document = _read(path)
    check_file(path)
    if document["proof"]["missing"]:
        got = f"{str(path)!r}, which holds no proof ({document['proof']['missing']!a:.300})"
        raise InvalidInput("path", got, "a proof, or claimed=True to take the file's word")
    fields = _fields(document, "radius")
    for k, radius in enumerate(fields["radius"]):
        if float.fromhex(radius) == 0.0:
            fields["margin"][k] = (-math.inf).hex()
            if fields["reason"][k] == "certified":
                fields["reason"][k] = "not_proved"
    norm = norm_name(float.fromhex(fields["norm"]))
    return fields | {
        "constant": math.inf.hex(),
        "method": ["global"] * len(fields["radius"]),
        "guarantee": f"Every input within {norm} distance `radius` of a certified row has the same "
        "largest logit as the row, its label's, for the exact real function that the operations "
        "and weights in the file define: proved from the file when it was loaded.",
    }


def _fields(document: dict[str, Any], column: str) -> dict[str, Any]:
    """Return the fields in a document, with one of its two columns of radii."""
    rows = document["rows"]
    norms = {name: norm.hex() for norm, name in _NORMS.items()}
    fixed = ("format", "digest", "rows", "proof", "assumptions", "citations")
    fields = {name: value for name, value in document.items() if name not in fixed}
    fields["norm"] = norms.get(str(fields["norm"]), fields["norm"])
    fields |= {name: rows[name] for name in PER_ROW} | {"radius": rows[column]}
    return fields | {"smoothing": None}


def _read(path: Path) -> dict[str, Any]:
    """Return the document in a file whose digest fits.

    Raises:
        InvalidInput: When it is not a certificate file of this version, or was changed after it was
            written.
    """
    document = read_json(path, "path")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidInput("path", f"{str(path)!r}", f"a file with format {FORMAT}")
    rows = document.get("rows")
    odd = set(rows) ^ {*PER_ROW, "claimed", "inputs"} if isinstance(rows, dict) else {"rows"}
    odd |= {"digest", "norm", "proof", "assumptions", "citations"} - document.keys()
    if odd or not isinstance(rows, dict):
        got = f"{str(path)!r} (missing or unknown entries {', '.join(sorted(odd))})"
        raise InvalidInput("path", got, "those of `save`")
    check_digest(document, path)
    return document

"""One certificate file: what it must hold, and whether every radius in it is proved."""

import hashlib
import math
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

from flint import arb, ctx

from holdfast_check import files
from holdfast_check.files import digest, rational, read_json, read_once, require
from holdfast_check.network import Tensors, logits, read_graph
from holdfast_check.proof import squared_rates
from holdfast_check.smoothed import recount

_ROWS: dict[str, Any] = {"radius": [float], "claimed": [float], "margin": [float]}
_ROWS |= {"predicted": [int], "labels": [int], "reason": [str], "method": [str], "inputs": [str]}
_GRAPH = [{"op": str, "of": [int], "arrays": [str], "slope": float}]
_PROOF: dict[str, Any] = {"missing": str, "file": str, "sha256": str}
_PROOF |= {"tensors": [{"name": str, "sha256": str}], "graph": _GRAPH, "cuts": [int]}
_SPEC = {"format": str, "digest": str, "norm": str, "semantics": str, "classes": int}
_SPEC |= {"rows": _ROWS, "proof": _PROOF, "guarantee": str, "fingerprint": str, "constant": float}
_SPEC |= {"assumptions": [str], "citations": [str], "threshold": float, "units": [float]}
_SPEC["onehot"] = [[int]]


class Report(NamedTuple):
    """How many rows there are, have a proved radius, claim more; code 6: claimed but not proved."""

    rows: int
    proved: int
    claimed: int
    code: int
    lines: tuple[str, ...]


def check(certificate: str | Path, model: str | Path | None = None) -> Report:
    """Return what a file proves; what is not proved, or not in the model, is `Rejected`."""
    document = read_json(read_once(Path(certificate)))
    if isinstance(document, dict) and document.get("format") == "holdfast.smoothed/1":
        require(document.get("digest") == digest(document), "the digest is not that of the content")
        return _smoothed(document, bool(model))
    content = files.conform(document, _SPEC, "document")
    require(content["format"] == "holdfast.certificates/3", "the format is not certificates/3")
    require(content["digest"] == digest(document), "the digest is not that of the content")
    rows, proof, graph = content["rows"], content["proof"], content["proof"]["graph"]
    require(len({len(column) for column in rows.values()}) == 1, "rows of different lengths")
    pairs = list(zip(rows["radius"], rows["claimed"], strict=True))
    require(all(0 <= a <= b for a, b in pairs), "a radius is negative or above the claimed one")
    proved, bare = sum(a > 0 for a, _ in pairs), any(a == 0 < b for a, b in pairs)
    counts = len(pairs), proved, sum(a * 1.01 < b for a, b in pairs), 6 * (bare or not proved)
    claimed = f"claims above that, not proved by this file: {counts[2]} rows"
    if proof["missing"]:
        require(not proved, "radii above 0 without a proof")
        lines = [f"the file says why: {proof['missing']!a:.300}", claimed]
        return Report(*counts, (*lines, f"nothing is proved{', nor compared' * bool(model)}"))
    plain = content["semantics"] == "real" and not content["units"] + content["onehot"]
    require(plain, "only the exact real function is proved here, in plain distances")
    require(re.fullmatch(r"\w[\w.-]{0,150}", proof["file"], re.A), "no plain file name")
    raw = read_once(Path(certificate).parent / proof["file"])
    require(hashlib.sha256(raw).hexdigest() == proof["sha256"], f"{proof['file']} was changed")
    arrays, hashes = files.read_safetensors(raw), {e["name"]: e["sha256"] for e in proof["tensors"]}
    changed = [k for k, wanted in hashes.items() if k not in arrays or arrays[k].sha256 != wanted]
    require(not changed, f"arrays were changed: {changed}")
    layers = [op for op in graph if op["op"] in ("linear", "batch_norm")]
    used = {name for op in layers for name in op["arrays"] if name}
    found = (files.read_safetensors(read_once(Path(model))) if model else arrays).values()
    known = {each.sha256 for each in found}
    known |= {each.transposed().sha256 for each in found if len(each.shape) > 1}
    strange = [name for name in used if hashes.get(name) not in known]
    require(not strange, f"arrays that the model does not hold: {strange}")
    with ctx.workprec(128):
        _prove(content, {name: arrays[name] for name in hashes}, arrays)
    lines = ["v{} = {op}{of} {slope} {arrays!a:.99}".format(k, **o) for k, o in enumerate(graph, 1)]
    lines += [f"layers: {len(used)} arrays, {f'all in {model}' if model else 'not compared'}"]
    lines += [f"other arrays, not compared: {len(hashes) - len(used)}"]
    lines += [f"proved: {proved} of {len(pairs)} radii, for the exact real function", claimed]
    return Report(*counts, tuple(lines))


def _smoothed(document: Any, model: bool) -> Report:
    """Return what the votes in a file show, each row with the confidence that it states."""
    with ctx.workprec(128):
        rows, shown = recount(document)
    lines = (
        f"a smoothed model: {shown} of {rows} radii follow from the votes in the file",
        (
            "each holds with the confidence in the file, if the votes are as it says: they are not "
            f"counted again{', nor is the model compared' * model}"
        ),
    )
    return Report(rows, shown, 0, 6 * (not shown), lines)


def _prove(content: Any, tensors: Tensors, arrays: Tensors) -> None:
    """Prove every radius above 0."""
    rows, proof, classes = content["rows"], content["proof"], content["classes"]
    require(content["norm"] in ("1", "2", "inf"), "the norm is not 1, 2 or inf")
    require("inputs" in arrays, "no array of inputs")
    inputs, columns = arrays["inputs"], range(classes)
    require(inputs.shape[:1] == (len(rows["radius"]),), "the inputs are not those of the rows")
    steps = read_graph(proof["graph"], math.prod(inputs.shape[1:]), tensors)
    require(steps[-1].size == classes > 1, "the graph has another number of classes")
    if content["threshold"]:
        own = _is_above(proof["graph"], tensors, content["threshold"])
        require(own, "the graph has another threshold")
    rates = squared_rates(steps, proof["cuts"], float(content["norm"]), arrays)
    todo = [k for k, radius in enumerate(rows["radius"]) if radius > 0]
    for some in (todo[start : start + 64] for start in range(0, len(todo), 64)):
        outputs = logits(steps, [inputs.row(k).numbers() for k in some])
        for k, output in zip(some, outputs, strict=True):
            label, radius, margin = (rows[key][k] for key in ("labels", "radius", "margin"))
            require(inputs.row(k).sha256 == rows["inputs"][k], f"row {k}: another input")
            same = label in columns and rows["predicted"][k] == label
            require(same and rows["reason"][k] == "certified", f"row {k} contradicts itself")
            for other in (j for j in columns if j != label):
                gap = output[label] - output[other]
                far = arb(rates[max(label, other), min(label, other)] * rational(radius) ** 2)
                holds = gap > 0 and gap**2 > far and gap >= arb(rational(margin))
                require(holds, f"row {k}: margin or radius is not proved for class {other}")


def _is_above(graph: Any, tensors: Tensors, threshold: float) -> bool:
    """Return whether the logits are 0 and a number less the threshold, rounded as it is stored."""
    shift, last = [{"op": "", "arrays": []}, *graph][-2:]
    name = [*shift["arrays"], "", ""][1]
    if shift["op"] != "diagonal" or last["op"] != "take" or name not in tensors:
        return False
    if shift["arrays"][0] or tensors[name].dtype not in ("F32", "F64") or abs(threshold) > 1e38:
        return False
    stored = struct.pack("<f" if tensors[name].dtype == "F32" else "<d", -threshold)
    places = tensors[last["arrays"][0]].numbers()
    return last["of"] == [len(graph) - 1] and places == [-1, 0] and tensors[name].data == stored

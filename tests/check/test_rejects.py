"""The checker rejects what is not proved, with one typed line, whatever the file holds."""

import hashlib
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.check.zoo import example, numbers, rehash, rewrite, written
from tests.traps.truth import Function
from torch import Tensor

import holdfast
from holdfast.certificates.files import describes
from holdfast.errors import InvalidInput
from holdfast_check import Rejected, check
from holdfast_check.files import digest

NETS = (("relu", 2.0), ("group sort", math.inf), ("linear", 1.0), ("conv", 2.0))
NETS += (("batch norm", math.inf),)
Change = Callable[[dict, dict[str, Tensor], random.Random], None]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("net") for _ in NETS]
    return [written(folder, *net) for folder, net in zip(folders, NETS, strict=True)]


def copy(path: Path, folder: Path) -> Path:
    for name in (path.name, json.loads(path.read_text())["proof"]["file"]):
        (folder / name).write_bytes((path.parent / name).read_bytes())
    return folder / path.name


def _larger_radius(document, arrays, draw):
    rows = document["rows"]
    k = draw.randrange(len(rows["radius"]))
    larger = (numbers(rows["radius"])[k] * (1 + 10 ** draw.uniform(-6, 1))).hex()
    rows["radius"][k] = larger
    rows["claimed"][k] = max(rows["claimed"][k], larger, key=float.fromhex)


def _larger_margin(document, arrays, draw):
    margin = document["rows"]["margin"]
    k = draw.randrange(len(margin))
    margin[k] = (numbers(margin)[k] * (1 + 10 ** draw.uniform(-6, 1))).hex()


def _other_label(document, arrays, draw):
    rows, classes = document["rows"], document["classes"]
    k = draw.randrange(len(rows["labels"]))
    rows["labels"][k] = (rows["labels"][k] + draw.randrange(1, classes)) % classes
    rows["predicted"][k] = rows["labels"][k]


def _other_weight(document, arrays, draw):
    """Make an entry of a weight or bias ten times as large, and let all hashes fit."""
    names = [entry["name"] for entry in document["proof"]["tensors"]]
    if "1.mean" in names:  # shifts before a batch norm may as well make all margins larger
        names = [name for name in names if name.endswith(("weight", "variance"))]
    floats = [name for name in names if arrays[name].is_floating_point()]
    flat = arrays[draw.choice(floats)].view(-1)
    k = int(flat.abs().argmax())
    flat[k] = -10 * flat[k]
    rehash(document, arrays)


def _flipped_bit(document, arrays, draw):
    """Flip a bit of a weight; its hash stays."""
    names = [entry["name"] for entry in document["proof"]["tensors"]]
    raw = arrays[draw.choice(names)].view(-1).numpy().view(np.uint8)
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)


def _other_input(document, arrays, draw):
    raw = arrays["inputs"].view(-1).numpy().view(np.uint8)
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)


def _smaller_rate(document, arrays, draw):
    """Claim a smaller constant, and the larger radii that it would give."""
    factor = 1 + 10 ** draw.uniform(-4, 1)
    for name in arrays:
        if name.endswith(".q"):
            arrays[name] = arrays[name] * factor
    rows = document["rows"]
    for k, radius in enumerate(numbers(rows["radius"])):
        rows["radius"][k] = (radius * math.sqrt(factor)).hex()
        rows["claimed"][k] = rows["radius"][k]


def _other_witness(document, arrays, draw):
    """Damage a factor beyond what its slack forgives."""
    names = [name for name in arrays if name.endswith(".r")]
    if not names:
        return _larger_radius(document, arrays, draw)
    factor = arrays[draw.choice(names)]
    k = int(factor.abs().argmax())
    factor[k] = factor[k] * (1 + draw.choice((-1, 1)) * 10 ** draw.uniform(-2, 1))
    return None


def _other_norm(document, arrays, draw):
    """A ball of a larger norm ball: the radius does not hold there."""
    document["norm"] = {"1": "inf", "2": "inf", "inf": "nan"}[document["norm"]]


def _other_hash(document, arrays, draw):
    texts = [(document["rows"]["inputs"], k) for k in range(len(document["rows"]["inputs"]))]
    texts += [(entry, "sha256") for entry in document["proof"]["tensors"]]
    place, key = draw.choice(texts)
    k = draw.randrange(64)
    place[key] = place[key][:k] + draw.choice("ghij") + place[key][k + 1 :]


def _other_graph(document, arrays, draw):
    graph = document["proof"]["graph"]
    op = draw.choice(graph)
    kind = draw.randrange(4)
    if kind == 0:
        op["op"] = draw.choice(("exp", "square", "linear2", ""))
    elif kind == 1:
        op["of"] = [draw.choice((-1, len(graph) + 1, 10**9))]
    elif kind == 2:
        op["arrays"] = ["missing"]
    else:
        graph.append({"op": "leaky_relu", "of": [len(graph)], "arrays": [], "slope": "-0x1p+4"})


def _other_semantics(document, arrays, draw):
    document["semantics"] = draw.choice(("float32", "Real", ""))


CHANGES: tuple[Change, ...] = (
    _larger_radius,
    _larger_margin,
    _other_label,
    _other_weight,
    _flipped_bit,
    _other_input,
    _smaller_rate,
    _other_witness,
    _other_norm,
    _other_hash,
    _other_graph,
    _other_semantics,
)


def mutated(path: Path, folder: Path, change: Change, seed: int) -> Path:
    target = copy(path, folder)
    draw = random.Random(seed)
    rewrite(target, lambda document, arrays: change(document, arrays, draw))
    return target


def test_rewriting_alone_changes_nothing(files, tmp_path):
    for path in files:
        target = mutated(path, tmp_path, lambda *_: None, 0)
        assert check(target).proved == 4


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_mutation_is_rejected(files, tmp_path, change: Change):
    for k, path in enumerate(files):
        with pytest.raises(Rejected):
            check(mutated(path, tmp_path, change, k))


@pytest.mark.slow
def test_a_thousand_mutations_are_rejected(files, tmp_path):
    accepted = []
    for seed in range(1000):
        change, path = CHANGES[seed % len(CHANGES)], files[seed // len(CHANGES) % len(files)]
        try:
            check(mutated(path, tmp_path, change, seed))
        except Rejected:
            continue
        accepted.append((seed, change.__name__, path))
    assert not accepted


def damage(raw: bytes, draw: random.Random) -> bytes:
    """Return bytes with a few of them changed, left out, repeated or cut off."""
    data = bytearray(raw)
    for _ in range(draw.randrange(1, 4)):
        k, kind = draw.randrange(len(data)), draw.randrange(5)
        if kind == 0:
            data[k] = draw.randrange(256)
        elif kind == 1:
            data[k] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del data[k : k + draw.randrange(1, 40)]
        elif kind == 3:
            data[k:k] = data[k : k + draw.randrange(1, 40)]
        else:
            del data[k:]
        data = data or bytearray(b"{")
    return bytes(data)


def fuzz(files: list[Path], folder: Path, count: int) -> None:
    """Damage either file; what fits its hashes again must be parsed to the end."""
    for seed in range(count):
        draw = random.Random(seed)
        target = copy(draw.choice(files), folder)
        arrays = target.with_name(json.loads(target.read_text())["proof"]["file"])
        victim = draw.choice((target, arrays))
        before = victim.read_bytes()
        victim.write_bytes(damage(before, draw))
        if draw.random() < 0.7:
            refit(target, arrays)
        try:
            report = check(target)
        except Rejected as why:
            assert "\n" not in str(why) and str(why)
        else:
            assert report.proved <= 4


def refit(target: Path, arrays: Path) -> None:
    """Make digest and hash fit the damaged content, where it is still JSON."""
    try:
        document = json.loads(target.read_text())
        document["proof"]["sha256"] = hashlib.sha256(arrays.read_bytes()).hexdigest()
        document.pop("digest", None)
        text = json.dumps(document, sort_keys=True)
        document["digest"] = hashlib.sha256(text.encode()).hexdigest()
        target.write_text(json.dumps(document))
    except (ValueError, KeyError, TypeError, AttributeError):
        return


def test_damaged_files_give_typed_errors(files, tmp_path):
    fuzz(files, tmp_path, 300)


@pytest.mark.slow
def test_ten_thousand_damaged_files_give_typed_errors(files, tmp_path):
    fuzz(files, tmp_path, 10_000)


TEXTS = {
    "empty": ("", "not a JSON document"),
    "no object": ("[]", "missing or unknown keys"),
    "NaN": ('{"a": NaN}', "hexadecimal"),
    "infinity": ('{"a": -Infinity}', "hexadecimal"),
    "decimal": ('{"a": 1.5}', "hexadecimal"),
    "twice": ('{"a": 1, "a": 2}', "appears twice"),
    "deep": ("[" * 10**6, "not a JSON document"),
    "long number": ("1" * 5000, "not a JSON document"),
    "not UTF-8": (b"\xff\xfe", "not a JSON document"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_odd_documents_are_rejected(tmp_path, name):
    text, why = TEXTS[name]
    path = tmp_path / "c.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Rejected, match=why):
        check(path)


RADII = ("radius", "claimed")
PATHS = ("../c.witness.safetensors", "/etc/passwd", "", ".hidden", "a/b", "c\x00d", "x" * 300)


def first(document: dict) -> dict:
    return document["proof"]["graph"][0]


FIELDS = {
    "unknown key": (lambda d, a: d.update(more=1), "unknown keys"),
    "unknown row key": (lambda d, a: d["rows"].update(more=[]), "unknown keys"),
    "negative radius": (lambda d, a: d["rows"]["radius"].__setitem__(0, "-0x1.0p-3"), "."),
    "NaN radius": (lambda d, a: d["rows"]["radius"].__setitem__(0, "nan"), "hexadecimal"),
    "infinite radius": (
        lambda d, a: d["rows"].update(radius=["inf"] * 4, claimed=["inf"] * 4),
        ".",
    ),
    "decimal radius": (lambda d, a: d["rows"]["radius"].__setitem__(0, "0.5"), "hexadecimal"),
    "short row": (lambda d, a: d["rows"]["labels"].pop(), "different lengths"),
    "one class": (lambda d, a: d.update(classes=1), "classes"),
    "boolean label": (lambda d, a: d["rows"]["labels"].__setitem__(0, True), "another type"),
    "no proof": (lambda d, a: d["proof"].update(missing="who needs it"), "without a proof"),
    "cuts": (lambda d, a: d["proof"].update(cuts=[2, 1]), "not in order"),
    "no rows": (lambda d, a: a.pop("inputs"), "inputs"),
    "NaN witness": (lambda d, a: a["pair.1.0.l"].fill_(math.nan), "not finite"),
    "negative multiplier": (lambda d, a: a["pair.1.0.l"].mul_(-1), "negative"),
    "negative q": (lambda d, a: a["pair.1.0.q"].mul_(-1), "negative"),
    "no witness": (lambda d, a: a.pop("pair.1.0.r"), "no witness"),
    "short witness": (lambda d, a: a.update({"pair.1.0.r": torch.ones(3)}), "does not fit"),
    "NaN weight": (lambda d, a: (a["0.weight"].fill_(math.nan), rehash(d, a)), "not finite"),
    "groups": (lambda d, a: first(d).update(slope=(4.0).hex()), "does not fit"),
    "half a group": (lambda d, a: first(d).update(slope=(1.5).hex()), "does not fit"),
    "wide weight": (lambda d, a: (a.update({"0.weight": torch.ones(6, 5)}), rehash(d, a)), "fit"),
    "infinite slope": (
        lambda d, a: d["proof"]["graph"][1].update(op="leaky_relu", slope="inf"),
        ".",
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_odd_fields_are_rejected(files, tmp_path, name):
    change, why = FIELDS[name]
    target = copy(files[0], tmp_path)
    rewrite(target, change)
    with pytest.raises(Rejected, match=why):
        check(target)


@pytest.fixture(scope="module")
def normed(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("normed"), "batch norm")


def norm_of(document: dict) -> dict:
    (op,) = (op for op in document["proof"]["graph"] if op["op"] == "batch_norm")
    return op


def _eps(document: dict, eps: float) -> None:
    norm_of(document)["slope"] = eps.hex()


NORMED = {
    "less variance": (lambda d, a: a["1.variance"].mul_(0.5), "proved"),
    "less eps": (lambda d, a: _eps(d, 0.2), "proved"),
    "no eps": (lambda d, a: _eps(d, 0.0), "variance"),
    "eps below 0": (lambda d, a: _eps(d, -0.25), "variance"),
    "NaN eps": (lambda d, a: _eps(d, math.nan), "hexadecimal"),
    "more weight": (lambda d, a: a["1.weight"].mul_(1.001), "proved"),
    "other signs": (lambda d, a: a["1.weight"].neg_(), "proved"),
    "variance below 0": (lambda d, a: a["1.variance"].fill_(-1.0), "variance"),
    "infinite variance": (lambda d, a: a["1.variance"].fill_(math.inf), "not finite"),
    "short weight": (lambda d, a: a.update({"1.weight": torch.ones(3)}), "odd sizes"),
    "one variance": (lambda d, a: a.update({"1.variance": torch.ones(1)}), "odd sizes"),
    "no mean": (lambda d, a: norm_of(d)["arrays"].__setitem__(1, ""), "odd sizes"),
    "no variance": (lambda d, a: norm_of(d)["arrays"].__setitem__(0, ""), "odd sizes"),
    "another bias": (lambda d, a: a["1.bias"].sub_(1.0), "proved"),
    "another mean": (lambda d, a: a["1.mean"].add_(1.0), "proved"),
}


@pytest.mark.parametrize("name", NORMED)
def test_a_changed_batch_norm_is_rejected(normed, tmp_path, name):
    """With the hashes of what was changed: constant and logits are not those of the rows."""
    change, why = NORMED[name]
    target = copy(normed, tmp_path)
    rewrite(target, lambda document, arrays: (change(document, arrays), rehash(document, arrays)))
    with pytest.raises(Rejected, match=why):
        check(target)


@pytest.mark.parametrize("name", ["variance", "mean", "weight", "bias"])
def test_arrays_of_a_batch_norm_are_compared_with_the_model(normed, tmp_path, name):
    model, _, _ = example("batch norm")
    state = dict(model.state_dict())
    target = copy(normed, tmp_path)
    save_file(state, tmp_path / "same.safetensors")
    assert check(target, tmp_path / "same.safetensors").proved == 4
    own = {"variance": "1.running_var", "mean": "1.running_mean"}.get(name, f"1.{name}")
    save_file(state | {own: state[own] + 1e-6}, tmp_path / "other.safetensors")
    with pytest.raises(Rejected, match=rf"does not hold: \['1.{name}'\]"):
        check(target, tmp_path / "other.safetensors")
    rewrite(target, lambda document, arrays: arrays[f"1.{name}"].view(torch.int32)[1].add_(1))
    with pytest.raises(Rejected, match=rf"arrays were changed: \['1.{name}'\]"):
        check(target)


def test_more_eps_is_another_model(normed, tmp_path):
    """It makes everything slower, so that a file with it may be right about its own network."""
    target = copy(normed, tmp_path)
    model = example("batch norm")[0]
    assert describes(target, model)
    rewrite(target, lambda document, _: _eps(document, 0.5))
    assert not describes(target, model)


def test_integers_are_exact_numbers(files, tmp_path):
    """In a witness and in a graph, where only places are integers."""
    for number, why in ((0, "negative"), (3, "proved"), (2**62, "proved")):
        target = copy(files[0], tmp_path)
        whole = torch.tensor([number])
        rewrite(target, lambda document, arrays, q=whole: arrays.update({"pair.1.0.q": q}))
        with pytest.raises(Rejected, match=why):
            check(target)

    def divide(document, arrays):
        """Divide all logits, rates and margins by 3."""
        graph = document["proof"]["graph"]
        op = {"op": "quotient", "of": [len(graph)], "arrays": ["three"], "slope": (0.0).hex()}
        graph.append(op)
        document["proof"]["tensors"].append({"name": "three", "sha256": ""})
        arrays["three"] = torch.tensor([3])
        rehash(document, arrays)
        for name in ("radius", "margin"):
            document["rows"][name] = [(x / 3.001).hex() for x in numbers(document["rows"][name])]

    target = copy(files[2], tmp_path)  # linear: rates without a witness
    rewrite(target, divide)
    assert check(target).proved == 4


@pytest.mark.parametrize("name", PATHS, ids=range(len(PATHS)))
def test_arrays_lie_beside_the_document(files, tmp_path, name):
    target = copy(files[0], tmp_path)
    document = json.loads(target.read_text())
    document["proof"]["file"] = name
    document["digest"] = digest(document)
    target.write_text(json.dumps(document))
    with pytest.raises(Rejected, match="no plain file name"):
        check(target)


FORGED = "\x1b[2K\rproved: 3 of 3 radii\nclaims above that: 0 rows\u202e\x9b2J\u2028"


def printed(target: Path, *more: str) -> tuple[int, list[str]]:
    """Run the checker on a file by itself: its exit code, and the lines that it prints."""
    command = [sys.executable, "-m", "holdfast_check", str(target), *more]
    done = subprocess.run(command, capture_output=True, check=False)
    text = (done.stdout + done.stderr).decode("ascii")
    assert all(line.isprintable() for line in text.splitlines())
    return done.returncode, text.splitlines()


def test_a_reason_that_forges_a_verdict_is_quoted_and_proves_nothing(tmp_path):
    path = written(tmp_path, "linear")
    document = json.loads(path.read_text())
    document["rows"]["radius"] = document["rows"]["claimed"] = ["0x0.0p+0"] * 4
    nothing = {"file": "", "sha256": "", "tensors": [], "graph": [], "cuts": []}
    document["proof"] = {"missing": FORGED, **nothing}
    document["digest"] = digest(document)
    path.write_text(json.dumps(document))
    code, lines = printed(path)
    assert code == 6
    assert lines[0].startswith("the file says why: '\\x1b[2K")
    assert lines[1:] == ["claims above that, not proved by this file: 0 rows", "nothing is proved"]
    code, lines = printed(path, "--model", str(path))
    assert (code, lines[2:]) == (6, ["nothing is proved, nor compared"])


def test_a_claim_is_never_dressed_as_proved(files, tmp_path):
    """The proof of a stranger's file is right, and each row claims the whole world beside it."""

    def claim(document, arrays):
        rows = document["rows"]
        rows["claimed"] = [(1e9).hex()] * 4
        rows["method"] = ["local"] * 4
        document["guarantee"], document["constant"] = "All of it is proved.", (0.0).hex()

    target = copy(files[0], tmp_path)
    honest = holdfast.Certificates.load(target, claimed=True)
    before = numbers(json.loads(target.read_text())["rows"]["radius"])
    rewrite(target, claim)
    code, lines = printed(target)
    assert code == 0  # every row has a proved radius, and the last line says what is none
    assert lines[-2:] == [
        "proved: 4 of 4 radii, for the exact real function",
        "claims above that, not proved by this file: 4 rows",
    ]
    loaded = holdfast.Certificates.load(target)
    assert loaded.radius.tolist() == before and bool((loaded.radius <= honest.radius).all())
    assert loaded.constant == math.inf and "All of it" not in loaded.guarantee
    assert loaded.verified_accuracy(1e6) == 0.0
    assert set(loaded.method) == {"global"}
    assert holdfast.Certificates.load(target, claimed=True).verified_accuracy(1e6) == 1.0


def test_a_row_that_claims_a_radius_and_has_none_proved_shows(files, tmp_path):
    def claim(document, arrays):
        document["rows"]["radius"][1] = (0.0).hex()

    target = copy(files[0], tmp_path)
    rewrite(target, claim)
    code, lines = printed(target)
    assert code == 6
    assert lines[-2:] == [
        "proved: 3 of 4 radii, for the exact real function",
        "claims above that, not proved by this file: 1 rows",
    ]


def test_a_file_without_a_proof_loads_only_as_a_claim(tmp_path):
    path = written(tmp_path, "linear")
    holdfast.Certificates.load(path, claimed=True).save(path)
    assert check(path).proved == 0 and check(path).claimed == 4
    with pytest.raises(InvalidInput, match=r"holds no proof .*claimed=True"):
        holdfast.Certificates.load(path)


def test_a_wrong_proof_does_not_load(files, tmp_path):
    target = copy(files[0], tmp_path)
    rewrite(target, lambda document, arrays: _larger_radius(document, arrays, random.Random(0)))
    with pytest.raises(InvalidInput, match="rejected: "):
        holdfast.Certificates.load(target)


def test_rows_without_a_proof_load_without_a_radius(files, tmp_path):
    def drop(document, arrays):
        document["rows"]["radius"][1] = (0.0).hex()

    target = copy(files[0], tmp_path)
    rewrite(target, drop)
    loaded = holdfast.Certificates.load(target)
    assert loaded.reason[1] == "not_proved" and loaded.reason.count("certified") == 3
    assert float(loaded.radius[1]) == 0.0 and float(loaded.margin[1]) == -math.inf


def test_names_of_arrays_are_quoted(files, tmp_path):
    def rename(document, arrays):
        (op,) = (op for op in document["proof"]["graph"] if "0.weight" in op["arrays"])
        (entry,) = (e for e in document["proof"]["tensors"] if e["name"] == "0.weight")
        op["arrays"][0] = entry["name"] = FORGED
        arrays[FORGED] = arrays.pop("0.weight")

    target = copy(files[0], tmp_path)
    rewrite(target, rename)
    code, lines = printed(target)
    assert code == 0 and "\\x1b[2K\\rproved: 3 of 3" in lines[0]
    assert lines[-2] == "proved: 4 of 4 radii, for the exact real function"
    code, lines = printed(target, "--model", str(target.with_name("c.witness.safetensors")))
    assert code == 0 and lines[-4].startswith("layers: ")


@pytest.mark.parametrize("key", ["reason", "method", "inputs"])
def test_no_word_of_a_file_is_printed_as_it_is(files, tmp_path, key):
    target = copy(files[0], tmp_path)
    rewrite(target, lambda document, _: document["rows"].update({key: [FORGED] * 4}))
    assert printed(target)[0] in (0, 2)
    rewrite(target, lambda document, _: document.update({FORGED: 1}))
    assert printed(target)[0] == 2


def test_a_file_that_proves_nothing_ends_with_code_6(tmp_path):
    model, x, y = example("linear")
    holdfast.certify(model, x, (y + 1) % 3, method="global").save(tmp_path / "c.json")
    code, lines = printed(tmp_path / "c.json")
    assert code == 6 and "proved: 0 of 4 radii, for the exact real function" in lines


def test_links_and_other_things_are_no_files(files, tmp_path):
    target = copy(files[0], tmp_path)
    arrays = target.with_name(json.loads(target.read_text())["proof"]["file"])
    elsewhere = tmp_path / "elsewhere"
    arrays.rename(elsewhere)
    with pytest.raises(Rejected, match="cannot be read"):
        check(target)
    arrays.symlink_to(elsewhere)
    with pytest.raises(Rejected, match="cannot be read"):
        check(target)
    with pytest.raises(Rejected, match="cannot be read"):
        check(tmp_path)


def test_a_damaged_header_is_rejected(files, tmp_path):
    target = copy(files[0], tmp_path)
    arrays = target.with_name(json.loads(target.read_text())["proof"]["file"])
    for raw in (
        b"",
        b"\xff" * 8,
        (3).to_bytes(8, "little") + b"[1]",
        (2).to_bytes(8, "little") + b"{}",
    ):
        arrays.write_bytes(raw)
        refit(target, arrays)
        with pytest.raises(Rejected):
            check(target)


@pytest.mark.parametrize("reads", [[0], [0, 1]])
def test_a_cut_takes_nothing_from_before_it(tmp_path, reads):
    """A scalar function behind a cut may read nothing but the value of the cut."""
    target = written(tmp_path, "linear")

    def change(document, arrays):
        proof, (layer,) = document["proof"], document["proof"]["graph"]
        arrays["tiny"], arrays["places"] = torch.full((4,), 2.0**-20), torch.arange(4)
        # The identity, from the value before the cut, at a rate of 2^-19 to that cut.
        small = {"op": "diagonal", "of": [0], "arrays": ["tiny"], "slope": (0.0).hex()}
        skip = {"op": "leaky_relu", "of": reads, "arrays": [], "slope": (1.0).hex()}
        taken = {"op": "take", "of": [2], "arrays": ["places"], "slope": (0.0).hex()}
        proof.update(graph=[small, skip, taken, {**layer, "of": [3]}], cuts=[1, 2])
        for name in ("tiny", "places"):
            proof["tensors"].append({"name": name, "sha256": ""})
        arrays["to.1.q"] = torch.full((4,), 2.0**39, dtype=torch.float64)
        arrays["to.1.l"], arrays["to.1.r"] = torch.zeros(0).double(), torch.zeros(10).double()
        rehash(document, arrays)

    rewrite(target, change)
    with pytest.raises(Rejected, match="before its cut"):
        check(target)


def test_a_softmax_with_a_mask_is_no_part_that_may_be_left_out(tmp_path):
    """What its mask leaves out may be the largest of what it is taken of."""
    layer = torch.nn.Linear(4, 3, dtype=torch.float64)
    layer.weight.data.zero_()
    layer.bias.data.copy_(torch.tensor([1.0, 0.0, 3.0]))
    lost = torch.tensor([False, False, True])
    model = Function(lambda x: layer(x).masked_fill(lost, -math.inf).softmax(1)).double()
    x = torch.zeros(1, 4, dtype=torch.float64)
    path = tmp_path / "c.json"
    found = holdfast.certify(model, x, torch.tensor([0]), method="global")
    assert float(found.radius) > 0
    found.save(path)
    proof = json.loads(path.read_text())["proof"]
    assert "softmax" in proof["missing"] and not proof["graph"]

"""The command line as a new user and as a hostile one: answers, codes, one line for every error."""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import holdfast
from holdfast import cli
from holdfast.certificates.certify import certify_graph

HOLDFAST = str(Path(sys.executable).with_name("holdfast"))
FACTORIES = """
import sys
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()

def normal():
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()

def layer_normal():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).eval()

def double():
    return net().double()

class Flat(nn.Linear):
    def forward(self, x):
        return 0.0 * super().forward(x)

def flat():
    return Flat(4, 3).eval()

def number():
    return 3

def fails():
    raise RuntimeError("first line\\nsecond line")

def leaves():
    sys.exit(7)

def training():
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout())

class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.left(x) * self.right(x)

def product():
    torch.manual_seed(0)
    return Product().eval()

class Talking(nn.Linear):
    def forward(self, x):
        print("a model that talks")
        return super().forward(x)

def talking():
    return nn.Sequential(Talking(4, 3)).eval()

class Leaving(nn.Module):
    def forward(self, x):
        sys.exit("enough")

def leaving():
    return Leaving()
"""


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> Path:
    """Make a folder with good and bad data and weights."""
    folder = tmp_path_factory.mktemp("kitchen")
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(12, 4)).astype(np.float32), draw.integers(0, 3, 12)
    holes = np.where(np.arange(48).reshape(12, 4) == 5, np.nan, x).astype(np.float32)
    tables = {
        "good": (x, y),
        "wide": (x.astype(np.float64) + 1e-12, y),
        "floats": (x, y.astype(np.float32) + 0.5),
        "high": (x, y + 3),
        "negative": (x, y - 1),
        "holes": (holes, y),
        "empty": (x[:0], y[:0]),
        "narrow": (x[:, :3], y),
        "bytes": (x.astype(np.uint8), y),
        "short": (x, y[:5]),
        "pickled": (np.array([{}, 1], dtype=object), y[:2]),
    }
    for name, (inputs, labels) in tables.items():
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)
    (folder / "junk.npz").write_bytes(b"junk" * 99)
    (folder / "broken.npz").write_bytes(_damaged((folder / "good.npz").read_bytes()))
    (folder / "factories.py").write_text(FACTORIES)
    (folder / "unwell.py").write_text("raise ValueError('at import')")
    (folder / "folder").mkdir()
    save_file({"zz": torch.zeros(2)}, folder / "other.safetensors")
    return folder


def _damaged(content: bytes) -> bytes:
    middle = len(content) // 4
    return content[:middle] + bytes(40) + content[middle + 40 :]


@pytest.fixture(autouse=True)
def at_work(kitchen, monkeypatch):
    monkeypatch.chdir(kitchen)
    monkeypatch.syspath_prepend(str(kitchen))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def run(capsys):
    """Return a function that runs one command: (exit code, stdout, stderr)."""

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ending:
            cli.main(line.split())
        out, err = capsys.readouterr()
        return ending.value.code, out, err

    return run


NET = "module:factories:net"
CERTIFY = f"certify {NET}"
GOOD = f"{CERTIFY} npz:good.npz"
AUDIT = f"audit {NET} npz:good.npz --seconds 0.2"


@pytest.fixture(scope="module")
def audited(kitchen) -> str:
    """Return the text of an audit, which is run once."""
    with contextlib.chdir(kitchen), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(kitchen))
        with pytest.raises(SystemExit):
            cli.main(f"{AUDIT} --epsilon 0.1 --out whole".split())
    return (kitchen / "whole/audit.json").read_text()


BAD = {
    f"{CERTIFY} npz:missing.npz": "data: got 'missing.npz' (No such file or directory)",
    f"{CERTIFY} npz:folder": "data: got 'folder' (Is a directory)",
    f"{CERTIFY} npz:": "data: got 'npz:', wanted demo:NAME, npz:PATH, csv:PATH, parquet:PATH or",
    f"{CERTIFY} hf:x": "data: got 'hf:x', wanted demo:NAME, npz:PATH, csv:PATH, parquet:PATH or",
    f"{CERTIFY} csv:good.csv": "data: got 'good.csv' (No such file or directory), wanted a CSV",
    f"{CERTIFY} parquet:junk.npz": "data: got 'junk.npz' (",
    f"{CERTIFY} npz:good.npz?row=3": "data: got ?row=3, wanted ?inputs=...&labels=...&target=",
    f"{CERTIFY} npz:good.npz?scale=0": "data: got scale=0, wanted one number above 0",
    f"{CERTIFY} npz:good.npz?inputs=z": "data: got arrays inputs, labels, wanted",
    f"{CERTIFY} npz:junk.npz": "data: got 'junk.npz', which is something else, wanted an .npz",
    f"{CERTIFY} npz:broken.npz": "data: got 'broken.npz' (",
    f"{CERTIFY} npz:pickled.npz": "data: got 'pickled.npz' (Object arrays cannot be loaded",
    f"{CERTIFY} npz:floats.npz": "data: got the label 0.5 in row 0, wanted whole class",
    f"{CERTIFY} npz:high.npz": "labels: got values from 3 to 5, wanted 0 to 2",
    f"{CERTIFY} npz:negative.npz": "data: got the label -1 in row 0, wanted class numbers",
    f"{CERTIFY} npz:empty.npz": "inputs: got shape (0, 4), wanted at least one row",
    f"{CERTIFY} npz:narrow.npz": "data: got rows of shape [3] and type float32 (RuntimeError",
    f"{CERTIFY} npz:short.npz": "data: got labels of shape [5] for 12 inputs, wanted [12]",
    f"{CERTIFY} npz:holes.npz": "data: got NaN or infinity in 1 rows (the first is row 1)",
    f"lipschitz {NET} npz:holes.npz": "data: got NaN or infinity in 1 rows (the first is row 1)",
    f"lipschitz {NET}": "data: got nothing, wanted DATA",
    f"{GOOD} --norm 3": "norm: got '3', wanted 1, 2 or inf",
    f"{GOOD} --epsilon 1/0": "epsilon: got '1/0', wanted a finite distance",
    f"{GOOD} --epsilon -1": "epsilon: got '-1', wanted a finite distance",
    f"{GOOD} --epsilon nan": "epsilon: got 'nan', wanted a finite distance",
    f"{GOOD} --epsilon far": "epsilon: got 'far', wanted a finite distance",
    f"{GOOD} --method nearest": "method: got 'nearest', wanted one of auto, global, local",
    f"attack {NET} npz:good.npz --epsilon -1": "epsilon: got '-1', wanted a finite distance",
    f"attack {NET} npz:good.npz --norm 3": "norm: got '3', wanted 1, 2 or inf",
    f"attack {NET} npz:high.npz": "labels: got values from 3 to 5, wanted 0 to 2",
    f"attack {NET} npz:good.npz --out folder": "out: got 'folder', wanted a file in a folder",
    f"conditions {NET} npz:high.npz": "labels: got values from 3 to 5, wanted 0 to 2",
    f"conditions {NET} npz:good.npz --norm 3": "norm: got '3', wanted 1, 2 or inf",
    f"{GOOD} --out folder": "out: got 'folder', wanted a file in a folder",
    f"{GOOD} --out none/c.json": "out: got 'none/c.json', wanted a file in a folder",
    f"{GOOD} --out .hidden": "out: got '.hidden', wanted a name of 1 to 80 letters",
    f"{GOOD} --out=-rf": "out: got '-rf', wanted a name of 1 to 80 letters",
    f"{AUDIT} --out a;b": "out: got 'a;b', wanted a name of 1 to 80 letters",
    f"{GOOD} --nonsense 3": "Unknown option: --nonsense",
    f"{AUDIT} --epsilon 0": "epsilon: got 0.0, wanted a finite distance above 0",
    f"{AUDIT} --epsilon inf": "epsilon: got 'inf', wanted a finite distance",
    f"audit {NET} npz:good.npz --seconds nan --out x": "seconds: got nan, wanted a finite number",
    f"{AUDIT} --out good.npz": "out: got 'good.npz' (File exists), wanted a folder",
    f"{AUDIT} --out good.npz/deep": "out: got 'good.npz/deep' (Not a directory)",
    f"lipschitz {NET} npz:good.npz --seconds -1": "seconds: got -1.0, wanted a finite number",
    f"lipschitz {NET} npz:good.npz --tolerance -1": "tolerance: got -1.0, wanted a finite",
    f"knowledge {NET} npz:good.npz --layer nope": "layer: got 'nope', wanted one of 0, 1, 2",
    f"knowledge {NET} npz:good.npz --loss nope": "loss: got 'nope', wanted one of cross_entropy",
    f"knowledge {NET} npz:good.npz --delta 1": "delta, eta: got (1.0, None), wanted both",
    f"knowledge {NET} npz:good.npz --delta 0 --eta 1": "delta: got 0.0, wanted a distance above 0",
    f"knowledge {NET} npz:good.npz --distance far": "distance: got 'far', wanted one of euclid",
    f"descent {NET} npz:good.npz --step 0": "step: got 0.0, wanted a finite number above 0",
    f"descent {NET} npz:good.npz --step nan": "step: got nan, wanted a finite number above 0",
    f"descent {NET} npz:good.npz --momentum 1": "momentum: got 1.0, wanted a number from 0 to",
    f"descent {NET} npz:good.npz --batch 0": "batch_size: got 0, wanted a positive number",
    f"descent {NET} npz:high.npz": "labels: got values from 3 to 5, wanted 0 to 2",
    f"descent {NET} npz:good.npz --step 1e300": "step: got a loss of",
    f"{AUDIT} --step -1 --out x": "step: got -1.0, wanted a finite number above 0",
    f"{AUDIT} --training none.jsonl --out x": "training: got 'none.jsonl' (No such file",
    f"{AUDIT} --training factories.py --out x": "training: got 'factories.py' (line 1: Expecting",
    "audit --training factories.py --out x": "training: got one file for 2 models, wanted one",
    f"knowledge {NET} npz:good.npz --out folder": "out: got 'folder', wanted a file in a folder",
    "certify module:nowhere:net npz:good.npz": "model: got nowhere (ModuleNotFoundError",
    "certify module:unwell:net npz:good.npz": "model: got unwell (ValueError: at import)",
    "certify module:.factories:net npz:good.npz": "model: got .factories (TypeError",
    "certify module:factories:nope npz:good.npz": "model: got no function 'nope' in factories",
    "certify module:factories:number npz:good.npz": "model: got factories:number returned int",
    "certify module:factories:fails npz:good.npz": "raised RuntimeError: first line second line",
    "certify module:factories:leaves npz:good.npz": "raised SystemExit: 7",
    "certify module:factories:leaving npz:good.npz": "model: got code that ends Python (enough)",
    "certify module:factories:training npz:good.npz": "1: Dropout: training mode",
    "certify module:factories:product npz:good.npz --method global": "no global Lipschitz",
    "certify module:factories npz:good.npz": "model: got 'module:factories', wanted demo:NAME,",
    "certify zip:net npz:good.npz": "model: got 'zip:net', wanted module:zip:net, or one of",
    "certify hf:net npz:good.npz": "model: got 'hf:net', wanted hf:FOLDER with config.json",
    "certify onnx:net.onnx npz:good.npz": "model: got 'net.onnx' (No such file or directory)",
    "certify onnx:junk.npz npz:good.npz": "model: got 'junk.npz'",
    "certify torch:junk.npz npz:good.npz": "model: got 'junk.npz' (File is not a zip file)",
    f"{CERTIFY}?mean=0 npz:good.npz": "mean=0', wanted mean=... and std=... together",
    f"{CERTIFY}?mean=0&std=0 npz:good.npz": "model: got mean=0&std=0, wanted as many numbers in",
    "certify demo:nope demo:digits": "model: got 'nope', wanted one of digits-plain, digits",
    f"{CERTIFY}?weights=none.safetensors npz:good.npz": "weights: got 'none.safetensors' (No such",
    f"{CERTIFY}?weights=other.safetensors npz:good.npz": 'Missing key(s) in state_dict: "0.weig',
    f"{CERTIFY}?weights=net.pt npz:good.npz": "model: got ?weights=net.pt, no safetensors (no",
    "report missing.json": "runs: got 'missing.json' (No such file or directory)",
    "report folder": "runs: got 'folder/audit.json' (No such file or directory)",
    "report a b": "runs: got 2 runs, wanted --out PAGE as well",
    "report": "runs: got no run, wanted the folder of an audit, or its audit.json",
    "ls nowhere": "folder: got 'nowhere', wanted a folder",
    "report factories.py": "runs: got 'factories.py' (Expecting value",
    "nonsense": 'Unknown command "nonsense"',
    "certify nope csv:t.csv?target=c --fail-under 1": "fail-under: got targets in 'csv:t.c",
    "certify nope csv:t.csv?target=c --attack": "wanted classes, one of which an attack",
    "attack nope npz:t.npz?rows=3&target=c": "data: got targets in 'npz:t.npz?rows=3&target=c'",
    "audit nope csv:t.csv?target=c": "wanted classes: an audit counts right answers; for targets",
    "knowledge nope csv:t.csv --free a": "free: got 'a', wanted none: knowledge compares",
    "descent nope csv:t.csv --scale auto": "scale: got 'auto', wanted none: a training step moves",
    "descent nope csv:t.csv --onehot a": "onehot: got list, wanted none: a training step moves the",
    f"attack {NET} npz:good.npz --seed -1": "seed: got -1, wanted a whole number, at least 0 and",
    f"lipschitz {NET} npz:good.npz --seed -1": "seed: got -1, wanted a whole number, at least 0",
    f"{AUDIT} --seed -1": "seed: got -1, wanted a whole number, at least 0 and below 2**63",
    "certify": 'Command "certify" parameter --model requires an argument',
    "doctor more": "Unused Tokens: ['more']",
}


@pytest.mark.parametrize(("line", "said"), BAD.items(), ids=BAD)
def test_bad_input_ends_with_code_2_and_one_line_that_says_why(run, line, said):
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert err.startswith("holdfast: ") and err.count("\n") == 1
    assert said in err


DOCUMENTS = {
    GOOD: {"radius", "reason", "clean_accuracy", "verified_accuracy", "guarantee"},
    f"lipschitz {NET} npz:good.npz --seconds 0.2": {"lower", "upper", "trace", "assumptions"},
    "lipschitz demo:digits-plain --seconds 0": {"lower", "upper", "outcome"},
    f"{GOOD} --attack": {"radius"},
    f"attack {NET} npz:good.npz": {"distance", "reason"},
    f"attack {NET} npz:good.npz --epsilon 0.1": {"distance", "accuracy_under_attack"},
    f"conditions {NET} npz:good.npz": {"metric", "bounded", "ratio", "resolution", "advice"},
    f"knowledge {NET} npz:good.npz": {"volatility", "normalised", "rank", "worst"},
    f"knowledge {NET} npz:good.npz --delta 1 --eta 0.5": {"certificates", "near", "by_class"},
    f"{AUDIT} --out json": {"subjects", "versions", "citations"},
    f"descent {NET} npz:good.npz": {"answer", "smoothness", "largest_safe_step", "holds"},
    f"descent {NET} npz:good.npz --momentum 0.9 --batch 5": {"noise", "effective_step"},
    "report json/audit.json": {"page"},
    "ls json": {"runs"},
    "knowledge module:factories:product npz:good.npz": {"volatility"},
    "doctor": {"python", "versions", "main_job"},
}


@pytest.mark.parametrize(("line", "keys"), DOCUMENTS.items(), ids=DOCUMENTS)
def test_json_is_one_document_and_nothing_else(run, line, keys):
    if (
        line.startswith(("report", "ls")) and not Path("json").exists()
    ):  # its audit ran in another worker
        run(f"{AUDIT} --out json")
    code, out, _ = run(f"{line} --json")
    document = json.loads(out)
    assert code == 0 and (document["verb"] == "audit" or not re.search(r"\bnull\b", out))
    assert keys <= set(document)
    assert document["verb"] == line.split()[0] and document["seconds"] >= 0
    assert document.get("norm", "l2") in ("l1", "l2", "linf")
    said = set(document) if document["verb"] == "audit" else {*nested(document)}
    undocumented = said - documented("every verb") - documented(document["verb"])
    assert not undocumented, f"say in docs/commands.md what they are: {undocumented}"


BY_NAME = {"by_class": 2, "rows": 1, "versions": 1, "missing": 1, "normalisation": 1, "worst": 1}
BY_NAME |= dict.fromkeys(["volatility", "normalised", "clipped", "near", "same_label"], 1)
BY_NAME |= dict.fromkeys(["other_label", "perturbed", "near_radius", "near_rounding", "floor"], 1)
BY_NAME |= dict.fromkeys(["collisions", "steepest", "scale"], 1)
"""Fields whose entries are called by layers, rows or labels, and in how many steps."""


def nested(value: object, names: int = 0) -> Iterator[str]:
    """Yield the names of all fields of a document, also of objects in it."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if not names:
                yield key
            yield from nested(entry, names - 1 if names else BY_NAME.get(key, 0))
    elif isinstance(value, list):
        for entry in value:
            yield from nested(entry, names)


def documented(verb: str) -> set[str]:
    """Return the fields that the page of commands names for a verb."""
    lines = (Path(__file__).parents[1] / "docs/commands.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {verb} |"))
    return set(re.findall(r"`(\w+)`", line))


@pytest.mark.parametrize("line", ["", "--help", *(f"{verb} --help" for verb in list(cli.app)[:6])])
def test_help_is_help(run, line):
    code, out, err = run(line)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: holdfast")
    assert "Raises" not in out


def test_rows_in_another_type_are_converted_and_said_to_be(run):
    code, out, err = run(f"{CERTIFY} npz:wide.npz --json")
    assert code == 0 and json.loads(out)["radius"]
    assert err == (
        "holdfast: warning: data: rows of float64 were rounded to the model's float32: "
        "results are about those\n"
    )
    code, _, err = run("certify module:factories:double npz:good.npz")
    assert (code, err) == (0, "")


def test_bytes_are_scaled_and_radii_shown_in_both_units(run):
    code, out, err = run(f"{CERTIFY} npz:bytes.npz --json")
    document = json.loads(out)
    assert code == 0 and document["scale"] == 255 and document["normalisation"] == {}
    assert err.startswith("holdfast: warning: data: bytes were divided by 255;")
    code, out, err = run(f"{CERTIFY}?mean=0.5&std=0.5 npz:bytes.npz?scale=255")
    assert (code, err) == (0, "") and "x 255" in out


def test_what_a_model_prints_goes_to_stderr(run):
    code, out, err = run("knowledge module:factories:talking npz:good.npz --json")
    assert code == 0 and json.loads(out)
    assert "a model that talks" in err and "a model that talks" not in out


def test_files_are_written_where_asked(run, tmp_path):
    code, _, _ = run(f"{GOOD} --out {tmp_path}/c.json")
    assert code == 0
    code, out, _ = run(f"attack {NET} npz:good.npz --out {tmp_path}/a.json")
    assert code == 0 and "nearest (10 %" in out
    assert len(holdfast.Attacks.load(tmp_path / "a.json")) == 12
    code, _, _ = run(f"knowledge {NET} npz:good.npz --layer 0 --layer 2 --out {tmp_path}/k.json")
    assert code == 0
    assert json.loads((tmp_path / "k.json").read_text())["layers"] == ["0", "2"]
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["a.json", "c.json", "c.witness.safetensors", "k.json"]


@pytest.mark.parametrize("more", ["", "--semantics float32"])
def test_a_file_without_a_proof_is_announced_before_the_rows(run, tmp_path, more, monkeypatch):
    before = []
    real = certify_graph
    monkeypatch.setattr(
        "holdfast.certificates.certify.certify_graph",
        lambda *given: (before.append(sys.stderr.getvalue()), real(*given))[1],
    )
    model = NET if more else "module:factories:layer_normal"
    out = tmp_path / "c.json"
    code, _, err = run(f"certify {model} npz:good.npz {more} --out {out}")
    why = "semantics: a file proves" if more else "1: layer_norm: the checker does not know"
    assert code == 0 and before == [err] and err.count("\n") == 1
    assert err.startswith(f"holdfast: warning: {out} will hold no proof: ") and why in err
    code, text, _ = run(f"check {out}")
    assert code == 6 and why in " ".join(text.split())
    assert run(f"certify {NET} npz:good.npz --out {out}")[2] == ""


def test_an_audit_shows_refusals_and_the_command_that_repeats_it(run, tmp_path):
    code, out, _ = run(
        f"audit module:factories:product npz:good.npz --epsilon 0.1 --out {tmp_path}/it"
    )
    assert code == 4
    assert "refused" in out and "no global Lipschitz constant" in " ".join(out.split())
    document = json.loads((tmp_path / "it/audit.json").read_text())
    code, _, _ = run(document["command"].removeprefix("holdfast "))
    assert code == 4
    again = json.loads((tmp_path / "it/audit.json").read_text())
    assert again["command"] == document["command"]


def test_a_contradicted_certificate_ends_with_code_1_and_asks_for_a_report(run, monkeypatch):
    def forged(*arguments):
        certificates = certify_graph(*arguments)
        return dataclasses.replace(certificates, radius=1e3 * certificates.radius)

    monkeypatch.setattr("holdfast.certificates.certify.certify_graph", forged)
    code, out, err = run(f"{GOOD} --attack")
    assert (code, out) == (1, "")
    assert err.startswith("holdfast: row ") and err.endswith("; please report it\n")


@pytest.mark.parametrize("missing", ["data", "norm", "epsilon", "seconds"])
def test_a_damaged_audit_is_bad_input(run, audited, tmp_path, missing):
    document = json.loads(audited)
    del document[missing]
    (tmp_path / "part.json").write_text(json.dumps(document))
    code, _, err = run(f"report {tmp_path}/part.json")
    assert code == 2
    assert err.startswith("holdfast: runs: got ") and err.count("\n") == 1


def test_a_folder_in_use_ends_with_code_3(run, tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run(f"{AUDIT} --out {tmp_path}")
    assert code == 3
    assert "is in use by another run" in err
    assert os.listdir(tmp_path) == [".lock"]


ENDINGS = {
    "memory": (MemoryError("3 TB"), 5, "out of memory: 3 TB"),
    "torch memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 5, "out of"),
    "disk": (OSError(28, "No space left on device", "audit.json"), 5, "disk is full: audit.json"),
    "interrupt": (KeyboardInterrupt(), 130, "interrupted; nothing half-written is left"),
    "ours": (ZeroDivisionError("1 / 0"), 1, "a mistake in Holdfast, please report it: ZeroDiv"),
}


@pytest.mark.parametrize(("problem", "code", "said"), ENDINGS.values(), ids=ENDINGS)
def test_every_ending_has_its_code_and_no_traceback(run, monkeypatch, problem, code, said):
    def fail(*_):
        raise problem

    monkeypatch.setattr("holdfast.versions.diagnosis", fail)
    ended, out, err = run("doctor")
    assert (ended, out) == (code, "")
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize("step", ["capture", "Lipschitz bracket", "page"])
def test_ctrl_c_ends_the_whole_audit_and_leaves_no_file(run, monkeypatch, tmp_path, step):
    before = signal.getsignal(signal.SIGINT)
    code, out, err = _stopped_at(step, run, monkeypatch, tmp_path)
    assert (code, out) == (130, "")
    assert err == "holdfast: interrupted; nothing half-written is left\n"
    assert not [path for path in (tmp_path / "it").iterdir() if path.name != "audit.json"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("step", ["certificates", "knowledge continuity"])
def test_a_stopped_audit_keeps_what_is_done(run, monkeypatch, tmp_path, step):
    code, out, err = _stopped_at(step, run, monkeypatch, tmp_path)
    assert (code, out) == (130, "")
    page = tmp_path / "it/report.html"
    assert err == f"holdfast: interrupted; what was done before is in {page}\n"
    document = json.loads((tmp_path / "it/audit.json").read_text())
    assert document["stopped"].endswith(step)
    (subject,) = document["subjects"]
    done = [part for part in ("lipschitz", "certificates", "knowledge") if part in subject]
    assert done == (["lipschitz"] if step == "certificates" else ["lipschitz", "certificates"])
    assert "Lipschitz" in page.read_text()


def _stopped_at(step, run, monkeypatch, tmp_path):
    stops = iter([_interrupt])
    stopping = contextlib.nullcontext(lambda now: step in now.part and next(stops, lambda: None)())
    monkeypatch.setattr("holdfast.progress.show_progress", lambda part: stopping)
    return run(f"{AUDIT} --out {tmp_path}/it")


@pytest.mark.parametrize(("least", "code"), [(0.0, 0), (1.0, 1)])
def test_a_share_that_is_too_small_has_its_code(run, least, code):
    ended, out, _ = run(f"{CERTIFY} npz:good.npz --epsilon 1e9 --fail-under {least} --json")
    assert ended == code and json.loads(out)["verified_accuracy"] == 0.0
    ended, _, err = run(f"{CERTIFY} npz:good.npz --fail-under 60")
    assert ended == 2 and "fail-under: got 60" in err
    ended, _, err = run(f"{AUDIT} --fail-under 0.5")
    assert ended == 2 and "wanted --epsilon as well" in err


def test_few_rows_are_told_of_where_shares_are_asked_for(run, tmp_path):
    few = "holdfast: warning: data: 12 rows are few, a single one is 8.3% of every share: give 30"
    assert run(f"{GOOD} --epsilon 0.1")[2].startswith(few)
    assert run(f"{GOOD} --fail-under 0")[2].startswith(few)
    assert run(GOOD)[2] == run(f"{GOOD} --epsilon 0.1 --quiet")[2] == ""
    code, out, err = run(f"{AUDIT} --out {tmp_path / 'few'} --json")
    (told,) = [line for line in err.splitlines() if "warning: data" in line]
    assert code == 0 and told.startswith(few)
    assert json.loads(out)["warnings"] == [told.removeprefix("holdfast: warning: ")]


def test_quiet_says_nothing_but_the_answer_and_errors(run):
    code, out, err = run(f"{GOOD} --quiet")
    assert (code, err) == (0, "") and "certified" in out
    code, out, err = run(f"{CERTIFY} npz:none.npz --quiet")
    assert (code, out) == (2, "") and err.startswith("holdfast: data: got ")


def test_threads_are_those_that_were_asked_for(run):
    before = torch.get_num_threads()
    try:
        code, *_ = run(f"{GOOD} --threads 1")
        assert code == 0 and torch.get_num_threads() == 1
        code, _, err = run(f"{GOOD} --threads 0")
        assert code == 2 and "threads: got 0" in err
    finally:
        torch.set_num_threads(before)


def _interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ctrl_c_and_sigterm_in_a_search_end_the_audit(tmp_path, sent):
    command = [HOLDFAST, "audit", "--seconds", "60", "--norm", "inf", "--out", str(tmp_path / "it")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        _wait((tmp_path / "it/.lock").exists)
        time.sleep(0.5)
        process.send_signal(sent)
        out, err = process.communicate()
    assert process.returncode == 128 + sent
    assert (out, err) == ("", "holdfast: interrupted; nothing half-written is left\n")
    assert os.listdir(tmp_path / "it") == []


def test_seeds_are_told_and_taken(run, tmp_path):
    for verb, more in (("attack", ""), ("knowledge", ""), ("lipschitz", "--seconds 0.1")):
        out = "" if verb == "lipschitz" else f"--out {tmp_path}/{verb}.json"
        line = f"{verb} {NET} npz:good.npz --seed 7 --json {more} {out}"
        code, out, _ = run(line)
        assert code == 0 and json.loads(out)["seed"] == 7
    assert holdfast.Attacks.load(tmp_path / "attack.json").seed == 7
    assert holdfast.Knowledge.load(tmp_path / "knowledge.json").seed == 7


def test_a_stopped_attack_tells_how_far_it_came(run, monkeypatch):
    stopping = contextlib.nullcontext(lambda now: _interrupt())
    monkeypatch.setattr("holdfast.progress.show_progress", lambda part: stopping)
    code, out, err = run(f"attack {NET} npz:good.npz --json")
    document = json.loads(out)
    done = document["reason"].count("misclassified")
    assert code == 130 and document["stopped"] == f"{done} of 12 rows" and done < 12
    assert err.endswith(f"holdfast: stopped: {done} of 12 rows\n")


@pytest.mark.parametrize("step", ["1e-9", "0.1"])
def test_infinite_numbers_of_a_step_are_words(run, step):
    """A loss without curvature: no step is too large."""
    code, out, _ = run(f"descent module:factories:flat npz:good.npz --step {step} --json --quiet")
    document = json.loads(out)
    assert code == 0 and document["safe_along_step"] == "inf"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_certify_keeps_the_rows_that_are_done(run, monkeypatch, tmp_path, sent):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    _, out, _ = run(f"{GOOD} --json")
    whole = json.loads(out)
    monkeypatch.setattr("holdfast.certificates.local.batches", lambda *_: torch.arange(3).split(3))
    stops = iter([lambda: signal.raise_signal(sent)])
    stopping = contextlib.nullcontext(
        lambda now: 0 < now.done < now.total and next(stops, lambda: None)()
    )
    monkeypatch.setattr("holdfast.progress.show_progress", lambda part: stopping)
    code, out, err = run(f"{GOOD} --json --attack --fail-under 1 --out {tmp_path}/c.json")
    document = json.loads(out)
    left = document["reason"].count("stopped")
    assert code == 128 + sent and 0 < left < 12
    assert document["stopped"] == f"{12 - left} of 12 rows"
    assert err.endswith(f"holdfast: stopped: {12 - left} of 12 rows\n")
    for radius, full, reason in zip(
        document["radius"], whole["radius"], document["reason"], strict=True
    ):
        assert radius == (0.0 if reason == "stopped" else full)
    saved = json.loads((tmp_path / "c.json").read_text())
    assert saved["rows"]["reason"] == document["reason"]
    assert f"Stopped: {12 - left} of 12 rows" in saved["guarantee"]
    assert holdfast.Certificates.load(tmp_path / "c.json", claimed=True).reached == 12 - left
    assert {each: signal.getsignal(each) for each in before} == before


def _wait(condition) -> None:
    for _ in itertools.takewhile(lambda _: not condition(), range(600)):
        time.sleep(0.05)


def test_a_reader_that_goes_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.closing(os.fdopen(writer, "w")) as pipe:
        ended = subprocess.run(
            [HOLDFAST, "doctor"], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_full_disk_behind_stdout_is_told():
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [HOLDFAST, "doctor", "--json"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert ended.returncode == 5
    assert ended.stderr == b"holdfast: the disk is full: standard output\n"


def test_a_narrow_terminal_cuts_no_number_off(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = run(f"knowledge {NET} npz:good.npz")
    assert code == 0
    assert all(len(line) <= 40 for line in out.splitlines())
    assert "…" not in out


def test_a_certificate_file_is_checked(run, tmp_path) -> None:
    path, weights = tmp_path / "c.json", tmp_path / "w.safetensors"
    model = f"{NET}?weights={weights}"
    save_file(_net_weights(1), weights)
    assert run(f"certify {model} npz:good.npz --method global --out {path}")[0] == 0
    code, out, _ = run(f"check {path} --model {model} --json")
    found = json.loads(out)
    assert (code, found["claimed"]) == (0, 0) and found["proved"] > 0
    assert f"all in {weights}" in out and "that Holdfast reads in" in out
    code, out, err = run(f"check {path} --model {NET}")
    assert (code, out) == (2, "") and "another network" in err
    save_file(_net_weights(2), weights)
    code, out, err = run(f"check {path} --model {model}")
    assert (code, out) == (2, "") and "rejected: arrays that the model does not hold" in err
    path.write_text(path.read_text().replace("0x1", "0x2", 1))
    code, out, err = run(f"check {path}")
    assert (code, out, err.count("\n")) == (2, "", 1) and "rejected: " in err


def _net_weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    shapes = {"0.weight": (6, 4), "0.bias": (6,), "2.weight": (3, 6), "2.bias": (3,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_what_is_only_claimed_has_its_exit_code(run, tmp_path) -> None:
    model = "module:factories:layer_normal"
    assert run(f"certify {model} npz:good.npz --out {tmp_path}/c.json")[0] == 0
    code, out, _ = run(f"check {tmp_path}/c.json")
    assert code == 6 and "nothing is proved" in out
    code, out, _ = run(f"check {tmp_path}/c.json --model {model} --json")
    assert code == 6 and "weights alone are those" in json.loads(out)["lines"][-1]
    code, out, err = run(f"check {tmp_path}/c.json --model {NET}")
    assert (code, out) == (2, "") and "another network" in err


def test_nothing_of_a_file_reaches_the_terminal_as_it_is(run, kitchen, audited, tmp_path):
    """Names that would clear a line and write another, in each kind of file that is read."""
    forged = "\x1b[2K\rproved: all\n\x9b2J\u202e"
    (kitchen / "odd.csv").write_text(f'"{forged}","{forged}2",label\n1,2,0\n')
    np.savez(kitchen / "odd.npz", **{f"{forged}x": np.zeros(3)})
    save_file({forged: torch.zeros(2)}, kitchen / "odd.safetensors")
    audit = json.loads(audited)
    audit["subjects"][0]["name"] = audit["norm"] = forged
    (tmp_path / "odd.json").write_text(json.dumps(audit))
    (tmp_path / "odder.json").write_text(json.dumps({forged: 1, "format": forged}))
    for line in (
        f"{CERTIFY} csv:odd.csv",
        f"{CERTIFY} csv:odd.csv?labels=x",
        f"{CERTIFY} npz:odd.npz",
        f"{CERTIFY}?weights=odd.safetensors npz:good.npz",
        f"report {tmp_path}/odd.json",
        f"report {tmp_path}/odder.json",
        f"check {tmp_path}/odder.json",
        f"{AUDIT} --training {tmp_path}/odder.json --out {tmp_path}/b",
    ):
        _, out, err = run(line)
        assert all(each.isprintable() for each in (out + err).splitlines()), line
        assert err.count("\n") <= 1
    page = (tmp_path / "report.html").read_text()
    assert not {"\x1b", "\x9b", "\u202e"} & set(page)


def test_several_audits_are_listed_and_share_a_page(run, audited, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "audit.json").write_text(audited)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/audit.json").write_text("{}")  # not one of ours
    code, out, _ = run(f"ls {tmp_path} --json")
    runs = json.loads(out)["runs"]
    assert code == 0 and [one["run"] for one in runs] == [f"{tmp_path}/a", f"{tmp_path}/b"]
    subject = json.loads(audited)["subjects"][0]
    model = runs[0]["models"][0]
    assert (model["name"], model["accuracy"]) == (subject["name"], subject["accuracy"])
    code, out, _ = run(f"ls {tmp_path}")
    assert code == 0 and out.count(subject["name"]) == 2 and "at 0.1" in out
    assert "no audit lies below" in run(f"ls {tmp_path}/c")[1]
    page = tmp_path / "both.html"
    assert run(f"report {tmp_path}/a {tmp_path}/b/audit.json --out {page}")[0] == 0
    text = page.read_text()
    assert f"{subject['name']} (1)" in text and f"{subject['name']} (2)" in text


def test_names_are_never_read_as_markup(run, audited, tmp_path):
    folder = tmp_path / "[bold]x[/bold]"
    folder.mkdir(parents=True)
    (folder / "audit.json").write_text(audited)
    code, out, _ = run(f"report {folder}/audit.json")
    assert code == 0
    assert "[bold]x[/bold]" in out.replace("\n", "")


def test_import_is_cheap():
    code = "import sys, holdfast; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    heavy = {"torch", "numpy", "rich", "cyclopts", "altair", "sklearn", "jinja2"}
    assert not heavy & set(printed.stdout.decode().split())


def test_the_command_line_itself_needs_no_torch():
    code = "import sys, holdfast.cli; print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert "torch" not in printed.stdout.decode().split()


@pytest.mark.parametrize("verb", ["certify", "attack", "knowledge", "conditions", "descent"])
def test_random_rows_have_no_labels(verb, capsys) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main([verb, "demo:digits-plain", "normal:64"])
    said = capsys.readouterr().err
    assert ending.value.code == 2 and "wanted rows with labels" in said


@pytest.mark.parametrize("content", ["a,b,label\n1,2,0\n", "import holdfast\n"])
def test_data_is_never_written_over(content, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text(content)
    with pytest.raises(SystemExit) as ending:
        cli.main(["certify", "demo:digits-plain", "demo:digits", "--out", "file"])
    assert ending.value.code == 2 and "which holds something else" in capsys.readouterr().err
    assert Path("file").read_text() == content

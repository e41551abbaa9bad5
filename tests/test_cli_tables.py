"""Tables on the command line: bare paths, words, gaps, and what is said about them."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from tests.tiny_text import save_classifier
from torch import nn

from holdfast import cli

FACTORIES = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
"""
ROWS = [("0.5", "red", "1.5", "yes"), ("-1", "blue", "2", "no"), ("2", "red", "", "yes")]
HEAD = ("size", "color", "age", "kind")
NET = "module:tabular_nets:net?weights=net.safetensors"
QUERY = "?labels=kind&onehot=color&missing=median"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    save_file(net.state_dict(), folder / "net.safetensors")
    torch.save(net.state_dict(), folder / "net.pt")
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(net.eval(), (torch.zeros(2, 4),), dynamic_shapes=batch)
    torch.export.save(program, folder / "net.pt2")
    (folder / "tabular_nets.py").write_text(FACTORIES)
    (folder / "rows.csv").write_text("\n".join(map(",".join, [HEAD, *ROWS])))
    (folder / "plain.csv").write_text("a,b,c,d\n1.5,2,3,4\n4,3,2,1\n")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Return a function that runs one command: (exit code, stdout without time, stderr)."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ending:
            cli.main(list(words))
        out, err = capsys.readouterr()
        return ending.value.code, re.sub(r'^ "seconds": .*\n', "", out, flags=re.M), err

    return run


@pytest.mark.parametrize("model", ["net.pt2", NET])
def test_a_table_of_words_and_gaps_is_certified(run, model):
    code, out, err = run("certify", model, f"rows.csv{QUERY}", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["read"] == {
        "classes": {"no": 0, "yes": 1},
        "onehot": {"color": [1, 2]},
        "missing": {"median": {"age": 1}},
    }
    assert document["labels"] == [1, 0, 1]
    for said in (
        "labels are words, numbered in their order: 0 = 'no', 1 = 'yes'",
        "color is given in entries 1-2: color=blue, color=red",
        "set to the median of their column: age (1 of 3 rows, 1.75)",
    ):
        assert err.count(said) == 1


def test_a_group_is_named_by_its_column(run):
    plain = run("certify", "net.pt2", f"rows.csv{QUERY}", "--json", "--onehot", "1,2")
    named = run("certify", "net.pt2", f"rows.csv{QUERY}", "--json", "--onehot", "color")
    assert plain == named and plain[0] == 0
    free = run("certify", "net.pt2", f"rows.csv{QUERY}", "--json", "--free", "color,age")
    assert free == run("certify", "net.pt2", f"rows.csv{QUERY}", "--json", "--free", "1-3")
    assert free[0] == 0
    code, _, err = run("certify", "net.pt2", f"rows.csv{QUERY}", "--free", "colour")
    assert code == 2 and "or of color, size, color=blue, color=red, age" in err


@pytest.mark.parametrize("verb", ["certify", "attack"])
def test_distances_and_norms_as_people_type_them(run, verb):
    data = f"rows.csv{QUERY}&classes=no,yes"
    typed = run(verb, "net.pt2", data, "--norm", "linf", "--epsilon", "2/255", "--json")
    plain = run(verb, "net.pt2", data, "--norm", "inf", "--epsilon", str(2 / 255), "--json")
    assert typed == plain and typed[0] == 0


def test_a_bracket_needs_no_labels(run):
    code, out, _ = run("lipschitz", "net.pt2", "plain.csv", "--seconds", "0.1", "--json")
    assert code == 0 and json.loads(out)["upper"] > 0
    code, _, err = run("certify", "net.pt2", "plain.csv")
    assert code == 2 and "wanted ?labels=COLUMN" in err


def test_a_state_dict_says_what_to_do(run):
    code, out, err = run("certify", "net.pt", "rows.csv")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "'net.pt', a pickled state dict" in err and "save_file(model.state_dict(), 'net.s" in err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_words_are_the_classes_that_the_model_names(run, folder):
    save_classifier(folder / "tiny")
    config = json.loads((folder / "tiny" / "config.json").read_text())
    lines = [f"{word} film,{kind}" for word, kind in (("good", "Pos"), ("bad", "neg")) * 3]
    (folder / "films.csv").write_text("\n".join(["text,label", *lines]))
    code, out, err = run("knowledge", "tiny", "films.csv", "--json")
    assert code == 0 and json.loads(out)["read"]["classes"] == {"Pos": 0, "neg": 1}
    assert "0 = 'Pos', 1 = 'neg'" in err  # the order of code points, as the model names none
    names = {"id2label": {"0": "NEG", "1": "POS"}, "label2id": {"NEG": 0, "POS": 1}}
    (folder / "tiny" / "config.json").write_text(json.dumps(config | names))
    code, out, err = run("knowledge", "tiny", "films.csv", "--json")
    assert (code, err) == (0, "") and json.loads(out)["read"]["classes"] == {"NEG": 0, "POS": 1}
    code, out, err = run("knowledge", "tiny", "films.csv?classes=neg,Pos", "--json")
    assert (code, err) == (0, "") and json.loads(out)["read"]["classes"] == {"neg": 0, "Pos": 1}
    (folder / "films.csv").write_text("text,label\ngood film,POS\nbad film,bad\n")
    code, _, err = run("knowledge", "tiny", "films.csv")
    said = "the label 'bad' in column label, line 3, wanted one of NEG, POS (the classes of the mod"
    assert code == 2 and said in err

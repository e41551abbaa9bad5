"""Sentences on the command line: what is printed, and one line for every error."""

import json

import pytest
from rich.cells import cell_len
from tests.tiny_text import save_classifier, sentences, write_csv

from holdfast import cli

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitchen")
    save_classifier(folder / "tiny")
    save_classifier(folder / "bare", tokenizer=False)
    write_csv(folder / "t.csv")
    (folder / "holes.csv").write_text("sentence,label\nfilm,0\n,1\n")
    (folder / "high.csv").write_text("sentence,label\nfilm,0\nplot,7\n")
    return folder


@pytest.fixture
def run(kitchen, monkeypatch, capsys):
    """Return a function that runs one command: (exit code, stdout, stderr)."""
    monkeypatch.chdir(kitchen)
    monkeypatch.setenv("COLUMNS", "120")

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ending:
            cli.main(line.split())
        out, err = capsys.readouterr()
        return ending.value.code, out, err

    return run


def test_the_worst_pairs_are_printed_with_their_sentences(run):
    code, out, err = run("knowledge hf:tiny csv:t.csv")
    assert (code, err) == (0, "")
    code, document, err = run("knowledge hf:tiny csv:t.csv?text=sentence&labels=label --json")
    assert (code, err) == (0, "")
    document, (texts, _) = json.loads(document), sentences(40)
    assert (document["tokens"], document["truncated"], document["n"]) == (24, 0, 40)
    layer = document["rank"][0]
    assert f"worst pairs at layer {layer}" in out
    for pair in document["worst"][layer]:
        for row in (pair["row"], pair["neighbour"]):
            assert document["rows"][str(row)] == {"text": texts[row]}
            assert texts[row] in " ".join(out.split())


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal_splits_no_word(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run("knowledge hf:tiny csv:t.csv")
    assert code == 0 and max(map(cell_len, out.splitlines())) <= columns
    assert {"volatility", "partner", "distance", "sentence", "bert.embeddings"} <= set(out.split())
    assert any(text in " ".join(out.split()) for text in sentences(40)[0] if len(text) > 20)


def test_a_sentence_cannot_command_the_terminal(run, kitchen):
    lines = [f'"{text} \x1b[2J",{label}' for text, label in zip(*sentences(9), strict=True)]
    (kitchen / "hostile.csv").write_text("\n".join(["text,label", *lines]))
    code, out, _ = run("knowledge hf:tiny csv:hostile.csv")
    assert code == 0 and "\x1b" not in out and "[2J" in out


def test_sentences_that_are_cut_are_said_to_be_and_counted(run):
    code, out, err = run(
        "knowledge hf:tiny csv:t.csv?tokens=6&rows=30 --layer bert.embeddings --json"
    )
    long = sum(len(text.split()) > 4 for text in sentences(40)[0][:30])
    assert code == 0 and json.loads(out)["truncated"] == long
    assert err == f"holdfast: warning: data: {long} of 30 sentences were cut to 6 tokens\n"


def test_perturbed_sentences_give_a_volatility_of_their_own(run, kitchen):
    texts, labels = sentences(30)
    lines = [f"{text},{text} end,{label}" for text, label in zip(texts, labels, strict=True)]
    (kitchen / "p.csv").write_text("\n".join(["text,longer,label", *lines]))
    code, out, _ = run("knowledge hf:tiny csv:p.csv?perturbed=longer")
    assert code == 0 and "perturbed" in out
    code, out, _ = run("audit hf:tiny csv:p.csv?perturbed=longer --out changed --json")
    assert code == 0
    part = json.loads(out)["subjects"][0]["knowledge"]
    assert set(part["perturbed"]) == set(part["layers"])
    assert 'value="perturbed"' in (kitchen / "changed" / "report.html").read_text()


def test_an_audit_of_a_model_of_text_leaves_a_page(run, kitchen):
    code, out, err = run("audit hf:tiny csv:t.csv --out it")
    assert (code, err) == (0, "") and "most brittle" in out
    assert "What can be promised" in (kitchen / "it" / "report.html").read_text()
    before = (kitchen / "it" / "report.html").read_text()
    assert run("report it/audit.json")[0] == 0
    assert (kitchen / "it" / "report.html").read_text() == before


def test_conditions_say_that_token_ids_have_no_distance(run):
    code, out, _ = run("conditions hf:tiny csv:t.csv --json")
    assert code == 0 and json.loads(out)["metric"] == "none"


ERRORS = {
    "certify hf:tiny csv:t.csv": "data: got sentences in 'csv:t.csv', wanted rows of numbers",
    "attack hf:tiny csv:t.csv": "data: got sentences in 'csv:t.csv', wanted rows of numbers",
    "descent hf:tiny csv:t.csv": "data: got sentences in 'csv:t.csv', wanted rows of numbers",
    "lipschitz hf:tiny csv:t.csv": "data: got sentences in 'csv:t.csv', wanted rows of numbers",
    "knowledge hf:bare csv:t.csv": "model: got bare, without a vocabulary, wanted a tokenizer",
    "knowledge hf:tiny csv:holes.csv": "data: got column sentence, line 3, whose text is empty",
    "knowledge hf:tiny csv:high.csv": "labels: got 1 labels outside, wanted 0 to 1",
    "knowledge hf:tiny csv:t.csv?text=no": "data: got text=no in columns sentence, label, wanted",
    "knowledge hf:tiny csv:t.csv?labels=no": "data: got labels=no in columns sentence, label",
    "knowledge hf:tiny csv:t.csv?tokens=99": "data: got tokens=99, wanted 3 to 24",
    "knowledge hf:tiny csv:no.csv": "data: got 'no.csv' (No such file",
    "knowledge hf:tiny csv:t.csv --layer bart": "layer: got 'bart'",
    "knowledge demo:digits-plain csv:t.csv?text=sentence": "data: got ?text=sentence, wanted ?inp",
    "audit hf:tiny csv:t.csv --out no --epsilon 1": "epsilon: got 1.0, wanted none, where inputs",
    "audit hf:tiny npz:no.npz --out no": "data: got 'no.npz' (No such file",
}


@pytest.mark.parametrize(("line", "said"), ERRORS.items(), ids=ERRORS)
def test_errors_are_one_line(run, kitchen, line, said):
    code, out, err = run(line)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"holdfast: {said}")
    assert not (kitchen / "no").exists()


def test_words_that_may_be_replaced_are_all_tried(run, kitchen):
    (kitchen / "words.json").write_text('{"good": ["fine"], "film": ["plot", "cast"]}')
    verb = "substitutions hf:tiny csv:t.csv?rows=9 --words json:words.json"
    code, out, err = run(f"{verb} --out found.json")
    assert (code, err) == (0, "")
    assert "SubstitutionCertificates of 9 rows" in out
    code, document, _ = run(f"{verb} --json --resume found.json")
    document = json.loads(document)
    assert code == 0 and len(document["outcome"]) == 9
    assert document["certified_accuracy"] == document["outcome"].count("certified") / 9
    code, _, _ = run(f"{verb} --fail-under 1.0 --quiet")
    assert code == (document["certified_accuracy"] < 1.0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hf:tiny csv:t.csv --words json:none.json", "substitutions: "),
        ("hf:tiny csv:t.csv --words words.json", "substitutions: got 'words.json'"),
        ("hf:tiny csv:t.csv --words json:words.json --budget -1", "budget: got -1"),
        ("demo:digits-plain demo:digits --words json:words.json", "data: got 'demo:digits'"),
    ],
)
def test_what_cannot_be_replaced_is_refused(run, kitchen, line, said):
    (kitchen / "words.json").write_text("{}")
    code, _, err = run(f"substitutions {line}")
    assert code == 2 and said in err and err.count("\n") == 1

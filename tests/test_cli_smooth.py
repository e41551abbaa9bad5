"""`holdfast smooth` on sentences and on numbers: answers, files and refusals."""

import json

import pytest
from tests.tiny_text import save_classifier, write_csv

import holdfast
from holdfast import cli
from holdfast.sources import tokens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitchen")
    save_classifier(folder / "tiny")
    write_csv(folder / "t.csv", 8)
    return folder


@pytest.fixture
def run(kitchen, monkeypatch, capsys):
    """Return a function that runs one command: (exit code, stdout, stderr)."""
    monkeypatch.chdir(kitchen)
    monkeypatch.setenv("COLUMNS", "120")

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ending:
            cli.main(["smooth", *line.split()])
        out, err = capsys.readouterr()
        return ending.value.code, out, err

    return run


def test_edits_of_sentences_are_certified_and_the_file_is_read_again(run, kitchen, capsys):
    line = "hf:tiny csv:t.csv --noise deletion:0.7 --epsilon 1 --samples 300 --confidence 0.95"
    code, out, err = run(f"{line} --out edits.json")
    assert (code, err) == (0, "") and "edit radii" in out and "Deletion(p=0.7" in out
    code, out, _ = run(f"{line} --json")
    document = json.loads(out)
    assert code == 0 and document["norm"] == "edit" and document["epsilon"] == 1.0
    again = holdfast.Certificates.load(kitchen / "edits.json")
    assert again.radius.tolist() == document["radius"] and len(again) == 8
    assert again.smoothing.drawn.tolist() == document["smoothing"]["drawn"]
    assert document["smoothing"]["options"]["noise"] == {"p": 0.7, "unit": "words"}
    assert 0 < document["verified_accuracy"] <= document["clean_accuracy"]
    assert run(f"{line} --fail-under 1 --quiet")[0] == 1
    with pytest.raises(SystemExit) as ending:
        cli.main(["check", "edits.json", "--model", "hf:tiny", "--json"])
    assert ending.value.code == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["proved"] == sum(radius > 0 for radius in document["radius"])
    assert "weights alone are those" in checked["lines"][-1]


def test_rows_of_numbers_are_smoothed_by_normal_noise(run):
    line = "demo:digits-plain demo:digits --noise gaussian:0.2 --epsilon 0.1 --samples 60"
    code, out, err = run(f"{line} --confidence 0.9 --json")
    document = json.loads(out)
    assert (code, err) == (0, "") and document["norm"] == "l2"
    assert 0 < document["verified_accuracy"] <= document["clean_accuracy"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hf:tiny csv:t.csv --noise deletion:2", "p: got 2.0"),
        ("hf:tiny csv:t.csv --noise deletion", "noise: got '', wanted deletion:NUMBER"),
        ("hf:tiny csv:t.csv --noise erasure:0.5", "noise: got 'erasure', wanted one of deletion"),
        ("hf:tiny csv:t.csv --noise deletion:0.7 --samples 3", "samples: got 3, wanted at least"),
        ("hf:tiny csv:t.csv --noise gaussian:1", "noise: got Gaussian(sigma=1.0)"),
        ("demo:digits-plain demo:digits --noise deletion:0.7", "inputs: got Tensor"),
    ],
)
def test_what_does_not_fit_is_one_line(run, line, said):
    code, out, err = run(line)
    assert (code, out) == (2, "") and err.startswith("holdfast: ") and err.count("\n") == 1
    assert said in err


def test_a_text_of_which_a_tokenizer_makes_nothing_has_no_class(run, monkeypatch):
    read = tokens.read_tokenizer

    class Bare:
        """A tokenizer that adds no tokens of its own."""

        def __init__(self, folder):
            self.real = read(folder)

        def __getattr__(self, name):
            return getattr(self.real, name)

        def __call__(self, texts, **options):
            return self.real(texts, add_special_tokens=False, **options)

    monkeypatch.setattr(tokens, "read_tokenizer", Bare)
    line = "hf:tiny csv:t.csv --noise deletion:0.9 --samples 100 --confidence 0.9 --json"
    code, _, err = run(line)
    assert (code, err) == (0, "")

"""The page as text: sections, escaping, policy, size, and how it is written."""

import base64
import gzip
import hashlib
import itertools
import json
import re
import sys

import pytest
from tests.nets import crossed
from tests.report.conftest import example

from holdfast.errors import InvalidInput, MissingExtra
from holdfast.report import brittle, claims, render, rows, write_page
from holdfast.report import page as page_module
from holdfast.report.formats import DASH
from holdfast.report.reading import finished

SECTIONS = {
    "conditions": ["Does a distance certificate make sense here?"],
    "lipschitz": ["How fast can the output change?", "Which layer stretches the most?"],
    "certificates": ["How far can an input move?", "Which ones are close to the edge?"],
    "knowledge": [
        "Where is the model's knowledge brittle?",
        "What can be promised about fresh data?",
    ],
    "descent": [
        "Does a training step do what it should?",
        "Did training stay within the safe step?",
    ],
}
ANCHORS = {
    "conditions": "conditions",
    "lipschitz": "speed",
    "certificates": "edge",
    "knowledge": "knowledge",
    "descent": "training",
}


@pytest.fixture(scope="module")
def html() -> str:
    """The page of the example."""
    return render(example())


def body(audit):
    return render(audit).split("<script")[0]


def heading(text):
    return re.compile(rf"<h[23][^>]*>{re.escape(text)}</h")


def test_the_page_answers_first_and_claims_last(html):
    order = [
        html.index("73.1% of 360 test inputs provably keep the right answer"),
        *(heading(text).search(html).start() for text in itertools.chain(*SECTIONS.values())),
        html.index("What exactly is claimed?"),
    ]
    assert order == sorted(order)


def test_the_claims_hold_what_a_reviewer_asks_for(html):
    claims = html.split('id="claims"')[1]
    for text in (
        "3b1d9a4c" * 8,
        "c0ffee42" * 8,
        "bounded from above in float64",
        "the exact real function of the stored weights",
        "the time was spent before the bracket",
        "lipschitz 0",
        "torch 2.13.0+cpu",
        "@inproceedings{sun2024knowledge",
        "holdfast audit --out runs/demo",
    ):
        assert text in claims


@pytest.mark.parametrize(("part", "delete"), crossed(sorted(SECTIONS), [True, False]))
def test_sections_of_absent_parts_are_absent(audit, part, delete):
    for subject in audit["subjects"]:
        subject[part] = None
        if delete:
            del subject[part]
    html = render(audit)
    for name, texts in SECTIONS.items():
        for text in texts:
            assert bool(heading(text).search(html)) == (name != part)
    assert f'href="#{ANCHORS[part]}"' not in html


def test_refused_parts_show_their_reason_beside_those_that_went_well(audit):
    audit["subjects"][0]["certificates"] = {"refused": "no rule for <cumsum>"}
    html = render(audit)
    assert html.count("no rule for &lt;cumsum&gt;") == 2  # next steps, section
    assert heading("How far can an input move?").search(html)


def test_a_part_that_every_model_refused_keeps_a_section_without_figures(audit):
    for subject in audit["subjects"]:
        subject |= {part: {"refused": "because"} for part in SECTIONS}
    html = render(audit)
    assert "data-figure=" not in html.split("<script")[0]
    assert heading("How far can an input move?").search(html)


def test_inputs_without_pictures_are_words(audit):
    audit["data"]["image"] = None
    for row in audit["subjects"][0]["certificates"]["least"]:
        row["attack"] = None
    html = body(audit)
    assert "<img" not in html and "answers 8, label 3" in html
    assert "attacked at 0.0226, answers 5" in html


def test_attacks_that_were_not_run_leave_no_trace(audit):
    for subject in audit["subjects"]:
        del subject["attacks"]
        for row in subject["certificates"]["least"]:
            del row["attack"]
    html = body(audit)
    assert "Attack on" not in html and "attacked at" not in html and "survives attacks" not in html


def test_pictures_have_alternative_texts(html):
    images = re.findall(r"<img [^>]*>", html.split("<script")[0])
    assert images and all('alt="' in image and 'alt=""' not in image for image in images)
    for words in ("Input 111, labelled 3", "Attack on input 111, answered 4"):
        assert any(f'alt="{words}"' in image for image in images), words


def test_the_worst_pairs_of_every_layer_are_pictures_or_sentences(audit):
    part = audit["subjects"][0]["knowledge"]
    html = body(audit)
    assert html.count('<details name="worst-s0"') == 5
    assert len(re.findall(r'<details name="worst-s0" open>\s*<summary><code>2<', html)) == 1
    assert 'alt="Input 22, labelled 2"' in html and "loss changes by 3.10" in html
    for row, shown in part["rows"].items():
        del shown["pixels"]
        shown["text"] = f"sentence <{row}>"
    html = body(audit)
    assert "<q>sentence &lt;22&gt;</q>" in html and "<q>sentence &lt;23&gt;</q>" in html
    part["worst"]["2"] = []
    assert "No two inputs are apart here." in body(audit)


def test_every_kind_of_volatility_is_in_the_table_with_its_interval(audit):
    part = audit["subjects"][1]["knowledge"]
    part["perturbed"] = dict.fromkeys(part["layers"], part["near"]["0"])
    part["near"]["1"] = None
    html = body(audit)
    for words in ("Scale-free", "Raw", "Near pairs", "Perturbations"):
        assert f'<th scope="col" class="n">{words}</th>' in html
    assert "1.12 (0.963 to 1.28)" in html and f'<td class="n">{DASH}</td>' in html


def test_class_means_come_with_their_interval(html):
    assert "Mean volatility by label at layer 2" in html
    assert re.search(r'<td>1</td><td class="n">1.64</td><td class="n">1.31 to 1.97</td>', html)


def test_layers_are_ranked_only_where_intervals_allow(audit):
    _, bounded = finished(audit, "knowledge")
    assert brittle.leading(bounded) == ["2", "0", "1", "3"]
    assert brittle.brittle_sentence(bounded).endswith("; 0, 1 and 3 cannot be told from it.")
    bounded.part["normalised"]["2"] |= {"value": 9.0, "low": 8.0, "high": 10.0}
    assert brittle.brittle_sentence(bounded).startswith("most at layer 2: 9.00, between 8.00 and")
    bounded.part["normalised"]["2"]["low"] = 0.0
    assert brittle.brittle_sentence(bounded).startswith("the intervals do not tell the layers")


def test_what_all_models_claim_stands_once(audit):
    shared, own = claims.claims(audit)
    assert "Certificates" in {claim.title for claim in shared}
    assert {"Model", "Fingerprint"} <= {claim.title for claim in own[0][1]}
    html = body(audit)
    guarantee = "No input within the radius of a row, in l2"
    assert html.count(guarantee) == 1 and ">Both models<" in html
    audit["subjects"][1]["certificates"]["guarantee"] = "Something else."
    html = body(audit)
    assert html.count(guarantee) == html.count("Something else.") == 1
    audit["subjects"] = audit["subjects"][:1]
    assert ">Both models<" not in body(audit) and guarantee in body(audit)


def test_a_stopped_audit_says_so_first_and_shows_what_it_has(audit, text_audit):
    audit["stopped"] = "digits-bounded: attacks"
    for part in ("attacks", "conditions", "knowledge", "descent"):
        del audit["subjects"][1][part]
    html = body(audit)
    assert html.index("stopped at “digits-bounded: attacks”") < html.index("<h1")
    assert "73.1% of 360 test inputs provably keep" in html
    audit["subjects"][1] = {"name": "digits-bounded"}
    assert "No distance is certified." in body(audit)
    text_audit["stopped"] = "tiny: knowledge continuity"
    del text_audit["subjects"][0]["knowledge"], text_audit["subjects"][0]["accuracy"]
    assert "In no layer is anything proved" in body(text_audit)


def test_rows_of_a_table_are_told_by_the_columns_that_matter(audit):
    data = audit["data"] | {"image": None, "columns": ["age", "height"], "spread": [10.0, 0.1]}
    table = {"data": data | {"class_names": ["no", "yes"]}}
    assert rows.class_name(table, 1) == "yes" and rows.class_name(table, 7) == "7"
    one, two = {"values": [39.0, 1.7]}, {"values": [40.0, 1.70001]}
    assert rows.values_of(table, one) == [("age", "39"), ("height", "1.70")]
    assert rows.differences(table, one, two) == [
        ("age", "39", "40"), ("height", "1.70000", "1.70001"),
    ]  # fmt: skip
    near = {"values": [39.5, 1.9]}
    assert [name for name, *_ in rows.differences(table, one, near)] == ["height", "age"]
    assert rows.differences(table, one, {"values": [1.0]}) == rows.values_of(table, {}) == []


def test_the_maps_of_the_frontier_are_tables_that_tell_their_cells(audit):
    html = body(audit)
    assert html.count('<table class="map"') == html.count('class="claim"') == 10
    assert html.count('class="vacuous') == 20 and html.count("data-why=") == 20
    assert html.count('tabindex="0" style="--joint') == 10
    assert "In layer &#39;0&#39;: 3.5, 0.125, 8.520%, 22.77%, 60, 4." in html
    assert "It is not a statement about all inputs within delta." in html
    for subject in audit["subjects"]:
        del subject["knowledge"]["frontier"]
    html = body(audit)
    assert "What can be promised" not in html and "#frontier" not in html


def test_where_inputs_have_no_distance_knowledge_carries_the_page(text_audit):
    html = body(text_audit)
    assert "Inputs are token ids: there is no distance between them" in html
    assert "87.0% of 360 inputs are answered rightly." in html
    assert "<strong>no</strong>, its inputs are token ids." in html
    for name, texts in SECTIONS.items():
        for text in texts:
            assert bool(heading(text).search(html)) == (name in ("conditions", "knowledge")), text
    assert "<q>a film of 22 minutes</q>" in html and "<img" not in html
    assert "sentences of at most 64 tokens, 3 cut" in html
    assert "None" not in html and "The conditions as a table" not in html


def test_a_model_of_text_whose_knowledge_was_refused_says_why(text_audit):
    text_audit["subjects"][0] |= {"accuracy": None, "knowledge": {"refused": "one row only"}}
    html = body(text_audit)
    assert "one row only" in html and "None" not in html


def test_json_cannot_leave_its_script():
    hostile = {"</script>": "<!-- & \u2028 \u2029 \ud800 'quote\" -->"}
    text = page_module.json_in_script(hostile)
    assert not re.search("[<>&\u2028\u2029]", text) and text.isascii()
    assert json.loads(text) == hostile


def test_only_the_scripts_of_the_page_may_run(html):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)[1]
    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    packed = re.search(r'<script type="text/plain" id="library">(.*?)</script>', html)[1]
    scripts.append(gzip.decompress(base64.b64decode(packed)).decode())
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = re.findall("sha256-([^&']*)", policy)
    assert len(scripts) == 2 and hashes == allowed
    assert "default-src &#39;none&#39;" in policy or "default-src 'none'" in policy
    assert "unsafe-eval" not in policy


def test_scripts_cannot_end_early():
    code = page_module._in_script('a = "</script>"; b = "</SCRIPT>"; c = "<!--";')
    assert "</script" not in code.lower() and "<!--" not in code


def test_the_page_is_small_and_stands_alone(html):
    assert len(html.encode()) < 1_000_000
    assert not re.search(r"<(link|iframe|object|embed|base)\b", html.split("<script")[0])
    assert not re.search(r'(src|href)="(?!data:image/png|#)', html.split("<script")[0])


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {"format": 2},
        {"format": 1, "subjects": []},
        {"format": 1, "subjects": [{"name": "a", "accuracy": float("nan")}]},
        {"format": 1, "subjects": [{"name": {1, 2}}]},
    ],
)
def test_what_is_no_audit_is_refused_by_name(broken):
    with pytest.raises(InvalidInput, match="audit"):
        render(broken)


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(audit, tmp_path):
    target = tmp_path / "index.html"
    target.write_text("<p>holdfast: old")
    assert write_page(audit, target) == target
    assert target.read_text(encoding="utf-8") == render(audit)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("place", ["absent/index.html", "file/index.html", "folder"])
def test_a_path_that_cannot_be_written_is_named_and_left_alone(audit, tmp_path, place):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match=r"^out: ") as caught:
        write_page(audit, tmp_path / place)
    assert caught.value.argument == "out"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_lone_surrogates_do_not_stop_the_page(audit, tmp_path):
    audit["subjects"][0]["name"] = "bad \ud800 name"
    assert "bad \ufffd name" in write_page(audit, tmp_path / "p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("altair", "altair"),
        ("vl_convert", "vl-convert-python"),
        ("jinja2", "jinja2"),
        ("PIL", "pillow"),
    ],
)
def test_missing_libraries_are_named_with_their_extra(audit, monkeypatch, module, library):
    for part, needed in (("_libraries", "vl_convert"), ("_environment", "jinja2")):
        if module == needed:  # without what an earlier page left in the cache
            monkeypatch.setattr(page_module, part, getattr(page_module, part).__wrapped__)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"{library}.*holdfast\[report\]"):
        render(audit)


def test_knowledge_stands_beside_lipschitz_constants(audit):
    whole = {"steepest": 1.0, "tail_upper": 2.3456, "expected_upper": None}
    known = {"upper": 0.12341, "vacuous": False}
    audit["subjects"][0]["knowledge"]["links"] = {
        "": whole,
        "0": whole | {"steepest": None, "expected_upper": known},
        "1": whole | {"expected_upper": known | {"vacuous": True}},
        "2": {"refused": "no constant"},
    }
    table = body(audit).split("beside Lipschitz constants</summary>")[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert rows == [
        ["<code>(model)</code>", "1.00", "2.35", "says nothing"],
        ["<code>0</code>", DASH, "2.35", "0.124"],
        ["<code>1</code>", "1.00", "2.35", "says nothing"],
        ["<code>2</code>", "no constant"],
    ]

"""Answers as HTML: whole, silent, and deaf to hostile names; with a chart, or without Altair."""

import builtins
import html.parser

import pytest
from tests.views.answers import answers, hostile_answers
from tests.views.test_text import KINDS

import holdfast
from holdfast.errors import MissingExtra, Unsupported
from holdfast.sources.demo import demo_data, demo_model
from holdfast.views import charts
from holdfast.views.notebook import html as page

CHARTED = {
    "bracket", "certificates", "attacks", "nearest attacks", "conditions",
    "knowledge", "frontier", "descent", "monitor", "audit",
}  # fmt: skip


class Reader(html.parser.HTMLParser):
    """The elements, their attributes and the words of a piece of HTML, which must be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened, self.tags, self.attributes, self.words = [], [], {}, []
        self.feed(text)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.opened.pop()

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


SAFE = {"div", "style", "strong", "table", "tr", "th", "td", "p"}
DRAWN = {"svg", "g", "path", "line", "text", "rect", "defs", "clippath", "circle"}


@pytest.mark.parametrize("kind", KINDS)
def test_html_holds_nothing_but_words_and_a_chart(kind):
    for answer in (answers()[kind], hostile_answers().get(kind)):
        if answer is None:
            continue
        read = Reader(answer._repr_html_())
        assert set(read.tags) <= SAFE | DRAWN
        assert ("svg" in read.tags) == (kind in CHARTED)
        assert not any(name.startswith("on") for name in read.attributes)
        loads = {name for name in read.attributes if name in ("href", "src", "xlink:href", "style")}
        assert not loads
        assert all("url(" not in word and "@import" not in word for word in read.words)


def test_names_are_replaced_and_signs_of_ours_are_not():
    for answer in (answers()["bracket"], hostile_answers()["bracket"]):
        assert "\N{GREATER-THAN OR EQUAL TO}\N{NO-BREAK SPACE}1." in page(answer)


def test_every_chart_follows_the_schema_and_has_its_colours():
    for kind, answer in {**answers(), **hostile_answers()}.items():
        if kind in CHARTED:
            drawn = answer.plot().to_dict()
            assert "var(" not in str(drawn["config"])
            assert drawn["width"] == 560
    for kind in ("certificates of targets", "no metric"):
        with pytest.raises(Unsupported, match="nothing to draw"):
            answers()[kind].plot()


def test_the_reader_of_a_notebook_chooses_the_kind_of_volatility():
    (choice,) = answers()["knowledge"].plot().to_dict()["params"]
    assert choice["bind"]["input"] == "select" and "near" in choice["bind"]["options"]


def test_a_chart_says_what_it_shows_and_its_parts_have_names_of_their_own():
    first, second = (page(answers()[kind]) for kind in ("attacks", "nearest attacks"))
    assert 'role="img" aria-label="How far is an attack on each row' in first
    ids = [set(Reader(text).attributes.get("id", ())) for text in (first, second)]
    assert not ids[0] & ids[1]


def test_the_chart_of_several_models_says_which_is_which():
    title = answers()["audit"].plot().to_dict()["title"]
    assert title["subtitle"] == ["circle: digits-plain, square: digits-bounded"]


def test_colours_follow_the_notebook():
    light, dark = charts.palettes()
    assert light["card"] != dark["card"] and light.keys() == dark.keys() >= {"ink", "series-0"}
    style = page(answers()["estimate"]).split("<style>")[1].split("</style>")[0]
    assert style.index("prefers-color-scheme:dark") < style.index("data-jp-theme-light=false")
    assert style.count(f"--card:{dark['card']}") == 2 and style.count("{") == style.count("}")


@pytest.fixture
def bare(monkeypatch):
    """Take away the libraries of the extras."""
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name.split(".")[0] in ("altair", "vl_convert", "pandas"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_without_the_extras_there_is_a_table(bare):
    certificates = answers()["certificates"]
    read = Reader(page(certificates))
    assert "svg" not in read.tags and read.tags.count("table") == 2
    assert "and 12 more: to_pandas() has all of them" in read.words
    with pytest.raises(MissingExtra, match=r"altair.*pip install 'holdfast\[report\]'"):
        certificates.plot()
    with pytest.raises(MissingExtra, match=r"pandas.*pip install 'holdfast\[notebook\]'"):
        certificates.to_pandas()
    assert len(repr(certificates).split("\n")) <= 10


def test_what_has_a_confidence_is_not_called_proved():
    inputs, labels = (rows[:6] for rows in demo_data())
    noise = holdfast.Gaussian(0.25)
    certificates = holdfast.certify(
        demo_model("digits-bounded"), inputs, labels, method="smoothing", noise=noise, samples=500
    )
    drawn = certificates.plot().to_json()
    assert "certified right" in drawn and "proved right" not in drawn
    assert "proved" not in certificates._repr_html_()

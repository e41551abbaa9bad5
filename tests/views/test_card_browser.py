"""The cards of a notebook in a real browser: silent, offline, narrow, and dark where it is."""

import pytest
from tests.report.test_browser import CHROMIUM, FLAGS, overflow
from tests.views.answers import answers, hostile_answers

from holdfast.views import charts

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def page():
    """A page that collects what is said and asked for, narrow and in a light system."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        opened = chromium.new_page(viewport={"width": 380, "height": 900}, color_scheme="light")
        yield opened
        chromium.close()


@pytest.mark.parametrize("cards", [answers, hostile_answers])
def test_cards_are_silent_offline_and_as_wide_as_the_cell(page, cards):
    noise = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("dialog", lambda dialog: (noise.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: noise.append(request.url))
    page.set_content("".join(answer._repr_html_() for answer in cards().values()))
    assert page.locator(".holdfast").count() == len(cards())
    assert page.locator("svg").count() >= 7
    assert page.evaluate("[window.stolen ?? null, document.scripts.length]") == [None, 0]
    assert noise == [] and overflow(page) == 0


@pytest.mark.parametrize(
    ("notebook", "scheme", "dark"),
    [
        ("<body>", "light", False),
        ("<body>", "dark", True),
        ("<body data-jp-theme-light=false>", "light", True),
        ("<body data-jp-theme-light=true>", "dark", False),
        ("<body class='vscode-body vscode-dark'>", "light", True),
    ],
)
def test_cards_have_the_theme_of_the_notebook(page, notebook, scheme, dark):
    page.emulate_media(color_scheme=scheme)
    page.set_content(notebook + answers()["bracket"]._repr_html_())
    card, series = (charts.palettes()[dark][name] for name in ("card", "series-0"))
    drawn = "getComputedStyle(document.querySelector('{}')).{}"
    assert page.evaluate(drawn.format(".holdfast", "backgroundColor")) == rgb(card)
    assert page.evaluate(drawn.format("svg .mark-symbol path", "fill")) == rgb(series)


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[k : k + 2], 16)) for k in (1, 3, 5))})"

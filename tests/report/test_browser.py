"""The page in a real browser: drawn, silent, offline, and deaf to hostile names."""

import contextlib
import itertools
import shutil

import pytest

from holdfast.errors import visible
from holdfast.report import write_page

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open the page of an audit; at the end nothing may have been loaded, said or blocked."""
    with contextlib.ExitStack() as stack:
        noise, requests = [], []

        def open_page(audit, width=1000, **options):
            address = write_page(audit, tmp_path / "audit.html").as_uri()
            page = browser.new_page(viewport={"width": width, "height": 900}, **options)
            stack.callback(page.close)
            page.on("console", lambda message: noise.append(message.text))
            page.on("pageerror", lambda error: noise.append(str(error)))
            page.on("dialog", lambda dialog: (noise.append("dialog"), dialog.dismiss()))
            page.on("request", lambda request: requests.append(request.url))
            page.add_init_script(
                "document.addEventListener('securitypolicyviolation',"
                " event => console.error(event.violatedDirective))"
            )
            page.goto(address)
            if options.get("java_script_enabled", True):
                page.wait_for_selector("html[data-drawn=yes]", timeout=30_000)
            return page

        yield open_page
        assert noise == []
        assert {url for url in requests if not url.startswith("data:image/png")} == {
            (tmp_path / "audit.html").as_uri()
        }


def hostile():
    """About two hundred names that would like to be code."""
    code = "window.stolen=1"
    seeds = [
        f"</script><img src=x onerror={code}>",
        f"<script>{code}</script>",
        f"--><svg/onload={code}>",
        f"]]><script>{code}</script>",
        f"javascript:{code}//",
        f"'-{code}-'",
        f'"-{code}-"',
        f"`${{{code}}}`",
        f"{{{{ {code} }}}}",
        "{% raw %}{{ 7*7 }}",
        f"\\u003cscript\\u003e{code}",
        f"&lt;script&gt;{code}&#x3c;/script&#x3e;",
        f"</style><style>*{{display:none}}</style><b onclick={code}>",
        f"</title></textarea></pre></code><script>{code}</script>",
        "line\u2028separator\u2029here",
        "right\u202eto left\u202c",
        "datum.value",
        "'] || [datum['",
        "__proto__",
        "constructor",
        "x" * 300,
        "\\",
        "http://127.0.0.1:9/steal.png",
        "@import url(http://127.0.0.1:9/steal.css);",
        f'<a href="javascript:{code}">name</a>',
    ]
    frames = ["{}", " {} ", '"{}', "'{}", ">{}", "<!--{}", "a.{}.b", "{}\n{}"]
    return [
        frame.format(seed, seed) if frame.count("{}") == 2 else frame.replace("{}", seed)
        for seed, frame in itertools.product(seeds, frames)
    ]


def overflow(page):
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1600])
def test_every_figure_is_drawn_and_nothing_overflows(visit, audit, width, scheme):
    page = visit(audit, width, color_scheme=scheme)
    marks = page.eval_on_selector_all(
        "[data-figure]",
        "all => Object.fromEntries(all.map(one => [one.dataset.figure,"
        " one.querySelectorAll('svg .mark-line path, svg .mark-rule line,"
        " svg .mark-symbol path').length]))",
    )
    assert set(marks) == {
        "conditions", "bracket", "gains", "reach", "volatility", "descent", "stability"
    }  # fmt: skip
    assert all(number >= 4 for number in marks.values()), marks
    assert overflow(page) == 0
    widths = page.eval_on_selector_all(
        ".chart", "all => all.map(one => one.querySelector('svg').clientWidth - one.clientWidth)"
    )
    assert all(extra <= 0 for extra in widths)


def test_figures_follow_the_colour_scheme_and_print_light(visit, audit):
    page = visit(audit, color_scheme="dark")

    def colours():
        return page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('.chart .mark-line path')).stroke,"
            " getComputedStyle(document.querySelector('.chart .mark-text text')).fill]"
        )

    dark = colours()
    page.emulate_media(color_scheme="light")
    light = colours()
    page.emulate_media(color_scheme="dark", media="print")
    printed = colours()
    assert all(one != other for one, other in zip(dark, light, strict=True))
    assert printed[1:] == light[1:] and printed[0] == "rgb(255, 255, 255)"


def test_printed_figures_fit_the_paper(visit, audit):
    page = visit(audit, 1600)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 960})
    assert overflow(page) == 0


def test_the_switch_shows_raw_volatility(visit, audit):
    page = visit(audit)
    figure = page.locator("figure", has=page.locator("[data-figure=volatility]"))
    before = figure.locator(".chart svg").inner_html()
    assert "Change of loss per typical distance" in before
    figure.get_by_label("raw").check()
    figure.locator("svg text", has_text="Change of loss per unit of distance").wait_for()
    assert figure.locator(".chart svg").inner_html() != before


def test_pointing_at_a_curve_tells_the_counts(visit, audit):
    page = visit(audit)
    chart = page.locator("[data-figure=reach]")
    chart.scroll_into_view_if_needed()
    curve = chart.locator(".mark-symbol path").nth(2).bounding_box()
    page.mouse.move(curve["x"] + curve["width"] / 2, curve["y"] + curve["height"] / 2 + 6)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "of 360" in tooltip.inner_text()


def test_a_cell_of_a_map_is_told_by_pointer_and_by_keys(visit, text_audit):
    page = visit(text_audit)
    figure = page.locator("figure.maps")
    table = figure.locator("details[open] .map")
    claim = figure.locator("details[open] .claim")
    layer = text_audit["subjects"][0]["knowledge"]["rank"][0]
    assert claim.inner_text() == f"In layer '{layer}': 4, 0.125, 8.520%, 15.18%, 60, 4."
    table.locator("td").nth(5).hover()
    assert claim.inner_text().endswith("infinity, 0.125, 62.14%, 62.14%, 180, 90.")
    page.mouse.move(0, 0)
    table.locator("td.chosen").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert claim.inner_text().endswith(": 4, 0, 43.00%, 99.96%, 60, 58.")
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    assert claim.inner_text().startswith("Says nothing: nothing lies within delta. In layer")
    assert table.locator("td[tabindex='0']").count() == table.locator(".chosen").count() == 1


def test_the_bounds_of_a_map_can_be_those_of_all_inputs(visit, text_audit):
    page = visit(text_audit, java_script_enabled=False)
    figure = page.locator("figure.maps")
    cell = figure.locator("details[open] .map td").nth(3)
    assert cell.inner_text() == "16"
    figure.get_by_label("of all").check()
    assert cell.inner_text() == "8.6"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1600])
def test_the_page_of_a_model_of_text_fits(visit, text_audit, width, scheme):
    for part in text_audit["subjects"][0]["knowledge"]["frontier"].values():
        part["etas"][1] = 0.00462963
    page = visit(text_audit, width, color_scheme=scheme)
    assert overflow(page) == 0
    assert page.eval_on_selector_all("[data-figure] svg", "all => all.length") == 1
    cells = page.eval_on_selector_all(
        "details[open] .map, details[open] .map th, details[open] .map td",
        "all => all.map(one => one.scrollWidth - one.clientWidth)",
    )
    assert len(cells) == 1 + 3 + 9 and set(cells) == {0}


def test_without_scripts_the_words_and_tables_stay(visit, audit):
    page = visit(audit, java_script_enabled=False)
    assert page.get_by_text("73.1% of 360 test inputs provably keep").is_visible()
    assert "The figures need JavaScript" in page.content()
    page.get_by_text("The gains as a table").click()
    assert page.get_by_role("cell", name="5.21").is_visible()


def test_headings_and_landmarks_are_in_order(visit, audit):
    page = visit(audit)
    levels = page.eval_on_selector_all("h1,h2,h3,h4", "all => all.map(one => +one.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.eval_on_selector_all("main, header, footer, nav", "all => all.length") == 4
    labels = page.eval_on_selector_all(".chart", "all => all.map(one => one.ariaLabel)")
    assert all("digits-plain" in label for label in labels)


@pytest.mark.parametrize("width", [380, pytest.param(1600, marks=pytest.mark.slow)])
def test_hostile_names_stay_words(visit, audit, width):
    names = hostile()
    assert len(names) >= 200
    names = names if width > 1000 else names[::9]  # of every frame, and of nearly every seed
    for subject, name in zip(audit["subjects"], names, strict=False):
        subject |= {"name": name, "description": names[2], "model": names[3]}
        subject["lipschitz"] |= {
            "assumptions": names,
            "advice": names[4],
            "layers": [{"path": name, "op": name, "gain": 2.0} for name in names],
        }
        subject["certificates"]["reasons"] = dict.fromkeys(names, 1)
        subject["certificates"]["guarantee"] = names[5]
        for row, word in zip(subject["certificates"]["least"], names, strict=False):
            row |= {"label": word, "predicted": word}
            row["attack"]["predicted"] = word
        subject["conditions"] |= {"metric": names[4], "bounded": names[5], "advice": names[6]}
        subject["attacks"]["statement"] = names[7]
        known = subject["knowledge"]
        known["layers"] = names
        for table in ("volatility", "normalised", "same_label", "other_label", "collisions"):
            known[table] = dict.fromkeys(names, known[table]["0"])
        known["worst"] = dict.fromkeys(names, known["worst"]["0"])
        known["rows"] |= {str(row): {"text": names[row % len(names)]} for row in range(0, 200, 2)}
        known["by_class"] = dict.fromkeys(
            names, dict.fromkeys(names, known["normalised"][names[0]])
        )
        frontier = known["frontier"]["0"] | {"statement": names[8], "why": [[names[:2]] * 2] * 3}
        known |= {"frontier": dict.fromkeys(names, frontier), "limits": names[9]}
        subject["flips"] = {
            "tried": 9,
            "rows": 9,
            "flipped": subject["certificates"]["shares"][0],
            "words": [{"from": name, "to": name, "flipped": 1, "tried": 1} for name in names],
            "pairs": [
                {"row": 1, "label": 0, "predicted": 0, "flipped_to": 1}
                | {"text": name, "perturbed": name}
                for name in names
            ],
        }
    audit["data"] |= {"name": names[6], "sha256": names[7], "class_names": names}
    audit["stopped"] = names[8]
    audit["versions"] = audit["seeds"] = dict.fromkeys(names, "1")
    audit["citations"] = [{"key": name, "bibtex": name} for name in names]
    audit["command"] = audit["machine"] = names[0]

    shown = [visible(name) for name in names]
    page = visit(audit, width)
    assert page.evaluate("window.stolen") is None
    assert page.evaluate("document.scripts.length") == 4
    assert page.evaluate("document.querySelectorAll('[onerror],[onload],[onclick]').length") == 0
    assert page.evaluate("[...document.links].every(link => link.hash)")
    assert (
        page.eval_on_selector_all("dd ul", "all => [...all[0].children].map(li => li.textContent)")
        == shown
    )
    bibtex = page.eval_on_selector_all("pre code", "all => all.map(one => one.textContent)")
    assert bibtex == [shown[0], *shown]
    assert page.locator(".verdict .name").first.text_content() == shown[0]
    assert page.eval_on_selector_all(".chart svg", "all => all.length") == 7
    assert overflow(page) == 0

"""Every block of code and every command in the documentation runs."""

import doctest
import os
import re
import runpy
import shlex
from pathlib import Path

import pytest

from holdfast import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
OTHERS = ("pip ", "make ", "python ")
LONG = (
    "README.md",
    "certify.md",
    "check.md",
    "commands.md",
    "methods.md",
    "notebook.md",
    "start.md",
)
MARKS = dict.fromkeys(LONG, pytest.mark.slow)
"""Pages that certify the demo nets or audit one, which takes its time."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=MARKS.get(page.name, ()), id=page.name) for page in PAGES],
)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict = {}
    for language, block in FENCE.findall(page.read_text()):
        assert language in ("python", "sh")
        if language == "sh":
            for line in commands(block):
                run_command(line)
        elif block.startswith(">>>"):
            run_session(block, names, page.name)
        elif named := re.match(r"# (\w+\.py)\n", block):
            Path(named[1]).write_text(block)
        else:
            exec(block, names)  # our own documentation


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page):
    blocks = [block for language, block in FENCE.findall(page.read_text()) if language == "sh"]
    lines = [line for block in blocks for line in commands(block)]
    for words in filter(None, map(words_of, lines)):
        cli.app.parse_args(words[1:], exit_on_error=False, print_error=False)


def commands(block: str) -> list[str]:
    """Return the commands of a block, each on one line."""
    return block.replace("\\\n", "").splitlines()


def words_of(line: str) -> list[str]:
    """Return the words of a command of ours; none for one that is not."""
    if line.startswith(OTHERS):
        return []
    words = shlex.split(line.removeprefix("PYTHONPATH=. "))
    assert words[0] == "holdfast"
    return words


def run_command(line: str) -> None:
    """Run a command in this process, with little time for searches."""
    words = words_of(line)
    if line.startswith("python "):
        runpy.run_path(line.removeprefix("python "))
    if not words:
        return
    if "--seconds" in words:
        words[words.index("--seconds") + 1] = "0.2"
    elif words[1] in ("audit", "lipschitz"):
        words += ["--seconds", "0.2"]
    with pytest.raises(SystemExit) as ending:
        cli.main(words[1:])
    assert ending.value.code == 0, line


def run_session(block: str, names: dict, page: str) -> None:
    """Run a session and compare what it prints."""
    session = doctest.DocTestParser().get_doctest(block, {}, page, page, 0)
    session.globs = names
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(session, clear_globs=False)
    assert not runner.summarize(verbose=False).failed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_pictures_are_small_and_readable_in_light_and_dark():
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
    pages = "".join(page.read_text() for page in PAGES)
    for picture in pictures:
        svg = picture.read_text()
        assert f"pictures/{picture.name}" in pages and len(svg) < 150_000
        assert "prefers-color-scheme:dark" in svg and "var(--card, #ffffff)" in svg
    assert (ROOT / "README.md").read_text().count("![") == 1


def test_every_page_is_on_the_site():
    docs = ROOT / "docs"
    site = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r": (\S+\.(?:md|ipynb))$", site, re.MULTILINE)
    written = [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]
    assert sorted(listed) == sorted(page.relative_to(docs).as_posix() for page in written)


def test_every_verb_is_in_the_readme():
    verbs = [name for name in cli.app if not name.startswith("-")]
    table = re.findall(r"^\| `holdfast (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert table and sorted(table) == sorted(verbs)


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(script.read_text(), script, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out
    assert os.listdir(tmp_path) == []

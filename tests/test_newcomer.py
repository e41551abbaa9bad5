"""A newcomer who does what the documentation says, in order, with nothing but a shell."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.test_docs import FENCE, ROOT, commands


def test_install_lines_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    blocks = [block for _, block in FENCE.findall((ROOT / "README.md").read_text())]
    lines = [line.split() for block in blocks for line in block.splitlines()]
    installed = [words for words in lines if words[:1] == ["pip"]]
    built = [words for words in lines if words[:1] == ["make"]]
    assert installed and ["make", "demo"] in built
    for *words, extra in installed:
        assert words == ["pip", "install", "-c", "constraints.txt"]
        assert f"-c constraints.txt -e {extra}\n" in makefile
    for _, target in built:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["certify.md", "tables.md"])
def test_a_page_works_in_a_shell(page, tmp_path, shell):
    assert "Certificates of" in walk(page, tmp_path, shell)


@pytest.mark.slow
def test_a_state_dict_and_a_csv_become_radii_and_a_page(tmp_path, shell):
    said = walk("start.md", tmp_path, shell)
    assert re.search(r"Certificates of 200 rows.*verified at 0\.1 +[1-9].*page: ", said, re.DOTALL)
    page = (tmp_path / "runs" / "mine" / "report.html").read_text()
    assert "income" in page and "bought" in page


def walk(page: str, folder: Path, shell: Callable[..., str]) -> str:
    """Write the files of a page, type its Python into one session, run its commands in order."""
    session, ran, said = "", "", ""
    for kind, block in FENCE.findall((ROOT / "docs" / page).read_text()):
        if named := re.match(r"# (\w+\.py)\n", block):
            (folder / named[1]).write_text(block)
        elif kind == "python":
            session += typed(block)
        else:
            if session != ran:  # the commands take files that the session writes
                shell("python", "-", given=session)
                ran = session
            said += "".join(shell("sh", "-c", line) for line in commands(block))
    if session != ran:
        shell("python", "-", given=session)
    return said


def typed(block: str) -> str:
    """Return what is typed of a block: what a session answers is compared by another test."""
    if not block.startswith(">>>"):
        return block
    lines = (line for line in block.splitlines() if line.startswith((">>> ", "... ")))
    return "".join(f"{line[4:]}\n" for line in lines)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Return a function that runs a program in an empty folder where `holdfast` is installed."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in {"holdfast": "-m holdfast ", "python": ""}.items():
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    def run(*words: str, given: str = "") -> str:
        ended = subprocess.run(
            words, cwd=tmp_path, input=given, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (words, ended.stderr)
        return ended.stdout

    return run

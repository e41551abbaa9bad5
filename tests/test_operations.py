"""The page of operations says what the methods do."""

import runpy
from pathlib import Path

import pytest
from tests.ops.catalogue import USES

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "operations.py"))


def test_the_page_is_what_the_tables_say() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert text == SCRIPT["page"](), "run python scripts/operations.py"


@pytest.mark.parametrize("name", sorted({use[0] for use in USES}))
def test_every_operation_that_is_tried_is_listed(name: str) -> None:
    assert f"| `{name}` |" in SCRIPT["page"]()

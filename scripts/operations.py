"""Write `docs/operations.md`: which operations have which bounds, from the tables of rules."""

from collections.abc import Iterable
from pathlib import Path

from holdfast.bounds.float32 import FLOAT32
from holdfast.bounds.interval import READING
from holdfast.certificates.proofs.lowering import written
from holdfast.graph.aten import TRANSLATIONS
from holdfast.ops import OPS, Kind

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
WITHOUT_CONSTANT = (Kind.STEEP, Kind.PRODUCT)
HEAD = """# Operations

Written by `python scripts/operations.py` from the tables that the methods themselves use.

- **all inputs**: a Lipschitz constant for all inputs, so `lipschitz` without a region and
  `certify(method="global")`.
- **region**: ranges and linear bounds on a ball or box, so `lipschitz(region=...)` and
  `certify(method="local")`.
- **float32**: a bound of its rounding as executed, for `semantics="float32"`.
- **file**: `holdfast check` reads it in a certificate file. A softmax that comes last is left out,
  as it keeps the order of the logits.

A model is captured from PyTorch's own operations; a name that is not here may stand for several
that are, as attention or GLU do. A setting that no bound covers is refused by name.

| operation | what it does | all inputs | region | float32 | file |
|---|---|---|---|---|---|
"""
FUNCTIONS = """
## Functions of PyTorch that are translated

Overloads of ATen, which all modules and functions of PyTorch come down to:

"""


def page() -> str:
    """Return the page."""
    files = written()
    rows = [
        f"| `{name}` | {op.kind.value} | {_mark(op.kind not in WITHOUT_CONSTANT)} | "
        f"{_mark(name in READING.rules)} | {_mark(name in FLOAT32.rules)} | "
        f"{_mark(name in files)} |\n"
        for name, op in sorted(OPS.items())
    ]
    return HEAD + "".join(rows) + FUNCTIONS + _listed(_functions())


def _mark(has: bool) -> str:
    return "yes" if has else ""


def _functions() -> Iterable[str]:
    """Return the names of the functions, without their overloads."""
    names = (getattr(overload, "__name__", str(overload)).split(".") for overload in TRANSLATIONS)
    return sorted({next(part for part in name if part != "aten") for name in names})


def _listed(names: Iterable[str]) -> str:
    """Return names, separated by commas, in lines of at most a hundred letters."""
    lines = [""]
    for name in names:
        word = f"`{name}`, "
        if len(lines[-1]) + len(word) > 100:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines).rstrip(",") + ".\n"


if __name__ == "__main__":
    PAGE.write_text(page())

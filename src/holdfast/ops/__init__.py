"""The vocabulary: one record per operation, the only home of its facts.

Every method makes its table of rules from the records: by kind, and by name where an operation has
a rule of its own. A new activation is a record here and a row in `holdfast.graph.aten`, and so is a
new affine operation.
"""

from collections.abc import Mapping
from typing import TypeVar

from holdfast.ops.affine import AFFINE, SUM
from holdfast.ops.choice import CHOICE
from holdfast.ops.record import Kind, Op
from holdfast.ops.scalar import SCALAR
from holdfast.ops.steep import PRODUCT, STEEP
from holdfast.ops.vector import VECTOR
from holdfast.ops.wiring import WIRING

__all__ = ["OPS", "Kind", "Op", "names", "rules"]

OPS: Mapping[str, Op] = {
    **AFFINE,
    **WIRING,
    **SUM,
    **SCALAR,
    **STEEP,
    **PRODUCT,
    **CHOICE,
    **VECTOR,
}
"""The records of all operations, by name."""

Rule = TypeVar("Rule")


def names(*kinds: Kind) -> tuple[str, ...]:
    """Return the operations of some kinds."""
    return tuple(name for name, op in OPS.items() if op.kind in kinds)


def rules(by_kind: Mapping[Kind, Rule], by_name: Mapping[str, Rule]) -> dict[str, Rule]:
    """Return a table of rules by operation: one by name comes before one by kind."""
    shared = {name: by_kind[op.kind] for name, op in OPS.items() if op.kind in by_kind}
    return {**shared, **by_name}

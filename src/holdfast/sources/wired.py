"""A model read from a file: modules that pass named values on to each other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Wire:
    """Which values a module takes and gives.

    Attributes:
        module: Path of the module.
        reads: Names of the values that it takes, in order.
        writes: Names of its results; an empty name drops one.
        ends: Values that nothing reads later on.
    """

    module: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    ends: tuple[str, ...] = ()


class Wired(nn.Module):
    """Modules called in turn, each on values that others gave.

    Args:
        entry: Name of the input's value.
        steps: Wires and their modules, in execution order.
        result: Name of the value that is the result.
    """

    def __init__(self, entry: str, steps: Sequence[tuple[Wire, nn.Module]], result: str) -> None:
        super().__init__()
        self.entry, self.result = entry, result
        for wire, module in steps:
            self.add_module(wire.module, module)
        self.wires = _with_ends([wire for wire, _ in steps], result)

    def forward(self, x: Tensor) -> Tensor:
        """Return the result for a batch [N, ...]."""
        values = {self.entry: x}
        for wire in self.wires:
            results = self.get_submodule(wire.module)(*[values[name] for name in wire.reads])
            values.update(zip(wire.writes, results, strict=False))
            for name in wire.ends:
                values.pop(name, None)
        return values[self.result]


def _with_ends(wires: Sequence[Wire], result: str) -> tuple[Wire, ...]:
    """Note where every value is read for the last time, so that it can be let go."""
    seen, noted = {result}, []
    for wire in reversed(wires):
        ends = {*wire.reads, *wire.writes} - seen
        seen |= ends
        noted.append(Wire(wire.module, wire.reads, wire.writes, tuple(sorted(ends))))
    return tuple(reversed(noted))


def module_name(wanted: str, taken: set[str]) -> str:
    """Return a name that a module can have, out of whatever a file says, and note it as taken.

    >>> taken = set()
    >>> [module_name(name, taken) for name in ("/fc.1/Gemm", "/fc.1/Gemm", "..")]
    ['fc_1_Gemm', 'fc_1_Gemm_2', 'step']
    """
    stem = re.sub(r"[^A-Za-z0-9]+", "_", wanted)[:60].strip("_") or "step"
    # A module already has attributes of such names: forward, train, ...
    stem = f"{stem}_" if hasattr(nn.Module, stem) or stem in ("entry", "result", "wires") else stem
    name, k = stem, 1
    while name in taken:
        k += 1
        name = f"{stem}_{k}"
    taken.add(name)
    return name

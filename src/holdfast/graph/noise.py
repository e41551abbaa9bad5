"""How far rounding moves every value of a graph, measured by rounding at random.

Source: Parker, Monte Carlo arithmetic (1997); Vignes, "Discrete stochastic arithmetic" (2004): the
graph is executed a few times, each operation on inputs that are off by a few units of roundoff, and
the spread of every entry shows the rounding that it may carry. This is a measurement, no bound: it
decides whether two executions can be told apart. It sees cancellation, does not grow beyond use
with depth as worst-case bounds do, and an entry of 1e9 says nothing about its neighbours.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import CONCRETE, Env, Reading, execute, lift, read
from holdfast.ops import Kind


def rounding_spread(graph: Graph, inputs: Sequence[Tensor], env: Env[Any]) -> Env[Tensor]:
    """Return how far rounding moves each entry of each floating-point value.

    Args:
        graph: The captured model.
        inputs: One tensor with batch dimension per input of the graph.
        env: The values of all nodes on these inputs.

    Returns:
        By node: the largest distance of a noisy execution from the value, of its shape; infinite
        where a noisy execution leaves the finite numbers.
    """
    generator = torch.Generator().manual_seed(0)

    def rule(node: Node, values: Sequence[Any]) -> Any:
        if node.kind is Kind.WIRING or (node.kind is Kind.SCALAR and node.facts.exact):
            return execute(node, values)
        if node.kind not in (Kind.AFFINE, Kind.PRODUCT) or node.facts.by_entry:
            if node.op == "batch_norm":  # rounds a sum inside, with what it adds to short numbers
                moved = {key: _moved(node.params[key], 4.0, generator) for key in ("mean", "bias")}
                node = dataclasses.replace(node, params={**node.params, **moved})
            result = execute(node, [_moved(value, 4.0, generator, short=True) for value in values])
            if node.kind is Kind.SCALAR and (inner := node.facts.inner) is not None:
                return result + (_moved(size := inner(values[0]), 4.0, generator) - size)
            return result
        # Long sums round more often, at random as the square root of their length: at 50,000
        # terms, two orders differed by 9 spreads of four units, and by 55 units of the sum itself
        # where all terms had one sign. Both stay below a quarter of what replay allows.
        root = node.facts.roundings(node.params, values[0].shape[1:]) ** 0.5
        units = max(4.0, root / 8.0)
        result = execute(node, [_moved(value, units, generator) for value in values])
        return _moved(result, root / 8.0, generator)

    noisy = Reading("execution with noise", dict.fromkeys(CONCRETE.rules, rule), {}, constants=True)
    spread: Env[Tensor] = {}
    # All of six executions come as close as 1/32 of the spread once in 1e9 entries.
    for _ in range(6):
        moved = read(graph, noisy, lift(graph, inputs))
        for name, value in env.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                gap = torch.where(moved[name] == value, 0.0, (moved[name] - value).abs())
                gap = gap.nan_to_num(nan=torch.inf, posinf=torch.inf)
                spread[name] = torch.maximum(gap, spread.get(name, gap))
    return spread


def _moved(value: Any, units: float, generator: torch.Generator, short: bool = False) -> Any:
    """Return a floating-point value with each entry moved by up to so many units of roundoff.

    With `short`, short numbers (0, 1, ...) stay as they are: arithmetic on them is exact, and
    1 - mask is 0, whatever it is multiplied by.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    draws = torch.rand(value.shape, generator=generator, dtype=value.dtype).to(value.device)
    moved = value * (1.0 + units * torch.finfo(value.dtype).eps * (draws - 0.5))
    integers = {4: torch.int32, 8: torch.int64}.get(value.itemsize)
    if not short or integers is None:
        return moved
    return torch.where(value.view(integers) & 0xFF == 0, value, moved)

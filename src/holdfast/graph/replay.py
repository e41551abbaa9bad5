"""Does the captured graph do what the model does?

Every entry is compared at the scale of its own rounding (`holdfast.graph.noise`): that of the
output, and that of what each module returns, so that nothing hides behind a large constant, a dead
unit or a mask.
"""

import contextlib
import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.errors import Obstacle, Unsupported
from holdfast.graph.ir import Graph
from holdfast.graph.layers import first_tensor, layer_results
from holdfast.graph.noise import rounding_spread
from holdfast.graph.walk import CONCRETE, Env, lift, read

BATCH_SIZES = (1, 2, 5, 17)
"""Numbers of rows in which a model is run beside its graph; certificates name them."""


def check_replay(
    graph: Graph, model: nn.Module, example: Tensor | Mapping[str, Tensor], rows: Sequence[Tensor]
) -> Graph:
    """Run graph and model side by side: twice, in batches of several sizes, and module by module.

    Args:
        graph: The captured graph.
        model: What it was captured from.
        example: As given to `capture`: decides how the model is called.
        rows: The tensors of the example.

    Returns:
        The graph, with the layers that are what the modules return.

    Raises:
        Unsupported: When they disagree, or the model disagrees with itself.
    """
    generator = torch.Generator().manual_seed(0)
    names = list(example) if isinstance(example, Mapping) else None
    before = _attributes(model)
    with _chance() as drawn:
        like = [_rows_like(value, generator) for value in rows]
        bench = _Bench(graph, model, names, _finite(model, names, like))
        obstacles = bench.outputs()
        layers, wrong = bench.layers()
    if drawn:
        advice = "remove them, or fix them as buffers"
        why = f"draws random numbers from {' and '.join(drawn)} in the forward pass"
        obstacles.append(Obstacle("", "chance", why, advice))
    if _attributes(model) != before:
        why = "the forward pass changes an attribute of a module"
        obstacles.append(Obstacle("", "state", why, "make it a function of its input alone"))
    if obstacles or wrong:
        raise Unsupported("capture", obstacles or wrong)
    return dataclasses.replace(graph, layers=layers).pruned()


@dataclass(frozen=True)
class _Bench:
    """A graph and its model, side by side on the same rows.

    Attributes:
        graph: The captured graph.
        model: The model.
        names: Of the keyword arguments; None where the model takes one tensor.
        rows: One tensor of five rows per input.
    """

    graph: Graph
    model: nn.Module
    names: Sequence[str] | None
    rows: Sequence[Tensor]

    @cached_property
    def env(self) -> Env[Any]:
        """What every node of the graph is on the rows."""
        return self._read(torch.arange(len(self.rows[0])))

    @cached_property
    def room(self) -> Env[Tensor]:
        """By how much two executions may differ in every entry of every floating-point node.

        The spread is that of a few roundings per operation, and sums of thousands of terms round
        more often: 32 times as much covers them. The entry's own last roundings come on top, and
        numbers that are too small to be normal.
        """
        room = {}
        with torch.no_grad():
            spread = rounding_spread(self.graph, self.rows, self.env)
        for name, gap in spread.items():
            kind, own = torch.finfo(gap.dtype), self.env[name].abs().nan_to_num(nan=0.0)
            room[name] = 32.0 * gap + 32.0 * kind.eps * own + 4.0 * kind.tiny
        return room

    def outputs(self) -> list[Obstacle]:
        """Return where outputs disagree: at some size, a second time, or with the graph."""
        five, node = torch.arange(len(self.rows[0])), self.graph.output
        once, graph = self._call(five), self.env[node]
        for found in (once, graph):
            if found.shape[:1] != five.shape:
                return [_obstacle(f"{len(five)} rows give a result of shape {tuple(found.shape)}")]
        obstacles: list[Obstacle] = []
        for size in BATCH_SIZES:
            # Alone twice: chance that is no generator's of this process shows in enough calls.
            which = torch.arange(10 if size == 1 else size) % len(five)
            place = "alone" if size == 1 else f"in a batch of {size}"
            why = f"a row {place} differs from the row in a batch of {len(five)}"
            if size == len(five):
                why = "run twice, it disagrees"
            found = torch.cat([self._call(part) for part in which.split(size)])
            obstacles += self._compare(once, found, which, why)
            found = torch.cat([self._read(part)[node] for part in which.split(size)])
            why = f"its captured graph {place} differs from the graph in a batch of {len(five)}"
            obstacles += self._compare(graph, found, which, why)
            if obstacles:
                return obstacles
        return self._compare(once, graph, five, "the captured graph differs from it")

    def layers(self) -> tuple[dict[str, str], list[Obstacle]]:
        """Return the layers of the graph that modules return, and where modules disagree.

        The last node inside a call need not be what it returns; then the node that has its value
        is the layer, and a call that returns no node's value is none.
        """
        results: dict[str, tuple[bool, Tensor]] = {}

        def note(layer: str, result: object) -> None:
            value = first_tensor(result)
            if value is not None:
                results[layer] = (isinstance(result, Tensor), value.detach().clone())

        with layer_results(self.model, note):
            self._call(torch.arange(len(self.rows[0])))
        layers: dict[str, str] = {}
        obstacles: list[Obstacle] = []
        for layer, node in self.graph.layers.items():
            if layer not in results:
                continue
            alone, value = results[layer]
            found = next((name for name in (node, *self.env) if self._fits(value, name)), None)
            if found is not None:
                layers[layer] = found
            elif alone and value.is_floating_point() and value.shape == self.env[node].shape:
                why = "the captured graph differs from what the module returns"
                obstacles.append(_obstacle(why, layer))
        return layers, obstacles

    def _fits(self, value: Tensor, name: str) -> bool:
        """Return whether a node has this value, up to rounding."""
        node = self.env[name]
        if not isinstance(node, Tensor) or node.shape != value.shape:
            return False
        return torch.equal(node, value) or not bool(_apart(node, value, self._room(name)).any())

    def _room(self, name: str) -> Tensor:
        """Return the room of a node; none where it is no floating-point number."""
        return self.room.get(name, torch.zeros(()).expand_as(self.env[name]))

    def _call(self, which: Tensor) -> Tensor:
        return _call(self.model, [value[which] for value in self.rows], self.names)

    def _read(self, which: Tensor) -> Env[Any]:
        """Return what every node is on some of the rows.

        Raises:
            Unsupported: When an operation fails on so many.
        """
        try:
            with torch.no_grad():
                return read(self.graph, CONCRETE, lift(self.graph, [v[which] for v in self.rows]))
        except Exception as error:
            if self._mixed:
                why = f"it mixes float32 and float64 ({error})"
                advice = "call model.float(), or model.double(), and convert nothing in forward"
                raise Unsupported("capture", [Obstacle("", "types", why, advice)]) from error
            why = f"the captured graph fails on a batch of {len(which)}: {error}"
            raise Unsupported("capture", [_obstacle(why)]) from error

    @property
    def _mixed(self) -> bool:
        """Whether there are numbers of both types among rows, weights, buffers and constants."""
        constants = (value for node in self.graph.nodes for value in node.params.values())
        state = (*self.model.parameters(), *self.model.buffers())
        types = {v.dtype for v in (*self.rows, *state, *constants) if isinstance(v, Tensor)}
        return {torch.float32, torch.float64} <= types

    def _compare(self, left: Tensor, right: Tensor, which: Tensor, why: str) -> list[Obstacle]:
        """Return an obstacle where rows of the output differ by more than rounding explains.

        Args:
            left: One execution on all rows.
            right: Another one on those of them that `which` names.
            which: Indices of rows.
            why: What it means when they differ.
        """
        left = left[which]
        if left.shape != right.shape:
            shapes = f"shapes {tuple(left.shape)}, {tuple(right.shape)}"
            return [_obstacle(f"{why} ({shapes})")]
        if torch.equal(left, right):
            return []
        apart = _apart(left, right, self._room(self.graph.output)[which])
        if not bool(apart.any()):
            return []
        gap = float((left.double() - right.double()).abs()[apart].max())
        return [_obstacle(f"{why} (by up to {gap:.3g})")]


def _obstacle(why: str, path: str = "") -> Obstacle:
    """Return a difference as a reason to refuse."""
    advice = "each row must be a fixed function of its own input"
    if "captured graph" in why:
        advice = "does it act otherwise while torch.export traces it? If not, please report it"
    return Obstacle(path, "replay", why, advice)


def _apart(left: Tensor, right: Tensor, room: Tensor) -> Tensor:
    """Return where two tensors differ by more than the room; NaN is like NaN."""
    left, right = left.double(), right.double()
    same = (left == right) | (left.isnan() & right.isnan())
    return ~(same | ((left - right).abs() <= room))


def _rows_like(example: Tensor, generator: torch.Generator) -> Tensor:
    """Return five rows like those of the example, the first of them its own first row.

    Others are moved by noise of the example's own spread, the last one by four times as much.
    Integers (tokens, masks) are those of the rows in another order.
    """
    rows = example[torch.arange(5) % len(example)].clone()
    if not rows.is_floating_point():
        flat = rows.reshape(5, -1)
        for row in flat[1:]:
            row.copy_(row[torch.randperm(len(row), generator=generator)])
        return flat.reshape(rows.shape)
    finite = example[torch.isfinite(example)]
    spread = float(finite.double().std()) if finite.numel() > 1 else 0.0
    noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    noise[0], noise[4] = 0.0, 4.0 * noise[4]
    return rows.nan_to_num(posinf=0.0, neginf=0.0) + (noise * (spread or 1.0)).to(rows)


def _finite(
    model: nn.Module, names: Sequence[str] | None, rows: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Return the rows, smaller where all outputs overflow: there would be nothing to compare.

    Raises:
        Unsupported: When no output is finite, however small the rows.
    """
    for _ in range(20):  # steps of 2^-128: from the largest float64 to 0
        if bool(torch.isfinite(_call(model, rows, names)).any()):
            return rows
        rows = [value * 2.0**-128 if value.is_floating_point() else value for value in rows]
    why = "no output is a finite number on rows like the example, nor on smaller ones"
    advice = "give an example that the model is made for"
    raise Unsupported("capture", [Obstacle("", "replay", why, advice)])


def _call(model: nn.Module, batch: Sequence[Tensor], names: Sequence[str] | None) -> Tensor:
    """Return the only tensor of what the model gives, called as the user does.

    Raises:
        Unsupported: When it fails, or returns no tensor.
    """
    try:
        with torch.no_grad():
            named = {} if names is None else dict(zip(names, batch, strict=True))
            result = only_tensor(model(**named) if named else model(*batch))
    except Exception as error:
        why = f"fails on a batch of {batch[0].shape[0]}: {type(error).__name__}: {error}"
        advice = "it must accept any number of rows, in the type of the example"
        raise Unsupported("capture", [Obstacle("", "replay", why, advice)]) from error
    return result


def only_tensor(result: Any) -> Tensor:
    """Return the one tensor of what a captured model returns, out of its tuples and mappings."""
    while not isinstance(result, Tensor):
        result = next(iter(result.values() if isinstance(result, Mapping) else result))
    return result


@contextlib.contextmanager
def _chance() -> Iterator[list[str]]:
    """Note which generators of this process are drawn from inside, and wind them back.

    Yields:
        Their names, complete at the end.
    """
    drawn: list[str] = []
    standard, of_torch, of_numpy = random.getstate(), torch.get_rng_state(), np.random.get_state()
    yield drawn
    if random.getstate() != standard:
        drawn.append("random")
        random.setstate(standard)
    if not torch.equal(torch.get_rng_state(), of_torch):
        drawn.append("torch")
        torch.set_rng_state(of_torch)
    now = np.random.get_state()
    if any(not np.array_equal(a, b) for a, b in zip(now, of_numpy, strict=True)):
        drawn.append("numpy.random")
        np.random.set_state(of_numpy)


def _attributes(model: nn.Module) -> dict[str, object]:
    """Return the plain values that modules carry (counters, flags, names), and their generators."""
    state = {
        random.Random: lambda value: value.getstate(),
        torch.Generator: lambda value: value.get_state().tolist(),
        np.random.Generator: lambda value: repr(value.bit_generator.state),
    }
    return {
        f"{path}.{name}": state[type(value)](value) if type(value) in state else value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | bool | str) or type(value) in state
    }

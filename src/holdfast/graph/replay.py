"""Does the captured graph do what the model does?"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import Obstacle, Unsupported
from holdfast.graph.ir import Graph
from holdfast.graph.walk import CONCRETE, lift, read

_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
"""Share of the largest value in the graph by which two executions may differ in rounding."""


def check_replay(
    graph: Graph, model: nn.Module, example: Tensor | Mapping[str, Tensor], rows: Sequence[Tensor]
) -> None:
    """Run graph and model side by side: in a batch, twice, at another size and row by row.

    Args:
        graph: The captured graph.
        model: What it was captured from.
        example: As given to `capture`: decides how the model is called.
        rows: The tensors of the example.

    Raises:
        Unsupported: When they disagree, or the model disagrees with itself.
    """
    generator = torch.Generator().manual_seed(0)
    names = list(example) if isinstance(example, Mapping) else None
    before = _attributes(model)
    obstacles: list[Obstacle] = []
    for size in (5, 2):
        batch = [_random_rows(value, size, generator) for value in rows]
        once = _call(model, batch, names)
        with torch.no_grad():
            env = read(graph, CONCRETE, lift(graph, batch))
        room = _TOLERANCE[graph.precision] * _largest(env.values())
        alone = torch.cat([_call(model, [v[i : i + 1] for v in batch], names) for i in range(size)])
        obstacles += _compare(once, _call(model, batch, names), room, "run twice, it disagrees")
        obstacles += _compare(once, alone, room, "a row alone differs from the row in a batch")
        obstacles += _compare(once, env[graph.output], room, "the captured graph differs from it")
        if obstacles:
            break
    if _attributes(model) != before:
        why = "the forward pass changes an attribute of a module"
        obstacles.append(Obstacle("", "state", why, "make it a function of its input alone"))
    if obstacles:
        raise Unsupported("capture", obstacles)


def _random_rows(example: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw rows like those of the example; integers are drawn from its rows."""
    chosen = example[torch.arange(size) % example.shape[0]]
    if not example.is_floating_point():
        return chosen
    finite = example[torch.isfinite(example)]
    spread = float(finite.std()) if finite.numel() > 1 else 0.0
    noise = torch.randn(chosen.shape, generator=generator, dtype=torch.float64)
    noise = (noise * (spread or 1.0)).to(chosen)
    return torch.nan_to_num(chosen, posinf=0.0, neginf=0.0) + noise


def _call(model: nn.Module, batch: Sequence[Tensor], names: Sequence[str] | None) -> Tensor:
    """Call the model as the user does, and take its only tensor."""
    try:
        with torch.no_grad():
            named = {} if names is None else dict(zip(names, batch, strict=True))
            result = model(**named) if named else model(*batch)
    except Exception as error:
        why = f"fails on a batch of {batch[0].shape[0]}: {type(error).__name__}: {error}"
        advice = "it must accept any number of rows, in the type of the example"
        raise Unsupported("capture", [Obstacle("", "replay", why, advice)]) from error
    return only_tensor(result)


def only_tensor(result: Any) -> Tensor:
    """Return the one tensor of what a captured model returns, out of its tuples and mappings."""
    while not isinstance(result, Tensor):
        result = next(iter(result.values() if isinstance(result, Mapping) else result))
    return result


def _largest(values: Iterable[object]) -> float:
    tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.numel()]
    return max(float(v.abs().max()) for v in tensors)


def _compare(left: Tensor, right: Tensor, room: float, why: str) -> list[Obstacle]:
    """Return an obstacle where two executions differ by more than rounding explains."""
    if left.shape != right.shape:
        return [Obstacle("", "replay", f"{why} (shapes {tuple(left.shape)}, {tuple(right.shape)})")]
    if torch.equal(left, right):
        return []
    gap = float((left - right).abs().max())
    if gap <= room:
        return []
    advice = "each row must be a fixed function of its own input"
    return [Obstacle("", "replay", f"{why} (by up to {gap:.3g})", advice)]


def _attributes(model: nn.Module) -> dict[str, object]:
    """Return the plain values that modules carry: counters, flags, names."""
    plain = (int, float, bool, str)
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, plain)
    }

"""One naming of layers: a layer is what one call of a module returns.

The first call of a module bears its path in `named_modules()`, the k-th further call of the same
module `path@k`, whatever attribute it is called through. Graphs and hooks both name by this file.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Calls:
    """Names the calls of modules during one run of a model.

    >>> calls = Calls()
    >>> calls.name("act"), calls.name("fc"), calls.name("act")
    ('act', 'fc', 'act@1')
    """

    def __init__(self) -> None:
        self._made: Counter[str] = Counter()

    def name(self, path: str, unseen: int = 0) -> str:
        """Return the layer that the next call of a module is.

        Args:
            path: Of the module.
            unseen: Calls before this one that have not been named.
        """
        k = self._made[path] + unseen
        self._made[path] = k + 1
        return f"{path}@{k}" if k else path


def module_path(layer: str, model: nn.Module) -> str | None:
    """Return the path of the module that a layer is a call of, or None where there is none."""
    paths = {path for path, _ in model.named_modules() if path}
    candidates = (layer, layer.rpartition("@")[0])
    return next((path for path in candidates if path in paths), None)


@contextmanager
def layer_results(model: nn.Module, note: Callable[[str, object], None]) -> Iterator[None]:
    """Call `note(layer, result)` after every call of a module, for one run of the model inside.

    Results are those that the caller gets: hooks of the user's own have run before.

    Yields:
        Once.
    """
    calls, handles = Calls(), []

    def hook_for(path: str) -> Callable[..., None]:
        return lambda _module, _args, result: note(calls.name(path), result)

    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_hook(hook_for(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(result: object) -> Tensor | None:
    """Return a result that is a tensor, or the first tensor in a tuple or mapping."""
    if isinstance(result, Mapping):
        result = tuple(result.values())
    if isinstance(result, list | tuple):
        result = next((part for part in result if isinstance(part, Tensor)), None)
    return result if isinstance(result, Tensor) else None


class GraphLayers:
    """The layers of an exported program, noted node by node in execution order.

    Attributes:
        layers: Layer to the last graph node that was made inside its call; the innermost of the
            calls that end with one node comes first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[str, str] = {}
        shown = {module: path for path, module in model.named_modules()}
        every = model.named_modules(remove_duplicate=False)
        self._shown = {alias: shown[module] for alias, module in every}
        self._calls = Calls()
        self._through: Counter[str] = Counter()
        self._names: dict[str, str] = {}

    def path(self, node: torch.fx.Node) -> str:
        """Return the path of the innermost module that a node runs in."""
        stack = _stack(node)
        return self._shown.get(stack[-1][1], stack[-1][1]) if stack else ""

    def note(self, node: torch.fx.Node, result: str | None) -> None:
        """Make a graph node the output, so far, of every call that an exported node runs in.

        Args:
            node: Of the exported program.
            result: Name of the graph node; None where a layer cannot be one row of states per row.
        """
        for key, alias in reversed(_stack(node)):
            if alias and alias in self._shown:
                name = self._name(key, alias)
                self.layers.pop(name, None)
                if result is not None:
                    self.layers[name] = result

    def _name(self, key: str, alias: str) -> str:
        """Name a call by its key, which ends in @n for the n-th further call through an alias."""
        if key not in self._names:
            _, _, number = key.rpartition(alias)[2].partition("@")
            unseen = int(number or 0) - self._through[alias]
            self._through[alias] += unseen + 1
            self._names[key] = self._calls.name(self._shown[alias], unseen)
        return self._names[key]


def _stack(node: torch.fx.Node) -> list[tuple[str, str]]:
    """Return (key of the call, module path) of the calls that a node runs in, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(key, path) for key, (path, _) in stack.items() if not key.startswith("_empty")]

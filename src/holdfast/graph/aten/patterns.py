"""Functions that `torch.export` leaves in pieces, put together again.

In pieces they are products and quotients of values that move, or sums that lose what the parts have
in common; the whole is one scalar function. Each translation here is of the last piece, and returns
None where the others are not there.
"""

from holdfast.graph.aten.call import Builder, Call, Ref, Translation
from holdfast.graph.ir import Node
from holdfast.ops import Kind


def softsign(b: Builder, call: Call) -> Translation:
    """Translate the quotient x / (1 + |x|)."""
    x, divisor = call.args[:2]
    if not (isinstance(x, Ref) and isinstance(divisor, Ref)):
        return None
    shift = b.nodes[divisor.node]
    if shift.op != "shift" or not _is_number(shift.params["offset"], 1.0):
        return None
    whole = _is_of("abs", b.nodes[shift.inputs[0]], x.node)
    return b.emit("softsign", [x], call, x.shape) if whole else None


def tanhshrink(b: Builder, call: Call) -> Translation:
    """Translate the difference x - tanh(x)."""
    x, other = call.args[:2]
    if not (isinstance(x, Ref) and isinstance(other, Ref)):
        return None
    whole = _is_of("tanh", b.nodes[other.node], x.node)
    return b.emit("tanhshrink", [x], call, x.shape) if whole else None


def factored(b: Builder, call: Call, left: Ref, right: Ref) -> Translation:
    """Translate a product of x with a function of x: a gate, or what normalises it."""
    # A GELU in pieces stays in pieces: 1 + tanh loses digits that the whole keeps.
    for x, factor in ((left, right), (right, left)):
        if whole := _root_mean_square(b, call, x, factor):
            return whole
    return gated(b, call, left, right)


def _source(b: Builder, name: str, op: str, **settings: object) -> str | None:
    """Return what an operation of the given settings reads; None where a node is another one."""
    node = b.nodes[name]
    fits = node.op == op and len(node.inputs) == 1
    return (
        node.inputs[0]
        if fits and all(_is_setting(node.params[k], v) for k, v in settings.items())
        else None
    )


def _is_setting(given: object, wanted: object) -> bool:
    return type(given) is type(wanted) and given == wanted


def _path(b: Builder, name: str | None, *steps: tuple[str, dict[str, object]]) -> str | None:
    """Follow several operations back to what the first of them reads."""
    for op, settings in steps:
        name = None if name is None else _source(b, name, op, **settings)
    return name


def _root_mean_square(b: Builder, call: Call, x: Ref, factor: Ref) -> Translation:
    """Translate x / sqrt(mean(x^2) + eps), the mean along the last dimension."""
    for steps in ([("rsqrt", {})], [("reciprocal", {}), ("sqrt", {})]):
        shift = b.nodes.get(_path(b, factor.node, *steps) or "")
        if shift is None or shift.op != "shift":
            continue
        eps = shift.params["offset"]
        means = ("mean", {"dims": (len(x.shape),), "keepdim": True})
        squared = _path(b, shift.inputs[0], means, ("power", {"exponent": 2}))
        if squared == x.node and isinstance(eps, float) and eps >= 0.0:
            settings = {"shape": x.shape[-1:], "weight": None, "bias": None, "eps": eps}
            return b.emit("rms_norm", [x], call, x.shape, **settings)
    return None


def gated(b: Builder, call: Call, left: Ref, right: Ref) -> Translation:
    """Translate the product x sigmoid(x), or x sigmoid(a x) with a number a."""
    for x, gate in ((left, right), (right, left)):
        sigmoid = b.nodes[gate.node]
        if sigmoid.op != "sigmoid" or x.shape != gate.shape:
            continue
        inner = b.nodes[sigmoid.inputs[0]]
        if inner.name == x.node:
            return b.emit("silu", [x], call, x.shape)
        factor = inner.params.get("factor") if inner.op == "scale" else None
        if inner.inputs == (x.node,) and isinstance(factor, float) and factor != 0.0:
            whole = b.emit("silu", [Ref(inner.name, x.shape)], call, x.shape)
            return b.emit("divide", [whole], call, x.shape, divisor=factor)
    return None


def log1p(b: Builder, call: Call) -> Translation:
    """Translate log(1 + x) of a scalar function that is nowhere below 0."""
    (x,) = call.args
    node = b.nodes[x.node]
    if node.kind is not Kind.SCALAR or node.facts.curve(node.params).limits[0] < 0.0:
        return None
    return b.emit("log1p_relu", [x], call, x.shape)


def _is_of(op: str, node: Node, name: str) -> bool:
    """Return whether a node is an operation on one given node."""
    return node.op == op and node.inputs == (name,)


def _is_number(setting: object, wanted: float) -> bool:
    """Return whether a setting is one number for all entries, and the wanted one."""
    return isinstance(setting, int | float) and setting == wanted

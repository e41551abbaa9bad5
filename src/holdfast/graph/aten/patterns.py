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

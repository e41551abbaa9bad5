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


def softshrink(b: Builder, call: Call) -> Translation:
    """Translate x - sign(x) t where |x| > t, and 0 x elsewhere."""
    if not all(isinstance(item, Ref) for item in call.args):
        return None
    condition, beyond, within = (b.nodes[item.node] for item in call.args)
    if condition.title != "aten.gt.Scalar" or beyond.op != "add" or len(beyond.inputs) != 2:
        return None
    name, subtracted = beyond.inputs
    negative = b.nodes[subtracted]
    threshold = condition.params["args"][1]
    whole = (
        _is_of("abs", b.nodes[condition.inputs[0]], name)
        and _is_of("scale", within, name)
        and _is_number(within.params["factor"], 0.0)
        and _is_scaled_sign(b, negative, -1.0, threshold, name)
    )
    if not whole or threshold < 0:
        return None
    x = Ref(name, call.shape, beyond.perturbed)
    return b.emit("softshrink", [x], call, call.shape, limit=float(threshold))


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


def _is_scaled_sign(b: Builder, node: Node, sign: float, factor: object, name: str) -> bool:
    """Return whether a node is a sign times a factor times the sign of a given node."""
    if node.op != "scale" or not _is_number(node.params["factor"], sign):
        return False
    inner = b.nodes[node.inputs[0]]
    if inner.op != "scale" or not isinstance(factor, int | float):
        return False
    signs = b.nodes[inner.inputs[0]]
    is_sign = signs.title == "aten.sign.default" and signs.inputs == (name,)
    return is_sign and _is_number(inner.params["factor"], factor)

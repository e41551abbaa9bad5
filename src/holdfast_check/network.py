"""The network: its operations as exact sparse matrices and scalar functions.

Values are flat vectors: value 0 is the input, value k the result of operation k. Operations are
`linear` (one matrix, on every block of the vector), `diagonal` and `quotient` (a factor or divisor,
and an offset, per entry), `take` (pick entries; -1 picks a zero), `add`, and scalar functions. A
convolution is a `take` of all patches and a `linear`; the larger of a and b is b + relu(a - b).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flint import arb, fmpq

from holdfast_check.files import Tensor, rational, require

Row = dict[int, fmpq]
Tensors = Mapping[str, Tensor]
Scalar = tuple[fmpq, fmpq, Callable[[arb], arb]]  # least and largest slope, and the function
ONE, ZERO, MOST_ENTRIES = fmpq(1), fmpq(0), 2**24

_DIP = fmpq(128904146, 10**9)
_SCALAR: dict[str, Scalar] = {
    "relu": (ZERO, ONE, lambda x: x.max(arb(0))),
    "tanh": (ZERO, ONE, lambda x: x.tanh()),
    "sigmoid": (ZERO, fmpq(1, 4), lambda x: 1 / (1 + (-x).exp())),
    "elu": (ZERO, ONE, lambda x: x.max(arb(0)) + x.min(arb(0)).expm1()),
    "softplus": (ZERO, ONE, lambda x: x.exp().log1p()),
    "gelu": (-_DIP, ONE + _DIP, lambda x: x / 2 * (-x / arb(2).sqrt()).erfc()),
}


@dataclass(frozen=True)
class Step:
    """An operation on the values `of`: affine (`rows`, `bias`), or a scalar function."""

    of: Sequence[int]
    size: int
    rows: Sequence[Row] = ()
    bias: Sequence[fmpq] = ()
    scalar: Scalar | None = None


def read_graph(graph: Any, inputs: int, tensors: Tensors) -> list[Step]:
    """Return the steps of a graph; step 0 stands for the input."""
    steps = [Step((), inputs)]
    for k, op in enumerate(graph, 1):
        reads = all(0 <= i < k for i in op["of"]) and set(op["arrays"]) <= {"", *tensors}
        require(reads, f"operation {k} reads what there is not")
        arrays = [tensors[name] if name else None for name in op["arrays"]]
        step = _step(op, [steps[i].size for i in op["of"]], *[*arrays, None, None][:2])
        require(0 < step.size <= MOST_ENTRIES, f"operation {k} is too large")
        steps.append(step)
    return steps


def _step(op: Any, sizes: list[int], first: Any, second: Any) -> Step:
    """Return one step on values of these sizes; `first` is its matrix, factor or index."""
    kind, size = op["op"], sum(sizes)
    if kind == "leaky_relu":
        s = rational(op["slope"])
        leaky = lambda x: x.max(arb(0)) + arb(s) * x.min(arb(0))  # noqa: E731
        return Step(op["of"], size, scalar=(min(s, ONE), max(s, ONE), leaky))
    if kind in _SCALAR:
        return Step(op["of"], size, scalar=_SCALAR[kind])
    if kind == "add":
        require(len(set(sizes)) == 1, "add: values of different sizes")
        rows = [dict.fromkeys(range(i, size, sizes[0]), ONE) for i in range(sizes[0])]
    elif kind in ("diagonal", "quotient"):
        factors = first.numbers() if first else [ONE]
        require(kind == "diagonal" or all(factors), "quotient: a divisor is zero")
        factors = factors if kind == "diagonal" else [1 / factor for factor in factors]
        rows = [{i: factor} for i, factor in enumerate(factors * (size // max(len(factors), 1)))]
        require(len(rows) == size, "diagonal: the factors do not fit")
    elif kind == "take":
        places = first.numbers() if first and first.dtype == "I64" else [size]
        require(all(-1 <= place < size for place in places), "take: outside of its values")
        rows = [{place: ONE} if place >= 0 else {} for place in places]
    else:
        require(kind == "linear" and first and first.shape, f"unknown operation {kind}")
        values = first.numbers()
        width = max(len(values) // max(first.shape[0], 1), 1)
        fits = size % width == 0 and 0 < len(values) * (size // width) <= MOST_ENTRIES
        require(fits, "linear: the matrix does not fit, or is too large")
        parts = [values[i : i + width] for i in range(0, len(values), width)]
        rows = [dict(enumerate(p, start)) for start in range(0, size, width) for p in parts]
    bias = second.numbers() if second else [ZERO]
    bias *= len(rows) // max(len(bias), 1)
    require(len(bias) == len(rows), "offsets do not fit")
    return Step(op["of"], len(rows), [{j: a for j, a in r.items() if a} for r in rows], bias)


def logits(steps: Sequence[Step], rows: Sequence[Sequence[fmpq]]) -> list[list[arb]]:
    """Return balls that hold the exact outputs of every row of inputs."""
    values = [[[arb(entry) for entry in row] for row in rows]]
    for step in steps[1:]:
        joined = [[x for i in step.of for x in values[i][k]] for k in range(len(rows))]
        results = [list(map(step.scalar[2], x)) if step.scalar else [] for x in joined]
        for i, row in enumerate(step.rows):
            terms = [(j, arb(a)) for j, a in row.items()]
            for x, result in zip(joined, results, strict=True):
                result.append(sum((a * x[j] for j, a in terms), arb(step.bias[i])))
        values.append(results)
    return values[-1]


@dataclass(frozen=True)
class Form:
    """Differences of two inputs x, through units u with u_i = t_i z_i for some 0 <= t_i <= 1.

    `units[i]` is the row of z_i and `outputs` are those of the output, over the coordinates
    (x_0, ..., x_(inputs - 1), u_0, u_1, ...); a unit reads only units before it.
    """

    inputs: int
    units: list[Row]
    outputs: list[Row]


def weighted(row: Row, vectors: Sequence[Row]) -> Row:
    """Return a sum of sparse vectors, each times its weight."""
    total: Row = {}
    for j, weight in row.items():
        for i, value in vectors[j].items():
            total[i] = total.get(i, ZERO) + weight * value
    return {i: value for i, value in total.items() if value}


def normal_form(steps: Sequence[Step], first: int, last: int) -> Form:
    """Return the form of the steps that lead from value `first` to value `last`."""
    inputs, units = steps[first].size, []
    signals: dict[int, list[Row]] = {first: [{j: ONE} for j in range(inputs)]}
    for k in range(first + 1, last + 1):
        require(all(i in signals for i in steps[k].of), "a part reads a value before its cut")
        source = [row for i in steps[k].of for row in signals[i]]
        signals[k] = [weighted(row, source) for row in steps[k].rows]
        low, high, _ = steps[k].scalar or (ZERO, ZERO, None)
        for z in source if steps[k].scalar else ():  # it moves by low z + (high - low) u
            u = {inputs + len(units): ONE} if z else {}
            units += [z] if z else []
            signals[k].append(weighted({0: low, 1: high - low}, [z, u]))
    return Form(inputs, units, signals[last])
